"""Failures: quarantine and dead letters by cause; retried or given up, one or a whole group at a time."""

from __future__ import annotations

import shlex
from typing import Any, Final

from flask import Response, request
from werkzeug.exceptions import BadRequest, NotFound

from relay.buffer import causes
from relay.buffer.failures import Failure, Failures
from relay.web.console import failing
from relay.web.console.gate import acted, back, bp, here, page
from relay.web.console.words import body
from relay.web.state import state
from relay.words import plural

_ACTS: Final = ("retry", "discard")
#: Causes on the page; what is mended makes room for the next.
_SHOWN: Final = 100
#: Failures that a command names one by one.
_NAMED: Final = 20


@bp.get("/failures/")
def failures_page() -> Response:
    """The causes, those of most failures first."""
    found, more = causes.looked_at(Failures(here().client))
    groups = causes.groups(found)
    return page(
        "failures.html",
        groups=groups[:_SHOWN],
        hidden=max(0, len(groups) - _SHOWN),
        more=more,
        looked_at=len(found),
        blames=causes.BLAMES,
        mends=failing.MENDS,
    )


@bp.get("/failures/group/<group>")
def failure_group(group: str) -> Any:
    """One cause, with the first of its failures."""
    found, _ = causes.looked_at(Failures(here().client))
    one = next((g for g in causes.groups(found) if g.id == group), None)
    if one is None:
        raise NotFound("Nothing of this cause is left.")
    return page("failure_group.html", group=one, blames=causes.BLAMES, mends=failing.MENDS)


@bp.get("/failures/one")
def failure() -> Response:
    """One failure with its event's body."""
    failures = Failures(here().client)
    one = _one(failures, request.args.get("id", ""))
    packed = failures.event(one.arrival)
    if packed is None:
        raise NotFound("This event is no longer there.")
    text, cut = body(packed.raw)
    return page(
        "failure.html", failure=one, meta=packed.meta, body=text, cut=cut, size=len(packed.raw),
        group=causes.group_id(causes.cause_of(one)), blames=causes.BLAMES, mends=failing.MENDS,
    )  # fmt: skip


@bp.post("/failures/act")
def failure_act() -> Any:
    """Ask whether it is meant, then do it, for as many as were shown."""
    act, group, upto = (request.form.get(name, "") for name in ("act", "group", "upto"))
    id_, failures = request.form.get("id", ""), Failures(here().client)
    if act not in _ACTS:
        raise BadRequest("There is no such act.")
    ids = [id_] if id_ else failing.meant(request.form.get("chosen", ""))
    sure = request.form.get("sure") == "yes" and ids
    wanted = failures.some(ids) if ids else failing.chosen(causes.looked_at(failures)[0], group, upto)
    if not wanted:
        raise NotFound("Nothing of this cause is left.")
    if not sure:
        return page(
            "failure_confirm.html", act=act, group=group, upto=upto, id=id_, wanted=wanted, first=wanted[0],
            chosen=failing.named(wanted), command=_command(act, wanted), listed=len(wanted) > _NAMED,
        )  # fmt: skip
    _act(act, failures, wanted)
    return back("failures_page")


def _command(act: str, wanted: list[Failure]) -> str:
    """What does the same by command; of many, what lists them."""
    if len(wanted) <= _NAMED:
        return shlex.join(["relay", "dead", act, *(failure.id for failure in wanted)])
    first = wanted[0]
    where = ["--destination", first.destination] if first.destination else []
    return shlex.join(["relay", "dead", "list", "--source", first.source, "--blame", first.blame, *where])


def _act(act: str, failures: Failures, wanted: list[Failure]) -> None:
    about = {"source": wanted[0].source, "destination": wanted[0].destination, "count": len(wanted)}
    if act == "discard":
        gone = failing.discard(failures, wanted)
        acted("discard", f"{plural(gone, 'failure')} given up.", **about, discarded=gone)
        return
    again = failing.retry(state().config, failures, wanted)
    said = [f"{plural(len(again.queued), 'failure')} sent again."]
    if again.waiting:
        said.append(f"{len(again.waiting)} still wait in a lane, or failed no more.")
    if again.failed:
        still = "still fails" if len(again.failed) == 1 else "still fail"
        said.append(f"{len(again.failed)} {still}: {next(iter(again.failed.values()))[:300]}")
    numbers = {"queued": len(again.queued), "waiting": len(again.waiting), "failed": len(again.failed)}
    acted("retry", " ".join(said), **about, **numbers)


def _one(failures: Failures, id_: str) -> Failure:
    found = failures.some([id_]) if id_ else []
    if not found:
        raise NotFound("There is no such failure any more.")
    return found[0]
