"""Mailgun: what becomes of sent mail, each event once.

https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads

The signature stands in the JSON body and covers a time and a token alone, nothing of what is said: whoever saw one
delivery can send anything under its signature for as long as that time is let pass, so the signature is taken out
before anything is stored. Whether a later try is signed anew is not said, so the time may be as old as Mailgun
tries. Events do not change: each is a row.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import NS, Event, Record, Request, decode_json, encode_json, instant_ns
from relay.signatures import Timestamp, key_bytes, same
from relay.source import Reply, Sample, Setting, Vendor, table

_SIGNATURE: Final = "signature"
#: Mailgun's last try comes less than eight hours behind the first.
_TOLERANCE_S: Final = 9 * 3600

# fmt: off
EVENTS = table(
    "events", "id", "timestamp: each is written once",
    text="id event log-level severity reason recipient recipient-domain recipient-provider method url ip "
    "originating-ip api-key-id primary-dkim", instant="timestamp",
    json="account campaigns client-info delivery-status domain envelope flags geolocation mailing-list message "
    "reject routes storage tags user-variables",
)
# fmt: on


class _Signed(msgspec.Struct, frozen=True):
    timestamp: str | int = ""
    token: str = ""
    signature: str = ""
    parent: str = msgspec.field(default="", name="parent-signature")


class _Body(msgspec.Struct, frozen=True):
    signature: _Signed | None = None


# Reads the signature and steps over the rest: whoever has none must not make us build the whole body.
_only: Final = msgspec.json.Decoder(_Body).decode


class MailgunSignature:
    """A keyed hash, inside the body, over a time and a token.

    What happens in a subaccount is signed by the primary account's key too, and either one will do.

    Args:
        tolerance_s: how old that time may be.
    """

    scheme = "hmac-sha256 hex of the timestamp and the token in the body's signature"
    covers_body = False

    def __init__(self, tolerance_s: int) -> None:
        self.timestamp = Timestamp(tolerance_s=tolerance_s)

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        given = _given(request.body)
        if given is None or not given.signature or not given.token:
            raise Unauthenticated("no signature in the body", reason="signature_missing")
        stamp = str(given.timestamp)
        self.timestamp.check(stamp, now)
        fits = False
        for secret in secrets:
            made = _digest(secret, stamp + given.token)
            fits |= same(made, given.signature.lower()) | same(made, given.parent.lower())
        if not fits:
            raise Unauthenticated("no secret fits the signature", reason="signature_wrong")

    def signed_at(self, request: Request) -> int | None:
        """When the request says that it was signed, ns since 1970; nothing of it is proved."""
        given = _given(request.body)
        return None if given is None else self.timestamp.read(str(given.timestamp))

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`; the signature is written into the JSON body."""
        stamp, token = self.timestamp.text(now), f"{now:050x}"
        made = {"timestamp": stamp, "token": token, _SIGNATURE: _digest(secret, stamp + token)}
        return msgspec.structs.replace(request, body=encode_json({**decode_json(request.body), _SIGNATURE: made}))


