"""What the buffer holds of a row that is to be erased, and how its file is rid of it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import msgspec
import redis as driver
from redis.exceptions import RedisError, ResponseError

from relay.buffer import keys
from relay.buffer.bodies import Bodies
from relay.buffer.failures import Failure, Failures
from relay.records import Codec, Packed

_PAGE: Final = 50
#: How long a rewrite of the append-only file is waited for, and how often we look.
REWRITE_S: Final = 300.0
_LOOK_S: Final = 0.1
_VERSION: Final = re.compile(rb'(?:\?\[")?([0-9]{57})')

#: Whether an event says something of the row; whether the body of one without records names its key.
Touches = Callable[[Packed], bool]
Names = Callable[[bytes], bool]


class Held(msgspec.Struct):
    """What is held.

    Args:
        letters: dead letters of its events.
        unmapped: events in quarantine that name its key.
    """

    letters: list[Failure]
    unmapped: list[Failure]


def held(client: driver.Redis, source: str, touches: Touches, names: Names, archived: Collection[str]) -> Held:
    """Look through everything of one source.

    Args:
        client: Redis.
        source: whose row it is.
        touches: whether an event says something of the row.
        names: whether the body of an event without records names its key.
        archived: arrivals of the row's events in the archive; of one that waits, the buffer may hold no more.
    """

    def in_body(packed: Packed) -> bool:
        return bool(packed.meta.fault) and names(packed.raw)

    failures, found = Failures(client), Held([], [])
    ours: dict[str, bool] = {}
    for failure in failures.every():
        if failure.source != source:
            continue
        arrival = failure.arrival
        if arrival not in ours:
            packed = failures.event(arrival)
            test = touches if failure.destination else in_body
            ours[arrival] = arrival in archived or (packed is not None and test(packed))
        if ours[arrival]:
            (found.letters if failure.destination else found.unmapped).append(failure)
    return found


def waiting(client: driver.Redis, source: str, touches: Touches, archived: Collection[str]) -> Counter[str]:
    """Lane -> events of the row that are not delivered, or not archived, yet; arguments as of `held`."""
    found, codec, known = Counter[str](), Codec(), dict.fromkeys(archived, True)
    lanes: Any = client.smembers(keys.LANES)
    for lane in sorted(name.decode() for name in lanes):
        queue: Any = client.zscan_iter(keys.queue(lane, source), count=_PAGE)
        for page in _pages(arrival.decode() for arrival, _ in queue):
            unknown = [arrival for arrival in page if arrival not in known]
            blobs: Any = client.hmget(keys.EVENTS, unknown) if unknown else []
            for arrival, blob in zip(unknown, blobs, strict=True):
                known[arrival] = blob is not None and touches(codec.unpack(blob))
            found[lane] += sum(known[arrival] for arrival in page)
    return +found


def unfetched(client: driver.Redis, source: str, names: Names) -> int:
    """Events that name the key and wait for the object that they are about: they have no records yet."""
    found, bodies, codec = 0, Bodies(client), Codec()
    queue: Any = client.zscan_iter(keys.waiting(source), count=_PAGE)
    for page in _pages(arrival.decode() for arrival, _ in queue):
        found += sum(blob is not None and names(codec.unpack(blob).raw) for blob in bodies.every(page, _PAGE))
    return found


def _pages(values: Iterable[str]) -> Iterator[list[str]]:
    page: list[str] = []
    for value in values:
        page.append(value)
        if len(page) == _PAGE:
            yield page
            page = []
    yield page


def key_pattern(key: str, *, parent: bool) -> str:
    """The pattern of a key's fence entry, or of those of a parent's rows, whose keys begin with the parent's."""
    escaped = re.sub(r"[][*?\\]", lambda m: f"\\{m[0]}", key.removesuffix("]") if parent else key)
    return f"{escaped},*" if parent else escaped


def version_in(entry: bytes) -> bytes:
    """The version that a row's fence entry begins with, whether its outcome is known or not."""
    found = _VERSION.match(entry)
    return found[1] if found else b""


def strip_fences(client: driver.Redis, table: str, key: str, known: Collection[str], *, parent: bool) -> int:
    """Take data out of fence entries of destinations that are no longer configured; returns how many had some.

    Args:
        client: Redis.
        table: full name.
        key: the row's, or its parent's, as text.
        known: destinations that are configured.
        parent: the key is the parent's.
    """
    count = 0
    fences: Any = client.scan_iter(f"rh:fence:*|{table}", count=1000)
    for fence in fences:
        if fence.decode().removeprefix("rh:fence:").partition("|")[0] in known:
            continue
        entries: Any = client.hscan_iter(fence, match=key_pattern(key, parent=parent), count=1000)
        for field, entry in entries:
            version = version_in(entry)
            if version and version != entry:
                client.hset(fence, field, version)
                count += 1
    return count


def rewrite_file(client: driver.Redis) -> str:
    """Have the append-only file written anew from what is held now; returns why it was not, or nothing."""
    until = time.monotonic() + REWRITE_S
    try:
        if not client.info("persistence").get("aof_enabled"):
            return "its append-only file is off: a snapshot holds it until the next one is written"
        # One that runs already may have begun before.
        while not _asked(client):
            if time.monotonic() > until:
                return "another rewrite of its append-only file did not end: ask for BGREWRITEAOF there"
            time.sleep(_LOOK_S)
        while time.monotonic() < until:
            state: Any = client.info("persistence")
            if not state.get("aof_rewrite_in_progress") and not state.get("aof_rewrite_scheduled"):
                status = state.get("aof_last_bgrewrite_status", "ok")
                return "" if status == "ok" else f"the rewrite of its append-only file failed ({status})"
            time.sleep(_LOOK_S)
    except (RedisError, OSError) as error:
        return f"its append-only file was not rewritten ({str(error)[:200]}): ask for BGREWRITEAOF there"
    return f"the rewrite of its append-only file goes on still, after {REWRITE_S:.0f} s"


def _asked(client: driver.Redis) -> bool:
    try:
        client.bgrewriteaof()
    except ResponseError as error:
        if "in progress" in str(error):
            return False
        raise
    return True
