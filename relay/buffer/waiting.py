"""Events that wait for the objects that they name: fetched from the vendor, then mapped.

An event that waits is kept as any other, counted as `waiting` in the ledger and held by its source's queue, scored
by when it is due (ms). Whoever works on it has it for a lease; what a dead job held is due again after that.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.redis import script

#: For how long a job has what it took; longer than fetching all of it may last.
LEASE_MS: Final = 120_000
#: Taken at once.
MOST: Final = 20


class Waiter(msgspec.Struct, frozen=True):
    """One event that is due.

    Args:
        arrival: its number. tries: before this one. blob: the event; empty where it is gone.
    """

    arrival: str
    tries: int
    blob: bytes


class Waiting:
    """What waits of all sources.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client
        self._claim, self._fail = script(client, "waiting_claim"), script(client, "waiting_fail")

    def counts(self) -> dict[str, int]:
        """Source -> how many of its events wait."""
        found: Any = self.client.smembers(keys.WAITERS)
        sizes: Any = {name.decode(): self.client.zcard(keys.waiting(name.decode())) for name in found}
        return {name: size for name, size in sorted(sizes.items()) if size}

    def arrivals(self) -> set[str]:
        """Numbers of all events that wait."""
        found: set[str] = set()
        for source in self.counts():
            members: Any = self.client.zrange(keys.waiting(source), 0, -1)
            found.update(arrival.decode() for arrival in members)
        return found

    def due(self, now_ms: int) -> list[str]:
        """Sources of which something is due and that do not rest."""
        return [source for source in self.counts() if self._is_due(source, now_ms)]

    def _is_due(self, source: str, now_ms: int) -> bool:
        first: Any = self.client.zrange(keys.waiting(source), 0, 0, withscores=True)
        return bool(first and first[0][1] <= now_ms and not self.client.exists(keys.resting(source)))

    def begin(self, source: str) -> bool:
        """Fetch for a source; False where another job does, since two would ask twice as often as they may."""
        return bool(self.client.set(keys.fetching(source), "1", nx=True, px=LEASE_MS))

    def end(self, source: str) -> None:
        """Let the next job begin."""
        self.client.delete(keys.fetching(source))

    def claim(self, source: str) -> tuple[int, list[Waiter]]:
        """Take some of a source's events that are due; with Redis's time, ms since 1970."""
        if self.client.exists(keys.resting(source)):
            return 0, []
        found: Any = self._claim([keys.waiting(source), keys.EVENTS, keys.TRIES], [MOST, LEASE_MS])
        now, rest = int(found[0]), found[1:]
        return now, [
            Waiter(arrival.decode(), int(tries), blob)
            for arrival, tries, blob in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        ]

    def later(self, source: str, arrival: str, due_ms: int) -> None:
        """It is due at another time."""
        self.client.zadd(keys.waiting(source), {arrival: due_ms}, xx=True)

    def untried(self, source: str, arrival: str) -> None:
        """Give it back as if it had not been taken."""
        with self.client.pipeline() as pipe:
            pipe.zadd(keys.waiting(source), {arrival: 0}, xx=True)
            pipe.hincrby(keys.TRIES, arrival, -1)
            pipe.execute()

    def done(self, arrival: str) -> None:
        """Forget how often it was tried."""
        self.client.hdel(keys.TRIES, arrival)

    def rest(self, source: str, seconds: float, why: str) -> None:
        """Fetch nothing for a source for a while, and say why to whoever looks."""
        self.client.set(keys.resting(source), why[:200], px=max(1, int(seconds * 1000)))

    def why(self, source: str) -> str:
        """Why nothing is fetched for a source just now; empty where it is."""
        told: Any = self.client.get(keys.resting(source))
        return told.decode("utf-8", "replace") if told else ""

    def discard(self, source: str) -> int:
        """Give up all that waits of a source that is no longer configured; returns how many."""
        found: Any = self.client.zrange(keys.waiting(source), 0, -1)
        for arrival in found:
            with self.client.pipeline() as pipe:
                size: Any = self.client.hstrlen(keys.EVENTS, arrival)
                pipe.zrem(keys.waiting(source), arrival)
                pipe.hdel(keys.EVENTS, arrival)
                pipe.hdel(keys.TRIES, arrival)
                pipe.hincrby(keys.BYTES, source, -size)
                pipe.hincrby(keys.BYTES, "*", -size)
                pipe.hincrby(keys.LEDGER, f"e|{source}|waiting", -1)
                pipe.hincrby(keys.LEDGER, f"e|{source}|discarded", 1)
                pipe.execute()
        return len(found)

    def fail(self, source: str, arrival: str, blob: bytes) -> bool:
        """Move it into quarantine; False where it waits no more."""
        names = [
            keys.waiting(source), keys.EVENTS, keys.TRIES, keys.QUARANTINE, keys.LEDGER, keys.BYTES,
        ]  # fmt: skip
        return bool(self._fail(names, [source, arrival, blob]) == 1)
