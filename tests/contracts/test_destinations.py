"""What every destination must make true of batches, checked at real files and servers.

An author adds a harness in `tests/contracts/destinations.py`, not tests. Destinations that do not settle by
themselves which version wins (`conditional`) get only what does not depend on it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from relay import catalogue
from relay.errors import DeliveryError, Permanent, Refused, Transient
from relay.records import WHOLE, decode_json
from tests.contracts.destinations import (
    HARNESSES,
    LINES,
    ORDERS,
    PACKAGE,
    Harness,
    PostgresHarness,
    SqliteHarness,
    deliver,
    gone,
    item,
    lines,
    postgres_server,
    row,
    version,
)
from worker.columns.changes import ORIGIN
from worker.destination import STORED, SUPERSEDED, Batch, Destination, Item, Preview, Rejected, TableSpec

KINDS = [kind for kind in catalogue.names(PACKAGE) if kind in HARNESSES]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with postgres_server() as dsn:
        yield dsn


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    yield from _opened(request.param, request, tmp_path)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    yield from _opened("postgres", request, tmp_path)


@pytest.fixture
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    yield from _opened("sqlite", request, tmp_path)


def _opened(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Harness]:
    if kind == "postgres":
        PostgresHarness.dsn = request.getfixturevalue("server")
    harness = HARNESSES[kind](folder)
    yield harness
    harness.close()


def data(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the relay's own columns."""
    return [{name: value for name, value in one.items() if not name.startswith("_relay_")} for one in rows]


def live(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return data([one for one in rows if one["_relay_deleted_at"] is None])


def test_every_destination_has_a_harness_or_tests_of_its_own() -> None:
    unit = Path(__file__).parents[1] / "unit"
    for kind in catalogue.names(PACKAGE):
        assert kind in HARNESSES or (unit / f"test_{kind}.py").exists(), kind


# --- newer wins ---------------------------------------------------------------------------------------


def test_a_row_carries_where_it_comes_from(place: Harness) -> None:
    one = row(5, id=1, total="19.90")
    one.test = True
    assert deliver(place.open(), one) == [STORED]
    (found,) = place.rows("shop_orders")
    assert found == {
        "id": "1",
        "total": "19.90",
        "updated_at": None,
        "_relay_source": "shop",
        "_relay_event": one.event,
        "_relay_version": one.version,
        "_relay_received_at": "2026-11-21T00:00:05.000000Z",
        "_relay_deleted_at": None,
        "_relay_test": True,
        "_relay_data_version": None,
    }


def test_the_same_batch_twice_gives_the_same_rows(place: Harness) -> None:
    destination = place.open()
    batch = [row(1, id=1, total=1, note="a"), row(2, id=2, total=2), gone(3, id=3), row(4, id=4), gone(5, id=4)]
    assert deliver(destination, *batch) == [STORED] * 5
    first = place.rows("shop_orders")
    assert deliver(destination, *batch) == [STORED] * 5
    assert place.rows("shop_orders") == first
    assert [one["id"] for one in live(first)] == ["1", "2"]


FIVE = (
    row(1, id=1, total="1.00", note="first"),
    row(2, 10, id=1, total="2.00", note="second"),
    row(2, 11, id=1, total="2.50", state="a later state of the same second"),
    gone(3, id=1),
    item("full_gone", {"id": 1, "total": "3.00", "note": "deleted"}, 2, rank=50),
)


@pytest.mark.parametrize("last", [None, row(9, id=1, total="9.00")], ids=["deleted", "created again"])
def test_all_permutations_of_updates_end_in_the_same_row(place: Harness, last: Any) -> None:
    destination = place.open()
    updates = FIVE if last is None else (*FIVE[:2], *FIVE[3:], last)
    ends = set()
    for n, order in enumerate(itertools.permutations(updates)):
        for update in order:
            one = item(update.op, {**update.data, "id": n}, 0)
            one.version, one.event = update.version, update.event
            deliver(destination, one)
    for found in place.rows("shop_orders"):
        found.pop("id")
        ends.add(repr(sorted(found.items())))
    assert len(ends) == 1
    (end,) = ends
    assert ("'3.00'" in end) == (last is None)
    assert ("_relay_deleted_at', None" in end) == (last is not None)


def test_an_older_record_changes_nothing_and_is_superseded(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(5, id=1, total=5), row(5, id=2, total=5))
    before = place.rows("shop_orders")
    late = [row(4, id=1, total=4, other="x"), gone(4, id=2), row(6, id=3)]
    assert deliver(destination, *late) == [SUPERSEDED, SUPERSEDED, STORED]
    assert [{**one, "other": None} for one in before] == place.rows("shop_orders")[:2]


def test_at_equal_versions_a_tombstone_stays_whatever_comes_first(place: Harness) -> None:
    destination = place.open()
    for n, order in enumerate(itertools.permutations([row(1, id=0, total=1), gone(1, id=0)])):
        for one in order:
            one.data = {**one.data, "id": n}
            one.version = version(1)
            assert deliver(destination, one) == [STORED]
    found = [(one["total"], one["_relay_deleted_at"] is None) for one in place.rows("shop_orders")]
    assert found == [("1", False), ("1", False)]


def test_an_empty_batch_is_no_batch(place: Harness) -> None:
    assert place.open().deliver(Batch(ORDERS, [])) == []


def test_absent_columns_become_empty(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, total=1, note="a"), row(1, id=2, total=1, note="b"))
    deliver(destination, row(2, id=1, total=2))
    assert data(place.rows("shop_orders")) == [
        {"id": "1", "total": "2", "updated_at": None, "note": None},
        {"id": "2", "total": "1", "updated_at": None, "note": "b"},
    ]


