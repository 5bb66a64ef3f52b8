"""How destinations are doing: their breakers, and those that a person paused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import redis as driver

from relay.buffer import keys

_SCAN = 500


def standings(client: driver.Redis) -> dict[str, dict[str, str]]:
    """Of each destination at which something is wrong, what (see `relay.buffer.keys`)."""
    found: dict[str, dict[str, str]] = {}
    start = keys.destination("")
    for key in client.scan_iter(f"{start}*", count=_SCAN):
        raw: Any = client.hgetall(key)
        if raw:
            found[key.decode().removeprefix(start)] = {
                k.decode(): v.decode("utf-8", "replace") for k, v in raw.items()
            }
    return dict(sorted(found.items()))


def in_words(standing: Mapping[str, str]) -> str:
    """A standing for people."""
    if "paused" in standing:
        return f"paused by hand: {standing['paused']}"
    failures = int(standing.get("failures", 0))
    if not failures:
        return f"{standing.get('refused', 0)} records refused since it last took one"
    since = _time(standing.get("since", "0"))
    rests = f", tried again at {_time(standing['open_until'])}" if "open_until" in standing else ""
    return f"failing since {since} ({failures} times{rests}): {standing.get('why', '')}"


def _time(ms: str) -> str:
    return f"{dt.datetime.fromtimestamp(int(ms) / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def pause(client: driver.Redis, name: str, why: str) -> None:
    """Deliver nothing more to a destination until it is resumed; the running batch is finished."""
    client.hset(keys.destination(name), "paused", why[:500] or "no reason given")


def resume(client: driver.Redis, name: str) -> bool:
    """Deliver again, at once; False where nothing held it back.

    Where its breaker was open, a few rows go first. A lane of which the last outcome is unknown still rests to the
    end: newer rows may not overtake those that are perhaps on their way.
    """
    at = keys.destination(name)
    paused: Any = client.hdel(at, "paused")
    opened: Any = client.hexists(at, "open_until")
    if opened:
        client.hset(at, "open_until", 1)
    return bool(paused or opened)
