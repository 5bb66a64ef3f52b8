"""From a webhook to a warehouse that dlt loads, DuckDB, through the version fence: newer wins, deletes, sets."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
import redis
import yaml

from relay.app import create_app
from relay.buffer import keys, ledger
from relay.buffer.lanes import Lane
from relay.config import load
from worker import jobs
from worker.delivery import Courier
from worker.destinations.dlt import rows
from worker.drain import Pace, drain

pytestmark = pytest.mark.filterwarnings("default")  # dlt and what it brings warn of one another

ORDERS = {
    "when": "type=='order'", "table": "orders", "key": ["id"], "version": "at",
    "columns": {"id": "id", "note": "note"},
    "children": {"lines": {"key": ["sku"]}},
}  # fmt: skip
LANE = "lake/0/1"


class Lake:
    """A relay with one described source, and a drain of its only lane."""

    def __init__(self, url: str, folder: Path, table: dict[str, object] = ORDERS) -> None:
        self.client, self.folder, self.tokens = redis.Redis.from_url(url), folder, itertools.count()
        erp = {
            "kind": "custom", "secrets": ["k"], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
            "tables": [{name: value for name, value in table.items() if value is not None}], "to": "lake",
        }  # fmt: skip
        block = {"kind": "dlt", "warehouse": "duckdb", "credentials": str(folder / "w.duckdb"), "deletes": "mark"}
        path = folder / "relay.yaml"
        settings = {"redis_url": url, "linger_ms": 0, "archive_days": 0}
        path.write_text(yaml.safe_dump({**settings, "sources": {"erp": erp}, "destinations": {"lake": block}}))
        self.config = load(path, folder)
        self.web = create_app(self.config).test_client()

    def post(self, at: int, *skus: str, **more: object) -> None:
        body = {"type": "order", "id": 1, "at": f"2026-01-01T00:00:{at:02d}Z", "note": f"n{at}", **more}
        if skus:
            body["lines"] = [{"sku": sku, "at": at} for sku in skus]
        answer = self.web.post("/hooks/erp", data=json.dumps(body), headers={"X-Key": "k"})
        assert answer.status_code == 202, answer.text

    def drain(self) -> None:
        destination = jobs.open_destination(self.config, "lake")
        lane = Lane(self.client, LANE, f"t{next(self.tokens)}")
        courier = Courier(lane, destination)
        until = time.monotonic() + 60
        queue = keys.queue(LANE, "erp")
        drain(
            lane, courier.read, courier, pace=Pace(0, 100, 1000), others_wait=lambda: False,
            stopping=lambda: time.monotonic() > until or not self.client.zcount(queue, "-inf", time.time() * 1000),
        )  # fmt: skip
        destination.close()

    def execute(self, statement: str) -> None:
        """As a user of the warehouse."""
        with duckdb.connect(str(self.folder / "w.duckdb")) as db:
            db.execute(statement)

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """An outage."""
        file, moved = self.folder / "w.duckdb", self.folder / "moved.duckdb"
        if name == "every load fails":
            self.execute("ALTER TABLE rowhook._dlt_loads RENAME status TO state")
            yield
            self.execute("ALTER TABLE rowhook._dlt_loads RENAME state TO status")
        else:
            file.rename(moved)
            file.mkdir()
            yield
            file.rmdir()
            moved.rename(file)

    def wake(self) -> None:
        """Let rests be over, as time would."""
        self.client.hdel(keys.lane(LANE), "hold_until")
        if self.client.hexists(keys.destination("lake"), "open_until"):
            self.client.hset(keys.destination("lake"), "open_until", 1)
        queue = keys.queue(LANE, "erp")
        for arrival in self.client.zrange(queue, 0, -1):
            self.client.zadd(queue, {arrival: 0})

    def rows(self, table: str, columns: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(self.folder / "w.duckdb")) as db:
            return db.execute(f"SELECT {columns} FROM rowhook.{table} ORDER BY 1, 2").fetchall()


@pytest.fixture
def lake(redis_url: str, tmp_path: Path) -> Lake:
    return Lake(redis_url, tmp_path)


def test_newer_wins_in_any_order_and_a_line_that_is_gone_is_marked(lake: Lake) -> None:
    lake.post(5, "a", "b")
    lake.post(3, "a", "c")
    lake.drain()
    assert lake.rows("erp_orders", "id, note") == [("1", "n5")]
    assert lake.rows("erp_orders_lines", "sku, _relay_deleted_at IS NULL") == [("a", True), ("b", True)]
    lake.post(4, "d")  # late
    lake.post(6, "b")
    lake.drain()
    assert lake.rows("erp_orders", "id, note") == [("1", "n6")]
    assert lake.rows("erp_orders_lines", 'sku, _relay_deleted_at IS NULL, "at"') == [
        ("a", False, 5),
        ("b", True, 6),
    ]
    assert ledger.audit(lake.client, deep=True) == []
    states = ledger.read(lake.client).records["erp", "lake", "erp_orders"]
    assert {s: n for s, n in states.items() if n} == {"emitted": 4, "stored": 2, "superseded": 2}


def test_a_column_without_a_name_blocks_nobody_and_a_fault_of_ours_costs_one_record(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(column: str, parts: Callable[[str], Sequence[str]]) -> str:
        if column == "poison":
            raise ValueError(column)
        return rows.named(column, parts)

    monkeypatch.setattr("worker.destinations.dlt.named", named)
    lake = Lake(redis_url, tmp_path, {**ORDERS, "columns": None, "children": {}})
    for number, more in enumerate([{"": "v"}, {"poison": "v"}, {}]):
        lake.post(1, id=number, **more)
    lake.drain()
    assert lake.rows("erp_orders", "id, unnamed") == [("0", "v"), ("2", None)]
    states = ledger.read(lake.client).records["erp", "lake", "erp_orders"]
    assert {s: n for s, n in states.items() if n} == {"emitted": 3, "stored": 2, "dead": 1}
    (letter,) = lake.client.hvals(keys.DEAD)
    assert b"a fault of ours, ValueError: see the log" in letter


NOTES = {**ORDERS, "children": {}}


def told(lake: Lake) -> dict[str, int]:
    states = ledger.read(lake.client).records["erp", "lake", "erp_orders"]
    return {state: n for state, n in states.items() if n and state != "emitted"}


def test_a_record_over_which_a_load_fails_is_buried_alone_with_the_warehouses_words(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.delivery.STUBBORN", 2)
    lake = Lake(redis_url, tmp_path, NOTES)
    lake.post(1, id=0, note="0")
    lake.drain()
    lake.execute("ALTER TABLE rowhook.erp_orders ALTER note TYPE INT")  # somebody did
    for number, note in enumerate(["1", "two", "3"], start=1):
        lake.post(2, id=number, note=note)
    lake.drain()
    assert told(lake) == {"stored": 1, "pending": 3}
    lake.wake()
    lake.drain()
    assert told(lake) == {"stored": 3, "dead": 1}
    assert lake.rows("erp_orders", "id, note") == [("0", 0), ("1", 1), ("3", 3)]
    (letter,) = lake.client.hvals(keys.DEAD)
    assert b"over this record alone" in letter
    assert b"Could not convert string 'two' to INT32" in letter
    assert ledger.audit(lake.client, deep=True) == []


@pytest.mark.parametrize("fault", ["every load fails", "the warehouse is away"])
def test_an_outage_of_the_warehouse_buries_nothing_and_all_is_stored_behind_it(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("worker.delivery.STUBBORN", 2)
    lake = Lake(redis_url, tmp_path, NOTES)
    lake.post(1, id=0)
    lake.drain()
    with lake.fault(fault):
        for number in (1, 2):
            lake.post(2, id=number)
        for _ in range(4):
            lake.drain()
            lake.wake()
        assert told(lake) == {"stored": 1, "pending": 2}
        assert lake.client.hlen(keys.DEAD) == 0
    lake.drain()
    assert told(lake) == {"stored": 3}
    assert [number for number, _ in lake.rows("erp_orders", "id, note")] == ["0", "1", "2"]