def test_a_late_update_lies_beneath_the_tombstone_and_a_newer_row_lives_again(place: Harness) -> None:
    destination = place.open()
    assert deliver(destination, gone(5, id=1)) == [STORED]
    assert deliver(destination, row(3, id=1, total=3)) == [STORED]
    assert deliver(destination, row(2, id=1, total=2)) == [SUPERSEDED]
    (found,) = place.rows("shop_orders")
    assert (found["total"], found["_relay_deleted_at"]) == ("3", "2026-11-21T00:00:05.000000Z")
    assert (found["_relay_version"], found["_relay_data_version"]) == (gone(5, id=1).version, row(3).version)
    assert deliver(destination, row(6, id=1, total=6)) == [STORED]
    (found,) = place.rows("shop_orders")
    assert (found["total"], found["_relay_deleted_at"], found["_relay_data_version"]) == ("6", None, None)


def test_a_row_and_its_tombstone_in_one_batch(place: Harness) -> None:
    assert deliver(place.open(), row(1, id=1, total=1), gone(2, id=1)) == [STORED, STORED]
    (found,) = place.rows("shop_orders")
    assert (found["total"], found["_relay_deleted_at"]) == ("1", "2026-11-21T00:00:02.000000Z")


def test_a_process_that_does_not_know_a_column_leaves_no_old_value_in_it(place: Harness) -> None:
    one, other = place.open(), place.open()
    deliver(one, row(1, id=1, total=1))
    deliver(other, row(1, id=2, total=1))
    deliver(other, row(2, id=1, total=2, note="new column"))
    deliver(one, row(3, id=1, total=3))
    assert data(place.rows("shop_orders"))[0]["note"] is None


# --- sets ---------------------------------------------------------------------------------------------


def skus(place: Harness) -> list[str]:
    return [f"{one['order_id']}{one['sku']}@{one['at']}" for one in live(place.rows("shop_lines"))]


WHOLE_ORDERS = TableSpec("shop_full", ("id",), (), {"id": "id", WHOLE: "int"})


def over(at: int) -> Item:
    """The end of all rows of a table that are older."""
    one = item("set", {}, at)
    one.key, one.members = "[]", []
    return one


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_whole_version_that_ends_deletes_what_is_older_in_any_order(
    place: Harness, order: tuple[int, ...]
) -> None:
    destination = place.open()
    given = (row(1, id="a"), row(2, id="b"), over(3), row(4, id="b"))
    for n in order:
        deliver(destination, given[n], table=WHOLE_ORDERS)
    assert [one["id"] for one in live(place.rows("shop_full"))] == ["b"]
    assert {one["id"] for one in place.rows("shop_full")} == {"a", "b"}


def test_a_whole_version_that_ends_is_previewed_and_an_older_end_changes_nothing(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id="a"), row(5, id="b"), table=WHOLE_ORDERS)
    found = destination.preview(Batch(WHOLE_ORDERS, [over(3)]))
    assert [(change.op, change.key["id"]) for change in found.changes] == [("changed", "a")]
    assert deliver(destination, over(3), row(2, id="c"), table=WHOLE_ORDERS) == [STORED, STORED]
    assert deliver(destination, over(2), table=WHOLE_ORDERS) == [SUPERSEDED]
    assert [one["id"] for one in live(place.rows("shop_full"))] == ["b"]


def test_a_set_grows_and_shrinks(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(1, "A", "x"), lines(1, "B", "x"), table=LINES)
    deliver(destination, lines(2, "A", "x", "y"), table=LINES)
    assert skus(place) == ["Ax@2", "Ay@2", "Bx@1"]
    assert deliver(destination, lines(3, "A", "y", "z"), table=LINES) == [STORED]
    assert skus(place) == ["Ay@3", "Az@3", "Bx@1"]
    (dead,) = [one for one in place.rows("shop_lines") if one["_relay_deleted_at"]]
    assert (dead["sku"], dead["at"], dead["_relay_version"]) == ("x", 2, lines(3, "A").version)


def test_a_late_older_set_changes_nothing(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(3, "A", "x"), table=LINES)
    before = place.rows("shop_lines")
    assert deliver(destination, lines(2, "A", "x", "y"), table=LINES) == [SUPERSEDED]
    assert deliver(destination, lines(2, "A", "y", complete=False), table=LINES) == [SUPERSEDED]
    assert deliver(destination, lines(3, "A", "x"), table=LINES) == [STORED]
    assert place.rows("shop_lines") == before


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_sets_in_any_order_end_in_the_same_lines(place: Harness, order: tuple[int, ...]) -> None:
    destination = place.open()
    sets = (
        lines(1, "A", "x", "y"),
        lines(2, "A", "y", "z"),
        lines(3, "A", "z", "x"),
        lines(4, "A", "w", complete=False),
    )
    for n in order:
        deliver(destination, sets[n], table=LINES)
    assert skus(place) == ["Aw@4", "Ax@3", "Az@3"]


def test_an_incomplete_set_deletes_nothing_and_leaves_no_mark(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(1, "A", "x"), table=LINES)
    assert deliver(destination, lines(5, "A", "y", complete=False), table=LINES) == [STORED]
    assert skus(place) == ["Ax@1", "Ay@5"]
    assert deliver(destination, lines(4, "A", "z"), table=LINES) == [STORED]
    assert skus(place) == ["Ay@5", "Az@4"]


def test_a_complete_and_a_newer_incomplete_set_in_one_batch(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(1, "A", "v"), table=LINES)
    both = [lines(2, "A", "x", "y"), lines(3, "A", "y", "z", complete=False)]
    assert deliver(destination, *both, table=LINES) == [STORED, STORED]
    assert skus(place) == ["Ax@2", "Ay@3", "Az@3"]


def test_an_empty_set_deletes_all_lines_of_its_parent(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(1, "A", "x", "y"), lines(1, "B", "x"), table=LINES)
    assert deliver(destination, lines(2, "A"), table=LINES) == [STORED]
    assert deliver(destination, lines(1, "A", "x"), table=LINES) == [SUPERSEDED]
    assert skus(place) == ["Bx@1"]
    deliver(destination, lines(3, "A", "x"), table=LINES)
    assert skus(place) == ["Ax@3", "Bx@1"]


