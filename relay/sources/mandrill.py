"""Mandrill, Mailchimp's transactional mail: what becomes of sent mail, mail that comes in, and its deny lists.

https://mailchimp.com/developer/transactional/docs/webhooks/
https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/

A delivery is a form whose one field, `mandrill_events`, is a JSON list of up to 1000 events. The address and the
form's fields are signed. `_id` is the message's and not the event's: events are told apart by a digest of what
they say. Each carries the message as it was then. Before an address is taken, Mandrill looks by HEAD whether it is
there, else it posts an empty list, signed with a key that everybody knows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from relay.bodies import decode_body, is_form
from relay.errors import MalformedPayload, Unauthenticated
from relay.records import NS, Event, Record, Request, decode_json, encode_json, instant_ns, instant_of_ns
from relay.signatures import key_bytes, same, with_headers
from relay.source import Reply, Sample, Vendor, table

_CLOCK: Final = "the event's ts (seconds), then what happened"
_FIELD: Final = "mandrill_events"
_HEADER: Final = "x-mandrill-signature"
_FORM: Final = "application/x-www-form-urlencoded"
_EMPTY: Final = (b"mandrill_events=%5B%5D", b"mandrill_events=[]")
#: To whom the "Send test" button says that it mailed.
_TEST_EMAIL: Final = "example.webhook@mandrillapp.com"

# fmt: off
MESSAGES = table(
    "messages", "_id", _CLOCK,
    text="_id _version email sender subject state subaccount template diag bounce_description", instant="ts",
    int="bgtools_code", json="clicks metadata opens reject resends smtp_events tags",
)
MESSAGE_EVENTS = table(
    "message_events", "event_id", "the event's ts: each is written once",
    text="event_id event _id email url ip user_agent diag", instant="ts", json="location user_agent_parsed",
)
INBOUND_MESSAGES = table(
    "inbound_messages", "event_id", "the event's ts: each is written once",
    text="event_id email from_email from_name html raw_msg sender subject template text", instant="ts",
    bool="text_flowed", json="attachments cc dkim headers images spam_report spf tags to",
)
DENYLIST = table(
    "denylist_entries", "email subaccount", _CLOCK,
    text="email subaccount detail reason sender", bool="expired", instant="created_at expires_at last_event_at",
)
ALLOWLIST = table(
    "allowlist_entries", "email", _CLOCK, text="email detail", instant="created_at",
)
# fmt: on
#: Of one second what happens later to a message, or to an entry, wins.
_STEPS: Final = ("send add", "deferral change", "soft_bounce remove", "delivered", "hard_bounce reject")
_RANKS: Final = {
    name: rank for rank, names in enumerate((*_STEPS, "open", "click", "unsub", "spam")) for name in names.split()
}


class MandrillSignature:
    """A keyed hash over the address as Mandrill has it and the form's fields in the order of their names."""

    scheme = "hmac-sha1 base64 of the url and the sorted form fields"

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        given = request.headers.get(_HEADER, "")
        if not given:
            raise Unauthenticated(f"no {_HEADER} header", reason="signature_missing")
        message = _signed(request)
        fits = False
        for secret in secrets:
            fits |= same(_digest(secret, message), given)
        if not fits:
            raise Unauthenticated("no secret fits the signature", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        return with_headers(request, {_HEADER: _digest(secret, _signed(request))})


def _digest(secret: str, message: str) -> str:
    made = hmac.new(key_bytes(secret, "utf8"), message.encode("utf-8", "replace"), hashlib.sha1)
    return base64.b64encode(made.digest()).decode()


def _signed(request: Request) -> str:
    if not is_form(request):
        raise Unauthenticated("the body is not a form", reason="body_malformed")
    try:
        fields: dict[str, list[str]] = decode_body(request, forms=True)
    except MalformedPayload as error:
        raise Unauthenticated(str(error), reason="body_malformed") from None
    if not fields or any(len(values) != 1 for values in fields.values()):
        raise Unauthenticated("the form is empty, or has a field twice", reason="body_malformed")
    return request.url + "".join(f"{name}{fields[name][0]}" for name in sorted(fields))


def handshake(request: Request, _secrets: tuple[str, ...], _settings: Mapping[str, Any]) -> Reply | None:
    """Answers the empty list that is posted before the webhook's own key exists; there is nothing in it."""
    return Reply() if request.method == "POST" and is_form(request) and request.body in _EMPTY else None


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each event of the list on its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: there is no list of events.
    """
    items = data
    if isinstance(data, dict):
        items = data.get(_FIELD, [data])  # one event, once it was kept
        if isinstance(items, list) and len(items) == 1 and isinstance(items[0], str):
            items = decode_json(items[0].encode("utf-8", "replace"))
    if not isinstance(items, list):
        raise MalformedPayload(f"{_FIELD} is not a list", reason="no_events")
    yield from map(_event, items)


def _event(item: Any) -> Event:
    known: dict[str, Any] = item if isinstance(item, dict) else {}
    type_ = known.get("event") or known.get("type")
    message = known.get("msg")
    return Event(
        type=type_ if isinstance(type_, str) and type_ else "unknown",
        data=item,
        id=_event_id(item),
        at=instant_ns(known.get("ts")),
        test=isinstance(message, dict) and message.get("email") == _TEST_EMAIL,
    )


def _event_id(item: Any) -> str:
    """A digest of all that an event says: a retry says the same."""
    return hashlib.blake2b(encode_json(item), digest_size=16).hexdigest()


vendor = Vendor(
    title="Mandrill",
    family="generic",
    docs="https://mailchimp.com/developer/transactional/docs/webhooks/",
    verify=MandrillSignature(),
    events=read,
    tables=(MESSAGES, MESSAGE_EVENTS, INBOUND_MESSAGES, DENYLIST, ALLOWLIST),
    handshake=handshake,
    forms=True,
    reply=Reply(),
    setup=(
        "Settings → Webhooks → Add a webhook: this URL, the events; for mail that comes in, a route of Inbound.",
        "`public_url`: that URL exactly as Mandrill has it.",
        "The secret: the webhook's key on that page; one for each, where several webhooks come to this source.",
    ),
    deletes="An entry that leaves a deny or allow list is marked deleted.",
    limits=(
        "opens and clicks of one second that say the same are one",
        "a message's row is as the last event had it: mail that nothing happens to any more is not told again",
    ),
    proof="vector: mandrill.rails_click",
)


@vendor.maps(
    "send", "deferral", "soft_bounce", "hard_bounce", "delivered", "reject", "open", "click", "spam", "unsub"
)
def message_event(event: Event) -> Iterator[Record]:
    """What happened to a message, and the message as it was then."""
    data = event.data
    message = data.get("msg") or {}
    about = {name: value for name, value in data.items() if name != "msg"}
    told = {"email": message.get("email"), "diag": message.get("diag")}
    yield MESSAGE_EVENTS.row({**told, **about, "event_id": event.id or _event_id(data)}, at=event.at)
    if message:
        yield MESSAGES.row({**message, "_id": _required(message, "_id")}, at=event.at, rank=_RANKS[event.type])


@vendor.maps("inbound")
def inbound(event: Event) -> Iterator[Record]:
    """A message that came in; its id is the event's, as a mail need not have one."""
    message = event.data["msg"]
    row = {**message, "event_id": event.id or _event_id(event.data), "ts": event.data.get("ts")}
    yield INBOUND_MESSAGES.row(row, at=event.at)


@vendor.maps("denylist", "blacklist")
def denied(event: Event) -> Iterator[Record]:
    """An address that is no longer mailed; without a subaccount for the whole account."""
    action, entry = event.data["action"], event.data["reject"]
    row = {**entry, "email": _required(entry, "email"), "subaccount": entry.get("subaccount") or ""}
    yield DENYLIST.row(row, at=event.at, rank=_RANKS[action], gone=action == "remove")


@vendor.maps("allowlist", "whitelist")
def allowed(event: Event) -> Iterator[Record]:
    """An address that is mailed whatever bounces."""
    action, entry = event.data["action"], event.data["entry"]
    row = {**entry, "email": _required(entry, "email")}
    yield ALLOWLIST.row(row, at=event.at, rank=_RANKS[action], gone=action == "remove")


def _required(data: Mapping[str, Any], name: str) -> str:
    value = data[name]
    if not isinstance(value, str) or not value:
        raise KeyError(name)
    return value


# --- samples ------------------------------------------------------------------------------------------


def _batch(item: dict[str, Any]) -> Sample:
    return Sample(urlencode({_FIELD: encode_json([item]).decode()}).encode(), content_type=_FORM)


def _message(n: int, at: int, state: str) -> dict[str, Any]:
    return {
        "ts": at - 60, "_id": f"{n:032x}", "_version": f"v{n:020x}", "email": f"gast{n}@mail.example",
        "sender": "tische@gasthof.example", "subject": "Ihre Reservierung", "state": state, "tags": ["gast"],
        "metadata": {"table": n % 40}, "opens": [], "clicks": [], "smtp_events": [], "resends": [],
        "subaccount": None, "template": "reservation", "diag": None,
    }  # fmt: skip


#: What happened -> the message's state, and what its event says besides.
_HAPPENED: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "send": ("sent", {}),
    "deferral": ("deferred", {}),
    "delivered": ("sent", {}),
    "soft_bounce": ("soft-bounced", {}),
    "hard_bounce": ("bounced", {}),
    "reject": ("rejected", {}),
    "open": ("sent", {"ip": "192.0.2.7", "user_agent": "Mozilla/5.0", "location": None}),
    "click": ("sent", {"ip": "192.0.2.7", "user_agent": "Mozilla/5.0", "url": "https://gasthof.example/karte"}),
    "spam": ("spam", {}),
    "unsub": ("unsub", {}),
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        at = now // NS
        if type_ in _HAPPENED:
            state, told = _HAPPENED[type_]
            return _batch({"event": type_, "_id": f"{n:032x}", "ts": at, "msg": _message(n, at, state), **told})
        made = f"{instant_of_ns(now):%Y-%m-%d %H:%M:%S}"
        entry = {"email": f"gast{n}@mail.example", "detail": "no such user", "created_at": made}
        if type_ in ("allowlist", "whitelist"):
            return _batch({"type": type_, "action": "add", "entry": entry, "ts": at})
        reject = {**entry, "reason": "hard-bounce", "expired": False, "expires_at": None, "subaccount": None}
        return _batch({"type": type_, "action": "add", "reject": reject, "ts": at})

    return sample


for _type in (*_HAPPENED, "denylist", "blacklist", "allowlist", "whitelist"):
    vendor.sample(_type)(_sample_of(_type))


@vendor.sample("inbound")
def inbound_sample(n: int, now: int) -> Sample:
    """A guest's mail."""
    message = {
        "raw_msg": "Received: from mail.example\n\nIst noch ein Tisch frei?", "text": "Ist noch ein Tisch frei?",
        "headers": {"Message-Id": f"<{n}@mail.example>", "Subject": "Tisch"}, "subject": "Tisch", "html": None,
        "from_email": f"gast{n}@mail.example", "from_name": f"Ida Brandt {n}", "text_flowed": False, "tags": [],
        "to": [["tische@gasthof.example", None]], "email": "tische@gasthof.example", "sender": None,
        "spf": {"result": "pass"}, "dkim": {"signed": True, "valid": True}, "spam_report": {"score": -0.8},
    }  # fmt: skip
    return _batch({"event": "inbound", "ts": now // NS, "msg": message})
