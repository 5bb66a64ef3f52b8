"""Dry runs: what a replay of events or a retry of failures would change at the destinations; and the replay."""

from __future__ import annotations

import shlex
import time
from typing import Any, Final

import msgspec
from flask import request, url_for
from werkzeug.exceptions import BadRequest, NotFound

from relay.buffer import causes
from relay.buffer.failures import Failures
from relay.buffer.finding import is_arrival
from relay.buffer.keys import ARCHIVE
from relay.buffer.looks import FAILED, Look
from relay.dispatch import REHEARSE, REPLAY
from relay.errors import ConfigInvalid
from relay.records import arrival_instant
from relay.rehearsing import EVENTS, Asked
from relay.web.console import failing, looking
from relay.web.console.events import since_of
from relay.web.console.gate import acted, back, bp, here, page
from relay.words import number, plural, waits

_LONGEST: Final = 200


@bp.post("/rehearsals/")
def rehearse() -> Any:
    """Begin a dry run of one event, of a search in the archive, or of a group of failures."""
    given = {name: request.form.get(name, "").strip() for name in request.form}
    if max(map(len, given.values()), default=0) > _LONGEST:
        raise BadRequest(f"Nothing here is longer than {_LONGEST} characters.")
    act = {name: given.get(name, "") for name in ("group", "upto", "failure")}
    asked = _failed(act) if act["group"] or act["failure"] else _meant(given)
    return back("rehearsal", token=_begun(REHEARSE, {**msgspec.structs.asdict(asked), "act": act}))


def _failed(act: dict[str, str]) -> Asked:
    """The events of a group of failures, or of one, and the only destination that a retry is for."""
    failures = Failures(here().client)
    if act["failure"]:
        found = failures.some([act["failure"]])
    else:
        found = failing.chosen(causes.looked_at(failures)[0], act["group"], act["upto"])
    if not found:
        raise NotFound("Nothing of this is left.")
    return Asked(found[0].source, found[0].destination, sorted({failure.arrival for failure in found}))


def _meant(given: dict[str, str]) -> Asked:
    """One event, or those of the archive that fit."""
    source, arrival, id_ = given.get("source", ""), given.get("arrival", ""), given.get("id", "")
    if not source:
        raise BadRequest("Say of which source: a replay is of one.")
    if arrival and not is_arrival(arrival):
        raise BadRequest("That is no event's number.")
    one = arrival or (id_ if is_arrival(id_) else "")
    if one:
        return Asked(source, arrivals=[one])
    since, until = since_of(given.get("since", "")), f"{time.time_ns() // 1000:016d}"
    return Asked(source, "", [], given.get("type", ""), id_, since, until, given.get("text", ""))


def _begun(job: str, asked: dict[str, Any], *, after: str = "") -> str:
    try:
        return looking.ask(job, asked, after=after)
    except looking.NotHere as error:
        raise ConfigInvalid(str(error)) from None


@bp.get("/rehearsals/<token>")
def rehearsal(token: str) -> Any:
    """What it came to."""
    look = _over(REHEARSE, token)
    if not look.over:
        return looking.not_yet(look, "The destinations are asked what would change")
    asked = msgspec.convert(look.asked, Asked)
    return page(
        "rehearsal.html", token=token, asked=asked, why=look.why, found=look.value, most=EVENTS,
        act=look.asked["act"], retry=_retries(look),
        command="" if _retries(look) else _command(asked, look.value, dry=True),
    )  # fmt: skip


@bp.post("/rehearsals/<token>/replay")
def replay(token: str) -> Any:
    """Ask whether it is meant, then send the events of a dry run again: these, and no others."""
    look = _over(REHEARSE, token)
    if look.value is None or _retries(look) or not look.value["arrivals"]:
        raise BadRequest("There is nothing to send again.")
    asked, arrivals = msgspec.convert(look.asked, Asked), look.value["arrivals"]
    if request.form.get("sure") != "yes":
        command = _command(asked, look.value, dry=False)
        return page(
            "replay_confirm.html", yes=url_for("console.replay", token=token),
            no=url_for("console.rehearsal", token=token), asked=asked, count=len(arrivals),
            total=look.value["total"], command=command,
        )  # fmt: skip
    return back("replayed", token=_sent(msgspec.structs.replace(asked, arrivals=arrivals)))


