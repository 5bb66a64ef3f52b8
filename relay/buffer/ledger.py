"""The ledger read and checked: every event and record is in exactly one of its states."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.lanes import lane_sources, lane_states
from relay.buffer.waiting import Waiting
from relay.records import Codec, Meta, Record, lane_key, partition_of, records_of

EVENT_STATES: Final = ("duplicate", "ignored", "quarantined", "mapped", "waiting", "discarded")
RECORD_STATES: Final = ("stored", "superseded", "dead", "pending", "discarded")


Bodies = Callable[[str, str], Iterable[tuple[str, bytes]]]
_LOOKS: Final = 3
_PAUSE_S: Final = 0.2


class Ledger(msgspec.Struct):
    """Counters as they stand.

    Args:
        events: source -> state -> n, `accepted` among them.
        records: (source, destination, table) -> state -> n, `emitted` among them.
    """

    events: dict[str, dict[str, int]]
    records: dict[tuple[str, str, str], dict[str, int]]

    def totals(self) -> tuple[Counter[str], Counter[str]]:
        """Events and records of all sources, by state."""
        events, records = Counter[str](), Counter[str]()
        for states in self.events.values():
            add(events, states)
        for states in self.records.values():
            add(records, states)
        return events, records

    def residuals(self) -> list[str]:
        """A sentence for each account that does not balance."""
        events = [
            f"events of {source}: accepted differs from the sum of its states by {rest:+d}"
            for source, states in self.events.items()
            if (rest := rest_of(states, "accepted", EVENT_STATES))
        ]
        records = [
            f"records of {table} ({source} to {destination}): emitted differs by {rest:+d}"
            for (source, destination, table), states in self.records.items()
            if (rest := rest_of(states, "emitted", RECORD_STATES))
        ]
        return [*sorted(events), *sorted(records)]


def rest_of(account: Mapping[str, int], whole: str, states: Sequence[str]) -> int:
    """What of an account is in none of its states."""
    of = account.get
    return of(whole, 0) - sum([of(state, 0) for state in states])


def add(total: Counter[str], account: Mapping[str, int]) -> None:
    """Add an account to a sum; there are thousands, and `Counter.update` is slow for a few states each."""
    for state, n in account.items():
        total[state] += n


def read(client: driver.Redis) -> Ledger:
    """The counters."""
    raw: Any = client.hgetall(keys.LEDGER)
    return ledger_of(raw)


def ledger_of(raw: Mapping[bytes, bytes]) -> Ledger:
    """The counters, from their hash as it is."""
    events: defaultdict[str, dict[str, int]] = defaultdict(dict)
    records: defaultdict[tuple[str, str, str], dict[str, int]] = defaultdict(dict)
    for field, n in raw.items():
        kind, *rest = field.decode().split("|")
        if kind == "e":
            events[rest[0]][rest[1]] = int(n)
        else:
            records[rest[0], rest[1], rest[2]][rest[3]] = int(n)
    return Ledger(dict(events), dict(records))


def audit(client: driver.Redis, *, deep: bool, bodies: Bodies = lambda _since, _until: ()) -> list[str]:
    """What does not balance, a sentence each; empty when all is well.

    Args:
        client: Redis.
        deep: also read every blob that waits, and count it again.
        bodies: blobs of archived events from one arrival number to before another; asked for parked events.
    """
    faults = _look(client, bodies, deep=deep)
    for _ in range(_LOOKS - 1):
        if not faults:
            break
        # Blobs are read one after the other, and a lane may be new: what stays through live traffic, counts.
        if deep:
            time.sleep(_PAUSE_S)
        again = _look(client, bodies, deep=deep)
        faults = [fault for fault in again if _subject(fault) in {_subject(f) for f in faults}]
    return faults


def _subject(fault: str) -> str:
    """A fault without its numbers, which move under live traffic."""
    return re.sub(r"\b\d+\b", "n", fault)


def _look(client: driver.Redis, bodies: Bodies, *, deep: bool) -> list[str]:
    held = _held(client)
    faults = [*held.ledger.residuals(), *_sizes(held)]
    if deep:
        faults += _recount(client, held.ledger, bodies)
    return faults


class _Held(msgspec.Struct, frozen=True):
    """The counters, and how much there is, at one moment; `fetched`: source -> events that wait to be fetched."""

    ledger: Ledger
    quarantined: int
    dead: int
    fetched: dict[str, int]
    waiting: int


def _held(client: driver.Redis) -> _Held:
    found: Any = client.smembers(keys.WAITERS)
    waiters = [source.decode() for source in found]
    lanes = {lane: names for lane, names in lane_sources(client).items() if not keys.archives(lane)}
    queues = [keys.queue(lane, source) for lane, names in lanes.items() for source in names]
    with client.pipeline() as pipe:  # a transaction, so that traffic moves nothing from one count to another
        pipe.hgetall(keys.LEDGER)
        pipe.zcard(keys.QUARANTINE)
        pipe.hlen(keys.DEAD)
        for key in (*(keys.waiting(source) for source in waiters), *queues):
            pipe.zcard(key)
        ledger, quarantined, dead, *sizes = pipe.execute()
    fetched = dict(zip(waiters, sizes, strict=False))
    return _Held(ledger_of(ledger), quarantined, dead, fetched, sum(sizes[len(waiters) :]))


def _sizes(held: _Held) -> Iterator[str]:
    ledger = held.ledger
    counted = sum(s.get("quarantined", 0) for s in ledger.events.values())
    if held.quarantined != counted:
        yield f"quarantine holds {held.quarantined} events, the ledger says {counted}"
    for source in sorted({*held.fetched, *(s for s, states in ledger.events.items() if states.get("waiting"))}):
        counted = ledger.events.get(source, {}).get("waiting", 0)
        waits = held.fetched.get(source, 0)
        if waits != counted:
            yield f"{waits} events of {source} wait to be fetched, the ledger says {counted}"
    counted = sum(s.get("dead", 0) for s in ledger.records.values())
    if held.dead != counted:
        yield f"there are {held.dead} dead letters, the ledger says {counted}"
    pending = sum(s.get("pending", 0) for s in ledger.records.values())
    if (held.waiting == 0) != (pending == 0):
        yield f"{held.waiting} events wait in the lanes, the ledger says {pending} records are pending"


class _Waiting(msgspec.Struct, frozen=True):
    """An event in one lane; `left` are the positions of its records still to settle, None for all."""

    lane: str
    source: str
    arrival: str
    left: frozenset[int] | None


def _waiting(client: driver.Redis) -> Iterator[_Waiting]:
    for lane in sorted(lane_states(client)):
        sources: Any = client.smembers(keys.lane_sources(lane))
        for source in sorted(s.decode() for s in sources):
            queue: Any = client.zscan_iter(keys.queue(lane, source), count=500)
            for arrival, _ in queue:
                left: Any = client.hget(keys.left(lane), arrival)
                positions = left.partition(b";")[0] if left else b""
                ours = frozenset(int(p) for p in positions.split(b",")) if positions else None
                yield _Waiting(lane, source, arrival.decode(), ours)


def _recount(client: driver.Redis, ledger: Ledger, bodies: Bodies) -> Iterator[str]:
    found, held = Counter[tuple[str, str, str]](), set[str]()
    parked: defaultdict[str, list[_Waiting]] = defaultdict(list)
    for one in _waiting(client):
        held.add(one.arrival)
        if keys.archives(one.lane):
            continue
        blob: Any = client.hget(keys.EVENTS, one.arrival)
        if blob is not None:
            found.update(routes(client, one.lane, one.source, one.left, blob))
        else:
            parked[one.arrival].append(one)
    if parked:
        for arrival, blob in bodies(min(parked), max(parked) + "!"):
            for one in parked.pop(arrival, ()):
                found.update(routes(client, one.lane, one.source, one.left, blob))
    for one in itertools.chain(*parked.values()):
        yield f"event {one.arrival} of {one.source} waits in {one.lane}, but its body is gone"
    for route, states in sorted(ledger.records.items()):
        if found[route] != states.get("pending", 0):
            source, destination, table = route
            yield (
                f"{found[route]} records of {table} ({source} to {destination}) wait, "
                f"the ledger says {states.get('pending', 0)}"
            )
    yield from _orphans(client, held)


def routes(
    client: driver.Redis, lane: str, source: str, left: frozenset[int] | None, blob: bytes
) -> Iterator[tuple[str, str, str]]:
    """Source, destination and table of each of an event's records that are still to settle in a lane.

    Args:
        client: Redis.
        lane: where it waits.
        source: whose it is.
        left: positions of those records, None for all.
        blob: the event.
    """
    destination = lane.rsplit("/", 2)[0]
    packed = Codec().unpack(blob)
    for _, record in in_lane(client, lane, left, packed.meta, records_of(packed)):
        yield source, destination, record.table


def in_lane(
    client: driver.Redis, lane: str, left: frozenset[int] | None, meta: Meta, records: Sequence[Record]
) -> Iterator[tuple[int, Record]]:
    """Those of an event's records, with their positions, that are still to settle in a lane where it waits.

    Args:
        client: Redis.
        lane: where it waits.
        left: positions of those records, None for all.
        meta: of the event.
        records: its first ones, or all.
    """
    _, partition, partitions = lane.rsplit("/", 2)
    declared = _declared(client, set(meta.schemas.values()))
    for position, record in enumerate(records):
        key = lane_key(declared[meta.schemas[record.table]], record)
        ours = partition_of(record.table, key, int(partitions)) == int(partition)
        if ours and (left is None or position in left):
            yield position, record


def _declared(client: driver.Redis, ids: set[str]) -> dict[str, bytes]:
    names = sorted(ids)
    found: Any = client.hmget(keys.SCHEMAS, names) if names else []
    return {i: text for i, text in zip(names, found, strict=True) if text is not None}


def _orphans(client: driver.Redis, held: set[str]) -> Iterator[str]:
    quarantined: Any = client.zrange(keys.QUARANTINE, 0, -1)
    kept = held | {a.decode() for a in quarantined} | Waiting(client).arrivals()
    letters: Any = client.hkeys(keys.DEAD_COUNT)
    kept |= {a.decode() for a in letters}
    parked: Any = client.hkeys(keys.PARKED)
    for arrival in sorted({a.decode() for a in parked} - held)[:20]:
        yield f"event {arrival} is noted as parked, but waits nowhere"
    every: Any = client.hscan_iter(keys.EVENTS, count=500, no_values=True)
    present = {a.decode() for a in every}
    for arrival in sorted(present - kept)[:20]:
        yield f"event {arrival} is kept, but nothing waits for it"
    for arrival in sorted(kept - held - present)[:20]:
        yield f"event {arrival} is quarantined or dead, but its body is gone"
