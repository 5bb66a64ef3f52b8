"""What the console asks a worker for, where destinations stand still, Redis goes away, or nobody comes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from relay.buffer.destinations import pause
from relay.buffer.looks import Looks
from tests.flow.test_console import row
from tests.flow.test_console_events import Desk, patient, post
from tests.flow.test_console_events import quick as quick  # noqa: PLC0414 - a fixture

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
