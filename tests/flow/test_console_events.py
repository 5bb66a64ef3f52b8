"""The console's sources, events and failures: samples sent, events found, dry runs and replays, attempts told."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from argon2 import PasswordHasher
from rq import Queue, SimpleWorker

from relay.app import create_app
from relay.buffer import admins, attempts, causes, finding, fitted, keys, ledger
from relay.buffer.failures import Failures
from relay.buffer.finding import Budget, Sought
from relay.buffer.looks import Looks
from relay.config import load
from relay.configured import signed_sample, sources_of
from relay.dispatch import LOOKS, REHEARSE, REPLAYS, SEARCH
from relay.web.console import looking
from tests.flow.test_console import TABLE, XSS, Browser, Tags, acts, group, row, text
from tests.flow.test_history import Here
from tests.flow.test_history import inline as inline  # noqa: PLC0414 - a fixture
from worker import jobs as worker_jobs

TWO = {**TABLE, "columns": {"id": "id", "name": "name", "extra": "extra"}}


class Desk(Browser):
    """A person at a relay of which the worker's half can be run in this process, a step at a time."""

    def __init__(self, url, folder, **settings):
        super().__init__(url, folder, **settings)
        self._tokens = itertools.count()
        self.log_in()

    @property
    def config(self):
        return load(self.path, self.folder)

    drain, _claim, run = Here.drain, Here._claim, Here.run

    def serve(self, **sources):
        """Other sources, or the same with other settings, from now on."""
        settings = yaml.safe_load(self.path.read_text())
        settings["sources"] = {n: {**settings["sources"].get(n, {}), **block} for n, block in sources.items()}
        self.path.write_text(yaml.safe_dump(settings))
        self.app = create_app(self.config)
        self.web = self.app.test_client()
        self.log_in()

    def worker(self):
        worker = SimpleWorker([Queue(LOOKS, connection=self.client)], connection=self.client)
        worker.register_birth()
        return worker

    def work(self):
        """Do what the console asked for, as a worker does."""
        worker_jobs.setup(self.config)
        queues = [Queue(name, connection=self.client) for name in (LOOKS, REPLAYS)]
        SimpleWorker(queues, connection=self.client).work(burst=True, logging_level="ERROR")

    def follow(self, answer, *, work=True):
        """The page behind an answer's redirects; where it is not over, once a worker did what was asked."""
        for _ in range(4):
            if answer.status_code == 303:
                answer = self.web.get(_path(answer.headers["Location"]))
            elif work and answer.headers.get("Refresh"):
                self.work()
                answer = self.web.get(_path(answer.request.full_path))
        return answer

    def open(self, path, *, work=True):
        return self.follow(self.web.get(f"/console/{path}"), work=work)

    def found(self, query):
        """Numbers of the events that a search shows, as they stand on the page."""
        answer = self.open(f"events/?{query}")
        assert answer.status_code == 200, answer.text
        return re.findall(r"events/(\d{16})", answer.text)

    def rows(self, statement):
        with closing(sqlite3.connect(self.folder / "warehouse.db")) as db:
            return db.execute(statement).fetchall()


