"""Postmark: what became of mails that it sent, who may be sent mails, and mails that it received.

https://postmarkapp.com/developer/webhooks/webhooks-overview
https://postmarkapp.com/developer/webhooks/inbound-webhook

Nothing is signed: Postmark sends the user and password of the address (HTTP Basic), or a header of your own; use
https. An event never changes. Bounces and complaints have an id; the other events have none, as even a delivery's
message and recipient may come twice, so that a hash of all that an event says is its `event_id`. A subscription
change also says whether an address is suppressed from then on: that is the table of suppressions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import MalformedPayload
from relay.records import Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Basic, Token, Verifier
from relay.source import Mapper, Reply, Sample, Setting, Vendor, table

_sorted_json: Final = msgspec.json.Encoder(order="sorted", decimal_format="number")
#: Where the time of an event stands, by its type; a received mail's Date is what its sender wrote.
_TIMES: Final = {
    "Bounce": "BouncedAt", "SpamComplaint": "BouncedAt", "Delivery": "DeliveredAt", "Open": "ReceivedAt",
    "Click": "ReceivedAt", "SubscriptionChange": "ChangedAt",
}  # fmt: skip


def _sent(name: str, key: str, clock: str, **columns: str) -> Table:
    """A table of events of mails that were sent."""
    common = {"id": "MessageID ServerID", "text": "RecordType MessageStream Tag", "json": "Metadata"}
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, key, clock, **both)


# fmt: off
_BOUNCE: Final = {
    "int": "ID TypeCode", "instant": "BouncedAt", "bool": "DumpAvailable Inactive CanActivate",
    "text": "Type Name Description Details Email From Subject Content",
}
_READER: Final = {"id": "event_id", "instant": "ReceivedAt", "json": "Client OS Geo"}
BOUNCES: Final = _sent("bounces", "ID", "BouncedAt", **_BOUNCE)
SPAM_COMPLAINTS: Final = _sent("spam_complaints", "ID", "BouncedAt", **_BOUNCE)
DELIVERIES: Final = _sent(
    "deliveries", "event_id", "DeliveredAt", id="event_id", text="Recipient Details", instant="DeliveredAt")
OPENS: Final = _sent(
    "opens", "event_id", "ReceivedAt", **_READER, text="Recipient Platform UserAgent", bool="FirstOpen",
    int="ReadSeconds")
CLICKS: Final = _sent(
    "clicks", "event_id", "ReceivedAt", **_READER,
    text="Recipient Platform UserAgent OriginalLink ClickLocation")
SUBSCRIPTION_CHANGES: Final = _sent(
    "subscription_changes", "event_id", "ChangedAt", id="event_id", instant="ChangedAt", bool="SuppressSending",
    text="Recipient Origin SuppressionReason")
SUPPRESSIONS: Final = _sent(
    "suppressions", "ServerID MessageStream Recipient", "ChangedAt", instant="ChangedAt", bool="SuppressSending",
    text="Recipient Origin SuppressionReason")
INBOUND: Final = table(
    "inbound_messages", "MessageID", "the delivery's receipt",
    id="MessageID", json="FromFull ToFull CcFull BccFull Headers",
    text="MessageStream From FromName To Cc Bcc ReplyTo OriginalRecipient Subject MailboxHash Tag Date TextBody "
    "HtmlBody StrippedTextReply RawEmail")
ATTACHMENTS: Final = table(
    "inbound_attachments", "MessageID position", "the delivery's receipt", "MessageID",
    id="MessageID ContentID", int="position ContentLength", text="Name ContentType")
# fmt: on


def _identity(type_: str, data: dict[str, Any]) -> str:
    """What tells an event from others of its type, the same for each try of its delivery."""
    own = {"Bounce": "ID", "SpamComplaint": "ID", "Inbound": "MessageID"}.get(type_)
    if own is not None:
        return str(data.get(own) or "")
    return hashlib.sha256(_sorted_json.encode(data)).hexdigest()


def read(_request: Request, data: Any) -> Iterator[Event]:
    """The one event of a delivery; a received mail is the one kind that has no `RecordType`.

    Raises:
        MalformedPayload: the body is not an object.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    said = data.get("RecordType", "Inbound" if "OriginalRecipient" in data else None)
    type_ = said if isinstance(said, str) and said else "unknown"
    id_ = _identity(type_, data)
    at = instant_ns(data.get(_TIMES.get(type_, "")))
    yield Event(type=type_, data=data, id=id_, at=at, dedup="id" if id_ else "content")


