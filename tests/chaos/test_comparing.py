"""The judge itself: each way in which a row can be wrong is seen, at each kind of destination."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.comparing import differences
from tests.chaos.orders import posts
from tests.oracle.model import Fact, Model
from tests.oracle.values import Money, at


def version(ns: int, arrival: int) -> str:
    return f"{ns:020d}{'0' * 21}{arrival:016d}"


@pytest.fixture
def model() -> Model:
    """An order with one line left of two."""
    known = Model()
    for moment, lines in ((1, ("1", "2")), (2, ("2",))):
        values = {"id": 7, "total_price": Money("1.50"), "updated_at": at(moment)}
        members = {("7", line): {"order_id": 7, "id": int(line)} for line in lines}
        facts = [
            Fact("shopify_orders", "row", ("7",), at(moment).ns, values=values),
            Fact("shopify_order_lines", "set", ("7",), at(moment).ns, members=members),
        ]
        known.tell(facts, source="shopify", received=moment)
    return known


def tables() -> dict[str, list[dict[str, Any]]]:
    new = {"_relay_version": version(at(2).ns, 2), "_relay_deleted_at": None}
    order = {"id": 7, "total_price": "1.5", "updated_at": "2026-03-01 09:00:02"}
    return {
        "shopify_orders": [{**order, **new}],
        "shopify_order_lines": [
            {"order_id": 7, "id": 2, **new},
            {"order_id": 7, "id": 1, **new, "_relay_deleted_at": "2026-03-01 09:00:02"},
        ],
    }


def test_the_right_rows_differ_in_nothing(model):
    assert differences(model, tables(), keeps_deleted=False) == []


@pytest.mark.parametrize(
    ("table", "index", "change", "fault", "lost"),
    [
        ("shopify_orders", 0, {"_relay_version": version(at(1).ns, 1)}, "has version", True),
        ("shopify_orders", 0, {"_relay_version": version(at(2).ns, 1)}, "has version", True),
        ("shopify_orders", 0, {"_relay_version": version(at(3).ns, 3)}, "has version", False),
        ("shopify_orders", 0, {"total_price": "1.51"}, "total_price", False),
        ("shopify_orders", 0, {"_relay_deleted_at": "2026-03-01 09:00:02"}, "deleted at", False),
        ("shopify_order_lines", 1, {"_relay_deleted_at": None}, "is live, but its parent lost it", True),
        ("shopify_order_lines", 1, {"id": 3}, "nobody ever sent it", False),
    ],
)
def test_a_wrong_row_is_named_and_a_missing_change_is_a_loss(model, table, index, change, fault, lost):
    found = tables()
    found[table][index] |= change
    (difference,) = differences(model, found, keeps_deleted=False)
    assert (difference.table, difference.lost) == (table, lost)
    assert fault in difference.fault


def test_a_row_that_is_not_there_is_a_loss(model):
    (difference,) = differences(model, tables() | {"shopify_orders": []}, keeps_deleted=False)
    assert (difference.fault, difference.lost) == ("missing", True)


def test_lives_have_everything_that_makes_order_matter():
    sent = posts(1, 2000)
    topics = [delivery.headers["X-Shopify-Topic"] for delivery in sent]
    clocks = [fact.version(0) for d in sent for fact in d.facts if fact.table == "shopify_orders"]
    assert topics.count("orders/delete") > 50
    assert len(sent) - len(set(sent)) > 100, "twice"
    assert len({(d.body, id(d)) for d in sent}) >= 2000
    keys = [(fact.key, fact.at) for d in set(sent) for fact in d.facts if fact.op == "row"]
    assert len(keys) - len(set(keys)) > 200, "equal timestamps"
    assert clocks != sorted(clocks)
    created = {d.facts[0].key for d in sent if d.headers["X-Shopify-Topic"] == "orders/create"}
    again = [d for d in set(sent) if d.headers["X-Shopify-Topic"] == "orders/create"]
    assert len(again) > len(created), "deleted orders come back"
