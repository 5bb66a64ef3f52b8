"""Squarespace Commerce: that orders are made and changed; the orders themselves have to be fetched.

https://developers.squarespace.com/webhooks/overview
https://developers.squarespace.com/webhooks/verifying-notifications
https://developers.squarespace.com/webhooks/notification-delivery

The secret is written in hex and is decoded before it signs. A notification names an order and what was done to it,
nothing else, and comes in any order; `createdOn` is when the notification was made. One subscription belongs to
one site, but one address may serve several: the site is part of each key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from relay.records import Event, Record, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Sample, Vendor, field, table

# fmt: off
NOTIFICATIONS = table(
    "notifications", "id", "createdOn: each is written once",
    text="id websiteId subscriptionId topic orderId update", instant="createdOn", json="data",
)
ORDERS = table(
    "orders", "websiteId orderId", "createdOn of the last notification, then whether it made or changed the order",
    text="websiteId orderId topic update", instant="createdOn",
)
# fmt: on
_RANKS: Final = {"order.create": 0, "order.update": 1}

vendor = Vendor(
    title="Squarespace",
    family="carts",
    docs="https://developers.squarespace.com/webhooks/overview",
    verify=Hmac("Squarespace-Signature", key="hex"),
    type=field("topic"),
    id=field("id"),
    at=field("createdOn"),
    tables=(NOTIFICATIONS, ORDERS),
    setup=(
        "POST /1.0/webhook_subscriptions with an OAuth token: this URL, the topics that are mapped here.",
        "The secret: `secret` of the answer, said once; rotating it ends the old one at once.",
    ),
    deletes="There are none: an order that is cancelled has the update `CANCELED`.",
    limits=(
        "a notification names the order alone; what it holds has to be fetched",
        "an order's row is what was last done to it, not all that was",
    ),
    proof="vector: squarespace.openssl",
    # Tried again for 48 hours, but a subscription whose deliveries fail may be deleted sooner:
    # https://developers.squarespace.com/webhooks/notification-delivery
    fragile=True,
)


def _named(data: dict[str, Any], *names: str) -> dict[str, str]:
    """Parts of a key; they must be there."""
    found = {name: data[name] for name in names}
    for name, value in found.items():
        if not isinstance(value, str) or not value:
            raise KeyError(name)
    return found


@vendor.maps("order.create", "order.update", "extension.uninstall")
def notification(event: Event) -> Iterator[Record]:
    """A notification, and of an order what was last done to it."""
    whole, told = event.data, event.data.get("data") or {}
    at = instant_ns(whole.get("createdOn"))
    about = {name: told.get(name) for name in ("orderId", "update")}
    yield NOTIFICATIONS.row({**whole, **about, **_named(whole, "id")}, at=at)
    if event.type in _RANKS:
        key = {**_named(whole, "websiteId"), **_named(told, "orderId")}
        row = {**key, "topic": event.type, "update": told.get("update"), "createdOn": whole.get("createdOn")}
        yield ORDERS.row(row, at=at, rank=_RANKS[event.type])


def _sample_of(topic: str, data: dict[str, str]) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        order = {"orderId": f"{n:024x}"} if topic.startswith("order.") else {}
        return Sample(
            {
                "id": f"{(now // 1000 + n) % 16**24:024x}",
                "websiteId": f"5f3c3d55ac435e1a051f{n % 9:04x}",
                "subscriptionId": "5f3c2155d947844beedda991",
                "topic": topic,
                "createdOn": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%fZ}",
                "data": {**order, **data},
            }
        )

    return sample


vendor.sample("order.create")(_sample_of("order.create", {}))
vendor.sample("order.update")(_sample_of("order.update", {"update": "FULFILLED"}))
vendor.sample("extension.uninstall")(_sample_of("extension.uninstall", {}))