def _verifier(settings: Mapping[str, Any]) -> Verifier:
    return Token(header=str(settings["token_header"])) if settings["token_header"] else Basic()


vendor = Vendor(
    title="Postmark",
    family="generic",
    docs="https://postmarkapp.com/developer/webhooks/webhooks-overview",
    verify=_verifier,
    events=read,
    tables=(
        *(BOUNCES, SPAM_COMPLAINTS, DELIVERIES, OPENS, CLICKS),
        *(SUBSCRIPTION_CHANGES, SUPPRESSIONS, INBOUND, ATTACHMENTS),
    ),
    # A webhook is verified, and a received mail handed over, with a 200 and nothing else.
    reply=Reply(),
    settings={
        "token_header": Setting(
            help="The header that you set at Postmark with the secret as its value; empty: HTTP Basic.", default=""
        )
    },
    setup=(
        "Message stream → Webhooks → Add webhook: this URL, your events, Basic auth credentials of your own.",
        "The secret: `user:password`; or with token_header the value of the custom header that you set there.",
        "Received mails: the inbound stream's settings, this URL as `https://user:password@…`.",
    ),
    deletes="An address that is no longer suppressed: its row of `suppressions` is marked deleted.",
    limits=(
        "nothing is signed: whoever knows the credentials can send any event",
        "a custom header is not sent with received mails; these need HTTP Basic",
        "of an attachment only its name, type and size become a row",
        "what is answered with an error is said to be tried six times in an hour, after 401 or 403 never",
    ),
    proof="documented: a user and a password, by the vendor's page; HTTP Basic itself passes RFC 7617's examples",
    # Few tries within an hour, and a pause for a trigger that keeps failing.
    fragile=True,
)


def _event_row(table: Table) -> Mapper:
    def map_event(event: Event) -> Iterator[Record]:
        more = {"event_id": event.id} if "event_id" in table.columns else {}
        row = {**event.data, **more}
        if any(row[name] is None for name in table.key):
            raise KeyError(*table.key)
        yield table.row(row, at=event.at)

    return map_event


@vendor.maps("SubscriptionChange")
def subscription_change(event: Event) -> Iterator[Record]:
    """A change, and what holds from then on.

    Raises:
        KeyError: it does not say of whom, or what.
    """
    data = event.data
    key = {name: data[name] for name in SUPPRESSIONS.key}
    yield SUBSCRIPTION_CHANGES.row({**data, "event_id": event.id}, at=event.at)
    if data["SuppressSending"] is True:
        yield SUPPRESSIONS.row(dict(data), at=event.at)
    else:
        # Of one moment the later arrival wins: an address may go either way.
        yield SUPPRESSIONS.gone(key, at=event.at, rank=0)


@vendor.maps("Inbound")
def inbound(event: Event) -> Iterator[Record]:
    """A received mail; its attachments without what they hold."""
    identity, attachments = event.data["MessageID"], event.data.get("Attachments")
    yield INBOUND.row({name: value for name, value in event.data.items() if name != "Attachments"})
    if isinstance(attachments, list):
        members = [
            {**{name: value for name, value in item.items() if name != "Content"}, "position": position}
            for position, item in enumerate(attachments)
        ]
        yield ATTACHMENTS.children({"MessageID": identity}, members)


