"""Lemon Squeezy: orders, subscriptions and their invoices, license keys, customers, affiliates of a store.

https://docs.lemonsqueezy.com/help/webhooks/webhook-requests and
https://docs.lemonsqueezy.com/help/webhooks/event-types

A body is a JSON:API document: the whole object in `data.attributes`, its id as text beside that, the event in
`meta`. `X-Event-Name` says the event too, but is not signed, so it counts only where the body is silent. There is
no delivery id. Amounts are integers of cents. Links that open a customer's pages without a login carry a signature
in them: those are taken out before anything is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Reply, Sample, Vendor, field, table

_CLOCK: Final = "updated_at, then the event's name"
#: What a link has that needs no login.
_SIGNED: Final = "signature="


# fmt: off
def _objects(name: str, **columns: str) -> Table:
    """A table of objects that have an id, a status, both times and a mode, as nearly all have."""
    common = {
        "id": "id store_id", "text": "status status_formatted", "instant": "created_at updated_at",
        "bool": "test_mode", "json": "urls",
    }
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, "id", _CLOCK, **both)


ORDERS = _objects(
    "orders", id="customer_id order_number",
    text="identifier user_name user_email currency tax_name subtotal_formatted setup_fee_formatted "
    "discount_total_formatted tax_formatted total_formatted refunded_amount_formatted",
    number="currency_rate tax_rate refunded_amount_usd",
    int="setup_fee subtotal discount_total tax total refunded_amount setup_fee_usd subtotal_usd "
    "discount_total_usd tax_usd total_usd",
    bool="refunded tax_inclusive", instant="refunded_at", json="first_order_item custom_data",
)
SUBSCRIPTIONS = _objects(
    "subscriptions", id="customer_id order_id order_item_id product_id variant_id",
    text="product_name variant_name user_name user_email card_brand card_last_four payment_processor",
    int="billing_anchor", bool="cancelled", instant="trial_ends_at renews_at ends_at",
    json="pause first_subscription_item custom_data",
)
INVOICES = _objects(
    "subscription_invoices", id="subscription_id customer_id",
    text="user_name user_email billing_reason card_brand card_last_four currency subtotal_formatted "
    "discount_total_formatted tax_formatted total_formatted refunded_amount_formatted",
    number="currency_rate refunded_amount_usd",
    int="subtotal discount_total tax total refunded_amount subtotal_usd discount_total_usd tax_usd total_usd",
    bool="refunded tax_inclusive", instant="refunded_at", json="custom_data",
)
LICENSE_KEYS = _objects(
    "license_keys", id="customer_id order_id order_item_id product_id",
    text="user_name user_email key key_short", int="activation_limit instances_count", bool="disabled",
    instant="expires_at", json="custom_data",
)
CUSTOMERS = _objects(
    "customers", text="name email city region country country_formatted total_revenue_currency_formatted "
    "mrr_formatted", int="total_revenue_currency mrr",
)
AFFILIATES = _objects(
    "affiliates", id="user_id", text="user_name user_email share_domain application_note",
    int="total_earnings unpaid_earnings", json="products",
)
# fmt: on
#: By an object's `data.type`.
TABLES: Final = {
    "orders": ORDERS,
    "subscriptions": SUBSCRIPTIONS,
    "subscription-invoices": INVOICES,
    "license-keys": LICENSE_KEYS,
    "customers": CUSTOMERS,
    "affiliates": AFFILIATES,
}


def _type(request: Request, data: Any) -> Any:
    """The event's name as it is signed, else as the header says it."""
    return field("meta", "event_name")(request, data) or request.headers.get("x-event-name", "")


def _is_test(request: Request, data: Any) -> bool:
    read = (field("meta", "test_mode"), field("data", "attributes", "test_mode"))
    return any(mode(request, data) is True for mode in read)


def scrub(data: Any) -> Any:
    """The document without links that need no login."""
    inner = data.get("data") if isinstance(data, dict) else None
    found = inner.get("attributes") if isinstance(inner, dict) else None
    urls = found.get("urls") if isinstance(found, dict) else None
    if not isinstance(inner, dict) or not isinstance(found, dict) or not isinstance(urls, dict):
        return data
    kept = {name: url for name, url in urls.items() if not (isinstance(url, str) and _SIGNED in url)}
    return {**data, "data": {**inner, "attributes": {**found, "urls": kept}}}


vendor = Vendor(
    title="Lemon Squeezy",
    family="carts",
    docs="https://docs.lemonsqueezy.com/help/webhooks",
    verify=Hmac("X-Signature"),
    type=_type,
    at=field("data", "attributes", "updated_at"),
    test=_is_test,
    tables=tuple(TABLES.values()),
    scrub=scrub,
    # Anything but a 200 is tried again: the page on webhook requests.
    reply=Reply(),
    setup=(
        "Settings → Webhooks → +: this URL, a signing secret of your own (6 to 40 characters), and the events.",
        "Test mode has webhooks of its own; its deliveries are marked as tests.",
    ),
    deletes="There are none: what ends is cancelled, expired or refunded by its status.",
    limits=(
        "an order names its first item only",
        "signed links to receipts and to the customer's portal are not kept",
        "there is no delivery id: repetitions are told by content, for minutes",
    ),
    proof="vector: lemonsqueezy.oracle",
    # Three more tries, the last after some two minutes, then it is lost: the page on webhook requests.
    fragile=True,
)


