"""What processes measure, counted in Redis, where all of them count together: one small hash.

Fields are `lag|<destination>|<bound>` and `rows|<destination>|<bound>` (histograms; `sum` in place of a bound is
the sum of all), `tries|<destination>|<outcome>` and `refused|<source>|<reason>`. Bounds, outcomes and reasons are
the relay's own words, so the hash is as small as the settings. Nothing hangs on it: it may be lost at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys

#: Upper bounds, in seconds: from the receipt of an event until a row of it is committed.
LAG_S: Final = (0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
#: Upper bounds, in rows: of what a destination is handed at once.
ROWS: Final = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
#: How an attempt ends. `unknown`: it may have been applied all the same; `broken`: by a fault of ours.
OUTCOMES: Final = ("stored", "rejected", "transient", "unknown", "refused", "broken")
#: Stands for all that is above the last bound.
OVER: Final = "+Inf"
_SUM: Final = "sum"
_BOUNDS: Final[Mapping[str, Sequence[float]]] = {"lag": LAG_S, "rows": ROWS}
_PARTS: Final = 3
_MICROS: Final = 1_000_000


class Histogram(msgspec.Struct):
    """How many were at most so large, by bound, the last being `OVER`; and the sum of all."""

    counts: dict[str, int]
    total: float

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound with the number of all that do not exceed it."""
        so_far, found = 0, list[tuple[str, float]]()
        for bound, count in self.counts.items():
            so_far += count
            found.append((bound, so_far))
        return found


class Measures(msgspec.Struct):
    """All that was counted.

    Args:
        lag: destination -> seconds from receipt to commit, of records. rows: destination -> rows of its batches.
        tries: (destination, outcome) -> attempts. refused: (source, reason) -> requests; no source: none of ours.
    """

    lag: dict[str, Histogram]
    rows: dict[str, Histogram]
    tries: dict[tuple[str, str], int]
    refused: dict[tuple[str, str], int]


def empty(kind: str) -> Histogram:
    """A histogram of which nothing is known yet."""
    return Histogram(dict.fromkeys(names(kind), 0), 0.0)


def names(kind: str) -> list[str]:
    """The buckets of a kind of histogram, as they are called."""
    return [*(str(bound) for bound in _BOUNDS[kind]), OVER]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Seconds within which a share of rows was committed, even between two bounds; None where there is none.

    Args:
        counts: rows by the bounds of `LAG_S`, and beyond the last: of those no more is known than that bound.
        share: from 0 to 1.
    """
    wanted, below, least = sum(counts) * share, 0, 0.0
    if wanted <= 0:
        return None
    for bound, count in zip(LAG_S, counts, strict=False):
        if count and below + count >= wanted:
            return least + (bound - least) * (wanted - below) / count
        below, least = below + count, bound
    return least


def lags(destination: str, committed: Iterable[str], now_us: int) -> Counter[str]:
    """What to count where rows of these events were committed.

    Args:
        destination: where.
        committed: arrival numbers, one for each record.
        now_us: the time by the clock that gave them.
    """
    arrivals = sorted(committed)
    found = Counter[str]()
    if not arrivals:
        return found
    # Numbers of one width sort as text: what arrived after an edge is younger than its bound.
    edges = [f"{max(0, now_us - int(bound * _MICROS)):016d}" for bound in LAG_S]
    end = len(arrivals)
    for name, edge in zip(names("lag"), [*edges, ""], strict=True):
        start = bisect_left(arrivals, edge, 0, end)
        found[f"lag|{destination}|{name}"] = end - start
        end = start
    waited = len(arrivals) * now_us - sum(map(int, arrivals))
    found[f"lag|{destination}|{_SUM}"] = max(0, waited) // 1000
    return found


def batches(destination: str, tries: Iterable[tuple[int, str]]) -> Counter[str]:
    """What to count for attempts, each with its rows and its outcome."""
    found, called = Counter[str](), names("rows")
    for rows, outcome in tries:
        found[f"rows|{destination}|{called[bisect_left(ROWS, rows)]}"] += 1
        found[f"rows|{destination}|{_SUM}"] += rows
        found[f"tries|{destination}|{outcome}"] += 1
    return found


def refusals(counts: Mapping[tuple[str, str], int]) -> Counter[str]:
    """What to count for refused requests, by source and reason."""
    return Counter({f"refused|{source}|{reason}": n for (source, reason), n in counts.items()})


def add(client: driver.Redis, counts: Mapping[str, int]) -> None:
    """Count, in one round trip.

    Raises:
        RedisError, OSError: it is not known to be counted.
    """
    given = {field: n for field, n in counts.items() if n}
    if not given:
        return
    with client.pipeline() as pipe:  # a transaction: all or nothing, so that whoever tries again counts once
        for field, n in given.items():
            pipe.hincrby(keys.METRICS, field, n)
        pipe.execute()


def read(raw: Mapping[bytes, bytes]) -> Measures:
    """What was counted, from the hash as it is."""
    histograms: dict[str, dict[str, Histogram]] = {kind: {} for kind in _BOUNDS}
    counts: dict[str, dict[tuple[str, str], int]] = {"tries": {}, "refused": {}}
    for field, text in sorted(raw.items()):
        parts = field.decode("utf-8", "replace").split("|")
        kind, of = parts[0], parts[1] if len(parts) == _PARTS else ""
        if len(parts) != _PARTS:
            continue
        if kind in counts:
            counts[kind][of, parts[2]] = int(text)
        elif kind in histograms:
            histogram = histograms[kind].setdefault(of, empty(kind))
            _note(histogram, kind, parts[2], int(text))
    return Measures(histograms["lag"], histograms["rows"], counts["tries"], counts["refused"])


def _note(histogram: Histogram, kind: str, bound: str, n: int) -> None:
    if bound == _SUM:
        histogram.total = n / 1000 if kind == "lag" else float(n)
        return
    bounds = _BOUNDS[kind]
    # A bound of an earlier release counts in the next one that there is.
    name = OVER if bound == OVER else names(kind)[bisect_left(bounds, float(bound))]
    histogram.counts[name] += n


def now_us(client: driver.Redis) -> int:
    """The time by the clock that arrival numbers are of.

    Raises:
        RedisError, OSError: it cannot be asked.
    """
    told: Any = client.time()
    return int(told[0]) * _MICROS + int(told[1])
