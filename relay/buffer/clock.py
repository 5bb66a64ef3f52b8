"""The server's clock, by which everything here is due: set back, it must not hold all up until it is there again.

A step forward needs nothing: leases seem to have ended, and a lane with rows in flight rests.
"""

from __future__ import annotations

import time
from typing import Any, Final

import redis as driver

from relay.buffer import keys
from relay.buffer.lanes import LEASE_MS
from relay.buffer.redis import script
from relay.telemetry import logger

log = logger("clock")
#: A step back by less than this is waited for.
STEP_S: Final = 1.0
LONGEST_REST_MS: Final = 300_000
_AT_ONCE: Final = 1_000


class Clock:
    """Watches the server's clock against this machine's, which cannot be set."""

    def __init__(self, client: driver.Redis) -> None:
        self.client = client
        self._clamp = script(client, "clamp")
        self._offset: float | None = None

    def tick(self) -> bool:
        """Look; returns whether the clock was set back since the last look, or before the first."""
        now_s = self._now()
        offset = now_s - time.monotonic()
        before, self._offset = self._offset, offset
        if before is None:
            # Nobody looked: the last arrival number tells, since it only ever grows.
            newest: Any = self.client.get(keys.CLOCK)
            back = int(newest or 0) / 1_000_000 - now_s
        else:
            back = before - offset
        if back < STEP_S:
            return False
        log.warning("clock_set_back", seconds=round(back, 1))
        self._mend()
        return True

    def _now(self) -> float:
        seconds, micros = self.client.time()
        return int(seconds) + int(micros) / 1_000_000

    def _mend(self) -> None:
        lanes: Any = self.client.smembers(keys.LANES)
        for lane in sorted(name.decode() for name in lanes):
            sources: Any = self.client.smembers(keys.lane_sources(lane))
            queues = [keys.queue(lane, source.decode()) for source in sources]
            target = keys.destination(lane.rsplit("/", 2)[0])
            while (
                self._clamp([keys.lane(lane), target, *queues], [LEASE_MS, LONGEST_REST_MS, _AT_ONCE]) >= _AT_ONCE
            ):
                pass
