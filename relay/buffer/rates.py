"""Rates and freshness: what two samples of the counters say of the time between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import msgspec

from relay.buffer.measures import quantile
from relay.buffer.samples import LOOK_S, Sample, Samples

_MS: Final = 1000
_MINUTE_MS: Final = 60 * _MS
#: What counts as now; and the time over which the sentences speak.
_FRESH_MS: Final = 3 * LOOK_S * _MS
_LATELY_MS: Final = 90 * _MS
#: Two samples belong together where no more than so many steps lie between them; what is between others is a gap.
_TOGETHER: Final = 2.5


class Reading(msgspec.Struct, frozen=True):
    """One moment, and the time since the one before it.

    Args:
        at: ms since 1970. since: of the one before; None where that is too long ago.
        accepted: events a minute since then. stored: records a minute. p50, p99: seconds from receipt to commit of
            what was committed since then, None where nothing was.
        pending, failed: how many there are at the moment.
    """

    at: int
    since: int | None
    accepted: float | None
    stored: float | None
    p50: float | None
    p99: float | None
    pending: int
    failed: int


def readings(samples: Sequence[Sample], step_ms: int) -> list[Reading]:
    """One reading a step, where there is a sample in it; oldest first."""
    last = {sample.at // step_ms: sample for sample in samples}
    thinned = [last[step] for step in sorted(last)]
    found = [_reading(None, sample) for sample in thinned[:1]]
    for older, newer in itertools.pairwise(thinned):
        together = newer.at - older.at <= _TOGETHER * step_ms
        found.append(_reading(older if together else None, newer))
    return found


def lately(samples: Samples) -> Reading | None:
    """The last minute and a half; None where nobody took samples in it, or the counters began anew."""
    kept = [sample for sample in samples.hour if samples.now_ms - sample.at <= _LATELY_MS]
    if len(kept) < 2 or samples.now_ms - kept[-1].at > _FRESH_MS:  # noqa: PLR2004 - two ends of a time
        return None
    found = _reading(kept[0], kept[-1])
    return found if found.since is not None else None


def _reading(older: Sample | None, newer: Sample) -> Reading:
    """A reading; a counter that went back began anew, and says nothing of the time in between."""
    if older is None or newer.at <= older.at or newer.accepted < older.accepted or newer.stored < older.stored:
        return Reading(newer.at, None, None, None, None, None, newer.pending, newer.failed)
    minutes = (newer.at - older.at) / _MINUTE_MS
    lag = [max(0, now - then) for now, then in zip(newer.lag, older.lag, strict=True)]
    return Reading(
        newer.at,
        older.at,
        (newer.accepted - older.accepted) / minutes,
        (newer.stored - older.stored) / minutes,
        quantile(lag, 0.5),
        quantile(lag, 0.99),
        newer.pending,
        newer.failed,
    )
