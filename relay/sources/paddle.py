"""Paddle Billing: transactions and their lines, subscriptions, customers, the catalog, adjustments, payouts.

https://developer.paddle.com/webhooks/overview and
https://developer.paddle.com/webhooks/signature-verification

Each event carries the whole entity. Amounts are text of the currency's smallest unit ("1000"), and stay so. The
clock is the event's `occurred_at`, in microseconds; Paddle asks for it, since deliveries come in any order.
Nothing in a body tells the sandbox from the live account: they have destinations, addresses and secrets of their
own. What the simulator sends is told by its event id. Paddle Classic, with its form bodies, is another product.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid
from relay.records import NS, Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac, Timestamp
from relay.source import Mapper, Reply, Sample, Setting, Vendor, field, table

_CLOCK: Final = "the event's occurred_at, then the entity's updated_at"
_MAX_TOLERANCE_S: Final = 3 * 86_400


# fmt: off
def _entity(name: str, **columns: str) -> Table:
    """A table of entities that have an id, a status and both times, as nearly all have."""
    common = {"text": "id status", "instant": "created_at updated_at"}
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, "id", _CLOCK, **both)


ADDRESSES = _entity(
    "addresses", json="custom_data import_meta",
    text="customer_id description first_line second_line city postal_code region country_code",
)
ADJUSTMENTS = _entity(
    "adjustments", text="action type transaction_id subscription_id customer_id reason currency_code",
    bool="credit_applied_to_balance", json="totals payout_totals tax_rates_used",
)
ADJUSTMENT_ITEMS = table(
    "adjustment_items", "adjustment_id id", _CLOCK, "adjustment_id",
    text="adjustment_id id item_id type amount", json="proration totals",
)
BUSINESSES = _entity(
    "businesses", text="customer_id name company_number tax_identifier", json="contacts custom_data import_meta",
)
CUSTOMERS = _entity(
    "customers", text="name email locale", bool="marketing_consent", json="custom_data import_meta",
)
DISCOUNTS = _entity(
    "discounts", text="amount description type code currency_code mode discount_group_id",
    bool="enabled_for_checkout recur", int="maximum_recurring_intervals usage_limit times_used",
    instant="expires_at", json="restrict_to custom_data import_meta",
)
DISCOUNT_GROUPS = _entity("discount_groups", text="name", json="import_meta")
PAYMENT_METHODS = _entity(
    "payment_methods", text="customer_id address_id type origin deletion_reason", instant="saved_at",
)
PAYOUTS = _entity("payouts", text="amount currency_code remittance_reference")
PRICES = _entity(
    "prices", text="product_id name description type tax_mode",
    json="billing_cycle trial_period unit_price unit_price_overrides quantity custom_data import_meta",
)
PRODUCTS = _entity(
    "products", text="name tax_category description image_url type", json="custom_data import_meta",
)
REPORTS = _entity("reports", text="type", int="rows", instant="expires_at", json="filters")
SUBSCRIPTIONS = _entity(
    "subscriptions", text="customer_id address_id business_id currency_code collection_mode",
    instant="canceled_at first_billed_at next_billed_at paused_at started_at",
    json="billing_cycle billing_details consent_requirements current_billing_period custom_data discount "
    "import_meta scheduled_change",
)
SUBSCRIPTION_ITEMS = table(
    "subscription_items", "subscription_id price_id", _CLOCK, "subscription_id",
    text="subscription_id price_id status", int="quantity", bool="recurring",
    instant="created_at updated_at previously_billed_at next_billed_at", json="trial_dates price product",
)
CREATIONS = table(
    "subscription_creations", "subscription_id", _CLOCK,
    text="subscription_id transaction_id event_id", instant="occurred_at",
)
TRANSACTIONS = _entity(
    "transactions", text="customer_id address_id business_id currency_code origin subscription_id invoice_id "
    "invoice_number collection_mode discount_id", instant="billed_at revised_at",
    json="billing_details billing_period checkout custom_data details items",
)
TRANSACTION_LINES = table(
    "transaction_line_items", "transaction_id id", _CLOCK, "transaction_id",
    text="transaction_id id price_id", int="quantity", number="tax_rate",
    json="proration unit_totals totals product price",
)
TRANSACTION_PAYMENTS = table(
    "transaction_payments", "transaction_id payment_attempt_id", _CLOCK, "transaction_id",
    text="transaction_id payment_attempt_id payment_method_id stored_payment_method_id amount status error_code",
    instant="created_at captured_at", json="method_details",
)
# fmt: on


def _verifier(settings: Mapping[str, Any]) -> Hmac:
    """The scheme under the tolerance that is set.

    Raises:
        ConfigInvalid: the tolerance is no number of seconds, or longer than Paddle retries.
    """
    tolerance = settings["tolerance_s"]
    if isinstance(tolerance, bool) or not isinstance(tolerance, int) or not 0 < tolerance <= _MAX_TOLERANCE_S:
        raise ConfigInvalid(f"tolerance_s: seconds, from 1 to {_MAX_TOLERANCE_S}, not {tolerance!r}")
    return Hmac(
        "Paddle-Signature",
        message="{timestamp}:{body}",
        pair="h1",
        separator=";",
        timestamp=Timestamp(pair="ts", tolerance_s=tolerance),
    )


def scrub(data: Any) -> Any:
    """The event without an API key's or a client token's own text."""
    inner = data.get("data") if isinstance(data, dict) else None
    type_ = data.get("event_type") if isinstance(data, dict) else None
    secret = isinstance(type_, str) and type_.startswith(("api_key.", "client_token."))
    if not secret or not isinstance(inner, dict):
        return data
    return {**data, "data": {name: value for name, value in inner.items() if name not in {"key", "token"}}}


def _is_simulation(_request: Request, data: Any) -> bool:
    event_id = data.get("event_id") if isinstance(data, dict) else None
    return isinstance(event_id, str) and event_id.startswith("ntfsimevt_")


vendor = Vendor(
    title="Paddle Billing",
    family="carts",
    docs="https://developer.paddle.com/webhooks/overview",
    verify=_verifier,
    type=field("event_type"),
    # Not the notification's id: a replayed notification has another one.
    id=field("event_id"),
    at=field("occurred_at"),
    test=_is_simulation,
    tables=(
        *(ADDRESSES, ADJUSTMENTS, ADJUSTMENT_ITEMS, BUSINESSES, CUSTOMERS, DISCOUNTS, DISCOUNT_GROUPS),
        *(PAYMENT_METHODS, PAYOUTS, PRICES, PRODUCTS, REPORTS, SUBSCRIPTIONS, SUBSCRIPTION_ITEMS, CREATIONS),
        *(TRANSACTIONS, TRANSACTION_LINES, TRANSACTION_PAYMENTS),
    ),
    scrub=scrub,
    # A delivery counts as received only where the answer is 200: "Handle webhook delivery" at the vendor's.
    reply=Reply(),
    settings={
        "tolerance_s": Setting(
            help="How far the signature's time may lie from this machine's, in seconds. Paddle's SDKs allow 5, "
            "which slow networks and clocks exceed. If retries are refused as stale, set more, up to 259200.",
            default=300,
        )
    },
    setup=(
        "Developer tools → Notifications → New destination: type URL (webhook), this URL, and the events.",
        "The secret: the destination's secret key, `pdl_ntfset_…`.",
        "The sandbox is an account of its own: give it a source of its own.",
    ),
    deletes="`payment_method.deleted` marks the row deleted; all else is archived or canceled by its status.",
    limits=(
        "a body does not tell the sandbox from the live account",
        "events of API keys and client tokens are kept without the key, and become no rows",
    ),
    proof="library: paddle-python-sdk",
    secret_like="pdl_ntfset_",  # noqa: S106 - how such a secret begins
)


def _required(data: Mapping[str, Any], name: str) -> Any:
    """A part of a key; it must be there."""
    value = data[name]
    if value is None or value == "":
        raise KeyError(name)
    return value


def _order_of(event: Event) -> dict[str, Any]:
    """An entity's version: when the event occurred, when the entity changed, then the event's name."""
    if event.at is None:
        raise KeyError("occurred_at")
    changed = instant_ns(event.data["data"].get("updated_at"))
    rank = 0 if event.type.endswith((".created", ".imported")) else 1
    return {"at": event.at, "sequence": changed or 0, "rank": rank}


def _children(into: Table, parent_id: str, items: Any, version: dict[str, Any]) -> Iterator[Record]:
    """The set of an entity's parts; nothing where the list is absent. A part without an id is no row."""
    if isinstance(items, list):
        parent, own = {into.parent[0]: parent_id}, into.key[-1]
        members = {item[own]: item for item in items if item.get(own)}
        yield into.children(parent, members.values(), complete=len(members) == len(items), **version)


