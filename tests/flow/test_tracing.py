"""Logs and traces of a relay as it runs: gunicorn, an RQ worker and its horses, and a collector."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import yaml

from relay import config as configuration
from relay.configured import sources_of
from relay.source import sample_request
from tests.servers.collector import Collector, Span

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-of-the-shop"
#: Stands in a body, and in no other place.
WORDS = "very-private-words"


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.02)
    return found


class World:
    """Gunicorn and a worker, logging at debug into one file, and what they send their spans to."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder, self.collector = folder, Collector()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = {
            "redis_url": url,
            "host": "127.0.0.1",
            "port": self.port,
            "web_workers": 2,
            "workers": 1,
            "linger_ms": 300,
            "log_format": "json",
            "log_level": "debug",
            "sources": {"shop": {"kind": "shopify", "secrets": [SECRET]}},
        }
        self.path = folder / "relay.yaml"
        self.path.write_text(yaml.safe_dump(settings))
        self.out = folder / "out.log"
        self.source = sources_of(configuration.load(self.path, folder))["shop"]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.taken = 0

    def start(self) -> None:
        gunicorn = ["gunicorn", "--config", str(ROOT / "deploy/gunicorn.conf.py"), "relay.app:create_app()"]
        env = {**os.environ, "RELAY_CONFIG": str(self.path), "RELAY_DATA": str(self.folder)}
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url}
        for words in (gunicorn, ["worker"]):
            command = [sys.executable, "-m", *words]
            with self.out.open("ab") as out:
                process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=out, stderr=out)
            self.processes.append(process)
        until(self.answers)

    def answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    def post(self, *, secret: str = SECRET, **headers: str) -> requests.Response:
        n = secrets.randbelow(10**9)
        made = sample_request(
            self.source.vendor.samples["orders/create"](n, time.time_ns()), "http://x/hooks/shop"
        )
        body = json.dumps({**json.loads(made.body), "note": WORDS}).encode()
        signed = self.source.verifier.sign(
            type(made)("POST", made.url, made.headers, body, {}), secret, time.time_ns()
        )
        answer = requests.post(
            f"http://127.0.0.1:{self.port}/hooks/shop",
            data=body,
            headers={**signed.headers, **{k.replace("_", "-"): v for k, v in headers.items()}},
            timeout=10,
        )
        self.taken += answer.status_code == 202
        return answer

    def settled(self) -> bool:
        return self.rows() == self.taken

    def rows(self) -> int:
        warehouse = self.folder / "warehouse.db"
        if not warehouse.exists():
            return 0
        with sqlite3.connect(f"file:{warehouse}?mode=ro", uri=True) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'shop_orders'").fetchone():
                return 0
            return int(database.execute("SELECT count(*) FROM shop_orders").fetchone()[0])

    def spans(self, name: str, **attributes: object) -> list[Span]:
        wanted = {f"rowhook.{key}": value for key, value in attributes.items()}
        return [s for s in self.collector.spans if s.name == name and wanted.items() <= s.attributes.items()]

    def lines(self, event: str = "", **values: object) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.out.read_text().splitlines()]
        return [one for one in found if one["event"] == event and values.items() <= one.items()]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(60)
        self.collector.close()


@pytest.fixture(scope="module")
def world(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    world = World(valkey_url, tmp_path_factory.mktemp("traces"))
    with world.collector:
        try:
            world.start()
            yield world
        finally:
            world.stop()


def test_one_trace_goes_from_the_vendors_own_through_the_web_and_redis_to_the_upsert(world):
    trace, vendor = secrets.token_hex(16), secrets.token_hex(8)
    answer = world.post(traceparent=f"00-{trace}-{vendor}-01")
    assert answer.status_code == 202
    upserts = until(lambda: [s for s in world.spans("upsert", table="shop_orders") if s.trace == trace])
    (web,) = until(lambda: [s for s in world.spans("POST /hooks") if s.trace == trace])
    (drain,) = until(lambda: [s for s in world.spans("drain") if s.trace == trace])
    (put,) = [s for s in world.spans("put") if s.trace == trace]
    assert (web.parent, put.parent, drain.parent, upserts[0].parent) == (vendor, web.id, web.id, drain.id)
    assert upserts[0].links == {web.id}
    assert web.attributes["http.response.status_code"] == 202
    assert web.attributes["rowhook.outcome"] == "accepted"
    assert {s.service for s in (web, put, drain, *upserts)} == {"rowhook"}


def test_an_upsert_of_several_requests_links_to_each_of_them(world):
    ids = {world.post().headers["X-Request-ID"] for _ in range(4)}
    until(lambda: len(_of(world, ids)) == 4)
    webs = _of(world, ids)
    assert len({s.trace for s in webs}) == 4
    wanted = {s.id for s in webs}
    until(lambda: wanted <= {link for s in world.spans("upsert", table="shop_orders") for link in s.links})


def _of(world: World, ids: set[str]) -> list[Span]:
    return [s for s in world.spans("POST /hooks") if s.attributes["rowhook.request_id"] in ids]


@pytest.mark.parametrize(
    "header",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa-01",
        "'; DROP TABLE spans",
        "0" * 4000,
    ],
)
def test_a_traceparent_that_is_none_is_ignored(world, header):
    answer = world.post(traceparent=header)
    assert answer.status_code == 202
    (web,) = until(lambda: _of(world, {answer.headers["X-Request-ID"]}))
    assert web.parent == ""
    assert web.trace != "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_refused_delivery_is_a_span_that_says_so(world):
    answer = world.post(secret="wrong")
    assert answer.status_code == 401
    (web,) = until(lambda: _of(world, {answer.headers["X-Request-ID"]}))
    assert web.attributes["http.response.status_code"] == 401
    assert "rowhook.outcome" not in web.attributes


