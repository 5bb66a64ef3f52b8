"""`relay forget`: what a row held is found nowhere afterwards, nothing brings it back, and the ledger balances."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from relay.buffer import keys, ledger
from relay.buffer.exports import Exports, file_of
from relay.cli import forget as forgetting
from relay.cli.subject import Subject
from relay.errors import ConfigInvalid
from relay.records import Codec, Table
from tests.contracts.destinations import postgres_server
from tests.flow.test_history import Here
from tests.oracle.machine import Machine, eventually
from tests.servers.import_server import ImportServer, refuse

PLANTED = "Zebulon Q. Planted"
ERP = {"kind": "custom", "secrets": ["k"], "verify": {"token": {"header": "X-Key"}}, "type": "body.type"}
ORDERS = {
    "table": "orders",
    "key": ["id"],
    "version": "at",
    "deleted": "type == 'order.deleted'",
    "children": {"lines": {"key": ["sku"]}},
}


def order(n: int, at: int, what: str = "order.saved", **data: Any) -> dict[str, Any]:
    return {"type": what, "id": n, "at": f"2026-01-01T00:00:{at:02d}Z", **data}


def planted(n: int, at: int, *skus: str, **data: Any) -> dict[str, Any]:
    """An order with the planted name in a column, in a nested one, and in its lines."""
    lines = [{"sku": sku, "engraving": PLANTED} for sku in skus]
    return order(n, at, name=PLANTED, address={"to": PLANTED}, lines=lines, **data)


# --- everything at once, as it really runs ---------------------------------------------------------------


class Real:
    """`relay up` with all sorts of destinations, and a look into each of its files and tables."""

    def __init__(self, dsn: str, mbi: ImportServer) -> None:
        self.dsn, self.mbi = dsn, mbi
        destinations = {
            "warehouse": {"kind": "sqlite"},
            "pg": {"kind": "postgres", "dsn": dsn, "schema": "relay"},
            "mbi": {
                "kind": "import_api", "url": mbi.url, "client_id": 12, "api_key": mbi.api_key, "deletes": "mark",
            },
        }  # fmt: skip
        sources = {"erp": {**ERP, "tables": [ORDERS], "to": list(destinations)}}
        self.machine = Machine(yaml.safe_dump({"sources": sources, "destinations": destinations, "linger_ms": 0}))

    def post(self, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            request = urllib.request.Request(
                f"{self.machine.url}/hooks/erp",
                json.dumps(body).encode(),
                {"Content-Type": "application/json", "X-Key": "k"},
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 202
            eventually(lambda: not self.machine.waiting(), "it is delivered and archived", 60)

    def blobs(self) -> list[bytes]:
        """Bytes of each archived event."""
        with closing(sqlite3.connect(self.machine.data / "events.db")) as db:
            return [blob for (blob,) in db.execute("SELECT blob FROM events")]

    def files_with(self, needles: list[bytes]) -> set[str]:
        """Files of the data folder, and logs, that hold one of these."""
        found = set()
        for path in self.machine.home.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a log that was just closed
                if path.is_file() and any(needle in path.read_bytes() for needle in needles):
                    found.add(path.name)
        return found

    def tables(self) -> str:
        """All that PostgreSQL's tables and the Import API hold."""
        with psycopg.connect(self.dsn) as db:
            names = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'relay'").fetchall()
            rows = [
                db.execute(f'SELECT t::text FROM relay."{name}" AS t'.encode()).fetchall() for (name,) in names
            ]
        return repr(rows) + repr(self.mbi.tables)

    def audit(self) -> tuple[int, str]:
        done = self.machine.command("audit", "--deep")
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    with postgres_server() as dsn, ImportServer(api_key="k1") as mbi:
        here = Real(dsn, mbi)
        try:
            here.machine.ready()
            yield here
        except BaseException:
            print(here.machine.words())  # noqa: T201 - shown with the failure
            raise
        finally:
            here.machine.clean()


