"""What the buffer may take of Redis, by whom, and what happens at each bound: refused or said, never lost."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from relay import config as configuration
from relay import intake
from relay.app import create_app
from relay.buffer import accept, alarms, keys, ledger
from relay.buffer.accept import Bounds, Delivery, Front, Offer
from relay.buffer.bounds import MARK_BYTES, bounds_of
from relay.buffer.lanes import Lane, Settlement
from relay.config import MIB, Config, Settings
from relay.configured import sources_of
from relay.errors import BufferUnavailable
from relay.intake import Accepted
from relay.records import Codec, Request
from relay.source import sample_request
from tests.flow.test_buffer import delivery, offer
from tests.servers.valkey import valkey
from worker import watching

SECRET = "shpss_test"
#: As a drain claims (worker/drain.py).
MOST_EVENTS, MOST_BYTES = 2_000, 4 * MIB


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def config(url: str, folder: Path, **settings) -> Config:
    sources = {"shop": {"kind": "shopify", "secrets": [SECRET]}, "pay": {"kind": "stripe", "secrets": [SECRET]}}
    made = Settings(redis_url=url, linger_ms=0, sources=sources, **settings)
    return Config(configuration._with_defaults(made), None, folder, {}, [])


def post(web, settings: Config, name: str, type_: str, n: int, body: bytes = b""):
    source, now = sources_of(settings)[name], time.time_ns()
    request = sample_request(source.vendor.samples[type_](n, now), f"http://localhost/hooks/{name}")
    request = type(request)(request.method, request.url, request.headers, body or request.body, {})
    done = source.verifier.sign(request, SECRET, now)
    return web.post(f"/hooks/{name}", data=done.body, headers=dict(done.headers))


def refusal(front: Front, given: Delivery) -> BufferUnavailable | None:
    try:
        front.put(given)
    except BufferUnavailable as error:
        return error
    return None


def fill(front: Front, source: str, **kinds) -> int:
    """Put until it is refused; how many were taken."""
    taken = 0
    while refusal(front, delivery(offer(f"{source}{taken}", source=source, **kinds), source=source)) is None:
        taken += 1
        assert taken < 100_000, "nothing bounds it"
    return taken


# --- how much there is ----------------------------------------------------------------------------------


def test_without_settings_the_bounds_are_shares_of_the_servers_memory():
    made = bounds_of(Settings(), str(100 * MIB), fragile=["shop"])
    assert (made.total, made.source, made.reserved) == (60 * MIB, 30 * MIB, 12 * MIB)
    assert (made.marks, made.dead) == (10 * MIB, 15 * MIB)
    assert bounds_of(Settings(), str(100 * MIB)).reserved == 0, "nobody needs it"
    assert bounds_of(Settings(), str(100 * MIB), sources=1).source == 60 * MIB, "there is nobody to leave room for"
    unbounded = bounds_of(Settings(), "0")
    assert (unbounded.total, unbounded.source, unbounded.marks, unbounded.dead) == (0, 0, 0, 0)
    said = Settings(
        max_pending_bytes=8 * MIB, max_source_bytes=MIB, max_dedup_bytes=2 * MIB, max_dead_bytes=3 * MIB
    )
    made = bounds_of(said, "unknown")
    assert (made.total, made.source, made.marks, made.dead) == (8 * MIB, MIB, 2 * MIB, 3 * MIB)


@pytest.mark.parametrize("pad", [0, 4_000])
def test_what_redis_uses_stays_within_the_budget_however_small_the_events(redis_url, client, pad):
    total, lanes = 4 * MIB, ("w/0/1", "archive/0/1")
    front = Front(redis_url, bounds_of(Settings(max_pending_bytes=total), "0", sources=1), lambda _: None)
    blob = offer(0, pad=pad).blob
    before, taken = used(client), 0
    counts = {"e|s|accepted": 1, "e|s|mapped": 1}
    while True:
        offers = tuple(Offer("", "id", blob, quarantined=False, lanes=lanes, counts=counts) for _ in range(50))
        if refusal(front, Delivery("s", offers, {})) is not None:
            break
        taken += 50
    assert client.hlen(keys.EVENTS) == taken
    assert 0.6 * total < used(client) - before <= total


def used(client: redis.Redis) -> int:
    """Bytes of Redis's data; what is being freed meanwhile is waited for."""
    until = time.monotonic() + 30
    while True:
        info = client.info("memory")
        if not info["lazyfree_pending_objects"] or time.monotonic() > until:
            return int(info["used_memory"] - info["mem_clients_normal"])
        time.sleep(0.01)


