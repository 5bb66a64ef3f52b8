"""Input and failures that were found to hang, starve or leak; each stays found."""

from __future__ import annotations

import contextlib
import threading
import time

import msgspec
import pytest

from relay import configured, intake
from relay.buffer.commit import IN_FLIGHT, Committer
from relay.config import load
from relay.errors import BufferUnavailable, ConfigInvalid, Unauthenticated
from relay.records import Codec, Request, instant_ns
from relay.signatures import Token
from worker.archive import Archive
from worker.destinations import import_api

NOW = 1_764_000_000 * 10**9


def test_a_put_that_fails_in_an_unforeseen_way_does_not_shut_the_door_for_later_ones():
    calls = []

    def send(group):
        calls.append(group)
        if len(calls) <= IN_FLIGHT:
            raise ValueError("boom")
        return list(group)

    committer: Committer[int, int] = Committer(send)
    for _ in range(IN_FLIGHT):
        with pytest.raises(ValueError, match="boom"):
            committer.put(1, 1, 1)
    assert committer.put(7, 1, 0.5) == 7


def test_who_waits_for_the_group_of_another_does_not_burn_the_processor():
    answers = []

    def send(group):
        time.sleep(0.2)
        return list(group)

    committer: Committer[int, int] = Committer(send)
    threads = [threading.Thread(target=lambda n=n: answers.append(committer.put(n, 1, 3))) for n in range(6)]
    spent = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.process_time() - spent < 0.2
    assert sorted(answers) == list(range(6))


def test_every_put_is_answered_while_many_threads_share_slow_groups_and_some_fail():
    def send(group):
        time.sleep(0.002)
        if any(n % 50 == 49 for n in group):
            raise BufferUnavailable("away")
        return [n * 2 for n in group]

    committer: Committer[int, int] = Committer(send)
    wrong, failed = [], []

    def client(first):
        for n in range(first, first + 60):
            try:
                if committer.put(n, 300_000, 2) != n * 2:
                    wrong.append(n)
            except BufferUnavailable as error:
                if error.reason != "redis_away":
                    wrong.append(n)
                failed.append(n)

    threads = [threading.Thread(target=client, args=(n * 100,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert failed
    assert committer.put(1, 1, 1) == 2, "no lead was lost on the way"


class SlowToLeave:
    """A lock after which one thread, `late`, does nothing until it is let on."""

    def __init__(self):
        self.lock, self.late, self.on = threading.Lock(), None, threading.Event()

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        if threading.current_thread() is self.late:
            self.on.wait(5)


def test_who_is_made_the_leader_before_it_begins_to_wait_leads_like_any_other():
    begun, answers = threading.Event(), []

    def send(group):
        if group == [1]:
            begun.set()
            while not committer._waiting:  # the late one stands in line, and does not wait yet
                time.sleep(0.001)
        return list(group)

    committer: Committer[int, int] = Committer(send, in_flight=1)
    lock = committer._lock = SlowToLeave()
    late = threading.Thread(target=lambda: answers.append(committer.put(2, 1, 5)))
    lock.late = late
    first = threading.Thread(target=lambda: answers.append(committer.put(1, 1, 5)))
    first.start()
    assert begun.wait(5)
    late.start()
    first.join()  # it has handed its place on by now
    lock.on.set()
    late.join()
    assert answers == [1, 2]
    assert committer.put(3, 1, 1) == 3, "no place was lost on the way"


@pytest.mark.parametrize("text", ["1" * 200_000 + "T", "." + "1" * 200_000 + "x", "1." + "1" * 200_000 + "x"])
def test_a_long_run_of_digits_is_read_as_no_time_at_once(text):
    began = time.process_time()
    assert instant_ns(text) is None
    assert time.process_time() - began < 1


def test_a_body_without_the_right_token_is_refused_before_it_is_taken_apart():
    # 3 MB of empty lists are 200 MB of Python objects; whoever has no token must not make them.
    body = b'{"rest":[' + b"[]," * 1_000_000 + b'[]],"token":"wrong"}'
    began = time.process_time()
    with pytest.raises(Unauthenticated):
        Token(field="token").verify(Request("POST", "", {}, body), ("right",), NOW)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "body", [b'{"token":null}', b'{"token":["right"]}', b'{"a":1}', b'["right"]', b"", b'"right"']
)
def test_a_body_token_is_text_in_an_object_or_is_not_there(body):
    with pytest.raises(Unauthenticated):
        Token(field="token").verify(Request("POST", "", {}, body), ("right",), NOW)


def test_a_verified_body_that_cannot_be_read_is_kept_without_the_secret_in_it(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(
        "sources:\n  erp:\n    kind: custom\n    secrets: [planted-secret]\n    verify: {token: {field: key}}\n"
        "    type: body.type\n    tables: [{table: things, key: id}]\n"
    )
    source = configured.sources_of(load(path, tmp_path))["erp"]
    request = Request("POST", "", {}, b'{"key":"planted-secret","type":{"not":"text"},"id":1}')
    accepted = intake.webhook(source, request, NOW, Codec(), limit=10_000)
    (offer,) = accepted.delivery.offers
    assert offer.quarantined
    raw = Codec().unpack(offer.blob).raw
    assert b"planted-secret" not in raw
    assert msgspec.json.decode(raw)["id"] == 1


@pytest.mark.parametrize("lanes", ["0", "-1", "two", "1000", "true"])
def test_a_number_of_lanes_that_cannot_be_served_is_refused_by_name(tmp_path, lanes):
    path = tmp_path / "relay.yaml"
    path.write_text(
        "sources:\n  shopify:\n    kind: shopify\n    secrets: [k]\n"
        f"destinations:\n  warehouse: {{kind: sqlite, lanes: {lanes}}}\n"
    )
    with pytest.raises(ConfigInvalid, match=r"relay\.yaml:6: destinations\.warehouse\.lanes"):
        configured.sources_of(load(path, tmp_path))


def test_a_page_of_angle_brackets_instead_of_an_answer_is_read_at_once():
    began = time.process_time()
    answer = import_api.Answer(500, {}, b"<" * 256 * 1024, whole=True)
    assert import_api._words(answer, "key").startswith("<")
    assert time.process_time() - began < 2


def test_an_archive_that_shrinks_gives_its_pages_back(tmp_path):
    with contextlib.closing(Archive(tmp_path / "events.db", days=1, max_bytes=10**6)) as archive:
        assert archive._db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
