"""The front of the buffer: takes deliveries, durably, in groups."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import redis as driver
from redis.exceptions import RedisError

from relay.buffer import keys
from relay.buffer.alarms import bucket_words
from relay.buffer.bounds import LETTER_BYTES, MARK_BYTES, Bounds
from relay.buffer.commit import IN_FLIGHT, Committer
from relay.buffer.redis import connect, script, unavailable
from relay.errors import BufferUnavailable, Unauthenticated
from relay.telemetry import logger

__all__ = ["DAY_S", "RING_MS", "Bounds", "Delivery", "Front", "Offer", "Taken", "buckets", "digest_of"]

DAY_S: Final = 86_400
#: A process whose clock is ahead, or was before it was set back, marks in days to come: so many are looked into.
AHEAD_DAYS: Final = 2
#: How long a bell counts as heard before the ticker looks after its job.
RING_MS: Final = 5_000
#: Groups on their way at once where each waits up to a second for the disk: hardly a request waits for another.
WAITING_IN_FLIGHT: Final = 48
#: Of a put's deadline, what it may wait for the disk; the rest is for the way there and back.
WAIT_SHARE: Final = 0.9
#: How often a process has put.lua look whether marks of delivery ids are over their budget.
MARKS_LOOK_S: Final = 0.5
log = logger("buffer")


class Offer(msgspec.Struct, frozen=True):
    """One event as it is offered to the buffer.

    Args:
        digest: identity for deduplication (`digest_of`), empty for never.
        window: `id` (days) or `content` (minutes).
        blob: `Codec.pack`ed event; empty where nothing of it is kept.
        quarantined: it could not be read or mapped.
        lanes: names of the lanes that its records go to.
        counts: ledger fields to add to where it is taken.
        waits: until what it names was fetched.
        type: the vendor's name of what happened, for `relay tail`.
    """

    digest: str
    window: str
    blob: bytes
    quarantined: bool
    lanes: tuple[str, ...]
    counts: Mapping[str, int]
    type: str = ""
    waits: bool = False


class Guard(msgspec.Struct, frozen=True):
    """The API key under which something is taken: it must be there, and may write these tables.

    Args:
        id: of the key. kind, client: what it must be. tables: as the client calls them.
    """

    id: str
    kind: str
    client: int
    tables: tuple[str, ...]


class Delivery(msgspec.Struct, frozen=True):
    """The events of one request, taken together or not at all; under an API key, where there is one."""

    source: str
    offers: tuple[Offer, ...]
    schemas: Mapping[str, bytes]
    guard: Guard | None = None


class Taken(msgspec.Struct, frozen=True):
    """What became of one event: its arrival number, and whether it had been there before."""

    arrival: str
    duplicate: bool


def digest_of(source: str, type_: str, identity: bytes) -> str:
    """24 characters that stand for a delivery in the dedup buckets (Redis's msgpack has no byte strings)."""
    digest = hashlib.blake2b(b"\0".join((source.encode(), type_.encode(), identity)), digest_size=18).digest()
    return base64.b64encode(digest).decode()


_encode: Final = msgspec.msgpack.Encoder().encode


class Front:
    """Takes deliveries for one process; safe to call from many threads.

    Args:
        url: Redis. bounds: budgets and windows. ring: asks for a drain of a lane. deadline_s: of one put.
        waits: a put is over only when Redis says that it is on its disk (`ServerReport.waits`).
    """

    def __init__(
        self,
        url: str,
        bounds: Bounds,
        ring: Callable[[str], None],
        deadline_s: float = 2.0,
        *,
        waits: bool = False,
    ) -> None:
        self.client: driver.Redis = connect(url, timeout_s=deadline_s)
        self.bounds = bounds
        self._ring, self._deadline_s = ring, deadline_s
        self._looked = -MARKS_LOOK_S
        self._rung = deque[str]()  # lanes whose bells are to be rung
        self.wait_ms = int(deadline_s * 1000 * WAIT_SHARE) if waits else 0
        self._put = script(self.client, "put", wait_ms=self.wait_ms)
        self._committer: Committer[Delivery, list[Taken] | str] = Committer(
            self._send, WAITING_IN_FLIGHT if waits else IN_FLIGHT
        )

    def put(self, delivery: Delivery) -> list[Taken]:
        """Store a delivery; returns once it is as durable as the Redis is set to make it.

        Raises:
            BufferUnavailable: nothing is known to be stored.
            Unauthenticated: its API key is not there, or may not write this.
        """
        size = sum(len(offer.blob) + 256 for offer in delivery.offers)
        taken = self._committer.put(delivery, size, self._deadline_s)
        if self._rung:  # only now: while a bell is rung, nobody else's delivery waits for its group
            self._ring_out()
        if taken == "denied":
            raise Unauthenticated("the API key opens nothing, or not this table", reason="key_refused")
        if isinstance(taken, str):
            raise BufferUnavailable(
                f"{_NO_ROOM[taken]} (source {delivery.source})", reason="over_budget", retry_after_s=30
            )
        return taken

    def _ring_out(self) -> None:
        while self._rung:
            try:
                lane = self._rung.popleft()
            except IndexError:  # another thread was quicker
                return
            self._ring(lane)

    def _send(self, group: list[Delivery]) -> list[list[Taken] | str]:
        key_list, args = _plan(group, self.bounds, int(time.time()), looks=self._looks())
        reply: Any = self._put(key_list, args)
        if reply[0] == b"need":
            known = {id_: text for delivery in group for id_, text in delivery.schemas.items()}
            try:
                self.client.hset(keys.SCHEMAS, mapping={i.decode(): known[i.decode()] for i in reply[1:]})
            except (RedisError, OSError) as error:
                raise unavailable(error) from error
            reply = self._put(key_list, args)
        self._rung.extend(lane.decode() for lane in reply[2])
        for bucket in reply[3]:
            log.error("dedup_window_cut", setting="max_dedup_bytes", gave_up=bucket_words(bucket.decode()))
        return [_answer(answer) for answer in reply[1]]

    def _looks(self) -> bool:
        now = time.monotonic()
        if not self.bounds.marks or now - self._looked < MARKS_LOOK_S:
            return False
        self._looked = now
        return True


_NO_ROOM: Final = {
    "source": "the source has used its own share of the buffer, max_source_bytes",
    "all": "the buffer is full, max_pending_bytes",
}


def _answer(answer: list[Any]) -> list[Taken] | str:
    if answer[0] == b"denied":
        return "denied"
    if answer[0] == b"full":
        return "source" if answer[1] == b"source" else "all"
    rest = answer[1:]
    return [
        Taken(arrival.decode(), duplicate == 1) for duplicate, arrival in zip(rest[::2], rest[1::2], strict=True)
    ]


#: The keys that put.lua knows by their places.
_FIXED: Final = (
    keys.CLOCK, keys.EVENTS, keys.REFS, keys.LEDGER, keys.BYTES, keys.LANES, keys.SCHEMAS, keys.QUARANTINE,
    keys.DEAD_COUNT, keys.DEAD, keys.PARKED, keys.ALARMS, keys.API_KEYS, keys.API_KEYS_USED, keys.WAITERS,
)  # fmt: skip


def _shown(guard: Guard | None) -> tuple[str, str, tuple[str, ...]] | bool:
    return (guard.id, f"{guard.kind}|{guard.client}|", guard.tables) if guard is not None else False


def _plan(group: list[Delivery], bounds: Bounds, now_s: int, *, looks: bool) -> tuple[list[str], list[Any]]:
    """KEYS and ARGV of put.lua; whether it looks at the budget of marks."""
    names = {key: at for at, key in enumerate(_FIXED, 1)}

    def index(key: str) -> int:
        return names.setdefault(key, len(names) + 1)

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
            blob = len(blobs) if offer.blob else 0
            fault = index(keys.waiting(delivery.source)) if offer.waits else int(offer.quarantined)
            events.append((offer.digest, offer.window, blob, fault, lanes, offer.counts, offer.type))
        # Two places for what the script notes of a delivery, then who it is from.
        fragile = delivery.source in bounds.fragile
        deliveries.append((delivery.source, events, fragile, False, False, _shown(delivery.guard)))
    plan = _encode(
        (
            (bounds.total, bounds.source, bounds.reserved, bounds.overhead, LETTER_BYTES),
            (bounds.marks, MARK_BYTES, [index(key) for key in buckets(bounds, now_s)]) if looks else (0, 0, []),
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
    """How long a bucket is kept, and where to look for a mark; a new one goes into the first."""
    if window == "id":
        return (bounds.dedup_days + 1) * DAY_S + DAY_S, [index(key) for key in _days(bounds, now_s)]
    return 3 * bounds.content_minutes * 60, [index(key) for key in _slots(bounds, now_s)]


def _days(bounds: Bounds, now_s: int) -> list[str]:
    """Today's, those ahead, then yesterday's and older."""
    day = now_s // DAY_S
    return [keys.seen_day(day + n) for n in (*range(AHEAD_DAYS + 1), *range(-1, -bounds.dedup_days - 1, -1))]


def _slots(bounds: Bounds, now_s: int) -> list[str]:
    slot = now_s // (bounds.content_minutes * 60)
    return [keys.seen_slot(n) for n in (slot, slot + 1, slot - 1)]


def buckets(bounds: Bounds, now_s: int) -> list[str]:
    """Every dedup bucket that may be in use, the first to be given up first, today's last."""
    today, *days = _days(bounds, now_s)
    return [*reversed(days), *reversed(_slots(bounds, now_s)), today]
