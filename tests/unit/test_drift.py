"""What a drain notices of rows, and what is made of it."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from rq.timeouts import JobTimeoutException

from relay import configured, intake
from relay.buffer.drift import NAME, Account, Finding, Seen
from relay.buffer.lanes import Claimed
from relay.drift import VANISHED_MS, VANISHED_ROWS, Report, report
from relay.records import Codec, Table, Type, decode_json, encode_json
from relay.source import sample_request
from worker import drift
from worker.destination import Item, TableSpec
from worker.drift import Watch, misfits, rows_of, shape
from worker.reading import Reader, Work

DAY = VANISHED_MS
START = 1_795_219_200_000
SPEC = TableSpec("shop_orders", ("id",), (), {"id": "int", "total": "money", "note": "text", "paid": "bool"})


class Kept:
    """Stands for the accounts."""

    def __init__(self) -> None:
        self.told: list[Seen] = []

    def note(self, seen: Any) -> None:
        self.told += list(seen)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def item(data: dict[str, Any], at: int = START, **other: Any) -> Item:
    base = {
        "op": "row", "members": None, "complete": True, "version": "", "key": "", "event": f"{at * 1000:016d}",
        "position": 0, "source": "shop", "test": False, "size": 1,
    }  # fmt: skip
    return Item(**{**base, "data": data, **other})


def work(*items: Item, spec: TableSpec = SPEC, tries: int = 0) -> Work:
    claimed = [Claimed(one.source, one.event, None, b"x", tries) for one in items]
    return Work({spec.name: spec}, {spec.name: list(items)}, claimed, set())


def seen_of(*items: Item, spec: TableSpec = SPEC) -> Seen | None:
    kept = Kept()
    watch = Watch(kept, {"shop"})
    watch.look(work(*items, spec=spec))
    watch.close()
    return kept.told[0] if kept.told else None


def short(findings: list[Finding]) -> list[tuple[str, str, str, int]]:
    return sorted((f.name, f.declared, f.found, f.count) for f in findings)


# --- noticing -----------------------------------------------------------------------------------------


def test_a_row_that_fits_leaves_nothing_but_when_its_columns_were_filled():
    seen = seen_of(item({"id": 1, "total": "12.50", "note": "x", "paid": True}), item({"id": 2, "note": None}))
    assert seen is not None
    assert (seen.rows, seen.unknown, seen.misfits) == (2, [], [])
    assert short(seen.columns) == [
        ("id", "", "", 2),
        ("note", "", "", 1),
        ("paid", "", "", 1),
        ("total", "", "", 1),
    ]


def test_an_unknown_field_is_noted_with_its_type_and_its_times():
    seen = seen_of(*(item({"id": n, "gift": "yes", "blank": None}, START + n) for n in (3, 1, 2)))
    assert seen is not None
    assert seen.unknown == [Finding("gift", "", "text", 3, START + 1, START + 3)]
    assert (seen.first, seen.last) == (START + 1, START + 3)


def test_a_value_of_another_type_is_noted_with_the_type_that_came():
    seen = seen_of(
        item({"id": 1, "total": {"amount": "1"}, "note": 7}), item({"id": 2, "total": "", "paid": "yes"})
    )
    assert seen is not None
    assert short(seen.misfits) == [
        ("note", "text", "int", 1),
        ("paid", "bool", "text", 1),
        ("total", "money", "empty text", 1),
        ("total", "money", "object", 1),
    ]


@pytest.mark.parametrize(
    ("declared", "fitting", "unfit"),
    [
        (Type.ID, ["a", 1, 10**30], []),
        (Type.TEXT, ["", "a"], [1, True, {}, [], Decimal(1)]),
        (Type.INT, [1, "12", -5], ["007", "a", "", Decimal("1.5"), True, {}, 2**80]),
        (Type.NUMBER, [1, Decimal("1.5"), "1e3"], ["a", "", True, []]),
        (Type.MONEY, ["0.10", 3], ["3 EUR", {}]),
        (Type.INSTANT, ["2026-03-01T08:16:00Z", 1_772_352_960, "1772352960"], ["soon", "", True, {}]),
        (Type.BOOL, [True, "false"], ["yes", 1, {}]),
        (Type.JSON, [{}, [], "a", 1, True], []),
    ],
)
def test_what_fits_a_declared_type_is_what_its_column_takes(declared, fitting, unfit):
    assert misfits(declared, fitting) == []
    for value in unfit:
        assert misfits(declared, [value]) == [0]
        assert misfits(declared, [*fitting, value]) == [len(fitting)]


def test_a_type_is_one_word_and_says_nothing_of_the_value():
    values = [True, 1, Decimal("1.5"), "a", "", {"a": 1}, [1], "2026-03-01T08:16:00Z", "12345678"]
    words = ["bool", "int", "number", "text", "empty text", "object", "list", "instant", "text"]
    assert [shape(value, moments=True) for value in values] == words
    assert shape("2026-03-01") == "text"


def test_rows_are_whole_rows_and_members_of_sets_and_no_tombstones():
    items = [
        item({"id": 1}),
        item({"id": 2}, op="gone"),
        item({"id": 3, "note": "a"}, op="full_gone"),
        item({"id": 4}, op="set", members=[{"id": 4, "line": 1}, {"id": 4, "line": 2}]),
        item({"id": 5}, op="set", members=[]),
    ]
    assert [data for _, data in rows_of(items)] == [
        {"id": 1}, {"id": 3, "note": "a"}, {"id": 4, "line": 1}, {"id": 4, "line": 2},
    ]  # fmt: skip


@pytest.mark.parametrize("left_out", [{"test": True}, {"source": "client:1"}, {"source": "other"}, {"op": "gone"}])
def test_tests_others_rows_and_tombstones_are_not_looked_at(left_out):
    assert seen_of(item({"id": 1, "strange": 1}, **left_out)) is None


def test_a_row_that_goes_again_is_not_looked_at_again():
    kept = Kept()
    watch = Watch(kept, {"shop"})
    watch.look(work(item({"id": 1}), tries=1))
    watch.close()
    assert kept.told == []


def test_the_rows_of_samples_of_a_documented_vendor_leave_nothing():
    vendor = intake.vendor_of("woocommerce", {})
    source = configured.Source("shop", vendor, ("x",), {}, {"warehouse": 1}, kind="woocommerce")
    reader, codec, kept = Reader(lambda ids: {i: source.schemas[i] for i in ids}), Codec(), Kept()
    watch = Watch(kept, {"shop"})
    for number, make in enumerate(vendor.samples.values()):
        request = sample_request(make(1, time.time_ns()), "http://localhost/hooks/shop")
        (event,) = vendor.read(request, intake.decode_body(request, forms=vendor.forms))
        records = intake.records_of(source, event)
        meta = intake._meta(source, event, request, b"", intake.schemas_of(source, records))
        watch.look(reader.read([Claimed("shop", f"{number + 1:016d}", None, codec.pack(meta, b"", records))]))
    watch.close()
    assert {seen.table for seen in kept.told} >= {"shop_orders", "shop_order_line_items", "shop_coupons"}
    for seen in kept.told:
        assert (seen.table, seen.unknown, seen.misfits) == (seen.table, [], [])


# --- its bounds ---------------------------------------------------------------------------------------


def test_so_many_rows_of_a_table_are_looked_at_in_a_second_and_the_first_always():
    kept, clock = Kept(), Clock()
    watch = Watch(kept, {"shop"}, clock)
    many = work(*(item({"id": n}) for n in range(1000)))
    other = work(item({"id": 1}), spec=TableSpec("shop_others", ("id",), (), {"id": "int"}))
    for _ in range(5):
        watch.look(many)
    watch.look(other)
    clock.now += 1
    watch.look(many)
    watch.close()
    assert {seen.table: seen.rows for seen in kept.told} == {
        "shop_orders": drift.ROWS + len(range(0, 1000, 1000 // drift.ROWS + 1)),
        "shop_others": 1,
    }


def test_where_little_comes_every_row_is_looked_at():
    kept, clock = Kept(), Clock()
    watch = Watch(kept, {"shop"}, clock)
    for n in range(500):
        watch.look(work(item({"id": n})))
        clock.now += 0.011
    watch.close()
    assert sum(seen.rows for seen in kept.told) == 500
    assert len(kept.told) == 2  # it is told every five seconds


def test_a_fiftieth_of_the_time_is_spent_and_a_new_table_is_looked_at_all_the_same():
    class Slow(Clock):
        def __call__(self) -> float:
            self.now += 0.001
            return self.now

    kept, clock = Kept(), Slow()
    watch = Watch(kept, {"shop"}, clock)
    other = TableSpec("shop_others", ("id",), (), {"id": "int"})
    for n in range(90):
        watch.look(work(item({"id": n})))
    watch.look(work(item({"id": 1}), spec=other))
    watch.close()
    rows = {seen.table: seen.rows for seen in kept.told}
    assert rows["shop_others"] == 1
    assert 50 <= rows["shop_orders"] <= 55  # what is saved up is spent, a millisecond a look
    clock.now += 1
    for n in range(90):
        watch.look(work(item({"id": n})))
    watch.close()
    assert 20 <= kept.told[-1].rows <= 25  # a fiftieth of a second


def test_a_row_of_very_many_fields_uses_up_what_may_be_looked_at():
    wide = {"id": 1, **{f"field{n}": n for n in range(drift.VALUES)}}
    kept = Kept()
    watch = Watch(kept, {"shop"}, Clock())
    for _ in range(5):
        watch.look(work(item(wide)))
    watch.close()
    (seen,) = kept.told
    assert seen.rows == 1
    assert len(seen.unknown) == drift.MOST_FINDINGS


def test_what_is_noticed_between_two_flushes_is_bounded():
    kept, clock = Kept(), Clock()
    watch = Watch(kept, {"shop"}, clock)
    for n in range(400):
        watch.look(work(item({"id": n, f"field{n}": n, "x" * 1000 + str(n): 1})))
        clock.now += 0.01
    watch.close()
    (seen,) = kept.told
    assert len(seen.unknown) <= drift.MOST_COLUMNS
    assert max(len(finding.name) for finding in seen.unknown) == NAME


def test_a_fault_ends_the_noticing_is_said_once_and_never_more(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(drift.log, "warning", lambda *event, **more: said.append(f"{event}{more}"), raising=False)

    class Broken(Kept):
        calls = 0

        def note(self, _seen: Any) -> None:
            self.calls += 1
            raise OSError("planted@example.com")

    broken, clock = Broken(), Clock()
    watch = Watch(broken, {"shop"}, clock)
    for _ in range(3):
        watch.look(work(item({"id": 1})))
        clock.now += 10
    watch.close()
    assert broken.calls == 1
    again = Watch(Kept(), {"shop"})
    again.look(Work({}, {"unknown": [item({"id": 1})]}, [], set()))
    again.close()
    assert ["drift_not_noticed" in line for line in said] == [True, True]
    assert "planted" not in str(said)


def test_the_end_of_the_job_is_not_taken_for_a_fault():
    class Late(Kept):
        def note(self, _seen: Any) -> None:
            raise JobTimeoutException("its time is over")

    watch = Watch(Late(), {"shop"})
    watch.look(work(item({"id": 1})))
    with pytest.raises(JobTimeoutException):
        watch.close()


# --- what is made of it -------------------------------------------------------------------------------

TABLE = Table("orders", ("id",), columns={"id": Type.INT, "note": Type.TEXT})


def told(account: Account, table: Table = TABLE, own: frozenset[str] = frozenset()) -> Report:
    return report("shop", "shop_orders", account, table, own)


def column(name: str, count: int, rows: int, last: int) -> Finding:
    return Finding(name, "", "", count, START, last, rows)


@pytest.mark.parametrize(
    ("count", "at", "rows", "later", "gone"),
    [
        (100, 100, 100 + VANISHED_ROWS, DAY, True),
        (100, 100, 99 + VANISHED_ROWS, DAY, False),  # too few rows since
        (100, 100, 100 + VANISHED_ROWS, DAY - 1, False),  # too soon
        (1, 1, 1 + VANISHED_ROWS, DAY, True),
        (2, 100, 100 + VANISHED_ROWS, DAY, False),  # one row of fifty has it
        (2, 100, 100 + 50 * 100, DAY, True),
    ],
)
def test_a_column_vanished_after_many_rows_and_a_day_without_it(count, at, rows, later, gone):
    account = Account(START, START + later, rows, [], [], [column("note", count, at, START)])
    found = told(account)
    assert [one.name for one in found.vanished] == ["note"] * gone
    assert found.fits is not gone
    if gone:
        assert (found.vanished[0].declared, found.vanished[0].rows_since) == ("text", rows - at)


def test_a_column_that_was_never_filled_has_not_vanished():
    assert told(Account(START, START + 90 * DAY, 10**6, [], [], [])).fits


def test_a_table_of_which_nothing_comes_has_lost_nothing():
    assert told(Account(START, START, 1, [], [], [column("note", 1, 1, START)])).fits


def test_fields_of_the_first_hour_are_told_apart_from_later_ones():
    early, late = Finding("a", "", "int", 5, START + 1000, START), Finding("b", "", "text", 1, START + DAY, START)
    found = told(Account(START, START + DAY, 10, [early, late], [], []))
    assert (found.undeclared, found.new) == ([early], [late])


def test_what_was_declared_or_changed_in_the_declaration_since_is_no_longer_told():
    account = Account(
        START, START + 2 * DAY, 10**6,
        [Finding("note", "", "text", 9, START, START), Finding("id", "", "int", 9, START, START)],
        [Finding("note", "int", "text", 9, START, START), Finding("gone", "int", "text", 9, START, START)],
        [column("gone", 9, 9, START)],
    )  # fmt: skip
    assert told(account).fits


def test_columns_that_the_settings_name_without_a_type_are_known_and_can_vanish_and_change():
    account = Account(
        START, START + 2 * DAY, 5000,
        [
            Finding("name", "", "text", 9, START, START, 9),
            Finding("size", "", "int", 9, START, START + DAY, 4999),
            Finding("size", "", "number", 9, START + 5, START + DAY, 4999),
            Finding("kind", "", "text", 9, START, START + DAY, 4999),
            Finding("kind", "", "object", 9, START + 5, START + DAY, 4999),
        ],
        [],
        [],
    )  # fmt: skip
    found = told(account, own=frozenset({"name", "size", "kind"}))
    assert (found.new, found.undeclared) == ([], [])
    assert [one.name for one in found.vanished] == ["name"]
    assert [(one.name, one.declared, one.found) for one in found.changed] == [("kind", "text", "object")]


def test_findings_survive_their_way_as_bytes():
    assert decode_json(encode_json(Finding("a", "", "int", 1, 2, 3))) == ["a", "", "int", 1, 2, 3, 0]
