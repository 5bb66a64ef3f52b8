"""What the console asks a worker for, where destinations stand still, Redis goes away, or nobody comes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from relay import dispatch
from relay.buffer.destinations import pause
from relay.buffer.looks import Looks
from tests.flow.test_console import row
from tests.flow.test_console_events import Desk, patient, post
from tests.flow.test_console_events import desk as desk  # noqa: PLC0414 - a fixture
from tests.flow.test_console_events import quick as quick  # noqa: PLC0414 - a fixture
from tests.flow.test_history import inline as inline  # noqa: PLC0414 - a fixture

#: Events that leave no room for a replay.
CROWD = 1_000


def test_a_replay_that_waits_for_room_holds_up_no_search(redis_url, tmp_path):
    desk = Desk(redis_url, tmp_path, archive_days=30, workers=1)
    pause(desk.client, "warehouse", "for a test")
    arrivals = [post(desk, row(n)) for n in range(CROWD)]
    environment = {"RELAY_CONFIG": str(desk.path), "RELAY_DATA": str(tmp_path)}
    worker = subprocess.Popen([sys.executable, "-m", "worker"], env={**os.environ, **environment})
    try:
        limit = time.monotonic() + 120
        while arrivals[-1] not in patient(desk, desk.web.get("/console/events/?in=archive")).text:
            assert time.monotonic() < limit, "it was not archived"
            time.sleep(0.1)
        rehearsed = patient(desk, desk.submit("/console/rehearsals/", {"source": "erp", "arrival": arrivals[0]}))
        replay = desk.submit(f"{rehearsed.request.path}/replay", {"sure": "yes"}).headers["Location"]
        while not Looks(desk.client).find(replay.rpartition("/")[2]).beat_ms:
            assert time.monotonic() < limit, "it was not begun"
            time.sleep(0.1)
        found = patient(desk, desk.web.get(f"/console/events/?in=archive&id={arrivals[7]}")).text
        assert arrivals[7] in found
        assert desk.web.get(replay).headers.get("Refresh"), "it waits still"
    finally:
        worker.terminate()
        worker.wait(40)


def test_what_nobody_took_up_in_time_has_failed_and_says_what_to_do(desk, monkeypatch):
    monkeypatch.setattr(dispatch, "_LOOK_WAITS_S", 1)
    asked = desk.open("events/?in=archive", work=False)
    time.sleep(1.1)
    page = desk.web.get(asked.request.full_path)
    assert "Nobody took it up in time, and nothing was done: see that `relay worker` runs" in page.text
    assert "Refresh" not in page.headers


def test_what_was_said_to_have_failed_is_not_begun_later(desk):
    taken = post(desk, row(1))
    desk.drain()
    asked = desk.open("events/?in=archive", work=False)
    (key,) = desk.client.scan_iter("rh:look:*")
    desk.client.hset(key, "until_ms", int(time.time() * 1000) - 1)
    desk.work()
    page = desk.web.get(asked.request.full_path).text
    assert "Nobody took it up in time" in page
    assert taken not in page
