"""Events in the buffer, looked for by source, type, id, time, state and text, within a budget; the newest first.

What waits has its place by when it is due, which is when it came but where it was put off: by that order, and no
other, it can be read from any place on, however much waits.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.bodies import Bodies
from relay.records import Codec, Packed, encode_json

#: States that an event of the buffer may be in; what is in none of them is delivered.
WAITS: Final = "waits"
QUARANTINED: Final = "quarantined"
DEAD: Final = "dead"
DELIVERED: Final = "delivered"
STATES: Final = (WAITS, QUARANTINED, DEAD, DELIVERED)
#: Events with dead letters that are looked through, where all are meant and where they alone are: their hash has
#: no order of its own.
_SOME_DEAD, _MOST_DEAD = 1_000, 20_000
_PAGE: Final = 50
#: Events of one queue that one search reads, those among them that are due at the moment at which it goes on.
_MOST_OF_ONE: Final = 20_000
#: Events of each queue that are read in any case.
_FEW: Final = 8
_DIGITS: Final = 16
#: The end of the calendar.
_LAST_MS: Final = 253_402_300_799_000

#: Where an event stands: when it is due, or came (ms), and its number.
Place = tuple[int, str]


class Sought(msgspec.Struct, frozen=True):
    """What is looked for; an empty field fits all.

    Args:
        id: an arrival number, or the vendor's delivery id. state: one of `STATES`. text: in the body.
        since: the least arrival number. before: where to go on, a `Found.at`.
    """

    source: str = ""
    type: str = ""
    id: str = ""
    state: str = ""
    text: str = ""
    since: str = ""
    before: str = ""


class Hit(msgspec.Struct, frozen=True):
    """An event that was found; `states` are empty where nothing of it is in the buffer."""

    arrival: str
    source: str
    type: str
    delivery_id: str
    fault: str
    size: int
    states: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether nothing of it waits, and nothing of it failed and is kept."""
        return not self.states

    def is_in(self, state: str) -> bool:
        """Whether it is in a state, if one is given. What could not be mapped was given up, not delivered."""
        if state == DELIVERED:
            return self.settled and not self.fault
        return not state or state in self.states


class Found(msgspec.Struct, frozen=True):
    """What a search came to.

    Args:
        hits: newest first.
        at: the place of the last event that was looked at, where a search may go on from; empty: that was all. In
            the buffer `<ms>-<number>`, in the archive its number.
        stopped: why it ended early: `shown`, `bytes`, `time`, `looked`, or empty.
        parked: events of which only the archive has the body, left out.
        dead: events with dead letters that were not looked at, since there are so many.
    """

    hits: list[Hit]
    at: str = ""
    stopped: str = ""
    parked: int = 0
    dead: int = 0


class Text:
    """A text that is looked for in bodies, as it is and as JSON may write it; ASCII letters of either case."""

    def __init__(self, text: str) -> None:
        forms = (text.encode("utf-8", "replace"), encode_json(text)[1:-1], json.dumps(text)[1:-1].encode())
        self._needles = {form.lower() for form in forms} if text else set()

    def fits(self, raw: bytes) -> bool:
        """Whether it stands in a body."""
        if not self._needles:
            return True
        lower = raw.lower()
        return any(needle in lower for needle in self._needles)


class Budget:
    """What a search may take: hits, bytes of bodies, and time.

    Args:
        hits, size, seconds: at most; the last ones may go a little beyond.
    """

    def __init__(self, hits: int, size: int, seconds: float) -> None:
        self._hits, self._size, self._until = hits, size, time.monotonic() + seconds

    def spend(self, size: int, *, hit: bool) -> None:
        """An event was looked at."""
        self._size -= size
        self._hits -= hit

    def over(self) -> str:
        """Why the search must end, or nothing."""
        if self._hits <= 0:
            return "shown"
        if self._size <= 0:
            return "bytes"
        return "time" if time.monotonic() > self._until else ""


def is_arrival(text: str) -> bool:
    """Whether a text is the number of an event."""
    return len(text) == _DIGITS and text.isascii() and text.isdigit()


def place_of(text: str) -> Place | None:
    """A place where a search of the buffer may go on; None where the text is none."""
    ms, _, arrival = text.partition("-")
    good = is_arrival(arrival) and 0 < len(ms) < _DIGITS and ms.isascii() and ms.isdigit()
    return (min(int(ms), _LAST_MS), arrival) if good else None


def hit_of(arrival: str, packed: Packed) -> Hit:
    """What is said of an event that fits."""
    meta = packed.meta
    return Hit(arrival, meta.source, meta.type, meta.delivery_id, meta.fault, len(packed.raw))


