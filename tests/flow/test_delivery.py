"""Drains against a real Valkey and an Import API that fails in every way: what is stored, retried, buried."""

from __future__ import annotations

import itertools
import time

import pytest
import redis

from relay.buffer import keys, ledger
from relay.buffer.accept import Bounds, Delivery, Front, Offer
from relay.buffer.destinations import pause, resume
from relay.buffer.failures import Letter
from relay.buffer.fences import Fences
from relay.buffer.lanes import Lane, Settlement, Watch
from relay.records import Codec, Meta, Record, Table, encode_json
from tests.servers import import_server as api
from worker.delivery import Courier
from worker.destinations import import_api
from worker.drain import Pace, drain

ORDERS = Table("orders", key=("id",))
LINES = Table("lines", key=("order_id", "id"), parent=("order_id",))
TABLES = {t.name: t for t in (ORDERS, LINES)}
CODEC = Codec()


class Here:
    """A buffer with one lane to an Import API."""

    def __init__(self, url: str, server: api.ImportServer, folder):
        self.url, self.server, self.folder = url, server, folder
        self.front = Front(url, Bounds(linger_ms=0), lambda _: None)
        self.client = redis.Redis.from_url(url)
        self.tokens = itertools.count()

    def put(self, *records: Record, source="s") -> str:
        named = [Record(f"{source}_{r.table}", r.op, r.version, r.data, r.members, r.complete) for r in records]
        used = {r.table: TABLES[r.table] for r in records}
        meta = Meta(source, "k", "x", schemas={f"{source}_{n}": t.schema_id for n, t in used.items()})
        counts = {f"e|{source}|accepted": 1, f"e|{source}|mapped": 1}
        for record in named:
            for state in ("emitted", "pending"):
                field = f"r|{source}|mbi|{record.table}|{state}"
                counts[field] = counts.get(field, 0) + 1
        offer = Offer("", "", CODEC.pack(meta, b"{}", named), quarantined=False, lanes=("mbi/0/1",), counts=counts)
        schemas = {t.schema_id: t.declaration for t in used.values()}
        return self.front.put(Delivery(source, (offer,), schemas))[0].arrival

    def drain(self, **settings) -> bool:
        given = {"kind": "import_api", "url": self.server.url, "client_id": 12, "api_key": "goodkey"}
        given |= {"timeout_s": 1, "unknown_hold_s": 1, "concurrency": 1} | settings
        destination = import_api.destination(
            "mbi", import_api.destination.Settings.model_validate(given), self.folder
        )
        lane = Lane(self.client, "mbi/0/1", f"t{next(self.tokens)}")
        until = time.monotonic() + 5
        courier = Courier(lane, destination)

        def stopping() -> bool:
            """Nothing is due any more, or it takes too long."""
            queues = [keys.queue(lane.name, source) for source in lane.sources()]
            now = time.time() * 1000
            return time.monotonic() > until or not any(self.client.zcount(q, "-inf", now) for q in queues)

        try:
            return drain(
                lane, courier.read, courier, pace=Pace(0, 100, 1000), stopping=stopping, others_wait=lambda: False
            )
        finally:
            destination.close()

    def wake(self):
        """Let rests be over, as time would."""
        self.client.hdel(keys.lane("mbi/0/1"), "hold_until")
        if self.client.hexists(keys.destination("mbi"), "open_until"):
            self.client.hset(keys.destination("mbi"), "open_until", 1)
        queue = keys.queue("mbi/0/1", "s")
        for arrival in self.client.zrange(queue, 0, -1):
            self.client.zadd(queue, {arrival: 0})

    def states(self, table="orders"):
        found = ledger.read(self.client).records.get(("s", "mbi", f"s_{table}"), {})
        return {state: n for state, n in found.items() if n and state != "emitted"}

    def live(self, table="orders", column="id"):
        return sorted(r[column] for r in self.server.rows(f"s_{table}") if "_relay_deleted_at" not in r)


@pytest.fixture
def here(redis_url, tmp_path):
    with api.ImportServer() as server:
        yield Here(redis_url, server, tmp_path)
        assert server.regressions() == []


def order(n, at=1, **data):
    return ORDERS.row({"id": n, **data}, at=at)


def test_rows_arrive_in_batches_of_at_most_100_and_the_buffer_is_empty(here):
    for n in range(250):
        here.put(order(n))
    here.drain()
    assert here.live() == list(range(250))
    assert here.states() == {"stored": 250}
    assert here.client.hlen(keys.EVENTS) == 0
    assert ledger.audit(here.client, deep=True) == []