def _sent(asked: Asked, *, after: str = "") -> str:
    """Begin a replay; its name, which is empty where somebody went on from `after` before."""
    begun, arrivals = _begun(REPLAY, msgspec.structs.asdict(asked), after=after), asked.arrivals
    if begun:
        said = f"The replay of {plural(len(arrivals), 'event')} of {asked.source} has begun."
        acted("replay", said, source=asked.source, count=len(arrivals), first=arrivals[0], last=arrivals[-1])
    return begun


@bp.get("/replays/<token>")
def replayed(token: str) -> Any:
    """What came of a replay."""
    look = _over(REPLAY, token)
    if not look.over:
        title = "Events are sent again, slower than live traffic"
        return looking.not_yet(look, title, so_far=_so_far(look.progress))
    rest = _rest(look)
    return page(
        "replayed.html", token=token, source=look.asked["source"], why=look.why, found=look.value, rest=len(rest),
        next=rest[0] if rest else "", count=len(look.asked["arrivals"]), followed=look.followed,
        so_far=_so_far(look.progress), halfway=bool(look.beat_ms),
    )  # fmt: skip


@bp.post("/replays/<token>/rest")
def replay_rest(token: str) -> Any:
    """Ask whether it is meant, then go on with a replay that ended early: what it did not send, once."""
    look = _over(REPLAY, token)
    rest = _rest(look)
    if not rest:
        raise BadRequest("There is nothing to go on with.")
    asked = msgspec.structs.replace(msgspec.convert(look.asked, Asked), arrivals=rest)
    if request.form.get("sure") != "yes":
        return page(
            "replay_confirm.html", yes=url_for("console.replay_rest", token=token),
            no=url_for("console.replayed", token=token), asked=asked, count=len(rest), total=None,
            command=_command(asked, {"arrivals": rest}, dry=False),
        )  # fmt: skip
    return back("replayed", token=_sent(asked, after=token) or token)


def _rest(look: Look) -> list[str]:
    """What a replay did not send. Where it failed on its way that is not known for sure, so it is everything."""
    if look.state == FAILED:
        return sorted(look.asked["arrivals"])
    return list(look.value["rest"]) if look.value else []


def _so_far(progress: Any) -> str:
    """How far a replay is; empty where nobody knows."""
    if not progress:
        return ""
    held = [f"{waits(count)} for {_place(name)}" for name, count in progress["backlog"].items()]
    return "; ".join([f"{number(progress['sent'])} of {plural(progress['of'], 'event')} sent again", *held])


def _place(name: str) -> str:
    return "the archive" if name == ARCHIVE else name


def _retries(look: Look) -> bool:
    """Whether it is of failures, which are retried; all else is replayed."""
    return any(look.asked["act"].values())


def _over(job: str, token: str) -> Look:
    look = looking.found(job, token)
    if look is None:
        raise NotFound("What came of it is kept for a quarter of an hour: begin anew.")
    return look


def _command(asked: Asked, found: Any, *, dry: bool) -> str:
    """The command that does the same, or nothing where there were no events."""
    arrivals = found["arrivals"] if found else []
    if not arrivals:
        return ""
    words = ["relay", "replay", "--source", asked.source, "--since", _moment(arrivals[0])]
    words += ["--until", _moment(f"{int(arrivals[-1]) + 1:016d}")]
    for option, value in (("--type", asked.type), ("--id", asked.delivery_id), ("--text", asked.text)):
        words += [option, value] if value else []
    return shlex.join([*words, "--dry-run"] if dry else words)


def _moment(arrival: str) -> str:
    return f"{arrival_instant(arrival):%Y-%m-%dT%H:%M:%S.%fZ}"