def _plain(into: Table) -> Mapper:
    """A mapper of an entity that is one row."""

    def map_entity(event: Event) -> Iterator[Record]:
        found = event.data["data"]
        _required(found, "id")
        gone, version = event.type.endswith(".deleted"), _order_of(event)
        yield into.row(dict(found), gone=gone, **(version | {"rank": 99} if gone else version))

    return map_entity


@vendor.maps("transaction.*")
def transaction(event: Event) -> Iterator[Record]:
    """A transaction, its calculated lines and its payment attempts."""
    found, version = event.data["data"], _order_of(event)
    identity, details = _required(found, "id"), found.get("details") or {}
    row = {name: value for name, value in found.items() if name not in {"payments", "details"}}
    if details:
        row["details"] = {name: value for name, value in details.items() if name != "line_items"}
    yield TRANSACTIONS.row(row, **version)
    yield from _children(TRANSACTION_LINES, identity, details.get("line_items"), version)
    yield from _children(TRANSACTION_PAYMENTS, identity, found.get("payments"), version)


@vendor.maps("subscription.*")
def subscription(event: Event) -> Iterator[Record]:
    """A subscription and its items, of which each is of another price.

    Only the creation names the transaction that it came from, so that has a table of its own.
    """
    found, version = event.data["data"], _order_of(event)
    identity, items = _required(found, "id"), found.get("items")
    row = {name: value for name, value in found.items() if name not in {"items", "transaction_id"}}
    yield SUBSCRIPTIONS.row(row, **version)
    if isinstance(items, list):
        items = [{**item, "price_id": (item.get("price") or {}).get("id")} for item in items]
    yield from _children(SUBSCRIPTION_ITEMS, identity, items, version)
    if found.get("transaction_id"):
        envelope = {name: event.data.get(name) for name in ("event_id", "occurred_at")}
        made = {"subscription_id": identity, "transaction_id": found["transaction_id"]}
        yield CREATIONS.row({**envelope, **made}, **version)


