"""`python -m worker` as it runs: RQ workers, their work horses, the ticker, and what signals do to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
import yaml

from relay.buffer import keys, ledger
from relay.buffer.lanes import LEASE_MS
from tests.flow.test_delivery import Here, order
from tests.servers import import_server as api

LANE = "mbi/0/1"


class Crew:
    """A worker process beside an Import API."""

    def __init__(self, url: str, server: api.ImportServer, folder: Path):
        self.here = Here(url, server, folder)
        self.client = redis.Redis.from_url(url)
        destination = {"kind": "import_api", "url": server.url, "client_id": 12, "api_key": "goodkey"}
        settings = {
            "redis_url": url,
            "linger_ms": 0,
            "workers": 1,
            "destinations": {"mbi": {**destination, "timeout_s": 3, "unknown_hold_s": 3, "concurrency": 1}},
        }
        path = folder / "relay.yaml"
        path.write_text(yaml.safe_dump(settings))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            env={**os.environ, "RELAY_CONFIG": str(path), "RELAY_DATA": str(folder)},
        )

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def horse(self) -> psutil.Process | None:
        horses = [child for worker in self.workers() for child in worker.children()]
        return horses[0] if horses else None

    def state(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.client.hgetall(keys.lane(LANE)).items()}

    def in_flight(self) -> bool:
        return int(self.state().get("in_flight", 0)) > 0 and len(self.here.server.posts) > 0

    def stored(self) -> int:
        return self.here.states().get("stored", 0)


def until(what: Callable[[], object], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def crew(redis_url: str, tmp_path: Path) -> Iterator[Crew]:
    with api.ImportServer() as server:
        crew = Crew(redis_url, server, tmp_path)
        try:
            until(crew.workers)
            yield crew
        finally:
            crew.process.terminate()
            crew.process.wait(40)
        assert server.regressions() == []


def test_the_ticker_finds_what_nobody_was_asked_to_deliver(crew):
    crew.here.put(order(1))
    until(lambda: crew.stored() == 1)
    until(lambda: crew.state()["holder"] == "", 10)
    assert ledger.audit(crew.client, deep=True) == []
    until(lambda: not crew.client.keys("rq:job:*"), 10)  # RQ keeps nothing of a drain that ended well


def test_sigterm_ends_after_the_running_batch_which_is_settled(crew):
    crew.here.server.faults(api.slow(1.5))
    crew.here.put(order(1))
    until(crew.in_flight)
    crew.process.terminate()
    assert crew.process.wait(30) == 0
    assert crew.stored() == 1
    assert crew.state()["holder"] == ""


def test_a_killed_horse_frees_its_lane_at_once_and_the_lane_rests_since_the_outcome_is_unknown(crew):
    crew.here.server.faults(api.slow(2))
    crew.here.put(order(1))
    until(crew.in_flight)
    horse = crew.horse()
    struck = time.time()
    horse.send_signal(signal.SIGKILL)
    until(lambda: crew.state()["holder"] != horse.pid and "unknown" in crew.state().get("why", ""), 10)
    assert time.time() - struck < 10, "before the lease ends"
    until(lambda: crew.stored() == 1, LEASE_MS / 1000 + 60)
    assert len(crew.here.server.posts) == 2, "it was sent again, since nobody knew"
    assert ledger.audit(crew.client, deep=True) == []


def test_a_killed_worker_is_replaced_and_its_horse_finishes_what_it_holds(crew):
    crew.here.server.faults(api.slow(1.5))
    crew.here.put(order(1))
    until(crew.in_flight)
    (worker,) = crew.workers()
    worker.send_signal(signal.SIGKILL)
    until(lambda: [w.pid for w in crew.workers() if w.is_running()] not in ([], [worker.pid]))
    until(lambda: crew.stored() == 1)
    crew.here.put(order(2))
    until(lambda: crew.stored() == 2)
    assert len(crew.here.server.posts) == 2, "the horse lived on, so nothing was sent twice"
    assert ledger.audit(crew.client, deep=True) == []


def test_a_hangup_reloads_without_dropping_a_batch(crew):
    crew.here.server.faults(api.slow(1))
    crew.here.put(order(1))
    until(crew.in_flight)
    before = {w.pid for w in crew.workers()}
    crew.process.send_signal(signal.SIGHUP)
    until(lambda: crew.stored() == 1)
    crew.here.put(order(2))
    until(lambda: crew.stored() == 2)
    until(lambda: before.isdisjoint({w.pid for w in crew.workers()}))


def test_when_a_horse_and_its_worker_die_together_the_lane_is_free_after_one_lease(crew):
    """As when the machine dies: nobody is left to notice it."""
    crew.here.server.faults(api.slow(2))
    crew.here.put(order(1))
    until(crew.in_flight)
    (worker,), horse = crew.workers(), crew.horse()
    worker.suspend()
    horse.kill()
    worker.kill()
    until(lambda: crew.stored() == 1, LEASE_MS / 1000 + 60)
    assert ledger.audit(crew.client, deep=True) == []