# --- who may use it ---------------------------------------------------------------------------------------


def test_a_bursting_source_leaves_half_to_the_others(redis_url, client):
    front = Front(redis_url, Bounds(total=400_000, source=200_000, overhead=320, linger_ms=0), lambda _: None)
    fill(front, "burst", records=20)
    error = refusal(front, delivery(offer("more", source="burst", records=20), source="burst"))
    assert error is not None
    assert "max_source_bytes" in str(error)
    calm = [delivery(offer(n, source="calm", records=20), source="calm") for n in range(50)]
    assert [refusal(front, one) for one in calm] == [None] * 50
    assert ledger.audit(client, deep=True) == []


def test_sources_that_soon_give_up_are_taken_where_those_that_retry_are_refused(redis_url, client):
    limits = Bounds(total=300_000, reserved=60_000, fragile=frozenset({"fragile"}), overhead=320, linger_ms=0)
    front = Front(redis_url, limits, lambda _: None)
    fill(front, "sturdy", records=20)
    error = refusal(front, delivery(offer("more", source="sturdy", records=20), source="sturdy"))
    assert error is not None
    assert "max_pending_bytes" in str(error)
    held = int(client.hget(keys.BYTES, "*")) + 320 * client.hlen(keys.EVENTS)
    assert 0.78 * limits.total < held <= 0.8 * limits.total
    assert fill(front, "fragile", records=20) > 10
    held = int(client.hget(keys.BYTES, "*")) + 320 * client.hlen(keys.EVENTS)
    assert 0.97 * limits.total < held <= limits.total
    assert ledger.audit(client, deep=True) == []


def test_shops_that_drop_their_subscription_are_fragile_and_stripe_is_not(redis_url, tmp_path):
    app = create_app(config(redis_url, tmp_path, max_pending_bytes=10 * MIB))
    limits = app.extensions["rowhook"].front.bounds
    assert limits.fragile == {"shop"}
    assert limits.reserved == 2 * MIB


def test_a_refused_put_writes_nothing(redis_url, client):
    front = Front(redis_url, Bounds(total=20_000, overhead=320, linger_ms=0), lambda _: None)
    fill(front, "s", records=20)
    before = client.info("persistence")["rdb_changes_since_last_save"]
    for n in range(10):
        assert refusal(front, delivery(offer(f"late{n}", records=20))) is not None
    assert client.info("persistence")["rdb_changes_since_last_save"] == before


def test_a_repetition_of_what_was_taken_is_answered_also_when_the_buffer_is_full(redis_url):
    front = Front(redis_url, Bounds(total=20_000, overhead=320, linger_ms=0), lambda _: None)
    first = front.put(delivery(offer("first")))
    fill(front, "s", records=20)
    again = front.put(delivery(offer("first")))
    assert (again[0].duplicate, again[0].arrival) == (True, first[0].arrival)


# --- the web half: 503 with Retry-After, nothing else -------------------------------------------------------


def test_over_its_budget_a_source_is_answered_503_and_the_other_202(redis_url, tmp_path):
    settings = config(redis_url, tmp_path, max_pending_bytes=40_000, max_source_bytes=20_000)
    web = create_app(settings).test_client()
    answers = [post(web, settings, "shop", "orders/create", n) for n in range(40)]
    assert {a.status_code for a in answers} == {202, 503}
    assert all(int(a.headers["Retry-After"]) > 0 for a in answers if a.status_code == 503)
    assert post(web, settings, "pay", "charge.succeeded", 1).status_code == 202


