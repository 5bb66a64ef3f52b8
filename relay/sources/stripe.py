"""Stripe: an event carries a snapshot of the object that it is about; the object's `object` field names its table.

https://docs.stripe.com/webhooks and https://docs.stripe.com/api/events

Objects have no time of their last change, so the clock is the event's `created`, in seconds. What happens inside
one second (`invoice.created`, `.finalized`, `.paid`) is ordered by the object's state, then the event's name.
Lists in an object are cut off by `has_more`; such a set deletes nothing. Amounts are integers of the currency's
smallest unit. Events of API v2 are thin: they name an object and hold no snapshot of it; with a key it is fetched
(https://docs.stripe.com/webhooks/migrate-snapshot-to-thin-events), and its clock is the event's `created` as well.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Request, Table, instant_of_ns
from relay.signatures import Hmac, Timestamp
from relay.source import FETCHED, Fetch, Sample, Setting, Vendor, api, field, table

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
#: Objects that were fetched and have no table of their own, as they are.
V2_OBJECTS = table(
    "v2_objects", "id", "the event's created", text="id object", instant="created", bool="livemode", json="data")
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
    "v2.core.account": _object_table(
        "v2_accounts", text="contact_email contact_phone dashboard display_name", bool="closed",
        json="applied_configurations configuration defaults future_requirements identity requirements"),
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
_FETCHED: Final = 10
_PATH: Final = re.compile(r"/v[12](?:/[A-Za-z0-9_]{1,100}){1,8}")
_CONTEXT: Final = re.compile(r"[A-Za-z0-9_/]{1,200}")
#: Of an account most is null unless it is asked for.
_ASKED: Final = ("identity", "defaults", "requirements", "configuration.customer", "configuration.merchant")


def scrub(data: Any) -> Any:
    """The event without `client_secret`, with which whoever has it can confirm a payment."""
    inner = data.get("data") if isinstance(data, dict) else None
    if isinstance(inner, dict) and "object" in inner:
        data = {**data, "data": {**inner, "object": _clean(inner["object"])}}
    return {**data, FETCHED: _clean(data[FETCHED])} if isinstance(data, dict) and FETCHED in data else data


def _clean(found: Any) -> Any:
    return {k: v for k, v in found.items() if k != "client_secret"} if isinstance(found, dict) else found


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
    tables=(*TABLES.values(), INVOICE_LINES, SUBSCRIPTION_ITEMS, CREDIT_NOTE_LINES, V2_EVENTS, V2_OBJECTS),
    scrub=scrub,
    settings={
        **api("https://api.stripe.com", 10),
        "api_key": Setting("A key that may read what thin events name; with it that is fetched.", secret=True),
        "api_version": Setting("The `Stripe-Version` that it is asked for in.", "2026-01-28.clover"),
    },
    setup=(
        "Developers → Webhooks → Add destination: this URL, the events that you want, payload style Snapshot.",
        "The secret: “Signing secret” on that destination's page, the whole text with `whsec_`.",
    ),
    deletes="`*.deleted` carries the whole object: the row is marked deleted.",
    limits=(
        "lists inside an object are cut off after ten; such a set deletes nothing",
        "events of API v2 name an object and hold no snapshot of it: with `api_key` it is fetched",
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


@vendor.hydrates("v1.*", "v2.*", token="api_key", hosts=("api.stripe.com",))  # noqa: S106 - a setting's name
def related(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The object that a thin event names; one of a test mode only where the key is of that."""
    named, key = event.data.get("related_object") or {}, str(settings["api_key"])
    path, context = str(named.get("url")), str(event.data.get("context") or "")
    gone, other = event.type.endswith((".deleted", ".ping")), ("_test_" in key) is not event.test
    if gone or other or not _PATH.fullmatch(path):
        return None
    if named.get("type") == "v2.core.account":
        path += "?" + "&".join(f"include%5B{n}%5D={part}" for n, part in enumerate(_ASKED))
    headers = {"Authorization": f"Bearer {key}", "Stripe-Version": str(settings["api_version"])}
    if _CONTEXT.fullmatch(context):
        headers["Stripe-Context"] = context
    return Fetch(f"{settings['api_url']}{path}", headers)


@vendor.maps("v1.*", "v2.*")
def thin(event: Event) -> Iterator[Record]:
    """A thin event: the row is the event, and names the object that changed; and that, where it was fetched."""
    yield V2_EVENTS.row({name: value for name, value in event.data.items() if name != FETCHED}, at=event.at)
    named, found = event.data.get("related_object") or {}, event.data.get(FETCHED)
    if event.type.endswith(".deleted") and named.get("id"):
        yield TABLES.get(str(named.get("type")), V2_OBJECTS).gone({"id": named["id"]}, at=event.at)
    elif isinstance(found, dict) and found.get("id") and found["id"] == named.get("id"):
        into = TABLES.get(str(found.get("object")), V2_OBJECTS)
        row = found if into is not V2_OBJECTS else {n: found.get(n) for n in V2_OBJECTS.columns} | {"data": found}
        yield into.row({**row}, at=event.at, rank=_FETCHED)