def _path(url):
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Passwords are not what is tried here."""
    monkeypatch.setattr(admins, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def desk(redis_url, tmp_path, monkeypatch, inline):
    """With an archive, and a worker that is registered and does what it is told to."""
    monkeypatch.setattr(looking, "_PATIENCE_S", 0.0)
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "relay.yaml"))
    monkeypatch.setenv("RELAY_DATA", str(tmp_path))
    desk = Desk(redis_url, tmp_path, archive_days=30)
    worker = desk.worker()
    yield desk
    with suppress(redis.RedisError):
        worker.register_death()


def post(desk, body, **headers):
    return desk.post_event(body, **headers).get_json()["id"]


# --- sources: samples and secrets --------------------------------------------------------------------------


@pytest.fixture
def shop(redis_url, tmp_path):
    """A shop whose secrets rotate."""
    desk = Desk(redis_url, tmp_path, archive_days=30)
    desk.serve(shop={"secrets": ["new", "old"]}, erp={})
    return desk


def test_a_sample_says_what_it_would_become_and_goes_only_once_it_is_meant(shop, caplog):
    page = shop.get("sources/shop")
    assert "<option>orders/create</option>" in page
    asked = text(shop.submit("/console/sources/shop/sample", {"type": "orders/create"}).text)
    assert "Send a sample of orders/create?" in asked
    assert "shop_orders warehouse 1" in asked
    assert re.search(r"shop_order_lines warehouse [1-9]", asked)
    assert "relay send shopify orders/create --source shop" in asked
    assert shop.facts().events == {}
    sent = shop.submit("/console/sources/shop/sample", {"type": "orders/create", "sure": "yes"})
    found = shop.follow(sent)
    assert "orders/create of shop waits" in text(found.text)
    assert "A sample of orders/create was sent. It became" in text(found.text)
    assert "the signature fitted hmac-sha256 base64 of {body}; secret 1 of 2" in text(found.text)
    assert shop.facts().events["shop"] == {"accepted": 1, "mapped": 1}
    (line,) = acts(caplog)
    assert (line["admin"], line["act"], line["source"], line["type"]) == ("ada", "sample", "shop", "orders/create")
    assert line["event_id"] in sent.headers["Location"]


def test_a_sample_becomes_rows_at_the_destination_as_any_delivery_does(shop):
    shop.submit("/console/sources/shop/sample", {"type": "orders/create", "sure": "yes"})
    shop.drain()
    (count,) = shop.rows("SELECT count(*) FROM shop_orders")[0]
    assert count == 1
    assert ledger.audit(shop.client, deep=True) == []


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("nobody", {"type": "orders/create"}, 404),
        ("shop", {"type": "orders/eaten", "sure": "yes"}, 400),
        ("shop", {"sure": "yes"}, 400),
        ("shop", {"type": XSS * 100, "sure": "yes"}, 400),
        ("erp", {"type": "t", "sure": "yes"}, 400),
    ],
)
def test_a_sample_of_what_there_is_not_is_refused_and_nothing_is_sent(shop, path, fields, status):
    answer = shop.submit(f"/console/sources/{path}/sample", fields)
    assert answer.status_code == status
    assert Tags(answer.text).inert()
    assert shop.facts().events == {}


def test_a_sample_needs_the_sessions_own_form(shop):
    assert shop.web.post("/console/sources/shop/sample", data={"type": "orders/create"}).status_code == 403
    assert shop.app.test_client().post("/console/sources/shop/sample").status_code == 403


def test_a_source_that_cannot_send_a_sample_says_why(desk):
    assert "no secret that could sign one" in text(desk.get("sources/shop"))
    answer = desk.submit("/console/sources/shop/sample", {"type": "orders/create", "sure": "yes"})
    assert answer.status_code == 400
    assert "has no secret" in answer.text
    assert "Kind custom has no samples" in text(desk.get("sources/erp"))


def test_every_kind_can_send_each_of_its_samples_or_says_why_not(redis_url, tmp_path):
    """Of the vendors that need no more than a secret."""
    desk = Desk(redis_url, tmp_path)
    kinds = ["github", "stripe", "zendesk", "woocommerce"]
    desk.serve(**{kind: {"kind": kind, "secrets": ["0123456789abcdef"], "to": "warehouse"} for kind in kinds})
    for kind in kinds:
        types = re.findall(r"<option>([^<]+)</option>", desk.get(f"sources/{kind}"))
        assert types
        asked = desk.submit(f"/console/sources/{kind}/sample", {"type": types[0]})
        assert asked.status_code == 200, asked.text
        answer = desk.submit(f"/console/sources/{kind}/sample", {"type": types[0], "sure": "yes"})
        assert answer.status_code == 303, answer.text
    assert {name for name, states in desk.facts().events.items() if states["accepted"]} == set(kinds)


def test_while_secrets_rotate_the_page_says_which_still_fits(shop):
    assert "2 secrets; all are live rotating" in text(shop.get("sources/shop"))
    assert text(shop.get("sources/shop")).count("no delivery needed it in the last week") == 2
    shop.submit("/console/sources/shop/sample", {"type": "orders/create", "sure": "yes"})
    assert "last fitted" not in shop.get("sources/shop"), "a sample of ours says nothing of the vendor's secret"
    url = "http://localhost/hooks/shop"
    sent = signed_sample(sources_of(shop.config)["shop"], "orders/create", url, 1, time.time_ns())
    assert shop.app.test_client().post(url, data=sent.body, headers=dict(sent.headers)).status_code == 202
    page = text(shop.get("sources/shop"))
    assert re.search(r"Secret 1: last fitted \d+ s ago", page)
    assert "Secret 2: no delivery needed it in the last week: if it is the old one, take it out" in page
    shop.client.rename(keys.secret("shop", 1, 2), keys.secret("shop", 2, 2))
    page = text(shop.get("sources/shop"))
    assert "Secret 1: no delivery fitted it in the last week, and one behind it did" in page
    for hidden in ("new", "old"):
        assert f">{hidden}<" not in shop.get("sources/shop")


def test_each_event_says_which_secret_it_fitted(redis_url, tmp_path):
    desk = Desk(redis_url, tmp_path)
    desk.serve(erp={"secrets": ["new", "k", "old"]})
    for number, key in enumerate(["new", "k", "old"], 1):
        arrival = desk.post_event(row(number), key=key).get_json()["id"]
        assert f"secret {number} of 3" in text(desk.get(f"events/{arrival}"))
    assert desk.post_event(row(9), key="other").status_code == 401
    assert all(fitted.last(desk.client, "erp", 3))
    assert fitted.last(desk.client, "erp", 2) == [0, 0]


# --- events: the buffer ------------------------------------------------------------------------------------


def test_events_of_the_buffer_are_found_by_state(desk):
    waits, broken = post(desk, row(1)), post(desk, b"{oops")
    desk.bury("no such column")
    dead, waits = waits, post(desk, row(2))
    assert desk.found("state=quarantined") == [broken]
    assert desk.found("state=dead") == [dead]
    assert desk.found("state=waits") == [waits]
    assert desk.found("") == [waits, broken, dead]
    page = text(desk.get("events/"))
    assert page.index("waits") < page.index("quarantined", page.index("Came State")) < page.rindex("dead")


def test_events_of_the_buffer_are_found_by_text_in_the_body(desk):
    first = post(desk, row(1, name="Grüße aus Köln"))
    second = post(desk, row(2, name='say "hi" / there'))
    for words in ("Köln", "aus k", "GR\u00fc\u00dfE"[:2]):
        assert desk.found(f"text={words}") == [first], words
    assert desk.found('text=say "hi"') == [second]
    assert desk.found("text=nowhere") == []
    assert desk.found("text=.*") == []
    assert desk.found("text=t&type=t&source=erp") == [second, first]
    assert "Nothing fits" in desk.get("events/?text=%00")


def test_a_search_that_ends_early_says_so_and_can_be_gone_on_with(desk):
    arrivals = [post(desk, row(n)) for n in range(230)]
    seen, url, pages = [], "/console/events/?source=erp", 0
    while url:
        page = desk.web.get(url).text
        seen += re.findall(r"events/(\d{16})", page)
        on = re.search(r'href="([^"]+)" rel="next"', page)
        url, pages = on and on[1].replace("&amp;", "&"), pages + 1
    assert seen == arrivals[::-1]
    assert pages == 3
    assert "The search ended early" in text(desk.get("events/"))


def test_no_event_is_missed_where_older_ones_are_tried_again_meanwhile(desk):
    """These stand where they are due, among or before newer ones."""
    arrivals = [post(desk, row(n)) for n in range(150)]
    queue = keys.queue("warehouse/0/1", "erp")
    later, now = int(time.time() * 1000) + 900_000, int(time.time() * 1000)
    desk.client.zadd(queue, dict.fromkeys(arrivals[:40], later))
    desk.client.zadd(queue, dict.fromkeys(arrivals[40:70], now))
    seen, at = [], ""
    while True:
        found = finding.search(desk.client, Sought(before=at), Budget(7, 10**9, 60), 9)
        seen += [hit.arrival for hit in found.hits]
        at = found.at
        if not at:
            break
    assert sorted(seen) == arrivals
    assert seen[:40] == arrivals[:40][::-1]


def test_pages_of_many_queues_show_each_event_once(desk):
    """One of them busy, some due alike, some put off."""
    chance, lane = random.Random(7), "warehouse/0/1"
    blob = desk.client.hget(keys.EVENTS, post(desk, row(0)))
    desk.client.flushall()
    arrivals = [f"{1_795_000_000_000_000 + 700 * n}" for n in range(400)]
    desk.client.sadd(keys.LANES, lane)
    for n, arrival in enumerate(arrivals):
        source = "erp" if n % 4 else f"other{n % 5}"
        due = int(arrival) // 1000 + chance.choice([0, 0, 0, 5_000, 5_000_000])
        desk.client.sadd(keys.lane_sources(lane), source)
        desk.client.zadd(keys.queue(lane, source), {arrival: due // 40 * 40})
        desk.client.hset(keys.EVENTS, arrival, blob)
    seen, at = [], ""
    while at or not seen:
        found = finding.search(desk.client, Sought(before=at), Budget(13, 10**9, 60), 17)
        seen += [hit.arrival for hit in found.hits]
        at = found.at
    assert sorted(seen) == arrivals


@pytest.mark.parametrize("most", [5, 20, 40])
def test_events_that_wait_in_several_lanes_are_all_found_page_by_page(desk, most):
    """Each counts once, and a page of them does not pass for all there are."""
    blob = desk.client.hget(keys.EVENTS, post(desk, row(0)))
    desk.client.flushall()
    arrivals = [f"{1_795_000_000_000_000 + 700 * n}" for n in range(100)]
    for name in ("lake", "mart", "warehouse"):
        lane = f"{name}/0/1"
        desk.client.sadd(keys.LANES, lane)
        desk.client.sadd(keys.lane_sources(lane), "erp")
        desk.client.zadd(keys.queue(lane, "erp"), {arrival: int(arrival) // 1000 for arrival in arrivals})
    desk.client.hset(keys.EVENTS, mapping=dict.fromkeys(arrivals, blob))
    seen, at, pages = [], "", 0
    while at or not pages:
        found = finding.search(desk.client, Sought(before=at), Budget(1000, 10**9, 60), most)
        seen += [hit.arrival for hit in found.hits]
        at, pages = found.at, pages + 1
        assert found.stopped == ("looked" if at else "")
    assert seen == arrivals[::-1]
    assert pages == 100 // most + 1


def test_an_event_that_was_put_off_in_one_of_its_lanes_is_found_once(desk):
    blob = desk.client.hget(keys.EVENTS, post(desk, row(0)))
    desk.client.flushall()
    arrivals = [f"{1_795_000_000_000_000 + 5_000 * n}" for n in range(6)]
    for name, late in (("lake", 60_000), ("mart", 0)):
        desk.client.sadd(keys.LANES, f"{name}/0/1")
        desk.client.sadd(keys.lane_sources(f"{name}/0/1"), "erp")
        due = {a: int(a) // 1000 + (late if n == 1 else 0) for n, a in enumerate(arrivals)}
        desk.client.zadd(keys.queue(f"{name}/0/1", "erp"), due)
    desk.client.hset(keys.EVENTS, mapping=dict.fromkeys(arrivals, blob))
    seen, at = [], ""
    while at or not seen:
        found = finding.search(desk.client, Sought(before=at), Budget(1000, 10**9, 60), 2)
        seen += [hit.arrival for hit in found.hits]
        at = found.at
    assert seen == [arrivals[n] for n in (1, 5, 4, 3, 2, 0)]


def test_new_events_behind_a_crowd_of_old_ones_that_were_put_off_are_found(desk, monkeypatch):
    """The crowd stands before them, and is too old to be meant."""
    monkeypatch.setattr(finding, "_MOST_OF_ONE", 30)
    blob = desk.client.hget(keys.EVENTS, post(desk, row(0)))
    desk.client.flushall()
    now, lane = 1_795_000_000_000_000, "warehouse/0/1"
    old = {f"{now - 10**9 + n}": now // 1000 + 60_000 + n for n in range(100)}
    new = {f"{now + n * 1000}": now // 1000 + n for n in range(3)}
    desk.client.sadd(keys.LANES, lane)
    desk.client.sadd(keys.lane_sources(lane), "erp")
    desk.client.zadd(keys.queue(lane, "erp"), old | new)
    desk.client.hset(keys.EVENTS, mapping=dict.fromkeys(old | new, blob))
    seen, at, pages = [], "", 0
    while at or not pages:
        found = finding.search(desk.client, Sought(since=str(now), before=at), Budget(100, 10**9, 60), 50)
        seen += [hit.arrival for hit in found.hits]
        at, pages = found.at, pages + 1
    assert seen == sorted(new, reverse=True)
    assert pages < 10


def test_a_search_stops_at_its_budget_of_bytes(desk):
    arrivals = [post(desk, row(n, name="x" * 5_000)) for n in range(8)]
    found = finding.search(desk.client, Sought(text="nowhere"), Budget(100, 12_000, 60), 100)
    assert (found.hits, found.stopped, found.at.partition("-")[2]) == ([], "bytes", arrivals[-3])
    rest = finding.search(desk.client, Sought(text="x", before=found.at), Budget(100, 10**9, 60), 100)
    assert [hit.arrival for hit in rest.hits] == arrivals[-4::-1]
    assert (rest.stopped, rest.at) == ("", "")


def test_events_whose_bodies_are_only_in_the_archive_are_counted(desk):
    arrival = post(desk, row(1))
    desk.client.hdel(keys.EVENTS, arrival)
    desk.client.hset(keys.PARKED, arrival, "erp")
    assert "1 event waits for a destination that is down" in text(desk.get("events/"))


@pytest.mark.parametrize(
    "query",
    [
        "before=yesterday", "before=1-x", f"before={'9' * 15}-0000000000000001", "before=0-0000000000000000",
        "in=archive&before=1-0000000000000001", "in=archive&before=9999999999999999", "since=never&state=lost",
        "id=0000000000000001", "look=x", "in=archive&look=no-such-look", "in=moon", f"id={'9' * 150}",
        "source=%00&type=%ff",
    ],
)  # fmt: skip
def test_a_nonsensical_search_finds_something_or_nothing_and_breaks_nothing(desk, query):
    post(desk, row(1))
    answer = desk.open(f"events/?{query}")
    assert answer.status_code == 200
    assert Tags(answer.text).inert()


def test_a_huge_text_is_not_looked_for(desk):
    page = text(desk.get(f"events/?text={'x' * 5_000}"))
    assert "Look for 200 characters at most." in page


# --- events: the archive -----------------------------------------------------------------------------------


def test_the_archive_is_searched_by_a_worker_newest_first_and_never_by_the_web_process(desk):
    arrivals = [post(desk, row(n, name=f"name {n}"), **{"X-Delivery": f"d{n}"}) for n in range(3)]
    desk.drain()
    answer = desk.open("events/?in=archive", work=False)
    assert answer.headers["Refresh"] == "2"
    assert "The archive is searched" in answer.text
    desk.work()
    page = desk.follow(desk.web.get(_path(answer.request.full_path)))
    assert re.findall(r"events/(\d{16})", page.text) == arrivals[::-1]
    assert page.text.count(">delivered</span>") == 3
    assert desk.found("in=archive&text=NAME 1") == [arrivals[1]]
    assert desk.found("in=archive&id=d2") == [arrivals[2]]
    assert desk.found(f"in=archive&since=15 minutes&id={arrivals[0]}") == [arrivals[0]]
    assert desk.found("in=archive&type=other") == []
    assert desk.found(f"in=archive&before={arrivals[1]}") == [arrivals[0]]


def test_what_was_delivered_is_told_from_what_waits_failed_or_was_given_up(desk):
    delivered = post(desk, row(1))
    desk.drain()
    given_up, broken = post(desk, b"{oops"), post(desk, b"{oops again")
    desk.drain()
    fields = {"id": given_up, "act": "discard", "sure": "yes"}
    assert desk.submit("/console/failures/act", fields).status_code == 303
    assert desk.found("state=delivered") == [delivered]
    assert desk.found("in=archive&state=quarantined") == [broken]
    assert desk.found("in=archive") == [broken, given_up, delivered]
    assert "given up" in desk.open(f"events/{given_up}").text


def test_a_search_of_the_archive_goes_on_where_it_stopped(desk, monkeypatch):
    from worker import looking as far

    arrivals = [post(desk, row(n)) for n in range(50)]
    desk.drain()
    monkeypatch.setattr(far, "HITS", 20)
    monkeypatch.setattr(far, "_WINDOW", 7)
    seen, query = [], "in=archive"
    while query is not None:
        page = desk.open(f"events/?{query}").text
        seen += re.findall(r"events/(\d{16})", page)
        on = re.search(r'href="/console/events/\?([^"]+)" rel="next"', page)
        query = on[1].replace("&amp;", "&") if on else None
    assert seen == arrivals[::-1]


def test_without_a_worker_the_page_says_so_at_once(redis_url, tmp_path):
    desk = Desk(redis_url, tmp_path, archive_days=30)
    assert "No worker runs, so nobody can look" in text(desk.get("events/?in=archive"))
    answer = desk.web.get("/console/events/0000000000000001")
    assert answer.status_code == 404
    assert "No worker runs" in answer.text
    started = desk.submit("/console/rehearsals/", {"source": "erp", "arrival": "0000000000000001"})
    assert started.status_code == 400
    assert "No worker runs" in started.text


def test_a_worker_that_never_comes_keeps_nobody_waiting(desk):
    answer = desk.open("events/?in=archive", work=False)
    (key,) = desk.client.scan_iter("rh:look:*")
    desk.client.hset(key, "asked_ms", int(time.time() * 1000) - 60_000)
    page = desk.web.get(_path(answer.request.full_path))
    assert "Nobody has taken it up yet" in page.text
    assert 0 < desk.client.ttl(key) <= 900


def test_a_worker_that_died_over_it_is_told(desk):
    token = Looks(desk.client).create(SEARCH, {})
    desk.client.hset(keys.look(token), mapping={"state": "running", "beat_ms": 1})
    assert "Whoever worked on it is gone" in text(desk.get(f"events/?in=archive&look={token}"))


def test_no_more_is_asked_for_than_a_worker_can_do(desk):
    for _ in range(20):
        desk.open("events/?in=archive", work=False)
    assert "Too many others wait for the same" in text(desk.open("events/?in=archive", work=False).text)


def test_what_was_asked_on_one_page_is_not_shown_on_another(desk):
    token = Looks(desk.client).create(SEARCH, {})
    assert desk.web.get(f"/console/rehearsals/{token}").status_code == 404
    assert desk.web.get("/console/replays/nothing").status_code == 404


# --- one event ---------------------------------------------------------------------------------------------


def test_an_event_says_where_each_of_its_rows_is(desk):
    taken = post(desk, row(1))
    page = text(desk.get(f"events/{taken}"))
    assert "erp_things row warehouse: waits due" in page
    desk.bury("no such column")
    page = desk.get(f"events/{taken}")
    assert "warehouse: dead refused : no such column" in text(page)
    assert f"failures/one?id={taken}%7Cwarehouse%7C0" in page
    delivered = post(desk, row(2))
    desk.drain()
    page = text(desk.open(f"events/{delivered}").text)
    assert "Kept in the archive" in page
    assert "warehouse: delivered stored, or older than the row that stands there" in page
    assert "All of it is settled." in page


def test_an_event_in_quarantine_says_why(desk):
    page = text(desk.get(f"events/{post(desk, b'{oops')}"))
    assert "Read quarantined not_json" in page
    assert "the signature fitted shared token in header X-Key" in page


def test_a_large_event_of_the_archive_is_shown_in_part(desk):
    taken = post(desk, row(1, name="x" * 200_000))
    desk.drain()
    page = desk.open(f"events/{taken}").text
    assert len(page) < 400_000
    assert "195." in text(page), "its whole size is told"


def test_markup_in_an_archived_event_and_in_what_was_asked_is_inert(desk):
    taken = post(desk, row(1, name=XSS, type=XSS), **{"X-Delivery": XSS})
    desk.drain()
    for path in (f"events/{taken}", "events/?in=archive", f"events/?in=archive&text={XSS}&id={XSS}&type={XSS}"):
        page = desk.open(path).text
        assert Tags(page).inert(), path
        assert "&lt;script&gt;" in page


# --- attempts ----------------------------------------------------------------------------------------------


def test_attempts_are_told_on_the_event_and_on_the_destination(desk):
    taken = post(desk, row(1))
    desk.drain()
    page = text(desk.open(f"events/{taken}").text)
    assert "Delivery attempts warehouse" in page
    assert " stored erp_things 1 1 " in page
    assert " stored erp_things 1 1 " in text(desk.get("destinations/warehouse"))


def test_a_failed_attempt_is_kept_with_what_the_destination_said(desk):
    post(desk, row(1))
    desk.drain()
    with closing(sqlite3.connect(desk.folder / "warehouse.db")) as db, db:
        db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON erp_things WHEN new.id = '7' "
            "BEGIN SELECT RAISE(ABORT, 'seven is refused here'); END"
        )
    taken = [post(desk, row(n)) for n in (6, 7, 8)]
    desk.drain()
    page = text(desk.get(f"events/{taken[1]}"))
    assert "rejected" in page
    assert "seven is refused here" in page
    failed = attempts.read(desk.client, "warehouse", failed=True)
    assert failed[0].named == (taken[1],)
    assert {a.outcome for a in failed} == {"rejected"}
    assert failed[-1].rows == 3
    assert "seven is refused here" in text(desk.get("destinations/warehouse"))
    other = text(desk.open(f"events/{taken[2]}").text)
    assert "stored" in other


def test_attempts_are_bounded_and_go_by_themselves(desk):
    for n in range(30):
        post(desk, row(n))
        desk.drain()
    kept = keys.attempts("warehouse", failed=False)
    assert desk.client.llen(kept) == 30
    assert 0 < desk.client.pttl(kept) <= attempts.KEPT_MS
    one = attempts.read(desk.client, "warehouse", failed=False)[0]
    assert attempts.chosen([one] * 50) == [one] * attempts.MOST
    many = [f"{n:016d}" for n in range(1000)]
    count, first, last, named = attempts.of_events(many)
    assert (count, first, last, named) == (1000, many[0], many[-1], ())


def test_a_large_attempt_says_that_an_event_may_have_been_among_its_rows(desk):
    taken = [post(desk, row(n)) for n in range(40)]
    desk.drain()
    (one,) = attempts.read(desk.client, "warehouse", failed=False)
    assert (one.rows, one.events, one.named) == (40, 40, ())
    assert one.held(taken[5]) is None
    assert one.held("0000000000000001") is False
    assert "may be among them" in text(desk.open(f"events/{taken[5]}").text)


# --- dry runs and replays ----------------------------------------------------------------------------------


def test_a_search_of_the_archive_is_rehearsed_and_then_replayed(desk, caplog):
    taken = [post(desk, row(n, name=f"n{n}", extra=f"e{n}")) for n in range(3)]
    desk.drain()
    desk.start(TWO)
    desk.log_in()
    search = desk.open("events/?in=archive&source=erp&since=1 hour")
    assert "What would a replay change?" in search.text
    fields = {"source": "erp", "since": "1 hour", "text": "n1"}
    begun = desk.submit("/console/rehearsals/", fields)
    assert begun.status_code == 303
    page = desk.follow(begun)
    said = text(page.text)
    assert "1 event of erp" in said
    assert "0 rows inserted 1 rows changed 0 stay as they are" in said.replace(
        "rows inserted 0", "0 rows inserted"
    ).replace("rows changed 1", "1 rows changed").replace("stay as they are 0", "0 stay as they are")
    assert 'extra null "e1"' in said
    assert "--source erp --since" in said
    assert "--text n1 --dry-run" in said
    assert desk.rows("SELECT count(*) FROM erp_things WHERE id = '1'") == [(1,)]
    at = _path(page.request.full_path).rstrip("?")
    asked = desk.submit(f"{at}/replay", {})
    assert "Send 1 event of erp again?" in text(asked.text)
    assert not [a for a in acts(caplog) if a["act"] == "replay"]
    done = desk.follow(desk.submit(f"{at}/replay", {"sure": "yes"}))
    assert "1 of 1 event sent again; 0 still wait in a lane; 0 could not be mapped." in text(done.text)
    desk.drain()
    assert desk.rows("SELECT id, extra FROM erp_things ORDER BY id") == [("0", None), ("1", "e1"), ("2", None)]
    assert ledger.audit(desk.client, deep=True) == []
    assert taken


def test_the_command_that_a_dry_run_names_does_the_same(desk):
    for n in range(3):
        post(desk, row(n, name=f"n{n}"))
    desk.drain()
    page = desk.follow(desk.submit("/console/rehearsals/", {"source": "erp", "text": "n2"})).text
    (command,) = re.findall(r"relay (replay [^<]+)", text(page))
    words = command.split()
    assert json.loads(desk.run(*words, "--json").stdout)["ignored"] == 1


def test_one_event_is_rehearsed_from_the_buffer_and_from_the_archive(desk):
    taken = post(desk, row(1))
    form = {"source": "erp", "arrival": taken}
    waiting = text(desk.follow(desk.submit("/console/rehearsals/", form)).text)
    assert "rows inserted 1" in waiting
    desk.drain()
    settled = text(desk.follow(desk.submit("/console/rehearsals/", form)).text)
    assert "rows inserted 0 rows changed 0 stay as they are 1" in settled
    nothing = desk.follow(desk.submit("/console/rehearsals/", {"source": "erp", "arrival": "0" * 15 + "1"}))
    assert "No event fits." in nothing.text


def test_a_group_of_failures_is_rehearsed_before_it_is_retried(desk):
    desk.start({**TABLE, "columns": {"id": "number", "name": "name"}})
    desk.log_in()
    for n in range(3):
        post(desk, row(n))
    shown = group(desk)
    unmended = desk.follow(desk.submit("/console/rehearsals/", shown))
    assert "cannot be mapped 3" in text(unmended.text)
    desk.start(TABLE)
    desk.log_in()
    page = desk.follow(desk.submit("/console/rehearsals/", shown))
    assert "What a retry would change" in text(page.text)
    assert "rows inserted 3" in text(page.text)
    assert desk.facts().events["erp"]["quarantined"] == 3, "nothing was retried"
    assert shown["group"] in page.text
    asked = desk.submit("/console/failures/act", {**shown, "act": "retry"})
    assert "Send 3 failures again?" in text(asked.text)
    ids = " ".join(failure.id for failure in Failures(desk.client).every())
    assert f"relay dead retry {ids}" in text(asked.text)


def test_a_dead_letter_is_rehearsed_for_the_destination_that_refused_it(desk):
    taken = post(desk, row(1))
    desk.bury("no such column")
    page = desk.follow(desk.submit("/console/rehearsals/", {"failure": f"{taken}|warehouse|0"}))
    assert "1 event of erp, for warehouse alone" in text(page.text)
    assert "rows inserted 1" in text(page.text)
    assert f'name="id" value="{taken}|warehouse|0"' in page.text


def test_a_failure_beyond_those_that_are_looked_at_is_rehearsed_too(desk, monkeypatch):
    monkeypatch.setattr(causes, "LOOKED_AT", 1)
    broken, taken = post(desk, b"{oops"), post(desk, row(1))
    desk.bury("no such column")
    assert f"failures/one?id={broken}" in desk.get(re.search(r"failures/group/\w+", desk.get("failures/"))[0])
    page = desk.follow(desk.submit("/console/rehearsals/", {"failure": f"{taken}|warehouse|0"}))
    assert "rows inserted 1" in text(page.text)


def test_a_destination_that_cannot_tell_says_so(desk):
    post(desk, row(1))
    (desk.folder / "warehouse.db").mkdir()
    page = desk.follow(desk.submit("/console/rehearsals/", group_of_one(desk)))
    assert "warehouse cannot tell" in text(page.text)


def group_of_one(desk):
    return {"source": "erp", "arrival": desk.found("")[0]}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"source": "erp", "arrival": "x"}, 400),
        ({"source": "erp", "text": "x" * 5_000}, 400),
        ({"group": "none", "upto": "9"}, 404),
        ({"failure": "none"}, 404),
    ],
)
def test_a_dry_run_of_nothing_is_not_begun(desk, fields, status):
    answer = desk.submit("/console/rehearsals/", fields)
    assert answer.status_code == status
    assert list(desk.client.scan_iter("rh:look:*")) == []


def test_a_dry_run_of_an_unknown_source_says_so(desk):
    page = desk.follow(desk.submit("/console/rehearsals/", {"source": "nobody"}))
    assert "there is no source nobody any more" in page.text.lower()


def test_nothing_is_replayed_that_was_not_rehearsed(desk):
    token = Looks(desk.client).create(REHEARSE, {"source": "erp", "act": {}})
    assert desk.submit(f"/console/rehearsals/{token}/replay", {"sure": "yes"}).status_code == 400
    assert desk.submit("/console/rehearsals/none/replay", {"sure": "yes"}).status_code == 404
    assert desk.web.post(f"/console/rehearsals/{token}/replay", data={"sure": "yes"}).status_code == 403


# --- the whole of it ---------------------------------------------------------------------------------------


def test_a_sample_is_sent_delivered_found_and_rehearsed_with_a_worker_that_runs(redis_url, tmp_path):
    desk = Desk(redis_url, tmp_path, archive_days=30, workers=1)
    desk.serve(shop={"secrets": ["s"]})
    environment = {"RELAY_CONFIG": str(desk.path), "RELAY_DATA": str(tmp_path)}
    worker = subprocess.Popen([sys.executable, "-m", "worker"], env={**os.environ, **environment})
    try:
        sent = desk.submit("/console/sources/shop/sample", {"type": "orders/create", "sure": "yes"})
        arrival = sent.headers["Location"].rpartition("/")[2]
        limit = time.monotonic() + 120
        while ledger.read(desk.client).records.get(("shop", "warehouse", "shop_orders"), {}).get("stored") != 1:
            assert time.monotonic() < limit, "it was not delivered"
            time.sleep(0.1)
        while arrival not in (page := patient(desk, desk.web.get("/console/events/?state=delivered")).text):
            assert time.monotonic() < limit, page
            time.sleep(0.1)
        page = text(patient(desk, desk.web.get(f"/console/events/{arrival}")).text)
        assert "Kept in the archive" in page
        assert "warehouse: delivered" in page
        assert "stored" in page[page.index("Delivery attempts") :]
        begun = desk.submit("/console/rehearsals/", {"source": "shop", "arrival": arrival})
        assert "rows inserted 0 rows changed 0" in text(patient(desk, begun).text)
    finally:
        worker.terminate()
        worker.wait(40)


def patient(desk, answer):
    """The page, once whoever was asked has answered."""
    limit = time.monotonic() + 120
    while answer.status_code == 303 or answer.headers.get("Refresh"):
        assert time.monotonic() < limit, "nobody answered"
        url = answer.headers["Location"] if answer.status_code == 303 else answer.request.full_path
        answer = desk.web.get(_path(url))
    return answer
