"""What is removed by hand, anywhere, `relay audit --deep` names with exit code 1."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest

from relay import config as configuration
from relay.app import create_app
from relay.buffer import keys
from relay.buffer.lanes import Lane, Settlement
from relay.configured import sources_of
from relay.source import sample_request
from worker import jobs
from worker.delivery import Courier
from worker.drain import Pace, drain

SETTINGS = """
redis_url: {url}
linger_ms: 0
sources:
  shop: {{kind: shopify, secrets: [s]}}
"""


class Shop:
    """A relay with five delivered orders, one that waits, one dead letter and one event in quarantine."""

    def __init__(self, url, folder):
        self.folder, self.path = folder, folder / "relay.yaml"
        self.path.write_text(SETTINGS.format(url=url))
        self.config = configuration.load(self.path, folder)
        self.web = create_app(self.config).test_client()
        self.client = configuration_client(url)
        for n in range(5):
            self.post(n)
        self.drain("archive/0/1")
        self.drain("warehouse/0/1")
        self.post(6)
        self.bury()
        self.post(7, body=b"{")
        self.post(8)

    def post(self, n, body=None):
        source = sources_of(self.config)["shop"]
        now = time.time_ns()
        request = sample_request(source.vendor.samples["orders/create"](n, now), "http://localhost/hooks/shop")
        request = type(request)(request.method, request.url, request.headers, body or request.body, {})
        done = source.verifier.sign(request, "s", now)
        assert self.web.post("/hooks/shop", data=done.body, headers=dict(done.headers)).status_code == 202

    def drain(self, name):
        until = time.monotonic() + 0.5
        self.client.hset(keys.lane(name), mapping={"holder": "", "until": 0})
        lane = Lane(self.client, name, f"t{time.time_ns()}")
        jobs.setup(self.config)
        receiver = jobs._receiver(self.config, lane)
        drain(
            lane,
            receiver.read,
            receiver.deliver,
            pace=Pace(0, 1),
            stopping=lambda: time.monotonic() > until,
            others_wait=lambda: False,
        )
        receiver.close()

    def bury(self):
        self.client.hset(keys.lane("warehouse/0/1"), mapping={"holder": "", "until": 0})
        lane = Lane(self.client, "warehouse/0/1", "undertaker")
        assert lane.begin()
        (one,) = lane.claim(["shop"], most=9, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)
        destination = jobs.open_destination(self.config, "warehouse")
        items = Courier(lane, destination).read([one]).items
        destination.close()
        table, (item, *_) = next(iter(items.items()))
        letter = b'["shop","' + table.encode() + b'","k","v","no","destination"]'
        counts = {f"r|shop|warehouse|{t}|pending": -len(found) for t, found in items.items()}
        for t, found in items.items():
            counts[f"r|shop|warehouse|{t}|stored"] = len(found) - (t == table)
        counts[f"r|shop|warehouse|{table}|dead"] = 1
        lane.settle(Settlement({"shop": [one.arrival]}, [], [(one.arrival, item.position, letter)], counts, {}))
        lane.finish(["shop"], 0, even_if_due=True)

    def run(self, *command):
        from typer.testing import CliRunner

        from relay.cli.main import app

        return CliRunner().invoke(app, [*command, "--config", str(self.path), "--data", str(self.folder)])

    def audit(self):
        result = self.run("audit", "--deep")
        assert not result.exception or isinstance(result.exception, SystemExit), result.exception
        self.beside = result.stderr
        return result.exit_code, result.stdout

    def sql(self, statement):
        with sqlite3.connect(self.folder / "warehouse.db") as db:
            db.execute(statement)
        db.close()


def configuration_client(url):
    import redis

    return redis.Redis.from_url(url)


@pytest.fixture(scope="module")
def shop(valkey_url, tmp_path_factory):
    with configuration_client(valkey_url) as client:
        client.flushall()
    return Shop(valkey_url, tmp_path_factory.mktemp("shop"))


def _first(client, name, command):
    return getattr(client, command)(name)


SABOTAGE = {
    "a pending row": (lambda s: s.client.zrem(q(), s.client.zrange(q(), 0, 0)[0]), "the ledger says"),
    "a raw event": (lambda s: s.client.hdel(keys.EVENTS, s.client.zrange(q(), 0, 0)[0]), "its body is gone"),
    "a dead letter": (lambda s: s.client.hdel(keys.DEAD, s.client.hkeys(keys.DEAD)[0]), "dead letters"),
    "a quarantined event": (lambda s: s.client.zpopmin(keys.QUARANTINE), "quarantine holds 0"),
    "a counter's unit": (lambda s: s.client.hincrby(keys.LEDGER, "e|shop|mapped", -1), "events of shop"),
    "a destination's row": (
        lambda s: s.sql("DELETE FROM shop_order_lines WHERE rowid = (SELECT min(rowid) FROM shop_order_lines)"),
        "of shop_order_lines at warehouse is missing",
    ),
    "a row of a table that has a dead letter": (
        lambda s: s.sql("DELETE FROM shop_orders WHERE rowid = (SELECT min(rowid) FROM shop_orders)"),
        "of shop_orders at warehouse is missing",
    ),
    "a destination's value": (
        lambda s: s.sql(
            "UPDATE shop_order_lines SET quantity = 99 WHERE rowid = (SELECT min(rowid) FROM shop_order_lines)"
        ),
        "of shop_order_lines at warehouse is not as it was delivered",
    ),
}


def q():
    return keys.queue("warehouse/0/1", "shop")


def test_a_whole_relay_balances_to_begin_with(shop):
    assert shop.audit() == (0, "the ledger balances\n")


@contextlib.contextmanager
def undone(shop):
    """What is struck is undone afterwards, so that the next strike stands alone."""
    before = {k: shop.client.dump(k) for k in shop.client.keys("*")}
    kept = (shop.folder / "warehouse.db").read_bytes()
    wal = shop.folder / "warehouse.db-wal"
    kept_wal = wal.read_bytes() if wal.exists() else None
    try:
        yield
    finally:
        shop.client.flushall()
        for key, dump in before.items():
            shop.client.restore(key, 0, dump)
        (shop.folder / "warehouse.db").write_bytes(kept)
        wal.unlink(missing_ok=True)
        (shop.folder / "warehouse.db-shm").unlink(missing_ok=True)
        if kept_wal is not None:
            wal.write_bytes(kept_wal)


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_named(shop, what):
    strike, words = SABOTAGE[what]
    with undone(shop):
        strike(shop)
        code, text = shop.audit()
    assert code == 1
    assert words in text
    assert shop.audit()[0] == 0


def test_where_records_were_given_up_it_is_said_how_many_rows_differ(shop):
    with undone(shop):
        shop.run("dead", "discard", "--all", "--yes")
        shop.sql("DELETE FROM shop_orders WHERE rowid = (SELECT min(rowid) FROM shop_orders)")
        assert shop.audit() == (0, "the ledger balances\n")
        said = shop.beside
    assert "rows at warehouse, table shop_orders were not judged: 1 differ" in said
    assert "1 records were given up or sent again there" in said