def test_the_newest_of_a_row_is_sent_once_and_the_older_are_superseded(here):
    for at in (3, 5, 1):
        here.put(order(7, at=at, v=at))
    here.drain()
    assert [r["v"] for r in here.server.rows("s_orders")] == [5]
    assert here.states() == {"stored": 1, "superseded": 2}
    here.put(order(7, at=4, v=4))
    here.drain()
    assert [r["v"] for r in here.server.rows("s_orders")] == [5]
    assert here.states() == {"stored": 1, "superseded": 3}
    assert ledger.audit(here.client, deep=True) == []


@pytest.mark.parametrize(
    "fault", [api.refuse(500), api.refuse(429, retry_after="2"), api.refuse(503), api.refuse(401)]
)
def test_a_transient_or_credential_fault_loses_nothing_and_buries_nothing(here, fault):
    here.server.faults(*[fault] * 3)
    for n in range(5):
        here.put(order(n))
    here.drain()
    assert here.states() == {"pending": 5}
    assert ledger.audit(here.client, deep=True) == []
    state = here.client.hgetall(keys.destination("mbi"))
    assert int(state[b"failures"]) == 1
    if fault.status in {401, 429}:
        assert int(state[b"open_until"]) > time.time() * 1000
    else:
        assert int(here.client.hget(keys.lane("mbi/0/1"), "hold_until")) > time.time() * 1000
    assert not here.drain(), "the lane rests"
    here.wake()
    for _ in range(4):
        here.drain()
        here.wake()
    assert here.states() == {"stored": 5}
    assert here.live() == list(range(5))


def test_one_bad_record_is_buried_with_the_destinations_words_and_the_99_others_are_stored(here):
    here.server.objects_to = lambda point: "id 42 is not welcome" if point["id"] == 42 else None
    for n in range(100):
        here.put(order(n))
    here.drain()
    assert here.states() == {"stored": 99, "dead": 1}
    assert here.live() == [n for n in range(100) if n != 42]
    (letter,) = here.client.hvals(keys.DEAD)
    assert b"id 42 is not welcome" in letter
    assert ledger.audit(here.client, deep=True) == []
    calls = len(here.server.posts)
    assert calls <= 1 + 2 * 7, "2 * log2(100) extra calls for one poison record"


def test_when_everything_is_refused_alike_nothing_is_buried(here):
    here.server.objects_to = lambda _: "the table is read-only"
    for n in range(30):
        here.put(order(n))
    here.drain()
    assert here.states() == {"pending": 30}
    assert here.client.hlen(keys.DEAD) == 0


def test_a_lone_record_is_buried_once_it_was_refused_five_times(here):
    here.server.objects_to = lambda _: "no"
    here.put(order(1))
    for _ in range(5):
        here.drain()
        here.wake()
    assert here.states() == {"dead": 1}
    assert len(here.server.posts) == 5
    assert ledger.audit(here.client, deep=True) == []


def test_a_destination_that_refuses_whatever_trickles_in_rests_before_many_are_buried(here):
    here.server.objects_to = lambda _: "the table is read-only"
    for n in range(12):
        here.put(order(n))
        for _ in range(5):
            here.drain()
            here.wake()
    assert here.states() == {"dead": 7, "pending": 5}
    here.server.objects_to = lambda _: None
    here.drain()
    here.wake()
    here.drain()
    assert here.states() == {"dead": 7, "stored": 5}
    assert here.client.hgetall(keys.destination("mbi")) == {}
    assert ledger.audit(here.client, deep=True) == []


def test_a_destination_that_is_down_is_asked_with_few_rows_and_then_given_all(here):
    here.server.choose = lambda _post: api.refuse(503)
    for n in range(100):
        here.put(order(n))
    for _ in range(4):
        here.drain()
        here.wake()
    assert here.client.hget(keys.destination("mbi"), "failures") == b"4"
    here.server.choose = lambda _post: None
    here.server.posts.clear()
    here.drain()
    assert [len(post.points) for post in here.server.posts] == [16, 84]
    assert here.states() == {"stored": 100}


def test_one_lane_asks_for_all_and_deliveries_ring_no_lane_that_rests(here, redis_url):
    here.server.choose = lambda _post: api.refuse(401)
    here.put(order(1))
    here.drain()
    other = Lane(here.client, "mbi/1/2", "other")
    assert other.begin() is None, "the destination rests, and with it its other lanes"
    assert Lane(here.client, "mbi/0/1", "early").begin() is None
    rung: list[str] = []
    here.front = Front(redis_url, Bounds(linger_ms=0), rung.append)
    here.put(order(2))
    watch = Watch(redis_url)
    assert watch.ring_due(0, rung.append, lambda _: True) == 0
    assert rung == []
    here.wake()
    assert watch.ring_due(0, rung.append, lambda _: True) == 1
    probe = Lane(here.client, "mbi/0/1", "probe").begin()
    assert probe
    assert probe.probing
    assert other.begin() is None, "it waits for the answer that the first one gets"


