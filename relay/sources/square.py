"""Square: payments, refunds, orders, customers, invoices, stock and what else a seller keeps.

https://developer.squareup.com/docs/webhooks/overview and
https://developer.squareup.com/reference/square/webhooks

What is signed is the notification URL and the body behind it, so behind a proxy the source needs its `public_url`,
letter for letter as Square has it. Most events carry the whole object. Order events are thin: they name the order,
its state and its `version` (the whole: https://developer.squareup.com/reference/square/orders-api/retrieve-order).
One subscription of an application serves every seller who authorized it, so `merchant_id` is a part of each key.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import FETCHED, Fetch, Mapper, Sample, Setting, Vendor, api, field, table

_UPDATED: Final = "updated_at, then version; a deletion's event"
_VERSION: Final = "version"
_EVENT: Final = "the event's created_at"
_ORDER_EVENTS: Final = ("order.created", "order.updated", "order.fulfillment.updated")
_HOSTS: Final = ("connect.squareup.com", "connect.squareupsandbox.com")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,192}")
#: At one time and version a fetched order says more than what an event says of it.
_FETCHED: Final = 10


# fmt: off
def _seller(name: str, key: str, clock: str, **columns: str) -> Table:
    """A table whose key begins with the seller."""
    both = {**columns, "text": f"merchant_id {columns.get('text', '')}"}
    return table(name, f"merchant_id {key}", clock, **both)


PAYMENTS = _seller(
    "payments", "id", _UPDATED,
    text="id status source_type location_id order_id reference_id customer_id employee_id team_member_id "
    "terminal_checkout_id buyer_email_address note statement_description_identifier receipt_number receipt_url "
    "delay_action delay_duration version_token",
    int="version", instant="created_at updated_at delayed_until", bool="is_offline_payment",
    json="amount_money tip_money total_money app_fee_money approved_money refunded_money processing_fee "
    "card_details cash_details bank_account_details external_details wallet_details refund_ids risk_evaluation "
    "billing_address shipping_address capabilities device_details application_details",
)
REFUNDS = _seller(
    "refunds", "id", _UPDATED,
    text="id status location_id payment_id order_id reason destination_type team_member_id", int="version",
    instant="created_at updated_at", bool="unlinked",
    json="amount_money app_fee_money processing_fee destination_details",
)
ORDERS = _seller(
    "orders", "order_id", "updated_at, else created_at; then version",
    text="order_id location_id state reference_id customer_id ticket_name", int="version",
    instant="created_at updated_at closed_at",
    json="total_money total_tax_money total_discount_money total_tip_money total_service_charge_money net_amounts "
    "net_amount_due_money source taxes discounts service_charges fulfillments returns tenders refunds metadata",
)
ORDER_LINES = _seller(
    "order_lines", "order_id uid", "the order's", parent="merchant_id order_id", int="catalog_version",
    text="order_id uid name note variation_name catalog_object_id item_type", number="quantity",
    json="base_price_money gross_sales_money total_money total_tax_money total_discount_money quantity_unit "
    "modifiers applied_taxes applied_discounts metadata",
)
FULFILLMENTS = _seller(
    "order_fulfillment_updates", "event_id fulfillment_uid", _EVENT,
    text="event_id fulfillment_uid order_id location_id state old_state new_state", int="version",
    instant="created_at updated_at",
)
CUSTOMERS = _seller(
    "customers", "id", _UPDATED,
    text="id given_name family_name nickname company_name email_address phone_number birthday reference_id note "
    "creation_source", int="version", instant="created_at updated_at",
    json="address preferences group_ids segment_ids tax_ids",
)
INVOICES = _seller(
    "invoices", "id", _UPDATED,
    text="id location_id order_id delivery_method invoice_number title description public_url status timezone "
    "subscription_id sale_or_service_date payment_conditions creator_team_member_id",
    int="version", instant="created_at updated_at scheduled_at", bool="store_payment_method_enabled",
    json="primary_recipient payment_requests next_payment_amount_money accepted_payment_methods custom_fields "
    "attachments",
)
INVENTORY = _seller(
    "inventory_counts", "catalog_object_id location_id state", "calculated_at",
    text="catalog_object_id catalog_object_type state location_id", number="quantity", instant="calculated_at",
    bool="is_estimated",
)
CATALOG = _seller("catalog_versions", "", "updated_at", instant="updated_at")
BOOKINGS = _seller(
    "bookings", "id", _UPDATED,
    text="id status location_id customer_id customer_note seller_note location_type source", bool="all_day",
    int="version transition_time_minutes", instant="created_at updated_at start_at",
    json="appointment_segments creator_details address",
)
DISPUTES = _seller(
    "disputes", "id", _UPDATED,
    text="id dispute_id reason state card_brand brand_dispute_id location_id", int="version",
    instant="created_at updated_at due_at reported_at", json="amount_money disputed_payment evidence_ids",
)
SUBSCRIPTIONS = _seller(
    "subscriptions", "id", _VERSION,
    text="id location_id plan_variation_id customer_id start_date canceled_date charged_through_date status "
    "card_id timezone completed_date", number="tax_percentage", int="version monthly_billing_anchor_date",
    instant="created_at", json="invoice_ids price_override_money source actions phases",
)
CARDS = _seller(
    "cards", "id", _VERSION,
    text="id card_brand last_4 cardholder_name fingerprint customer_id reference_id card_type prepaid_type bin "
    "card_co_brand", int="exp_month exp_year version", bool="enabled", instant="created_at disabled_at",
    json="billing_address",
)
GIFT_CARDS = _seller(
    "gift_cards", "id", _EVENT,
    text="id type gan_source state gan", instant="created_at", json="balance_money customer_ids",
)
LOYALTY = _seller(
    "loyalty_accounts", "id", _UPDATED,
    text="id program_id customer_id", int="balance lifetime_points", instant="enrolled_at created_at updated_at",
    json="mapping expiring_point_deadlines",
)
PAYOUTS = _seller(
    "payouts", "id", _UPDATED,
    text="id status location_id type arrival_date end_to_end_id", int="version", instant="created_at updated_at",
    json="amount_money destination payout_fee",
)
TEAM = _seller(
    "team_members", "id", _UPDATED,
    text="id reference_id status given_name family_name email_address phone_number", bool="is_owner",
    instant="created_at updated_at", json="assigned_locations wage_setting",
)
TIMECARDS = _seller(
    "timecards", "id", _UPDATED,
    text="id location_id timezone status team_member_id", int="version",
    instant="start_at end_at created_at updated_at", json="wage breaks declared_cash_tip_money",
)
TESTS = _seller("test_notifications", "id", _EVENT, text="id event_id", instant="created_at")
# fmt: on
_TEST: Final = "webhooks.test_notification"


def _is_test(request: Request, data: Any) -> bool:
    """Sandbox deliveries say so in a header; nothing signs it, and nothing but this hangs on it."""
    sandbox = request.headers.get("square-environment", "").lower() == "sandbox"
    return sandbox or (isinstance(data, dict) and data.get("type") == _TEST)


vendor = Vendor(
    title="Square",
    family="carts",
    docs="https://developer.squareup.com/docs/webhooks/overview",
    verify=Hmac("X-Square-HmacSha256-Signature", encoding="base64", message="{url}{body}"),
    type=field("type"),
    id=field("event_id"),
    at=field("created_at"),
    test=_is_test,
    tables=(
        *(PAYMENTS, REFUNDS, ORDERS, ORDER_LINES, FULFILLMENTS, CUSTOMERS, INVOICES, INVENTORY, CATALOG),
        *(BOOKINGS, DISPUTES, SUBSCRIPTIONS, CARDS, GIFT_CARDS, LOYALTY, PAYOUTS, TEAM, TIMECARDS, TESTS),
    ),
    keep_headers=("square-environment", "square-version"),
    settings={
        **api("https://connect.squareup.com"),
        "api_token": Setting(
            "A seller's access token that may read orders; with it they are fetched.", secret=True
        ),
        "api_version": Setting("The `Square-Version` that they are asked for in.", "2026-01-22"),
        "merchant_id": Setting("The seller whose token that is, where an application has several.", ""),
    },
    setup=(
        "Developer Console → the application → Webhooks → Subscriptions → Add: this URL, and the events.",
        "Behind a proxy set the source's `public_url` to that URL, letter for letter: it is signed too.",
        "The secret: the subscription's signature key.",
    ),
    deletes="`*.deleted` marks the row deleted; where it says the id alone the row keeps what it held.",
    limits=(
        "order events name the order, its state and version; with `api_token` lines and totals are fetched",
        "a catalog event says only when the catalog changed",
        "gift cards have no time of their last change: they are ordered by the events",
    ),
    proof="library: squareup",
)


def _required(data: Mapping[str, Any], name: str) -> Any:
    """A part of a key; it must be there."""
    value = data[name]
    if value is None or value == "":
        raise KeyError(name)
    return value


def _moment(event: Event) -> int:
    """The event's own time, where it is the clock."""
    if event.at is None:
        raise KeyError("created_at")
    return event.at


