"""The archive put to use: replays, dry runs of them, and the deliveries behind a row."""

from __future__ import annotations

import io
import itertools
import json
import sqlite3
import sys
import time
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner

from relay import jobs, lineage, otherhalf
from relay.app import create_app
from relay.buffer import keys, ledger
from relay.buffer.failures import Failures
from relay.buffer.lanes import Lane
from relay.cli import history
from relay.cli.main import app
from relay.config import load
from relay.configured import sources_of
from relay.errors import ConfigInvalid
from relay.records import Codec, Meta, Table
from tests.contracts.destinations import postgres_server
from tests.oracle import world
from tests.oracle.sending import SIGN, Delivery, secret_of
from worker import jobs as worker_jobs
from worker.__main__ import _STREAMS
from worker.archive import Archive

SEED, EACH = 20_261_121, 30
ERP = {"kind": "custom", "secrets": ["k"], "verify": {"token": {"header": "X-Key"}}, "type": "body.type"}
ORDERS = {
    "table": "orders",
    "key": ["id"],
    "columns": {"id": "id", "name": "name"},
    "version": "at",
    "deleted": "type == 'order.deleted'",
    "children": {"lines": {"key": ["sku"]}},
}


class Here:
    """A relay in this process: its web half, its drains, its commands."""

    def __init__(self, url: str, folder: Path, **settings: Any):
        self.url, self.folder, self.path = url, folder, folder / "relay.yaml"
        self.client = redis.Redis.from_url(url)
        self._tokens = itertools.count()
        self.settings = {"redis_url": url, "linger_ms": 0, **settings}
        self.write()

    def write(self, **changes: Any) -> None:
        """Other settings, from now on."""
        self.settings |= changes
        self.path.write_text(yaml.safe_dump(self.settings))
        self.config = load(self.path, self.folder)
        self.web = create_app(self.config).test_client()

    def map(self, **changes: Any) -> None:
        """Another mapping of the source `erp`."""
        self.write(sources={"erp": {**ERP, "tables": [{**ORDERS, **changes}]}})

    def post(self, source: str, body: Any, **headers: str) -> str:
        """One delivery; returns the event's id."""
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json", "X-Key": "k", **headers}
        answer = self.web.post(f"/hooks/{source}", data=data, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.get_json()["id"])

    def send(self, deliveries: list[Delivery]) -> None:
        """Signed deliveries of the vendors."""
        for one in deliveries:
            self.post(one.source, one.body, **one.headers, **SIGN[one.kind](secret_of(one.source), one.body))

    def drain(self) -> None:
        """Deliver all that waits, and archive it."""
        for name in sorted(n.decode() for n in self.client.smembers(keys.LANES)):
            lane = Lane(self.client, name, f"t{next(self._tokens)}")
            standing = lane.begin()
            assert standing
            with closing(worker_jobs._receiver(self.config, lane)) as receiver:
                while isinstance(found := self._claim(lane), list):
                    settlement = receiver.deliver(receiver.read(found), standing)
                    assert not settlement.failed, settlement.why
                    lane.settle(settlement)
            assert lane.finish(lane.sources(), 0)

    def _claim(self, lane: Lane) -> Any:
        return lane.claim(lane.sources(), most=500, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)

    def waiting(self) -> int:
        return sum(self.client.zcard(key) for key in self.client.scan_iter("rh:queue:warehouse/*"))

    def run(self, *args: str) -> Any:
        result = CliRunner().invoke(app, [*args, "--config", str(self.path), "--data", str(self.folder)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def rehearse(self, source: str = "erp", *args: str) -> dict[str, Any]:
        """What a dry run says."""
        return json.loads(
            self.run("replay", "--source", source, "--since", "1h", "--dry-run", "--json", *args).stdout
        )

    def lineage(self, table: str, *key: str) -> list[tuple[str, str, str]]:
        """Event, what it says and its state."""
        found = json.loads(self.run("lineage", table, *key, "--json").stdout)
        assert found == sorted(found, key=lambda touch: touch["version"])
        return [(touch["event"], touch["says"], touch["state"]) for touch in found]

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in the warehouse."""
        with closing(sqlite3.connect(self.folder / "warehouse.db")) as db, db:
            return db.execute(statement).fetchall()

    def buffer(self) -> dict[bytes, bytes | None]:
        """All that Redis holds, but for when lanes were last asked for."""
        # What was not mapped is noted a moment later, by a thread of the web half.
        return {key: self.client.dump(key) for key in self.client.scan_iter("*") if key != keys.DRIFT.encode()}


@pytest.fixture
def inline(monkeypatch):
    """What `relay` asks of `python -m worker` is answered in this process, which is quicker."""

    def answered(config: Any, verb: str, *args: str, told: Any = None) -> Iterator[Any]:
        with monkeypatch.context() as patch:
            patch.setattr(
                sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(line + b"\n" for line in told or ())))
            )
            for value in _STREAMS[verb](config, *args):
                yield json.loads(json.dumps(value))

    monkeypatch.setattr(otherhalf, "stream_worker", answered)


@pytest.fixture
def here(redis_url, tmp_path, inline):
    return Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}})


def order(n: int, at: int, what: str = "order.saved", **data: Any) -> dict[str, Any]:
    return {"type": what, "id": n, "at": f"2026-01-01T00:00:{at:02d}Z", **data}


def lines(*skus: str) -> list[dict[str, Any]]:
    return [{"sku": sku, "n": 1} for sku in skus]


NOTHING = {"inserted": 0, "changed": 0, "rejected": 0}


def sorts(found: dict[str, Any]) -> dict[str, int]:
    return {name: found[name] for name in NOTHING}


# --- dry runs -----------------------------------------------------------------------------------------


def test_a_dry_run_of_everything_after_a_shuffled_load_of_all_vendors_changes_nothing(redis_url, tmp_path, inline):
    """Updates, deletes, sets and duplicates in any order, in several claims, at both SQL destinations."""
    rng = Random(SEED)
    load_ = world.deliveries(SEED, EACH)
    load_ += rng.sample(load_, 40)
    rng.shuffle(load_)
    with postgres_server() as dsn:
        settings = yaml.safe_load(world.config("{sqlite: {kind: sqlite}}"))
        settings["destinations"]["postgres"] = {"kind": "postgres", "dsn": dsn, "schema": "relay"}
        here = Here(redis_url, tmp_path, **settings)
        for start in range(0, len(load_), 70):
            here.send(load_[start : start + 70])
            here.drain()
        assert ledger.audit(here.client, deep=True) == []
        before = here.buffer()
        for source in world.SOURCES:
            found = here.rehearse(source)
            assert (source, sorts(found), found["rows"]) == (source, NOTHING, [])
            assert found["destinations"].keys() == {"sqlite", "postgres"}
            assert all(counts["ignored"] > 10 for counts in found["destinations"].values()), found
            assert found["failed"] == found["unseen"] == {}
        assert here.buffer() == before
        # It would have been seen: a row that somebody changed, and one that somebody threw away.
        ((key,),) = here.sql("SELECT id FROM shopify_orders WHERE _relay_deleted_at IS NULL LIMIT 1")
        here.sql(f"UPDATE shopify_orders SET name = 'by hand' WHERE id = {key}")
        others = f"SELECT max(id) FROM shopify_orders WHERE id != {key}"
        here.sql(f"DELETE FROM shopify_orders WHERE id = ({others})")
        found = here.rehearse("shopify")
        assert sorts(found) == {"inserted": 1, "changed": 1, "rejected": 0}
        (changed,) = [row for row in found["rows"] if row["op"] == "changed"]
        assert (changed["table"], changed["key"], changed["fields"]["name"][0]) == (
            "shopify_orders", {"id": key}, "by hand",
        )  # fmt: skip


def test_a_dry_run_shows_each_row_once_and_leaves_everything_as_it_was(here):
    """Of a new row with several events the newest is shown; a line that it leaves out would never be there."""
    here.post("erp", order(1, 1, name="a", lines=lines("x", "y")))
    here.drain()
    for at, name, skus in ((2, "b", "xz"), (4, "d", "xw"), (3, "c", "xv")):
        here.post("erp", order(1, at, name=name, lines=lines(*skus)))
        here.post("erp", order(2, at, name=name))
    here.post("erp", order(3, 1, name="a"))
    here.client.delete(*here.client.scan_iter("rh:queue:warehouse/*"))  # they are archived and never delivered
    here.drain()
    rows, before = here.sql("SELECT * FROM erp_orders"), here.buffer()
    found = here.rehearse()
    assert here.sql("SELECT * FROM erp_orders") == rows
    assert here.buffer() == before
    shown = {(row["op"], row["table"], *row["key"].values()): row["fields"] for row in found["rows"]}
    assert shown.keys() == {
        ("changed", "erp_orders", "1"),
        ("inserted", "erp_orders", "2"),
        ("inserted", "erp_orders", "3"),
        ("changed", "erp_orders_lines", "1", "y"),
        ("inserted", "erp_orders_lines", "1", "w"),
    }
    assert shown["changed", "erp_orders", "1"]["name"] == ["a", "d"]
    assert shown["inserted", "erp_orders", "2"]["name"] == [None, "d"]
    assert shown["changed", "erp_orders_lines", "1", "y"]["_relay_deleted_at"] == [
        None,
        "2026-01-01T00:00:04.000000Z",
    ]
    assert sorts(found) == {"inserted": 3, "changed": 2, "rejected": 0}
    assert found["ignored"] == 1, "line x stays as it is, but for where it comes from"


def test_a_dry_run_takes_only_the_events_that_are_named(here):
    for n in range(3):
        here.post("erp", order(n, 1, f"type.{n}"))
    here.drain()
    here.sql("DELETE FROM erp_orders")
    assert here.rehearse()["inserted"] == 3
    assert here.rehearse("erp", "--type", "type.1")["inserted"] == 1
    assert here.rehearse("erp", "--until", "30m")["inserted"] == 0


def test_a_dry_run_in_words(redis_url, tmp_path):
    """As it really runs, with the other half in a process of its own."""
    here = Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}})
    here.post("erp", order(1, 1, name="a"))
    here.drain()
    here.sql("UPDATE erp_orders SET name = 'by hand'")
    said = here.run("replay", "--source", "erp", "--since", "1h", "--dry-run")
    assert said.exit_code == 0
    assert said.stdout.splitlines() == [
        "warehouse  changed  erp_orders  id=1",
        '    name: "by hand" -> "a"',
        "0 inserted, 1 changed, 0 ignored, 0 rejected; nothing was stored",
    ]


def test_a_dry_run_names_what_cannot_be_mapped_and_which_destinations_cannot_tell(here):
    far = {"kind": "import_api", "url": "http://127.0.0.1:9", "client_id": 1, "api_key": "k"}
    here.post("erp", order(1, 1, name="a"))
    here.post("erp", {"type": "order.saved", "id": None})
    here.drain()
    sources = {"erp": {**ERP, "tables": [ORDERS], "to": ["warehouse", "far"]}}
    here.write(destinations={"warehouse": {"kind": "sqlite"}, "far": far}, sources=sources)
    result = here.run("replay", "--source", "erp", "--since", "1h", "--dry-run", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [why for why in found["failed"].values() if "key" in why]
    assert "cannot tell what would change" in found["unseen"]["far"]
    assert found["destinations"]["warehouse"] == {"inserted": 0, "changed": 0, "ignored": 1, "rejected": 0}


def test_a_dry_run_halves_what_is_refused_as_a_delivery_does(here):
    for n in range(5):
        here.post("erp", order(n, 1, name="a"))
    here.drain()
    here.sql("DELETE FROM erp_orders")
    here.sql(
        "CREATE TRIGGER no BEFORE INSERT ON erp_orders WHEN NEW.id = '3' BEGIN SELECT RAISE(ABORT, 'not 3'); END"
    )
    found = here.rehearse()
    assert sorts(found) == {"inserted": 4, "changed": 0, "rejected": 1}
    (rejected,) = [row for row in found["rows"] if row["op"] == "rejected"]
    assert (rejected["key"], "not 3" in rejected["reason"]) == ('["3"]', True)


def test_a_dry_run_shows_what_a_rejected_newest_record_hid(here):
    for at, name in ((1, "a"), (2, "b"), (3, "no"), (4, "no")):
        here.post("erp", order(1, at, name=name))
    here.drain()
    here.sql("DELETE FROM erp_orders")
    here.sql(
        "CREATE TRIGGER no BEFORE INSERT ON erp_orders WHEN NEW.name = 'no' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    found = here.rehearse()
    assert sorts(found) == {"inserted": 1, "changed": 0, "rejected": 2}
    (inserted,) = [row for row in found["rows"] if row["op"] == "inserted"]
    assert inserted["fields"]["name"] == [None, "b"]


# --- another mapping ----------------------------------------------------------------------------------


def test_a_changed_mapping_is_shown_by_a_dry_run_and_applied_by_the_replay(here):
    """The versions are equal, so the rows are written again; nothing older comes over them."""
    for at, name in ((2, "b"), (1, "a"), (3, "c")):
        here.post("erp", order(1, at, name=name, city="Bern"))
    here.drain()
    here.map(columns={"id": "id", "title": "name", "city": "city"})
    found = here.rehearse()
    assert sorts(found) == {"inserted": 0, "changed": 1, "rejected": 0}
    assert found["rows"][0]["fields"] == {"name": ["c", None], "title": [None, "c"], "city": [None, "Bern"]}
    assert "title" not in {row[1] for row in here.sql("PRAGMA table_info(erp_orders)")}
    assert here.run("replay", "--source", "erp", "--since", "1h").exit_code == 0
    here.drain()
    assert here.sql("SELECT id, name, title, city FROM erp_orders") == [("1", None, "c", "Bern")]
    assert sorts(here.rehearse()) == NOTHING
    account = ledger.read(here.client)
    assert account.records["erp", "warehouse", "erp_orders"]["emitted"] == 6
    assert ledger.audit(here.client, deep=True) == []


def test_a_replay_takes_what_was_in_quarantine_through_the_mended_mapping(here):
    here.map(columns={"id": "number", "name": "name"})
    here.post("erp", order(1, 1, name="a"))
    here.drain()
    assert len(here.rehearse()["failed"]) == 1
    assert here.run("replay", "--source", "erp", "--since", "1h").exit_code == 1, "the mapping is still wrong"
    here.map()
    assert sorts(here.rehearse()) == {"inserted": 1, "changed": 0, "rejected": 0}
    assert here.run("replay", "--source", "erp", "--since", "1h").exit_code == 0
    here.drain()
    assert here.sql("SELECT id, name FROM erp_orders") == [("1", "a")]
    account = ledger.read(here.client)
    assert account.events["erp"] == {"accepted": 1, "mapped": 1, "quarantined": 0}
    assert ledger.audit(here.client, deep=True) == []
    assert sorts(here.rehearse()) == NOTHING


def test_a_mapping_with_another_table_fills_it_from_the_archive(here):
    here.post("erp", order(1, 1, name="a", lines=lines("x")))
    here.post("erp", order(1, 2, "order.deleted"))
    here.drain()
    here.map(table="purchases", children={})
    found = here.rehearse()
    assert sorts(found) == {"inserted": 1, "changed": 0, "rejected": 0}
    assert found["rows"][0]["table"] == "erp_purchases"
    assert here.run("replay", "--source", "erp", "--since", "1h").exit_code == 0
    here.drain()
    ((deleted,),) = here.sql("SELECT _relay_deleted_at FROM erp_purchases")
    assert deleted == "2026-01-01T00:00:02.000000Z"


def test_a_replay_waits_while_its_own_lanes_are_long(here, monkeypatch):
    monkeypatch.setattr(jobs, "_STEP", 5)
    monkeypatch.setattr(jobs, "BACKLOG", 10)
    for n in range(40):
        here.post("erp", order(n, 1))
    here.drain()
    seen: list[int] = []

    def later(_: float) -> None:
        seen.append(here.waiting())
        here.drain()

    monkeypatch.setattr(history, "time", types.SimpleNamespace(sleep=later, time_ns=time.time_ns))
    result = here.run("replay", "--source", "erp", "--since", "1h")
    assert result.stdout == "40 sent again, 0 still wait, 0 could not be mapped\n"
    assert result.stderr.count("waiting until") == len(seen)
    assert len(seen) >= 5
    assert max(seen) < 10 + 5
    here.drain()
    assert ledger.audit(here.client, deep=True) == []


def test_a_replay_does_not_wait_for_lanes_of_other_destinations(here, monkeypatch):
    monkeypatch.setattr(jobs, "BACKLOG", 1)
    other = {**ERP, "tables": [ORDERS], "to": ["far"]}
    destinations = {"warehouse": {"kind": "sqlite"}, "far": {"kind": "sqlite", "path": "far.db"}}
    sources = {"erp": {**ERP, "tables": [ORDERS], "to": ["warehouse"]}, "other": other}
    here.write(destinations=destinations, sources=sources, archive_days=0)
    here.post("other", order(1, 1))
    failures, known = Failures(here.client), sources_of(here.config)
    assert jobs.room(failures, known["erp"])
    assert not jobs.room(failures, known["other"])


def test_a_replay_ends_with_the_events_that_were_there_when_it_began(here, monkeypatch):
    """Else it would run after live traffic without end."""
    here.post("erp", order(1, 1))
    here.drain()
    real = history.archived

    def meanwhile(*args: Any) -> Any:
        here.post("erp", order(2, 1))
        here.drain()
        return real(*args)

    monkeypatch.setattr(history, "archived", meanwhile)
    assert here.run("replay", "--source", "erp", "--since", "1h").stdout.startswith("1 sent again")


# --- lineage ------------------------------------------------------------------------------------------


def test_the_lineage_of_a_row_says_which_delivery_won_whatever_came_last(here):
    first = here.post("erp", order(1, 1, name="a"))
    newest = here.post("erp", order(1, 9, name="c"))
    here.post("erp", order(11, 9))
    late = here.post("erp", order(1, 5, name="b"))
    here.drain()
    assert here.lineage("erp_orders", "1") == [
        (first, "writes it", "superseded"),
        (late, "writes it", "superseded"),
        (newest, "writes it", "won"),
    ]
    assert here.sql("SELECT _relay_event FROM erp_orders WHERE id = '1'") == [(newest,)]
    assert "won" in here.run("lineage", "erp_orders", "1").stdout
    assert "no delivery that is kept" in here.run("lineage", "erp_orders", "7").stdout


def test_a_tombstone_wins_over_a_late_row_and_loses_to_a_newer_one(here):
    gone = here.post("erp", order(1, 5, "order.deleted"))
    late = here.post("erp", order(1, 2))
    here.drain()
    assert here.lineage("erp_orders", "1") == [(late, "writes it", "superseded"), (gone, "deletes it", "won")]
    again = here.post("erp", order(1, 6))
    here.drain()
    assert here.lineage("erp_orders", "1")[-1] == (again, "writes it", "won")
    assert here.sql("SELECT _relay_event, _relay_deleted_at FROM erp_orders") == [(again, None)]


def test_a_line_is_written_and_left_out_by_its_orders_deliveries(here):
    both = here.post("erp", order(1, 1, lines=lines("x", "y")))
    here.post("erp", order(2, 3, lines=lines("y")))
    one = here.post("erp", order(1, 3, lines=lines("x")))
    late = here.post("erp", order(1, 2, lines=lines("y")))
    here.drain()
    assert here.lineage("erp_orders_lines", "1", "y") == [
        (both, "writes it", "superseded"),
        (late, "writes it", "superseded"),
        (one, "leaves it out", "won"),
    ]
    assert here.lineage("erp_orders_lines", "1", "x")[-2:] == [
        (late, "leaves it out", "superseded"),
        (one, "writes it", "won"),
    ]
    back = here.post("erp", order(1, 4, lines=lines("y")))
    here.drain()
    assert here.lineage("erp_orders_lines", "1", "y")[-1] == (back, "writes it", "won")
    assert here.sql("SELECT _relay_event FROM erp_orders_lines WHERE order_id = '1' AND sku = 'y'") == [(back,)]


def test_keys_are_found_however_they_are_written(here):
    for n, key in enumerate(('a"b\\c', "日本", "1.50", "naïve\n")):
        event = here.post("erp", order(0, n) | {"id": key})
        here.drain()
        assert here.lineage("erp_orders", key) == [(event, "writes it", "won")]
    event = here.post("erp", b'{"type": "t", "id": 1.250, "at": "2026-01-01T00:00:00Z"}')
    here.drain()
    assert here.lineage("erp_orders", "1.250") == [(event, "writes it", "won")]


def test_lineage_wants_the_whole_key_of_a_table_that_is_written(here):
    with pytest.raises(ConfigInvalid, match="order_id, sku"):
        here.run("lineage", "erp_orders_lines", "1")
    with pytest.raises(ConfigInvalid, match="no configured source"):
        here.run("lineage", "erp_things", "1")


def test_the_lineage_of_a_row_among_many_events_reads_only_the_records_of_those_that_name_it(here, monkeypatch):
    codec, read = Codec(), []
    events = [Table("erp_orders", ("id",)).row({"id": n % 500, "name": "n" * 50}, at=n) for n in range(2000)]
    with closing(Archive(here.folder / "events.db", days=30, max_bytes=10**9)) as archive:
        rows = [
            (f"{n:016d}", "erp", "t", "", "", codec.pack(Meta("erp", "custom", "t"), b"{}", [event]))
            for n, event in enumerate(events, 1)
        ]
        archive._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
    real = lineage.records_of
    monkeypatch.setattr(lineage, "records_of", lambda packed: read.append(1) or real(packed))
    assert len(here.lineage("erp_orders", "499")) == 4
    assert len(read) < 100
