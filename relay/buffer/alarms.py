"""Bounds that were reached and need a person: nothing is refused or dropped in silence.

Looking costs one round trip where nothing has failed, two where something has, however much that is.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.bounds import LETTER_BYTES, RESERVED_SHARE, Bounds
from relay.config import MIB

_SAMPLE: Final = 100
_DAY_S: Final = 86_400


class Alarm(msgspec.Struct, frozen=True):
    """One bound that was reached: a constant word, and a sentence for people."""

    name: str
    text: str


def standing(client: driver.Redis, bounds: Bounds) -> list[Alarm]:
    """The alarms as they are now.

    Raises:
        RedisError, OSError: it cannot be asked.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.hget(keys.ALARMS, "dedup")
        pipe.hget(keys.BYTES, "*")
        pipe.hlen(keys.EVENTS)
        pipe.hlen(keys.PARKED)
        pipe.hlen(keys.DEAD)
        pipe.zcard(keys.QUARANTINE)
        pipe.hlen(keys.DEAD_COUNT)
        dedup, blobs, events, parked, letters, quarantined, buried = pipe.execute()
    found = []
    held = int(blobs or 0) + (events + parked) * bounds.overhead + letters * LETTER_BYTES
    if bounds.total and held >= bounds.total * (1 - RESERVED_SHARE):
        found.append(
            Alarm(
                "buffer_full",
                f"undelivered events take {_mib(held)} of {_mib(bounds.total)} (max_pending_bytes): senders that "
                "retry are answered 503; see `relay stats` for what does not drain",
            )
        )
    if bounds.dead and quarantined + buried:
        taken = _failed_bytes(client, quarantined, buried, bounds.overhead) + letters * LETTER_BYTES
        if taken > bounds.dead:
            found.append(
                Alarm(
                    "failures_pile_up",
                    f"{quarantined} events in quarantine and {letters} dead letters take about {_mib(taken)}, "
                    f"over {_mib(bounds.dead)} (max_dead_bytes); they are kept, and take the room of new events: "
                    "see `relay dead list`, then retry or discard them",
                )
            )
    cut = _cut(dedup, bounds)
    return [*found, cut] if cut else found


def _cut(noted: bytes | None, bounds: Bounds) -> Alarm | None:
    """Marks were given up (put.lua), and would still be remembered otherwise."""
    if noted is None:
        return None
    at_ms, _, bucket = noted.decode().partition("|")
    at_s = int(at_ms) / 1000
    if time.time() - at_s > bounds.dedup_days * _DAY_S:
        return None
    at = dt.datetime.fromtimestamp(at_s, dt.UTC)
    return Alarm(
        "dedup_window_cut",
        f"{bucket_words(bucket)} were given up at {at:%Y-%m-%d %H:%M} UTC, since all of them outgrew "
        "max_dedup_bytes: what is sent again from then is taken again, and its rows stay as they are",
    )


def bucket_words(bucket: str) -> str:
    """What a dedup bucket holds, for people."""
    day = bucket.removeprefix("rh:seen:")
    if day.startswith("m:"):
        return "marks of the last minutes' bodies"
    return f"marks of the delivery ids of {dt.date(1970, 1, 1) + dt.timedelta(days=int(day))}"


def _failed_bytes(client: driver.Redis, quarantined: int, buried: int, overhead: int) -> int:
    """About what the bodies of failed events take: a sample's mean times their number."""
    with client.pipeline(transaction=False) as pipe:
        pipe.zrandmember(keys.QUARANTINE, _SAMPLE)
        pipe.hrandfield(keys.DEAD_COUNT, _SAMPLE)
        samples: list[list[bytes]] = pipe.execute()
    total = 0.0
    for sample, count in zip(samples, (quarantined, buried), strict=True):
        if sample:
            with client.pipeline(transaction=False) as pipe:
                for arrival in sample:
                    pipe.hstrlen(keys.EVENTS, arrival.decode())
                sizes: list[int] = pipe.execute()
            total += count * (overhead + sum(sizes) / len(sizes))
    return int(total)


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def maxmemory(client: driver.Redis) -> str:
    """The server's memory limit as it says it; empty where it hides it."""
    info: Any = client.info("memory")
    return str(info.get("maxmemory", ""))