def test_a_redis_without_memory_is_answered_503_also_where_a_schema_is_not_known_yet(redis_url, client, tmp_path):
    settings = config(redis_url, tmp_path)
    web = create_app(settings).test_client()
    assert post(web, settings, "shop", "orders/create", 1).status_code == 202
    client.config_set("maxmemory", "1mb")
    for name, type_ in (("shop", "orders/create"), ("pay", "charge.succeeded")):
        answer = post(web, settings, name, type_, 2)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert web.get("/readyz").status_code == 200
    client.config_set("maxmemory", "0")
    assert post(web, settings, "shop", "orders/create", 2).status_code == 202
    assert ledger.audit(client, deep=True) == []


# --- marks of delivery ids ----------------------------------------------------------------------------------


def test_marks_over_their_budget_give_up_the_oldest_day_and_events_are_taken_as_before(
    redis_url, client, monkeypatch
):
    said = []
    monkeypatch.setattr(accept, "MARKS_LOOK_S", 0.0)
    monkeypatch.setattr(accept.log, "error", lambda name, **values: said.append((name, values)), raising=False)
    front = Front(redis_url, Bounds(marks=1_000 * MARK_BYTES, linger_ms=0), lambda _: None)
    today = int(time.time()) // accept.DAY_S
    for day in (today - 3, today - 2, today - 1):
        client.hset(keys.seen_day(day), mapping={f"mark-{day}-{n}": "0" * 16 for n in range(400)})
    first = front.put(delivery(offer(1)))
    assert [client.hlen(keys.seen_day(day)) for day in (today - 3, today - 2, today - 1)] == [0, 400, 400]
    assert [name for name, _ in said] == ["dedup_window_cut"]
    (alarm,) = alarms.standing(client, front.bounds)
    assert alarm.name == "dedup_window_cut"
    assert "max_dedup_bytes" in alarm.text
    again = front.put(delivery(offer(1)))
    assert (again[0].duplicate, again[0].arrival) == (True, first[0].arrival)
    assert len(said) == 1, "once is enough"


def test_even_one_day_alone_may_outgrow_the_budget_of_marks_and_nothing_is_refused(redis_url, client, monkeypatch):
    monkeypatch.setattr(accept, "MARKS_LOOK_S", 0.0)
    front = Front(redis_url, Bounds(marks=100 * MARK_BYTES, linger_ms=0), lambda _: None)
    most = 0
    for n in range(30):
        front.put(delivery(*(offer(10 * n + i) for i in range(10))))
        most = max(most, sum(client.hlen(key) for key in client.keys("rh:seen:*")))
    assert most <= 100
    assert not front.put(delivery(offer(5)))[0].duplicate, "it was forgotten, so it is taken again"
    assert client.hlen(keys.EVENTS) == 301
    assert ledger.audit(client, deep=True) == []


# --- dead letters and quarantine ----------------------------------------------------------------------------


def test_failures_over_their_budget_raise_an_alarm_everywhere_and_nothing_of_them_is_dropped(
    redis_url, client, tmp_path, monkeypatch
):
    settings = config(redis_url, tmp_path, max_dead_bytes=5_000)
    web = create_app(settings).test_client()
    assert "alarms" not in web.get("/readyz").get_json()
    for n in range(20):
        assert post(web, settings, "shop", "orders/create", n, body=b"[%d]" % n).status_code == 202
    ready = web.get("/readyz")
    assert ready.status_code == 200, "what can be taken is taken"
    (text,) = ready.get_json()["alarms"]
    assert "20 events in quarantine" in text
    assert "max_dead_bytes" in text
    assert client.zcard(keys.QUARANTINE) == 20

    said = []
    monkeypatch.setattr(watching.log, "error", lambda name, **_: said.append(name), raising=False)
    monkeypatch.setattr(watching, "LOOK_S", 0.0)
    watchman = watching.Watchman(client)
    watchman.tick(settings)
    watchman.tick(settings)
    assert said == ["failures_pile_up", "quarantine"], "each said once, and again only after an hour"


