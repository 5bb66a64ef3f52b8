"""Drift through a real Valkey and the drains: noticed, shown, bounded, and never in the way."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import redis

from relay import drift as judged
from relay.buffer import drift as kept
from relay.buffer import keys, ledger
from relay.buffer.drift import Drift, Finding, Seen
from relay.cli import drift as shown
from relay.errors import BufferUnavailable, ConfigInvalid
from relay.web import unmapped
from tests.flow.test_history import ERP, Here
from worker import drift as noticing

ORDERS = {
    "table": "orders",
    "key": ["id"],
    "types": {"id": "int", "total": "money", "note": "text", "paid": "bool"},
    "when": "type == 'order'",
    "children": {"lines": {"key": ["sku"], "types": {"sku": "text", "n": "int"}}},
}
HOUR = 3600 * 1_000_000
START = 1_795_219_200_000


class Shop(Here):
    """A source whose orders are declared."""

    def order(self, n: int, **data: Any) -> str:
        body = {"type": "order", "id": n, "total": "12.50", "note": "x", "paid": True, **data}
        return self.post("erp", {k: v for k, v in body.items() if v is not ...})

    def drift(self, *args: str) -> dict[str, Any]:
        """What the command says, all that waits in this process told before."""
        self.web.application.extensions["rowhook"].unmapped.flush()
        return dict(json.loads(self.run("drift", "--json", *args).stdout))

    def table(self, name: str = "erp_orders") -> dict[str, Any]:
        return next(one for one in self.drift()["tables"] if one["table"] == name)

    def later(self, hours: float) -> None:
        """What comes from now on is received so much later."""
        last = int(self.client.get(keys.CLOCK) or time.time_ns() // 1000)
        self.client.set(keys.CLOCK, last + int(hours * HOUR))

    def words(self) -> str:
        self.drift()
        return str(self.run("drift").stdout)


@pytest.fixture
def here(redis_url, tmp_path):
    return Shop(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}})


def brief(findings: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((f["field"], f["declared"], f["found"], f["rows"]) for f in findings)


def test_of_rows_that_fit_nothing_is_said(here):
    for n in range(3):
        here.order(n, lines=[{"sku": "a", "n": 1}, {"sku": "b", "n": n}], note=None)
    here.drain()
    table, child = here.table(), here.table("erp_orders_lines")
    assert brief(table["undeclared"]) == [("type", None, "text", 3)]  # of the body, and not declared
    assert (table["rows"], table["new"], table["vanished"], table["changed"]) == (3, [], [], [])
    assert (child["rows"], child["undeclared"], child["new"], child["changed"]) == (6, [], [], [])
    assert "as declared: erp_orders_lines" in here.words()


def test_a_new_field_is_shown_with_its_type_and_when_it_came(here):
    here.order(1)
    here.drain()
    here.later(30)
    first = here.order(2, gift_note="for Ada")
    here.drain()
    last = here.order(3, gift_note="for Grace", shelf=7)
    here.drain()
    table = here.table()
    assert brief(table["new"]) == [("gift_note", None, "text", 2), ("shelf", None, "int", 1)]
    gift = next(one for one in table["new"] if one["field"] == "gift_note")
    assert (gift["first"], gift["last"]) == (shown._moment(int(first) // 1000), shown._moment(int(last) // 1000))
    assert f"new: gift_note, text; 2 rows, the first {gift['first']}" in here.words()
    assert brief(table["undeclared"]) == [("type", None, "text", 3)]


def test_a_type_that_changes_is_shown_and_the_row_is_stored_all_the_same(here):
    here.order(1)
    here.order(2, total={"amount": "12.50"}, paid="yes")
    here.order(3, total="")
    here.drain()
    assert brief(here.table()["changed"]) == [
        ("paid", "bool", "text", 1), ("total", "money", "empty text", 1), ("total", "money", "object", 1),
    ]  # fmt: skip
    assert "changed: paid, text where bool is expected; 1 rows" in here.words()
    assert here.sql("SELECT total__text FROM erp_orders WHERE id = 2") == [('{"amount":"12.50"}',)]


def test_of_a_whole_number_that_is_too_large_for_its_column_just_that_is_said(here):
    here.order(10**38)
    here.drain()
    assert brief(here.table()["changed"]) == [("id", "int", "int", 1)]
    assert "changed: id, int, larger than 64 bits; 1 rows" in here.words()


def test_a_column_that_vanishes_is_shown_and_is_gone_from_it_once_it_comes_back(here, monkeypatch):
    monkeypatch.setattr(judged, "VANISHED_ROWS", 20)
    monkeypatch.setattr(judged, "VANISHED_GAPS", 1)
    last = here.order(1)
    here.drain()
    for n in range(10, 20):
        here.order(n, note=...)
    here.drain()
    here.later(25)
    for n in range(20, 29):
        here.order(n, note=None if n % 2 else ...)
    here.drain()
    assert here.table()["vanished"] == []  # too few rows
    here.order(29, note=...)
    here.drain()
    (gone,) = here.table()["vanished"]
    at = shown._moment(int(last) // 1000)
    assert gone == {"field": "note", "declared": "text", "last": at, "rows_since": 20}
    assert f"vanished: note, text; the last {at}, and in none of 20 rows since" in here.words()
    here.order(30)
    here.drain()
    assert here.table()["vanished"] == []


def test_types_that_become_no_rows_are_counted_and_the_share_of_those_that_do(here):
    here.order(1)
    for n in range(3):
        here.post("erp", {"type": "cart.saved", "id": n})
    here.post("erp", {"type": "cart.saved", "id": 0})  # a repetition
    here.post("erp", {"type": "order", "lines": 3})
    here.drain()
    (source,) = here.drift()["sources"]
    assert source["states"] == {"ignored": 3, "mapped": 1, "quarantined": 1}
    assert (source["events"], source["mapped_share"]) == (5, 0.2)
    (ignored,) = source["ignored_types"]
    assert (ignored["type"], ignored["events"]) == ("cart.saved", 3)
    assert ignored["last"] >= ignored["first"]
    words = here.words()
    assert "erp (custom): 5 events, 20.0 % mapped, 60.0 % ignored, 20.0 % quarantined" in words
    assert "ignored: cart.saved (mapped, but to no row), 3 events" in words


def test_what_was_counted_is_told_by_itself(here, monkeypatch):
    monkeypatch.setattr("relay.web.unmapped.FLUSH_S", 0.05)
    here.post("erp", {"type": "cart.saved", "id": 1})
    end = time.monotonic() + 10
    while not here.client.hexists(keys.DRIFT, "erp|"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_tests_that_the_settings_drop_are_no_unmapped_type(here):
    here.write(sources={"erp": {**ERP, "tables": [ORDERS], "test": "body.test", "test_events": "drop"}})
    here.order(1, test=True, strange=1)
    here.drain()
    (source,) = here.drift()["sources"]
    assert (source["states"], source["ignored_types"]) == ({"ignored": 1}, [])


def test_rows_of_tests_are_left_out(here):
    here.write(sources={"erp": {**ERP, "tables": [ORDERS], "test": "body.test"}})
    here.order(1, test=True, strange=1)
    here.drain()
    assert here.drift()["tables"] == []
    assert here.sql("SELECT count(*) FROM erp_orders") == [(1,)]


def test_of_several_destinations_each_row_is_counted_once(here):
    here.write(
        destinations={"one": {"kind": "sqlite", "path": "one.db"}, "two": {"kind": "sqlite", "path": "two.db"}},
        sources={"erp": {**ERP, "tables": [ORDERS], "to": ["two", "one"]}},
    )
    here.order(1, total=[])
    here.drain()
    assert (here.table()["rows"], brief(here.table()["changed"])) == (1, [("total", "money", "list", 1)])


def test_no_value_is_kept(here):
    planted = "planted@example.com"
    here.order(
        1, note={"a": planted}, mail=planted, total=planted, deep={planted: [planted]}, at="2026-03-01T10:00Z"
    )
    here.post("erp", {"type": "cart.saved", "mail": planted})
    here.drain()
    assert {one["field"] for one in here.table()["undeclared"]} == {"type", "mail", "deep", "at"}
    assert planted not in here.words()
    stored = b"".join(here.client.hvals(keys.DRIFT))
    assert b"mail" in stored
    assert planted.encode() not in stored
    assert b"2026" not in stored


def test_a_field_that_redaction_drops_is_not_even_named(here):
    rules = {"redact": {"drop": ["mail"]}}
    here.write(sources={"erp": {**ERP, **rules, "tables": [ORDERS]}})
    here.order(1, mail="planted@example.com")
    here.drain()
    assert [one["field"] for one in here.table()["undeclared"]] == ["type"]


def test_what_is_kept_of_a_table_a_source_and_all_is_bounded(here, monkeypatch):
    account = Drift(here.client)
    for n in range(300):
        fields = [Finding(f"field {n} {i}", "", "text", 1, START + n, START + n) for i in range(5)]
        account.note([Seen("erp", "erp_orders", START + n, START + n, 1, fields, list(fields), list(fields))])
    found = account.every()["erp", "erp_orders"]
    assert (found.rows, found.since, found.last) == (300, START, START + 299)
    assert (len(found.unknown), len(found.misfits), len(found.columns)) == (
        kept.MOST_FINDINGS, kept.MOST_FINDINGS, kept.MOST_COLUMNS,
    )  # fmt: skip
    assert min(one.last for one in found.unknown) == START + 300 - kept.MOST_FINDINGS // 5
    assert found.columns[0].rows == 300
    for n in range(kept.MOST_TABLES + 20):
        account.note([Seen("many", f"many_{n}", START + n, START + n, 1, [])])
    assert len(account.every()) == kept.MOST_TABLES + 1
    assert ("many", "many_19") not in account.every()
    assert ("many", "many_20") in account.every()
    account.note([Seen(f"source{n}", "t", START + 10**6 + n, START + 10**6 + n, 1, []) for n in range(600)])
    assert here.client.hlen(keys.DRIFT) == kept.MOST_ACCOUNTS
    assert ("erp", "erp_orders") not in account.every()
    assert ("source599", "t") in account.every()
    assert here.client.memory_usage(keys.DRIFT, samples=0) < 2**20


def test_a_table_with_the_most_that_is_kept_stays_small(here):
    fields = [Finding(f"{n:x<100}", "instant", "empty text", 10**6, START, START) for n in range(256)]
    Drift(here.client).note([Seen("erp", "erp_orders", START, START, 1, fields, list(fields), list(fields))])
    assert here.client.hstrlen(keys.DRIFT, "erp|erp_orders") < 100_000


def test_findings_are_added_up_and_forgotten_when_rows_come_for_long_without_them(here):
    one, other = Drift(here.client), Drift(here.client)
    one.note([Seen("erp", "t", START + 5, START + 5, 2, [Finding("a", "", "int", 2, START + 5, START + 5)])])
    other.note([Seen("erp", "t", START, START + 9, 3, [Finding("a", "", "int", 1, START, START + 2)])])
    account = one.every()["erp", "t"]
    assert (account.since, account.last, account.rows) == (START, START + 9, 5)
    assert account.unknown == [Finding("a", "", "int", 3, START, START + 5, 5)]
    late = START + kept.REMEMBERED_MS + 10
    one.note([Seen("erp", "t", late, late, 1, [Finding("b", "", "int", 1, late, late)])])
    assert [found.name for found in one.every()["erp", "t"].unknown] == ["b"]


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\xc1\xff", b"text", b"\x90", b"\x96\x01\x02\x03\x90\x90\xc0", b"\x96\x01\x02\x03\x91\x01\x90\x90"],
)
def test_a_damaged_account_is_left_out_and_begins_anew(here, damaged):
    here.client.hset(keys.DRIFT, mapping={"erp|erp_orders": damaged, "erp|": damaged, "nonsense": b"x"})
    assert here.drift()["tables"] == []
    here.order(1, total=[])
    here.post("erp", {"type": "cart.saved", "id": 1})
    here.drain()
    assert here.table()["rows"] == 1
    assert here.drift()["sources"][0]["ignored_types"][0]["events"] == 1
    assert ledger.audit(here.client, deep=True) == []


@pytest.mark.parametrize("put", ["set", "lpush"])
def test_a_key_of_another_type_is_survived_and_replaced(here, put):
    getattr(here.client, put)(keys.DRIFT, "nonsense")
    assert here.drift()["tables"] == []
    assert here.run("drift").exit_code == 0
    here.order(1)
    here.drain()
    assert here.table()["rows"] == 1


def test_where_it_cannot_be_kept_rows_and_answers_go_on_and_it_is_said_once(here, monkeypatch):
    def fails(self, seen: Any) -> None:
        raise BufferUnavailable("Redis is full", reason="redis_full")

    said: list[str] = []
    for module in (noticing, unmapped):
        monkeypatch.setattr(module.log, "warning", lambda event, **_: said.append(event), raising=False)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()  # of the web process of a test before: it would say it too
    monkeypatch.setattr(Drift, "note", fails)
    monkeypatch.setattr(noticing, "FLUSH_S", 0.0)
    for n in range(3):
        here.order(n)
        here.post("erp", {"type": "cart.saved", "id": n})
        here.web.application.extensions["rowhook"].unmapped.flush()
    here.drain()
    assert here.sql("SELECT count(*) FROM erp_orders") == [(3,)]
    assert here.client.exists(keys.DRIFT) == 0
    assert said == ["drift_not_noticed"] * 2  # the web process's and the drain's
    assert ledger.audit(here.client, deep=True) == []


def test_a_fault_in_counting_does_not_reach_the_sender(here, monkeypatch):
    monkeypatch.setattr("relay.web.unmapped.Unmapped._count", lambda *_: 1 / 0)
    here.post("erp", {"type": "cart.saved", "id": 1})


def test_it_can_be_cleared_for_one_source_or_for_all(here):
    here.order(1)
    here.drain()
    Drift(here.client).note([Seen("other", "t", 1, 1, 1, [])])
    assert "forgotten" in here.run("drift", "--clear", "--source", "erp").stdout
    assert list(Drift(here.client).every()) == [("other", "t")]
    here.run("drift", "--clear")
    assert here.client.exists(keys.DRIFT) == 0
    assert here.run("drift").exit_code == 0


def test_one_source_can_be_asked_for_and_must_be_there(here):
    sources = {name: {**ERP, "tables": [ORDERS]} for name in ("erp", "second")}
    here.write(sources=sources)
    here.post("second", {"type": "order", "id": 1})
    here.drain()
    assert [one["source"] for one in here.drift("--source", "second")["sources"]] == ["second"]
    assert [one["table"] for one in here.drift("--source", "second")["tables"]] == ["second_orders"]
    assert here.drift("--source", "erp")["tables"] == []
    with pytest.raises(ConfigInvalid, match="there is no source 'nobody'"):
        here.run("drift", "--source", "nobody")


def test_columns_that_the_settings_name_are_not_new(here):
    named = {"columns": {"id": "id", "total": "total", "name": "note"}, "types": {"total": "money"}}
    plain = {k: v for k, v in ORDERS.items() if k != "types"}
    here.write(sources={"erp": {**ERP, "tables": [{**plain, **named}]}})
    here.order(1)
    here.drain()
    table = here.table()
    assert (table["new"], table["undeclared"], table["changed"]) == ([], [], [])


def test_a_name_that_a_sender_chose_cannot_write_to_the_terminal(here):
    here.order(1, **{"\x1b[31mred": 1})
    here.drain()
    words = here.words()
    assert "\x1b" not in words
    assert "[31mred (int)" in words


def test_a_redis_that_is_away_is_said_in_plain_words(here, monkeypatch):
    def away(*_: Any) -> Any:
        raise redis.ConnectionError("no")

    account = Drift(here.client)
    monkeypatch.setattr(here.client, "hgetall", away)
    with pytest.raises(BufferUnavailable, match="cannot be reached"):
        account.every()
