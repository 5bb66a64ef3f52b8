"""A destination that is away for long: what waits for it moves out of Redis, and comes back when it does."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from relay.buffer import destinations, keys
from relay.buffer.bounds import Bounds
from relay.buffer.lanes import Lane
from relay.buffer.parking import Parking
from tests.flow.test_history import ERP, ORDERS, Here
from tests.servers import import_server as api
from worker import jobs
from worker.keeping import Keeper

BUDGET = 400_000


@pytest.fixture
def server():
    with api.ImportServer() as server:
        yield server


@pytest.fixture
def here(redis_url: str, tmp_path: Path, server: api.ImportServer) -> Here:
    mbi = {"kind": "import_api", "url": server.url, "client_id": 12, "api_key": "goodkey", "unknown_hold_s": 2}
    return Here(
        redis_url,
        tmp_path,
        sources={"erp": {**ERP, "to": ["warehouse", "mbi"], "tables": [ORDERS]}},
        destinations={"warehouse": {"kind": "sqlite"}, "mbi": {**mbi, "timeout_s": 2}},
        max_pending_bytes=BUDGET,
        max_source_bytes=BUDGET,
    )


def order(n: int) -> dict[str, object]:
    noise = Random(n).randbytes(2000).hex()  # what does not become small
    return {"type": "order.created", "id": n, "name": f"{n} {noise}", "at": "2026-11-01T00:00:00Z", "lines": []}


def drain(here: Here, *of: str) -> None:
    """One drain of each lane of some destinations, whatever becomes of it."""
    for number, destination in enumerate(of):
        lane = Lane(here.client, f"{destination}/0/1", f"d{number}")
        standing = lane.begin()
        if standing is None:
            continue
        with closing(jobs._receiver(here.config, lane)) as receiver:
            while isinstance(found := here._claim(lane), list):
                settlement = receiver.deliver(receiver.read(found), standing)
                lane.settle(settlement)
                if settlement.failed:
                    break
        lane.finish(lane.sources(), 0, even_if_due=True)


def held(here: Here) -> int:
    return int(here.client.hget(keys.BYTES, "*") or 0)


def audit(here: Here) -> list[str]:
    found = json.loads(here.run("audit", "--deep", "--json").stdout)
    return list(found["faults"])


def test_siblings_of_a_paused_destination_flow_far_beyond_the_budget_and_it_gets_all_in_the_end(here, server):
    here.run("pause", "mbi", "--why", "moving house")
    keeper = Keeper(here.config, here.client)
    sent = 0
    for _ in range(12):
        for _ in range(40):
            here.post("erp", order(sent))
            sent += 1
        drain(here, "warehouse", "archive")
        keeper._park()
    taken = here.client.memory_usage(keys.EVENTS) or 0
    assert held(here) == 0
    assert taken < BUDGET
    assert here.client.hlen(keys.PARKED) == sent
    assert here.sql("SELECT count(*) FROM erp_orders") == [(sent,)]
    assert server.posts == []
    assert audit(here) == []
    assert "paused by hand: moving house" in here.run("stats").stdout

    here.run("resume", "mbi")
    drain(here, "mbi")
    assert len(server.rows("erp_orders")) == sent
    assert here.client.hlen(keys.PARKED) == here.client.hlen(keys.EVENTS) == held(here) == 0
    assert audit(here) == []


def test_a_destination_that_fails_is_parked_once_it_took_nothing_for_half_a_minute(here, server):
    server.choose = lambda _post: api.refuse(503)
    here.post("erp", order(1))
    drain(here, "warehouse", "archive", "mbi")
    keeper = Keeper(here.config, here.client)
    keeper._park()
    assert held(here) > 0, "it may be back in a moment"
    here.client.hset(keys.destination("mbi"), "since", int(time.time() * 1000) - 31_000)
    keeper._park()
    assert held(here) == 0
    server.choose = lambda _post: None
    destinations.resume(here.client, "mbi")
    here.client.hdel(keys.lane("mbi/0/1"), "hold_until")
    drain(here, "mbi")
    assert len(server.rows("erp_orders")) == 1
    assert audit(here) == []


def test_nothing_is_parked_that_the_archive_does_not_have_on_its_disk(here):
    here.run("pause", "mbi")
    here.post("erp", order(1))
    drain(here, "warehouse")
    Keeper(here.config, here.client)._park()
    assert held(here) > 0
    parking = Parking(here.client, Bounds(), set)
    assert parking.step() == 0, "even where the archive claims to have it, its lane says otherwise"
    drain(here, "archive")
    Keeper(here.config, here.client)._park()
    assert held(here) == 0


def test_the_archive_keeps_what_is_parked_beyond_its_days_and_bytes(here):
    here.run("pause", "mbi")
    ids = [here.post("erp", order(n)) for n in range(3)]
    drain(here, "warehouse", "archive")
    Keeper(here.config, here.client)._park()
    assert here.client.hlen(keys.PARKED) == 3
    with closing(jobs.open_archive(here.config, lambda arrivals: set(arrivals[:1]))) as archive:
        archive._days = 0
        archive._prune()
        assert archive.has(ids) == set(ids[:1])


def test_a_parked_record_that_is_refused_has_its_body_again_and_can_be_retried(here, server):
    here.run("pause", "mbi")
    for n in range(3):
        here.post("erp", order(n))
    drain(here, "warehouse", "archive")
    Keeper(here.config, here.client)._park()
    server.objects_to = lambda point: "no ones" if point.get("id") == 1 else None
    here.run("resume", "mbi")
    drain(here, "mbi")
    assert here.client.hlen(keys.DEAD) == here.client.hlen(keys.EVENTS) == 1
    assert audit(here) == []
    (touch,) = json.loads(here.run("lineage", "erp_orders", "1", "--json").stdout)
    assert (touch["state"], touch["refused_by"]) == ("won", ["mbi"]), "the warehouse has it"
    server.objects_to = lambda _: None
    here.run("dead", "retry", "--all")
    drain(here, "mbi", "archive")
    assert len(server.rows("erp_orders")) == 3
    assert here.client.hlen(keys.DEAD) == here.client.hlen(keys.EVENTS) == held(here) == 0
    assert audit(here) == []


def test_a_crowded_buffer_parks_the_longest_queue_even_of_a_destination_that_takes_rows(here, monkeypatch):
    monkeypatch.setattr("relay.buffer.parking.AT_HAND", 10)
    for n in range(20):
        here.post("erp", order(n))
    drain(here, "archive")
    has = Keeper(here.config, here.client)._archived
    assert Parking(here.client, Bounds(total=10 * held(here)), has).step() == 0
    assert Parking(here.client, Bounds(total=held(here) + 1), has).step() > 0
    drain(here, "warehouse", "mbi")
    assert here.sql("SELECT count(*) FROM erp_orders") == [(20,)]
    assert audit(here) == []


def test_an_event_that_is_parked_and_gone_from_the_archive_is_named_by_the_audit(here):
    here.run("pause", "mbi")
    event = here.post("erp", order(1))
    drain(here, "warehouse", "archive")
    Keeper(here.config, here.client)._park()
    with closing(jobs.open_archive(here.config)) as archive:
        archive._db.execute("DELETE FROM events")
    assert any(event in fault and "its body is gone" in fault for fault in audit(here))
    here.run("resume", "mbi")
    drain(here, "mbi")
    assert here.client.zcard(keys.queue("mbi/0/1", "erp")) == 1, "it is not taken for delivered"
