"""Which column a value goes to: names, encoders, and what a batch asks of a table, without any database."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.records import Type, decode_json
from worker.columns.copytext import column_text, copy_blocks
from worker.columns.layout import MISFIT, Column, Dialect, Layout, Wanted, first_columns, sql_name
from worker.columns.values import ENCODERS, as_text
from worker.columns.work import Work
from worker.destination import STORED, SUPERSEDED, Batch, Item, Rejected, TableSpec

STRICT = Dialect(fold=str, reserved=frozenset({"ctid"}), typed_keys=True, nul=False, digits=(131_072, 16_383))
LOOSE = Dialect(fold=str.lower, any_number=True)
SPEC = TableSpec("orders", ("id",), (), {"id": "id", "n": "int", "m": "money"})

scalars = (
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


def item(data: dict[str, Any], version: str = "1", members: list[dict[str, Any]] | None = None) -> Item:
    op = "row" if members is None else "set"
    return Item(op, data, members, True, version, "k", "1" * 16, 0, "shop", False, 1)  # noqa: FBT003


def layout(*columns: Column) -> Layout:
    return Layout("orders", [*first_columns(SPEC, STRICT), *columns], 1)


def fitted(*rows: dict[str, Any], known: Layout | None = None) -> tuple[Work, list[Wanted]]:
    work = Work(Batch(SPEC, [item(row) for row in rows]))
    return work, work.fit(known or layout(), STRICT)


# --- names --------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")), unique=True))
def test_names_are_distinct_short_and_not_ours(sources: list[str]) -> None:
    taken: set[str] = set()
    for source in [*sources, *("long " * 20 + source for source in sources)]:
        for suffix in ("", "__text"):
            name = sql_name(source, taken, LOOSE, suffix)
            assert name
            assert len(name.encode()) <= 63
            assert not name.lower().startswith("_relay_")
            assert name.lower() not in taken
            taken.add(name.lower())


def test_an_ordinary_name_stays_as_it_is() -> None:
    assert sql_name("Total Price", set(), STRICT) == "Total Price"
    assert sql_name("Name", {"name"}, STRICT) == "Name"
    assert sql_name("Name", {"name"}, LOOSE) == "Name__2"
    assert sql_name("ctid", set(), STRICT) == "ctid__2"


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [STRICT, LOOSE], ids=["strict", "loose"])
@pytest.mark.parametrize("kind", list(ENCODERS))
@given(column=st.lists(values, max_size=6))
def test_a_value_is_encoded_or_named_as_unfit_and_never_lost(
    kind: str, dialect: Dialect, column: list[Any]
) -> None:
    encoded, unfit = ENCODERS[kind](list(column), dialect)
    assert len(encoded) == len(column)
    for n, value in enumerate(column):
        assert (encoded[n] is None) == (value is None or n in unfit)
    if kind in {Type.TEXT, Type.JSON}:
        assert unfit == []


@given(st.lists(values, min_size=1, max_size=6))
def test_short_cuts_for_uniform_columns_say_what_the_long_way_says(column: list[Any]) -> None:
    for kind, encode in ENCODERS.items():
        together, unfit = encode(list(column), STRICT)
        alone = [encode([value, {"another": "type"}], STRICT) for value in column]
        if kind == Type.INSTANT:  # zoned text goes as it came where a whole column is such
            continue
        assert together == [one[0][0] for one in alone]
        assert unfit == [n for n, one in enumerate(alone) if 0 in one[1]]


@given(
    st.lists(st.from_regex(r"[+-]?[0-9]{0,3}(\.[0-9]{0,3})?([eE][0-9])?", fullmatch=True) | st.text(max_size=3))
)
def test_a_text_is_a_number_where_decimal_says_so_in_plain_digits(column: list[str]) -> None:
    _, unfit = ENCODERS[Type.NUMBER](list(column), STRICT)
    for n, text in enumerate(column):
        try:
            number = text.isascii() and "_" not in text and text == text.strip() and Decimal(text).is_finite()
        except ArithmeticError:
            number = False
        assert number == (n not in unfit), text


@given(st.datetimes(min_value=dt.datetime(1000, 1, 1), max_value=dt.datetime(9998, 12, 31)), st.integers(-14, 14))  # noqa: DTZ001
def test_zoned_moments_go_as_they_came(moment: dt.datetime, hours: int) -> None:
    text = moment.replace(tzinfo=dt.timezone(dt.timedelta(hours=hours))).isoformat()
    assert ENCODERS[Type.INSTANT]([text, None], STRICT) == ([text, None], [])


@pytest.mark.parametrize(
    "bad", ["2026-02-30T00:00:00Z", "2026-11-21T24:00:00Z", "2026-11-21T00:00:60Z", "²", "--5", ""]
)
def test_one_garbage_moment_does_not_spoil_its_neighbours(bad: str) -> None:
    good = "2026-11-21T00:00:00Z"
    assert ENCODERS[Type.INSTANT]([good, bad], STRICT) == (["2026-11-21T00:00:00.000000Z", None], [1])


@given(st.lists(values, min_size=1))
def test_json_of_a_column_reads_back(column: list[Any]) -> None:
    encoded, _ = ENCODERS[Type.JSON](list(column), STRICT)
    for value, text in zip(column, encoded, strict=True):
        assert (None if text is None else text) == (None if value is None else as_text_json(value))


def as_text_json(value: Any) -> str:
    (text,), _ = ENCODERS[Type.JSON]([value], STRICT)
    return str(text)


# --- what a batch asks of a table ---------------------------------------------------------------------


def test_new_columns_are_wanted_in_the_order_in_which_they_come() -> None:
    _, wanted = fitted(
        {"id": 1, "z": None, "b": 1, "a": "x"}, {"id": 2, "c": [1], "z": Decimal(1)}, {"id": 3, "y": None}
    )
    assert wanted == [
        Wanted("z", Type.NUMBER),
        Wanted("b", Type.INT),
        Wanted("a", Type.TEXT),
        Wanted("c", Type.JSON),
    ]


def test_a_declared_column_that_the_table_lacks_is_wanted_with_its_own_type() -> None:
    known = Layout("orders", [Column("id", "id", "text")], 1)
    work = Work(Batch(SPEC, [item({"id": 1, "m": "1.50"})]))
    assert work.fit(known, STRICT) == [Wanted("n", "int"), Wanted("m", "number")]


def test_a_larger_number_asks_for_a_wider_column_and_then_for_a_sibling() -> None:
    _, wanted = fitted({"id": 1, "n": 2**70})
    assert wanted == [Wanted("n", Type.NUMBER)]
    sibling = layout(Column("n", "n__text", MISFIT))
    work, wanted = fitted({"id": 1, "n": 2**70}, {"id": 2, "n": 1}, known=sibling)
    assert wanted == []
    assert (work.rows.columns["n"], work.rows.columns["n__text"]) == ([None, 1], [str(2**70), None])


def test_text_in_a_typed_column_asks_for_a_sibling() -> None:
    _, wanted = fitted({"id": 1, "m": "12 EUR"}, {"id": 2, "m": "12"})
    assert wanted == [Wanted("m", MISFIT)]


def test_a_layout_knows_what_another_process_made_meanwhile() -> None:
    known = layout(Column("x", "x", "int"), Column("m", "m__text", MISFIT))
    assert not known.lacks(Wanted("x", Type.TEXT))
    assert not known.lacks(Wanted("m", MISFIT))
    assert known.lacks(Wanted("x", Type.NUMBER))
    assert known.lacks(Wanted("x", MISFIT))
    assert known.column_for(Wanted("x", Type.NUMBER), {"x__text"}, STRICT) == Column("x", "x__text__2", MISFIT)


def test_what_cannot_be_stored_is_rejected_with_its_column_and_taken_out() -> None:
    work, _ = fitted({"id": 1, "n": 1}, {"id": None}, {"id": "a\0"}, {"id": 4, "m": Decimal("1E+200000")})
    assert work.verdicts[0] == STORED
    assert all(isinstance(verdict, Rejected) for verdict in work.verdicts[1:])
    assert [str(verdict).split("'")[1] for verdict in work.verdicts[1:]] == ["id", "id", "m"]
    assert work.rows.owners == [0]


def test_a_set_is_rejected_whole() -> None:
    spec = TableSpec("lines", ("order", "sku"), ("order",), {})
    known = Layout("lines", first_columns(spec, STRICT), 1)
    work = Work(
        Batch(spec, [item({"order": 1}, members=[{"sku": "a"}, {"sku": None}]), item({"order": 2}, members=[])])
    )
    work.fit(known, STRICT)
    assert [type(verdict) for verdict in work.verdicts] == [Rejected, str]
    assert (work.rows.owners, work.parents.owners) == ([], [1])


def test_equal_keys_go_once_and_only_the_newest() -> None:
    spec = TableSpec("t", ("n",), (), {"n": "number"})
    known = Layout("t", first_columns(spec, STRICT), 1)
    work = Work(Batch(spec, [item({"n": "1.0"}, "3"), item({"n": 1}, "2"), item({"n": "2"}, "1")]))
    work.fit(known, STRICT)
    assert sorted(work.order(work.rows, known, STRICT)) == [0, 2]
    assert work.verdicts == [STORED, SUPERSEDED, STORED]


def test_rows_go_in_the_order_of_their_keys() -> None:
    names = [f"k{n:03}" for n in range(50)]
    shuffled = random.Random(5).sample(names, 50)
    work, _ = fitted(*({"id": name} for name in shuffled))
    assert [shuffled[n] for n in work.order(work.rows, layout(), STRICT)] == names


# --- COPY ---------------------------------------------------------------------------------------------

_UNESCAPED = {"\\\\": "\\", "\\n": "\n", "\\t": "\t", "\\r": "\r"}


def unescape(field: str) -> str | None:
    if field == "\\N":
        return None
    out, n = "", 0
    while n < len(field):
        pair = field[n : n + 2]
        out += _UNESCAPED.get(pair, field[n])
        n += 2 if pair in _UNESCAPED else 1
    return out


texts = st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(texts, texts, st.none() | st.integers(), st.none() | st.booleans())))
def test_copy_text_reads_back(rows: list[tuple[Any, ...]]) -> None:
    kinds = [Type.TEXT, MISFIT, Type.INT, Type.BOOL]
    columns = [column_text(kind, [row[n] for row in rows]) for n, kind in enumerate(kinds)]
    order = list(reversed(range(len(rows))))
    blob = b"".join(copy_blocks(columns, order)).decode()
    lines = blob.split("\n")
    assert lines.pop() == ""
    read = [tuple(unescape(field) for field in line.split("\t")) for line in lines]
    flags = {True: "t", False: "f", None: None}
    expected = [(a, b, None if c is None else str(c), flags[d]) for a, b, c, d in reversed(rows)]
    assert read == expected


def test_values_that_are_no_text_become_their_json() -> None:
    assert [as_text(v) for v in (None, "a", True, 5, Decimal("1.50"), [1])] == [
        None,
        "a",
        "true",
        "5",
        "1.50",
        "[1]",
    ]
    assert decode_json(str(as_text({"a": Decimal("1.50")})).encode()) == {"a": Decimal("1.50")}