def test_dead_letters_count_in_what_the_buffer_holds(redis_url, client):
    limits = Bounds(total=100_000, dead=10_000, overhead=320, linger_ms=0)
    front = Front(redis_url, limits, lambda _: None)
    front.put(delivery(offer("one", records=200)))
    mine = Lane(client, "w/0/1", "undertaker")
    assert mine.begin()
    (one,) = mine.claim(["s"], most=9, most_bytes=MOST_BYTES, linger_ms=0, full=1, rest_ms=0)
    letters = [(one.arrival, n, b'["s","s_t","k","v","no","destination"]') for n in range(200)]
    counts = {"r|s|w|s_t|dead": 200, "r|s|w|s_t|pending": -200}
    mine.settle(Settlement({"s": [one.arrival]}, [], letters, counts, {}))
    assert refusal(front, delivery(offer("two"))) is not None, "200 letters take more than 100,000 bytes"
    assert {alarm.name for alarm in alarms.standing(client, limits)} == {"buffer_full", "failures_pile_up"}
    assert client.hlen(keys.DEAD) == 200
    assert ledger.audit(client, deep=True) == []


# --- delivery -------------------------------------------------------------------------------------------------


def test_a_burst_of_one_source_does_not_hold_up_the_others(redis_url, client):
    """Waits are counted in claims: how many are settled from a put of the calm source until its settlement."""
    alone = waits(redis_url, client, backlog=0)
    client.flushall()
    beside = waits(redis_url, client, backlog=30_000)
    assert p95(beside) <= p95(alone) + 1
    client.flushall()
    assert waits(redis_url, client, backlog=18_000) == beside, "the length of the backlog does not matter"


def p95(values: list[int]) -> int:
    return sorted(values)[int(len(values) * 0.95)]