def fits(sought: Sought, text: Text, arrival: str, packed: Packed) -> bool:
    """Whether an event is meant, but for its state."""
    meta = packed.meta
    return (
        arrival >= sought.since
        and sought.id in {"", arrival, meta.delivery_id}
        and sought.source in {"", meta.source}
        and sought.type in {"", meta.type}
        and text.fits(packed.raw)
    )


def search(client: driver.Redis, sought: Sought, budget: Budget, most: int) -> Found:
    """Look through the newest events of the buffer.

    Args:
        client: Redis.
        sought: what for.
        budget: what it may take.
        most: events that are looked at.
    """
    codec, text, hits = Codec(), Text(sought.text), list[Hit]()
    places, rest = _newest(client, sought, most)
    at, stopped, parked = "", "", 0
    blobs = Bodies(client).every([arrival for _, arrival in places], _PAGE)
    for (ms, arrival), blob in zip(places, blobs, strict=True):
        at = f"{ms}-{arrival}"
        if blob is None:
            parked += 1
            continue
        packed = codec.unpack(blob)
        fitting = fits(sought, text, arrival, packed)
        if fitting:
            hits.append(hit_of(arrival, packed))
        budget.spend(len(packed.raw), hit=fitting)
        stopped = budget.over()
        if stopped:
            break
    if not stopped and rest is not None:
        at, stopped = f"{rest[0]}-{rest[1]}", "looked"
    found = [hit for hit in _not_before(client, sought, hits) if hit.is_in(sought.state)]
    return Found(found, at if stopped else "", stopped, parked, _not_looked_at(client, sought))


def with_states(client: driver.Redis, hits: Sequence[Hit]) -> list[Hit]:
    """The same with the states that each is in here."""
    found = states(client, [(hit.arrival, hit.source) for hit in hits])
    return [msgspec.structs.replace(hit, states=found[hit.arrival]) for hit in hits]


def _not_before(client: driver.Redis, sought: Sought, hits: Sequence[Hit]) -> list[Hit]:
    """Those, with their states, that no page before had: what was put off in one lane alone has two places."""
    before = place_of(sought.before)
    found = _standings(client, [(hit.arrival, hit.source) for hit in hits])
    return [
        msgspec.structs.replace(hit, states=one.states)
        for hit in hits
        if _before(((one := found[hit.arrival]).due_ms, hit.arrival), before)
    ]


