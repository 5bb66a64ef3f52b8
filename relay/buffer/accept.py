"""The front of the buffer: takes deliveries, durably, in groups."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import redis as driver
from redis.exceptions import RedisError

from relay.buffer import keys
from relay.buffer.commit import Committer
from relay.buffer.redis import connect, script, unavailable
from relay.errors import BufferUnavailable

DAY_S: Final = 86_400
#: How long a bell counts as heard before the ticker looks after its job.
RING_MS: Final = 5_000


class Offer(msgspec.Struct, frozen=True):
    """One event as it is offered to the buffer.

    Args:
        digest: identity for deduplication (`digest_of`), empty for never.
        window: `id` (days) or `content` (minutes).
        blob: `Codec.pack`ed event; empty where nothing of it is kept.
        quarantined: it could not be read or mapped.
        lanes: names of the lanes that its records go to.
        counts: ledger fields to add to where it is taken.
        type: the vendor's name of what happened, for `relay tail`.
    """

    digest: str
    window: str
    blob: bytes
    quarantined: bool
    lanes: tuple[str, ...]
    counts: Mapping[str, int]
    type: str = ""


class Delivery(msgspec.Struct, frozen=True):
    """The events of one request, taken together or not at all."""

    source: str
    offers: tuple[Offer, ...]
    schemas: Mapping[str, bytes]


class Taken(msgspec.Struct, frozen=True):
    """What became of one event: its arrival number, and whether it had been there before."""

    arrival: str
    duplicate: bool


class Bounds(msgspec.Struct, frozen=True):
    """What the put script enforces; bytes of undelivered blobs, 0 for no bound."""

    total: int = 0
    source: int = 0
    linger_ms: int = 100
    dedup_days: int = 3
    content_minutes: int = 10


def digest_of(source: str, type_: str, identity: bytes) -> str:
    """24 characters that stand for a delivery in the dedup buckets (Redis's msgpack has no byte strings)."""
    digest = hashlib.blake2b(b"\0".join((source.encode(), type_.encode(), identity)), digest_size=18).digest()
    return base64.b64encode(digest).decode()


_encode: Final = msgspec.msgpack.Encoder().encode


class Front:
    """Takes deliveries for one process; safe to call from many threads.

    Args:
        url: Redis. bounds: budgets and windows. ring: asks for a drain of a lane. deadline_s: of one put.
    """

    def __init__(self, url: str, bounds: Bounds, ring: Callable[[str], None], deadline_s: float = 2.0) -> None:
        self.client: driver.Redis = connect(url, timeout_s=deadline_s)
        self.bounds = bounds
        self._ring, self._deadline_s = ring, deadline_s
        self._put = script(self.client, "put")
        self._committer: Committer[Delivery, list[Taken] | None] = Committer(self._send)

    def put(self, delivery: Delivery) -> list[Taken]:
        """Store a delivery; returns once it is as durable as the Redis is set to make it.

        Raises:
            BufferUnavailable: nothing is known to be stored.
        """
        size = sum(len(offer.blob) + 256 for offer in delivery.offers)
        taken = self._committer.put(delivery, size, self._deadline_s)
        if taken is None:
            raise BufferUnavailable(
                f"source {delivery.source} has no room left in the buffer", reason="over_budget", retry_after_s=30
            )
        return taken

    def _send(self, group: list[Delivery]) -> list[list[Taken] | None]:
        key_list, args = _plan(group, self.bounds, int(time.time()))
        reply: Any = self._put(key_list, args)
        if reply[0] == b"need":
            known = {id_: text for delivery in group for id_, text in delivery.schemas.items()}
            try:
                self.client.hset(keys.SCHEMAS, mapping={i.decode(): known[i.decode()] for i in reply[1:]})
            except (RedisError, OSError) as error:
                raise unavailable(error) from error
            reply = self._put(key_list, args)
        for lane in reply[2]:
            self._ring(lane.decode())
        return [_answer(answer) for answer in reply[1]]


def _answer(answer: list[Any]) -> list[Taken] | None:
    if answer[0] == b"full":
        return None
    rest = answer[1:]
    return [
        Taken(arrival.decode(), duplicate == 1) for duplicate, arrival in zip(rest[::2], rest[1::2], strict=True)
    ]


def _plan(group: list[Delivery], bounds: Bounds, now_s: int) -> tuple[list[str], list[Any]]:
    """KEYS and ARGV of put.lua."""
    names: dict[str, int] = {}
    fixed = (
        keys.CLOCK, keys.EVENTS, keys.REFS, keys.LEDGER, keys.BYTES, keys.LANES, keys.SCHEMAS, keys.QUARANTINE,
        keys.DEAD_COUNT,
    )  # fmt: skip

    def index(key: str) -> int:
        return names.setdefault(key, len(names) + 1)

    for key in fixed:
        index(key)
    routes: dict[tuple[str, str], int] = {}
    route_rows: list[Any] = []
    blobs: list[bytes] = []
    schemas: set[str] = set()
    windows: set[str] = set()
    deliveries: list[Any] = []
    for delivery in group:
        schemas.update(delivery.schemas)
        events: list[Any] = []
        for offer in delivery.offers:
            lanes = []
            for lane in offer.lanes:
                place = (lane, delivery.source)
                if place not in routes:
                    routes[place] = len(routes) + 1
                    queue, state = index(keys.queue(lane, delivery.source)), index(keys.lane(lane))
                    route_rows.append((queue, state, index(keys.lane_sources(lane)), lane, delivery.source))
                lanes.append(routes[place])
            if offer.blob:
                blobs.append(offer.blob)
            if offer.digest:
                windows.add(offer.window)
            blob, fault = len(blobs) if offer.blob else 0, int(offer.quarantined)
            events.append((offer.digest, offer.window, blob, fault, lanes, offer.counts, offer.type))
        deliveries.append((delivery.source, events))
    plan = _encode(
        (
            bounds.total,
            bounds.source,
            bounds.linger_ms,
            RING_MS,
            sorted(schemas),
            {w: _window(w, bounds, now_s, index) for w in windows},
            route_rows,
            deliveries,
        )
    )
    return list(names), [plan, *blobs]


def _window(window: str, bounds: Bounds, now_s: int, index: Callable[[str], int]) -> tuple[int, list[int]]:
    if window == "id":
        day = now_s // DAY_S
        days = range(day, day - bounds.dedup_days - 1, -1)
        return (bounds.dedup_days + 1) * DAY_S + DAY_S, [index(keys.seen_day(d)) for d in days]
    length = bounds.content_minutes * 60
    slot = now_s // length
    return 3 * length, [index(keys.seen_slot(s)) for s in (slot, slot - 1)]
