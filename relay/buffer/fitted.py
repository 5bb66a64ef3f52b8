"""When a delivery last fitted each secret of a source: what somebody who rotates them waits for.

A secret is known by its place among so many, never by anything of itself. Nothing hangs on it: an entry is at most
a minute late, and goes by itself, lest it be taken for another secret's that comes into its place.
"""

from __future__ import annotations

import time
from typing import Any, Final

import redis as driver
from redis.exceptions import RedisError

from relay.buffer import keys
from relay.telemetry import logger

log = logger("buffer")
KEPT_S: Final = 8 * 86_400
#: One process notes the same secret no more often.
EVERY_S: Final = 60.0


class Fitted:
    """What one web process notes."""

    def __init__(self, client: driver.Redis) -> None:
        self._client = client
        self._noted: dict[tuple[str, int], float] = {}

    def took(self, source: str, number: int, of: int) -> None:
        """A delivery fitted the secret of this number; whatever goes wrong here is only logged."""
        now = time.monotonic()
        if not number or now - self._noted.get((source, number), -EVERY_S) < EVERY_S:
            return
        self._noted[source, number] = now
        try:
            self._client.set(keys.secret(source, number, of), int(time.time()), ex=KEPT_S)
        except (RedisError, OSError) as error:
            log.warning("secret_not_noted", source=source, error=type(error).__name__)


def last(client: driver.Redis, source: str, of: int) -> list[int]:
    """When a delivery last fitted each of a source's secrets, ms since 1970; 0: not in the last week."""
    if not of:
        return []
    raw: Any = client.mget([keys.secret(source, number, of) for number in range(1, of + 1)])
    return [int(text or 0) * 1000 for text in raw]
