"""Whether a large backlog makes each event dearer: the same work at ten thousand pending events and at a million.

At each size the same number of events is put, and the same number drained into SQLite; what Redis's own CPU, its
memory and the drain cost an event is set against the smallest size of the same run.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from bench.backlog import CUSTOMERS, Backlog
from bench.report import Row, at_most
from bench.servers import Valkey, folder

_SIZES: Final = (10_000, 100_000, 1_000_000)
_QUICK: Final = (5_000, 20_000, 80_000)
#: Events that are put, and drained, to measure a size.
_PROBE: Final = 4_000
#: Flat: no more than this much dearer than at the smallest size. Hashes that double their table are in it.
_FLAT: Final = 1.3


class At(msgspec.Struct, frozen=True):
    """What an event costs while so many wait: Redis's CPU to put it (us), bytes, and events drained a second."""

    size: int
    redis_us: float
    bytes_each: float
    drained_per_s: float

    def words(self) -> str:
        """As text."""
        return f"{self.size:,}: {self.redis_us:.0f} us, {self.bytes_each:.0f} B, {self.drained_per_s:.0f}/s"


def run(*, quick: bool) -> list[Row]:
    """Measure; raises where an event is missing or the ledger does not balance."""
    with folder() as data, Valkey(data) as valkey:
        backlog = Backlog(data, valkey, {"lite": {"kind": "sqlite"}}, CUSTOMERS)
        empty = valkey.memory()
        found = [_at(size, backlog, valkey, empty) for size in (_QUICK if quick else _SIZES)]
    small, large = found[0], found[-1]
    words = "; ".join(one.words() for one in found)
    beside = f"at {large.size:,} pending beside {small.size:,}"
    ratios = {
        "Redis's CPU to put an event": large.redis_us / small.redis_us,
        "Redis's bytes an event": large.bytes_each / small.bytes_each,
        "seconds to drain an event": small.drained_per_s / large.drained_per_s,
    }
    return [
        at_most("growth", f"{what}, {beside}", words if n == 0 else "", ratio, _FLAT, "x")
        for n, (what, ratio) in enumerate(ratios.items())
    ]


def _at(size: int, backlog: Backlog, valkey: Valkey, empty: int) -> At:
    """One size; the probe is taken off the backlog again by the drain."""
    backlog.fill(size - _PROBE - backlog.pending("lite"))
    before = valkey.cpu_s()
    backlog.fill(_PROBE)
    spent = valkey.cpu_s() - before
    held = backlog.pending("lite")
    if held != size:
        raise RuntimeError(f"{held} events wait, not {size}")
    bytes_each = (valkey.memory() - empty) / size
    destination, drained = backlog.open("lite")
    started = time.perf_counter()
    drained(size - _PROBE)
    taken = size - backlog.pending("lite")
    per_s = taken / (time.perf_counter() - started)
    destination.close()
    backlog.balances()
    return At(size, 1e6 * spent / _PROBE, bytes_each, per_s)