def test_a_planted_value_is_nowhere_after_its_row_is_forgotten(real: Real) -> None:
    """One event of the row is dead at one destination, and all are archived; another order stays as it is."""
    real.post(planted(7, 1, "a", "b"), planted(7, 2, "a", "c"), order(8, 1, name="Other", lines=[{"sku": "z"}]))
    real.post(planted(7, 3, "a", note="a NUL \0 in it"))
    machine = real.machine
    dead = json.loads(machine.command("dead", "list", "--json").stdout)
    assert [(one["destination"], one["table"]) for one in dead] == [("pg", "erp_orders")]
    chunks = [blob[len(blob) // 3 :][:24] for blob in real.blobs() if PLANTED.encode() in Codec().unpack(blob).raw]
    assert len(chunks) == 3
    needles = [PLANTED.encode(), *chunks]
    before = real.files_with(needles)
    for name in ("warehouse.db", "events.db", "appendonly"):
        assert any(found.startswith(name) for found in before), "else nothing is shown by not finding it later"
    assert PLANTED in real.tables()
    assert real.audit()[0] == 0

    done = machine.command("forget", "erp_orders", "7", "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["complete"]
    assert said["tables"] == ["erp_orders", "erp_orders_lines"]
    places = {place.pop("place"): place for place in said["places"] if "dead letters" not in place}
    assert places["warehouse"] == places["pg"] == places["mbi"] == {"rows": 1 + 3}
    assert places["archive"] == {"events": 3}

    # The server unlinks its old append-only files a moment after the rewrite.
    eventually(lambda: not real.files_with(needles), "no file holds it", 20)
    assert PLANTED not in real.tables()
    assert "Other" in real.tables()
    assert machine.command("dead", "list").stdout == "nothing failed\n"
    assert "no delivery that is kept" in machine.command("lineage", "erp_orders", "7").stdout
    code, words = real.audit()
    assert (code, words.splitlines()[0]) == (0, "the ledger balances")

    assert machine.command("replay", "--source", "erp", "--since", "1h").stdout.startswith("1 sent again")
    eventually(lambda: not machine.waiting(), "the replay is delivered", 60)
    assert not real.files_with(needles)
    assert PLANTED not in real.tables()
    assert real.audit()[0] == 0


# --- its parts -------------------------------------------------------------------------------------------


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Here:
    return Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}})


def forget(here: Here, *args: str, code: int = 0) -> dict[str, Any]:
    done = here.run("forget", *args, "--yes", "--json")
    assert done.exit_code == code, done.stdout
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def erased(said: dict[str, Any]) -> dict[str, int]:
    """Place and what -> how many."""
    return {f"{p['place']} {what}": n for p in said["places"] for what, n in p.items() if what != "place" and n}


def test_exports_of_its_tables_are_no_more_and_their_files_go(here: Here) -> None:
    here.post("erp", planted(1, 5, "a"))
    here.drain()
    exports = Exports(here.client)
    ours, other = (exports.create(1, "warehouse", t, n, t).id for n, t in enumerate(("erp_orders", "else")))
    files = here.config.data_dir / "files"
    files.mkdir()
    for number in (ours, other):
        (files / file_of(number)).write_text(PLANTED)
    assert erased(forget(here, "erp_orders", "1"))["exports files, to be asked for again"] == 1
    assert exports.expired(ours)
    assert [path.name for path in files.iterdir()] == [file_of(other)]