def test_a_member_that_is_repeated_in_a_set_is_stored_once(place: Harness) -> None:
    one = lines(1, "A", "x", "x")
    assert deliver(place.open(), one, table=LINES) == [STORED]
    assert skus(place) == ["Ax@1"]


def test_a_set_with_a_bad_member_is_rejected_whole(place: Harness) -> None:
    bad, foreign = lines(1, "A", "x", "y"), lines(1, "B", "x")
    assert bad.members
    assert foreign.members
    bad.members[1]["sku"] = None
    foreign.members[0]["order_id"] = "A"
    verdicts = deliver(place.open(), bad, foreign, lines(1, "C", "x"), table=LINES)
    assert [type(verdict) for verdict in verdicts] == [Rejected, Rejected, str]
    assert "'sku'" in str(verdicts[0])
    assert "another parent" in str(verdicts[1])
    assert skus(place) == ["Cx@1"]


# --- erasure ------------------------------------------------------------------------------------------


def blank(at: int, **key: Any) -> Batch:
    """A row to be erased."""
    return Batch(ORDERS, [item("full_gone", key, at, rank=99)])


def test_a_forgotten_row_keeps_its_key_alone_and_no_older_record_fills_it(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, total=1, note="secret"), row(5, id=2, total=2), row(9, id=3, note="ahead"))
    place.execute("ALTER TABLE shop_orders ADD COLUMN mine text")
    place.execute("UPDATE shop_orders SET mine = 'by hand'")
    assert destination.forget([blank(7, id=1)]) == 1
    assert destination.forget([blank(7, id=3)]) == 1
    assert deliver(destination, row(6, id=1, note="late"), gone(6, id=3)) == [SUPERSEDED] * 2
    assert deliver(destination, row(1, id=1, note="late"), row(9, id=3, note="again")) == [SUPERSEDED] * 2
    found = {one["id"]: one for one in place.rows("shop_orders")}
    assert {key: (one["total"], one["note"], one["mine"]) for key, one in found.items()} == {
        "1": (None, None, "by hand"), "2": ("2", None, "by hand"), "3": (None, None, "by hand"),
    }  # fmt: skip
    assert {key for key, one in found.items() if one["_relay_deleted_at"]} == {"1", "3"}
    assert deliver(destination, row(10, id=1, note="new")) == [STORED]
    assert place.rows("shop_orders")[0]["note"] == "new"


def test_forgetting_a_parent_empties_its_lines_deleted_ones_too(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(1, "A", "x", "y", note="secret"), lines(1, "B", "x", note="other"), table=LINES)
    deliver(destination, lines(2, "A", "y", "z", note="secret"), table=LINES)
    one = lines(3, "A")
    assert destination.forget([Batch(LINES, [one])]) == 3
    late = [lines(2, "A", "w", note="late"), lines(2, "A", "x", note="late", complete=False)]
    assert [deliver(destination, late_one, table=LINES) for late_one in late] == [[SUPERSEDED]] * 2
    found = [(row["order_id"], row["sku"], row["at"], row["note"]) for row in place.rows("shop_lines")]
    assert found == [
        ("A", "x", None, None),
        ("A", "y", None, None),
        ("A", "z", None, None),
        ("B", "x", 1, "other"),
    ]
    deliver(destination, lines(4, "A", "y"), table=LINES)
    assert skus(place) == ["Ay@4", "Bx@1"]


def test_forgetting_what_is_not_there_does_nothing(place: Harness) -> None:
    destination = place.open()
    assert destination.forget([blank(7, id=1), Batch(LINES, [lines(3, "A")])]) == 0
    deliver(destination, row(1, id=2, total=2))
    assert destination.forget([blank(7, id=1), Batch(LINES, [lines(3, "A")])]) == 0
    assert [one["id"] for one in live(place.rows("shop_orders"))] == ["2"]


def test_forgetting_is_done_again_without_harm_and_finds_typed_keys(place: Harness) -> None:
    destination = place.open()
    spec = TableSpec("keyed", ("i", "n", "at", "b"), (), {"i": "int", "n": "number", "at": "instant", "b": "bool"})
    key = {"i": 7, "n": Decimal("1.50"), "at": "2026-11-21T00:00:05+00:00", "b": True}
    deliver(destination, row(1, **key, note="secret"), table=spec)
    asked = Batch(spec, [item("full_gone", {**key, "i": "7"}, 7, rank=99)])
    assert [destination.forget([asked]), destination.forget([asked])] == [1, 1]
    (found,) = place.rows("keyed")
    assert (found["i"], found["note"]) == (7, None)


def test_a_sqlite_file_and_its_log_hold_nothing_of_a_forgotten_row(sqlite: Harness) -> None:
    destination = sqlite.open()
    for at in range(1, 60):
        deliver(destination, row(at, id=1, note=f"secret {at} " * 50), row(at, id=2, note="other " * at))
    folder = sqlite.folder / "data"
    files = lambda: b"".join(path.read_bytes() for path in sorted(folder.iterdir()))  # noqa: E731
    assert b"secret" in files()
    assert destination.forget([blank(70, id=1)]) == 1
    assert b"secret" not in files()
    assert live(sqlite.rows("shop_orders"))[0]["note"].startswith("other")


def test_a_destination_that_cannot_erase_says_so() -> None:
    class Mute(catalogue.load(PACKAGE, "sqlite").destination):  # type: ignore[misc]
        forget = Destination.forget

    one = Mute("mute", Mute.Settings(kind="mute"), Path())
    with pytest.raises(Permanent, match="cannot erase rows: do it there") as refused:
        one.forget([])
    assert refused.value.reason == "no_forget"