def _given(body: bytes) -> _Signed | None:
    try:
        return _only(body).signature
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _digest(secret: str, message: str) -> str:
    return hmac.new(key_bytes(secret, "utf8"), message.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _verifier(settings: Mapping[str, Any]) -> MailgunSignature:
    tolerance = settings["tolerance_s"]
    if not isinstance(tolerance, int) or isinstance(tolerance, bool) or tolerance < 1:
        raise ConfigInvalid(f"tolerance_s is a number of seconds, not {tolerance!r}")
    return MailgunSignature(tolerance)


def scrub(data: Any) -> Any:
    """The body without its signature, with which anything else could be sent; the argument stays as it is."""
    if not isinstance(data, dict):
        return data
    return {name: value for name, value in data.items() if name != _SIGNATURE}


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One event.

    Raises:
        MalformedPayload: the body has none.
    """
    event = data.get("event-data") if isinstance(data, dict) else None
    if not isinstance(event, dict):
        raise MalformedPayload("there is no event-data", reason="no_event")
    type_, id_, flags = event.get("event"), event.get("id"), event.get("flags")
    known = isinstance(id_, str) and id_ != ""
    yield Event(
        type=type_ if isinstance(type_, str) and type_ else "unknown",
        data=event,
        id=str(id_) if known else "",
        at=instant_ns(event.get("timestamp")),
        test=isinstance(flags, dict) and flags.get("is-test-mode") is True,
        dedup="id" if known else "content",
    )


vendor = Vendor(
    title="Mailgun",
    family="generic",
    docs="https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks",
    verify=_verifier,
    events=read,
    tables=(EVENTS,),
    scrub=scrub,
    # Only 200 is taken for success, 406 for a refusal; anything else is tried again.
    reply=Reply(),
    settings={
        "tolerance_s": Setting(
            help="How old a signature may be, in seconds; less than eight hours may lose what is tried again.",
            default=_TOLERANCE_S,
        )
    },
    setup=(
        "Sending → Webhooks: this URL for each event that you want.",
        "The secret: the HTTP webhook signing key, under API security (the primary account's will do).",
    ),
    deletes="There are none.",
    limits=(
        "the signature says nothing of the event: whoever saw one delivery can send others for some hours",
        "legacy webhooks and routes, which post forms, are not read",
    ),
    proof="vector: mailgun.symfony_delivered, mailgun.symfony_failed",
)


@vendor.maps(
    *("accepted", "rejected", "delivered", "failed", "opened", "clicked", "unsubscribed", "complained", "stored"),
    *("list_member_uploaded", "list_member_upload_error", "list_uploaded"),
)
def event_row(event: Event) -> Iterator[Record]:
    """An event, as it is."""
    if not isinstance(event.data["id"], str) or not event.data["id"]:
        raise KeyError("id")
    yield EVENTS.row({**event.data}, at=event.at)


# --- samples ------------------------------------------------------------------------------------------

#: Event -> what it says besides.
_TOLD: Final[Mapping[str, dict[str, Any]]] = {
    "accepted": {"method": "HTTP"},
    "rejected": {"reject": {"reason": "Sandbox subdomains are for test purposes only", "description": ""}},
    "delivered": {"delivery-status": {"code": 250, "message": "OK", "attempt-no": 1, "session-seconds": 0.43}},
    "failed": {
        "severity": "permanent",
        "reason": "bounce",
        "delivery-status": {"code": 550, "message": "unknown"},
    },
    "opened": {"ip": "192.0.2.7", "geolocation": {"country": "DE", "city": "Potsdam"}},
    "clicked": {"ip": "192.0.2.7", "url": "https://gasthof.example/karte"},
    "unsubscribed": {"ip": "192.0.2.7"},
    "complained": {},
    "stored": {"storage": {"key": "AwABB", "url": "https://storage.example/AwABB"}},
    "list_member_uploaded": {"mailing-list": {"address": "gaeste@gasthof.example"}},
    "list_member_upload_error": {"mailing-list": {"address": "gaeste@gasthof.example"}, "reason": "invalid"},
    "list_uploaded": {"mailing-list": {"address": "gaeste@gasthof.example"}},
}


def _sample_of(type_: str) -> Any:
    def sample(n: int, now: int) -> Sample:
        headers = {"message-id": f"{n}.1@gasthof.example", "subject": "Ihre Reservierung", "to": "Gast"}
        event = {
            "event": type_, "id": f"Ev{type_[:4]}{n:016x}", "timestamp": now // NS, "log-level": "info",
            "recipient": f"gast{n}@mail.example", "recipient-domain": "mail.example", "tags": ["reservierung"],
            "message": {"headers": headers, "size": 341}, "flags": {"is-test-mode": False}, "campaigns": [],
            "user-variables": {"table": str(n % 40)}, "envelope": {"sender": "tische@gasthof.example"},
        }  # fmt: skip
        return Sample({"event-data": {**event, **_TOLD[type_]}})

    return sample


for _type in _TOLD:
    vendor.sample(_type)(_sample_of(_type))