def test_a_late_delivery_does_not_bring_it_back_and_a_later_one_does(here: Here) -> None:
    here.post("erp", planted(1, 5, "a"))
    here.drain()
    assert erased(forget(here, "erp_orders", "1"))["warehouse rows"] == 2
    here.post("erp", planted(1, 6, "a", "b", note="newer than the row was, older than its erasure"))
    here.drain()
    rows = here.sql("SELECT id, name, address, _relay_deleted_at IS NOT NULL FROM erp_orders")
    assert rows == [("1", None, None, 1)]
    assert here.sql("SELECT sku, engraving, _relay_deleted_at IS NOT NULL FROM erp_orders_lines") == [
        ("a", None, 1)
    ]
    assert ledger.audit(here.client, deep=True) == []
    assert here.run("audit", "--deep").exit_code == 0
    here.post("erp", planted(1, 1, "a") | {"at": "2199-01-01T00:00:00Z"})
    here.drain()
    assert here.sql("SELECT name, _relay_deleted_at FROM erp_orders") == [(PLANTED, None)]
    # Its version is far ahead of our clock, and is outdone all the same.
    forget(here, "erp_orders", "1")
    here.post("erp", planted(1, 2, "a") | {"at": "2199-01-01T00:00:00Z"})
    here.drain()
    assert here.sql("SELECT name FROM erp_orders") == [(None,)]
    assert here.run("audit", "--deep").exit_code == 0


def test_other_rows_stay_though_the_archive_loses_the_events_that_they_share(here: Here) -> None:
    here.map(table="orders", children={"lines": {"key": ["sku"]}})
    here.post("erp", planted(1, 1, "a", "b"))
    here.post("erp", order(11, 1, name="eleven", lines=[{"sku": "a", "engraving": "x"}]))
    here.drain()
    said = erased(forget(here, "erp_orders_lines", "1", "a"))
    assert (said["warehouse rows"], said["archive events"]) == (1, 1)
    assert here.sql("SELECT order_id, sku, engraving FROM erp_orders_lines ORDER BY 1, 2") == [
        ("1", "a", None), ("1", "b", PLANTED), ("11", "a", "x"),
    ]  # fmt: skip
    assert here.sql("SELECT name FROM erp_orders ORDER BY id") == [(PLANTED,), ("eleven",)]
    assert here.run("audit", "--deep").exit_code == 0


def test_what_is_archived_while_the_archive_is_read_is_not_left_there(here: Here, monkeypatch: Any) -> None:
    """It would be seen neither there nor among what waits: so what waits is looked at before, too."""
    here.post("erp", planted(1, 1, "a"))
    here.drain()
    here.post("erp", planted(1, 2, "a"))
    read = forgetting._archived

    def slowly(config: Any, subject: Any) -> Any:
        found = read(config, subject)
        here.drain()
        return found

    monkeypatch.setattr(forgetting, "_archived", slowly)
    with pytest.raises(ConfigInvalid, match="still wait"):
        here.run("forget", "erp_orders", "1", "--yes")
    monkeypatch.undo()
    here.drain()
    assert erased(forget(here, "erp_orders", "1"))["archive events"] == 2


def test_events_that_wait_are_waited_for_and_nothing_is_touched(here: Here) -> None:
    here.post("erp", planted(1, 1, "a"))
    here.drain()
    here.post("erp", planted(1, 2, "a"))
    before = here.buffer()
    with pytest.raises(ConfigInvalid, match=r"still wait \(1 in lane archive/0/1, 1 in lane warehouse/0/1\)"):
        here.run("forget", "erp_orders", "1", "--yes")
    assert here.buffer() == before
    assert here.sql("SELECT name FROM erp_orders") == [(PLANTED,)]
    assert len(here.lineage("erp_orders", "1")) == 1
    here.drain()
    assert erased(forget(here, "erp_orders", "1"))["archive events"] == 2


def test_events_that_could_not_be_mapped_are_named_and_erased_on_request(here: Here) -> None:
    here.post("erp", planted(1, 1, "a"))
    lost = here.post("erp", {"type": "order.saved", "number": 1, "name": PLANTED})
    other = here.post("erp", {"type": "order.saved", "number": 12, "name": PLANTED})
    here.drain()
    assert forget(here, "erp_orders", "1")["unmapped"] == [lost]
    assert here.client.zrange(keys.QUARANTINE, 0, -1) == [lost.encode(), other.encode()]
    said = forget(here, "erp_orders", "1", "--unmapped")
    assert (said["unmapped"], erased(said)["buffer quarantined events"]) == ([], 1)
    assert here.client.zrange(keys.QUARANTINE, 0, -1) == [other.encode()]
    assert here.client.hkeys(keys.EVENTS) == [other.encode()]
    with closing(sqlite3.connect(here.folder / "events.db")) as db:
        assert db.execute("SELECT arrival FROM events").fetchall() == [(other,)]
    assert ledger.audit(here.client, deep=True) == []