# --- values -------------------------------------------------------------------------------------------

TYPED = TableSpec(
    "typed",
    ("id",),
    (),
    {"id": "id", "t": "text", "i": "int", "n": "number", "m": "money", "at": "instant", "b": "bool", "j": "json"},
)


def cell(place: Harness, name: str) -> Any:
    return place.rows("typed")[0][name]


@pytest.mark.parametrize(
    "value",
    ["19.99", Decimal("19.90"), 2**80, -(2**70), Decimal("1E+400"), Decimal("-1E-400"), "0.000", 0, "-1.5e3"],
    ids=str,
)
def test_numbers_keep_each_digit(place: Harness, value: Any) -> None:
    assert deliver(place.open(), row(1, id=1, m=value), table=TYPED) == [STORED]
    found = cell(place, "m")
    assert isinstance(found, str)
    assert Decimal(found) == Decimal(str(value))
    if "e" not in str(value).lower():
        assert found == str(value)


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63), 2**63, 2**80, -(2**70)], ids=str)
def test_whole_numbers_of_any_size_survive_in_an_int_column(place: Harness, value: int) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, i=1), row(1, id=2, i=value), row(1, id=3, new=1), table=TYPED)
    assert deliver(destination, row(2, id=3, new=value), row(2, id=4, new=value), table=TYPED) == [STORED] * 2
    found = place.rows("typed")
    assert [int(found[0]["i"]), int(found[1]["i"])] == [1, value]
    assert [int(found[2]["new"]), int(found[3]["new"])] == [value, value]


def test_a_fraction_in_a_column_of_whole_numbers_keeps_its_digits(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, quantity=3), table=TYPED)
    deliver(destination, row(1, id=2, quantity=Decimal("1.50")), table=TYPED)
    assert [str(one["quantity"]) for one in place.rows("typed")] == ["3", "1.50"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ünï 🦆 \U0010ffff",
        "a\tb\nc\rd\\e\\N",
        "\\N",
        "\\.",
        "'; DROP TABLE x; --",
        '"',
        "x" * 1_000_000,
        "%s {}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_text_survives_unchanged(place: Harness, text: str) -> None:
    destination = place.open()
    assert deliver(destination, row(1, id=1, t=text, new=text), table=TYPED) == [STORED]
    assert (cell(place, "t"), cell(place, "new")) == (text, text)
    short = text[:1000]
    assert deliver(destination, row(2, id=short), table=TYPED) == [STORED]
    assert short in [one["id"] for one in place.rows("typed")]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, {"b": None}]},
        [],
        {},
        [Decimal("1.50"), 2**80],
        "text",
        {"a\n": "b\\\t🦆\"'"},
        5,
        True,
        {"k": "1E+999999"},
    ],
    ids=str,
)
def test_json_survives_unchanged(place: Harness, value: Any) -> None:
    assert deliver(place.open(), row(1, id=1, j=value, new={"in": value}), table=TYPED) == [STORED]
    assert decode_json(cell(place, "j").encode()) == value
    assert decode_json(cell(place, "new").encode()) == {"in": value}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-21T04:03:09Z", "2026-11-21T04:03:09.000000Z"),
        ("2026-11-21T04:03:09.123456-05:00", "2026-11-21T09:03:09.123456Z"),
        ("2026-11-21T04:03:09.1234569+00:00", "2026-11-21T04:03:09.123456Z"),
        ("2026-11-21", "2026-11-21T00:00:00.000000Z"),
        (1_795_219_200, "2026-11-21T00:00:00.000000Z"),
        (1_795_219_200_123, "2026-11-21T00:00:00.123000Z"),
        (Decimal("1795219200.5"), "2026-11-21T00:00:00.500000Z"),
    ],
    ids=str,
)
def test_moments_are_utc(place: Harness, value: Any, expected: str) -> None:
    assert deliver(place.open(), row(1, id=1, at=value), table=TYPED) == [STORED]
    assert cell(place, "at") == expected


MISFITS = [
    ("at", "soon", "soon"),
    ("at", "2026-02-30T00:00:00Z", "2026-02-30T00:00:00Z"),
    ("at", "0000-00-00T00:00:00Z", "0000-00-00T00:00:00Z"),
    ("at", "2026-11-21T00:00:00+99:00", "2026-11-21T00:00:00+99:00"),
    ("at", "--5", "--5"),
    ("at", "", ""),
    ("at", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59-12:00"),
    ("i", "many", "many"),
    ("i", "007", "007"),
    ("i", [1], "[1]"),
    ("n", "NaN", "NaN"),
    ("n", "Infinity", "Infinity"),
    ("m", "19,99 €", "19,99 €"),
    ("m", "١٢", "١٢"),
    ("m", True, "true"),
    ("b", "maybe", "maybe"),
    ("b", 1, "1"),
    ("b", {"a": Decimal("1.50")}, '{"a":1.50}'),
]


@pytest.mark.parametrize(("column", "value", "text"), MISFITS, ids=str)
def test_a_value_that_does_not_fit_goes_to_a_sibling_column(
    place: Harness, column: str, value: Any, text: str
) -> None:
    destination = place.open()
    good = {"i": 5, "n": "5", "m": "5", "b": True, "at": "2026-11-21T00:00:00Z"}
    deliver(destination, row(1, id=3, **good), table=TYPED)
    batch = [row(1, id=1, **{**good, column: value}), row(1, id=2, **good)]
    assert deliver(destination, *batch, table=TYPED) == [STORED, STORED]
    found = place.rows("typed")
    assert (found[0][column], found[0][f"{column}__text"]) == (None, text)
    assert [found[1][f"{column}__text"], found[2][f"{column}__text"]] == [None, None]
    assert found[1][column] == found[2][column] is not None
    deliver(destination, row(2, id=1, **good), table=TYPED)
    mended = place.rows("typed")[0]
    assert (mended[column], mended[f"{column}__text"]) == (found[1][column], None)


def test_a_column_that_is_not_declared_takes_the_type_of_its_first_value(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, a=None), row(1, id=2, a=True), table=TYPED)
    deliver(destination, row(1, id=3, a="yes", c="text"), row(1, id=4, c=[1]), row(1, id=5, c=7), table=TYPED)
    found = place.rows("typed")
    assert [one["a"] for one in found] == [None, True, None, None, None]
    assert [one["a__text"] for one in found] == [None, None, "yes", None, None]
    assert [one["c"] for one in found] == [None, None, "text", "[1]", "7"]