@vendor.maps("adjustment.created", "adjustment.updated")
def adjustment(event: Event) -> Iterator[Record]:
    """A refund, a credit or a chargeback, and which lines of the transaction it is about."""
    found, version = event.data["data"], _order_of(event)
    identity = _required(found, "id")
    yield ADJUSTMENTS.row({name: value for name, value in found.items() if name != "items"}, **version)
    yield from _children(ADJUSTMENT_ITEMS, identity, found.get("items"), version)


_PLAIN: Final[Mapping[str, tuple[Table, tuple[str, ...]]]] = {
    "address": (ADDRESSES, ("created", "updated", "imported")),
    "business": (BUSINESSES, ("created", "updated", "imported")),
    "customer": (CUSTOMERS, ("created", "updated", "imported")),
    "discount": (DISCOUNTS, ("created", "updated", "imported")),
    "discount_group": (DISCOUNT_GROUPS, ("created", "updated")),
    "payment_method": (PAYMENT_METHODS, ("saved", "deleted")),
    "payout": (PAYOUTS, ("created", "paid")),
    "price": (PRICES, ("created", "updated", "imported")),
    "product": (PRODUCTS, ("created", "updated", "imported")),
    "report": (REPORTS, ("created", "updated")),
}
for _begin, (_table, _ends) in _PLAIN.items():
    vendor.maps(*(f"{_begin}.{_end}" for _end in _ends))(_plain(_table))


# --- samples ------------------------------------------------------------------------------------------


def _iso(now: int) -> str:
    return f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%fZ}"


def _id(prefix: str, n: int) -> str:
    return f"{prefix}_01sample{n:018d}"