# --- samples ------------------------------------------------------------------------------------------


def _line(n: int, i: int, at: int) -> dict[str, Any]:
    return {
        "id": f"il_{n:013d}{i}", "object": "line_item", "amount": 1900 * (i + 1), "currency": "eur", "quantity": 1,
        "description": f"Plan {'ABC'[i]}", "invoice": f"invoice_{n:014d}", "period": {"start": at, "end": at + 9},
    }  # fmt: skip


def _invoice(n: int, at: int, status: str) -> dict[str, Any]:
    paid = 11_400 if status == "paid" else 0
    return {
        "object": "invoice", "amount_due": 11_400, "amount_paid": paid, "amount_remaining": 11_400 - paid,
        "attempted": paid > 0, "auto_advance": True, "billing_reason": "subscription_cycle", "currency": "eur",
        "customer": f"cus_{n:014d}", "customer_email": f"billing.{n}@example.com", "number": f"NL-{n:06d}",
        "lines": {"object": "list", "data": [_line(n, i, at) for i in range(3)], "has_more": False},
        "period_start": at - 2_592_000, "period_end": at, "status": status, "subtotal": 11_400, "total": 11_400,
    }  # fmt: skip


def _subscription(n: int, at: int, status: str) -> dict[str, Any]:
    item = {"id": f"si_{n:014d}", "object": "subscription_item", "created": at, "quantity": 2}
    return {
        "object": "subscription", "customer": f"cus_{n:014d}", "status": status, "start_date": at,
        "canceled_at": at if status == "canceled" else None, "cancel_at_period_end": False, "currency": "eur",
        "items": {"object": "list", "data": [item], "has_more": False},
    }  # fmt: skip


#: Type of event -> the state of its invoice or subscription.
_LIVED: Final = {
    "customer.subscription.created": "active", "customer.subscription.updated": "past_due",
    "customer.subscription.deleted": "canceled", "invoice.created": "draft", "invoice.updated": "open",
    "invoice.paid": "paid", "invoice.deleted": "draft",
}  # fmt: skip
#: Type of event -> its object, of which a sample has those of these parts that its table has.
_PLAIN: Final = {
    **{f"customer.{did}": "customer" for did in ("created", "updated", "deleted")},
    **{f"charge.{did}": "charge" for did in ("succeeded", "refunded")}, "charge.dispute.created": "dispute",
    **{f"payment_intent.{did}": "payment_intent" for did in ("created", "succeeded")},
    "checkout.session.completed": "checkout.session", "account.updated": "account", "mandate.updated": "mandate",
    "payment_method.attached": "payment_method", "payout.paid": "payout", "quote.finalized": "quote",
    "review.opened": "review", "setup_intent.succeeded": "setup_intent", "topup.succeeded": "topup",
    **{f"{kind}.created": kind for kind in (
        "application_fee", "coupon", "credit_note", "invoiceitem", "payment_link", "plan", "price", "product",
        "promotion_code", "radar.early_fraud_warning", "refund", "subscription_schedule", "tax_rate", "transfer")},
}  # fmt: skip
_PARTS: Final = {
    "amount": 11_400, "amount_total": 11_400, "amount_captured": 11_400, "balance": 0, "currency": "eur",
    "unit_amount": 1900, "percent_off": 15, "percentage": 19, "quantity": 1, "interval": "month", "name": "Plan A",
    "status": "succeeded", "active": True, "valid": True, "paid": True, "captured": True, "refunded": False,
    "email": "billing@example.com", "country": "DE", "customer": "cus_1", "payment_intent": "pi_1",
}  # fmt: skip


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        event_id, at = f"evt_{uuid.uuid5(uuid.NAMESPACE_URL, f'{type_}/{n}/{now}').hex[:24]}", now // NS
        common = {"id": event_id, "type": type_, "livemode": True}
        if type_ in _LIVED:
            made = (_invoice if type_.startswith("invoice") else _subscription)(n, at, _LIVED[type_])
        elif type_ in _PLAIN:
            known = TABLES[_PLAIN[type_]].columns
            made = {"object": _PLAIN[type_], **{part: v for part, v in _PARTS.items() if part in known}}
        else:
            named = {"id": f"acct_{n:014d}", "type": "v2.core.account", "url": f"/v2/core/accounts/acct_{n:014d}"}
            when = f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%fZ}"
            return Sample({**common, "object": "v2.core.event", "created": when, "related_object": named})
        body = {"id": f"{made['object']}_{n:014d}", "created": at - 3600, "livemode": True, "metadata": {}, **made}
        rest = {"api_version": "2025-03-31.basil", "pending_webhooks": 1, "request": {"id": None}, "created": at}
        return Sample({**common, "object": "event", **rest, "data": {"object": body}})

    return sample


for _type in (*_LIVED, *_PLAIN, "v1.billing.meter.error_report_triggered", "v2.core.account.updated"):
    vendor.sample(_type)(_sample_of(_type))
