"""SendGrid: what became of each e-mail, from the Event Webhook.

One delivery is an array of events, often of many messages. What a message was given as unique arguments
stands at the top of each event, beside SendGrid's own fields. The signature is ECDSA over the timestamp's text and
the body's very bytes, and a body ends in CR LF.
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload
from relay.publickeys import ECDSA, Ring, Signed
from relay.records import NS, Event, Record, Request, encode_json, instant_ns
from relay.signatures import Timestamp
from relay.source import Sample, Setting, Vendor, table

_SIGNATURE: Final = "X-Twilio-Email-Event-Webhook-Signature"
_TIMESTAMP: Final = "X-Twilio-Email-Event-Webhook-Timestamp"
#: SendGrid repeats for 24 hours, and does not say whether it signs anew each time.
_TOLERANCE: Final = 25 * 3600
_TYPES: Final = (
    *("processed", "deferred", "delivered", "bounce", "dropped"),
    *("open", "click", "spamreport", "unsubscribe", "group_unsubscribe", "group_resubscribe"),
    "account_status_change",
)

# fmt: off
EVENTS = table(
    "events", "sg_event_id", "timestamp (seconds); an event never changes",
    id="sg_event_id sg_message_id asm_group_id marketing_campaign_id", instant="timestamp",
    text="event email smtp-id type reason response status bounce_classification ip useragent url attempt "
    "marketing_campaign_name marketing_campaign_version marketing_campaign_split_id sg_content_type",
    int="tls",
    bool="sg_machine_open",
    # One category is text, several are a list.
    json="category url_offset pool newsletter",
)
# fmt: on


def verifier(settings: Mapping[str, Any]) -> Signed:
    """The Signed Event Webhook.

    Raises:
        ConfigInvalid: the tolerance is no number of seconds.
    """
    tolerance = settings["tolerance_s"]
    if not isinstance(tolerance, int) or isinstance(tolerance, bool) or tolerance <= 0:
        raise ConfigInvalid(f"tolerance_s is a number of seconds, not {tolerance!r}")
    stamp = Timestamp(_TIMESTAMP, tolerance_s=tolerance)
    return Signed(_SIGNATURE, ring=Ring(ECDSA), message="{timestamp}{body}", timestamp=stamp)


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each item is an event of its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: the body is not a list.
    """
    if not isinstance(data, list):
        raise MalformedPayload("the body is not a list of events", reason="no_events")
    for item in data:
        known: dict[str, Any] = item if isinstance(item, dict) else {}
        type_, id_ = known.get("event"), known.get("sg_event_id")
        yield Event(
            type=type_ if isinstance(type_, str) and type_ else "unknown",
            data=item,
            id=id_ if isinstance(id_, str) else "",
            at=instant_ns(known.get("timestamp")),
            dedup="id" if isinstance(id_, str) and id_ else "content",
        )


vendor = Vendor(
    title="SendGrid",
    family="generic",
    docs="https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event",
    verify=verifier,
    events=read,
    tables=(EVENTS,),
    settings={
        "tolerance_s": Setting(
            help="Seconds that a signature may be old. SendGrid repeats a delivery for 24 hours; an event that "
            "came before is known by its id.",
            default=_TOLERANCE,
        )
    },
    setup=(
        "Settings → Mail Settings → Event Webhooks → Create new webhook: this URL, and the events that you want.",
        "On the same page, turn on Signed Event Webhook and save.",
        "The secret: the verification key that it then shows, one line of base64.",
    ),
    deletes="There are none: events are added and stay.",
    limits=(
        "an event says what happened to one message for one address; the state of a message is yours to derive",
        "a late bounce has no sg_message_id",
        "unique arguments become columns beside SendGrid's own",
    ),
    proof="vector: sendgrid.python",
)


@vendor.maps(*_TYPES)
def happened(event: Event) -> Iterator[Record]:
    """One event, as it is.

    Raises:
        KeyError: it has no `sg_event_id`.
    """
    if not event.data["sg_event_id"]:
        raise KeyError("sg_event_id")
    yield EVENTS.row(dict(event.data), at=event.at)


# --- samples ------------------------------------------------------------------------------------------

_TOLD: Final[Mapping[str, Mapping[str, Any]]] = {
    "processed": {"send_at": 0},
    "deferred": {"response": "451 4.7.1 Greylisted, try again in 300 s", "attempt": "2"},
    "delivered": {"response": "250 2.0.0 OK queued", "ip": "192.0.2.18", "tls": 1},
    "bounce": {
        "type": "bounce",
        "status": "5.1.1",
        "reason": "550 5.1.1 no such user here",
        "tls": 1,
        "bounce_classification": "Invalid Address",
    },
    "dropped": {"reason": "Bounced Address", "status": "5.0.0"},
    "open": {"useragent": "Mozilla/5.0 (X11; Linux x86_64)", "ip": "198.51.100.7", "sg_machine_open": False},
    "click": {
        "useragent": "Mozilla/5.0 (X11; Linux x86_64)",
        "ip": "198.51.100.7",
        "url": "https://shop.example/sale?x=1",
        "url_offset": {"index": 0, "type": "html"},
    },
    "spamreport": {},
    "unsubscribe": {},
    "group_unsubscribe": {"useragent": "Mozilla/5.0", "url": "https://shop.example/leave", "asm_group_id": 4711},
    "group_resubscribe": {"useragent": "Mozilla/5.0", "url": "https://shop.example/stay", "asm_group_id": 4711},
    "account_status_change": {"type": "compliance_suspend"},
}


def _sample_of(type_: str) -> Any:
    def sample(n: int, now: int) -> Sample:
        key = base64.urlsafe_b64encode(f"{type_}-{n}-{now // NS}".encode()).rstrip(b"=").decode()
        event = {"timestamp": now // NS - 3, "event": type_, "sg_event_id": key, **_TOLD[type_]}
        if type_ != "account_status_change":
            message = f"m{n:014d}.recvd-7f-{n % 97:x}-1-66A0F{n % 9}.0"
            event |= {"email": f"kunde{n}@mail.example", "sg_message_id": message}
            event |= {"smtp-id": f"<m{n:014d}@geopod-ismtpd-7>", "category": ["receipts"], "order_id": str(n)}
        return Sample(encode_json([event]) + b"\r\n")

    return sample


for _type in _TYPES:
    vendor.sample(_type)(_sample_of(_type))