def _order_of(event: Event, found: Mapping[str, Any], times: tuple[str, ...]) -> dict[str, Any]:
    """An object's version: the first of its times that is set, its version, the event's name."""
    read = (instant_ns(found.get(name)) for name in times)
    at = next((ns for ns in read if ns is not None), None)
    version = found.get("version")
    return {
        "at": _moment(event) if at is None else at,
        "sequence": version if isinstance(version, int) else 0,
        # What a creation says is the least, among equals.
        "rank": 0 if event.type.endswith(".created") else 1,
    }


def _object(into: Table, name: str, *times: str, other: str = "") -> Mapper:
    """A mapper of events that carry an object under its name; a deleted one may be missing."""

    def map_object(event: Event) -> Iterator[Record]:
        merchant, data = _required(event.data, "merchant_id"), event.data["data"]
        inner = data.get("object") or {}
        found = inner.get(name) or inner.get(other)
        gone = data.get("deleted") is True or event.type.endswith(".deleted")
        if found is None and gone:
            yield into.gone({"merchant_id": merchant, "id": _required(data, "id")}, at=_moment(event))
            return
        if found is None:
            raise KeyError(name)
        identity = found.get("id") or _required(data, "id")
        # A deletion comes after all changes, whatever the object's last one was.
        version: dict[str, Any] = {"at": _moment(event), "rank": 99} if gone else _order_of(event, found, times)
        yield into.row({**found, "id": identity, "merchant_id": merchant}, gone=gone, **version)

    return map_object


