"""After an unknown outcome nothing newer goes out, though other requests of the same moment succeeded."""

from __future__ import annotations

import time

import redis

from relay.buffer import keys
from relay.buffer.lanes import Lane
from tests.flow.test_delivery import Here, order
from tests.servers import import_server as api
from worker.drain import Pace, drain


def test_a_late_commit_beside_requests_that_succeed_never_lands_on_newer_rows(redis_url, tmp_path):
    with api.ImportServer() as server:
        here = Here(redis_url, server, tmp_path)
        for n in range(250):
            here.put(order(n, at=1))
        late = api.Fault(commit="late", delay_s=0.2, late_s=0.5, answer="none")
        # Not the first that comes: of three at once that may be any.
        server.choose = lambda post: late if post.number < 3 and post.points[0]["id"] == 0 else None
        here.drain(concurrency=4)
        assert here.states() == {"pending": 100, "stored": 150}
        here.put(*(order(n, at=2) for n in range(250)))
        here.drain()
        time.sleep(1)
        for _ in range(3):
            here.wake()
            here.drain()
        assert server.regressions() == []
        assert here.states() == {"stored": 400, "superseded": 100}
        assert {row["_relay_version"][:20] for row in server.rows("s_orders")} == {f"{2:020d}"}


def test_once_nobody_answers_the_rest_of_a_claim_is_not_tried(redis_url, tmp_path):
    with api.ImportServer() as server:
        here = Here(redis_url, server, tmp_path)
        for n in range(1000):
            here.put(order(n))
        server.choose = lambda _post: api.silence()
        began = time.monotonic()
        here.drain()
        assert len(server.posts) == 1
        assert time.monotonic() - began < 3
        assert here.states() == {"pending": 1000}


def test_a_plain_command_that_finds_no_redis_gives_the_lane_back_once_it_is_there(redis_url, tmp_path):
    with api.ImportServer() as server:
        here = Here(redis_url, server, tmp_path)
        here.put(order(1))
        lane = Lane(here.client, "mbi/0/1", "mine")
        lane.sources = gone  # type: ignore[method-assign]
        assert drain(lane, list, never, pace=Pace(0, 1), stopping=bool, others_wait=bool), "its bell is rung again"
        assert here.client.hget(keys.lane("mbi/0/1"), "holder") == b""
        here.drain()
        assert here.states() == {"stored": 1}


def gone():
    raise redis.ConnectionError


def never(claimed, failures):
    raise AssertionError
