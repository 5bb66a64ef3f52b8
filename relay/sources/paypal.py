"""PayPal: orders, captures, refunds, sales, subscriptions, disputes, payouts and invoices, from REST webhooks.

PayPal signs with RSA-SHA256: the transmission's id and time, the webhook's id, and the CRC-32 of the body. A CRC
is no hash: whoever has seen one delivery can write another body with the same CRC, so in truth the signature says
that PayPal sent something to this webhook at this time. The header `paypal-cert-url` says where the certificate
is to be had; this relay fetches nothing on a sender's word, so the certificate is configured.
https://developer.paypal.com/api/rest/webhooks/rest/
https://developer.paypal.com/api/rest/webhooks/event-names/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from relay.errors import ConfigInvalid, Unauthenticated
from relay.publickeys import RSA, Ring, Signed
from relay.records import NS, Event, Record, Request, Table, instant_of_ns
from relay.signatures import Timestamp, with_headers
from relay.source import Sample, Setting, Vendor, field, table

_SIGNATURE: Final = "paypal-transmission-sig"
_CERT_URL, _ALGORITHM = "paypal-cert-url", "paypal-auth-algo"
#: PayPal repeats 25 times over 3 days, and does not say that the transmission's time is that of the attempt.
_TOLERANCE: Final = 4 * 86_400
#: The algorithm as PayPal writes it; the second is in its older samples.
_ALGORITHMS: Final = frozenset({"sha256withrsa", "sha256"})
_CLOCK: Final = "the event's create_time, then the state"

# fmt: off
_PAID = ("id invoice_id custom_id status note_to_payer", "amount payee status_details supplementary_data links")


def _payment(name: str, *, text: str = "", json: str = "", instant: str = "", bool: str = "") -> Table:  # noqa: A002
    """A table of payments (v2), which have most fields in common."""
    return table(name, "id", _CLOCK, text=f"{_PAID[0]} {text}", json=f"{_PAID[1]} {json}", bool=bool,
                 instant=f"create_time update_time {instant}")


def _old(name: str, *, text: str = "", json: str = "", instant: str = "") -> Table:
    """A table of objects of v1, whose state is `state`."""
    return table(name, "id", _CLOCK, json=f"amount links {json}", instant=f"create_time update_time {instant}",
                 text=f"id state parent_payment invoice_number custom reason_code {text}")


#: `resource_type`, in lower case -> the table of its resources.
TABLES: Final[Mapping[str, Table]] = {
    "checkout-order": table(
        "orders", "id", _CLOCK, text="id intent status processing_instruction",
        json="payer payment_source purchase_units links", instant="create_time update_time"),
    "capture": _payment("captures", bool="final_capture", json="seller_protection seller_receivable_breakdown",
                        text="disbursement_mode"),
    "authorization": _payment("authorizations", instant="expiration_time", json="seller_protection"),
    "refund": _payment("refunds", json="seller_payable_breakdown payer"),
    "sale": _old("sales", text="payment_mode protection_eligibility protection_eligibility_type receipt_id "
                 "billing_agreement_id payment_hold_status", json="transaction_fee receivable_amount",
                 instant="clearing_time"),
    "payment": _old("payments", text="intent cart", json="payer transactions redirect_urls"),
    "subscription": table(
        "subscriptions", "id", _CLOCK, text="id plan_id status status_change_note quantity custom_id",
        bool="plan_overridden auto_renewal", json="shipping_amount subscriber billing_info plan links",
        instant="start_time status_update_time create_time update_time"),
    "plan": table(
        "plans", "id", _CLOCK, text="id product_id name description status usage_type",
        json="billing_cycles payment_preferences taxes links", bool="quantity_supported",
        instant="create_time update_time"),
    "dispute": table(
        "disputes", "dispute_id", _CLOCK,
        text="dispute_id reason status dispute_state dispute_life_cycle_stage dispute_channel",
        json="dispute_amount dispute_outcome disputed_transactions messages offer evidences extensions links",
        instant="create_time update_time seller_response_due_date"),
    "payouts": table(
        "payouts", "payout_batch_id", _CLOCK, text="payout_batch_id", json="batch_header links items"),
    "payouts_item": table(
        "payout_items", "payout_item_id", _CLOCK,
        text="payout_item_id transaction_id transaction_status payout_batch_id sender_batch_id activity_id",
        json="payout_item payout_item_fee errors currency_conversion links", instant="time_processed"),
    "invoices": table(
        "invoices", "id", _CLOCK, text="id parent_id status", bool="archived unilateral",
        json="detail invoicer primary_recipients additional_recipients items configuration amount due_amount "
        "gratuity payments refunds links"),
    "payment_token": table(
        "payment_tokens", "id", _CLOCK, text="id", json="customer payment_source metadata links"),
}
# fmt: on
#: How far an object is in its life; one not listed is in between.
_STATES: Final = {
    **dict.fromkeys(("CREATED", "DRAFT", "APPROVAL_PENDING", "PAYER_ACTION_REQUIRED", "SAVED", "OPEN"), 0),
    **dict.fromkeys(("APPROVED", "SCHEDULED", "SENT", "UNPAID"), 10),
    **dict.fromkeys(("COMPLETED", "ACTIVE", "PAID", "SUCCESS"), 30),
    **dict.fromkeys(("PARTIALLY_REFUNDED", "SUSPENDED"), 40),
    **dict.fromkeys(
        ("REFUNDED", "REVERSED", "VOIDED", "CANCELLED", "EXPIRED", "RESOLVED", "DENIED", "FAILED"), 50
    ),
}
_BETWEEN: Final = 20


class SignedByPayPal:
    """PayPal's signature; the secret begins with the webhook's id.

    Args:
        settings: `certificates` and `tolerance_s` of the source.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        tolerance = settings["tolerance_s"]
        if not isinstance(tolerance, int) or isinstance(tolerance, bool) or tolerance <= 0:
            raise ConfigInvalid(f"tolerance_s is a number of seconds, not {tolerance!r}")
        ring = Ring(
            RSA,
            setting="certificates",
            keys=settings["certificates"],
            named=("the webhook's id", "0EH40505U7160970P"),
        )
        self.signed = Signed(
            _SIGNATURE,
            ring=ring,
            message="{id}|{timestamp}|{name}|{crc32}",
            timestamp=Timestamp("paypal-transmission-time", unit="iso", tolerance_s=tolerance),
            id_header="paypal-transmission-id",
        )
        self.scheme, self.test_secret = self.signed.scheme, ring.test_secret

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        headers = request.headers
        if not headers.get(_SIGNATURE) or not headers.get(_CERT_URL):
            raise Unauthenticated(f"no {_SIGNATURE} or no {_CERT_URL} header", reason="signature_missing")
        # Neither is used; whoever says anything else there is not PayPal.
        if headers.get(_ALGORITHM, "").lower() not in _ALGORITHMS:
            raise Unauthenticated(f"{_ALGORITHM} is not SHA256withRSA", reason="signature_malformed")
        if not is_paypal(headers[_CERT_URL]):
            raise Unauthenticated(f"{_CERT_URL} is not at paypal.com", reason="signature_malformed")
        self.signed.verify(request, secrets, now)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`; needs a private key behind the webhook's id."""
        said = {_CERT_URL: "https://api.paypal.com/v1/notifications/certs/CERT-0", _ALGORITHM: "SHA256withRSA"}
        return self.signed.sign(with_headers(request, said), secret, now)


def is_paypal(url: str) -> bool:
    """Whether an address is PayPal's, by https and nothing odd about it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and "\\" not in url and "@" not in parts.netloc
    return plain and parts.scheme == "https" and host.endswith(".paypal.com") and port in {None, 443}


def _is_test(_request: Request, data: Any) -> bool:
    links = data.get("links") if isinstance(data, dict) else None
    first = links[0] if isinstance(links, list) and links else None
    href = first.get("href") if isinstance(first, dict) else None
    return isinstance(href, str) and ".sandbox.paypal.com/" in href


vendor = Vendor(
    title="PayPal",
    family="carts",
    docs="https://developer.paypal.com/api/rest/webhooks/rest/",
    verify=SignedByPayPal,
    type=field("event_type"),
    id=field("id"),
    at=field("create_time"),
    test=_is_test,
    tables=tuple(TABLES.values()),
    settings={
        "certificates": Setting(
            help="PayPal's signing certificate in PEM, one or several. Its address stands in the header "
            "paypal-cert-url of any delivery: fetch it from there if the host is api.paypal.com (or "
            "api.sandbox.paypal.com). Without one all is refused. It expires: put the next one beside it."
        ),
        "tolerance_s": Setting(
            help="Seconds that a transmission may be old. PayPal repeats a delivery for 3 days; an event that "
            "came before is known by its id.",
            default=_TOLERANCE,
        ),
    },
    setup=(
        "Developer Dashboard → Apps & Credentials → your app → Webhooks → Add Webhook: this URL, and the events.",
        "The secret: the Webhook ID that the list then shows. It is part of what PayPal signs.",
        "`certificates`: PayPal's signing certificate in PEM, see there.",
    ),
    deletes="A payment token that is deleted is marked deleted; all else is cancelled or voided, never deleted.",
    limits=(
        "the signature covers the body by its CRC-32 alone, which can be forged: keep the address secret",
        "PayPal changes its certificate from time to time; until the new one is configured all is refused",
        "the Webhooks simulator signs for no real webhook: what it sends is refused",
        "PAYMENT.CAPTURE.REFUNDED carries the refund, not the capture, whose row stays as it was",
        "amounts are text inside the objects of PayPal (`amount.value`, in v1 `amount.total`)",
    ),
    proof="vector: paypal.python, paypal.node, whose key is recovered from the two signatures",
)


def _resource(event: Event) -> tuple[Table | None, dict[str, Any]]:
    """The table of an event's resource, and the resource as a row of it."""
    kind = event.data["resource_type"].lower()
    resource = dict(event.data["resource"])
    if kind == "invoices" and isinstance(resource.get("invoice"), dict):
        resource = dict(resource["invoice"])
    if kind == "payouts":
        resource["payout_batch_id"] = resource["batch_header"]["payout_batch_id"]
    return TABLES.get(kind), resource


@vendor.maps(
    *("CHECKOUT.ORDER.*", "PAYMENT.CAPTURE.*", "PAYMENT.AUTHORIZATION.*", "PAYMENT.REFUND.*", "PAYMENT.SALE.*"),
    *("PAYMENT.ORDER.*", "PAYMENTS.PAYMENT.*", "PAYMENT.PAYOUTSBATCH.*", "PAYMENT.PAYOUTS-ITEM.*"),
    *("BILLING.SUBSCRIPTION.*", "BILLING.PLAN.*", "CUSTOMER.DISPUTE.*", "INVOICING.INVOICE.*"),
    "VAULT.PAYMENT-TOKEN.*",
)
def snapshot(event: Event) -> Iterator[Record]:
    """The resource as it was when the event was made. One of a type that has no table here is no row.

    Raises:
        KeyError: there is no resource, or it has no id.
    """
    found, row = _resource(event)
    if found is None:
        return
    (key,) = found.key
    if not row[key]:
        raise KeyError(key)
    if event.type.endswith(".DELETED"):
        yield found.gone({key: row[key]}, at=event.at)
        return
    state = row.get("status", row.get("state", row.get("transaction_status")))
    rank = _STATES.get(state.upper(), _BETWEEN) if isinstance(state, str) else _BETWEEN
    yield found.row(row, at=event.at, rank=rank)


# --- samples ------------------------------------------------------------------------------------------


def _amount(n: int) -> dict[str, str]:
    return {"currency_code": "EUR", "value": f"{10 + n % 90}.{n % 100:02d}"}


def _capture(n: int, status: str) -> dict[str, Any]:
    fee = {"gross_amount": _amount(n), "paypal_fee": {"currency_code": "EUR", "value": "0.64"}}
    return {
        "id": f"{n:014d}3C", "status": status, "amount": _amount(n), "final_capture": True,
        "seller_receivable_breakdown": fee, "invoice_id": f"NL-{n:06d}", "custom_id": f"cart-{n}",
        "supplementary_data": {"related_ids": {"order_id": f"{n:014d}5O"}},
    }  # fmt: skip


def _order(n: int) -> dict[str, Any]:
    payer = {"email_address": f"kunde{n}@mail.example", "payer_id": f"P{n:012d}"}
    unit = {"reference_id": "default", "amount": _amount(n), "invoice_id": f"NL-{n:06d}"}
    return {
        "id": f"{n:014d}5O",
        "intent": "CAPTURE",
        "status": "APPROVED",
        "payer": payer,
        "purchase_units": [unit],
    }


def _dispute(n: int) -> dict[str, Any]:
    return {
        "dispute_id": f"PP-D-{n:06d}", "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED", "status": "OPEN",
        "dispute_amount": _amount(n), "disputed_transactions": [{"seller_transaction_id": f"{n:014d}3C"}],
    }  # fmt: skip


def _sale(n: int) -> dict[str, Any]:
    amount = {"total": _amount(n)["value"], "currency": "EUR"}
    return {"id": f"{n:014d}1S", "state": "completed", "amount": amount, "payment_mode": "INSTANT_TRANSFER"}


def _subscription(n: int, status: str) -> dict[str, Any]:
    named = {"plan_id": "P-5ML4271244454362WXNWU5NQ", "quantity": "1", "status": status}
    return {"id": f"I-{n:012d}", **named, "subscriber": {"email_address": f"kunde{n}@mail.example"}}


def _of(n: int, type_: str) -> tuple[str, dict[str, Any]]:
    """A resource's type, and the resource."""
    refund = {"id": f"{n:014d}2R", "status": "COMPLETED", "amount": _amount(n), "note_to_payer": "Sorry"}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "CHECKOUT.ORDER.APPROVED": ("checkout-order", _order(n)),
        "PAYMENT.CAPTURE.COMPLETED": ("capture", _capture(n, "COMPLETED")),
        "PAYMENT.CAPTURE.PENDING": ("capture", _capture(n, "PENDING")),
        "PAYMENT.CAPTURE.REFUNDED": ("refund", refund),
        "PAYMENT.AUTHORIZATION.CREATED": ("authorization", {**_capture(n, "CREATED"), "id": f"{n:014d}4A"}),
        "PAYMENT.REFUND.PENDING": ("refund", {**refund, "status": "PENDING"}),
        "PAYMENT.SALE.COMPLETED": ("sale", _sale(n)),
        "PAYMENT.ORDER.CREATED": ("payment", {"id": f"O-{n:012d}", "state": "created"}),
        "PAYMENTS.PAYMENT.CREATED": ("payment", {"id": f"PAYID-{n:012d}", "state": "created", "intent": "sale"}),
        "PAYMENT.PAYOUTSBATCH.SUCCESS": ("payouts", {"batch_header": {"payout_batch_id": f"PB{n:011d}"}}),
        "PAYMENT.PAYOUTS-ITEM.SUCCEEDED": (
            "payouts_item", {"payout_item_id": f"PI{n:011d}", "transaction_status": "SUCCESS"},
        ),
        "BILLING.SUBSCRIPTION.ACTIVATED": ("subscription", _subscription(n, "ACTIVE")),
        "BILLING.SUBSCRIPTION.CANCELLED": ("subscription", _subscription(n, "CANCELLED")),
        "BILLING.PLAN.CREATED": ("plan", {"id": f"P-{n:012d}", "name": "Monatlich", "status": "ACTIVE"}),
        "CUSTOMER.DISPUTE.CREATED": ("dispute", _dispute(n)),
        "INVOICING.INVOICE.PAID": ("invoices", {"invoice": {"id": f"INV2-{n:012d}", "status": "PAID"}}),
        "VAULT.PAYMENT-TOKEN.CREATED": ("payment_token", {"id": f"vt{n:08d}", "customer": {"id": f"c{n}"}}),
        "VAULT.PAYMENT-TOKEN.DELETED": ("payment_token", {"id": f"vt{n:08d}", "customer": {"id": f"c{n}"}}),
    }  # fmt: skip
    return made[type_]


_TYPES: Final = (
    *("CHECKOUT.ORDER.APPROVED", "PAYMENT.CAPTURE.COMPLETED", "PAYMENT.CAPTURE.PENDING"),
    *("PAYMENT.CAPTURE.REFUNDED", "PAYMENT.AUTHORIZATION.CREATED", "PAYMENT.REFUND.PENDING"),
    *("PAYMENT.SALE.COMPLETED", "PAYMENT.ORDER.CREATED", "PAYMENTS.PAYMENT.CREATED"),
    *("PAYMENT.PAYOUTSBATCH.SUCCESS", "PAYMENT.PAYOUTS-ITEM.SUCCEEDED", "BILLING.SUBSCRIPTION.ACTIVATED"),
    *("BILLING.SUBSCRIPTION.CANCELLED", "BILLING.PLAN.CREATED", "CUSTOMER.DISPUTE.CREATED"),
    *("INVOICING.INVOICE.PAID", "VAULT.PAYMENT-TOKEN.CREATED", "VAULT.PAYMENT-TOKEN.DELETED"),
)


def _sample_of(type_: str) -> Any:
    def sample(n: int, now: int) -> Sample:
        kind, resource = _of(n, type_)
        own = "https://api.paypal.com/v1/notifications/webhooks-events"
        at, id_ = f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}.{now % NS // 1_000_000:03d}Z", f"WH-{n:017d}-{now:019d}"
        return Sample(
            {
                "id": f"{id_}-{_TYPES.index(type_)}", "event_version": "1.0", "create_time": at,
                "resource_type": kind, "resource_version": "2.0", "event_type": type_, "summary": type_.lower(),
                "resource": {"create_time": at, "update_time": at, **resource},
                "links": [{"href": f"{own}/{id_}", "rel": "self", "method": "GET"}],
            }
        )  # fmt: skip

    return sample


for _type in _TYPES:
    vendor.sample(_type)(_sample_of(_type))