@vendor.hydrates(*_ORDER_EVENTS, token="api_token", hosts=_HOSTS)  # noqa: S106 - a setting's name
def whole_order(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The order that an event names; one of the sandbox only where that is what the settings ask."""
    order_id, seller = event.data["data"]["id"], settings.get("merchant_id") or event.data["merchant_id"]
    if event.test and "sandbox" not in str(settings["api_url"]):
        return None
    if str(seller) != event.data["merchant_id"] or not (isinstance(order_id, str) and _ID.fullmatch(order_id)):
        return None
    headers = {"Authorization": f"Bearer {settings['api_token']}", "Square-Version": str(settings["api_version"])}
    return Fetch(f"{settings['api_url']}/v2/orders/{order_id}", headers)


@vendor.maps(*_ORDER_EVENTS)
def order(event: Event) -> Iterator[Record]:
    """What is known of the order, all of it where it was fetched, and which fulfillments changed their state."""
    merchant = _required(event.data, "merchant_id")
    found = dict(event.data["data"]["object"]["order_" + event.type.removeprefix("order.").replace(".", "_")])
    order_id = _required(found, "order_id")
    changes = found.pop("fulfillment_update", None) or ()
    fetched = (event.data.get(FETCHED) or {}).get("order") or {}
    if fetched.get("id") == order_id:
        key = {"merchant_id": merchant, "order_id": order_id}
        version = {**_order_of(event, fetched, ("updated_at", "created_at")), "rank": _FETCHED}
        row = {name: value for name, value in fetched.items() if name not in {"id", "line_items"}}
        yield ORDERS.row({**row, **key}, **version)
        lines = {line["uid"]: line for line in fetched.get("line_items") or ()}
        yield ORDER_LINES.children(key, lines.values(), **version)
    else:
        row = {**found, "merchant_id": merchant}
        yield ORDERS.row(row, **_order_of(event, found, ("updated_at", "created_at")))
    for change in changes:
        _required(change, "fulfillment_uid")
        own = {"merchant_id": merchant, "event_id": _required(event.data, "event_id")}
        yield FULFILLMENTS.row({**found, **change, **own}, at=_moment(event))


@vendor.maps("inventory.count.updated")
def inventory(event: Event) -> Iterator[Record]:
    """Up to a hundred counts, each the whole count of one item in one state at one location."""
    merchant = _required(event.data, "merchant_id")
    for count in event.data["data"]["object"]["inventory_counts"]:
        for name in INVENTORY.key[1:]:
            _required(count, name)
        at = instant_ns(count["calculated_at"])
        yield INVENTORY.row({**count, "merchant_id": merchant}, at=_moment(event) if at is None else at)


@vendor.maps("catalog.version.updated")
def catalog(event: Event) -> Iterator[Record]:
    """When the seller's catalog last changed."""
    found = event.data["data"]["object"]["catalog_version"]
    at = instant_ns(_required(found, "updated_at"))
    yield CATALOG.row({**found, "merchant_id": _required(event.data, "merchant_id")}, at=at)


@vendor.maps(_TEST)
def notification(event: Event) -> Iterator[Record]:
    """What TestWebhookSubscription sends; its row shows that the whole way is open."""
    key = {"merchant_id": _required(event.data, "merchant_id"), "id": _required(event.data["data"], "id")}
    row = {name: event.data.get(name) for name in ("event_id", "created_at")}
    yield TESTS.row({**row, **key}, at=_moment(event))


_INVOICE: Final = (
    *("created", "published", "updated", "payment_made", "scheduled_charge_failed", "canceled", "refunded"),
    "deleted",
)
_CARD: Final = ("created", "updated", "automatically_updated", "disabled", "forgotten")
#: Table, the object's name, its times, what its events begin with, what they end in.
_OBJECTS: Final[tuple[tuple[Table, str, tuple[str, ...], str, tuple[str, ...]], ...]] = (
    (PAYMENTS, "payment", ("updated_at",), "payment", ("created", "updated")),
    (REFUNDS, "refund", ("updated_at",), "refund", ("created", "updated")),
    (CUSTOMERS, "customer", ("updated_at",), "customer", ("created", "updated", "deleted")),
    (INVOICES, "invoice", ("updated_at",), "invoice", _INVOICE),
    (BOOKINGS, "booking", ("updated_at",), "booking", ("created", "updated")),
    (DISPUTES, "dispute", ("updated_at",), "dispute", ("created", "state.updated", "state.changed")),
    # Without a time of their last change, but with versions: those alone decide.
    (SUBSCRIPTIONS, "subscription", ("created_at",), "subscription", ("created", "updated")),
    (CARDS, "card", ("created_at",), "card", _CARD),
    (GIFT_CARDS, "gift_card", (), "gift_card", ("created", "updated", "customer_linked", "customer_unlinked")),
    (LOYALTY, "loyalty_account", ("updated_at",), "loyalty.account", ("created", "updated", "deleted")),
    (PAYOUTS, "payout", ("updated_at",), "payout", ("sent", "paid", "failed")),
    (TEAM, "team_member", ("updated_at",), "team_member", ("created", "updated")),
    (TIMECARDS, "timecard", ("updated_at",), "labor.timecard", ("created", "updated", "deleted")),
)
for _table, _name, _times, _begin, _ends in _OBJECTS:
    # The current SDK declares a dispute under `object`, the published examples have it under its name.
    _other = "object" if _name == "dispute" else ""
    vendor.maps(*(f"{_begin}.{_end}" for _end in _ends))(_object(_table, _name, *_times, other=_other))


# --- samples ------------------------------------------------------------------------------------------

_MONEY: Final = {"amount": 2450, "currency": "EUR"}
_VISA: Final = {"card_brand": "VISA", "last_4": "1111", "exp_month": 11, "exp_year": 2030}


def _iso(now: int) -> str:
    return f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}.{now // 1_000_000 % 1000:03d}Z"


#: By an object's name: what a sample of it holds beside its id and its times.
_SAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "payment": {
        "amount_money": _MONEY, "total_money": _MONEY, "status": "COMPLETED", "source_type": "CARD", "version": 6,
        "location_id": "LSAMPLE01", "order_id": "order1", "card_details": {"status": "CAPTURED", "card": _VISA},
    },
    "refund": {"amount_money": _MONEY, "status": "PENDING", "payment_id": "payment1"},
    "customer": {"given_name": "Ida", "family_name": "Brandt", "email_address": "ida@example.com", "version": 2},
    "invoice": {"order_id": "order1", "status": "UNPAID", "title": "Catering", "version": 1},
    "booking": {"status": "ACCEPTED", "version": 1, "customer_id": "customer1", "all_day": False},
    "dispute": {"amount_money": _MONEY, "reason": "NO_KNOWLEDGE", "state": "EVIDENCE_REQUIRED", "version": 1},
    "subscription": {"customer_id": "customer1", "status": "ACTIVE", "version": 3},
    "card": {**_VISA, "customer_id": "customer1", "version": 2},
    "gift_card": {"type": "DIGITAL", "state": "ACTIVE", "balance_money": _MONEY},
    "loyalty_account": {"program_id": "program1", "balance": 120, "customer_id": "customer1"},
    "payout": {"status": "SENT", "amount_money": _MONEY, "version": 1},
    "team_member": {"status": "ACTIVE", "given_name": "Ole", "family_name": "Holm"},
    "timecard": {"status": "OPEN", "team_member_id": "member1", "version": 1},
    "order_created": {"location_id": "LSAMPLE01", "state": "OPEN", "version": 1},
    "order_updated": {"location_id": "LSAMPLE01", "state": "OPEN", "version": 3},
    "order_fulfillment_updated": {
        "location_id": "LSAMPLE01", "state": "OPEN", "version": 3, "fulfillment_update": [
            {"fulfillment_uid": "fulfillment1", "old_state": "PROPOSED", "new_state": "RESERVED"}]},
}  # fmt: skip