def waits(url: str, client: redis.Redis, *, backlog: int) -> list[int]:
    """A drain that takes the next claim ahead, as drains do, and a calm event before each of its claims."""
    front = Front(url, Bounds(linger_ms=0), lambda _: None, deadline_s=30)
    blob = offer(0, source="burst").blob
    counts = {"e|burst|accepted": 1, "e|burst|mapped": 1}
    for _ in range(backlog // 500):
        one = Offer("", "id", blob, quarantined=False, lanes=("w/0/1",), counts=counts)
        front.put(Delivery("burst", (one,) * 500, {}))
    lane = Lane(client, "w/0/1", "me")
    sent: dict[str, int] = {}
    found, turn = [], 0

    def send() -> None:
        (taken,) = front.put(delivery(offer(len(sent), source="calm"), source="calm"))
        sent[taken.arrival] = turn

    def claim(in_hand):
        send()
        got = lane.claim(
            lane.sources(),
            most=MOST_EVENTS,
            most_bytes=MOST_BYTES,
            linger_ms=0,
            full=1,
            rest_ms=0,
            in_hand=in_hand,
        )
        return got if isinstance(got, list) else []

    send()
    assert lane.begin()
    now = claim(())
    for turn in range(1, 8):
        ahead = claim(now)
        done: dict[str, list[str]] = {}
        for one in now:
            done.setdefault(one.source, []).append(one.arrival)
        lane.settle(Settlement(done, [], [], {}, {}))
        found += [turn - sent[arrival] for arrival in done.get("calm", ())]
        now = ahead
    assert len(found) >= 6, "each was settled, but for those of the last claims"
    if backlog:
        assert Counter(one.source for one in now)["burst"] > 100, "the burst is still under way"
    return found


# --- 64 MiB of Redis, and ten times as much as fits -----------------------------------------------------------

ROOT = Path(__file__).parents[2]
BODY = 12_000  # random hexadecimal digits: they wait in about half of that
THING = {"type": "body.type", "id": "body.id", "tables": [{"table": "things", "key": ["id"]}]}
SETTINGS = {
    "linger_ms": 0,
    "web_workers": 1,
    "workers": 2,
    "host": "127.0.0.1",
    "sources": {
        **{
            name: {"kind": "custom", "secrets": [SECRET], "verify": {"token": {"header": "X-Key"}}, **THING}
            for name in ("burst", "second", "calm")
        },
        "shop": {"kind": "shopify", "secrets": [SECRET]},
    },
    "destinations": {"warehouse": {"kind": "sqlite", "path": "warehouse.db"}},
}


class Flood:
    """A relay on 64 MiB of Redis whose destinations do not run, and what it acknowledged."""

    def __init__(self, url: str, folder: Path):
        self.folder, self.path = folder, folder / "relay.yaml"
        self.path.write_text(json.dumps({**SETTINGS, "redis_url": url}))
        self.config = configuration.load(self.path, folder)
        self.front = create_app(self.config).extensions["rowhook"].front
        self.sources = sources_of(self.config)
        self.client = redis.Redis.from_url(url)
        self.taken: dict[str, set[str]] = {name: set() for name in self.sources}
        self.refused: Counter[tuple[str, str]] = Counter()
        self.most = 0
        self._random = random.Random(7)

    def event(self, source: str, n: int) -> Accepted:
        """One event of a custom source, mapped and packed as the web half does it."""
        return intake.webhook(
            self.sources[source], self.request(source, n), time.time_ns(), Codec(), limit=10 * MIB
        )

    def order(self, n: int) -> Request:
        """A shop's, who does not try for long."""
        shop, now = self.sources["shop"], time.time_ns()
        made = sample_request(shop.vendor.samples["orders/create"](n, now), "http://127.0.0.1/hooks/shop")
        return shop.verifier.sign(made, SECRET, now)

    def request(self, source: str, n: int, size: int = BODY) -> Request:
        body = {"type": "thing", "id": f"{source}-{n}", "text": self._random.randbytes(size // 2).hex()}
        headers = {"content-type": "application/json", "x-key": SECRET}
        return Request("POST", f"http://127.0.0.1/hooks/{source}", headers, json.dumps(body).encode())

    def offer(self, source: str, events: Sequence[tuple[str, Accepted]]) -> None:
        """Offer events from eight threads, but those that are taken already."""

        def put(one: tuple[str, Accepted]) -> None:
            id_, accepted = one
            error = refusal(self.front, accepted.delivery)
            if error is None:
                self.taken[source].add(id_)
            else:
                self.refused[source, error.reason] += 1

        with self.watched(), ThreadPoolExecutor(8) as threads:
            list(threads.map(put, [one for one in events if one[0] not in self.taken[source]]))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note the most memory that is ever used meanwhile."""
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                self.most = max(self.most, self.client.info("memory")["used_memory"])

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def held(self) -> set[str]:
        """Ids of the events that are kept."""
        codec = Codec()
        blobs = self.client.hvals(keys.EVENTS)
        return {codec.unpack(blob).meta.delivery_id for blob in blobs}

    def stored(self, table: str) -> set[str]:
        path = self.folder / "warehouse.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            return {id_ for (id_,) in file.execute(f"SELECT id FROM {table}")}


def test_on_64_mib_of_redis_ten_times_what_fits_is_refused_and_what_was_taken_is_stored(tmp_path):
    with valkey(maxmemory="64mb") as url:
        flood = Flood(url, tmp_path)
        ten_times_what_fits_is_refused_and_the_other_source_is_not(flood)
        two_bursting_sources_leave_the_fragile_one_its_share(flood)
        over_http_it_is_503_with_retry_after_and_no_other_error(flood)
        the_full_buffer_drains_and_every_acknowledged_event_is_a_row(flood)
        assert flood.most < 64 * MIB


@contextlib.contextmanager
def program(flood: Flood, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the relay, under the flood's settings."""
    environment = {**os.environ, "RELAY_CONFIG": str(flood.path), "RELAY_DATA": str(flood.folder)}
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def ten_times_what_fits_is_refused_and_the_other_source_is_not(flood):
    share = flood.front.bounds.source
    many = [(f"burst-{n}", flood.event("burst", n)) for n in range(int(1.2 * share / (BODY / 2)))]
    size = sum(len(one.delivery.offers[0].blob) for _, one in many)
    trickle = [(f"calm-{n}", flood.event("calm", n)) for n in range(100)]
    calm = iter(trickle)
    for _ in range(10):
        flood.offer("burst", many)
        flood.offer("calm", list(itertools.islice(calm, 10)))
    assert size > share, "more than fits"
    assert 0.8 * share < sum(len(one.delivery.offers[0].blob) for i, one in many if i in flood.taken["burst"])
    assert set(flood.refused) == {("burst", "over_budget")}
    assert len(flood.taken["calm"]) == 100
    assert flood.held() == flood.taken["burst"] | flood.taken["calm"]


def two_bursting_sources_leave_the_fragile_one_its_share(flood):
    flood.offer("second", [(f"second-{n}", flood.event("second", n)) for n in range(3_500)])
    assert set(flood.refused) == {("burst", "over_budget"), ("second", "over_budget")}
    order = intake.webhook(flood.sources["shop"], flood.order(1), time.time_ns(), Codec(), limit=10 * MIB)
    assert refusal(flood.front, order.delivery) is None


def over_http_it_is_503_with_retry_after_and_no_other_error(flood):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers: Counter[tuple[str, int]] = Counter()

    def post_one(source: str, request: Request) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", f"/hooks/{source}", request.body, dict(request.headers))
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        answers[source, answer.status] += 1
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) > 0

    # Larger than those before, for which a little room may be left.
    posts = [(name, flood.request(name, 10**6 + n, 60_000)) for n in range(50) for name in ("burst", "second")]
    posts += [("shop", flood.order(n)) for n in range(2, 22)]
    random.Random(7).shuffle(posts)
    with gunicorn(flood, port), flood.watched(), ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda post: post_one(*post), posts))
    assert answers == {("burst", 503): 50, ("second", 503): 50, ("shop", 202): 20}


