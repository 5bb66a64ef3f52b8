"""What a 202 means on a Redis that does not sync every write: asked for, or accepted in so many words."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from relay import config as configuration
from relay.app import create_app
from relay.buffer import keys, ledger
from relay.buffer.accept import Bounds, Front
from relay.buffer.redis import inspect
from relay.config import Config, Settings
from relay.configured import sources_of
from relay.errors import BufferUnavailable, ConfigInvalid
from relay.source import sample_request
from tests.flow.test_buffer import delivery, offer
from tests.servers.valkey import valkey

SECRET = "shpss_test"


@pytest.fixture(scope="module")
def everysec() -> Iterator[str]:
    with valkey(appendfsync="everysec") as url:
        yield url


@pytest.fixture
def client(everysec: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(everysec) as client:
        client.config_set("appendfsync", "everysec")
        client.flushall()
        yield client


def config(url: str, folder: Path, **settings) -> Config:
    shop = {"kind": "shopify", "secrets": [SECRET]}
    made = Settings(redis_url=url, linger_ms=0, sources={"shop": shop}, **settings)
    return Config(configuration._with_defaults(made), None, folder, {}, [])


def signed(settings: Config, n: int) -> dict:
    source, now = sources_of(settings)["shop"], time.time_ns()
    request = sample_request(source.vendor.samples["orders/create"](n, now), "http://localhost/hooks/shop")
    done = source.verifier.sign(request, SECRET, now)
    return {"data": done.body, "headers": dict(done.headers)}


def post(web, settings: Config, n: int):
    return web.post("/hooks/shop", **signed(settings, n))


def commands(client: redis.Redis, during) -> list[str]:
    """Names of the commands that came to the server meanwhile."""
    with client.monitor() as monitor:
        during()
        client.echo("over")
        names = []
        while True:
            words = monitor.next_command()["command"].upper().split()
            if words[:1] == ["ECHO"]:
                return names
            names.append(words[0])


def test_where_redis_syncs_once_a_second_each_put_waits_for_the_disk(client, everysec, tmp_path):
    settings = config(everysec, tmp_path)
    web = create_app(settings).test_client()
    post(web, settings, 1)
    seen = commands(client, lambda: post(web, settings, 2))
    assert "WAITAOF" in seen[seen.index("EVALSHA") :]
    assert client.hlen(keys.EVENTS) == 2
    assert ledger.audit(client, deep=True) == []


def test_where_redis_syncs_every_write_nothing_is_asked_besides(redis_url, tmp_path):
    settings = config(redis_url, tmp_path)
    web = create_app(settings).test_client()
    with redis.Redis.from_url(redis_url) as client:
        post(web, settings, 1)
        assert "WAITAOF" not in commands(client, lambda: post(web, settings, 2))


def test_a_put_that_the_disk_does_not_confirm_is_503_and_its_repetition_is_taken_once(client, everysec, tmp_path):
    settings = config(everysec, tmp_path, accept_deadline_s=0.5)
    web = create_app(settings).test_client()
    client.config_set("appendfsync", "no")  # from now on nobody syncs
    order = signed(settings, 1)
    refused = web.post("/hooks/shop", **order)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    client.config_set("appendfsync", "everysec")
    until = time.monotonic() + 30
    while (again := web.post("/hooks/shop", **order)).status_code != 202:
        assert time.monotonic() < until, "the disk is back, and still it is refused"
    assert again.get_json()["duplicate"] is True
    assert client.hlen(keys.EVENTS) == 1
    assert ledger.audit(client, deep=True) == []


def test_an_append_only_file_that_is_turned_off_later_is_not_acknowledged_over(client, everysec):
    front = Front(everysec, Bounds(linger_ms=0), lambda _: None, waits=True)
    front.put(delivery(offer(1)))
    client.config_set("appendonly", "no")
    try:
        with pytest.raises(BufferUnavailable):
            front.put(delivery(offer(2)))
    finally:
        client.config_set("appendonly", "yes")


def test_puts_that_wait_for_the_disk_do_not_wait_for_each_other(client, everysec):
    front = Front(everysec, Bounds(linger_ms=0), lambda _: None, deadline_s=30, waits=True)
    front.put(delivery(offer(0)))
    client.config_set("appendfsync", "no")
    failed: list[Exception] = []

    def put(n: int) -> None:
        try:
            front.put(delivery(offer(n)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
            failed.append(error)

    threads = [threading.Thread(target=put, args=(n,)) for n in range(1, 17)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while client.info("clients")["blocked_clients"] < len(threads):
        assert time.monotonic() < until, "they queue behind each other"
        time.sleep(0.01)
    client.config_set("appendfsync", "everysec")
    for thread in threads:
        thread.join()
    assert failed == []
    assert client.hlen(keys.EVENTS) == 17


def test_durability_process_says_what_may_be_lost_and_does_not_wait(client, everysec, tmp_path):
    report = inspect(client, "process")
    assert not report.waits
    assert "machine dies" in report.warnings[0]
    settings = config(everysec, tmp_path, durability="process")
    web = create_app(settings).test_client()
    post(web, settings, 1)
    assert "WAITAOF" not in commands(client, lambda: post(web, settings, 2))


def test_a_redis_that_never_syncs_is_refused(client):
    client.config_set("appendfsync", "no")
    (fault,) = inspect(client).faults
    assert "durability: process" in fault


def test_without_an_append_only_file_the_start_is_refused_unless_it_was_accepted_in_words(tmp_path):
    with valkey(appendonly="no") as url, redis.Redis.from_url(url) as client:
        with pytest.raises(ConfigInvalid, match=r"append-only file is off.*durability: process"):
            create_app(config(url, tmp_path))
        settings = config(url, tmp_path, durability="process")
        assert post(create_app(settings).test_client(), settings, 1).status_code == 202
        report = inspect(client, "process")
        assert report.faults == []
        assert "append-only file is off" in report.warnings[0]
        faults, warnings = checked(url, tmp_path, "disk")
        assert [fault for fault in faults if "durability: process" in fault]
        faults, warnings = checked(url, tmp_path, "process")
        assert not [fault for fault in faults if fault.startswith("Redis")]
        assert [warning for warning in warnings if "append-only file is off" in warning]


def checked(url: str, folder: Path, durability: str) -> tuple[list[str], list[str]]:
    """Faults and warnings of `relay check`."""
    path = folder / "relay.yaml"
    path.write_text(f"redis_url: {url}\ndurability: {durability}\n")
    command = [sys.executable, "-m", "relay", "check", "--config", str(path), "--data", str(folder), "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, timeout=120, check=False).stdout)
    return said["faults"], said["warnings"]


def test_a_server_that_hides_how_it_syncs_is_asked_to_wait(client, everysec):
    """As managed servers do: CONFIG is not allowed, and INFO does not say when the file is synced."""
    client.execute_command("ACL", "SETUSER", "guest", "on", "nopass", "~*", "&*", "+@all", "-config")
    with redis.Redis.from_url(everysec, username="guest", password="x") as guest:
        report = inspect(guest)
    assert report["appendfsync"] == "unknown"
    assert (report.faults, report.waits) == ([], True)


def test_a_server_that_cannot_wait_is_refused(client, everysec):
    client.execute_command("ACL", "SETUSER", "old", "on", "nopass", "~*", "&*", "+@all", "-waitaof")
    with redis.Redis.from_url(everysec, username="old", password="x") as old:
        (fault,) = inspect(old).faults
    assert "WAITAOF" in fault
    assert "appendfsync always" in fault