def test_a_commit_whose_answer_is_lost_rests_the_lane_and_nothing_goes_back(here):
    here.put(order(1, at=5, v="new"))
    here.server.faults(api.drop())
    here.drain()
    assert here.states() == {"pending": 1}
    here.put(order(1, at=4, v="old"))
    assert not here.drain()
    here.wake()
    here.drain()
    assert [r["v"] for r in here.server.rows("s_orders")] == ["new"]
    assert here.states() == {"stored": 1, "superseded": 1}


def test_sets_grow_shrink_and_are_never_revived_by_a_late_older_one(here):
    def lines(at, *ids):
        return LINES.children({"order_id": 1}, [{"id": i, "v": at} for i in ids], at=at)

    here.put(lines(1, 1, 2))
    here.drain()
    here.put(lines(3, 2, 3))
    here.drain()
    assert here.live("lines") == [2, 3]
    here.put(lines(2, 1, 2, 4))
    here.drain()
    assert here.live("lines") == [2, 3]
    here.put(lines(4))
    here.drain()
    assert here.live("lines") == []
    assert here.states("lines") == {"stored": 3, "superseded": 1}
    assert ledger.audit(here.client, deep=True) == []


def test_a_tombstone_wins_over_a_late_update_and_a_re_creation_over_the_tombstone(here):
    here.put(order(1, at=1))
    here.put(ORDERS.gone({"id": 1}, at=3))
    here.drain()
    assert here.live() == []
    here.put(order(1, at=2))
    here.drain()
    assert here.live() == []
    here.put(order(1, at=4))
    here.drain()
    assert here.live() == [1]


def test_a_drain_that_dies_between_commit_and_settlement_delivers_again_and_settles_once(here, redis_url):
    here.put(order(1))
    lane = Lane(here.client, "mbi/0/1", "dead")
    assert lane.begin()
    lane.claim(["s"], most=10, most_bytes=10**6, linger_ms=0, full=1, rest_ms=0)
    Watch(redis_url).release("mbi/0/1", "dead")
    here.drain()
    assert here.states() == {"stored": 1}
    assert ledger.audit(here.client, deep=True) == []


def test_a_drain_that_lives_takes_nothing_more_once_its_destination_is_paused(here):
    def pause_and_come_again(_post):
        if not here.client.hexists(keys.destination("mbi"), "paused"):
            pause(here.client, "mbi", "the disk is changed")
            here.put(order(2))

    here.server.choose = pause_and_come_again
    here.put(order(1))
    assert here.drain() is False, "nobody rings for it again before it is resumed"
    assert here.live() == [1], "what was being sent is finished"
    assert here.states() == {"stored": 1, "pending": 1}
    rung = []
    watch = Watch(here.url)
    watch.ring_due(0, rung.append, lambda _: True)
    assert rung == []
    resume(here.client, "mbi")
    watch.ring_due(0, rung.append, lambda _: True)
    assert rung == ["mbi/0/1"]
    here.drain()
    assert here.live() == [1, 2]
    assert ledger.audit(here.client, deep=True) == []


@pytest.mark.parametrize("waits", [0, 3], ids=["an empty lane", "a lane with more"])
def test_a_drain_that_gives_way_asks_for_another_only_where_something_is_due(here, monkeypatch, waits):
    """Else there are ever more jobs for lanes with nothing in them, where there are more lanes than workers."""
    lane, settled = Lane(here.client, "mbi/0/1", "mine"), []

    def deliver(work, _standing):
        settled.extend(one.arrival for one in work)
        monkeypatch.setattr("worker.drain.SHARED_SLICE_S", -1.0)  # its time is over
        for n in range(waits):
            here.put(order(n))
        counts = {"r|s|mbi|s_orders|pending": -len(work), "r|s|mbi|s_orders|stored": len(work)}
        return Settlement({"s": [one.arrival for one in work]}, [], [], counts, {})

    first = here.put(order(9))
    again = drain(lane, list, deliver, pace=Pace(0, 1), stopping=bool, others_wait=lambda: True)
    assert (again, settled) == (waits > 0, [first])
    assert here.client.hget(keys.lane("mbi/0/1"), "holder") == b"", "the lane is given back"


def test_a_dead_letter_says_whose_it_is():
    letter = Letter("s", "s_orders", '["1"]', "0" * 57, "no", "destination")
    assert encode_json(letter) == b'["s","s_orders","[\\"1\\"]","' + b"0" * 57 + b'","no","destination"]'