@contextlib.contextmanager
def gunicorn(flood: Flood, port: int) -> Iterator[None]:
    """gunicorn, once it listens."""
    flood.path.write_text(json.dumps({**json.loads(flood.path.read_text()), "port": port}))
    config_file = str(ROOT / "deploy/gunicorn.conf.py")
    with program(flood, "gunicorn", "--config", config_file, "relay.app:create_app()") as process:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < until, "it does not listen"
            time.sleep(0.05)
        yield


def the_full_buffer_drains_and_every_acknowledged_event_is_a_row(flood):
    with program(flood, "worker") as process, flood.watched():
        until = time.monotonic() + 180
        while flood.client.hlen(keys.EVENTS):
            assert process.poll() is None
            assert time.monotonic() < until, "it does not drain"
            time.sleep(0.1)
    for source in ("burst", "second", "calm"):
        assert flood.taken[source]
        assert flood.stored(f"{source}_things") == flood.taken[source]
    assert len(flood.stored("shop_orders")) == 21
    command = [sys.executable, "-m", "relay", "audit", "--deep", "--json"]
    places = ["--config", str(flood.path), "--data", str(flood.folder)]
    said = subprocess.run([*command, *places], capture_output=True, timeout=180, check=False, cwd=ROOT)
    assert json.loads(said.stdout) == {"balanced": True, "faults": []}
    assert int(flood.client.hget(keys.BYTES, "*")) == 0
    flood.offer("burst", [("burst-again", flood.event("burst", 10**7))])
    assert "burst-again" in flood.taken["burst"], "there is room again"
