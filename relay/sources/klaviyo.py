"""Klaviyo: events of system webhooks, such as mails opened, orders placed, consent given; up to 1000 a delivery.

https://developers.klaviyo.com/en/docs/working_with_system_webhooks
https://developers.klaviyo.com/en/reference/get_event

The signature covers the body and, right behind it, the time of sending as its header has it (`Thu, 04 Jan 2024
18:05:25 GMT`). Each item of `data` names an event and its topic, and holds what the API says of that event, which
never changes. Flow webhooks are another thing: people write their bodies, and nothing is signed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload
from relay.records import NS, Event, Record, Request, instant_ns, instant_of_ns
from relay.signatures import Hmac, Timestamp, same
from relay.source import Sample, Setting, Vendor, table

_WEBHOOK_ID: Final = "klaviyo-webhook-id"
_ACCOUNT: Final = "klaviyo_account_id"
_LONGEST_DATE: Final = 40

# The account is part of the key: an app may receive the events of many.
EVENTS: Final = table(
    "events",
    f"{_ACCOUNT} id",
    "datetime, in seconds, else the delivery's receipt",
    id=f"{_ACCOUNT} id uuid profile_id metric_id klaviyo_webhook_id event_id message_id flow_id",
    text="topic",
    instant="datetime timestamp",
    money="value",
    json="event_properties attribution included",
)
#: Column -> the event's property that it repeats, where there is one.
_PROPERTIES: Final = {"event_id": "$event_id", "value": "$value", "message_id": "$message", "flow_id": "$flow"}


class HttpDate(Timestamp, frozen=True):
    """A time as HTTP writes it, always GMT."""

    def text(self, now: int) -> str:
        """See `Timestamp`."""
        return format_datetime(dt.datetime.fromtimestamp(now // NS, dt.UTC), usegmt=True)

    def read(self, text: str) -> int | None:
        """See `Timestamp`."""
        if len(text) > _LONGEST_DATE:
            return None
        try:
            at = int(parsedate_to_datetime(text).timestamp()) * NS
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        return at if self.text(at) == text else None


def _verifier(settings: Mapping[str, Any]) -> Hmac:
    tolerance = settings["tolerance_s"]
    if not isinstance(tolerance, int) or tolerance < 1:
        raise ConfigInvalid("tolerance_s: expected a whole number of seconds, at least 1")
    sent = HttpDate("Klaviyo-Timestamp", tolerance_s=tolerance)
    return Hmac("Klaviyo-Signature", message="{body}{timestamp}", timestamp=sent)


def read(request: Request, data: Any) -> Iterator[Event]:
    """Each item of `data` is an event of its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: the body is not of this shape, or is of another webhook than its headers say.
    """
    items = data.get("data") if isinstance(data, dict) else None
    meta = data.get("meta") if isinstance(data, dict) else None
    if not isinstance(items, list) or not isinstance(meta, dict):
        raise MalformedPayload("the body has no list `data` with its `meta`", reason="no_events")
    header, signed = request.headers.get(_WEBHOOK_ID), meta.get("klaviyo_webhook_id")
    if header is not None and isinstance(signed, str) and not same(header, signed):
        raise MalformedPayload(f"{_WEBHOOK_ID} is not the body's klaviyo_webhook_id", reason="webhook_id")
    about = {name: meta[name] for name in (_ACCOUNT, "klaviyo_webhook_id") if name in meta}
    for item in items:
        yield _event(item, about)


def _event(item: Any, about: dict[str, Any]) -> Event:
    if not isinstance(item, dict):
        return Event(type="unknown", data={**about, "item": item}, dedup="content")
    topic, id_, attributes = item.get("topic"), item.get("external_id"), _attributes(item)
    named = isinstance(id_, (str, int)) and id_ != ""
    at = instant_ns(attributes.get("datetime"))
    return Event(
        type=topic if isinstance(topic, str) and topic else "unknown",
        data={**item, **about},
        id=f"{about.get(_ACCOUNT, '')}:{id_}" if named else "",
        at=instant_ns(attributes.get("timestamp")) if at is None else at,
        dedup="id" if named else "content",
    )


def _attributes(item: dict[str, Any]) -> dict[str, Any]:
    found: Any = item
    for name in ("payload", "data", "attributes"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


vendor = Vendor(
    title="Klaviyo",
    family="generic",
    docs="https://developers.klaviyo.com/en/docs/working_with_system_webhooks",
    verify=_verifier,
    events=read,
    tables=(EVENTS,),
    settings={
        "tolerance_s": Setting(
            help="How far the time of sending may be from this machine's clock, in seconds.", default=300
        )
    },
    setup=(
        "Integrations → Webhooks, or the Webhooks API: a system webhook with this URL and your topics.",
        "The secret: the webhook's secret key, at least 16 characters, which you choose there.",
    ),
    deletes="There are none: an event never changes.",
    limits=(
        "webhooks are for Klaviyo's apps and its customers with Advanced KDP",
        "a profile is named by its id alone; a webhook in error for 48 hours is disabled",
        "webhooks that are actions of flows are not signed and have bodies of their own: use a `custom` source",
    ),
    proof="vector: webhook-verify.klaviyo, webhook-verify.klaviyo.unicode",
)


def _related(event: dict[str, Any], name: str) -> Any:
    found: Any = event.get("relationships")
    for step in (name, "data", "id"):
        found = found.get(step) if isinstance(found, dict) else None
    return found


@vendor.maps("event:*")
def event_row(event: Event) -> Iterator[Record]:
    """One event, with what its properties say that most events have.

    Raises:
        KeyError: the item or the delivery's `meta` lacks a part of the key, or the item what happened.
    """
    item = event.data
    inner = item["payload"]["data"]
    attributes = inner["attributes"]
    properties = attributes.get("event_properties")
    said = properties if isinstance(properties, dict) else {}
    row = {
        **attributes,
        **{column: said.get(name) for column, name in _PROPERTIES.items()},
        _ACCOUNT: item[_ACCOUNT],
        "klaviyo_webhook_id": item.get("klaviyo_webhook_id"),
        "id": item.get("external_id") or inner["id"],
        "topic": event.type,
        "profile_id": _related(inner, "profile"),
        "metric_id": _related(inner, "metric"),
        "included": item["payload"].get("included"),
    }
    yield EVENTS.row(row, at=event.at)


# --- samples ------------------------------------------------------------------------------------------


def _sample_of(topic: str, properties: dict[str, Any]) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        hook, at = "01J9ZKLAVIYOSAMPLE", instant_of_ns(now)
        own = {**properties, "$event_id": f"{n}:{now // NS}"}
        inner = {
            "type": "event",
            "id": f"4sample{n:04d}",
            "attributes": {
                "timestamp": now // NS,
                "event_properties": own,
                "datetime": f"{at:%Y-%m-%d %H:%M:%S}+00:00",
                "uuid": f"{n % 16**8:08x}-0000-11f0-8001-4e1c2b3a0000",
            },
            "relationships": {
                "profile": {"data": {"type": "profile", "id": f"01J9PROFILE{n:06d}"}},
                "metric": {"data": {"type": "metric", "id": "WkQr7a"}},
            },
        }
        item = {"external_id": inner["id"], "topic": topic, "payload": {"data": inner}}
        meta = {_ACCOUNT: "XyZ123", "klaviyo_webhook_id": hook, "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}+00:00"}
        return Sample({"data": [item], "meta": {**meta, "version": "2025-10-15"}}, {"Klaviyo-Webhook-Id": hook})

    return sample


_MAIL: Final = {"Subject": "Frischer Honig", "Campaign Name": "März", "$message": "01J9MESSAGE", "$flow": None}
_SAMPLES: Final[dict[str, dict[str, Any]]] = {
    "event:klaviyo.opened_email": _MAIL,
    "event:klaviyo.clicked_email": {**_MAIL, "URL": "https://imkerei.example/honig"},
    "event:klaviyo.unsubscribed_from_email_marketing": {"List": "Newsletter", "Method": "manage preferences"},
    "event:shopify.placed_order": {"$value": Decimal("24.90"), "Items": ["Honig", "Wabe"], "Item Count": 2},
}
for _topic, _said in _SAMPLES.items():
    vendor.sample(_topic)(_sample_of(_topic, _said))
