"""The destination `dlt` against a real warehouse, DuckDB: what arrives, how faults are told apart, what stays."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from dlt.pipeline.pipeline import Pipeline

from relay.errors import Permanent, Refused, Transient
from tests.contracts.destinations import START, gone, item, row
from tests.servers.import_case import everything_of
from worker.destination import STORED, Batch, TableSpec
from worker.destinations.dlt import Dlt, DltSettings

pytestmark = pytest.mark.filterwarnings("default")  # dlt and what it brings warn of one another

SPEC = TableSpec(
    "shop_orders",
    ("id",),
    (),
    {"id": "id", "total": "money", "n": "int", "at": "instant", "tags": "json", "ok": "bool", "note": "text"},
)
Make = Callable[..., Dlt]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    opened: list[Dlt] = []

    def build(**changes: Any) -> Dlt:
        block = {"kind": "dlt", "warehouse": "duckdb", "credentials": str(tmp_path / "w.duckdb"), **changes}
        destination = Dlt("lake", DltSettings.model_validate(block), tmp_path)
        opened.append(destination)
        return destination

    yield build
    for destination in opened:
        destination.close()


def rows(folder: Path, table: str = "shop_orders", dataset: str = "rowhook") -> list[dict[str, Any]]:
    """What a user of the warehouse sees, by key."""
    with duckdb.connect(str(folder / "w.duckdb")) as db:
        db.execute("SET TimeZone = 'UTC'")
        cursor = db.execute(f"SELECT * FROM {dataset}.{table} ORDER BY id")
        names = [column[0] for column in cursor.description]
        return [
            {n: v for n, v in zip(names, cells, strict=True) if not n.startswith("_dlt_")}
            for cells in cursor.fetchall()
        ]


def deliver(destination: Dlt, *items: Any, spec: TableSpec = SPEC) -> list[Any]:
    return destination.deliver(Batch(spec, items))


def test_rows_arrive_typed_and_are_replaced_whole(make: Make, tmp_path: Path) -> None:
    lake = make()
    first = row(
        1,
        id=7,
        total="19.90",
        n=5,
        at="2026-03-04T13:30:00.5+01:00",
        tags={"a": [Decimal("1.50")]},
        ok=True,
        note="x",
    )
    assert deliver(lake, first, row(1, id="8", note="y")) == [STORED, STORED]
    seven, eight = rows(tmp_path)
    assert (seven["id"], seven["total"], seven["n"], seven["ok"]) == ("7", Decimal("19.90"), 5, True)
    assert seven["at"] == dt.datetime(2026, 3, 4, 12, 30, 0, 500_000, dt.UTC)
    assert seven["tags"] == '{"a":[1.50]}'
    assert (seven["_relay_version"], seven["_relay_source"], seven["_relay_test"]) == (
        first.version,
        "shop",
        False,
    )
    assert seven["_relay_received_at"] == dt.datetime.fromtimestamp(START + 1, dt.UTC)
    assert deliver(lake, row(2, id=7, total="1")) == [STORED]
    again, other = rows(tmp_path)
    assert (again["id"], again["total"], again["note"], again["n"]) == ("7", Decimal(1), None, None)
    assert other == eight


def test_a_value_that_does_not_fit_its_type_stands_beside_it_as_it_was_sent(make: Make, tmp_path: Path) -> None:
    deliver(make(), row(1, id=1, n=2**70, total="1.1234567890123", at="soon", ok="perhaps"))
    (one,) = rows(tmp_path)
    assert (one["n"], one["total"], one["at"], one["ok"]) == (None, None, None, None)
    assert (one["n__text"], one["total__text"]) == (str(2**70), "1.1234567890123")
    assert (one["at__text"], one["ok__text"]) == ("soon", "perhaps")


def test_columns_that_nobody_declared_keep_their_values(make: Make, tmp_path: Path) -> None:
    lake = make()
    deliver(lake, row(1, id=1, size=3, rate=Decimal("0.5"), big=10**30, deep={"a": 1}))
    deliver(lake, row(1, id=2, size="large"))
    one, two = rows(tmp_path)
    assert (one["size"], one["rate"], one["big"], one["deep"]) == (3, Decimal("0.5"), str(10**30), '{"a":1}')
    assert (two["size"], two["size__v_text"]) == (None, "large")


@pytest.mark.parametrize(("deletes", "note"), [("blank", None), ("mark", "x"), ("keep", "x")])
def test_a_deleted_row_is_what_the_setting_says(
    make: Make, tmp_path: Path, deletes: str, note: str | None
) -> None:
    lake = make(deletes=deletes)
    assert lake.marks == (deletes == "mark")
    deliver(lake, row(1, id=1, note="x"))
    held = {"note": "x"} if lake.marks else {}  # what the fence hands over
    assert deliver(lake, gone(2, id=1, **held)) == [STORED]
    (one,) = rows(tmp_path)
    assert (one["id"], one["note"]) == ("1", note)
    assert (one["_relay_deleted_at"] is None) == (deletes == "keep")


def test_a_key_without_a_type_has_one_form(make: Make, tmp_path: Path) -> None:
    lake, spec = make(), TableSpec("shop_tags", ("id",), (), {})
    deliver(lake, row(1, id=1), spec=spec)
    deliver(lake, row(2, id="1", note="b"), spec=spec)
    assert [(one["id"], one["note"]) for one in rows(tmp_path, "shop_tags")] == [("1", "b")]


def test_a_key_that_is_not_of_its_type_is_refused_by_name(make: Make) -> None:
    spec = TableSpec("shop_things", ("n",), (), {"n": "int"})
    with pytest.raises(Permanent, match="'n' is part of the key"):
        deliver(make(), row(1, n="seven"), spec=spec)


def test_columns_that_would_become_one_are_refused_by_name(make: Make) -> None:
    with pytest.raises(Permanent, match="would be one here, 'order_id'"):
        deliver(make(), row(1, id=1, orderId=1, order_id=2))


def test_columns_of_whose_name_dlt_would_leave_nothing_have_one_of_ours_in_every_batch(
    make: Make, tmp_path: Path
) -> None:
    lake = make()
    names = ["", " ", "\u00a0", "__", "____", "__ __"]
    assert deliver(lake, row(1, id=1, **{name: f"{n}" for n, name in enumerate(names)})) == [STORED]
    for name in names[::-1]:  # alone, too
        assert deliver(lake, row(2, id=name, **{name: "alone"})) == [STORED]
    given = ["unnamed", "unnamed_20", "unnamed_c2a0", "unnamed_5f5f", "unnamed_5f5f5f5f", "unnamed_5f5f205f5f"]
    held = {one["id"]: {c: v for c, v in one.items() if c.startswith("unnamed") and v} for one in rows(tmp_path)}
    assert held.pop("1") == {column: f"{n}" for n, column in enumerate(given)}
    assert held == {name: {column: "alone"} for name, column in zip(names, given, strict=True)}
    with pytest.raises(Permanent, match=r"the columns '.*' and '.*' would be one here, 'unnamed'"):
        deliver(lake, row(3, id=1, unnamed="a", **{"": "b"}))


def test_a_key_of_whose_name_dlt_would_leave_nothing_still_is_the_key(make: Make, tmp_path: Path) -> None:
    lake, spec = make(), TableSpec("shop_odd", ("",), (), {})
    for at in (1, 2):
        deliver(lake, row(at, id=at, **{"": "k"}), spec=spec)
    assert [(one["unnamed"], one["id"]) for one in rows(tmp_path, "shop_odd")] == [("k", 2)]


def test_a_fault_that_is_none_of_dlts_goes_out_as_it_is_and_a_ping_still_has_its_consequence(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("hunter2")

    monkeypatch.setattr("worker.destinations.dlt.check_names", broken)
    lake = make()
    with pytest.raises(ValueError, match="hunter2"):
        deliver(lake, row(1, id=1))
    monkeypatch.setattr(lake, "_ask", broken)
    with pytest.raises(Transient):
        lake.ping()


def test_a_warehouse_that_cannot_be_opened_is_tried_again(make: Make, tmp_path: Path) -> None:
    lake = make(credentials=str(tmp_path / "no" / "such" / "folder" / "w.duckdb"))
    with pytest.raises(Transient):
        lake.ping()
    with pytest.raises(Transient):
        deliver(lake, row(1, id=1))


def test_no_fault_says_the_credentials(make: Make) -> None:
    lake = make(warehouse="postgres", credentials="postgresql://me:hunter2@127.0.0.1:1/db")
    for work in (lake.ping, lake.tables, lambda: deliver(lake, row(1, id=1))):
        with pytest.raises((Transient, Refused)) as caught:
            work()
        assert "hunter2" not in everything_of(caught.value)


@pytest.mark.parametrize("warehouse", ["nosuch", "snowflake"])
def test_a_warehouse_that_is_not_known_or_not_installed_is_refused(make: Make, warehouse: str) -> None:
    with pytest.raises(Refused, match=warehouse):
        make(warehouse=warehouse, credentials=None).ping()


@pytest.mark.parametrize(
    "lack", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EMFILE, "Too many"), MemoryError()]
)
@pytest.mark.parametrize("step", ["extract", "normalize", "load"])
def test_what_this_machine_lacks_is_no_records_fault_and_is_said_with_the_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, lack: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise lack

    place = {
        "extract": "dlt.common.data_writers.buffered.BufferedDataWriter._flush_items",
        "normalize": "dlt.normalize.normalize.Normalize.spool_files",
        "load": "dlt.load.load.Load.load_single_package",
    }
    lake = make()
    with monkeypatch.context() as patch:
        patch.setattr(place[step], full)
        with pytest.raises(Transient, match=type(lack).__name__) as caught:
            deliver(lake, row(1, id=1))
    assert str(tmp_path / "dlt" / "lake") in str(caught.value)
    assert "goes again by itself" in str(caught.value)
    assert (caught.value.reason, caught.value.unknown) == ("machine", step == "load")
    assert deliver(lake, row(1, id=1)) == [STORED]


def test_a_folder_that_cannot_be_made_is_no_records_fault(make: Make, tmp_path: Path) -> None:
    (tmp_path / "dlt").write_text("a file")
    with pytest.raises(Transient, match="dlt could not work in") as caught:
        deliver(make(), row(1, id=1))
    assert caught.value.reason == "machine"


def test_a_load_that_fails_leaves_nothing_that_would_be_sent_later(make: Make, tmp_path: Path) -> None:
    lake = make()
    deliver(lake, row(1, id=1, note="first"))
    with duckdb.connect(str(tmp_path / "w.duckdb")) as held:  # another writer has the file
        held.execute("CREATE TABLE rowhook.mine (a INT)")
        held.execute("DROP TABLE rowhook._dlt_loads")
    with pytest.raises((Transient, Permanent)):
        deliver(lake, row(2, id=1, note="lost"), row(2, id=2))
    with duckdb.connect(str(tmp_path / "w.duckdb")) as db:
        db.execute("DROP SCHEMA rowhook CASCADE")
        db.execute("DROP SCHEMA IF EXISTS rowhook_staging CASCADE")
    assert deliver(lake, row(3, id=1, note="newest")) == [STORED]
    assert [(one["id"], one["note"]) for one in rows(tmp_path)] == [("1", "newest")]


def test_after_a_load_of_unknown_outcome_what_dlt_says_of_the_next_is_not_believed_but_counted(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise ConnectionResetError("in the middle of a load")

    def emptied(pipeline: Any, *args: Any, **options: Any) -> Any:
        done = run(pipeline, *args, **options)
        # As if the first load had emptied the staging table under this one.
        with duckdb.connect(str(tmp_path / "w.duckdb")) as late:
            late.execute("DELETE FROM rowhook.shop_orders WHERE id = '2'")
        return done

    run = Pipeline.run
    lake = make(unknown_hold_s=600)
    deliver(lake, row(1, id=1))
    with monkeypatch.context() as patch:
        patch.setattr("dlt.load.load.Load.load_single_package", cut)
        with pytest.raises(Transient, match="in the middle of a load") as caught:
            deliver(lake, row(1, id=2), row(1, id=3))
    assert caught.value.unknown
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run", emptied)
        with pytest.raises(Transient, match="1 of 2 rows of a load are in shop_orders") as caught:
            deliver(lake, row(1, id=2), row(1, id=3))
    assert (caught.value.reason, caught.value.unknown) == ("load", True)
    assert deliver(lake, row(1, id=2), row(1, id=3)) == [STORED] * 2
    assert {one["id"] for one in rows(tmp_path)} == {"1", "2", "3"}
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 601)
    monkeypatch.setattr("worker.destinations.dlt.time", later)
    monkeypatch.setattr(lake, "_check_there", lambda *_: pytest.fail("nothing can arrive any more"))
    assert deliver(lake, row(2, id=2)) == [STORED]


def test_tables_are_counted_and_nothing_stays_on_this_machine(make: Make, tmp_path: Path) -> None:
    lake = make()
    assert lake.tables() == []
    deliver(lake, row(1, id=1), row(1, id=2), gone(2, id=3))
    other = make()
    (info,) = other.tables()
    assert (info.name, info.rows, info.deleted) == ("shop_orders", 2, 1)
    assert info.columns["total"] == "decimal"
    assert json.dumps(info.last_received_at).startswith('"2026-11-21T00:00:02')
    lake.close()
    other.close()
    assert not any((tmp_path / "dlt" / "lake").glob(f"{os.getpid()}-*"))


#: Another process, which holds a folder until it is ended; its number says nothing here, as in another container.
OWNER = """
import sys
from pathlib import Path
from worker.destinations.dlt.home import Home
home = Home(Path(sys.argv[1]))
moved = home.path.rename(home.path.with_name("99999999-x"))
print(moved, flush=True)
sys.stdin.read()
"""


def test_the_folder_of_a_process_is_kept_while_it_lives_and_removed_once_it_is_dead(
    make: Make, tmp_path: Path
) -> None:
    place = str(tmp_path / "dlt" / "lake")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", OWNER, place], stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        theirs = Path(owner.stdout.readline().strip())
        make().ping()
        assert theirs.is_dir()
        owner.kill()
        owner.wait()
        make().ping()
        assert not theirs.exists()


def test_what_left_no_lock_is_removed(make: Make, tmp_path: Path) -> None:
    left = tmp_path / "dlt" / "lake" / f"{os.getpid()}-x" / "rowhook_lake"
    left.mkdir(parents=True)
    make().ping()
    assert not left.exists()


def test_only_rows_and_tombstones_are_taken(make: Make) -> None:
    with pytest.raises(Permanent, match="set"):
        deliver(make(), item("set", {"id": 1}, 1))