def test_a_column_that_is_always_null_is_not_made(place: Harness) -> None:
    deliver(place.open(), row(1, id=1, nothing=None), table=TYPED)
    assert "nothing" not in place.rows("typed")[0]


def test_a_record_with_a_null_key_is_rejected_and_the_others_are_stored(place: Harness) -> None:
    destination = place.open()
    batch = [row(1, id=1), row(1, id=None), item("row", {"total": 1}, 1), gone(1, id=None), row(1, id=2)]
    verdicts = deliver(destination, *batch)
    assert [type(verdict) for verdict in verdicts] == [str, Rejected, Rejected, Rejected, str]
    assert "'id'" in str(verdicts[1])
    assert [one["id"] for one in place.rows("shop_orders")] == ["1", "2"]


def test_a_key_that_comes_as_a_number_here_and_as_a_string_there_is_one_row(place: Harness) -> None:
    destination = place.open()
    table = TableSpec("loose", ("id",), (), {})
    assert deliver(destination, row(1, id=5, a=1), table=table) == [STORED]
    assert deliver(destination, row(2, id="5", a=2), table=table) == [STORED]
    assert deliver(destination, row(3, id="x", a=3), table=table) == [STORED]
    assert [(one["id"], one["a"]) for one in place.rows("loose")] == [("5", 2), ("x", 3)]


def test_two_spellings_of_a_numeric_key_do_not_break_the_batch(place: Harness) -> None:
    table = TableSpec("spelled", ("n", "at"), (), {"n": "number", "at": "instant"})
    moment, same = "2026-11-21T00:00:00Z", "2026-11-21T01:00:00+01:00"
    batch = [row(1, n="1.0", at=moment, v="old"), row(2, n="1.0", at=same, v="new")]
    assert deliver(place.open(), *batch, table=table) == [SUPERSEDED, STORED]
    assert [one["v"] for one in place.rows("spelled")] == ["new"]


def test_a_record_of_more_columns_than_a_table_takes_is_refused_and_widens_nothing(place: Harness) -> None:
    destination, table = place.open(), TableSpec("loose", ("id",), (), {})
    assert deliver(destination, row(1, id=1), table=table) == [STORED]
    with pytest.raises(Permanent, match=r"at most \d+"):  # it is counted first, or the database itself does
        deliver(destination, row(1, id=2), row(1, id=3, **{f"f{n}": n for n in range(5_000)}), table=table)
    assert deliver(destination, row(1, id=2, a=1), table=table) == [STORED]
    assert not [name for name in place.rows("loose")[0] if name.startswith("f")]


# --- names --------------------------------------------------------------------------------------------


def test_any_column_name_is_taken(place: Harness) -> None:
    names = [
        'q"uo"te',
        "x" * 200,
        "x" * 199 + "y",
        "select",
        "Name",
        "name",
        "NAME",
        "",
        " ",
        "%s",
        "a.b",
        "é" * 60,
    ]
    names += ["_relay_version", "_RELAY_x", "ctid", "xmin", "rowid", "t", "i", "excluded", "a__text", "x;--", "\t"]
    record = item("row", {"id": 1, **{name: f"value {n}" for n, name in enumerate(names)}}, 1)
    destination = place.open()
    assert deliver(destination, record) == [STORED]
    (found,) = place.rows("shop_orders")
    values = [value for name, value in found.items() if not name.startswith("_relay_")]
    assert values[-len(names) :] == [f"value {n}" for n in range(len(names))]
    assert all(len(name.encode()) <= 63 for name in found)
    assert found["_relay_version"] == record.version
    record.data["Name"] = "changed"
    record.version = version(2)
    assert deliver(place.open(), record) == [STORED]
    (again,) = place.rows("shop_orders")
    assert again == {**found, "Name": "changed", "_relay_version": record.version}


def test_siblings_of_twins_and_long_names_stay_apart(place: Harness) -> None:
    destination = place.open()
    long, twin = "n" * 63, "n" * 62 + "N"
    deliver(destination, row(1, id=1, **{long: 1, twin: 2, "a": 1, "a__text": "mine"}))
    assert deliver(destination, row(2, id=1, **{long: "x", twin: "y", "a": "z", "a__text": "mine"})) == [STORED]
    values = list(data(place.rows("shop_orders"))[0].values())
    assert sorted(str(value) for value in values if value is not None) == ["1", "mine", "x", "y", "z"]


@pytest.mark.parametrize(
    "name", ["t" * 200, 'ta"ble', "sqlite_x", "pg_x", "_relay_tables", "select", "é" * 80, "a%sb"]
)
def test_any_table_name_is_taken(place: Harness, name: str) -> None:
    table = TableSpec(name, ("id",), (), {})
    twin = TableSpec(name + "2", ("id",), (), {})
    destination = place.open()
    assert deliver(destination, row(1, id=1), table=table) == [STORED]
    assert deliver(place.open(), row(2, id=1), row(2, id=2), table=table) == [STORED] * 2
    assert deliver(destination, row(1, id=1), table=twin) == [STORED]
    assert {info.name: info.rows for info in destination.tables()} == {name: 2, name + "2": 1}
    assert all(place.rows(info.at) for info in destination.tables()), "and it is told what they are called"