def states(client: driver.Redis, events: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The states that events are in, by their arrival numbers.

    Args:
        client: Redis.
        events: each with its source.
    """
    return {arrival: one.states for arrival, one in _standings(client, events).items()}


class _Standing(msgspec.Struct, frozen=True):
    """The states of an event, and when it is due last (ms), 0 where it waits nowhere."""

    states: tuple[str, ...]
    due_ms: int


def _standings(client: driver.Redis, events: Sequence[tuple[str, str]]) -> dict[str, _Standing]:
    lanes = _lanes(client)
    with client.pipeline(transaction=False) as pipe:
        for arrival, source in events:
            pipe.zscore(keys.QUARANTINE, arrival)
            pipe.hexists(keys.DEAD_COUNT, arrival)
            pipe.zscore(keys.waiting(source), arrival)
            for lane in lanes:
                pipe.zscore(keys.queue(lane, source), arrival)
        told: list[Any] = pipe.execute() if events else []
    found, each = {}, 3 + len(lanes)
    for n, (arrival, _) in enumerate(events):
        quarantined, dead, *scores = told[n * each : (n + 1) * each]
        waits = [int(score) for score in scores if score is not None]
        there = {QUARANTINED: quarantined is not None, DEAD: bool(dead), WAITS: bool(waits)}
        found[arrival] = _Standing(tuple(state for state, is_so in there.items() if is_so), max(waits, default=0))
    return found


def _lanes(client: driver.Redis) -> list[str]:
    names: Any = client.smembers(keys.LANES)
    return sorted(lane for name in names if not keys.archives(lane := name.decode()))


def _newest(client: driver.Redis, sought: Sought, most: int) -> tuple[list[Place], Place | None]:
    """The first places of what may be meant, no more than are looked at; and, if there are more, behind which."""
    if is_arrival(sought.id):
        return [(_ms(sought.id), sought.id)], None
    before, since = place_of(sought.before), int(sought.since or 0)
    lines = _lines(client, sought, before)
    first: dict[str, int] = {}
    if sought.state in {"", DEAD}:
        dead = _dead(client, before, _SOME_DEAD if not sought.state else _MOST_DEAD)
        first = {arrival: ms for ms, arrival in dead if arrival >= sought.since}
    size, places, rest = _FEW + most // max(1, len(lines)), _first(first, most), None
    turn = lines
    while turn:
        for line, page in zip(turn, _pages(client, turn, size), strict=True):
            for ms, arrival in line.take(page, size):
                if arrival >= sought.since and first.get(arrival, -1) < ms:
                    first[arrival] = ms
        places, size = _first(first, most), size + size // 2
        full = len(places) == most
        lines = [line for line in lines if not line.over and line.last[0] >= since // 1000]
        # All of what was read of a line is among the first, so what lies behind may be too.
        lines = [line for line in lines if not full or line.last >= places[-1]]
        left = [line.last for line in lines if line.read >= _MOST_OF_ONE and _before(line.last, before)]
        rest = max([*left, *([rest] if rest else [])], default=None)
        lines = [line for line in lines if line.read < _MOST_OF_ONE]
        # Those that were read least far: what they hold may make reading the others needless.
        turn = heapq.nlargest(-(-len(lines) // 3), lines, key=lambda line: line.last)
    if len(places) == most and (rest is None or places[-1] > rest):
        rest = places[-1]
    return [place for place in places if rest is None or place >= rest], rest


def _first(found: Mapping[str, int], most: int) -> list[Place]:
    return sorted(((ms, arrival) for arrival, ms in found.items()), reverse=True)[:most]


class _Line:
    """A sorted set of events, read from its newest end.

    Args:
        key: of it. micros: its scores are numbers of events, and ms otherwise. before: where to begin.
    """

    def __init__(self, key: str, before: Place | None, *, micros: bool = False) -> None:
        self.key, self.micros, self._before = key, micros, before
        self.top = "+inf" if before is None else str(before[0] * 1000 + 999 if micros else before[0])
        #: So many of it were read, the last of them this one; nothing is behind it.
        self.read, self.last, self.over = 0, (0, ""), False

    def take(self, page: Sequence[tuple[bytes, float]], asked: int) -> Iterator[Place]:
        """What was read next, those that lie before the place where to begin."""
        self.read, self.over = self.read + len(page), len(page) < asked
        for arrival, score in page:
            self.last = place = (int(score) // 1000 if self.micros else int(score), arrival.decode())
            if _before(place, self._before):
                yield place


def _lines(client: driver.Redis, sought: Sought, before: Place | None) -> list[_Line]:
    """Where events stand that may be meant."""
    quarantine = [_Line(keys.QUARANTINE, before, micros=True)] if sought.state in {"", QUARANTINED} else []
    queues = _queues(client, sought.source) if sought.state in {"", WAITS} else []
    return [*quarantine, *(_Line(queue, before) for queue in queues)]


def _pages(client: driver.Redis, lines: Sequence[_Line], size: int) -> list[Any]:
    with client.pipeline(transaction=False) as pipe:
        for line in lines:
            pipe.zrevrangebyscore(line.key, line.top, "-inf", line.read, size, withscores=True)
        return list(pipe.execute())


def _queues(client: driver.Redis, source: str) -> list[str]:
    """Where events wait, of one source or of all."""
    lanes = _lanes(client)
    with client.pipeline(transaction=False) as pipe:
        pipe.smembers(keys.WAITERS)
        for lane in lanes:
            pipe.smembers(keys.lane_sources(lane))
        waiters, *each = pipe.execute()
    found = [(one.decode(), keys.waiting(one.decode())) for one in waiters]
    found += [
        (s.decode(), keys.queue(lane, s.decode())) for lane, names in zip(lanes, each, strict=True) for s in names
    ]
    return [queue for of, queue in found if source in {"", of}]


def _before(place: Place, before: Place | None) -> bool:
    return before is None or place < before


def _dead(client: driver.Redis, before: Place | None, most: int) -> list[Place]:
    fields: Any = client.hscan_iter(keys.DEAD_COUNT, count=1_000)
    places = ((_ms(arrival), arrival.decode()) for arrival, _ in itertools.islice(fields, most))
    return [place for place in places if _before(place, before)]


def _not_looked_at(client: driver.Redis, sought: Sought) -> int:
    """Events with dead letters beyond those that are looked at."""
    if sought.state not in {"", DEAD} or is_arrival(sought.id):
        return 0
    count: Any = client.hlen(keys.DEAD_COUNT)
    return max(0, int(count) - (_MOST_DEAD if sought.state else _SOME_DEAD))


def _ms(arrival: str | bytes) -> int:
    return int(arrival) // 1000
