"""What the console asks a worker for, where destinations stand still, Redis goes away, or nobody comes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import redis
from rq.timeouts import JobTimeoutException

from relay import dispatch, jobs, otherhalf, rehearsing
from relay.buffer import keys, ledger
from relay.buffer.destinations import pause
from relay.buffer.looks import Looks
from relay.errors import BufferUnavailable
from tests.flow.test_console import acts, row, text
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


# --- replays where there is no room ------------------------------------------------------------------------


@pytest.fixture
def narrow(desk, monkeypatch):
    """Five events that are delivered; a replay sends two of them, and then has no room."""
    monkeypatch.setattr(jobs, "_STEP", 2)
    monkeypatch.setattr(jobs, "BACKLOG", 3)
    monkeypatch.setattr(rehearsing, "_BREATH_S", 0.02)
    monkeypatch.setattr(rehearsing, "_PATIENCE_S", 0.3)
    desk.arrivals = [post(desk, row(n)) for n in range(5)]
    desk.drain()
    return desk


def begin(desk):
    """Rehearse all of a source, and begin the replay; where its page is."""
    rehearsed = desk.follow(desk.submit("/console/rehearsals/", {"source": "erp"})).request.path
    return desk.submit(f"{rehearsed}/replay", {"sure": "yes"}).headers["Location"]


def emitted(desk):
    return ledger.read(desk.client).records["erp", "warehouse", "erp_things"]["emitted"]


def meanwhile(monkeypatch, act):
    """Do something each time that a replay looks for room, told how often it did before."""
    look, looked = jobs.backlog, []

    def backlog(failures, source):
        act(len(looked))
        looked.append(1)
        return look(failures, source)

    monkeypatch.setattr(jobs, "backlog", backlog)


def test_a_replay_that_finds_no_room_ends_and_says_who_holds_it_up_and_from_where_to_go_on(narrow):
    page = text(narrow.open(begin(narrow).removeprefix("/console/")).text)
    assert "2 of 5 events sent again" in page
    assert f"2 events wait for warehouse : resume or mend it, then go on from {narrow.arrivals[2]}" in page
    assert "Go on with the other 3 events" in page
    assert ledger.audit(narrow.client, deep=True) == []


def test_a_replay_that_is_gone_on_with_sends_just_the_rest_and_once(narrow, monkeypatch, caplog):
    at = begin(narrow)
    narrow.open(at.removeprefix("/console/"))
    narrow.drain()
    monkeypatch.setattr(jobs, "BACKLOG", 1_000)
    asked = text(narrow.submit(f"{at}/rest", {}).text)
    assert "Send 3 events of erp again?" in asked
    assert "By command: relay replay --source erp --since" in asked
    first, second = (narrow.submit(f"{at}/rest", {"sure": "yes"}) for _ in range(2))
    assert second.headers["Location"] == at, "it was gone on with before"
    assert "3 of 3 events sent again" in text(narrow.follow(first).text)
    assert first.headers["Location"] in narrow.web.get(at).text
    assert emitted(narrow) == 5 + 5, "each once when it came, and once by a replay"
    told = [act for act in acts(caplog) if act["act"] == "replay"]
    assert [(act["count"], act["first"]) for act in told] == [(5, narrow.arrivals[0]), (3, narrow.arrivals[2])]
    assert {act["admin"] for act in told} == {"ada"}
    narrow.drain()
    assert ledger.audit(narrow.client, deep=True) == []


def test_a_replay_shows_how_far_it_is_and_for_whom_it_waits(narrow, monkeypatch):
    at, pages = begin(narrow), []
    meanwhile(monkeypatch, lambda _: pages.append(text(narrow.web.get(at).text)))
    narrow.work()
    assert "2 of 5 events sent again; 2 events wait for warehouse; 2 events wait for the archive." in pages[2]


def test_a_replay_goes_on_by_itself_once_there_is_room(narrow, monkeypatch):
    at = begin(narrow)
    meanwhile(monkeypatch, lambda n: narrow.drain() if n % 3 == 2 else None)
    assert "5 of 5 events sent again" in text(narrow.open(at.removeprefix("/console/")).text)
    assert emitted(narrow) == 5 + 5


def test_a_replay_that_nobody_took_up_is_gone_on_with_from_its_page(narrow, monkeypatch):
    monkeypatch.setattr(jobs, "BACKLOG", 1_000)
    monkeypatch.setattr(dispatch, "_REPLAY_WAITS_S", 1)
    at = begin(narrow)
    time.sleep(1.1)
    page = text(narrow.web.get(at).text)
    assert "Nobody took it up in time, and nothing was done" in page
    assert "Go on with the other 5 events" in page
    monkeypatch.setattr(dispatch, "_REPLAY_WAITS_S", 600)
    narrow.follow(narrow.submit(f"{at}/rest", {"sure": "yes"}))
    assert emitted(narrow) == 5 + 5


def test_a_replay_that_is_broken_off_on_its_way_can_be_sent_again_as_a_whole(narrow, monkeypatch):
    def killed(n):
        if n == 1:
            raise SystemExit

    at = begin(narrow)
    with monkeypatch.context() as patch:
        meanwhile(patch, killed)
        narrow.work()
    page = text(narrow.web.get(at).text)
    assert "It was broken off (SystemExit)" in page
    assert "Send all 5 events again" in page
    monkeypatch.setattr(jobs, "BACKLOG", 1_000)
    narrow.drain()
    assert "5 of 5 events sent again" in text(narrow.follow(narrow.submit(f"{at}/rest", {"sure": "yes"})).text)
    narrow.drain()
    assert ledger.audit(narrow.client, deep=True) == []


# --- signs of life -----------------------------------------------------------------------------------------


def streamed(monkeypatch, line):
    """Do something with each event that the archive sends, and again once it was dealt with."""
    stream = otherhalf.stream_worker

    def stream_worker(config, verb, *args, **given):
        for value in stream(config, verb, *args, **given):
            if verb == "events":
                line()
            yield value
            if verb == "events":
                line()

    monkeypatch.setattr(otherhalf, "stream_worker", stream_worker)


def test_a_long_way_through_the_archive_to_few_events_is_not_taken_for_death(desk, monkeypatch):
    for n in range(3):
        post(desk, row(n))
    desk.drain()
    monkeypatch.setattr(rehearsing, "_BEAT_S", 0.0)
    begun = desk.submit("/console/rehearsals/", {"source": "erp", "text": "none has this"})
    looks, token, states = Looks(desk.client), begun.headers["Location"].rpartition("/")[2], []

    def long_ago():
        states.append(looks.find(token).state)
        desk.client.hset(keys.look(token), "beat_ms", 1)

    streamed(monkeypatch, long_ago)
    assert "No event fits." in desk.follow(begun).text
    # Each second look is at what became of the sign of life that was taken away before.
    assert states[1::2] == ["running"] * 3


def test_a_replay_reads_no_events_of_the_archive_but_those_that_it_sends(desk, monkeypatch):
    arrivals = [post(desk, row(n, name="ends" if n in {0, 4} else "between")) for n in range(5)]
    desk.drain()
    rehearsed = desk.follow(desk.submit("/console/rehearsals/", {"source": "erp", "text": "ends"}))
    read = []
    streamed(monkeypatch, lambda: read.append(1))
    done = desk.follow(desk.submit(f"{rehearsed.request.path}/replay", {"sure": "yes"}))
    assert "2 of 2 events sent again" in text(done.text)
    assert len(read) == 4, "each is seen twice"
    assert [a for a in arrivals if desk.client.hexists(keys.EVENTS, a)] == [arrivals[0], arrivals[4]]


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (redis.ConnectionError("refused"), "Redis cannot be reached: try again once that is over"),
        (redis.TimeoutError("slow"), "Redis did not answer in time: try again once that is over"),
        (BufferUnavailable("Redis cannot be reached"), "Redis cannot be reached: try again once that is over"),
        (JobTimeoutException("60 s"), "It took too long and was broken off: ask for less"),
        (KeyError("x"), "It was broken off (KeyError): the worker's log says why"),
    ],
)
def test_a_look_that_fails_says_why_and_what_to_do(desk, monkeypatch, fault, words):
    def broken(*_args, **_more):
        raise fault

    monkeypatch.setattr(otherhalf, "stream_worker", broken)
    page = desk.follow(desk.submit("/console/rehearsals/", {"source": "erp"}))
    assert words in text(page.text)
