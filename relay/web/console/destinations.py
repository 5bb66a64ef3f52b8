"""Destinations: how each is doing, what waits for it, what it answered; held back, and let go on."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from flask import Response, request
from redis import Redis
from werkzeug.exceptions import BadRequest, NotFound

from relay.buffer import attempts, destinations, keys, measures
from relay.buffer.exports import Question
from relay.web.console import asking
from relay.web.console.asking import NoAnswer
from relay.web.console.facts import DestinationFacts, Facts
from relay.web.console.gate import acted, back, bp, here, page
from relay.web.console.overview import facts
from relay.web.state import state

_ACTS: Final = ("pause", "resume")
#: Attempts that are shown of a destination.
_FAILED, _PASSED = 15, 5


@bp.get("/destinations/")
def destinations_page() -> Response:
    """All of them, with their lanes."""
    found = facts()
    return page("destinations.html", destinations=found.destinations(), archive=found.archive())


@bp.get("/destinations/<name>")
def destination_page(name: str) -> Response:
    """One of them: how its batches ended, how large they were, when it is tried next, and its settings."""
    found = facts()
    one = next((d for d in found.destinations() if d.name == name), None)
    if one is None:
        raise NotFound(f"No destination {name[:64]} is configured.")
    raw: Any = found.client.hgetall(keys.METRICS)
    measured = measures.read(raw)
    batches = measured.rows.get(name, measures.empty("rows"))
    told: dict[str, Any] = {}
    wrong = ""
    try:
        told = asking.ask(Question("settings", name)) or {}
    except NoAnswer as error:
        wrong = str(error)
    return page(
        "destination.html",
        destination=one,
        next_ms=_next_try(found, one),
        outcomes=[(outcome, measured.tries.get((name, outcome), 0)) for outcome in measures.OUTCOMES],
        batches=[(bound, count) for bound, count in batches.counts.items() if count],
        tried=_tried(found.client, name),
        mean=batches.total / max(1, sum(batches.counts.values())),
        settings={field: _plain(value) for field, value in told.items()},
        wrong=wrong,
    )


def _tried(client: Redis, name: str) -> list[tuple[attempts.Attempt, bool]]:
    """The last attempts, newest first: some that failed, and a few that did not."""
    failed = attempts.read(client, name, failed=True, most=_FAILED)
    both = [*failed, *attempts.read(client, name, failed=False, most=_PASSED)]
    return [(attempt, True) for attempt in sorted(both, key=lambda attempt: -attempt.at)]


def _next_try(found: Facts, one: DestinationFacts) -> int:
    """When something is sent again (ms since 1970); 0 where nothing rests, or nobody knows."""
    standing = destinations.standings(found.client).get(one.name, {})
    rests = [lane.rests_until_ms for lane in one.lanes if lane.rests_until_ms]
    opens = int(standing.get("open_until", 0))
    if one.paused or not (opens or rests):
        return 0
    return max(opens, min(rests, default=0))


def _plain(value: Any) -> str:
    """A setting's value as one line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@bp.post("/destinations/<name>")
def destination_act(name: str) -> Any:
    """Ask whether it is meant, then pause or resume."""
    if name not in state().config.settings.destinations:
        raise NotFound(f"No destination {name[:64]} is configured.")
    act, why = request.form.get("act", ""), request.form.get("why", "").strip()
    if act not in _ACTS:
        raise BadRequest("There is no such act.")
    if request.form.get("sure") != "yes":
        one = next(d for d in facts().destinations() if d.name == name)
        return page("destination_confirm.html", act=act, destination=one)
    if act == "pause":
        destinations.pause(here().client, name, why)
        acted("pause", f"{name} is paused: deliveries are taken, and wait.", destination=name, why=why[:500])
    else:
        held = destinations.resume(here().client, name)
        said = f"{name} goes on." if held else f"Nothing held {name} back."
        acted("resume", said, destination=name, held=held)
    return back("destinations_page")