def test_a_person_is_asked_first(here: Here) -> None:
    here.post("erp", planted(1, 1, "a"))
    here.drain()
    before = here.buffer()
    asked = here.run("forget", "erp_orders", "1")
    assert asked.exit_code == 1
    assert "erase the row of erp_orders and its rows of erp_orders_lines at warehouse, 1 events" in asked.stdout
    assert here.buffer() == before
    assert here.sql("SELECT name FROM erp_orders") == [(PLANTED,)]


def test_a_row_that_nobody_knows_changes_nothing(here: Here) -> None:
    here.post("erp", planted(1, 1, "a"))
    here.drain()
    here.run("audit")
    before = here.buffer(), here.sql("SELECT * FROM erp_orders")
    assert erased(forget(here, "erp_orders", "2")) == {"redis file rewritten": 1}
    assert (here.buffer(), here.sql("SELECT * FROM erp_orders")) == before
    with pytest.raises(ConfigInvalid, match="the key of erp_orders_lines is order_id, sku"):
        here.run("forget", "erp_orders_lines", "1", "--yes")
    with pytest.raises(ConfigInvalid, match="no configured source"):
        here.run("forget", "erp_things", "1", "--yes")


@pytest.mark.parametrize("deletes", ["blank", "mark", "keep"])
def test_the_import_api_is_sent_blank_rows_and_the_fence_keeps_nothing(
    redis_url: str, tmp_path: Path, deletes: str
) -> None:
    with ImportServer(api_key="k1") as server:
        mbi = {
            "kind": "import_api", "url": server.url, "client_id": 12, "api_key": "k1", "deletes": deletes,
            "lanes": 3,
        }  # fmt: skip
        here = Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}}, destinations={"mbi": mbi})
        here.post("erp", planted(1, 1, "a", "b"))
        here.drain()
        here.post("erp", planted(1, 2, "b", "c*]"))
        here.post("erp", planted(11, 2, "b"))
        here.drain()
        assert erased(forget(here, "erp_orders", "1"))["mbi rows"] == 1 + 3
        ours = [row for row in server.rows("erp_orders") if row["id"] == 1]
        ours += [row for row in server.rows("erp_orders_lines") if row["order_id"] == 1]
        assert len(ours) == 4, "a number stays the number that it was, or it would be another row"
        assert PLANTED not in repr(ours)
        assert all(("_relay_deleted_at" in row) == (deletes != "keep") for row in ours)
        fences = {k: here.client.hgetall(k) for k in here.client.scan_iter("rh:fence:*")}
        mine = {
            k: v for entries in fences.values() for k, v in entries.items() if k.startswith((b'["1"', b'*["1"'))
        }
        assert len(mine) == 5
        assert PLANTED.encode() not in b"".join(mine.values())
        here.post("erp", planted(1, 3, "a", "b"))
        here.drain()
        ours = [row for row in server.rows("erp_orders") if row["id"] == 1]
        assert PLANTED not in repr(ours + [r for r in server.rows("erp_orders_lines") if r["order_id"] == 1])
        assert PLANTED in repr(server.rows("erp_orders")), "the other order is as it was"
        assert ledger.audit(here.client, deep=True) == []