def test_tables_that_differ_in_case_stay_apart(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1), table=TableSpec("Orders", ("id",), (), {}))
    deliver(destination, row(1, id=2), row(1, id=3), table=TableSpec("orders", ("id",), (), {}))
    assert {info.name: info.rows for info in destination.tables()} == {"Orders": 1, "orders": 2}


# --- other people's tables ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE shop_orders (id text PRIMARY KEY)", "CREATE VIEW shop_orders AS SELECT 1 AS id"]
)
def test_a_table_that_is_not_ours_is_refused_by_name(place: Harness, statement: str) -> None:
    place.execute(statement)
    with pytest.raises(Permanent, match=r"shop_orders.*not made by the relay") as caught:
        deliver(place.open(), row(1, id=1))
    assert caught.value.reason == "foreign_table"
    assert deliver(place.open(), row(1, id=1), table=TYPED) == [STORED]


def test_columns_of_the_users_and_views_are_left_alone(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, total=1, quantity=1))
    place.execute("ALTER TABLE shop_orders ADD COLUMN mine text")
    place.execute("UPDATE shop_orders SET mine = 'precious'")
    place.execute("CREATE VIEW big AS SELECT id, total, quantity, mine FROM shop_orders")
    assert deliver(destination, row(2, id=1, total=2, quantity=2**70, mine="theirs", new=1)) == [STORED]
    (found,) = place.rows("shop_orders")
    assert (found["mine"], found["mine__2"], found["new"], found["total"]) == ("precious", "theirs", 1, "2")
    assert str(2**70) in {found["quantity"], found.get("quantity__text")}
    ((_, total, _, mine),) = place.execute("SELECT * FROM big")
    assert (str(total), mine) == ("2", "precious")


def test_what_somebody_dropped_is_made_again(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, note="a"))
    place.execute("ALTER TABLE shop_orders DROP COLUMN note")
    assert deliver(destination, row(2, id=1, note="b")) == [STORED]
    assert place.rows("shop_orders")[0]["note"] == "b"
    place.execute("DROP TABLE shop_orders")
    assert deliver(destination, row(1, id=1, note="c")) == [STORED]
    assert place.rows("shop_orders")[0]["note"] == "c"


def test_two_lanes_that_meet_a_new_table_and_new_columns_at_once_both_succeed(place: Harness) -> None:
    verdicts: list[Any] = []
    gate = threading.Barrier(2)

    def lane(number: int) -> None:
        destination = place.open()
        for turn in range(5):
            gate.wait(timeout=20)
            try:
                batch = [row(turn, id=f"{number}-{turn}", **{f"c{turn}": turn, f"own{number}": 1})]
                verdicts.extend(deliver(destination, *batch))
            except DeliveryError as error:
                verdicts.append(error)

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [STORED] * 10
    assert len(place.rows("shop_orders")) == 10


# --- what a destination says of itself ----------------------------------------------------------------


def test_tables_tells_live_and_deleted_rows(place: Harness) -> None:
    destination = place.open()
    assert destination.tables() == []
    deliver(destination, row(1, id=1), row(2, id=2), gone(7, id=3))
    (info,) = destination.tables()
    assert (info.name, info.rows, info.deleted) == ("shop_orders", 2, 1)
    assert info.last_received_at == "2026-11-21T00:00:07.000099Z"
    assert set(info.columns) == {"id", "total", "updated_at"}


def test_ping_passes_where_a_batch_would(place: Harness) -> None:
    destination = place.open()
    destination.ping()
    assert deliver(destination, row(1, id=1)) == [STORED]


def test_ping_and_deliver_fail_as_one_where_the_place_is_away(place: Harness) -> None:
    destination = place.open(**place.away())
    with pytest.raises(Transient) as caught:
        destination.ping()
    with pytest.raises(Transient):
        deliver(destination, row(1, id=1))
    assert not caught.value.unknown
    shown = f"{caught.value} {caught.value!r} {destination!r} {destination.settings!r}"
    assert "hunter2-secret" not in shown


def test_a_batch_as_large_as_the_limits_is_taken(place: Harness) -> None:
    destination = place.open()
    many = [row(1, id=n, total=n, note=f"row {n}") for n in range(destination.limits.records)]
    assert set(deliver(destination, *many)) == {STORED}
    (info,) = destination.tables()
    assert info.rows == len(many)


def test_a_destination_works_again_after_close(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1))
    destination.close()
    assert deliver(place.open(), row(2, id=1)) == [STORED]


# --- PostgreSQL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"t": "a\0b"},
        {"j": {"a": "\0"}},
        {"j": {"\0": 1}},
        {"i": "a\0b"},
        {"new": "\0"},
        {"\0": 1},
        {"n": Decimal("1E+131072")},
        {"m": "1e-20000"},
        {"j": [Decimal("1E+999999")]},
        {"id": "a\0"},
    ],
    ids=repr,
)
def test_postgres_rejects_by_name_what_it_cannot_hold(postgres: Harness, value: dict[str, Any]) -> None:
    destination = postgres.open()
    verdicts = deliver(destination, row(1, id=1), item("row", {"id": 2, **value}, 1), row(1, id=3), table=TYPED)
    assert verdicts[::2] == [STORED, STORED]
    assert isinstance(verdicts[1], Rejected)
    assert "column" in verdicts[1].reason
    assert [one["id"] for one in postgres.rows("typed")] == ["1", "3"]


def test_postgres_takes_a_backslash_before_u0000_for_what_it_is(postgres: Harness) -> None:
    value = {"a": "\\u0000", "b": "\\\\u0000"}
    assert deliver(postgres.open(), row(1, id=1, j=value), table=TYPED) == [STORED]
    assert decode_json(cell(postgres, "j").encode()) == value


