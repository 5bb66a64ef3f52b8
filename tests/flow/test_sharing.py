"""Two accounts of one vendor in the same tables, and events that a vendor calls tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay.buffer import ledger
from relay.errors import ConfigInvalid
from tests.flow.test_history import ERP, ORDERS, Here

SHARED = {**ERP, "tables": [ORDERS], "tables_as": "shops"}


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Here:
    return Here(redis_url, tmp_path, sources={"north": SHARED, "south": SHARED})


def order(n: int, *skus: str, name: str = "", at: int = 1, what: str = "order.saved") -> dict[str, Any]:
    lines = [{"sku": sku} for sku in skus]
    return {"type": what, "id": n, "at": f"2026-01-01T00:00:{at:02d}Z", "name": name, "lines": lines}


def test_rows_with_the_same_id_of_two_accounts_stand_beside_each_other(here: Here) -> None:
    here.post("north", order(1, "a", "b", name="Nora"))
    here.post("south", order(1, "a", name="Sven"))
    here.drain()
    here.post("north", order(1, "b", name="Nora", at=2))
    here.post("south", order(1, what="order.deleted", at=2))
    here.drain()
    live = "WHERE _relay_deleted_at IS NULL ORDER BY 1, 2"
    assert here.sql(f"SELECT relay_source, id, name, _relay_source FROM shops_orders {live}") == [
        ("north", "1", "Nora", "north")
    ]
    assert here.sql(f"SELECT relay_source, sku FROM shops_orders_lines {live}") == [("north", "b")]
    assert ledger.audit(here.client, deep=True) == []
    audit = here.run("audit", "--deep")
    assert audit.exit_code == 0, audit.output


def test_lineage_replay_and_forget_know_whose_row_it_is(here: Here) -> None:
    here.post("north", order(1, "a", name="Nora"))
    here.post("south", order(1, "a", name="Sven"))
    here.drain()
    assert len(here.lineage("shops_orders", "south", "1")) == 1
    assert here.rehearse("south")["ignored"] == 2
    said = json.loads(here.run("forget", "shops_orders", "south", "1", "--yes", "--json").stdout)
    assert said["tables"] == ["shops_orders", "shops_orders_lines"]
    assert {p["place"]: p for p in said["places"]}["warehouse"]["rows"] == 2
    assert here.sql("SELECT relay_source, name FROM shops_orders ORDER BY 1") == [
        ("north", "Nora"),
        ("south", None),
    ]
    assert len(here.lineage("shops_orders", "north", "1")) == 1


def test_a_rule_of_a_shared_table_holds_for_each_of_its_sources(redis_url: str, tmp_path: Path) -> None:
    sources = {"north": SHARED, "south": SHARED}
    here = Here(redis_url, tmp_path, sources=sources, tables={"shops_orders": {"mask": ["name"]}})
    here.post("north", order(1, name="Nora Nordmann"))
    here.post("south", order(1, name="Sven Sundberg"))
    here.drain()
    names = [name for (name,) in here.sql("SELECT name FROM shops_orders")]
    assert all(name.startswith("*") for name in names)


@pytest.mark.parametrize(
    "others",
    [
        {"shops": {**ERP, "tables": [ORDERS]}},
        {"other": {"kind": "shopify", "secrets": ["k"], "tables_as": "shops"}},
    ],
    ids=["one of that name", "another kind"],
)
def test_a_table_that_another_writes_who_does_not_share_it_is_refused(
    redis_url: str, tmp_path: Path, others: dict[str, Any]
) -> None:
    with pytest.raises(ConfigInvalid, match="its table shops_orders is"):
        Here(redis_url, tmp_path, sources={"north": SHARED, **others})


def test_tests_are_marked_or_dropped_as_is_wished(redis_url: str, tmp_path: Path) -> None:
    lead = {"google_key": "k", "lead_id": "t1", "is_test": True, "user_column_data": []}
    ads = {"kind": "google_ads", "secrets": ["k"]}
    here = Here(redis_url, tmp_path, sources={"kept": ads, "dropped": {**ads, "test_events": "drop"}})
    for source in ("kept", "dropped"):
        here.post(source, lead)
        here.post(source, {**lead, "lead_id": "l1", "is_test": False})
    here.drain()
    assert here.sql("SELECT lead_id, _relay_test FROM kept_leads ORDER BY 1") == [("l1", 0), ("t1", 1)]
    assert here.sql("SELECT lead_id FROM dropped_leads") == [("l1",)]
    account = ledger.read(here.client).events["dropped"]
    assert account == {"accepted": 2, "mapped": 1, "ignored": 1}
    assert ledger.audit(here.client, deep=True) == []
