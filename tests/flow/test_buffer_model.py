"""The buffer's scripts beside a small model: whatever is done in whatever order, nothing is unaccounted for.

Hypothesis takes deliveries, drains, crashes, retries and replays in any order, on a real Valkey. After each step
every key is compared with the model, and the deep audit must be empty.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from relay.buffer import keys, ledger
from relay.buffer.accept import Bounds, Delivery, Front, Offer, digest_of
from relay.buffer.failures import Failure, Failures, Letter
from relay.buffer.lanes import Lane, Settlement, Watch
from relay.errors import BufferUnavailable, StaleClaim
from relay.records import Codec, Meta, Table, key_text, partition_of

TABLES = {name: Table(name, key=("id",)) for name in ("t", "u")}
SCHEMAS = {table.schema_id: table.declaration for table in TABLES.values()}
CODEC = Codec()
SOURCES = ("s", "z")
PARTITIONS = {"w": 1, "x": 2}
ARCHIVE = "archive/0/1"
#: Lane -> how long it rests after an unknown outcome (ms); `w` compares versions itself, so it need not.
RESTS = {"w/0/1": 0, "x/0/2": 60_000, "x/1/2": 60_000, ARCHIVE: 0}
#: Bytes that one source may have waiting: some twenty events.
ROOM = 6_000
NEVER_MS = 3_600_000
#: How a record ends, and two ways in which it does not.
FATES = ("stored", "stored", "superseded", "dead", "again", "later")


@dataclass
class Event:
    """One event in the model: who holds it, and what it consists of."""

    source: str
    blob: bytes
    records: dict[int, tuple[str, str]]  # position -> (full table, partition text)
    quarantined: bool = False
    waits: dict[str, set[int] | None] = field(default_factory=dict)  # lane -> positions left, None where untouched
    letters: dict[tuple[str, int], str] = field(default_factory=dict)  # (destination, position) -> table

    @property
    def holders(self) -> int:
        return len(self.waits) + self.quarantined + len(self.letters)

    def of(self, lane: str) -> set[int]:
        """Positions of the records that a lane still has to settle."""
        left = self.waits[lane]
        return left if left is not None else positions_of(self.records, lane)


@dataclass
class Drain:
    """One drain, which may have lost its lane without knowing it."""

    lane: Lane
    claims: list[list] = field(default_factory=list)  # claimed and not settled, oldest first

    @property
    def in_hand(self) -> list:
        return [one for claim in self.claims for one in claim]


@dataclass
class Held:
    """A lane's state in the model."""

    holder: str | None = None
    expired: bool = False
    in_flight: int = 0
    rests: bool = False


def positions_of(records, lane) -> set[int]:
    destination, partition, partitions = lane.rsplit("/", 2)
    if destination == "archive":
        return set()
    return {p for p, (_, share) in records.items() if partitions == "1" or share == partition}


def lanes_of(records, destinations) -> tuple[str, ...]:
    every = [f"{d}/{n}/{PARTITIONS[d]}" for d in destinations for n in range(PARTITIONS[d])]
    return (ARCHIVE, *(lane for lane in every if positions_of(records, lane)))


def emitted(source, records, destinations) -> Counter:
    """Ledger fields of records that are given to destinations."""
    counts = Counter()
    for table, _ in records.values():
        for destination in destinations:
            counts[f"r|{source}|{destination}|{table}|emitted"] += 1
            counts[f"r|{source}|{destination}|{table}|pending"] += 1
    return counts