def _totals(cents: int) -> dict[str, str]:
    return {"subtotal": str(cents), "discount": "0", "tax": str(cents // 5), "total": str(cents + cents // 5)}


def _price(n: int) -> dict[str, Any]:
    return {
        "id": _id("pri", n), "product_id": _id("pro", n), "name": "Monthly", "description": f"Plan {n}",
        "tax_mode": "account_setting", "unit_price": {"amount": "1900", "currency_code": "EUR"},
        "billing_cycle": {"interval": "month", "frequency": 1}, "quantity": {"minimum": 1, "maximum": 99},
    }  # fmt: skip


def _transaction(n: int, at: str) -> dict[str, Any]:
    lines = [
        {"id": _id("txnitm", 10 * n + i), "price_id": _id("pri", i), "quantity": i + 1, "tax_rate": "0.2",
         "proration": None, "unit_totals": _totals(1900), "totals": _totals(1900 * (i + 1))}
        for i in range(2)
    ]  # fmt: skip
    attempt = {
        "payment_attempt_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"paddle/attempt/{n}")), "amount": "6840",
        "status": "captured", "error_code": None, "created_at": at, "captured_at": at,
        "method_details": {"type": "card", "card": {"type": "visa", "last4": "1111"}},
    }  # fmt: skip
    return {
        "status": "completed", "customer_id": _id("ctm", n % 500), "currency_code": "EUR", "origin": "web",
        "collection_mode": "automatic", "invoice_number": f"NL-{n:06d}", "billed_at": at, "custom_data": None,
        "items": [{"price": _price(i), "quantity": i + 1} for i in range(2)], "payments": [attempt],
        "details": {"totals": {**_totals(5700), "currency_code": "EUR"}, "line_items": lines},
    }  # fmt: skip


def _subscription(n: int, at: str) -> dict[str, Any]:
    item = {"status": "active", "quantity": 1 + n % 5, "recurring": True, "created_at": at, "updated_at": at}
    return {
        "status": "active", "customer_id": _id("ctm", n % 500), "address_id": _id("add", n), "started_at": at,
        "currency_code": "EUR", "billing_cycle": {"interval": "month", "frequency": 1}, "scheduled_change": None,
        "collection_mode": "automatic", "items": [{**item, "price": _price(1)}, {**item, "price": _price(2)}],
    }  # fmt: skip


#: What the events are about -> the id's prefix and the rest of a sample.
_SAMPLES: Final[Mapping[str, tuple[str, Callable[[int, str], dict[str, Any]]]]] = {
    "transaction": ("txn", _transaction),
    "subscription": ("sub", _subscription),
    "adjustment": ("adj", lambda n, _at: {
        "action": "refund", "transaction_id": _id("txn", n), "currency_code": "EUR", "status": "approved",
        "items": [{"id": _id("adjitm", n), "item_id": _id("txnitm", n), "type": "full", "amount": "1900"}]}),
    "address": ("add", lambda n, _at: {"customer_id": _id("ctm", n), "city": "Potsdam", "country_code": "DE"}),
    "business": ("biz", lambda n, _at: {"customer_id": _id("ctm", n), "name": f"Brandt {n} GmbH", "contacts": []}),
    "customer": ("ctm", lambda n, _at: {"name": "Ida Brandt", "email": f"ida.{n}@example.com", "locale": "de"}),
    "discount": ("dsc", lambda n, _at: {"amount": str(n % 50), "type": "percentage", "code": f"HALLO{n}"}),
    "discount_group": ("dsg", lambda n, _at: {"name": f"Winter {n}", "status": "active"}),
    "payment_method": ("paymtd", lambda n, _at: {"customer_id": _id("ctm", n), "type": "card"}),
    "payout": ("pay", lambda n, _at: {"amount": str(100_000 + n), "currency_code": "EUR", "status": "unpaid"}),
    "price": ("pri", lambda n, _at: _price(n)),
    "product": ("pro", lambda n, _at: {"name": f"Plan {n}", "tax_category": "standard", "status": "active"}),
    "report": ("rep", lambda n, _at: {"type": "transactions", "status": "ready", "rows": n % 1000}),
}  # fmt: skip


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        prefix, make = _SAMPLES[type_.partition(".")[0]]
        made, changed = _iso(now - 60 * NS), _iso(now - NS)
        found = {**make(n, changed), "id": _id(prefix, n), "created_at": made, "updated_at": changed}
        unique = uuid.uuid5(uuid.NAMESPACE_URL, f"paddle/{type_}/{n}/{now}").hex[:26]
        head = {"event_id": f"evt_{unique}", "event_type": type_, "occurred_at": _iso(now)}
        return Sample({**head, "notification_id": f"ntf_{unique}", "data": found})

    return sample


for _type in (
    *(f"{_begin}.{_end}" for _begin, (_, _ends) in _PLAIN.items() for _end in _ends),
    *("transaction.created", "transaction.completed", "subscription.created", "subscription.updated"),
    *("subscription.canceled", "adjustment.created", "adjustment.updated"),
):
    vendor.sample(_type)(_sample_of(_type))
