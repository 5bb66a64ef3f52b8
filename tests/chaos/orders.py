"""Lives of orders: lines grow, shrink, go and come back; equal timestamps; late and duplicated deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any

from tests.oracle.carts import amount, members, text
from tests.oracle.model import Fact
from tests.oracle.sending import Delivery
from tests.oracle.values import At, at, dumps

SOURCE = "shopify"
#: Of one moment the later state wins (https://shopify.dev/docs/api/webhooks); a topic's rank among the others'.
RANKS = {"orders/create": 0, "orders/updated": 1, "orders/paid": 3, "orders/fulfilled": 4}
_LISTS = {"line_items": ("order_lines", "id"), "discount_codes": ("order_discount_codes", "code")}
_CHILDREN = ("order_lines", "order_discount_codes", "order_shipping_lines")
#: So many changes has one order on average: few enough orders that changes of one meet in a batch.
_CHANGES = 30


class Order:
    """One order's life, a change at a time."""

    def __init__(self, rng: Random, identity: int) -> None:
        self.rng, self.identity = rng, identity
        self.second = rng.randrange(1000)
        self.trigger = at(self.second, "nano")
        self.lives = False
        self.lines: list[dict[str, Any]] = []
        self.lost: list[dict[str, Any]] = []

    def change(self) -> Delivery:
        """What happens next."""
        if self.lives and self.rng.random() < 0.06:
            return self._deleted()
        chance = self.rng.random()
        if not self.lives or chance < 0.6:
            self.second += self.rng.randint(1, 30)
        if not self.lives or chance < 0.9:  # else even the trigger is the same: the topic decides, or the arrival
            self.trigger = at(max(self.second + self.rng.random(), self.trigger.ns / 1e9 - at(0).ns / 1e9), "nano")
        topic = self.rng.choice(tuple(RANKS)[1:]) if self.lives else "orders/create"
        self.lives = True
        self._stock()
        return self._told(topic)

    def _stock(self) -> None:
        """Lines grow, shrink and come back."""
        rng = self.rng
        if not self.lines or rng.random() < 0.4:
            back = self.lost.pop(rng.randrange(len(self.lost))) if self.lost and rng.random() < 0.5 else None
            self.lines.append(back or {"id": rng.randrange(2**53, 2**62), "sku": text(rng), "price": amount(rng)})
        elif rng.random() < 0.5:
            self.lost.append(self.lines.pop(rng.randrange(len(self.lines))))
        for line in self.lines:
            line["quantity"] = rng.randint(1, 99)

    def _told(self, topic: str) -> Delivery:
        rng, when = self.rng, at(self.second, "offset")
        codes = [{"code": f"C{n}", "amount": amount(rng), "type": "percentage"} for n in range(rng.randrange(3))]
        body: dict[str, Any] = {
            "id": self.identity, "name": text(rng), "email": f"{self.identity}@example.com", "updated_at": when,
            "total_price": amount(rng), "currency": "EUR", "test": rng.random() < 0.5,
            "customer": {"id": rng.randrange(2**60), "note": text(rng)},
            "line_items": [dict(line) for line in self.lines], "discount_codes": codes,
        }  # fmt: skip
        if rng.random() < 0.05:  # a subscription with chosen fields
            del body["line_items"], body["email"]
        key, rank = (str(self.identity),), RANKS[topic]
        own = {name: value for name, value in body.items() if name not in _LISTS}
        facts = [Fact("shopify_orders", "row", key, when.ns, self.trigger.ns, rank, own)]
        for name, (table, column) in _LISTS.items():
            if name in body:
                rows = members("order_id", self.identity, body[name], column)
                facts.append(Fact(f"shopify_{table}", "set", key, when.ns, self.trigger.ns, rank, members=rows))
        return _delivery(rng, topic, body, self.trigger, facts)

    def _deleted(self) -> Delivery:
        """Only its id is sent, and the clock is the trigger's."""
        self.lives = False
        self.lost += self.lines
        self.lines = []
        self.second += 1
        self.trigger = at(self.second + 0.5, "nano")
        key, when = (str(self.identity),), self.trigger.ns
        facts = [Fact("shopify_orders", "gone", key, when, when, 99)]
        facts += [Fact(f"shopify_{table}", "set", key, when, when, 99) for table in _CHILDREN]
        self.second += 1
        return _delivery(self.rng, "orders/delete", {"id": self.identity}, self.trigger, facts)


def _delivery(rng: Random, topic: str, body: dict[str, Any], trigger: At, facts: list[Fact]) -> Delivery:
    headers = {
        "X-Shopify-Topic": topic,
        "X-Shopify-Shop-Domain": "sturm.myshopify.com",
        "X-Shopify-Webhook-Id": str(uuid.UUID(int=rng.getrandbits(128))),
        "X-Shopify-Triggered-At": str(trigger.wire()),
    }
    return Delivery(SOURCE, "shopify", dumps(body), headers, tuple(facts))


def endless(seed: int, events: int) -> Iterator[Delivery]:
    """`posts`, and after them those of further orders, without end."""
    yield from posts(seed, events)
    for more in count(1):
        yield from posts(seed + 1_000_003 * more, 300)


def posts(seed: int, events: int) -> list[Delivery]:
    """So many deliveries in the order of their posts: a tenth comes late, a tenth twice."""
    rng = Random(seed)
    orders = [Order(rng, rng.randrange(2**53, 2**62)) for _ in range(events // _CHANGES + 3)]
    placed = []
    for place in range(events):
        delivery = rng.choice(orders).change()
        late = rng.random() < 0.1
        placed.append((place + (rng.randrange(1, 150) if late else 0), delivery))
        if rng.random() < 0.1:
            placed.append((place + rng.randrange(1, 150), delivery))
    return [delivery for _, delivery in sorted(placed, key=lambda one: one[0])]
