"""Stripe: an event carries a snapshot of the object that it is about; the object's `object` field names its table.

https://docs.stripe.com/webhooks and https://docs.stripe.com/api/events

Objects have no time of their last change, so the clock is the event's `created`, in seconds. What happens inside
one second (`invoice.created`, `.finalized`, `.paid`) is ordered by the object's state, then the event's name.
Lists in an object are cut off by `has_more`; such a set deletes nothing. Amounts are integers of the currency's
smallest unit. Events of API v2 are thin: they name an object and hold no snapshot of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Request, Table, instant_of_ns
from relay.signatures import Hmac, Timestamp
from relay.source import Sample, Vendor, field, table

_CLOCK: Final = "the event's created, in seconds; then the object's state and the event's name"


def _object_table(name: str, **columns: str) -> Table:
    """A table of objects that have `id`, `object`, `created`, `livemode` and `metadata`, as nearly all have."""
    common = {"text": "id object stripe_account", "instant": "created", "bool": "livemode", "json": "metadata"}
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, "id", _CLOCK, **both)


# fmt: off
INVOICE_LINES = table(
    "invoice_lines", "invoice_id id", _CLOCK, "invoice_id",
    text="invoice_id id object invoice currency description invoice_item subscription subscription_item type",
    int="amount quantity", bool="discountable livemode proration",
    json="discount_amounts discounts metadata parent period plan price pricing tax_amounts tax_rates taxes",
)
SUBSCRIPTION_ITEMS = table(
    "subscription_items", "subscription_id id", _CLOCK, "subscription_id",
    text="subscription_id id object subscription", int="quantity", json="billing_thresholds metadata plan price",
    instant="created current_period_start current_period_end",
)
CREDIT_NOTE_LINES = table(
    "credit_note_lines", "credit_note_id id", _CLOCK, "credit_note_id",
    text="credit_note_id id object description invoice_line_item type", bool="livemode",
    int="amount discount_amount quantity unit_amount", number="unit_amount_decimal", json="tax_amounts tax_rates",
)
V2_EVENTS = table(
    "v2_events", "id", "the event's created",
    text="id object type context", instant="created", bool="livemode", json="data related_object reason changes",
)
#: By the `object` field; each is a family of event types too.
TABLES: Final = {
    "account": _object_table(
        "accounts", text="business_type country default_currency email type", json="capabilities requirements",
        bool="charges_enabled details_submitted payouts_enabled"),
    "application_fee": _object_table(
        "application_fees", text="account application charge currency", int="amount amount_refunded",
        bool="refunded"),
    "bank_account": _object_table(
        "bank_accounts", text="account account_holder_name bank_name country currency customer last4 status",
        bool="default_for_currency"),
    "card": _object_table(
        "cards", text="brand country customer funding last4 name", int="exp_month exp_year"),
    "charge": _object_table(
        "charges", int="amount amount_captured amount_refunded application_fee_amount",
        bool="captured disputed paid refunded",
        text="balance_transaction currency customer description failure_code failure_message invoice "
        "payment_intent payment_method receipt_email receipt_url statement_descriptor status",
        json="billing_details fraud_details outcome payment_method_details shipping source transfer_data"),
    "checkout.session": _object_table(
        "checkout_sessions", int="amount_subtotal amount_total", instant="expires_at",
        text="cancel_url client_reference_id currency customer customer_email invoice mode payment_intent "
        "payment_status status subscription success_url url",
        json="custom_fields customer_details payment_method_types shipping_details total_details"),
    "coupon": _object_table(
        "coupons", int="amount_off duration_in_months max_redemptions times_redeemed", number="percent_off",
        text="currency duration name", bool="valid", instant="redeem_by"),
    "credit_note": _object_table(
        "credit_notes", int="amount discount_amount subtotal total", instant="voided_at",
        text="currency customer invoice memo number pdf reason refund status type"),
    "customer": _object_table(
        "customers", int="balance", bool="delinquent",
        text="currency default_source description email invoice_prefix name phone tax_exempt",
        json="address discount invoice_settings preferred_locales shipping"),
    "discount": _object_table(
        "discounts", instant="start end", json="coupon source",
        text="checkout_session customer invoice invoice_item promotion_code subscription"),
    "dispute": _object_table(
        "disputes", int="amount", bool="is_charge_refundable", text="charge currency payment_intent reason status",
        json="balance_transactions evidence evidence_details"),
    "invoice": _object_table(
        "invoices", bool="attempted auto_advance paid",
        int="amount_due amount_paid amount_remaining attempt_count ending_balance starting_balance subtotal tax "
        "total",
        instant="due_date next_payment_attempt period_end period_start",
        text="billing_reason charge collection_method currency customer customer_email customer_name description "
        "hosted_invoice_url invoice_pdf number payment_intent status subscription",
        json="customer_address discounts parent status_transitions total_tax_amounts"),
    "invoiceitem": _object_table(
        "invoice_items", int="amount quantity unit_amount", instant="date", bool="discountable proration",
        text="currency customer description invoice subscription", json="period price"),
    "mandate": _object_table("mandates", text="payment_method status type", json="customer_acceptance"),
    "payment_intent": _object_table(
        "payment_intents", int="amount amount_capturable amount_received application_fee_amount",
        instant="canceled_at", text="cancellation_reason capture_method currency customer description invoice "
        "latest_charge payment_method receipt_email setup_future_usage status",
        json="last_payment_error next_action payment_method_types shipping transfer_data"),
    "payment_link": _object_table("payment_links", bool="active", text="currency url", json="after_completion"),
    "payment_method": _object_table("payment_methods", text="customer type", json="billing_details card"),
    "payout": _object_table(
        "payouts", int="amount", instant="arrival_date", bool="automatic",
        text="balance_transaction currency description destination failure_code method status type"),
    "plan": _object_table(
        "plans", int="amount interval_count trial_period_days", number="amount_decimal", bool="active",
        text="billing_scheme currency interval nickname product usage_type"),
    "price": _object_table(
        "prices", int="unit_amount", number="unit_amount_decimal", bool="active", json="recurring",
        text="billing_scheme currency lookup_key nickname product tax_behavior type"),
    "product": _object_table(
        "products", bool="active shippable", instant="updated", json="images marketing_features",
        text="default_price description name statement_descriptor tax_code type unit_label url"),
    "promotion_code": _object_table(
        "promotion_codes", bool="active", int="max_redemptions times_redeemed", text="code customer",
        instant="expires_at", json="coupon restrictions"),
    "quote": _object_table(
        "quotes", int="amount_subtotal amount_total", instant="expires_at",
        text="currency customer number status"),
    "radar.early_fraud_warning": _object_table(
        "early_fraud_warnings", bool="actionable", text="charge fraud_type payment_intent"),
    "refund": _object_table(
        "refunds", int="amount", json="destination_details",
        text="balance_transaction charge currency failure_reason payment_intent reason receipt_number status"),
    "review": _object_table("reviews", bool="open", text="charge closed_reason payment_intent reason"),
    "setup_intent": _object_table(
        "setup_intents", text="cancellation_reason customer description payment_method status usage",
        json="last_setup_error payment_method_types"),
    "subscription": _object_table(
        "subscriptions", bool="cancel_at_period_end", int="quantity",
        instant="billing_cycle_anchor cancel_at canceled_at current_period_end current_period_start ended_at "
        "start_date trial_end trial_start",
        text="collection_method currency customer default_payment_method description latest_invoice schedule "
        "status",
        json="cancellation_details default_tax_rates discount discounts plan"),
    "subscription_schedule": _object_table(
        "subscription_schedules", instant="canceled_at completed_at released_at",
        text="customer end_behavior status subscription", json="current_phase phases"),
    "tax_id": _object_table("tax_ids", text="country customer type value", json="verification"),
    "tax_rate": _object_table(
        "tax_rates", number="percentage", bool="active inclusive", text="country display_name jurisdiction"),
    "topup": _object_table("topups", int="amount", text="currency description failure_code status"),
    "transfer": _object_table(
        "transfers", int="amount amount_reversed", bool="reversed",
        text="balance_transaction currency description destination source_transaction transfer_group"),
}
# fmt: on
#: object -> its list that has a table of its own.
_LISTS: Final = {
    "invoice": ("lines", INVOICE_LINES),
    "subscription": ("items", SUBSCRIPTION_ITEMS),
    "credit_note": ("lines", CREDIT_NOTE_LINES),
}
#: How far an object is in its life, over all kinds of objects; one not listed here is at its beginning.
_LIFE: Final = (
    "draft incomplete requires_payment_method not_started",
    "open pending requires_confirmation warning_needs_response",
    "requires_action needs_response trialing in_transit",
    "processing under_review warning_under_review active",
    "requires_capture past_due issued",
    "unpaid paused uncollectible",
    "succeeded paid complete completed accepted",
    "won lost warning_closed released",
    "failed canceled void expired incomplete_expired reversed inactive",
)
_STATES: Final = {status: step for step, group in enumerate(_LIFE) for status in group.split()}
#: What an event's name says of two snapshots in the same state; other names stand between these.
_STEPS: Final = {"created": 0, "updated": 2, "refunded": 3, "closed": 4}
_GONE: Final = 98


def scrub(data: Any) -> Any:
    """The event without `client_secret`, with which whoever has it can confirm a payment."""
    inner = data.get("data") if isinstance(data, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("object"), dict):
        return data
    clean = {name: value for name, value in inner["object"].items() if name != "client_secret"}
    return {**data, "data": {**inner, "object": clean}}


def _is_test(_request: Request, data: Any) -> bool:
    return isinstance(data, dict) and data.get("livemode") is False


vendor = Vendor(
    title="Stripe",
    family="carts",
    docs="https://docs.stripe.com/webhooks",
    # The key is the secret's whole text, `whsec_` and all.
    verify=Hmac("Stripe-Signature", pair="v1", message="{timestamp}.{body}", timestamp=Timestamp()),
    type=field("type"),
    id=field("id"),
    at=field("created"),
    test=_is_test,
    tables=(*TABLES.values(), INVOICE_LINES, SUBSCRIPTION_ITEMS, CREDIT_NOTE_LINES, V2_EVENTS),
    scrub=scrub,
    setup=(
        "Developers → Webhooks → Add destination: this URL, the events that you want, payload style Snapshot.",
        "The secret: “Signing secret” on that destination's page, the whole text with `whsec_`.",
    ),
    deletes="`*.deleted` carries the whole object: the row is marked deleted.",
    limits=(
        "lists inside an object are cut off after ten; such a set deletes nothing",
        "events of API v2 name an object and hold no snapshot of it: they become rows of `v2_events`",
    ),
    proof="vector: stripe.dotnet",
    secret_like="whsec_",  # noqa: S106 - what secrets look like
)


def _rank(event: Event, snapshot: dict[str, Any]) -> int:
    state = snapshot.get("status")
    step = _STEPS.get(event.type.rpartition(".")[2], 1)
    return 10 * (_STATES.get(state, 0) if isinstance(state, str) else 0) + step


def _children(
    table: Table, identity: str, page: Any, *, gone: bool, at: int | None, rank: int
) -> Iterator[Record]:
    """The list inside an object as a set; nothing where it is absent, an empty one with a deleted object."""
    items = page.get("data") if isinstance(page, dict) else None
    if gone or isinstance(items, list):
        members = {} if gone else {item["id"]: item for item in items or ()}
        complete = gone or page.get("has_more") is not True
        yield table.children({table.parent[0]: identity}, members.values(), complete=complete, at=at, rank=rank)


@vendor.maps(
    *("account.*", "application_fee.*", "charge.*", "checkout.session.*", "coupon.*", "credit_note.*"),
    *("customer.*", "invoice.*", "invoiceitem.*", "mandate.*", "payment_intent.*", "payment_link.*"),
    *("payment_method.*", "payout.*", "plan.*", "price.*", "product.*", "promotion_code.*", "quote.*"),
    *("radar.early_fraud_warning.*", "refund.*", "review.*", "setup_intent.*", "subscription_schedule.*"),
    *("tax_rate.*", "topup.*", "transfer.*"),
)
def snapshot(event: Event) -> Iterator[Record]:
    """The object as it was when the event was made; `*.deleted` carries the whole object too.

    An object without an id (`invoice.upcoming`, a preview) is no row; neither is one that has no table.
    """
    data = event.data["data"]["object"]
    kind, identity = data["object"], data.get("id")
    table = TABLES.get(kind)
    if table is None or identity is None:
        return
    gone = event.type.endswith(".deleted") or data.get("deleted") is True
    rank = _GONE if gone else _rank(event, data)
    own, child = _LISTS.get(kind, ("", None))
    left_out = {own, "client_secret", *(("refunds",) if kind == "charge" else ())}
    row = {name: value for name, value in data.items() if name not in left_out}
    if event.data.get("account"):
        row["stripe_account"] = event.data["account"]
    yield table.row(row, at=event.at, rank=rank, gone=gone)
    if child is not None:
        yield from _children(child, identity, data.get(own), gone=gone, at=event.at, rank=rank)
    # Old API versions repeat a charge's refunds in it.
    for refund in (data.get("refunds") or {}).get("data", ()) if kind == "charge" else ():
        yield TABLES["refund"].row(dict(refund), at=event.at, rank=_rank(event, refund))


@vendor.maps("v1.*", "v2.*")
def thin(event: Event) -> Iterator[Record]:
    """A thin event: the row is the event, and names the object that changed."""
    yield V2_EVENTS.row(dict(event.data), at=event.at)


# --- samples ------------------------------------------------------------------------------------------


def _line(n: int, i: int, at: int) -> dict[str, Any]:
    return {
        "id": f"il_{n:013d}{i}", "object": "line_item", "amount": 1900 * (i + 1), "currency": "eur",
        "description": f"{i + 1} x Plan {'ABC'[i]}", "discountable": True, "discounts": [], "livemode": True,
        "invoice": f"in_{n:014d}", "metadata": {}, "period": {"start": at, "end": at + 2_592_000}, "quantity": 1,
        "pricing": {"type": "price_details", "unit_amount_decimal": "1900", "price_details": {"price": "price_1"}},
        "taxes": [{"amount": 303 * (i + 1), "tax_behavior": "inclusive", "type": "tax_rate_details"}],
        "parent": {"type": "subscription_item_details", "subscription_item_details": {
            "invoice_item": None, "proration": False, "proration_details": {"credited_items": None},
            "subscription": f"sub_{n:014d}", "subscription_item": f"si_{n:013d}{i}"}},
    }  # fmt: skip


def _invoice(n: int, at: int, status: str) -> dict[str, Any]:
    paid = 11_400 if status == "paid" else 0
    address = {"line1": f"Hauptstr. {n % 90 + 1}", "postal_code": "20095", "city": "Hamburg", "country": "DE"}
    return {
        "object": "invoice", "account_country": "DE", "account_name": "Nordlicht GmbH", "amount_due": 11_400,
        "amount_paid": paid, "amount_remaining": 11_400 - paid, "attempt_count": paid and 1, "attempted": paid > 0,
        "auto_advance": True, "billing_reason": "subscription_cycle", "collection_method": "charge_automatically",
        "currency": "eur", "customer": f"cus_{n:014d}", "customer_address": address, "customer_phone": None,
        "customer_email": f"billing.{n}@example.com", "customer_name": f"Kunde {n}", "customer_tax_exempt": "none",
        "customer_shipping": {"name": f"Kunde {n}", "phone": None, "address": address}, "default_tax_rates": [],
        "description": None, "discounts": [], "due_date": None, "ending_balance": 0, "starting_balance": 0,
        "amount_overpaid": 0, "amount_shipping": 0, "automatic_tax": {"enabled": True, "status": "complete"},
        "issuer": {"type": "self"}, "payment_settings": {"payment_method_types": ["sepa_debit", "card"]},
        "receipt_number": None, "statement_descriptor": "NORDLICHT", "subtotal_excluding_tax": 9580,
        "total_excluding_tax": 9580, "total_taxes": [{"amount": 1820, "tax_behavior": "inclusive"}],
        "hosted_invoice_url": f"https://invoice.stripe.com/i/acct_1/live_{n}", "number": f"NL-{n:06d}",
        "lines": {"object": "list", "data": [_line(n, i, at) for i in range(3)], "has_more": False},
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": f"sub_{n:014d}"}},
        "period_start": at - 2_592_000, "period_end": at, "status": status, "subtotal": 11_400, "total": 11_400,
        "status_transitions": {"finalized_at": at, "paid_at": at if paid else None, "voided_at": None},
    }  # fmt: skip


def _subscription(n: int, at: int, status: str) -> dict[str, Any]:
    price = {"id": "price_1", "object": "price", "currency": "eur", "unit_amount": 1900, "product": "prod_1"}
    item = {"id": f"si_{n:014d}", "object": "subscription_item", "created": at, "metadata": {}, "price": price}
    return {
        "object": "subscription", "customer": f"cus_{n:014d}", "status": status, "currency": "eur",
        "cancel_at_period_end": False, "canceled_at": at if status == "canceled" else None, "start_date": at,
        "items": {"object": "list", "data": [{**item, "quantity": 2}], "has_more": False},
    }  # fmt: skip


def _charge(n: int, status: str, refunded: int = 0) -> dict[str, Any]:
    return {
        "object": "charge", "amount": 11_400, "amount_captured": 11_400, "amount_refunded": refunded,
        "captured": True, "currency": "eur", "customer": f"cus_{n:014d}", "disputed": False, "paid": True,
        "payment_intent": f"pi_{n:014d}", "refunded": refunded > 0, "status": status, "description": None,
        "billing_details": {"email": f"billing.{n}@example.com", "name": f"Kunde {n}"}, "fraud_details": {},
    }  # fmt: skip


def _of(kind: str, **fields: Any) -> Callable[[int, int], dict[str, Any]]:
    return lambda n, _at: {"object": kind, "currency": "eur", "customer": f"cus_{n:014d}", **fields}


def _customer(n: int, _at: int) -> dict[str, Any]:
    return {"object": "customer", "email": f"billing.{n}@example.com", "name": f"Kunde {n}", "balance": 0}


#: Type of event -> the prefix of its object's id, and the object.
_SAMPLES: Final[Mapping[str, tuple[str, Callable[[int, int], dict[str, Any]]]]] = {
    **{f"customer.{did}": ("cus", _customer) for did in ("created", "updated", "deleted")},
    "customer.subscription.created": ("sub", lambda n, at: _subscription(n, at, "active")),
    "customer.subscription.updated": ("sub", lambda n, at: _subscription(n, at, "past_due")),
    "customer.subscription.deleted": ("sub", lambda n, at: _subscription(n, at, "canceled")),
    "invoice.created": ("in", lambda n, at: _invoice(n, at, "draft")),
    "invoice.updated": ("in", lambda n, at: _invoice(n, at, "open")),
    "invoice.paid": ("in", lambda n, at: _invoice(n, at, "paid")),
    "invoice.deleted": ("in", lambda n, at: _invoice(n, at, "draft")),
    "charge.succeeded": ("ch", lambda n, _at: _charge(n, "succeeded")),
    "charge.refunded": ("ch", lambda n, _at: _charge(n, "succeeded", 11_400)),
    "charge.dispute.created": ("dp", _of("dispute", amount=11_400, reason="general", status="needs_response")),
    "payment_intent.created": ("pi", _of("payment_intent", amount=11_400, status="requires_payment_method")),
    "payment_intent.succeeded": ("pi", _of("payment_intent", amount=11_400, status="succeeded")),
    "account.updated": ("acct", _of("account", country="DE", type="standard", charges_enabled=True)),
    "application_fee.created": ("fee", _of("application_fee", amount=50, refunded=False)),
    "checkout.session.completed": ("cs", _of("checkout.session", amount_total=11_400, status="complete")),
    "coupon.created": ("co", _of("coupon", percent_off=15, duration="once", valid=True)),
    "credit_note.created": ("cn", _of("credit_note", amount=1900, status="issued", type="post_payment")),
    "invoiceitem.created": ("ii", _of("invoiceitem", amount=1900, quantity=1)),
    "mandate.updated": ("mandate", _of("mandate", status="active", type="multi_use")),
    "payment_link.created": ("plink", _of("payment_link", active=True, url="https://buy.stripe.com/x")),
    "payment_method.attached": ("pm", _of("payment_method", type="sepa_debit")),
    "payout.paid": ("po", _of("payout", amount=250_000, status="paid", automatic=True)),
    "plan.created": ("plan", _of("plan", amount=1900, interval="month", active=True)),
    "price.created": ("price", _of("price", unit_amount=1900, unit_amount_decimal="1900", active=True)),
    "product.created": ("prod", _of("product", name="Plan A", active=True)),
    "promotion_code.created": ("promo", _of("promotion_code", code="HALLO", active=True)),
    "quote.finalized": ("qt", _of("quote", amount_total=11_400, status="open")),
    "radar.early_fraud_warning.created": ("issfr", _of("radar.early_fraud_warning", actionable=True)),
    "refund.created": ("re", _of("refund", amount=1900, status="succeeded")),
    "review.opened": ("prv", _of("review", open=True, reason="rule")),
    "setup_intent.succeeded": ("seti", _of("setup_intent", status="succeeded", usage="off_session")),
    "subscription_schedule.created": ("sub_sched", _of("subscription_schedule", status="not_started")),
    "tax_rate.created": ("txr", _of("tax_rate", percentage=19, inclusive=True, active=True)),
    "topup.succeeded": ("tu", _of("topup", amount=100_000, status="succeeded")),
    "transfer.created": ("tr", _of("transfer", amount=5000, destination="acct_1", reversed=False)),
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        event_id, at = f"evt_{uuid.uuid5(uuid.NAMESPACE_URL, f'{type_}/{n}/{now}').hex[:24]}", now // NS
        common = {"id": event_id, "type": type_, "livemode": True}
        if type_ not in _SAMPLES:
            named = {"id": f"acct_{n:014d}", "type": "v2.core.account", "url": f"/v2/core/accounts/acct_{n:014d}"}
            made = f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%fZ}"
            return Sample({**common, "object": "v2.core.event", "created": made, "related_object": named})
        prefix, make = _SAMPLES[type_]
        body = {"id": f"{prefix}_{n:014d}", "created": at - 3600, "livemode": True, "metadata": {}, **make(n, at)}
        rest = {"api_version": "2025-03-31.basil", "pending_webhooks": 1, "request": {"id": None}, "created": at}
        return Sample({**common, "object": "event", **rest, "data": {"object": body}})

    return sample


for _type in (*_SAMPLES, "v1.billing.meter.error_report_triggered", "v2.core.account.updated"):
    vendor.sample(_type)(_sample_of(_type))