class Buffer(RuleBasedStateMachine):
    """Every rule does the real thing and the model's, and compares the answers."""

    url = ""

    def __init__(self):
        super().__init__()
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.front = Front(self.url, Bounds(source=ROOM, linger_ms=0), lambda _lane: None)
        self.watch, self.failures = Watch(self.url), Failures(self.client)
        self.numbers = itertools.count()
        self.events: dict[str, Event] = {}
        self.known: dict[str, Event] = {}  # every event that there ever was, as it was mapped first
        self.seen: dict[str, str] = {}
        self.ledger = Counter()
        self.lanes = {name: Held() for name in RESTS}
        self.drains: list[Drain] = []
        self.old_failures: list[Failure] = []

    def teardown(self):
        for client in (self.client, self.front.client, self.watch.client):
            client.close()

    # --- the front ------------------------------------------------------------------------------------

    def _mapped(self, source: str, tables: str):
        """Records of new keys, one a letter of `tables`; as the relay's and as the model's."""
        records, shares = [], {}
        for position, name in enumerate(tables):
            record = TABLES[name].row({"id": str(next(self.numbers))})
            full = f"{source}_{name}"
            record = msgspec.structs.replace(record, table=full)
            shares[position] = (full, str(partition_of(full, key_text(record, ("id",)), 2)))
            records.append(record)
        return records, shares

    def _blob(self, source: str, records, fault: str = "") -> bytes:
        schemas = {record.table: TABLES[record.table[-1]].schema_id for record in records}
        meta = Meta(source, "k", "thing", schemas=schemas, fault=fault, to=tuple(PARTITIONS))
        return CODEC.pack(meta, uuid.uuid4().bytes * 4, records)

    def _offer(self, source: str, kind: str, tables: str, identity: int) -> tuple[Offer, Event]:
        records, shares = self._mapped(source, tables if kind == "mapped" else "")
        digest = digest_of(source, "thing", str(identity).encode()) if identity else ""
        counts = Counter({f"e|{source}|accepted": 1, f"e|{source}|{kind}": 1})
        counts.update(emitted(source, shares, PARTITIONS))
        blob = b"" if kind == "ignored" else self._blob(source, records, "mapping" * (kind == "quarantined"))
        lanes = () if kind == "ignored" else lanes_of(shares, PARTITIONS)
        event = Event(source, blob, shares, kind == "quarantined", dict.fromkeys(lanes))
        return Offer(digest, "id", blob, event.quarantined, lanes, counts, "thing"), event

    @rule(
        group=st.lists(
            st.tuples(
                st.sampled_from(SOURCES),
                st.lists(
                    st.tuples(
                        st.sampled_from(("mapped", "mapped", "mapped", "quarantined", "ignored")),
                        st.text("tu", min_size=1, max_size=3),
                        st.integers(0, 6),  # 0: no identity
                    ),
                    min_size=1,
                    max_size=3,
                ),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def deliver(self, group):
        """Deliveries of one group: fresh, duplicates of each other, of earlier ones, or over the budget."""
        offered = [(source, [self._offer(source, *one) for one in several]) for source, several in group]
        deliveries = [Delivery(s, tuple(offer for offer, _ in several), SCHEMAS) for s, several in offered]
        if len(deliveries) > 1:
            answers = self.front._send(deliveries)
        else:
            try:
                answers = [self.front.put(deliveries[0])]
            except BufferUnavailable:
                answers = [None]
        # Of two in one group the second is the duplicate, even where the first is quarantined with it.
        failed = {a for a, event in self.events.items() if event.quarantined or event.letters}
        for (source, several), answer in zip(offered, answers, strict=True):
            self._taken(source, several, answer, failed)

    def _taken(self, source, several, answer, failed):
        """What a delivery must have been answered."""
        firsts = {}  # digest -> number of the first of two within it
        same: list[
            str | int | None
        ] = []  # what each is a duplicate of: an arrival, or one before it in the delivery
        for number, (offer, _) in enumerate(several):
            before = self.seen.get(offer.digest) if offer.digest else None
            if before is not None and before not in failed:
                same.append(before)
            else:
                same.append(firsts.get(offer.digest) if offer.digest else None)
                firsts.setdefault(offer.digest, number)
        size = sum(len(offer.blob) for (offer, _), first in zip(several, same, strict=True) if first is None)
        if size and self._bytes(source) + size > ROOM:
            assert answer is None
            return
        assert answer is not None, f"there was room for {size} bytes more"
        for (offer, event), first, taken in zip(several, same, answer, strict=True):
            assert taken.duplicate == (first is not None)
            if first is not None:
                assert taken.arrival == (first if isinstance(first, str) else answer[first].arrival)
                self.ledger.update({f"e|{source}|accepted": 1, f"e|{source}|duplicate": 1})
                continue
            assert taken.arrival > max(self.known, default="")
            self.known[taken.arrival] = event
            self.ledger.update(offer.counts)
            if offer.digest:
                self.seen[offer.digest] = taken.arrival
            if offer.blob:
                self.events[taken.arrival] = event

    def _bytes(self, source) -> int:
        return sum(len(event.blob) for event in self.events.values() if event.source == source)

    # --- drains ---------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(tuple(RESTS)))
    def begin(self, name):
        """A drain asks for a lane; it gets it unless another lives in it, or the lane rests."""
        if not self.client.sismember(keys.LANES, name):
            return  # nobody rings for a lane that never held anything
        held, drain = self.lanes[name], Drain(Lane(self.client, name, f"d{next(self.numbers)}"))
        if held.holder is not None and held.expired:
            self._vanished(name)
        if held.holder is not None:
            self.client.hset(keys.lane(name), "until", 2**52)  # this machine may be slow
        may = held.holder is None and not held.rests
        assert bool(drain.lane.begin()) == may
        if may:
            held.holder, held.expired, held.in_flight = drain.lane.token, False, 0
            self.drains.append(drain)

    def _vanished(self, name):
        """The lane is free, but rests where the holder may have left a request on its way."""
        held = self.lanes[name]
        held.rests |= held.in_flight > 0 and RESTS[name] > 0
        held.holder, held.expired, held.in_flight = None, False, 0

    @rule(name=st.sampled_from(tuple(RESTS)))
    def lease_ends(self, name):
        """The holder stood still for too long; it does not know yet."""
        if self.lanes[name].holder is not None:
            self.client.hset(keys.lane(name), "until", 1)
            self.lanes[name].expired = True

    @rule()
    def tick(self):
        """The ticker frees lanes whose drain vanished."""
        self.watch.ring_due(0, lambda _lane: None, lambda _lane: True)
        touched = {lane.decode() for lane in self.client.smembers(keys.LANES)}
        for name in touched & self.lanes.keys():
            if self.lanes[name].holder is not None and self.lanes[name].expired:
                self._vanished(name)

    @rule()
    def time_passes(self):
        """Rests are over, and what was to go later is due."""
        for name, held in self.lanes.items():
            held.rests = False
            if self.client.exists(keys.lane(name)):
                self.client.hset(keys.lane(name), "hold_until", 0)
        for queue in self.client.scan_iter("rh:queue:*"):
            self.client.zadd(queue, dict.fromkeys(self.client.zrange(queue, 0, -1), 0), xx=True)

    def _drain(self, data) -> Drain:
        return data.draw(st.sampled_from(self.drains))

    def _ours(self, drain: Drain) -> bool:
        return self.lanes[drain.lane.name].holder == drain.lane.token

    @precondition(lambda self: self.drains)
    @rule(data=st.data(), most=st.sampled_from([1, 2, 100]))
    def claim(self, data, most):
        """A drain takes what is due, besides what it has in hand."""
        drain = self._drain(data)
        lane, name = drain.lane, drain.lane.name
        arguments = {"most": most, "most_bytes": 10**7, "linger_ms": 0, "full": 1, "rest_ms": RESTS[name]}
        if not self._ours(drain):
            with pytest.raises(StaleClaim):
                lane.claim(lane.sources(), **arguments, in_hand=drain.in_hand)
            return
        known = {one.arrival for one in drain.in_hand}
        found = lane.claim(lane.sources(), **arguments, in_hand=drain.in_hand)
        self.lanes[name].expired = False
        if not isinstance(found, list):
            return
        self.lanes[name].in_flight = len(known) + len(found)
        claimed = [one for one in found if one.arrival not in known]
        for one in claimed:
            event = self.events[one.arrival]
            assert (one.source, one.blob) == (event.source, event.blob)
            assert one.left == event.waits[name]
        drain.claims.append(claimed)

    @precondition(lambda self: any(drain.claims for drain in self.drains))
    @rule(data=st.data())
    def settle(self, data):
        """A drain says what became of its oldest claim; only the lane's holder is heard."""
        drain = data.draw(st.sampled_from([drain for drain in self.drains if drain.claims]))
        name, claimed = drain.lane.name, drain.claims.pop(0)
        fates = {
            (one.arrival, position): data.draw(st.sampled_from(FATES))
            for one in claimed
            for position in sorted(
                one.left if one.left is not None else positions_of(self.known[one.arrival].records, name)
            )
        }
        settlement = self._settlement(name, claimed, fates)
        settlement.in_hand = len(drain.in_hand)
        if not self._ours(drain):
            with pytest.raises(StaleClaim):
                drain.lane.settle(settlement)
            return
        drain.lane.settle(settlement)
        self.lanes[name].in_flight = len(drain.in_hand)
        self.ledger.update(settlement.counts)
        for one in claimed:
            self._settled(name, one.arrival, {p: f for (a, p), f in fates.items() if a == one.arrival})

    def _settlement(self, name, claimed, fates) -> Settlement:
        """As `worker.delivery` makes it of these fates."""
        destination = name.split("/")[0]
        done, partly, dead, counts = defaultdict(list), [], [], Counter()
        for one in claimed:
            own = {p: fate for (arrival, p), fate in fates.items() if arrival == one.arrival}
            again = sorted(p for p, fate in own.items() if fate in {"again", "later"})
            if again:
                due = NEVER_MS if "later" in own.values() else 0
                partly.append((one.source, one.arrival, f"{','.join(map(str, again))};{one.tries + 1}", due))
            else:
                done[one.source].append(one.arrival)
            for position, fate in own.items():
                if position in again:
                    continue
                table = self.known[one.arrival].records[position][0]
                counts[f"r|{one.source}|{destination}|{table}|{fate}"] += 1
                counts[f"r|{one.source}|{destination}|{table}|pending"] -= 1
                if fate == "dead":
                    letter = Letter(one.source, table, "k", "v", "no", "destination")
                    dead.append((one.arrival, position, msgspec.json.encode(letter)))
        return Settlement(dict(done), partly, dead, dict(counts), {})

    def _settled(self, name, arrival, fates):
        event, destination = self.events[arrival], name.split("/")[0]
        for position, fate in fates.items():
            if fate == "dead":
                before = event.letters.get((destination, position))
                if before is not None:  # a replay was refused again: its letter replaces the old one
                    at = f"r|{event.source}|{destination}|{before}|"
                    self.ledger.update({at + "dead": -1, at + "discarded": 1})
                event.letters[destination, position] = event.records[position][0]
        again = {p for p, fate in fates.items() if fate in {"again", "later"}}
        if again:
            event.waits[name] = again
        else:
            del event.waits[name]
        self._let_go(arrival)

    def _let_go(self, arrival):
        if not self.events[arrival].holders:
            del self.events[arrival]

    @precondition(lambda self: self.drains)
    @rule(data=st.data(), how=st.sampled_from(["idle", "yield", "release", "renew", "killed"]))
    def end(self, data, how):
        """A drain gives its lane back, or says that it lives, or its parent says that it is dead."""
        drain = self._drain(data)
        name, ours = drain.lane.name, self._ours(drain)
        if how == "renew":
            assert drain.lane.renew() == ours
            self.lanes[name].expired &= not ours
        elif how == "killed":
            assert self.watch.release(name, drain.lane.token) == ours
        elif how == "release":
            drain.lane.release()
        else:
            ended = drain.lane.finish(drain.lane.sources(), 0, even_if_due=how == "yield")
            assert ours or not ended
            assert ended or how == "idle" or not ours
            if ended:
                self.lanes[name].in_flight = 0
            ours = ended
        if ours and how != "renew":
            self._vanished(name)

    # --- what failed, and what goes again -------------------------------------------------------------

    def _current(self) -> list[Failure]:
        return list(self.failures.every())

    @precondition(lambda self: any(e.quarantined or e.letters for e in self.events.values()) or self.old_failures)
    @rule(data=st.data(), discard=st.booleans(), tables=st.text("tu", min_size=1, max_size=3))
    def retry_or_discard(self, data, discard, tables):
        """A person answers a failure, maybe one that somebody else has answered already."""
        failure = data.draw(st.sampled_from([*self._current(), *self.old_failures]))
        self.old_failures = [*self.old_failures, failure][-5:]
        event = self.events.get(failure.arrival)
        place = (failure.destination, int(failure.id.rsplit("|", 1)[1])) if failure.destination else None
        there = event is not None and (place in event.letters if place else event.quarantined)
        if not discard:
            if there or place:  # who retries looks first whether the event is there, but not a moment before
                self._requeue(failure.arrival, failure.source, tables, failure.destination, [place] * bool(place))
            return
        assert self.failures.discard(failure) == there
        if not there:
            return
        if place:
            at = f"r|{failure.source}|{failure.destination}|{event.letters.pop(place)}|"
            self.ledger.update({at + "dead": -1, at + "discarded": 1})
        else:
            event.quarantined = False
            self.ledger.update({f"e|{event.source}|quarantined": -1, f"e|{event.source}|discarded": 1})
        self._let_go(failure.arrival)

    @precondition(lambda self: any(event.records for event in self.known.values()))
    @rule(data=st.data(), tables=st.text("tu", min_size=1, max_size=3))
    def replay(self, data, tables):
        """An archived event goes through a mapping that may be another by now."""
        arrival = data.draw(st.sampled_from([a for a, event in self.known.items() if event.records]))
        self._requeue(arrival, self.known[arrival].source, tables, "", [])

    def _requeue(self, arrival, source, tables, only, places):
        """Map an event anew and send it again, to one destination or to all."""
        event = self.events.get(arrival)
        destinations = [only] if only else list(PARTITIONS)
        records, shares = self._mapped(source, tables)
        blob, lanes = self._blob(source, records), lanes_of(shares, destinations)
        counts = emitted(source, shares, destinations)
        old = event.letters if event is not None else {}
        there = [place for place in places if place in old]
        letters = {f"{arrival}|{d}|{p}": f"r|{source}|{d}|{old.get((d, p), f'{source}_t')}|" for d, p in places}
        waits = event is not None and any(lane != ARCHIVE for lane in event.waits)
        may = not waits and (bool(there) or not places)
        assert self.failures.requeue(source, arrival, blob, lanes, counts, letters, SCHEMAS) == may
        if not may:
            return
        event = self.events.setdefault(arrival, Event(source, blob, shares))
        event.blob, event.records = blob, shares
        self.known[arrival].records = shares
        if event.quarantined:
            event.quarantined = False
            self.ledger.update({f"e|{source}|quarantined": -1, f"e|{source}|mapped": 1})
        for place in there:
            at = f"r|{source}|{place[0]}|{event.letters.pop(place)}|"
            self.ledger.update({at + "dead": -1, at + "discarded": 1})
        self.ledger.update(counts)
        event.waits |= dict.fromkeys(lanes)

    # --- after every step -----------------------------------------------------------------------------

    @invariant()
    def every_key_is_as_the_model_has_it(self):
        client, events = self.client, self.events
        assert hash_of(client, keys.EVENTS) == {a: e.blob for a, e in events.items()}
        assert numbers_of(client, keys.REFS) == {a: e.holders for a, e in events.items() if e.holders > 1}
        sizes = Counter({source: self._bytes(source) for source in SOURCES})
        assert positive(numbers_of(client, keys.BYTES)) == positive({**sizes, "*": sizes.total()})
        assert positive(numbers_of(client, keys.LEDGER)) == positive(self.ledger)
        assert members(client, keys.QUARANTINE) == {a for a, e in events.items() if e.quarantined}
        letters = {f"{a}|{d}|{p}" for a, e in events.items() for d, p in e.letters}
        assert hash_of(client, keys.DEAD).keys() == letters
        assert numbers_of(client, keys.DEAD_COUNT) == {a: len(e.letters) for a, e in events.items() if e.letters}
        for lane in RESTS:
            for source in SOURCES:
                waits = {a for a, e in events.items() if e.source == source and lane in e.waits}
                assert members(client, keys.queue(lane, source)) == waits
            left = {a: e.waits[lane] for a, e in events.items() if e.waits.get(lane) is not None}
            found = hash_of(client, keys.left(lane)).items()
            assert {a: {int(p) for p in text.split(b";")[0].split(b",")} for a, text in found} == left

    @invariant()
    def the_ledger_balances_and_says_what_there_is(self):
        assert ledger.audit(self.client, deep=True) == []
        pending = Counter()
        for event in self.events.values():
            for lane in event.waits:
                for position in event.of(lane):
                    pending[f"r|{event.source}|{lane.split('/')[0]}|{event.records[position][0]}|pending"] += 1
        assert {f: n for f, n in positive(self.ledger).items() if f.endswith("|pending")} == pending


def hash_of(client, key) -> dict[str, bytes]:
    return {name.decode(): value for name, value in client.hgetall(key).items()}


def numbers_of(client, key) -> dict[str, int]:
    return {name: int(value) for name, value in hash_of(client, key).items()}


def positive(counts) -> dict[str, int]:
    assert min(counts.values(), default=0) >= 0, "a state has less than nothing"
    return {name: n for name, n in counts.items() if n}


def members(client, key) -> set[str]:
    return {name.decode() for name in client.zrange(key, 0, -1)}


def test_in_whatever_order_things_happen_the_buffer_is_as_its_model(redis_url):
    class Here(Buffer):
        url = redis_url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
