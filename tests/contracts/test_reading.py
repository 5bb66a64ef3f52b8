"""What must be true of every destination that can be read, checked at real files and servers."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from relay import catalogue
from relay.errors import DeliveryError, Permanent
from tests.contracts.destinations import (
    HARNESSES,
    LINES,
    PACKAGE,
    Harness,
    PostgresHarness,
    deliver,
    gone,
    lines,
    postgres_server,
    row,
)
from worker.columns.values import moment
from worker.destination import Reader, TableSpec

READ = [kind for kind in HARNESSES if catalogue.load(PACKAGE, kind).destination.reads is not None]
SPEC = TableSpec(
    "shop_all",
    ("id",),
    (),
    {"id": "id", "n": "int", "price": "number", "at": "instant", "yes": "bool", "doc": "json",
     'Odd " % name': "text"},
)  # fmt: skip


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with postgres_server() as dsn:
        yield dsn


@pytest.fixture(params=READ)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    if request.param == "postgres":
        PostgresHarness.dsn = request.getfixturevalue("server")
    harness = HARNESSES[request.param](tmp_path)
    yield harness
    harness.close()


def read(reader: Reader, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    found = reader.rows(table, 30)
    return found.columns, sorted(found.rows, key=repr)


def test_sqlite_and_postgres_can_be_read() -> None:
    assert {"sqlite", "postgres"} <= set(READ)


def test_before_anything_was_delivered_there_is_nothing_to_read(place: Harness) -> None:
    with place.open().reader() as reader:
        assert reader.names() == []
        with pytest.raises(Permanent) as fault:
            reader.columns("shop_orders")
        assert fault.value.reason == "no_table"


def test_live_rows_are_read_with_their_own_columns_and_without_loss(place: Harness) -> None:
    destination = place.open()
    big = "123456789012345678901234567890.12345678901234567890"
    deliver(
        destination,
        row(1, id=1, n=2**63 - 1, price=Decimal(big), at="2026-01-02T03:04:05.5+01:00", yes=True,
            doc={"a": [1, None, "é"]}, **{'Odd " % name': "100 %"}),
        row(1, id=2, n=-5, price=Decimal("19.90"), yes=False, **{'Odd " % name': ""}),
        row(1, id=3),
        gone(2, id=3),
        table=SPEC,
    )  # fmt: skip
    with destination.reader() as reader:
        assert reader.names() == ["shop_all"]
        names, rows = read(reader, "shop_all")
        assert names == reader.columns("shop_all") == ["id", "n", "price", "at", "yes", "doc", 'Odd " % name']
    first, second = rows
    assert first[:2] == ("1", 2**63 - 1)
    assert format(Decimal(first[2]), "f") == big
    assert (first[3], first[4], first[6]) == ("2026-01-02T02:04:05.500000Z", True, "100 %")
    assert first[4] is True
    assert str(first[5]).replace(" ", "") == '{"a":[1,null,"é"]}'
    assert (second[1], str(second[2]), second[3:]) == (-5, "19.90", (None, False, None, ""))


def test_rows_are_those_of_one_moment_though_others_write_meanwhile(place: Harness) -> None:
    destination = place.open()
    deliver(destination, *(row(1, id=n, total="1") for n in range(4500)))
    with place.open().reader() as reader:
        found = reader.rows("shop_orders", 60)
        first = next(found.rows)
        deliver(destination, *(row(2, id=n, total="2") for n in range(4500, 6000)), gone(2, id=4499))
        rest = list(found.rows)
    assert len({cells[0] for cells in (first, *rest)}) == 4500
    assert {str(cells[1]) for cells in (first, *rest)} == {"1"}


def test_a_table_that_was_dropped_by_hand_is_no_more(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1))
    deliver(destination, lines(1, "1", "a"), table=LINES)
    place.execute('DROP TABLE "shop_orders"')
    with destination.reader() as reader:
        assert reader.names() == ["shop_lines"]
        with pytest.raises(Permanent):
            reader.rows("shop_orders", 10)
        with pytest.raises(Permanent):
            reader.rows("no_such", 10)


def test_a_query_gives_names_and_rows(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, total="19.90"), row(1, id=2))
    table = f'"{place.schema}".shop_orders' if isinstance(place, PostgresHarness) else "shop_orders"
    with destination.reader() as reader:
        found = reader.query(
            f"SELECT id AS a, id AS a, 1 + 1 AS n, id LIKE '%1' AS f FROM {table} ORDER BY id", 10
        )
        assert found.columns == ["a", "a", "n", "f"]
        assert [cells[:3] for cells in found.rows] == [("1", "1", 2), ("2", "2", 2)]
        assert list(reader.query(f"SELECT id FROM {table} WHERE 1 = 0", 10).rows) == []
        assert read(reader, "shop_orders")[0] == reader.columns("shop_orders")


CHANGES = (
    "DELETE FROM {table}",
    "UPDATE {table} SET total = '1' RETURNING id",
    "WITH gone AS (DELETE FROM {table} RETURNING id) SELECT * FROM gone",
    "DROP TABLE {table}",
    "SELECT 1; DELETE FROM {table}",
    "SELECT 1; COMMIT; DELETE FROM {table}",
    "COMMIT",
    "CREATE TABLE more (a text)",
    "CREATE TEMP TABLE more AS SELECT 1",
    "PRAGMA query_only = OFF",
    "ATTACH 'other.db' AS other",
    "SET TRANSACTION READ WRITE",
    "SELECT * FROM no_such_table",
    "",
)


@pytest.mark.parametrize("statement", CHANGES)
def test_nothing_can_be_changed_by_a_query_and_the_reader_goes_on(place: Harness, statement: str) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, total="19.90"))
    before = place.rows("shop_orders")
    table = f'"{place.schema}".shop_orders' if isinstance(place, PostgresHarness) else "shop_orders"
    with destination.reader() as reader:
        with pytest.raises(DeliveryError) as fault:
            list(reader.query(statement.format(table=table), 10).rows)
        assert "hunter2" not in str(fault.value)
        assert reader.names() == ["shop_orders"]
    assert place.rows("shop_orders") == before


def test_a_query_that_takes_too_long_is_stopped(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1))
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t)"
    with destination.reader() as reader:
        for end in ("SELECT count(*) FROM t", "SELECT n FROM t"):  # none comes, and no end of them comes
            with pytest.raises(Permanent) as fault:
                for _ in reader.query(f"{endless} {end}", 0.5).rows:
                    pass
            assert fault.value.reason == "too_slow", end
        assert reader.names() == ["shop_orders"]


def test_a_destination_that_is_away_is_a_delivery_error(place: Harness) -> None:
    with place.open(**place.away()).reader() as reader, pytest.raises(DeliveryError) as fault:
        reader.names()
    assert "hunter2" not in str(fault.value)


def test_one_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    cls = catalogue.load(PACKAGE, "import_api").destination
    settings = cls.Settings.model_validate(
        {"kind": "import_api", "url": "http://127.0.0.1:9", "client_id": 1, "api_key": "k"}
    )
    with pytest.raises(Permanent) as fault:
        cls("mbi", settings, tmp_path).reader()
    assert fault.value.reason == "no_export"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21 04:03:09.5+00", "2026-11-21T04:03:09.500000Z"),
        ("2026-11-21 04:03:09+00", "2026-11-21T04:03:09.000000Z"),
        ("2026-11-21 04:03:09.123456", "2026-11-21T04:03:09.123456"),
        ("infinity", "infinity"),
        ("0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
        (None, None),
    ],
)
def test_moments_of_postgres_are_worded_as_everywhere(text: str | None, expected: str | None) -> None:
    assert moment(text) == expected
