"""Parking: what waits for a destination that is down keeps only its number here, since the archive has its body.

So a destination may be away for a weekend, and the room in Redis stays with those that take rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import redis as driver

from relay.buffer import keys
from relay.buffer.bounds import Bounds
from relay.buffer.redis import script

#: A destination that has not taken anything for so long is down.
DOWN_S: Final = 30.0
#: From this share of a budget on, the longest queues are parked, whoever's they are.
CROWDED: Final = 0.5
#: Events looked at in one step.
STEP: Final = 500
#: A destination that is not down keeps so many events at hand.
AT_HAND: Final = 5_000

#: Within so long an event is in the archive, if ever.
ARCHIVED_S: Final = 600.0

Has = Callable[[Sequence[str]], set[str]]


def held(client: driver.Redis, arrivals: Sequence[str]) -> set[str]:
    """Those of some events that the buffer still holds, parked or not."""
    if not arrivals:
        return set()
    with client.pipeline() as pipe:  # one step: an event moves from the one to the other
        pipe.hmget(keys.PARKED, list(arrivals))
        for arrival in arrivals:
            pipe.hexists(keys.EVENTS, arrival)
        parked, *present = pipe.execute()
    return {a for a, p, e in zip(arrivals, parked, present, strict=True) if p is not None or e}


class Parking:
    """Looks for queues to park, a step at a time.

    Args:
        client: Redis. bounds: of the buffer. has: of some events, those that the archive holds, on disk.
    """

    def __init__(self, client: driver.Redis, bounds: Bounds, has: Has) -> None:
        self.client, self.bounds, self._has = client, bounds, has
        self._park = script(client, "park")
        self._from: dict[tuple[str, str], str] = {}  # (lane, source) -> score up to which all is parked

    def step(self) -> int:
        """Park some of what waits; returns the bytes that were freed."""
        freed = 0
        queues = dict(self._queues())
        self._from = {queue: score for queue, score in self._from.items() if queue in queues}
        for lane, source in queues:
            freed += self._some(lane, source)
        return freed

    def _queues(self) -> Iterator[tuple[tuple[str, str], int]]:
        """Queues that have to make room: all of destinations that are down; where it is crowded, the longest."""
        crowded = self._crowded()
        lengths: Counter[tuple[str, str]] = Counter()
        lanes: Any = self.client.smembers(keys.LANES)
        for lane in (name.decode() for name in lanes if not keys.archives(name.decode())):
            down = self._down(lane.rsplit("/", 2)[0])
            sources: Any = self.client.smembers(keys.lane_sources(lane)) if down or crowded else ()
            for source in (s.decode() for s in sources):
                count: Any = self.client.zcard(keys.queue(lane, source))
                if count and down:
                    yield (lane, source), count
                elif count > AT_HAND and ("*" in crowded or source in crowded):
                    lengths[lane, source] = count
        yield from lengths.most_common(1)

    def _down(self, destination: str) -> bool:
        paused, since = self.client.hmget(keys.destination(destination), ["paused", "since"])
        return paused is not None or (since is not None and time.time() - int(since) / 1000 > DOWN_S)

    def _crowded(self) -> set[str]:
        """Sources that have used much of their budget; `*` where all together have."""
        sizes: Any = self.client.hgetall(keys.BYTES)
        blobs = int(sizes.get(b"*", 0))
        events: Any = self.client.hlen(keys.EVENTS)
        # As put.lua counts: what lies beside the blobs is shared out in proportion to them.
        beside = 1 + events * self.bounds.overhead / blobs if blobs > 0 else 1
        limits = {source.decode(): self.bounds.source for source in sizes} | {"*": self.bounds.total}
        return {
            name
            for name, limit in limits.items()
            if limit and int(sizes.get(name.encode(), 0)) * beside > limit * CROWDED
        }

    def _some(self, lane: str, source: str) -> int:
        queue = keys.queue(lane, source)
        start = self._from.get((lane, source), "-inf")
        found: Any = self.client.zrangebyscore(queue, start, "+inf", start=0, num=STEP, withscores=True)
        if not found:
            return 0
        arrivals = [arrival.decode() for arrival, _ in found]
        has = self._has(arrivals)
        ready = [arrival for arrival in arrivals if arrival in has]
        freed: Any = 0
        if ready:
            archive = keys.queue(keys.lane_name(keys.ARCHIVE, 0, 1), source)
            freed = self._park(
                [keys.EVENTS, keys.BYTES, keys.PARKED, keys.QUARANTINE, keys.DEAD_COUNT, queue, archive],
                [source, *ready],
            )
        # The next step begins where this one ended, or at the first that the archive does not have yet.
        late = f"{int((time.time() - ARCHIVED_S) * 1_000_000):016d}"  # older ones will never be there
        last = next((s for a, s in found if a.decode() not in has and a.decode() > late), found[-1][1])
        if len(found) == STEP and last == found[0][1]:
            last += 1  # so many events of one moment: those behind them must have their turn
        self._from[lane, source] = repr(last)
        return int(freed)
