"""How destinations are doing: their breakers, what waits in their lanes, and those that a person paused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.lanes import lane_states

_SCAN = 500
#: What waits for longer is late: the aim is a minute from the webhook to the committed row.
LATE_MS: Final = 60_000


class Lane(msgspec.Struct, frozen=True):
    """One lane: how many events wait, since when the oldest (ms), who serves it, and why it rests."""

    name: str
    waits: int
    oldest_ms: int
    served: bool
    rests_until_ms: int
    why: str


def lanes(client: driver.Redis, now_ms: int) -> dict[str, list[Lane]]:
    """Every lane that ever held something, by destination; the archive's are among them."""
    found: dict[str, list[Lane]] = {}
    for name, state in lane_states(client).items():
        until = int(state.get("hold_until") or 0)
        lane = Lane(
            name,
            int(state["waiting"]),
            int(state["oldest"]),
            bool(state.get("holder")) and int(state.get("until") or 0) > now_ms,
            until if until > now_ms else 0,
            state.get("why", ""),
        )
        found.setdefault(name.rsplit("/", 2)[0], []).append(lane)
    return found


def oldest_ms(lanes: Sequence[Lane]) -> int:
    """When the oldest event that waits in any of these came; 0 where none waits."""
    return min((lane.oldest_ms for lane in lanes if lane.oldest_ms), default=0)


def state_of(standing: Mapping[str, str], lanes: Sequence[Lane], now_ms: int, *, stored: bool) -> tuple[str, str]:
    """A word or two for people, and its tone: `good`, `bad`, `warn` or `idle`."""
    if "paused" in standing:
        return "paused by hand", "warn"
    if int(standing.get("failures", 0)):
        return "failing", "bad"
    if any(lane.rests_until_ms for lane in lanes):
        return "resting", "warn"
    oldest = oldest_ms(lanes)
    if oldest and now_ms - oldest > LATE_MS:
        return "behind", "warn"
    return ("delivering", "good") if stored else ("nothing yet", "idle")


def standings(client: driver.Redis) -> dict[str, dict[str, str]]:
    """Of each destination at which something is wrong, what (see `relay.buffer.keys`)."""
    found: dict[str, dict[str, str]] = {}
    start = keys.destination("")
    for key in client.scan_iter(f"{start}*", count=_SCAN):
        raw: Any = client.hgetall(key)
        if raw:
            found[key.decode().removeprefix(start)] = _text(raw)
    return dict(sorted(found.items()))


def standings_of(client: driver.Redis, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The same of some destinations, in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(keys.destination(name))
        return {name: _text(raw) for name, raw in zip(names, pipe.execute(), strict=True) if raw}


def _text(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    return {k.decode(): v.decode("utf-8", "replace") for k, v in raw.items()}


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