for _type, _table in {
    "Bounce": BOUNCES,
    "SpamComplaint": SPAM_COMPLAINTS,
    "Delivery": DELIVERIES,
    "Open": OPENS,
    "Click": CLICKS,
}.items():
    vendor.maps(_type)(_event_row(_table))


# --- samples ------------------------------------------------------------------------------------------

_READ: Final = {
    "Client": {"Name": "Firefox 140", "Company": "Mozilla", "Family": "Firefox"}, "Platform": "Desktop",
    "OS": {"Name": "Linux", "Company": "Canonical", "Family": "Linux"}, "UserAgent": "Mozilla/5.0 (X11; Linux)",
    "Geo": {"CountryISOCode": "DE", "City": "Bremen", "IP": "192.0.2.7"},
}  # fmt: skip
_BOUNCED: Final = {
    "Type": "HardBounce", "TypeCode": 1, "Name": "Hard bounce", "Description": "The mailbox does not exist.",
    "Details": "smtp;550 5.1.1 no such user", "From": "post@imkerei.example", "Subject": "Frischer Honig",
    "DumpAvailable": True, "Inactive": True, "CanActivate": True,
}  # fmt: skip
_OWN: Final[dict[str, dict[str, Any]]] = {
    "Bounce": _BOUNCED,
    "SpamComplaint": {**_BOUNCED, "Type": "SpamComplaint", "TypeCode": 100_001, "Name": "Spam complaint"},
    "Delivery": {"Details": "250 2.0.0 OK"},
    "Open": {**_READ, "FirstOpen": True, "ReadSeconds": 5},
    "Click": {**_READ, "OriginalLink": "https://imkerei.example/honig", "ClickLocation": "HTML"},
    "SubscriptionChange": {"Origin": "Recipient", "SuppressSending": True, "SuppressionReason": "HardBounce"},
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        reader = f"ida.{n}@mail.example"
        whose = {"ID": 700_000_000 + n, "Email": reader} if "Bounced" in _TIMES[type_] else {"Recipient": reader}
        return Sample({
            "RecordType": type_, "MessageStream": "outbound", "MessageID": _message_id(n), "ServerID": 23,
            "Tag": "newsletter", "Metadata": {"campaign": "2026-03"}, **whose, **_OWN[type_],
            _TIMES[type_]: f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}.9070259Z",
        })  # fmt: skip

    return sample


def _message_id(n: int) -> str:
    return f"883953f4-6105-42a2-a16a-{n % 16**12:012x}"


@vendor.sample("Inbound")
def inbound_sample(n: int, now: int) -> Sample:
    """A customer's answer with a picture."""
    sender = {"Email": f"ida.{n}@mail.example", "Name": f"Ida Brandt {n}", "MailboxHash": ""}
    target = {"Email": f"abc+{n}@inbound.example", "Name": "", "MailboxHash": f"{n}"}
    return Sample({
        "FromName": sender["Name"], "MessageStream": "inbound", "From": sender["Email"], "FromFull": sender,
        "To": target["Email"], "ToFull": [target], "Cc": "", "CcFull": [], "Bcc": "", "BccFull": [], "Tag": "",
        "OriginalRecipient": target["Email"], "Subject": f"Re: Order {n}", "MessageID": _message_id(n),
        "ReplyTo": "", "MailboxHash": f"{n}", "Date": f"{instant_of_ns(now):%a, %d %b %Y %H:%M:%S} +0000",
        "TextBody": "See the picture.", "HtmlBody": "<p>See the picture.</p>", "StrippedTextReply": "",
        "Headers": [{"Name": "X-Spam-Score", "Value": "-0.1"}],
        "Attachments": [{"Name": "a.png", "Content": "aGk=", "ContentType": "image/png", "ContentLength": 2}],
    })  # fmt: skip


for _type in _OWN:
    vendor.sample(_type)(_sample_of(_type))
