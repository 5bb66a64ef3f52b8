"""Customer.io: what became of messages and who subscribed, from reporting webhooks.

https://docs.customer.io/integrations/api/webhooks/
https://docs.customer.io/journeys/webhooks/ (setup, retries, the signature)

An event is named by `object_type` (a channel, or `customer`) and `metric`; both make the type, `email.delivered`.
It never changes, so that it is a row of its own; its `data` lies flat in it. A call that fails is sent again for
seven days, and others wait behind it: a source with a wrong secret or clock holds up all that comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid
from relay.records import NS, Event, Record, Request, Table
from relay.signatures import Hmac, Timestamp
from relay.source import Sample, Setting, Vendor, field, table

_CLOCK: Final = "timestamp, in seconds"


def _events(name: str, **columns: str) -> Table:
    """A table of events, with what all of them have."""
    common = {
        "id": "event_id customer_id cio_id",
        "text": "object_type metric identifier_id identifier_email",
        "instant": "timestamp",
    }
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, "event_id", _CLOCK, **both)


MESSAGE_EVENTS: Final = _events(
    "message_events",
    id="delivery_id action_id parent_action_id broadcast_id campaign_id newsletter_id content_id journey_id "
    "link_id trigger_id trigger_event_id conversion_event_id transactional_message_id",
    text="recipient subject href failure_message body track_id",
    bool="machine_open",
    json="recipients headers",
)
CUSTOMER_EVENTS: Final = _events("customer_events", id="delivery_id", text="email_address", json="content")
#: Parts of `data.identifiers` -> columns.
_IDENTIFIERS: Final = {"id": "identifier_id", "email": "identifier_email", "cio_id": "cio_id"}


def _type(_request: Request, data: Any) -> str:
    found = data if isinstance(data, dict) else {}
    kind, metric = found.get("object_type"), found.get("metric")
    return f"{kind}.{metric}" if isinstance(kind, str) and isinstance(metric, str) and kind and metric else ""


def _verifier(settings: Mapping[str, Any]) -> Hmac:
    tolerance = settings["tolerance_s"]
    if not isinstance(tolerance, int) or tolerance < 1:
        raise ConfigInvalid("tolerance_s: expected a whole number of seconds, at least 1")
    sent = Timestamp("X-CIO-Timestamp", tolerance_s=tolerance)
    return Hmac("X-CIO-Signature", message="v0:{timestamp}:{body}", timestamp=sent)


vendor = Vendor(
    title="Customer.io",
    family="generic",
    docs="https://docs.customer.io/integrations/api/webhooks/",
    verify=_verifier,
    type=_type,
    id=field("event_id"),
    at=field("timestamp"),
    tables=(MESSAGE_EVENTS, CUSTOMER_EVENTS),
    settings={
        "tolerance_s": Setting(
            help="How far the signature's time may be from this machine's clock, in seconds.", default=300
        )
    },
    setup=(
        "Data & Integrations → Integrations → Reporting Webhooks → Add: this URL, the events that you want.",
        "The secret: the webhook's signing key, on the same page.",
    ),
    deletes="There are none: an event never changes.",
    limits=(
        "send frequency “first time” leaves out all opens and clicks of a message but the first",
        "whether a retry is signed anew is not documented: should retries be refused as stale, raise tolerance_s",
    ),
    proof="vector: customerio.oracle",
)


def _row(event: Event) -> dict[str, Any]:
    """The event with its data lying flat; its own fields win over those of the data.

    Raises:
        KeyError: it does not say what happened, or has no id.
    """
    if not event.type:
        raise KeyError("metric")
    data = event.data.get("data") or {}
    given = data.get("identifiers")
    identifiers = given if isinstance(given, dict) else {}
    return {
        **{name: value for name, value in data.items() if name != "identifiers"},
        **{column: identifiers.get(name) for name, column in _IDENTIFIERS.items()},
        **{name: value for name, value in event.data.items() if name != "data"},
        "event_id": event.data["event_id"],
    }


@vendor.maps("customer.*")
def customer_event(event: Event) -> Iterator[Record]:
    """A person subscribed, unsubscribed or changed what they want to get."""
    yield CUSTOMER_EVENTS.row(_row(event), at=event.at)


@vendor.maps("*")
def message_event(event: Event) -> Iterator[Record]:
    """Something became of a message, on whatever channel."""
    yield MESSAGE_EVENTS.row(_row(event), at=event.at)


# --- samples ------------------------------------------------------------------------------------------


def _sample_of(type_: str, own: dict[str, Any]) -> Callable[[int, int], Sample]:
    object_type, _, metric = type_.partition(".")

    def sample(n: int, now: int) -> Sample:
        person = {"id": f"{n}", "email": f"ida.{n}@mail.example", "cio_id": f"d9c1{n % 16**8:08x}"}
        message = {
            "delivery_id": f"RPILAgUBcRhIBqSfeiIw{n:08d}",
            "campaign_id": 17,
            "action_id": 170 + n % 4,
            "recipient": person["email"],
            "subject": "Frischer Honig",
        }
        data = {
            "customer_id": person["id"],
            "identifiers": person,
            **(message if object_type != "customer" else {}),
        }
        return Sample({
            "event_id": f"01J9{now // NS:010d}{n:012d}", "object_type": object_type, "metric": metric,
            "timestamp": now // NS, "data": {**data, **own},
        })  # fmt: skip

    return sample


_SAMPLES: Final[dict[str, dict[str, Any]]] = {
    "email.sent": {},
    "email.delivered": {},
    "email.opened": {"machine_open": True},
    "email.clicked": {"href": "https://imkerei.example/honig", "link_id": 3},
    "email.bounced": {"failure_message": "550 5.1.1 no such user"},
    "sms.sent": {"recipient": "+4930000000"},
    "push.opened": {"recipients": [{"device_id": "d1", "device_platform": "ios"}]},
    "customer.subscribed": {"email_address": "ida@mail.example"},
    "customer.unsubscribed": {"delivery_id": "RPILAgUBcRhIBqSfeiIw00000001"},
}
for _type_, _own in _SAMPLES.items():
    vendor.sample(_type_)(_sample_of(_type_, _own))
