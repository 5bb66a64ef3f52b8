"""What the fences remember, kept within bounds (see `worker.fence`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import redis as driver

from relay.buffer import keys
from relay.buffer.redis import script
from relay.telemetry import logger

log = logger("fences")
_DAY_US: Final = 86_400 * 1_000_000
#: Entries looked at in one step, each below some milliseconds of Redis.
STEP: Final = 2_000
_SAMPLES: Final = 50
#: Where the fences outgrow their budget, what is kept gets shorter by this, again and again.
_SHORTER: Final = 0.7


class Fences:
    """All fences of a Redis.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client
        self._evict = script(client, "evict")

    def names(self) -> list[str]:
        """Every fence."""
        return sorted(key.decode() for key in self.client.scan_iter(f"{keys.fence('*', '*')}", count=1000))

    def size(self) -> int:
        """About the bytes that they take."""
        return sum(int(self.client.memory_usage(name, samples=_SAMPLES) or 0) for name in self.names())

    def steps(self, name: str, before: str) -> Iterator[int]:
        """Forget rows of one fence that were last sent before an arrival number; how many, step by step."""
        cursor: Any = b"0"
        while True:
            cursor, gone = self._evict([name], [cursor, STEP, before])
            yield int(gone)
            if cursor == b"0":
                return

    def forget(self, name: str, before: str) -> int:
        """`steps`, all of them."""
        return sum(self.steps(name, before))


def keeping(fences: Fences, days: float, max_bytes: int) -> Iterator[None]:
    """Forget what is older than so many days; more, and loudly, where that is too much. A step at each turn.

    Args:
        fences: all of them.
        days: so long a delivery can come again, by a vendor or by a replay.
        max_bytes: what they may take; 0: as much as they need.
    """
    while True:
        gone = 0
        before = f"{int(time.time() * 1_000_000 - days * _DAY_US):016d}"
        for name in fences.names():
            for step in fences.steps(name, before):
                gone += step
                yield
        size = fences.size()
        if not max_bytes or size <= max_bytes or days * _DAY_US < 1:
            return
        days *= _SHORTER
        log.error(
            "fences_cut", setting="max_fence_bytes", bytes=size, days=round(days, 2),
            detail="rows last sent longer ago are forgotten: older states of them are buried, not sent",
        )  # fmt: skip