def test_a_place_that_cannot_is_named_and_the_others_are_done(redis_url: str, tmp_path: Path) -> None:
    with ImportServer(api_key="k1") as server:
        mbi = {"kind": "import_api", "url": server.url, "client_id": 12, "api_key": "k1"}
        both = {"warehouse": {"kind": "sqlite"}, "mbi": mbi}
        here = Here(
            redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS], "to": list(both)}}, destinations=both
        )
        here.post("erp", planted(1, 1, "a"))
        here.drain()
        server.faults(refuse(503, "busy"))
        said = forget(here, "erp_orders", "1", code=1)
        failed = {place["place"]: place["failed"] for place in said["places"] if "failed" in place}
        assert failed.keys() == {"mbi", "archive"}
        assert "503" in failed["mbi"]
        assert "kept until that is done" in failed["archive"], "its events know that the key was sent as a number"
        assert not said["complete"]
        assert here.sql("SELECT name FROM erp_orders") == [(None,)]
        again = here.run("forget", "erp_orders", "1", "--yes")
        assert again.exit_code == 0
        assert "mbi: 2 rows\n" in again.stdout
        assert "archive: 1 events\n" in again.stdout
        assert PLANTED not in repr(server.tables)


def test_a_row_that_the_fence_may_have_forgotten_is_sent_blank(redis_url: str, tmp_path: Path) -> None:
    with ImportServer(api_key="k1") as server:
        mbi = {"kind": "import_api", "url": server.url, "client_id": 12, "api_key": "k1"}
        here = Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}}, destinations={"mbi": mbi})
        here.post("erp", planted(1, 1, "a"))
        here.drain()
        here.client.delete("rh:fence:mbi|erp_orders", "rh:fence:mbi|erp_orders_lines")
        for table in ("erp_orders", "erp_orders_lines"):
            here.client.hset(f"rh:fence:mbi|{table}", "floor", "1" * 57)
        assert erased(forget(here, "erp_orders", "1"))["mbi rows"] == 2
        assert PLANTED not in repr(server.tables)


def test_data_in_the_fence_of_a_destination_that_was_removed_goes_too(here: Here) -> None:
    here.post("erp", planted(1, 1, "a"))
    here.drain()
    version = b"1" * 57
    entries = {b'["1"]': version + b'\n{"name":"x"}', b'["2"]': version + b'\n{"name":"y"}'}
    here.client.hset("rh:fence:gone|erp_orders", mapping=entries)
    assert erased(forget(here, "erp_orders", "1"))[
        "buffer rows kept for a destination that is no longer configured"
    ]
    assert here.client.hgetall("rh:fence:gone|erp_orders") == {**entries, b'["1"]': version}


def _table(name: str, *key: str, parent: int = 0) -> Table:
    return Table(name, key, parent=key[:parent])


@pytest.mark.parametrize(
    ("table", "children"),
    [
        ("s_orders", {"s_order_lines", "s_order_codes"}),
        ("s_draft_orders", {"s_draft_order_lines"}),
        ("s_order_lines", set()),
        ("s_leads", {"s_lead_fields"}),
        ("s_trigger_payloads", set()),
        ("s_tickets", {"s_ticket_comments"}),
        ("s_user_groups", {"s_user_groups_members"}),
        ("s_users", set()),
    ],
)
def test_child_tables_are_those_that_are_named_after_the_row_s(table: str, children: set[str]) -> None:
    tables = [
        _table("orders", "id"), _table("order_lines", "order_id", "id", parent=1),
        _table("order_codes", "of", "code", parent=1), _table("draft_orders", "id"),
        _table("draft_order_lines", "draft_order_id", "id", parent=1), _table("leads", "lead_id"),
        _table("lead_fields", "lead_id", "name", parent=1), _table("trigger_payloads", "ticket_id"),
        _table("tickets", "id"), _table("ticket_comments", "ticket_id", "id", parent=1), _table("users", "id"),
        _table("user_groups", "id"), _table("user_groups_members", "group", "id", parent=1),
    ]  # fmt: skip
    named = {f"s_{t.name}": t for t in tables}
    found = Subject("s", named, table, ["1"] * len(named[table].key))
    assert {part.table for part in found.parts[1:]} == children
