"""What waits for a destination, or came from a source, that is no longer configured: never forgotten unsaid."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys, ledger
from relay.buffer.lanes import Claimed, Lane, Settlement
from relay.buffer.waiting import Waiting
from relay.errors import ConfigInvalid

_SOON_MS: Final = 10**12  # what is due at any time
_MOST, _MOST_BYTES = 500, 4 * 1024 * 1024
#: Of some arrival numbers, the blobs that the archive has.
Fetch = Callable[[list[str]], dict[str, bytes]]


class Strays(msgspec.Struct, frozen=True):
    """Events of one source that wait in one lane, of which one of both is gone.

    Args:
        lane, source: where they wait; no lane: for what they name to be fetched.
        count: how many. gone: what is no longer configured, for people.
    """

    lane: str
    source: str
    count: int
    gone: str


def strays(client: driver.Redis, destinations: Collection[str], sources: Collection[str]) -> Iterator[Strays]:
    """All that waits for what is not configured; an API client (`client:<id>`) need not be.

    Args:
        client: Redis.
        destinations: as configured.
        sources: as configured.
    """
    for source, waiting in Waiting(client).counts().items():
        if source not in sources:
            yield Strays("", source, waiting, f"source {source}")
    lanes: Any = client.smembers(keys.LANES)
    for lane in sorted(name.decode() for name in lanes):
        destination = lane.rsplit("/", 2)[0]
        known = keys.archives(lane) or destination in destinations
        found: Any = client.smembers(keys.lane_sources(lane))
        for source in sorted(s.decode() for s in found):
            count: Any = client.zcard(keys.queue(lane, source))
            if count and not known:
                yield Strays(lane, source, count, f"destination {destination}")
            elif count and source not in sources and ":" not in source and not keys.archives(lane):
                yield Strays(lane, source, count, f"source {source}")


def refuse(client: driver.Redis, destinations: Collection[str], sources: Collection[str]) -> None:
    """Refuse settings that leave something behind.

    Raises:
        ConfigInvalid: says what waits, and what can be done.
    """
    waiting: Counter[str] = Counter()
    for one in strays(client, destinations, sources):
        waiting[one.gone] += one.count
    if waiting:
        raise ConfigInvalid("\n".join(f"{n} events still wait for {gone}, {_HOW}" for gone, n in waiting.items()))


_HOW: Final = (
    "which is not configured any more: put it back until they are delivered, "
    "or start with --discard to give them up"
)


def discard(client: driver.Redis, destinations: Collection[str], sources: Collection[str], fetch: Fetch) -> int:
    """Give up all that waits for what is not configured; the ledger says so.

    Args:
        client: Redis.
        destinations: as configured.
        sources: as configured.
        fetch: bodies of parked events.

    Returns:
        How many events were given up.

    Raises:
        ConfigInvalid: a drain is still at work there.
    """
    given_up = 0
    for one in list(strays(client, destinations, sources)):
        if not one.lane:
            given_up += Waiting(client).discard(one.source)
            continue
        lane = Lane(client, one.lane, f"discard-{secrets.token_hex(6)}")
        # Nothing is sent, so that neither a rest nor a pause matters.
        client.delete(keys.destination(lane.destination))
        client.hdel(keys.lane(one.lane), "hold_until")
        if lane.begin() is None:
            raise ConfigInvalid(f"lane {one.lane} is being served: stop the relay, or wait a quarter of a minute")
        while isinstance(claimed := _claim(lane, one.source), list):
            lane.settle(_settlement(client, lane, claimed, fetch))
            given_up += len(claimed)
        lane.finish([], 0, even_if_due=True)
    return given_up


def _claim(lane: Lane, source: str) -> list[Claimed] | float | None:
    return lane.claim([source], most=_MOST, most_bytes=_MOST_BYTES, linger_ms=_SOON_MS, full=1, rest_ms=0)


def _settlement(client: driver.Redis, lane: Lane, claimed: list[Claimed], fetch: Fetch) -> Settlement:
    parked = fetch([one.arrival for one in claimed if not one.blob])
    counts: Counter[str] = Counter()
    done: dict[str, list[str]] = {}
    for one in claimed:
        done.setdefault(one.source, []).append(one.arrival)
        blob = one.blob or parked.get(one.arrival, b"")
        for route in ledger.routes(client, lane.name, one.source, one.left, blob) if blob else ():
            at = f"r|{'|'.join(route)}|"
            counts[at + "pending"] -= 1
            counts[at + "discarded"] += 1
    return Settlement(done, [], [], dict(counts), {})