@vendor.maps("order_*", "subscription_*", "license_key_*", "customer_*", "affiliate_*")
def changed(event: Event) -> Iterator[Record]:
    """The object that the event is about, whole, with what the shop passed through the checkout."""
    data, meta = event.data["data"], event.data.get("meta") or {}
    into, identity = TABLES.get(data["type"]), data["id"]
    if into is None:
        return
    if identity is None or identity == "":
        raise KeyError("id")
    row = {**data["attributes"], "id": identity}
    if "custom_data" in meta:
        row["custom_data"] = meta["custom_data"]
    # A creation and a first update may be of the same microsecond.
    rank = 0 if event.type.endswith("_created") else 1
    yield into.row(row, at=instant_ns(data["attributes"]["updated_at"]), rank=rank)


# --- samples ------------------------------------------------------------------------------------------


def _money(*names: str) -> dict[str, int]:
    return {f"{name}{usd}": 0 if name == "discount_total" else 1900 for name in names for usd in ("", "_usd")}


def _person(n: int) -> dict[str, Any]:
    return {"store_id": 7, "customer_id": n % 500, "user_name": "Ida Brandt", "user_email": f"ida.{n}@example.com"}


def _order(n: int) -> dict[str, Any]:
    item = {"order_id": n, "product_id": 1, "variant_id": 1, "product_name": "Plan A", "price": 1900}
    return {
        **_person(n), **_money("subtotal", "discount_total", "tax", "total"), "identifier": f"order-{n}",
        "order_number": n, "currency": "EUR", "currency_rate": "1.08", "tax_name": "MwSt", "tax_rate": "19.00",
        "status": "paid", "refunded": False, "refunded_at": None, "first_order_item": item,
        "urls": {"receipt": f"https://app.lemonsqueezy.com/my-orders/{n}?signature=sample"},
    }  # fmt: skip


def _subscription(n: int) -> dict[str, Any]:
    return {
        **_person(n), "order_id": n, "product_id": 1, "product_name": "Plan A", "status": "active",
        "card_brand": "visa", "card_last_four": "4242", "pause": None, "cancelled": False, "billing_anchor": 24,
        "first_subscription_item": {"id": n, "subscription_id": n, "quantity": 1}, "ends_at": None,
        "urls": {"customer_portal": f"https://nordlicht.lemonsqueezy.com/billing?u={n}&signature=sample"},
    }  # fmt: skip


def _invoice(n: int) -> dict[str, Any]:
    amounts = _money("subtotal", "discount_total", "tax", "total")
    own = {
        "subscription_id": n,
        "billing_reason": "renewal",
        "currency": "EUR",
        "status": "paid",
        "refunded": False,
    }
    return {**_person(n), **amounts, **own, "card_brand": "visa", "card_last_four": "4242"}


#: The event -> the object's type, and a sample of it.
_SAMPLES: Final[Mapping[str, tuple[str, Callable[[int], dict[str, Any]]]]] = {
    "order_created": ("orders", _order),
    "order_refunded": ("orders", lambda n: {**_order(n), "status": "refunded", "refunded": True}),
    "subscription_created": ("subscriptions", _subscription),
    "subscription_updated": ("subscriptions", _subscription),
    "subscription_payment_success": ("subscription-invoices", _invoice),
    "license_key_created": ("license-keys", lambda n: {
        **_person(n), "order_id": n, "key": f"NORD0001-{n:012d}", "key_short": f"XXXX-{n:012d}",
        "status": "inactive", "activation_limit": 5, "instances_count": 0, "disabled": False, "expires_at": None}),
    "customer_updated": ("customers", lambda n: {
        "store_id": 7, "name": "Ida Brandt", "email": f"ida.{n}@example.com", "status": "subscribed"}),
    "affiliate_activated": ("affiliates", lambda n: {
        "store_id": 7, "user_id": n, "user_name": "Ole Holm", "user_email": f"ole.{n}@example.com",
        "status": "active", "total_earnings": 0, "unpaid_earnings": 0}),
}  # fmt: skip


def _sample_of(name: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        kind, make = _SAMPLES[name]
        made, changed_at = (f"{instant_of_ns(at):%Y-%m-%dT%H:%M:%S.%fZ}" for at in (now - 3600 * NS, now))
        found = {**make(n), "created_at": made, "updated_at": changed_at, "test_mode": False}
        meta = {"event_name": name, "test_mode": False, "custom_data": {"seat": str(n)}}
        data = {"type": kind, "id": str(n), "attributes": found}
        return Sample({"meta": meta, "data": data}, {"X-Event-Name": name})

    return sample


for _name in _SAMPLES:
    vendor.sample(_name)(_sample_of(_name))
