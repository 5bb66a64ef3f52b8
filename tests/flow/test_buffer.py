"""The buffer's scripts on a real Valkey: what a put, a claim and a settlement do, and what they never do."""

from __future__ import annotations

import threading
import time
import uuid

import msgspec
import pytest
import redis

from relay.buffer import keys, ledger
from relay.buffer.accept import Bounds, Delivery, Front, Offer, digest_of
from relay.buffer.lanes import Lane, Settlement, Watch, waits_elsewhere
from relay.errors import BufferUnavailable, StaleClaim
from relay.records import Codec, Meta, Table

TABLE = Table("t", key=("id",))
CODEC = Codec()


def offer(number: int, *, source="s", digest=None, lanes=("w/0/1",), records=1, quarantined=False, pad=0):
    made = [TABLE.row({"id": f"{number}-{i}", "pad": "x" * pad}) for i in range(records)]
    named = [type(r)(f"{source}_t", *list(_fields(r))[1:]) for r in made]
    meta = Meta(source, "k", "thing", str(number), schemas={f"{source}_t": TABLE.schema_id})
    counts = {f"e|{source}|accepted": 1, f"e|{source}|{'quarantined' if quarantined else 'mapped'}": 1}
    for lane in lanes if not quarantined else ():
        place = f"r|{source}|{lane.split('/')[0]}|{source}_t|"
        counts[place + "emitted"] = counts[place + "pending"] = records
    return Offer(
        digest_of(source, "thing", str(number).encode()) if digest is None else digest,
        "id",
        CODEC.pack(meta, uuid.uuid4().bytes * (1 + pad // 16), [] if quarantined else named),
        quarantined,
        () if quarantined else lanes,
        counts,
    )


def _fields(record):
    return (getattr(record, f) for f in record.__struct_fields__)


def delivery(*offers, source="s"):
    return Delivery(source, offers, {TABLE.schema_id: TABLE.declaration})


@pytest.fixture
def rung():
    return []


@pytest.fixture
def front(redis_url, rung):
    return Front(redis_url, Bounds(linger_ms=0), rung.append)


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def lane(client, token="me", name="w/0/1"):
    return Lane(client, name, token)


def claim(a_lane, most=100):
    return a_lane.claim(a_lane.sources(), most=most, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)


def done(claimed, n=1):
    by_source: dict[str, list[str]] = {}
    for one in claimed:
        by_source.setdefault(one.source, []).append(one.arrival)
    counts = {}
    for source, arrivals in by_source.items():
        counts[f"r|{source}|w|{source}_t|stored"] = n * len(arrivals)
        counts[f"r|{source}|w|{source}_t|pending"] = -n * len(arrivals)
    return Settlement(by_source, [], [], counts, {})


def test_a_put_event_is_claimed_once_and_gone_after_its_settlement(front, client, rung):
    taken = front.put(delivery(offer(1)))
    assert [t.duplicate for t in taken] == [False]
    assert rung == ["w/0/1"]
    mine = lane(client)
    assert mine.begin()
    found = claim(mine)
    assert [c.arrival for c in found] == [taken[0].arrival]
    mine.settle(done(found))
    assert claim(mine) == -1.0
    assert client.hlen(keys.EVENTS) == 0
    assert client.hget(keys.BYTES, "*") == b"0"
    assert ledger.audit(client, deep=True) == []


def test_the_second_delivery_of_an_id_is_a_duplicate_with_the_first_ones_number(front, client):
    first = front.put(delivery(offer(1)))
    again = front.put(delivery(offer(1)))
    assert (again[0].duplicate, again[0].arrival) == (True, first[0].arrival)
    assert client.hlen(keys.EVENTS) == 1
    assert ledger.read(client).events["s"] == {"accepted": 2, "mapped": 1, "duplicate": 1}
    assert ledger.audit(client, deep=True) == []


def test_two_of_one_id_within_one_group_are_told_apart(front, client):
    answers = front._send([delivery(offer(1)), delivery(offer(1)), delivery(offer(2), offer(2))])
    assert [[t.duplicate for t in answer] for answer in answers] == [[False], [True], [False, True]]
    assert ledger.audit(client, deep=True) == []


def test_a_resend_of_a_quarantined_event_runs_again(front):
    first = front.put(delivery(offer(1, quarantined=True)))
    again = front.put(delivery(offer(1)))
    assert not again[0].duplicate
    assert again[0].arrival > first[0].arrival


def test_events_without_identity_are_never_duplicates(front):
    assert not front.put(delivery(offer(1, digest="")))[0].duplicate
    assert not front.put(delivery(offer(1, digest="")))[0].duplicate


def test_arrival_numbers_only_grow_even_when_the_clock_goes_back(front, client):
    future = 10**6 * (client.time()[0] + 3600)
    client.set(keys.CLOCK, future)
    numbers = [front.put(delivery(offer(n)))[0].arrival for n in range(5)]
    assert numbers == sorted(set(numbers))
    assert int(numbers[0]) == future + 1


DAY_S, MINUTE_S = 86_400, 60


@pytest.mark.parametrize(
    ("window", "step_s"),
    [("id", 2 * DAY_S), ("id", -2 * DAY_S), ("content", 10 * MINUTE_S), ("content", -5 * MINUTE_S)],
)
def test_a_delivery_is_a_duplicate_though_the_clock_of_who_takes_it_was_set_or_is_another(
    front, monkeypatch, window, step_s
):
    one, midnight = delivery(msgspec.structs.replace(offer(1), window=window)), time.time() // DAY_S * DAY_S
    monkeypatch.setattr(time, "time", lambda: midnight)
    (first,) = front.put(one)
    monkeypatch.setattr(time, "time", lambda: midnight + step_s)
    (again,) = front.put(one)
    assert (again.duplicate, again.arrival) == (True, first.arrival)


def test_a_source_over_its_budget_is_refused_and_the_others_are_not(redis_url, client):
    front = Front(redis_url, Bounds(total=100_000, source=4_000, linger_ms=0), lambda _: None)
    put = [delivery(offer(n, records=20)) for n in range(100)]
    with pytest.raises(BufferUnavailable) as refused:
        list(map(front.put, put))
    assert refused.value.reason == "over_budget"
    assert front.put(delivery(offer(1, source="other"), source="other"))
    assert ledger.audit(client, deep=True) == []


def test_a_delivery_of_several_events_is_taken_whole_or_not_at_all(redis_url, client):
    front = Front(redis_url, Bounds(source=300, linger_ms=0), lambda _: None)
    with pytest.raises(BufferUnavailable):
        front.put(delivery(offer(1), offer(2), offer(3)))
    assert client.hlen(keys.EVENTS) == 0
    assert not front.put(delivery(offer(1)))[0].duplicate, "its dedup marks must not have been set either"


def test_a_full_redis_refuses_and_leaves_nothing_half_done(front, client):
    front.put(delivery(offer(1)))
    client.config_set("maxmemory", "1mb")
    with pytest.raises(BufferUnavailable) as refused:
        front.put(delivery(offer(2)))
    assert refused.value.reason == "redis_full"
    assert ledger.audit(client, deep=True) == []
    mine = lane(client)
    assert mine.begin()
    mine.settle(done(claim(mine)))  # draining must work on a full Redis
    client.config_set("maxmemory", "0")
    assert not front.put(delivery(offer(2)))[0].duplicate


def test_only_one_drain_holds_a_lane(front, client):
    front.put(delivery(offer(1)))
    assert lane(client, "first").begin()
    assert not lane(client, "second").begin()


def test_a_settlement_with_a_stale_token_changes_nothing(front, client, redis_url):
    front.put(delivery(offer(1)))
    old = lane(client, "old")
    assert old.begin()
    found = claim(old)
    assert Watch(redis_url).release("w/0/1", "old")
    new = lane(client, "new")
    assert new.begin()
    settlement = done(found)
    settlement.measured = {"tries|w|stored": 1}
    with pytest.raises(StaleClaim):
        old.settle(settlement)
    assert not client.exists(keys.METRICS), "what is delivered again would be measured twice"
    assert [c.arrival for c in claim(new)] == [c.arrival for c in found]
    new.settle(settlement)
    assert client.hgetall(keys.METRICS) == {b"tries|w|stored": b"1"}


def test_a_lane_whose_drain_vanished_rests_where_the_outcome_is_unknown(front, client, redis_url):
    front.put(delivery(offer(1)))
    mine = lane(client)
    assert mine.begin()
    mine.claim(["s"], most=9, most_bytes=9**9, linger_ms=0, full=1, rest_ms=60_000)
    Watch(redis_url).release("w/0/1", "me")
    assert not lane(client, "next").begin()
    assert Watch(redis_url).ring_due(0, lambda _: None, _any) == 0


def test_the_ticker_rings_for_what_is_due_and_nobody_takes(front, client, redis_url):
    front.put(delivery(offer(1)))
    heard: list[str] = []
    watch = Watch(redis_url)
    assert watch.ring_due(0, heard.append, _any) == 0, "its bell was rung a moment ago"
    client.hset(keys.lane("w/0/1"), mapping={"until": 0})
    assert watch.ring_due(0, heard.append, _any) == 1
    assert heard == ["w/0/1"]


def test_a_drain_cannot_end_while_something_is_due(front, client):
    mine = lane(client)
    front.put(delivery(offer(1)))
    assert mine.begin()
    assert not mine.finish(mine.sources(), 0)
    mine.settle(done(claim(mine)))
    assert mine.finish(mine.sources(), 0)
    assert lane(client, "next").begin()


def test_what_is_partly_settled_comes_back_with_what_is_left(front, client):
    front.put(delivery(offer(1, records=3)))
    mine = lane(client)
    assert mine.begin()
    (one,) = claim(mine)
    counts = {"r|s|w|s_t|stored": 2, "r|s|w|s_t|pending": -2}
    mine.settle(Settlement({}, [("s", one.arrival, "1", 0)], [], counts, {}))
    (rest,) = claim(mine)
    assert rest.left == frozenset({1})
    assert ledger.audit(client, deep=True) == []


def test_a_dead_letter_keeps_its_event(front, client):
    front.put(delivery(offer(1)))
    mine = lane(client)
    assert mine.begin()
    (one,) = claim(mine)
    counts = {"r|s|w|s_t|dead": 1, "r|s|w|s_t|pending": -1}
    mine.settle(
        Settlement({"s": [one.arrival]}, [], [(one.arrival, 0, b'["s","t","k","v","no","x"]')], counts, {})
    )
    assert client.hexists(keys.EVENTS, one.arrival)
    assert client.hkeys(keys.DEAD) == [f"{one.arrival}|w|0".encode()]
    assert ledger.audit(client, deep=True) == []
    assert not front.put(delivery(offer(1)))[0].duplicate, "a resend of a dead event runs again"


def test_an_event_for_two_destinations_stays_until_both_have_it(front, client):
    front.put(delivery(offer(1, lanes=("w/0/1", "x/0/1"))))
    for name in ("w", "x"):
        assert client.hlen(keys.EVENTS) == 1
        mine = lane(client, name=f"{name}/0/1")
        assert mine.begin()
        found = claim(mine)
        counts = {f"r|s|{name}|s_t|stored": 1, f"r|s|{name}|s_t|pending": -1}
        mine.settle(Settlement({"s": [found[0].arrival]}, [], [], counts, {}))
    assert client.hlen(keys.EVENTS) == 0
    assert client.hlen(keys.REFS) == 0
    assert ledger.audit(client, deep=True) == []


def test_a_claim_takes_from_each_source_in_turn(front, client):
    for n in range(20):
        front.put(delivery(offer(n, source="busy"), source="busy"))
    front.put(delivery(offer(1, source="calm"), source="calm"))
    mine = lane(client)
    assert mine.begin()
    assert "calm" in {c.source for c in claim(mine, most=4)}


def test_the_audit_names_what_was_removed_by_hand(front, client):
    for n in range(3):
        front.put(delivery(offer(n)))
    client.hdel(keys.EVENTS, client.hkeys(keys.EVENTS)[0])
    assert any("body is gone" in fault for fault in ledger.audit(client, deep=True))
    client.hincrby(keys.LEDGER, "e|s|mapped", -1)
    assert any("events of s" in fault for fault in ledger.audit(client, deep=False))


def test_while_a_bell_is_rung_other_deliveries_are_stored(redis_url):
    rung, go_on = threading.Event(), threading.Event()

    def ring(_lane):
        rung.set()
        go_on.wait(30)

    front = Front(redis_url, Bounds(linger_ms=0), ring)
    first = threading.Thread(target=front.put, args=(delivery(offer(1)),))
    first.start()
    try:
        assert rung.wait(30)
        assert front.put(delivery(offer(2)))[0].duplicate is False
    finally:
        go_on.set()
        first.join()


def test_concurrent_puts_share_round_trips_and_each_gets_its_own_answer(front, client):
    numbers: dict[int, str] = {}
    calls = []
    send = front._committer._send
    front._committer._send = lambda group: (calls.append(len(group)), send(group))[1]

    def put(n):
        numbers[n] = front.put(delivery(offer(n)))[0].arrival

    threads = [threading.Thread(target=put, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(numbers.values())) == 64
    assert sum(calls) == 64
    assert len(calls) < 64
    assert client.hlen(keys.EVENTS) == 64


def test_a_stalled_redis_costs_the_deadline_and_no_more(redis_url, client):
    front = Front(redis_url, Bounds(), lambda _: None, deadline_s=0.3)
    front.put(delivery(offer(1)))
    client.execute_command("CLIENT", "PAUSE", 1500, "ALL")
    refused = []

    def put(n):
        try:
            front.put(delivery(offer(n)))
        except BufferUnavailable as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=put, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1.2)
    assert refused == ["redis_slow"] * 8


def test_after_a_change_of_lanes_the_old_ones_are_emptied_first(front, client):
    front.put(delivery(offer(1, lanes=("w/0/1",))))
    front.put(delivery(offer(2, lanes=("w/1/2",))))
    assert waits_elsewhere(client, "w", 2)
    mine = lane(client)
    assert mine.begin()
    mine.settle(done(claim(mine)))
    assert not waits_elsewhere(client, "w", 2)


def _any(_lane):
    return True