def test_a_request_id_is_kept_where_it_is_plain_and_made_where_it_is_not(world):
    assert world.post(X_Request_ID="from.the-proxy_1").headers["X-Request-ID"] == "from.the-proxy_1"
    for wild in ("with space", "x" * 65, 'quote"', "ä", "<b>"):
        made = world.post(X_Request_ID=wild.encode().decode("latin-1")).headers["X-Request-ID"]
        assert len(made) == 16
        assert int(made, 16) >= 0


def test_what_became_of_a_delivery_is_one_line_with_its_ids_and_one_of_its_attempt(world):
    until(world.settled)
    answer = world.post(X_Request_ID="followed")
    event = answer.json()["id"]
    (taken,) = until(lambda: world.lines("delivery_taken", request_id="followed"))
    assert (taken["source"], taken["outcome"], taken["event_ids"], taken["level"]) == (
        "shop",
        "accepted",
        [event],
        "debug",
    )
    assert taken["ms"] > 0
    assert len(taken["delivery_ids"]) == 1
    (attempt,) = until(lambda: [one for one in world.lines("delivery_attempt") if event in one["event_ids"]])
    assert (attempt["destination"], attempt["outcome"], attempt["attempt"]) == ("warehouse", "stored", 1)
    assert attempt["stored"] == attempt["records"]
    assert (attempt["buried"], attempt["again"]) == (0, 0)
    assert "shop_orders" in attempt["tables"]
    assert min(attempt["bytes"], attempt["ms"], attempt["waited_ms"], attempt["calls"]) > 0
    assert {"batch_id", "lane", "job_id"} <= attempt.keys()


def test_a_refused_delivery_is_a_line_with_the_id_that_its_sender_was_given(world):
    time.sleep(1.1)  # such lines are a second apart
    answer = world.post(secret="wrong")
    (line,) = until(lambda: world.lines("request_refused", request_id=answer.headers["X-Request-ID"]))
    assert (line["status"], line["reason"]) == (401, "signature_wrong")
    assert line["ms"] > 0


def test_no_line_bears_the_id_of_a_request_that_is_over(world):
    ids = {world.post().headers["X-Request-ID"] for _ in range(3)}
    known = {one["request_id"] for one in world.lines("delivery_taken")}
    assert ids <= known
    until(world.settled)
    assert all("request_id" not in one for one in world.lines("delivery_attempt"))


def test_nothing_of_a_payload_and_no_secret_is_in_a_span_or_a_line(world):
    world.post()
    until(world.settled)
    until(lambda: world.spans("upsert"))
    for text in (world.collector.raw, world.out.read_bytes()):
        for secret in (WORDS, SECRET):
            assert secret.encode() not in text


def test_every_line_of_gunicorn_its_workers_the_rq_worker_and_its_horses_is_json(world):
    world.post()
    until(lambda: world.lines("delivery_attempt"))
    for line in world.out.read_text().splitlines():
        assert {"event", "level", "timestamp", "process_id", "logger_name"} <= json.loads(line).keys(), line


def test_a_collector_that_is_away_costs_its_spans_and_nothing_else(world):
    """The last test of the world: from here on nobody listens."""
    world.collector.close()
    for _ in range(5):
        assert world.post().status_code == 202
    until(world.settled)
    until(lambda: world.lines("traces_not_sent"))
    assert world.post().status_code == 202
    until(world.settled)
    assert len(world.lines("traces_not_sent")) <= 3, (
        "once a minute of each web process and of the worker, its horses together"
    )
