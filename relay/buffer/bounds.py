"""How much of Redis the buffer may take, and what for (docs/explanation/bounds.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from relay.config import Settings

#: Shares of Redis's `maxmemory`: what waits to be delivered, marks of delivery ids, and, of what waits, failures.
PENDING_SHARE: Final = 0.6
MARKS_SHARE: Final = 0.1
DEAD_SHARE: Final = 0.15
FENCE_SHARE: Final = 0.15
#: Share of what may wait that only `Vendor.fragile` senders may use.
RESERVED_SHARE: Final = 0.2
#: What Valkey 9.1 uses beside the values, rounded up: an event (its hash entry and its reference count), one entry
#: of a lane's queue, a mark of a delivery id, and a dead letter with its text.
EVENT_BYTES: Final = 128
ENTRY_BYTES: Final = 96
MARK_BYTES: Final = 96
LETTER_BYTES: Final = 512


class Bounds(msgspec.Struct, frozen=True):
    """What the put script enforces; bytes that Redis uses, 0 for no bound.

    Args:
        total, source: of undelivered events in all, and of one source.
        overhead: of an event, beside its blob. reserved: of `total`, for `fragile` sources only.
        marks: of delivery ids. fences: of versions sent.
        dead: of dead letters and quarantine, from which on there is an alarm.
        fragile: sources whose vendor soon gives up.
        linger_ms: how long a batch may wait. dedup_days, content_minutes: how long a delivery is remembered.
    """

    total: int = 0
    source: int = 0
    overhead: int = 0
    reserved: int = 0
    marks: int = 0
    fences: int = 0
    dead: int = 0
    fragile: frozenset[str] = frozenset()
    linger_ms: int = 100
    dedup_days: int = 3
    content_minutes: int = 10


def bounds_of(
    settings: Settings, maxmemory: str, *, fragile: Iterable[str] = (), sources: int = 2, entries: int = 2
) -> Bounds:
    """The bounds that settings and the server's own limit make.

    Args:
        settings: where they say 0, a share of `maxmemory` is meant.
        maxmemory: as the server says it; anything but a number above 0 stands for no limit.
        fragile: names of the sources that have a reserved share.
        sources: how many are configured; a single one may take all.
        entries: of lanes, that one event makes.
    """
    limit = int(maxmemory) if maxmemory.isdigit() else 0
    total = settings.max_pending_bytes or int(limit * PENDING_SHARE)
    names = frozenset(fragile)
    return Bounds(
        total=total,
        source=settings.max_source_bytes or (total // 2 if sources > 1 else total),
        overhead=EVENT_BYTES + ENTRY_BYTES * entries,
        reserved=int(total * RESERVED_SHARE) if names else 0,
        marks=settings.max_dedup_bytes or int(limit * MARKS_SHARE),
        fences=settings.max_fence_bytes or int(limit * FENCE_SHARE),
        dead=settings.max_dead_bytes or int(limit * DEAD_SHARE) or total // 4,
        fragile=names,
        linger_ms=settings.linger_ms,
        dedup_days=settings.dedup_days,
        content_minutes=settings.content_dedup_minutes,
    )