def test_postgres_gives_up_a_statement_that_waits_too_long(postgres: PostgresHarness) -> None:
    destination = postgres.open(statement_timeout_s=0.3)
    deliver(destination, row(1, id=1))
    with postgres.connect() as other, other.transaction():
        other.execute("LOCK TABLE shop_orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Transient, match="timeout") as caught:
            deliver(destination, row(2, id=1))
    assert not caught.value.unknown
    assert deliver(destination, row(2, id=1)) == [STORED]


def test_postgres_connects_again_after_the_server_dropped_it(postgres: PostgresHarness) -> None:
    destination = postgres.open()
    deliver(destination, row(1, id=1))
    drop = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'rowhook'"
    assert postgres.execute(drop) != [(0,)]
    with pytest.raises(Transient):
        deliver(destination, row(2, id=1))
    assert deliver(destination, row(2, id=1)) == [STORED]


@pytest.mark.parametrize(
    "change",
    [{"user": "secretive", "password": "wrong-password"}, {"dbname": "no_such"}, {"user": "no_such"}],
    ids=["password", "database", "role"],
)
def test_postgres_refuses_wrong_credentials_without_telling_them(
    postgres: Harness, change: dict[str, str]
) -> None:
    destination = postgres.open(dsn=conninfo.make_conninfo(PostgresHarness.dsn, **change))
    with pytest.raises(Refused) as caught:
        destination.ping()
    assert "wrong-password" not in f"{caught.value} {destination!r} {destination.settings!r}"


def test_postgres_takes_the_right_password_and_refuses_without_the_right_to_write(postgres: Harness) -> None:
    dsn = conninfo.make_conninfo(PostgresHarness.dsn, user="secretive", password="right-password")
    destination = postgres.open(dsn=dsn)
    destination.ping()
    with pytest.raises(Refused, match="permission denied"):
        deliver(destination, row(1, id=1))


def test_a_dsn_that_cannot_be_read_is_refused_without_repeating_it(postgres: Harness) -> None:
    with pytest.raises(Refused, match="dsn") as caught:
        postgres.open(dsn="host hunter2").ping()
    assert "hunter2" not in str(caught.value)


def test_an_answer_lost_at_commit_is_an_unknown_outcome(
    postgres: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination: Any = postgres.open()
    deliver(destination, row(1, id=1))
    run = destination._db.run

    def lost(statements: str) -> Any:
        done = run(statements)
        if statements == "COMMIT":
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(destination._db, "run", lost)
    with pytest.raises(Transient) as caught:
        deliver(destination, row(2, id=1))
    assert caught.value.unknown


def test_postgres_does_not_widen_a_column_under_a_view(postgres: Harness) -> None:
    destination = postgres.open()
    deliver(destination, row(1, id=1, quantity=1))
    postgres.execute("CREATE VIEW v AS SELECT quantity FROM shop_orders")
    assert deliver(destination, row(2, id=1, quantity=2**70), row(2, id=2, quantity=7)) == [STORED, STORED]
    found = [(one["quantity"], one["quantity__text"]) for one in postgres.rows("shop_orders")]
    assert found == [(None, str(2**70)), (7, None)]


def test_postgres_stores_declared_types(postgres: Harness) -> None:
    deliver(postgres.open(), row(1, id=1), table=TYPED)
    types = postgres.execute(
        "SELECT attname, atttypid::regtype::text FROM pg_attribute "
        "WHERE attrelid = 'typed'::regclass AND attnum > 0 AND attname NOT LIKE '\\_relay%' ORDER BY attnum"
    )
    assert types == [
        ("id", "text"),
        ("t", "text"),
        ("i", "bigint"),
        ("n", "numeric"),
        ("m", "numeric"),
        ("at", "timestamp with time zone"),
        ("b", "boolean"),
        ("j", "jsonb"),
    ]


# --- SQLite -------------------------------------------------------------------------------------------


def test_sqlite_stores_each_value_in_a_class_that_keeps_it(sqlite: Harness) -> None:
    big = 2**63
    deliver(
        sqlite.open(), row(1, id=1, t="1", i=5, n="1.10", m="007", b=True, j=1), row(1, id=2, i=big), table=TYPED
    )
    classes = sqlite.execute("SELECT typeof(id), typeof(t), typeof(i), typeof(n), n, m, typeof(b), j FROM typed")
    assert classes[0] == ("text", "text", "integer", "text", "1.10", "007", "integer", "1")
    assert sqlite.execute("SELECT typeof(i), i FROM typed WHERE id = '2'") == [("text", str(big))]


def test_sqlite_takes_nul_characters(sqlite: Harness) -> None:
    assert deliver(sqlite.open(), row(1, id=1, t="a\0b"), table=TYPED) == [STORED]
    assert cell(sqlite, "t") == "a\0b"


def test_sqlite_that_another_writer_holds_is_transient(sqlite: Harness) -> None:
    destination = sqlite.open(busy_timeout_s=0.1)
    deliver(destination, row(1, id=1))
    other: Any = sqlite.open()
    with other._transaction(), pytest.raises(Transient, match="locked") as caught:
        deliver(destination, row(2, id=1))
    assert (caught.value.reason, caught.value.unknown) == ("locked", False)
    assert deliver(destination, row(2, id=1)) == [STORED]


def test_a_file_that_is_no_database_is_refused(sqlite: SqliteHarness) -> None:
    (sqlite.folder / "data").mkdir()
    (sqlite.folder / "data/warehouse.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(Refused, match="not a database"):
        deliver(sqlite.open(), row(1, id=1))


def test_batches_are_on_disk_before_deliver_returns(sqlite: Harness) -> None:
    destination: Any = sqlite.open()
    deliver(destination, row(1, id=1))
    assert destination._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert destination._connection.execute("PRAGMA synchronous").fetchone() == (2,)


# --- what a batch would do ----------------------------------------------------------------------------


def shown(found: Preview) -> dict[tuple[str, ...], dict[str, tuple[Any, Any]]]:
    """Changes by sort and key, without where the rows come from."""
    return {
        (change.op, *map(str, change.key.values())): {
            name: cells for name, cells in change.fields.items() if name not in ORIGIN
        }
        for change in found.changes
    }


def one_of(*values: Any) -> Any:
    """Equal to each of these: databases word a cell in their own way."""

    class Either:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return other in values

    return Either()


def everything(place: Harness) -> list[Any]:
    """The relay's tables with their shapes, as somebody outside finds them."""
    catalogue_ = [place.rows(name) for name in ("_relay_tables", "_relay_columns", "_relay_sets")]
    return [*catalogue_, *(place.rows(table["sql_name"]) for table in catalogue_[0])]


def test_a_preview_tells_inserted_changed_and_ignored_rows_and_stores_nothing(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(5, id=1, total="1.00", note="a"), row(5, id=2, total="2.00"), row(5, id=4, total="4"))
    before = everything(place)
    batch = Batch(
        ORDERS,
        [
            row(6, id=1, total="1.10", note="a", more="new column"),
            row(4, id=2, total="9.00"),
            row(1, id=3, total="3.00"),
            gone(7, id=4),
            row(1, total="5.00"),
        ],
    )
    found = destination.preview(batch)
    assert everything(place) == before
    assert shown(found) == {
        ("changed", "1"): {"total": ("1.00", "1.10"), "more": (None, "new column")},
        ("inserted", "3"): {
            "id": (None, "3"),
            "total": (None, "3.00"),
            "_relay_test": (None, one_of(0, "false")),
        },
        ("changed", "4"): {
            "_relay_deleted_at": (None, one_of("2026-11-21T00:00:07.000000Z", "2026-11-21 00:00:07+00"))
        },
    }
    assert found.ignored == 1
    assert found.verdicts[:4] == [STORED, SUPERSEDED, STORED, STORED]
    assert isinstance(found.verdicts[4], Rejected)
    assert destination.deliver(batch)[:4] == found.verdicts[:4]
    assert (shown(again := destination.preview(batch)), again.ignored) == ({}, 4)


def test_a_preview_of_a_set_shows_its_lines_and_those_that_it_leaves_out(place: Harness) -> None:
    destination = place.open()
    deliver(destination, lines(5, "1", "a", "b"), lines(5, "2", "a"), table=LINES)
    before = everything(place)
    found = destination.preview(Batch(LINES, [lines(6, "1", "b", "c"), lines(4, "2", "z")]))
    assert everything(place) == before
    assert {(op, *key): set(fields) for (op, *key), fields in shown(found).items()} == {
        ("changed", "1", "a"): {"_relay_deleted_at"},
        ("changed", "1", "b"): {"at"},
        ("inserted", "1", "c"): {"order_id", "sku", "at", "_relay_test"},
    }
    assert found.ignored == 1, "line a of order 2"


def test_the_same_event_again_is_no_change(place: Harness) -> None:
    """A set newer than all it holds, and one that says of a line what it is already."""
    destination = place.open()
    batch = Batch(LINES, [lines(5, "1", "a", "b", x=1), lines(6, "1", "b", complete=False, x=2)])
    destination.deliver(batch)
    assert (shown(found := destination.preview(batch)), found.ignored) == ({}, 2)
    later = lines(7, "1", "b", x=2)
    later.members[0]["at"] = 6  # type: ignore[index]
    assert list(shown(destination.preview(Batch(LINES, [later])))) == [("changed", "1", "a")]


def test_a_preview_into_a_place_without_tables_makes_none(place: Harness) -> None:
    destination = place.open()
    assert [change.op for change in destination.preview(Batch(ORDERS, [row(1, id=1, n=10**30)])).changes] == [
        "inserted"
    ]
    assert destination.tables() == []
    assert deliver(destination, row(1, id=1, n=5)) == [STORED]
    found = destination.preview(Batch(ORDERS, [row(2, id=1, n=10**30)]))
    assert shown(found)["changed", "1"]["n"] == (one_of(5, "5"), str(10**30))
    assert place.rows("shop_orders")[0]["n"] == 5
    assert deliver(destination, row(2, id=1, n=10**30)) == [STORED]
    assert str(place.rows("shop_orders")[0]["n"]) == str(10**30)


def test_a_preview_refuses_a_table_that_is_not_ours(place: Harness) -> None:
    place.execute("CREATE TABLE shop_orders (id text)")
    with pytest.raises(Permanent, match="shop_orders") as caught:
        place.open().preview(Batch(ORDERS, [row(1, id=1)]))
    assert caught.value.reason == "foreign_table"


def test_a_preview_that_fails_leaves_the_destination_usable(place: Harness) -> None:
    destination = place.open()
    deliver(destination, row(1, id=1, total="1"))
    place.execute("DROP TABLE shop_orders")
    assert [change.op for change in destination.preview(Batch(ORDERS, [row(2, id=1)])).changes] == ["inserted"]
    place.execute("CREATE TABLE shop_orders (id text)")
    with pytest.raises(DeliveryError):
        destination.preview(Batch(ORDERS, [row(2, id=1, new_column=2)]))
    place.execute("DROP TABLE shop_orders")
    assert deliver(destination, row(3, id=1, total="3")) == [STORED]
    assert data(place.rows("shop_orders"))[0]["total"] == "3"


def test_a_preview_in_postgres_does_not_wait_for_a_lock_for_long(postgres: PostgresHarness) -> None:
    destination = postgres.open()
    deliver(destination, row(1, id=1))
    with closing(postgres.connect()) as other, other.transaction():
        other.execute("LOCK TABLE shop_orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Transient, match="lock timeout"):
            destination.preview(Batch(ORDERS, [row(2, id=1)]))
    assert deliver(destination, row(2, id=1)) == [STORED]
