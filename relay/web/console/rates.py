"""Rates: the ledger's counters as they were when somebody looked, kept for an hour, and drawn as a small chart.

Nothing is counted for it: each reading leaves a sample where the last one is old enough, so a chart has gaps where
nobody looked, and says so.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys

EVERY_S: Final = 10
KEPT_S: Final = 3600
_MOST: Final = KEPT_S // EVERY_S
_MINUTE_MS: Final = 60_000
_LATELY_MS: Final = 90_000
#: Of the chart.
WIDTH: Final = 240
HEIGHT: Final = 40


class Sample(msgspec.Struct, array_like=True):
    """Counters at one moment (ms since 1970)."""

    at: int
    accepted: int
    stored: int
    failed: int


class Rates(msgspec.Struct, frozen=True):
    """Per minute over the last minutes; None where there is nothing to compare with yet.

    Args:
        over_s: how long a time they are of. points: of the chart of accepted events, as SVG has them.
        since_s: how long ago the chart begins. peak: its highest, per minute.
    """

    accepted: float | None
    stored: float | None
    over_s: int
    points: str
    since_s: int
    peak: float


def look(client: driver.Redis, events: Mapping[str, int], records: Mapping[str, int]) -> Rates:
    """Leave a sample, and say the rates."""
    sample = Sample(
        int(time.time() * 1000),
        events.get("accepted", 0),
        records.get("stored", 0) + records.get("superseded", 0),
        events.get("quarantined", 0) + records.get("dead", 0),
    )
    if client.set(keys.SAMPLED, "1", nx=True, ex=EVERY_S):
        with client.pipeline() as pipe:
            pipe.lpush(keys.SAMPLES, msgspec.json.encode(sample))
            pipe.ltrim(keys.SAMPLES, 0, _MOST)
            pipe.expire(keys.SAMPLES, KEPT_S)
            pipe.execute()
    raw: Any = client.lrange(keys.SAMPLES, 0, -1)
    kept = [msgspec.json.decode(text, type=Sample) for text in raw]
    return of([sample, *(s for s in kept if sample.at - KEPT_S * 1000 < s.at < sample.at)])


def of(samples: Sequence[Sample]) -> Rates:
    """Rates of samples, newest first."""
    newest = samples[0]
    lately = [s for s in samples if newest.at - s.at <= _LATELY_MS]
    # Where nobody looked for long, what there is says more of then than of now.
    older = lately[-1] if len(lately) > 1 else samples[min(1, len(samples) - 1)]
    minutes = (newest.at - older.at) / _MINUTE_MS
    points, peak = _chart(samples)
    if minutes <= 0:
        return Rates(None, None, 0, points, 0, peak)
    return Rates(
        max(0, newest.accepted - older.accepted) / minutes,
        max(0, newest.stored - older.stored) / minutes,
        int(minutes * 60),
        points,
        (newest.at - samples[-1].at) // 1000,
        peak,
    )


def _chart(samples: Sequence[Sample]) -> tuple[str, float]:
    """Accepted events per minute between each two samples, oldest first."""
    pairs = list(itertools.pairwise(samples))[::-1]
    found = [
        (older.at, newer.at, max(0, newer.accepted - older.accepted) / (newer.at - older.at) * _MINUTE_MS)
        for newer, older in pairs
        if newer.at > older.at
    ]
    if not found:
        return "", 0.0
    start, end, peak = found[0][0], found[-1][1], max(rate for *_, rate in found)
    corners = []
    for since, until, rate in found:
        y = HEIGHT - 1 - (HEIGHT - 4) * (rate / peak if peak else 0)
        corners += [f"{WIDTH * (at - start) / (end - start):.1f},{y:.1f}" for at in (since, until)]
    return " ".join(corners), peak
