"""Whether a source has gone silent, by its own rhythm: a small account of each, kept by the ticker.

Once a minute the ticker looks whether a source's `accepted` counter has moved; the accept path does nothing for
it. An account holds when that last was, the usual time between events, and, for each hour of the week, for how
long the source had been silent at most in such an hour. A shop that sleeps at night and on Sundays is not silent
then.

A source is silent once nothing came for longer than ten minutes, than three times the longest pause that is usual
at this hour (of this day of the week and the hours beside it, or of most days), and than sixteen times the usual
time between events, until something comes. In its first eight days the longest pause of any hour is the usual one.
From then on a silence is a lesson only in part, else an outage would excuse the next; and what was learnt is
halved every week.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys

#: How often the ticker looks.
LOOK_S: Final = 60.0
HOUR_S: Final = 3600
HOURS: Final = 168
#: While so young, all that is seen is a lesson: a week, and a day for a pause that ends after it.
YOUNG_S: Final = 8 * 24 * HOUR_S
#: Below which nothing is a silence, and how far beyond the longest usual pause and the mean it lies.
LEAST_S: Final = 600.0
PAUSES: Final = 3.0
MEANS: Final = 16.0
#: Looks at which something had come, before anything is said; and over how many of them the mean runs.
LEARNT: Final = 20
_LATELY: Final = 64
#: When the ticker last looked.
_LOOKED: Final = "*"
_PAUSES: Final = "|pauses"
_UNKNOWN: Final = -1


class Account(msgspec.Struct, array_like=True):
    """What is known of a source; times are whole seconds since 1970 by Redis's clock.

    Args:
        accepted: of the ledger. since: the first look. last: the look that saw the newest event.
        moves: looks at which something had come. hour: of the last look.
        mean: of the seconds between events lately; the geometric one, so that a night weighs little.
        said: it was found silent, and nothing came since.
    """

    accepted: int
    since: int
    last: int
    moves: int = 0
    mean: float = 0.0
    hour: int = 0
    said: bool = False

    def silence(self, accepted: int, now_s: int) -> int | None:
        """Seconds since the last event, to the minute; None before the first.

        Args:
            accepted: of the ledger, now.
            now_s: the time.
        """
        if not accepted:
            return None
        return 0 if accepted != self.accepted else max(0, now_s - self.last)

    def limit(self, pauses: list[int], now_s: int) -> float | None:
        """The silence beyond which a source counts as silent; None while its rhythm is not known."""
        if self.moves < LEARNT:
            return None
        at = now_s // HOUR_S % HOURS
        days = [max(pauses[(at + 24 * day + n) % HOURS] for n in (-1, 0, 1)) for day in range(7)]
        known = days[0] != _UNKNOWN and now_s - self.since >= YOUNG_S
        usual = max(days[0], sorted(days)[3]) if known else max(pauses)
        return max(LEAST_S, PAUSES * usual, MEANS * self.mean)

    def silent(self, pauses: list[int], now_s: int) -> bool:
        """Whether its silence is beyond the limit, or was at a look since it began: only an event ends it."""
        limit = self.limit(pauses, now_s)
        return self.said or (limit is not None and now_s - self.last > limit)


_decode: Final = msgspec.msgpack.Decoder(Account, strict=False).decode
_pauses_of: Final = msgspec.msgpack.Decoder(list[int]).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def fresh() -> list[int]:
    """Pauses by the hour of the week, none known."""
    return [_UNKNOWN] * HOURS


def look(account: Account, pauses: list[int], accepted: int, now_s: int) -> None:
    """Learn from one look; both are changed.

    Args:
        account: of the source.
        pauses: its own.
        accepted: of the ledger.
        now_s: the time.
    """
    hour = now_s // HOUR_S
    at = hour % HOURS
    if hour != account.hour:  # what was a week ago counts less
        pauses[at] = pauses[at] // 2 if pauses[at] > 0 else pauses[at]
        account.hour = hour
    moved = accepted - account.accepted
    if not moved:
        account.said = account.silent(pauses, now_s)
        return
    if moved < 0:  # the ledger began anew
        account.moves = 0
    elif account.moves:
        _learn(account, pauses, now_s)
        gap = max(1, now_s - account.last) / moved
        usual = account.mean or gap
        account.mean = usual * (gap / usual) ** (1 / min(account.moves, _LATELY))
    account.accepted, account.last, account.moves = accepted, now_s, account.moves + 1
    account.said = False


def _learn(account: Account, pauses: list[int], now_s: int) -> None:
    """Note for each hour that a pause lasted through how long it was by then; only now, since it is over."""
    young = now_s - account.since < YOUNG_S
    first, last = account.last // HOUR_S, now_s // HOUR_S
    lessons = list[tuple[int, int]]()
    for hour in range(max(first, last - HOURS + 1), last + 1):
        until = min(now_s, (hour + 1) * HOUR_S)
        limit = account.limit(pauses, until - 1)
        age = until - account.last
        lessons.append((hour % HOURS, age if young or limit is None else int(min(age, limit))))
    for at, age in lessons:
        pauses[at] = max(pauses[at], age)


def accounts(raw: Mapping[bytes, bytes]) -> Iterator[tuple[str, Account, list[int]]]:
    """Each source with its account and its pauses, from the hash as it is; what is damaged is left out."""
    for field, text in raw.items():
        name = field.decode("utf-8", "replace")
        if name == _LOOKED or name.endswith(_PAUSES):
            continue
        try:
            pauses = _pauses_of(raw.get(f"{name}{_PAUSES}".encode(), b""))
        except (msgspec.MsgspecError, EOFError):
            pauses = fresh()
        try:
            yield name, _decode(text), pauses if len(pauses) == HOURS else fresh()
        except (msgspec.MsgspecError, EOFError):
            continue


class Silence(msgspec.Struct, frozen=True):
    """For how long a source has sent nothing (s); the limit by its rhythm, None while that is not known."""

    source: str
    seconds: int
    limit: float | None
    silent: bool


def silences(raw: Mapping[bytes, bytes], events: Mapping[str, Mapping[str, int]], now_s: int) -> Iterator[Silence]:
    """The silence of each source that ever sent something.

    Args:
        raw: the hash as it is.
        events: of the ledger.
        now_s: the time.
    """
    for name, account, pauses in accounts(raw):
        silence = account.silence(events.get(name, {}).get("accepted", 0), now_s)
        if silence is not None:
            limit = account.limit(pauses, now_s)
            silent = limit is not None and silence > 0 and account.silent(pauses, now_s)
            yield Silence(name, silence, limit, silent)


def looked(raw: Mapping[bytes, bytes]) -> int | None:
    """When the ticker last looked, in seconds since 1970."""
    text = raw.get(_LOOKED.encode(), b"")
    return int(text) if text.isdigit() else None


class Pulse:
    """What the ticker does for it.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client, self._looked = client, -LOOK_S

    def look(self, sources: Collection[str]) -> None:
        """Look, where it is time to: two round trips, and one write.

        Raises:
            RedisError, OSError: Redis cannot be asked.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        names = sorted(sources)
        with self.client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(keys.PULSE)
            if names:
                pipe.hmget(keys.LEDGER, [f"e|{name}|accepted" for name in names])
            told, raw, *counted = pipe.execute()
        counts = [int(n or 0) for n in counted[0]] if counted else []
        changed = _looked_at(raw, dict(zip(names, counts, strict=True)), int(told[0]))
        gone = [field for field in raw if field.decode("utf-8", "replace").removesuffix(_PAUSES) not in sources]
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hset(keys.PULSE, mapping=changed)
            stale: Any = [field for field in gone if field != _LOOKED.encode()]
            if stale:
                pipe.hdel(keys.PULSE, *stale)
            pipe.execute()


def _looked_at(raw: Mapping[bytes, bytes], accepted: Mapping[str, int], now_s: int) -> dict[Any, Any]:
    """The fields of the hash that a look at all sources changes."""
    known = {name: (account, pauses) for name, account, pauses in accounts(raw)}
    changed: dict[Any, Any] = {_LOOKED: str(now_s)}
    for name, count in accepted.items():
        account, pauses = known.get(name) or (Account(count, now_s, now_s, hour=now_s // HOUR_S), fresh())
        before = list(pauses)
        look(account, pauses, count, now_s)
        text = _encode(account)
        if text != raw.get(name.encode()):
            changed[name] = text
        if pauses != before:
            changed[f"{name}{_PAUSES}"] = _encode(pauses)
    return changed
