"""Adyen: authorisations, captures, refunds, disputes and reports, from the Standard webhook (JSON).

Each item of a delivery carries a signature of its own, `additionalData.hmacSignature`: HMAC-SHA256 of eight fields
joined with colons, the key written in hex. Nothing in them is escaped, whatever old pages say. The other fields,
`eventDate` and `reason` among them, are not signed. Adyen tells a repetition by `pspReference` and `eventCode`,
and of two the later one counts; it wants the very text `[accepted]`.
https://docs.adyen.com/development-resources/webhooks/webhook-types
https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import MalformedPayload, Unauthenticated
from relay.records import Event, Record, Request, decode_json, encode_json, instant_ns, instant_of_ns
from relay.signatures import key_bytes, same
from relay.source import Reply, Sample, Vendor, table

_ITEMS, _ITEM, _MORE, _SIGNATURE = (
    "notificationItems",
    "NotificationRequestItem",
    "additionalData",
    "hmacSignature",
)

# fmt: off
NOTIFICATIONS = table(
    "notifications", "pspReference eventCode", "eventDate",
    id="pspReference originalReference", instant="eventDate", bool="success live", int="value",
    text="eventCode merchantAccountCode merchantReference paymentMethod reason currency",
    json="amount additionalData operations",
)
# fmt: on


class SignedItems:
    """Adyen's signature inside each item; all items of a delivery must fit one secret."""

    scheme = "hmac-sha256 base64 of eight fields of each item, joined with colons"
    #: Eight fields of the body, that is, and not the others.
    covers_body = False

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        try:
            items = items_of(decode_json(request.body))
        except MalformedPayload:
            items = []
        if not items or any(not _signature_of(item) for item in items):
            raise Unauthenticated(f"an item has no {_SIGNATURE}, or there is none", reason="signature_missing")
        malformed: Unauthenticated | None = None
        for secret in secrets:
            try:
                fits = [same(_signed(item, secret), _signature_of(item)) for item in items]
            except Unauthenticated as error:  # one secret written wrongly does not shut out the others
                malformed = error
                continue
            if all(fits):
                return
        raise malformed or Unauthenticated("no secret fits the signature", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`; the signatures are written into the body."""
        data = decode_json(request.body)
        for item in items_of(data):
            more = item.get(_MORE)
            item[_MORE] = {**(more if isinstance(more, dict) else {}), _SIGNATURE: _signed(item, secret)}
        return msgspec.structs.replace(request, body=encode_json(data))

    def test_secret(self, number: int) -> str:
        """A key in hex, as Adyen makes them."""
        return hashlib.sha256(f"adyen {number}".encode()).hexdigest().upper()


def items_of(data: Any) -> list[dict[str, Any]]:
    """The items of a delivery that are of an item's shape; none where one is not."""
    wrapped = data.get(_ITEMS) if isinstance(data, dict) else None
    if not isinstance(wrapped, list):
        return []
    items = [one.get(_ITEM) if isinstance(one, dict) else None for one in wrapped]
    return [item for item in items if isinstance(item, dict)] if all(isinstance(i, dict) for i in items) else []


def _signature_of(item: dict[str, Any]) -> str:
    more = item.get(_MORE)
    found = more.get(_SIGNATURE) if isinstance(more, dict) else None
    return found if isinstance(found, str) else ""


def _signed(item: dict[str, Any], secret: str) -> str:
    amount = item.get("amount")
    paid: dict[str, Any] = amount if isinstance(amount, dict) else {}
    named = ("pspReference", "originalReference", "merchantAccountCode", "merchantReference")
    values = [
        *map(item.get, named),
        paid.get("value"),
        paid.get("currency"),
        *map(item.get, ("eventCode", "success")),
    ]
    text = ":".join("" if value is None else str(value) for value in values)
    digest = hmac.new(key_bytes(secret, "hex"), text.encode("utf-8", "replace"), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each item is an event of its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: there is no list of items.
    """
    wrapped = data.get(_ITEMS) if isinstance(data, dict) else None
    if not isinstance(wrapped, list):
        raise MalformedPayload(f"`{_ITEMS}` is not a list", reason="no_items")
    live = str(data.get("live")).lower()
    for one in wrapped:
        inside = one.get(_ITEM) if isinstance(one, dict) else None
        item: dict[str, Any] = inside if isinstance(inside, dict) else {}
        code, reference, date = item.get("eventCode"), item.get("pspReference"), item.get("eventDate")
        known = all(isinstance(part, str) and part for part in (code, reference, date))
        yield Event(
            type=code if isinstance(code, str) and code else "unknown",
            data={"live": data.get("live"), _ITEM: inside},
            id=f"{reference}/{code}/{item.get('success')}/{date}" if known else "",
            at=instant_ns(date),
            test=live == "false",
            dedup="id" if known else "content",
        )


def scrub(data: Any) -> Any:
    """The body without its signatures, with which it could be sent again; the argument stays as it is."""
    if not isinstance(data, dict) or not isinstance(data.get(_ITEMS), list):
        return data
    return {**data, _ITEMS: [_unsigned(one) for one in data[_ITEMS]]}


def _unsigned(one: Any) -> Any:
    item = one.get(_ITEM) if isinstance(one, dict) else None
    more = item.get(_MORE) if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(more, dict):
        return one
    return {**one, _ITEM: {**item, _MORE: {name: part for name, part in more.items() if name != _SIGNATURE}}}


vendor = Vendor(
    title="Adyen",
    family="carts",
    docs="https://docs.adyen.com/development-resources/webhooks/webhook-types",
    verify=SignedItems(),
    events=read,
    tables=(NOTIFICATIONS,),
    scrub=scrub,
    reply=Reply(200, b"[accepted]"),
    setup=(
        "Customer Area → Developers → Webhooks → Create new webhook → Standard webhook: this URL, method JSON.",
        "Security → HMAC key → Generate, then save. Test and live each have a key of their own.",
        "The secret: that key, in hex as it is shown.",
    ),
    deletes="There are none: a refund or a cancellation is a notification of its own.",
    limits=(
        "eventDate, reason, paymentMethod and additionalData are not signed: keep the address secret",
        "amounts are in minor units",
        "success is false where the request failed, so an AUTHORISATION alone is no payment",
        "other kinds of webhook (balance platform, SOAP, HTTP POST) are signed otherwise and refused",
    ),
    proof="library: Adyen",
)


@vendor.maps("*")
def notification(event: Event) -> Iterator[Record]:
    """One item; the latest of the same reference and event counts.

    Raises:
        KeyError: the item has no reference, no event code or no amount where there must be one.
    """
    item = event.data[_ITEM]
    if not item["pspReference"] or not item["eventCode"]:
        raise KeyError("pspReference")
    amount = item.get("amount") or {}
    row = {**item, "value": amount.get("value"), "currency": amount.get("currency"), "live": event.data["live"]}
    yield NOTIFICATIONS.row(row, at=event.at)


# --- samples ------------------------------------------------------------------------------------------

_SAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "AUTHORISATION": {"operations": ["CANCEL", "CAPTURE", "REFUND"], "reason": "031576:1111:03/2030"},
    "CAPTURE": {"originalReference": True, "reason": ""},
    "REFUND": {"originalReference": True, "reason": ""},
    "CANCELLATION": {"originalReference": True, "reason": ""},
    "CHARGEBACK": {"originalReference": True, "reason": "Fraudulent Transaction"},
    "REPORT_AVAILABLE": {"reason": "https://ca-test.example/reports/settlement_detail_report.csv"},
}


def _sample_of(type_: str) -> Any:
    def reference(n: int, step: str) -> str:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"adyen/{n}/{step}").hex[:16].upper()

    def sample(n: int, now: int) -> Sample:
        told = dict(_SAMPLES[type_])
        if told.get("originalReference"):
            told["originalReference"] = reference(n, "AUTHORISATION")
        item = {
            "amount": {"currency": "EUR", "value": 1995 + n % 9000},
            "eventCode": type_,
            "eventDate": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}+00:00",
            "merchantAccountCode": "NordlichtECOM",
            "merchantReference": f"NL-{n:06d}",
            "paymentMethod": ("visa", "mc", "ideal")[n % 3],
            "pspReference": reference(n, type_),
            "success": "true",
            **told,
            "additionalData": {"cardSummary": f"{n % 10_000:04d}", "expiryDate": "03/2030"},
        }
        return Sample({"live": "true", _ITEMS: [{_ITEM: item}]})

    return sample


for _type in _SAMPLES:
    vendor.sample(_type)(_sample_of(_type))
