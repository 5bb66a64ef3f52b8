"""Chargebee: subscriptions, customers, invoices, credit notes, transactions and the catalog behind them.

https://apidocs.chargebee.com/docs/api/events and
https://www.chargebee.com/docs/2.0/webhook_settings.html

Nothing is signed: a webhook is protected by HTTP Basic. An event's `content` holds several objects, each whole and
under its name; what is null is left out. The clock of each is its own `resource_version`, a time in milliseconds
that grows with every change, so that the same object in two events is ordered right. Amounts are integers of the
currency's smallest unit, times are epoch seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Request, Table, instant_ns
from relay.signatures import Basic
from relay.source import Sample, Vendor, field, table

_CLOCK: Final = "resource_version in milliseconds, else updated_at, else the event's occurred_at"
_PARENT: Final = "its parent's " + _CLOCK


# fmt: off
def _objects(name: str, key: str = "id", **columns: str) -> Table:
    """A table of objects, which have a version, both times and a mark of deletion, as nearly all have."""
    common = {
        "id": key, "text": "object status business_entity_id", "int": "resource_version",
        "instant": "created_at updated_at", "bool": "deleted",
    }
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, key, _CLOCK, **both)


def _lines(name: str, parent: str) -> Table:
    """The lines of an invoice or of a credit note."""
    return table(
        name, f"{parent} id", _PARENT, parent,
        id=f"{parent} id subscription_id customer_id entity_id reference_line_item_id",
        int="unit_amount quantity amount tax_amount discount_amount item_level_discount_amount",
        number="tax_rate unit_amount_in_decimal quantity_in_decimal amount_in_decimal",
        text="object pricing_model description entity_description entity_type tax_exempt_reason",
        instant="date_from date_to", bool="is_taxed metered is_percentage_pricing",
    )


CUSTOMERS = _objects(
    "customers", id="primary_payment_source_id backup_payment_source_id",
    text="first_name last_name email phone company auto_collection offline_payment_method vat_number "
    "vat_number_status taxability locale channel card_status fraud_flag pii_cleared preferred_currency_code "
    "created_from_ip", int="net_term_days promotional_credits refundable_credits excess_payments unbilled_charges",
    instant="vat_number_validated_time", bool="allow_direct_debit auto_close_invoices",
    json="billing_address contacts payment_method balances referral_urls tax_providers_fields relationship "
    "meta_data",
)
SUBSCRIPTIONS = _objects(
    "subscriptions", id="customer_id plan_id payment_source_id gift_id active_id",
    text="currency_code billing_period_unit auto_collection po_number trial_end_action cancel_reason "
    "cancel_reason_code channel offline_payment_method base_currency_code invoice_notes created_from_ip",
    int="plan_quantity plan_unit_price plan_amount plan_free_quantity setup_fee billing_period "
    "remaining_billing_cycles net_term_days due_invoices_count total_dues mrr arr free_period",
    number="exchange_rate plan_quantity_in_decimal plan_unit_price_in_decimal plan_amount_in_decimal",
    instant="start_date trial_start trial_end current_term_start current_term_end next_billing_at started_at "
    "activated_at cancelled_at pause_date resume_date due_since changes_scheduled_at cancel_schedule_created_at",
    bool="has_scheduled_changes has_scheduled_advance_invoices override_relationship create_pending_invoices",
    json="item_tiers charged_items addons event_based_addons charged_event_based_addons coupons discounts "
    "shipping_address referral_info contract_term meta_data metadata",
)
SUBSCRIPTION_ITEMS = table(
    "subscription_items", "subscription_id item_price_id", _PARENT, "subscription_id",
    id="subscription_id item_price_id",
    text="object item_type charge_on_event charge_on_option billing_period_unit",
    int="quantity unit_price amount free_quantity billing_cycles billing_period service_period_days",
    number="quantity_in_decimal unit_price_in_decimal amount_in_decimal metered_quantity",
    instant="trial_end current_term_start current_term_end next_billing_at last_calculated_at", bool="charge_once",
)
INVOICES = _objects(
    "invoices", id="customer_id subscription_id payment_owner",
    text="po_number vat_number price_type currency_code local_currency_code dunning_status channel "
    "void_reason_code tax_category",
    int="tax sub_total total amount_due amount_adjusted amount_paid amount_to_collect write_off_amount "
    "credits_applied round_off_amount new_sales_amount net_term_days",
    number="exchange_rate local_currency_exchange_rate",
    instant="date due_date paid_at next_retry_at voided_at generated_at expected_payment_date",
    bool="recurring first_invoice has_advance_charges term_finalized is_gifted",
    json="line_item_discounts line_item_taxes line_item_tiers line_item_credits discounts taxes linked_payments "
    "applied_credits adjustment_credit_notes issued_credit_notes linked_orders dunning_attempts notes "
    "shipping_address billing_address",
)
INVOICE_LINES = _lines("invoice_line_items", "invoice_id")
CREDIT_NOTES = _objects(
    "credit_notes", id="customer_id subscription_id reference_invoice_id",
    text="type reason_code create_reason_code vat_number price_type currency_code local_currency_code channel",
    int="sub_total total amount_allocated amount_refunded amount_available round_off_amount",
    number="fractional_correction local_currency_exchange_rate", instant="date refunded_at voided_at generated_at",
    json="line_item_discounts line_item_taxes line_item_tiers discounts taxes linked_refunds allocations",
)
CREDIT_NOTE_LINES = _lines("credit_note_line_items", "credit_note_id")
TRANSACTIONS = _objects(
    "transactions", id="customer_id subscription_id gateway_account_id payment_source_id reference_transaction_id "
    "refunded_txn_id reversal_transaction_id",
    text="payment_method reference_number gateway type currency_code id_at_gateway fraud_flag initiator_type "
    "error_code error_text authorization_reason masked_card_number last4 iin",
    int="amount amount_unused amount_capturable", number="exchange_rate", instant="date settled_at voided_at",
    bool="three_d_secure", json="linked_invoices linked_credit_notes linked_refunds linked_payments error_detail",
)
PAYMENT_SOURCES = _objects(
    "payment_sources", id="customer_id gateway_account_id", text="type reference_id gateway issuing_country",
    json="card bank_account paypal amazon_payment upi mandates billing_address",
)
CARDS = _objects(
    "cards", "payment_source_id", id="customer_id gateway_account_id",
    text="gateway first_name last_name iin last4 masked_number card_type funding_type issuing_country",
    int="expiry_month expiry_year",
)
ORDERS = _objects(
    "orders", id="invoice_id subscription_id customer_id gift_id original_order_id",
    text="document_number cancellation_reason payment_status order_type price_type reference_id note tracking_id "
    "tracking_url shipment_carrier fulfillment_status currency_code",
    int="tax amount_paid amount_adjusted refundable_credits sub_total total discount",
    instant="order_date shipping_date paid_on cancelled_at delivered_at shipped_at status_update_at",
    bool="is_resent is_gifted", json="shipping_address billing_address line_item_taxes line_item_discounts",
)
ORDER_LINES = table(
    "order_line_items", "order_id id", _PARENT, "order_id",
    id="order_id id invoice_id invoice_line_item_id entity_id",
    int="unit_price amount fulfillment_quantity fulfillment_amount tax_amount amount_paid discount_amount",
    text="object description sku status entity_type", bool="is_shippable",
)
ITEMS = _objects(
    "items", id="item_family_id", text="name external_name description type unit item_applicability",
    bool="is_shippable is_giftable enabled_for_checkout enabled_in_portal metered", instant="archived_at",
)
ITEM_PRICES = _objects(
    "item_prices", id="item_family_id item_id price_variant_id parent_item_id",
    text="name external_name description pricing_model currency_code period_unit item_type",
    int="price period trial_period billing_cycles free_quantity", number="price_in_decimal",
    bool="is_taxable", instant="archived_at", json="tiers tax_detail accounting_detail metadata",
)
PLANS = _objects(
    "plans", text="name invoice_name description currency_code period_unit pricing_model charge_model",
    int="price period trial_period setup_cost billing_cycles free_quantity", instant="archived_at", json="tiers",
)
ADDONS = _objects(
    "addons", text="name invoice_name description currency_code period_unit pricing_model charge_type type unit",
    int="price period", instant="archived_at", json="tiers",
)
COUPONS = _objects(
    "coupons", text="name invoice_name discount_type currency_code duration_type apply_on apply_discount_on",
    number="discount_percentage", int="discount_amount duration_month max_redemptions redemptions",
    instant="valid_from valid_till archived_at", json="plan_ids addon_ids item_constraints meta_data",
)
QUOTES = _objects(
    "quotes", id="customer_id subscription_id invoice_id",
    text="name po_number operation_type price_type currency_code", instant="valid_till date",
    int="sub_total total total_payable charge_on_acceptance credits_applied amount_paid amount_due version",
    json="line_items discounts taxes",
)
UNBILLED_CHARGES = _objects(
    "unbilled_charges", id="customer_id subscription_id entity_id",
    text="pricing_model currency_code description entity_type", int="unit_amount quantity amount discount_amount",
    instant="date_from date_to voided_at", bool="is_voided is_advance_charge", json="tiers",
)
PROMOTIONAL_CREDITS = _objects(
    "promotional_credits", id="customer_id", int="amount closing_balance",
    text="type currency_code description credit_type reference done_by",
)
# fmt: on
#: By an object's `object`.
TABLES: Final = {
    "customer": CUSTOMERS,
    "subscription": SUBSCRIPTIONS,
    "invoice": INVOICES,
    "credit_note": CREDIT_NOTES,
    "transaction": TRANSACTIONS,
    "payment_source": PAYMENT_SOURCES,
    "card": CARDS,
    "order": ORDERS,
    "item": ITEMS,
    "item_price": ITEM_PRICES,
    "plan": PLANS,
    "addon": ADDONS,
    "coupon": COUPONS,
    "quote": QUOTES,
    "unbilled_charge": UNBILLED_CHARGES,
    "promotional_credit": PROMOTIONAL_CREDITS,
}
#: An object's list that has a table of its own.
_LISTS: Final = {
    "subscription": ("subscription_items", SUBSCRIPTION_ITEMS),
    "invoice": ("line_items", INVOICE_LINES),
    "credit_note": ("line_items", CREDIT_NOTE_LINES),
    "order": ("order_line_items", ORDER_LINES),
}


def _is_test(_request: Request, data: Any) -> bool:
    """Ids that a test site makes say so."""
    event_id = data.get("id") if isinstance(data, dict) else None
    return isinstance(event_id, str) and "__test__" in event_id


vendor = Vendor(
    title="Chargebee",
    family="carts",
    docs="https://apidocs.chargebee.com/docs/api/events",
    verify=Basic(),
    type=field("event_type"),
    id=field("id"),
    at=field("occurred_at"),
    test=_is_test,
    tables=(*TABLES.values(), *(child for _, child in _LISTS.values())),
    setup=(
        "Settings → Configure Chargebee → Webhooks → Add webhook: this URL, API version 2, and the events.",
        "Switch “Protect webhook URL with basic authentication” on.",
        "The secret: its user name and password as `user:password`.",
    ),
    deletes="An object with `deleted` true is marked deleted, and its lines and items with it.",
    limits=(
        "nothing is signed: whoever knows the password can send an event",
        "an invoice with many lines comes with the first ones only",
        "objects without a table (gifts, hosted pages, usages) are not kept as rows",
    ),
    proof="documented: a user and a password, by the vendor's page; HTTP Basic itself passes RFC 7617's examples",
)


@vendor.maps("*")
def content(event: Event) -> Iterator[Record]:
    """Each object of an event, whatever the event is called; some come as lists (`unbilled_charges`)."""
    for name, part in event.data["content"].items():
        for found in part if isinstance(part, list) else (part,):
            if isinstance(found, dict):
                yield from _object(event, found.get("object") or name, found)


def _object(event: Event, kind: str, found: dict[str, Any]) -> Iterator[Record]:
    into = TABLES.get(kind)
    if into is None:
        return
    identity = found[into.key[0]]
    if identity is None or identity == "":
        raise KeyError(into.key[0])
    gone = found.get("deleted") is True
    version: dict[str, Any] = {"at": _at(event, found), "rank": 99 if gone else 0}
    own, child = _LISTS.get(kind, ("", None))
    yield into.row({name: value for name, value in found.items() if name != own}, gone=gone, **version)
    items = () if gone else found.get(own)
    if child is not None and items is not None:
        parent, part = {child.parent[0]: identity}, child.key[-1]
        members = {item[part]: item for item in items if item.get(part)}
        cut_off = not gone and found.get(f"{own}_next_offset") is not None
        complete = len(members) == len(items) and not cut_off
        yield child.children(parent, members.values(), complete=complete, **version)


def _at(event: Event, found: Mapping[str, Any]) -> int:
    """When the object changed."""
    read = (instant_ns(found.get(name)) for name in ("resource_version", "updated_at"))
    at = next((ns for ns in read if ns is not None), event.at)
    if at is None:
        raise KeyError("occurred_at")
    return at


# --- samples ------------------------------------------------------------------------------------------


def _customer(n: int) -> dict[str, Any]:
    return {"id": f"cust{n % 500}", "first_name": "Ida", "last_name": "Brandt", "auto_collection": "on",
            "email": f"ida.{n % 500}@example.com", "net_term_days": 0, "taxability": "taxable",
            "billing_address": {"city": "Potsdam", "country": "DE", "object": "billing_address"}}  # fmt: skip


def _subscription(n: int) -> dict[str, Any]:
    items = [
        {
            "item_price_id": f"{kind}-EUR-Monthly",
            "item_type": kind,
            "quantity": 1 + n % 3,
            "unit_price": 1900,
            "amount": 1900 * (1 + n % 3),
            "object": "subscription_item",
        }
        for kind in ("plan", "addon")
    ]
    return {"id": f"sub{n}", "customer_id": f"cust{n % 500}", "status": "active", "currency_code": "EUR",
            "billing_period": 1, "billing_period_unit": "month", "mrr": 1900, "due_invoices_count": 0,
            "has_scheduled_changes": False, "subscription_items": items}  # fmt: skip


def _invoice(n: int) -> dict[str, Any]:
    line = {
        "id": f"li_sub{n}",
        "amount": 1900,
        "unit_amount": 1900,
        "quantity": 1,
        "entity_type": "plan_item_price",
        "is_taxed": True,
        "tax_amount": 303,
        "tax_rate": 19,
        "object": "line_item",
        "description": "Plan",
    }
    return {"id": f"NL-{n:06d}", "customer_id": f"cust{n % 500}", "subscription_id": f"sub{n}", "status": "paid",
            "currency_code": "EUR", "sub_total": 1900, "tax": 303, "total": 1900, "amount_paid": 1900,
            "amount_due": 0, "recurring": True, "line_items": [line]}  # fmt: skip


#: The object's name -> a sample of it.
_SAMPLES: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "customer": _customer,
    "subscription": _subscription,
    "invoice": _invoice,
    "transaction": lambda n: {"id": f"txn{n}", "amount": 1900, "status": "success", "type": "payment"},
    "coupon": lambda n: {"id": f"HALLO{n}", "discount_type": "percentage", "discount_percentage": 15},
}
_EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "customer_created": ("customer",),
    "customer_deleted": ("customer",),
    "subscription_created": ("subscription", "customer", "invoice"),
    "subscription_renewed": ("subscription", "customer", "invoice"),
    "payment_succeeded": ("transaction", "invoice", "customer", "subscription"),
    "coupon_updated": ("coupon",),
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        common = {"resource_version": now // 1_000_000, "updated_at": now // NS, "created_at": now // NS - 86_400}
        gone = type_.endswith("_deleted")
        parts = {name: {**_SAMPLES[name](n), **common, "object": name, "deleted": gone} for name in _EVENTS[type_]}
        unique = uuid.uuid5(uuid.NAMESPACE_URL, f"chargebee/{type_}/{n}/{now}").hex[:16]
        head = {"id": f"ev_{unique}", "occurred_at": now // NS, "source": "api", "object": "event"}
        return Sample({**head, "api_version": "v2", "event_type": type_, "content": parts})

    return sample


for _type in _EVENTS:
    vendor.sample(_type)(_sample_of(_type))
