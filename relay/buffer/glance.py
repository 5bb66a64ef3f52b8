"""One look at all accounts, in one round trip and at one moment: what `/metrics` shows.

What it costs grows with the names of sources, destinations and tables, never with what waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys, measures
from relay.buffer.accept import buckets
from relay.buffer.bounds import LETTER_BYTES, MARK_BYTES, Bounds
from relay.buffer.ledger import EVENT_STATES, RECORD_STATES, Ledger, ledger_of, rest_of
from relay.config import Config

_MS: Final = 1000


class Glance(msgspec.Struct):
    """What one look found.

    Args:
        now_ms: by Redis's clock. ledger: as it stands. held, own: bytes of undelivered events, in all and by
            source, as put.lua counts them. letters, quarantined: that are there. marks: bytes of delivery ids.
        measures: of all processes. pulse: see `relay.buffer.pulse`. memory: of `INFO`.
        standings: destination -> how it is doing. resting: destination -> lanes that rest.
    """

    now_ms: int
    ledger: Ledger
    held: int
    own: dict[str, int]
    letters: int
    quarantined: int
    marks: int
    measures: measures.Measures
    pulse: Mapping[bytes, bytes]
    memory: Mapping[str, Any]
    standings: dict[str, dict[str, str]]
    resting: Mapping[str, int]


def glance(client: driver.Redis, bounds: Bounds, lanes: Mapping[str, Sequence[str]]) -> Glance:
    """Look.

    Args:
        client: Redis.
        bounds: of the buffer.
        lanes: destination -> the names of its lanes.

    Raises:
        RedisError, OSError: it cannot be asked.
    """
    marked_in = buckets(bounds, int(time.time()))
    with client.pipeline() as pipe:  # a transaction, so that what is counted twice is counted at one moment
        pipe.time()
        pipe.info("memory")
        for hash_ in (keys.LEDGER, keys.BYTES, keys.METRICS, keys.PULSE):
            pipe.hgetall(hash_)
        for hash_ in (keys.EVENTS, keys.PARKED, keys.DEAD):
            pipe.hlen(hash_)
        pipe.zcard(keys.QUARANTINE)
        for bucket in marked_in:
            pipe.hlen(bucket)
        for name in lanes:
            pipe.hgetall(keys.destination(name))
        for of_it in lanes.values():
            for lane in of_it:
                pipe.hget(keys.lane(lane), "hold_until")
        answers = iter(pipe.execute())
    told, memory, ledger, blobs, measured, pulse, events, parked, letters, quarantined = (
        next(answers) for _ in range(10)
    )
    now_ms = int(told[0]) * _MS + int(told[1]) // _MS
    marks = sum(next(answers) for _ in marked_in) * MARK_BYTES
    standings = {name: _text(next(answers)) for name in lanes}
    resting = {name: sum(int(next(answers) or 0) > now_ms for _ in of_it) for name, of_it in lanes.items()}
    held, own = _held(blobs, (events + parked) * bounds.overhead + letters * LETTER_BYTES)
    return Glance(
        now_ms, ledger_of(ledger), held, own, letters, quarantined, marks, measures.read(measured), pulse, memory,
        standings, resting,
    )  # fmt: skip


def lanes_of(config: Config) -> dict[str, list[str]]:
    """The lanes of each configured destination, by their names."""
    return {
        name: [keys.lane_name(name, n, lanes) for n in range(lanes)]
        for name in sorted(config.settings.destinations)
        for lanes in [config.lanes(name)]
    }


def residuals(ledger: Ledger, quarantined: int, letters: int) -> dict[str, int]:
    """What is not accounted for, by account, as sums of absolute differences."""
    events = (rest_of(account, "accepted", EVENT_STATES) for account in ledger.events.values())
    records = (rest_of(account, "emitted", RECORD_STATES) for account in ledger.records.values())
    return {
        "events": sum(map(abs, events)),
        "records": sum(map(abs, records)),
        **{name: abs(rest) for name, rest in unlike(ledger, quarantined, letters).items()},
    }


def unlike(ledger: Ledger, quarantined: int, letters: int) -> dict[str, int]:
    """By how much what the ledger says failed is more than what is kept of it."""
    events, records = ledger.totals()
    return {"quarantine": events["quarantined"] - quarantined, "dead_letters": records["dead"] - letters}


def _held(blobs: Mapping[bytes, bytes], beside: int) -> tuple[int, dict[str, int]]:
    """Bytes in all and by source; what is not in blobs counts too, and for a source by its blobs."""
    sizes = {name.decode(): int(size) for name, size in blobs.items()}
    whole = sizes.pop("*", 0)
    scale = (whole + beside) / whole if whole > 0 else 1
    return whole + beside, {name: int(size * scale) for name, size in sizes.items()}


def _text(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode("utf-8", "replace") for name, value in raw.items()}
