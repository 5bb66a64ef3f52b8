"""Dry runs of a replay, and replays that a page asks for: RQ jobs, called by name (`relay.dispatch`). No Flask.

Events come from the buffer or the archive, are mapped as the settings have it now, and the half that has
destinations says what they would change there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import redis as driver

from relay import jobs, otherhalf
from relay.buffer.failures import Failures
from relay.buffer.finding import Text
from relay.buffer.looks import Looks
from relay.buffer.redis import connect
from relay.config import Config, load
from relay.errors import ConfigInvalid
from relay.records import Packed

#: Events of one dry run that a page asks for; rows that are shown, fields of a row, and characters of a cell.
EVENTS, ROWS, FIELDS, CELL = 1_000, 100, 40, 200
SORTS: Final = ("inserted", "changed", "ignored", "rejected")
#: Columns that say where a row comes from: not for people.
ORIGIN: Final = ("_relay_source", "_relay_event", "_relay_received_at", "_relay_version", "_relay_data_version")
_FAILED: Final = 50
#: How often a replay looks for room; without any coming free it waits so long, and no longer than that in all.
_BREATH_S, _PATIENCE_S, _WAITS_S = 0.5, 60.0, 300.0
#: How often it is told that somebody works still.
_BEAT_S: Final = 5.0
_REDIS_TIMEOUT_S: Final = 30.0

#: Takes a sign of life, and how far the work is where that is known.
Beat = Callable[..., None]
Events = Iterable[tuple[str, Packed]]


class Outcome(msgspec.Struct):
    """What a dry run came to, beside its rows.

    Args:
        counts: destination -> how many rows of each sort. unseen: destination -> why it cannot tell.
        failed: arrival number -> why it cannot be mapped.
    """

    counts: dict[str, dict[str, int]] = {}
    unseen: dict[str, str] = {}
    failed: dict[str, str] = {}

    @property
    def total(self) -> dict[str, int]:
        """The counts of all destinations together."""
        return {sort: sum(found[sort] for found in self.counts.values()) for sort in SORTS}


def rehearsed(
    config: Config, events: Events, source: jobs.Sender, outcome: Outcome, *, only: str = ""
) -> Iterator[dict[str, Any]]:
    """The rows that events of one source would change; nothing is stored.

    Args:
        config: settings.
        events: arrival numbers and events.
        source: theirs.
        outcome: takes all else that is said.
        only: one destination; empty for all of the source.
    """
    told = map(msgspec.json.encode, jobs.rehearsal(events, source, outcome.failed, only=only))
    for line in otherhalf.stream_worker(config, "preview", told=told):
        if "op" in line:
            yield line
        elif "counts" in line:
            outcome.counts[line["destination"]] = line["counts"]
        elif "unseen" in line:
            outcome.unseen[line["destination"]] = line["unseen"]


class Asked(msgspec.Struct, frozen=True):
    """Which events a page means.

    Args:
        source: whose they are. destination: the only one that is meant, or empty.
        arrivals: their numbers; or, where there are none, those of the archive that fit the rest:
        type, delivery_id, since, until: as in `worker.archive.Wanted`. text: in the body.
    """

    source: str
    destination: str = ""
    arrivals: list[str] = []
    type: str = ""
    delivery_id: str = ""
    since: str = ""
    until: str = ""
    text: str = ""


def rehearse(token: str) -> None:
    """Work out what a replay would change; the RQ job."""
    _answer(token, _report)


def replay(token: str) -> None:
    """Send events again, slower than live traffic; the RQ job."""
    _answer(token, _replayed)


def _answer(token: str, work: Callable[[Config, driver.Redis, Asked, Beat], dict[str, Any]]) -> None:
    config, client = _opened()
    looks = Looks(client)
    beat = partial(looks.beat, token)
    looks.answer(token, lambda asked: work(config, client, msgspec.convert(asked, Asked), beat))


def _opened() -> tuple[Config, driver.Redis]:
    path = os.environ.get("RELAY_CONFIG")
    config = load(Path(path) if path else None, Path(os.environ.get("RELAY_DATA", ".relay")))
    return config, connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)


def _sender(config: Config, client: driver.Redis, name: str) -> jobs.Sender:
    found = jobs.senders(config, client).get(name)
    if found is None:
        raise ConfigInvalid(f"there is no source {name} any more")
    return found


def _report(config: Config, client: driver.Redis, asked: Asked, beat: Beat) -> dict[str, Any]:
    source, outcome, arrivals = _sender(config, client, asked.source), Outcome(), list[str]()
    shown: list[dict[str, Any]] = []
    events = _noted(_events(config, client, asked, beat), arrivals)
    for row in rehearsed(config, events, source, outcome, only=asked.destination):
        if len(shown) < ROWS:
            shown.append(_shown(row))
    return {
        "arrivals": arrivals[:EVENTS], "more": len(arrivals) > EVENTS, "rows": shown, "total": outcome.total,
        "counts": outcome.counts, "unseen": outcome.unseen, "failures": len(outcome.failed),
        "failed": dict(list(outcome.failed.items())[:_FAILED]),
    }  # fmt: skip


def _noted(events: Events, arrivals: list[str]) -> Iterator[tuple[str, Packed]]:
    """The first events; their numbers, and that of one more where there are more, go to the list."""
    for arrival, packed in events:
        arrivals.append(arrival)
        if len(arrivals) > EVENTS:
            return
        yield arrival, packed


def _events(config: Config, client: driver.Redis, asked: Asked, beat: Beat) -> Iterator[tuple[str, Packed]]:
    """The events that are meant, each place's oldest first: the buffer's, then the archive's."""
    if not asked.arrivals:
        names = ("source", "type", "delivery_id", "since", "until")
        wanted = {name: getattr(asked, name) for name in names}
        text = Text(asked.text)
        found = _alive(otherhalf.archived(config, wanted), beat)
        yield from ((a, packed) for a, packed in found if text.fits(packed.raw))
        return
    failures, missing = Failures(client), list[str]()
    for arrival in sorted(asked.arrivals):
        packed = failures.event(arrival)
        if packed is None:
            missing.append(arrival)
        else:
            yield arrival, packed
    for at in range(0, len(missing), EVENTS):
        found = _alive(otherhalf.archived(config, {"arrivals": missing[at : at + EVENTS]}), beat)
        yield from ((a, packed) for a, packed in found if packed.meta.source == asked.source)


