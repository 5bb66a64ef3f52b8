"""`/metrics` as it is scraped: two gunicorn processes, two RQ workers, and the ledger to compare it with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis.client import Pipeline

from relay.app import create_app
from relay.buffer import keys, ledger, measures, pulse
from relay.buffer.registry import Registry
from relay.config import load
from relay.web import gauges
from tests.flow.test_delivery import Here, order
from tests.servers import import_server as api
from tests.servers.import_case import free_port
from tests.servers.valkey import valkey
from worker.keeping import Keeper

ROOT = Path(__file__).parents[2]
TOKEN = "a-long-t0ken-of-prometheus"
CUSTOM = {
    "kind": "custom",
    "secrets": ["the-s3cret"],
    "verify": {"token": {"header": "X-Key"}},
    "type": "body.type",
    "id": 'headers."x-id"',
    "tables": [
        {"when": "type == 'order'", "table": "orders", "key": ["id"], "columns": {"id": "id", "email": "email"}}
    ],
}
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parsed(text: str) -> Samples:
    """What the reference parser makes of an exposition."""
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            at = tuple(sorted(sample.labels.items()))
            assert at not in found[sample.name], f"{sample.name}{at} stands there twice"
            found[sample.name][at] = sample.value
    return found


def at(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def until(done: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


def settings(url: str, **more: Any) -> dict[str, Any]:
    return {"redis_url": url, "linger_ms": 20, **more}


class Running:
    """A real web half with two processes and a real worker half with two."""

    def __init__(self, url: str, server: api.ImportServer, folder: Path) -> None:
        self.client, self.port, self.server = redis.Redis.from_url(url), free_port(), server
        mbi = {"kind": "import_api", "url": server.url, "client_id": 12, "api_key": "goodkey"}
        path = folder / "relay.yaml"
        path.write_text(
            yaml.safe_dump(
                settings(
                    url, log_level="error", host="127.0.0.1", port=self.port, web_workers=2, workers=2,
                    metrics_token=TOKEN,
                    sources={"erp": {**CUSTOM, "to": ["lite", "mbi"]}, "crm": {**CUSTOM, "to": "lite"}},
                    destinations={"lite": {"kind": "sqlite"}, "mbi": mbi},
                )
            )
        )  # fmt: skip
        web = ["-m", "gunicorn", "--config", str(ROOT / "deploy/gunicorn.conf.py"), "relay.app:create_app()"]
        environment = {**os.environ, "RELAY_CONFIG": str(path), "RELAY_DATA": str(folder)}
        self.web, self.worker = (
            subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)
            for command in (web, ["-m", "worker"])
        )
        until(lambda: self.scrape()[0] == 200)

    def post(
        self, source: str, n: int, *, type_: str = "order", key: str = "the-s3cret", body: bytes = b""
    ) -> int:
        body = body or json.dumps({"id": n, "type": type_, "email": f"jane{n}@example.com"}).encode()
        headers = {"X-Key": key, "X-Id": f"{type_}-{n}", "Content-Type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.url}/hooks/{source}", body, headers))[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def scrape(self, token: str = TOKEN) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._ask(urllib.request.Request(f"{self.url}/metrics", headers=headers))

    def shown(self) -> Samples:
        status, text = self.scrape()
        assert status == 200
        return parsed(text)

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:  # not up yet
            return 0, ""

    def stop(self) -> None:
        for process in (self.web, self.worker):
            process.terminate()
        for process in (self.web, self.worker):
            process.wait(60)
        self.client.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with valkey() as url, api.ImportServer() as server:
        server.objects_to = lambda point: "id 7 is bad" if str(point.get("id")) == "7" else None
        relay = Running(url, server, tmp_path_factory.mktemp("metrics"))
        try:
            yield relay
        finally:
            relay.stop()


def load_of_all_kinds(running: Running) -> None:
    """Events that end in every way, posted by several at once."""
    with ThreadPoolExecutor(8) as pool:
        taken = [*pool.map(lambda n: running.post("erp", n), range(60)), *pool.map(
            lambda n: running.post("crm", n), range(25))]  # fmt: skip
        # Once more: duplicates. Not of 7, which may be buried by then, and a resend of what failed runs again.
        taken += pool.map(lambda n: running.post("erp", n), range(10, 20))
        taken += pool.map(lambda n: running.post("erp", n, type_="unheard"), range(5))  # ignored
        taken += pool.map(lambda n: running.post("crm", n, body=b'{"id": %d' % n), range(4))  # quarantined
        assert set(taken) == {202}
        assert set(pool.map(lambda n: running.post("erp", n, key="wrong"), range(6))) == {401}
        assert set(pool.map(lambda n: running.post("nobody", n), range(3))) == {404}


def settled(running: Running) -> bool:
    states = ledger.read(running.client).records.values()
    return sum(one.get("emitted", 0) for one in states) == 145 and not any(one.get("pending") for one in states)


def agrees(shown: Samples, client: redis.Redis) -> bool:
    """Whether an exposition says what the ledger says, account by account."""
    truth = ledger.read(client)
    accepted = {at(source=s): states["accepted"] for s, states in truth.events.items()}
    emitted, records = {}, {}
    for (s, d, t), states in truth.records.items():
        emitted[at(source=s, destination=d, table=t)] = states["emitted"]
        records |= {at(source=s, destination=d, table=t, state=k): n for k, n in states.items() if k != "emitted"}
    events = {
        at(source=s, state=state): states.get(state, 0)
        for s, states in truth.events.items()
        for state in ledger.EVENT_STATES
    }
    return (
        shown["rowhook_events_accepted_total"] == accepted
        and shown["rowhook_events"] == events
        and shown["rowhook_records_emitted_total"] == emitted
        and shown["rowhook_records"] == records
    )


def test_whichever_process_answers_the_sums_are_the_ledgers(running):
    load_of_all_kinds(running)
    until(lambda: settled(running), 60)
    refused = {at(source="erp", reason="signature_wrong"): 6, at(source="crm", reason="signature_wrong"): 0}
    refused[at(source="", reason="unknown_source")] = 3
    until(lambda: running.shown()["rowhook_requests_refused_total"] == refused)
    workers = psutil.Process(running.web.pid).children()
    assert len(workers) == 2
    texts = []
    for other in workers:  # each answers alone
        other.suspend()
        try:
            time.sleep(1.1)
            shown = until(lambda: (s := running.shown()) and agrees(s, running.client) and s)
            texts.append({k: v for k, v in shown.items() if "silence" not in k and "_memory_" not in k})
        finally:
            other.resume()
    assert texts[0] == texts[1], "both say the same"
    assert_every_way_was_taken(shown)


def assert_every_way_was_taken(shown: Samples) -> None:
    assert shown["rowhook_events_accepted_total"] == {at(source="erp"): 75, at(source="crm"): 29}
    for source, state, n in (("erp", "duplicate", 10), ("erp", "ignored", 5), ("crm", "quarantined", 4)):
        assert shown["rowhook_events"][at(source=source, state=state)] == n
    assert shown["rowhook_dead_letters"][()] == 1
    assert shown["rowhook_quarantined_events"][()] == 4
    assert shown["rowhook_records"][at(source="erp", destination="mbi", table="erp_orders", state="dead")] == 1
    assert set(shown["rowhook_ledger_residual"].values()) == {0}
    stored = Counter[str]()
    for labels, n in shown["rowhook_records"].items():
        if dict(labels)["state"] == "stored":
            stored[dict(labels)["destination"]] += int(n)
    assert stored == {"lite": 85, "mbi": 59}
    for destination, n in stored.items():
        assert shown["rowhook_delivery_lag_seconds_count"][at(destination=destination)] == n
        assert 0 < shown["rowhook_delivery_lag_seconds_sum"][at(destination=destination)] < n * 60
        tries = {
            k: v for k, v in shown["rowhook_delivery_attempts_total"].items() if ("destination", destination) in k
        }
        assert sum(tries.values()) == shown["rowhook_batch_rows_count"][at(destination=destination)]
        assert tries[at(destination=destination, outcome="stored")] >= 1
    assert shown["rowhook_delivery_attempts_total"][at(destination="mbi", outcome="rejected")] >= 1
    assert shown["rowhook_batch_rows_sum"][at(destination="lite")] == 85


def test_a_scrape_under_load_is_always_whole(running):
    over, statuses, faults = threading.Event(), Counter[int](), list[str]()

    def scrape() -> None:
        while not over.is_set():
            status, text = running.scrape()
            statuses[status] += 1
            try:
                seen = parsed(text)
                assert set(seen["rowhook_ledger_residual"].values()) == {0}
            except Exception as error:  # noqa: BLE001 - told by the test itself
                faults.append(repr(error))

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(8) as pool:
        taken = Counter(pool.map(lambda n: running.post("crm", n), range(1000, 1600)))
    time.sleep(1.5)
    over.set()
    for thread in threads:
        thread.join()
    assert taken == {202: 600}
    assert set(statuses) == {200}
    assert faults == []
    until(lambda: agrees(running.shown(), running.client))


def test_without_the_token_there_is_nothing_to_see(running):
    for token in ("", "wrong", f"{TOKEN}x", TOKEN[:-1], "t\u00f6ken"):
        status, text = running.scrape(token)
        assert (status, text) == (401, "")


def test_an_admin_key_reads_them_until_it_is_revoked_and_no_other_key_does(redis_url, make):
    web, registry = make(metrics_token=TOKEN), Registry(redis.Redis.from_url(redis_url))

    def read(key: str, address: str = "10.1.2.3") -> int:
        headers, environment = {"Authorization": f"Bearer {key}"}, {"REMOTE_ADDR": address}
        return int(web.get("/metrics", headers=headers, environ_base=environment).status_code)

    admin = registry.create("admin", 0, networks=("10.0.0.0/8",))
    other = registry.create("export", 12)
    assert (read(TOKEN), read(admin), read(admin, "192.0.2.1"), read(other)) == (200, 200, 401, 401)
    registry.revoke(registry.find(admin).short)
    assert read(admin) == 401


def test_no_secret_and_nothing_of_an_event_is_shown(running):
    _, text = running.scrape()
    for word in ("s3cret", TOKEN, "goodkey", "example.com", "jane", running.server.url):
        assert word not in text


# --- in one process -------------------------------------------------------------------------------------


@pytest.fixture
def make(redis_url: str, tmp_path: Path) -> Callable[..., Any]:
    def relay(**more: Any) -> Any:
        path = tmp_path / "relay.yaml"
        path.write_text(yaml.safe_dump(settings(redis_url, **{"sources": {"erp": CUSTOM}, **more})))
        return create_app(load(path, tmp_path)).test_client()

    return relay


def look(web: Any) -> Samples:
    web.application.extensions["rowhook_metrics"]._at = float("-inf")
    answer = web.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.text)


def test_a_relay_that_has_seen_nothing_shows_every_destination_and_source_at_nothing(make):
    shown = look(make())
    assert shown["rowhook_events_accepted_total"] == {at(source="erp"): 0}
    assert shown["rowhook_delivery_attempts_total"] == {
        at(destination="warehouse", outcome=outcome): 0 for outcome in measures.OUTCOMES
    }
    assert shown["rowhook_delivery_lag_seconds_count"] == {at(destination="warehouse"): 0}
    assert shown["rowhook_buffer_limit_bytes"][()] == float("inf")
    assert "rowhook_source_silent" not in shown
    assert "rowhook_worker_tick_timestamp_seconds" not in shown


def test_where_redis_is_away_the_answer_says_so_and_comes_again_when_it_is_back(make, redis_url):
    web = make()
    with redis.Redis.from_url(redis_url) as client:
        pid = client.info()["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        shown = look(web)
        assert web.post("/hooks/erp", data=b"{}", headers={"X-Key": "wrong"}).status_code == 401
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {name: len(samples) for name, samples in shown.items()} == {
        "rowhook_redis_up": 1,
        "rowhook_build_info": 1,
    }
    assert shown["rowhook_redis_up"][()] == 0
    until(lambda: look(web)["rowhook_requests_refused_total"].get(at(source="erp", reason="signature_wrong")) == 1)
    assert look(web)["rowhook_redis_up"][()] == 1


def test_what_has_no_room_is_counted_as_refused_and_the_budget_is_shown(make):
    web = make(max_pending_bytes=2_000, max_source_bytes=1_000)
    answers = [
        web.post("/hooks/erp", data=json.dumps({"type": "order", "id": n}), headers={"X-Key": "the-s3cret"})
        for n in range(12)
    ]
    full = sum(answer.status_code == 503 for answer in answers)
    assert 0 < full < 12
    shown = look(web)
    assert shown["rowhook_requests_refused_total"][at(source="erp", reason="over_budget")] == full
    assert shown["rowhook_buffer_limit_bytes"][()] == 2_000
    assert 500 < shown["rowhook_source_buffer_bytes"][at(source="erp")] <= 1_000


def test_a_scrape_is_one_round_trip_however_much_there_is(make, redis_url, monkeypatch):
    web = make(sources={f"source{n}": CUSTOM for n in range(50)})
    with redis.Redis.from_url(redis_url) as client:
        states = {"emitted": 10, "stored": 4, "superseded": 3, "dead": 0, "pending": 2, "discarded": 1}
        for n in range(50):
            fields = {f"e|source{n}|{state}": 1 for state in ("accepted", "mapped")}
            for table in range(5):
                fields |= {f"r|source{n}|warehouse|t{table}|{state}": k for state, k in states.items()}
            client.hset(keys.LEDGER, mapping=fields)
    trips, execute = [], Pipeline.execute
    monkeypatch.setattr(Pipeline, "execute", lambda self, *a, **k: (trips.append(1), execute(self, *a, **k))[1])
    monkeypatch.setattr(redis.Redis, "execute_command", lambda *_, **__: pytest.fail("a trip of its own"))
    took = []
    for _ in range(5):
        began = time.perf_counter()
        shown = look(web)
        took.append(time.perf_counter() - began)
    print(f"50 sources x 5 tables: {min(took) * 1000:.1f} ms with the parsing")  # noqa: T201 - for whoever looks
    assert len(trips) == 5
    assert len(shown["rowhook_records"]) == 50 * 5 * 5


def test_however_many_ask_redis_is_asked_once_a_second(make, monkeypatch):
    web = make()
    trips, execute = [], Pipeline.execute
    monkeypatch.setattr(Pipeline, "execute", lambda self, *a, **k: (trips.append(1), execute(self, *a, **k))[1])
    look(web)
    for _ in range(20):
        assert web.get("/metrics").status_code == 200
    assert len(trips) <= 2


def test_tables_beyond_all_measure_are_summed_under_no_name(make, redis_url, monkeypatch):
    monkeypatch.setattr(gauges, "MOST_ROUTES", 3)
    with redis.Redis.from_url(redis_url) as client:
        for n in range(9):
            client.hset(keys.LEDGER, mapping={f"r|client:1|warehouse|t{n}|{s}": 1 for s in ("emitted", "stored")})
    shown = look(make())["rowhook_records"]
    assert len(shown) == 4
    assert shown[at(source="client:1", destination="warehouse", table="", state="stored")] == 6


def test_what_a_hand_does_in_redis_shows_as_a_residual(make, redis_url):
    web = make()
    with redis.Redis.from_url(redis_url) as client:
        client.hset(keys.LEDGER, mapping={"e|erp|accepted": 3, "e|erp|mapped": 2, "e|erp|quarantined": 2})
        client.hset(keys.LEDGER, mapping={"r|erp|warehouse|t|emitted": 5, "r|erp|warehouse|t|dead": 2})
        client.zadd(keys.QUARANTINE, {"1": 1})
    found = look(web)["rowhook_ledger_residual"]
    rests = {"events": 1, "records": 3, "quarantine": 1, "dead_letters": 2}
    assert found == {at(account=account): n for account, n in rests.items()}


def test_a_paused_and_a_failing_destination_show(make, redis_url):
    web = make()
    with redis.Redis.from_url(redis_url) as client:
        now = int(client.time()[0]) * 1000
        state = {"paused": "by hand", "failures": 4, "open_until": now + 60_000, "since": now - 90_000, "why": "x"}
        client.hset(keys.destination("warehouse"), mapping=state)
        client.hset(keys.lane("warehouse/0/1"), "hold_until", now + 60_000)
    shown = {name: samples.get(at(destination="warehouse")) for name, samples in look(web).items()}
    assert shown["rowhook_destination_paused"] == shown["rowhook_destination_breaker_open"] == 1
    assert shown["rowhook_destination_failures"] == 4
    assert 90 <= shown["rowhook_destination_failing_seconds"] < 100
    assert shown["rowhook_destination_lanes_resting"] == 1


# --- the ticker, and a drain ----------------------------------------------------------------------------


def test_the_ticker_learns_when_a_source_last_sent_and_forgets_one_that_is_gone(make, redis_url, tmp_path):
    web = make()
    with redis.Redis.from_url(redis_url) as client:
        client.hset(keys.LEDGER, mapping={"e|erp|accepted": 500, "e|erp|mapped": 500})
        now = int(client.time()[0])
        pauses = [120] * pulse.HOURS
        account = pulse.Account(500, now - 40 * 86_400, now - 7_200, 500, 60.0, now // 3600 - 2)
        other = pulse._encode(account)
        client.hset(keys.PULSE, mapping={"erp": other, "erp|pauses": pulse._encode(pauses), "gone": other})
        client.hset(keys.PULSE, "gone|pauses", pulse._encode(pauses))
        shown = look(web)
        assert 7_200 <= shown["rowhook_source_silence_seconds"][at(source="erp")] <= 7_210
        assert shown["rowhook_source_silence_limit_seconds"] == {at(source="erp"): 960}
        assert shown["rowhook_source_silent"] == {at(source="erp"): 1}

        keeper = Keeper(load(tmp_path / "relay.yaml", tmp_path), client)
        keeper.tick()
        assert set(client.hkeys(keys.PULSE)) == {b"*", b"erp", b"erp|pauses"}
        shown = look(web)
        assert abs(shown["rowhook_worker_tick_timestamp_seconds"][()] - now) < 10
        assert shown["rowhook_source_silent"] == {at(source="erp"): 1}
        client.hincrby(keys.LEDGER, "e|erp|accepted", 1)
        shown = look(web)
        assert shown["rowhook_source_silent"] == {at(source="erp"): 0}, "before the ticker looks again"
        assert shown["rowhook_source_silence_seconds"] == {at(source="erp"): 0}
        keeper._pulse._looked = -pulse.LOOK_S
        keeper.tick()
        found = {name: account for name, account, _ in pulse.accounts(client.hgetall(keys.PULSE))}
        assert (found["erp"].accepted, found["erp"].moves, found["erp"].said) == (501, 501, False)


def test_a_minute_in_which_nothing_moved_writes_nothing_but_that_it_was_looked(make, redis_url, tmp_path):
    make()
    with redis.Redis.from_url(redis_url) as client:
        config, watcher = load(tmp_path / "relay.yaml", tmp_path), pulse.Pulse(client)
        watcher.look(config.settings.sources)
        before = client.hgetall(keys.PULSE)
        watcher._looked = -pulse.LOOK_S
        watcher.look(config.settings.sources)
        after = client.hgetall(keys.PULSE)
    assert {k: v for k, v in after.items() if k != b"*"} == {k: v for k, v in before.items() if k != b"*"}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(api.refuse(503), "transient"), (api.silence(), "unknown"), (api.refuse(401), "refused")],
)
def test_a_drain_counts_how_its_attempts_end(redis_url, tmp_path, fault, outcome):
    with api.ImportServer() as server:
        here = Here(redis_url, server, tmp_path)
        server.faults(fault)
        for n in range(5):
            here.put(order(n))
        here.drain()
        found = measures.read(here.client.hgetall(keys.METRICS))
        assert found.tries == {("mbi", outcome): 1}
        assert found.rows["mbi"].total == 5
        assert "mbi" not in found.lag
        here.wake()
        here.drain()
        found = measures.read(here.client.hgetall(keys.METRICS))
        assert found.tries == {("mbi", outcome): 1, ("mbi", "stored"): 1}
        assert sum(found.lag["mbi"].counts.values()) == 5
        assert here.states() == {"stored": 5}


def test_a_drain_that_cannot_tell_what_it_measured_delivers_all_the_same(redis_url, tmp_path, monkeypatch):
    def away(*_: Any) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(measures, "add", away)
    with api.ImportServer() as server:
        here = Here(redis_url, server, tmp_path)
        here.put(order(1))
        here.drain()
        assert here.states() == {"stored": 1}
        assert ledger.audit(here.client, deep=True) == []