def _sample_of(type_: str, name: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        identity = f"{name.partition('_')[0]}{n}"
        times = {"created_at": _iso(now - 3600 * NS), "updated_at": _iso(now - NS)}
        key = "order_id" if name.startswith("order") else "id"
        found: Any = {key: identity, **times, **_SAMPLES.get(name, {})}
        if name == "inventory_count_updated":
            count = {"catalog_object_id": f"item{n}", "location_id": "LSAMPLE01", "calculated_at": _iso(now)}
            found = [{**count, "state": state, "quantity": "7"} for state in ("IN_STOCK", "SOLD")]
        inside = {"inventory_count_updated": "inventory_counts", "catalog_version_updated": "catalog_version"}
        data: dict[str, Any] = {"type": name, "id": identity, "object": {inside.get(name, name): found}}
        if type_ in {"invoice.deleted", "labor.timecard.deleted"}:
            data = {"type": name, "id": identity, "deleted": True}
        event_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"square/{type_}/{n}/{now}"))
        head = {"merchant_id": "MLSAMPLE00001", "type": type_, "event_id": event_id, "created_at": _iso(now)}
        return Sample({**head, "data": data}, {"square-environment": "Production"})

    return sample


for _type in (*_ORDER_EVENTS, "inventory.count.updated", "catalog.version.updated", _TEST):
    vendor.sample(_type)(_sample_of(_type, _type.replace(".", "_")))
for _table, _name, _times, _begin, _ends in _OBJECTS:
    for _end in _ends:
        vendor.sample(f"{_begin}.{_end}")(_sample_of(f"{_begin}.{_end}", _name))