def _alive(events: Events, beat: Beat) -> Iterator[tuple[str, Packed]]:
    """The events, with a sign of life now and then, however few of them are meant."""
    due = 0.0
    for one in events:
        if time.monotonic() >= due:
            beat()
            due = time.monotonic() + _BEAT_S
        yield one


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a page shows it: no more fields and characters than somebody reads."""
    key = row["key"]
    found = {**row, "key": _short(key) if isinstance(key, str) else _cell(key)}
    if "fields" in row:
        names = [name for name in row["fields"] if name not in ORIGIN and name not in row["key"]]
        found["fields"] = {n: [_cell(old), _cell(new)] for n in names[:FIELDS] for old, new in [row["fields"][n]]}
        found["left_out"] = max(0, len(names) - FIELDS)
    return found


def _cell(value: Any) -> str:
    return _short(msgspec.json.encode(value).decode())


def _short(text: str) -> str:
    return text if len(text) <= CELL else f"{text[:CELL]}…"


def _replayed(config: Config, client: driver.Redis, asked: Asked, beat: Beat) -> dict[str, Any]:
    source, failures = _sender(config, client, asked.source), Failures(client)
    room = _Room(failures, source, len(asked.arrivals), beat)
    events = _events(config, client, asked, beat)
    again = jobs.replay(failures, events, {source.name: source}, breathe=room.breathe)
    tried = {*again.queued, *again.waiting, *again.failed}
    left = [arrival for arrival in sorted(asked.arrivals) if arrival not in tried]
    return {
        "queued": len(again.queued), "waiting": len(again.waiting), "failures": len(again.failed),
        "failed": dict(list(again.failed.items())[:_FAILED]),
        # Where it ended early they are sent on demand; else they are no longer kept.
        "rest": left if room.held else [], "gone": 0 if room.held else len(left), "backlog": room.held,
    }  # fmt: skip


class _Room:
    """Has a replay wait for room at its destinations, and end where none comes free.

    Args:
        failures: the buffer's. source: whose events are sent again. count: how many.
        beat: takes how far it is.
    """

    def __init__(self, failures: Failures, source: jobs.Sender, count: int, beat: Beat) -> None:
        self._failures, self._source, self._count, self._beat = failures, source, count, beat
        self._until = time.monotonic() + _WAITS_S
        #: Where it is to end: destination -> how many events wait for it.
        self.held: dict[str, int] = {}

    def breathe(self, again: jobs.Again) -> bool:
        """Wait; whether there is room."""
        least, moved = sys.maxsize, 0.0
        while True:
            waiting, now = jobs.backlog(self._failures, self._source), time.monotonic()
            self._beat({"sent": len(again.queued), "of": self._count, "backlog": waiting})
            if (count := sum(waiting.values())) < jobs.BACKLOG:
                return True
            if count < least:
                least, moved = count, now
            if now > min(moved + _PATIENCE_S, self._until):
                self.held = waiting
                return False
            time.sleep(_BREATH_S)