def test_a_record_over_which_the_destination_fails_is_held_and_the_others_of_its_batch_are_stored(here):
    """Five failures alike while other tables pass: the batch is taken apart, although nobody called it wrong."""
    here.server.choose = lambda post: api.refuse(500) if any(p["id"] == 3 for p in post.points) else None
    for n in range(6):
        here.put(order(n))
    for turn in range(8):
        here.put(LINES.children({"order_id": 1000 + turn}, [{"id": 1}], at=1))
        here.drain()
        here.wake()
    assert here.live() == [0, 1, 2, 4, 5]
    assert here.states() == {"stored": 5, "pending": 1}
    here.server.choose = lambda _post: None
    here.drain()
    assert here.states() == {"stored": 6}
    assert ledger.audit(here.client, deep=True) == []


def test_a_good_row_is_not_hidden_by_a_newer_one_that_is_refused(here):
    here.server.objects_to = lambda point: "v 9 is not welcome" if point.get("v") == 9 else None
    here.put(order(1, at=1, v=1))
    here.put(order(1, at=2, v=2))
    here.put(order(1, at=9, v=9))
    for _ in range(6):
        here.drain()
        here.wake()
    assert [r["v"] for r in here.server.rows("s_orders")] == [2]
    assert here.states() == {"stored": 1, "superseded": 1, "dead": 1}
    assert ledger.audit(here.client, deep=True) == []


def test_what_the_fence_forgot_is_not_sent_again_in_an_older_state_and_newer_states_are(here):
    for n in range(3):
        here.put(order(n, at=10 + n, v="new"))
    here.put(LINES.children({"order_id": 1}, [{"id": 1}, {"id": 2}], at=10))
    here.drain()
    fences = Fences(here.client)
    assert fences.forget(keys.fence("mbi", "s_orders"), "~") == 3
    assert fences.forget(keys.fence("mbi", "s_lines"), "~") == 2, "the set's own entry stays"
    here.put(order(0, at=9, v="old"), order(9, at=11, v="unknown"))
    here.put(order(1, at=13, v="newer"), LINES.children({"order_id": 1}, [{"id": 2}], at=13))
    here.drain()
    assert {r["id"]: r["v"] for r in here.server.rows("s_orders")} == {0: "new", 1: "newer", 2: "new"}
    assert here.live("lines") == [2]
    assert here.states() == {"stored": 4, "dead": 2}
    assert all(b"older_than_fence" in letter for letter in here.client.hvals(keys.DEAD))
    assert ledger.audit(here.client, deep=True) == []


def test_the_fence_forgets_nothing_younger_than_asked_and_nothing_of_which_the_outcome_is_open(here):
    first = here.put(order(1, v="kept"))
    here.drain()
    here.server.faults(api.drop())
    here.put(order(2))
    here.drain()
    fences = Fences(here.client)
    assert fences.forget(keys.fence("mbi", "s_orders"), first) == 0
    assert fences.forget(keys.fence("mbi", "s_orders"), "~") == 1
    assert len(here.client.hkeys(keys.fence("mbi", "s_orders"))) == 2, "the open one, and the floor"


def test_with_deletes_mark_a_tombstone_is_the_last_row_and_a_mark_in_any_order(here):
    here.put(order(1, at=1, v=1), LINES.children({"order_id": 1}, [{"id": 5, "sku": "a"}], at=1))
    here.drain(deletes="mark")
    here.put(ORDERS.gone({"id": 1}, at=3), LINES.children({"order_id": 1}, [], at=3))
    here.put(order(1, at=2, v=2))
    here.drain(deletes="mark")
    (row,), (line,) = here.server.rows("s_orders"), here.server.rows("s_lines")
    assert (row["v"], line["sku"]) == (2, "a")
    assert "_relay_deleted_at" in row
    assert "_relay_deleted_at" in line
    assert ledger.audit(here.client, deep=True) == []


def test_with_deletes_keep_a_deleted_row_stays_as_it_was(here):
    here.put(order(1, at=1, v=1))
    here.drain(deletes="keep")
    here.put(ORDERS.gone({"id": 1}, at=3))
    here.drain(deletes="keep")
    assert [r["v"] for r in here.server.rows("s_orders")] == [1]
    assert here.live() == [1]
    assert here.states() == {"stored": 2}


def test_an_older_record_waits_for_a_newer_one_that_may_yet_be_refused(here):
    here.put(order(1, at=2, v=2))
    here.server.faults(api.refuse(500))
    here.drain()
    here.put(order(1, at=1, v=1))
    here.server.objects_to = lambda point: "v 2 is not welcome" if point["v"] == 2 else None
    here.client.hdel(keys.lane("mbi/0/1"), "hold_until")
    here.drain()
    assert "superseded" not in here.states(), "nobody knows yet what becomes of the newer one"
    for _ in range(3):
        here.wake()
        here.drain()
    assert [r["v"] for r in here.server.rows("s_orders")] == [1]
    assert here.states() == {"stored": 1, "dead": 1}
    assert ledger.audit(here.client, deep=True) == []
