"""Segment: the calls track, identify, page, screen, group and alias, from a Webhooks (Actions) destination.

https://www.twilio.com/docs/segment/connections/destinations/catalog/actions-webhook
https://www.twilio.com/docs/segment/connections/spec/common
https://support.twilio.com/hc/en-us/articles/51193799782171 (of a batch only the first event is signed)

A call is a row that never changes. The traits of `identify` and `group` are those that the call names, not all
that the user or group has, so that no row of a user is made of them. A batch is an array of calls, of which the
signature covers the first alone: whoever saw one delivery can append others. So batches are refused, unless a
setting allows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import MalformedPayload, Unauthenticated
from relay.records import Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac, Verifier
from relay.source import Mapper, Sample, Setting, Vendor, table

_CLOCK: Final = "timestamp, in milliseconds, else the delivery's receipt"
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_sorted_json: Final = msgspec.json.Encoder(order="sorted", decimal_format="number")


def _calls(name: str, **columns: str) -> Table:
    """A table of calls, with the fields that all calls have."""
    common = {
        "id": "messageId userId anonymousId",
        "text": "type channel",
        "instant": "timestamp originalTimestamp sentAt receivedAt",
        "json": "context integrations",
    }
    both = {kind: f"{common.get(kind, '')} {columns.get(kind, '')}" for kind in {**common, **columns}}
    return table(name, "messageId", _CLOCK, **both)


#: By `type`; named as Segment names them in warehouses.
TABLES: Final = {
    "track": _calls("tracks", text="event", json="properties"),
    "identify": _calls("identifies", json="traits"),
    "page": _calls("pages", text="name category", json="properties"),
    "screen": _calls("screens", text="name category", json="properties"),
    "group": _calls("groups", id="groupId", json="traits"),
    "alias": _calls("aliases", id="previousId"),
}


class Signature:
    """HMAC-SHA1 of the body; of a batch, where batches are allowed, of its first event.

    Args:
        batches: whether a batch is accepted, though all its events but the first are not covered.
    """

    scheme = "hmac-sha1 hex of {body}, of a batch its first event"

    def __init__(self, *, batches: bool) -> None:
        self.batches, self.covers_body = batches, not batches
        self.whole = Hmac("X-Signature", algorithm="sha1")

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `Verifier`."""
        try:
            self.whole.verify(self._signed(request), secrets, now)
        except Unauthenticated as error:
            if self.batches or error.reason != "signature_wrong" or not request.body.lstrip().startswith(b"["):
                raise
            raise Unauthenticated(
                "a batch, of which only the first event is signed: turn batching off, or set `batches`",
                reason="batch_not_covered",
            ) from None

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `Verifier`."""
        signed = self.whole.sign(self._signed(request), secret, now)
        return msgspec.structs.replace(signed, body=request.body)

    def _signed(self, request: Request) -> Request:
        """The request with the body that its signature covers: the first event's very bytes."""
        if not self.batches or not request.body.lstrip().startswith(b"["):
            return request
        try:
            items = _items.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return request
        return msgspec.structs.replace(request, body=bytes(items[0])) if items else request


def _verifier(settings: Mapping[str, Any]) -> Verifier:
    return Signature(batches=settings["batches"] is True)


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each call of a batch is an event of its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: the body is neither a call nor a list.
    """
    if not isinstance(data, (dict, list)):
        raise MalformedPayload("the body is neither an object nor a list", reason="not_an_object")
    for call in data if isinstance(data, list) else [data]:
        if not isinstance(call, dict):
            yield Event(type="unknown", data=call, dedup="content")
            continue
        type_, at = call.get("type"), instant_ns(call.get("timestamp"))
        yield Event(
            type=type_ if isinstance(type_, str) and type_ else "unknown",
            data=call,
            id=_identity(call),
            at=instant_ns(call.get("originalTimestamp")) if at is None else at,
        )


def _identity(call: dict[str, Any]) -> str:
    """The call's `messageId`; where a mapping left it out, a hash of all that the call says."""
    found = call.get("messageId")
    if isinstance(found, (str, int)) and found != "":
        return str(found)
    return f"sha256:{hashlib.sha256(_sorted_json.encode(call)).hexdigest()}"


vendor = Vendor(
    title="Segment",
    family="generic",
    docs="https://www.twilio.com/docs/segment/connections/destinations/catalog/actions-webhook",
    verify=_verifier,
    events=read,
    tables=tuple(TABLES.values()),
    settings={
        "batches": Setting(
            help="Accept batches, although Segment signs only the first event of one.", default=False
        )
    },
    setup=(
        "Catalog → Webhooks (Actions): a destination; a shared secret of your own there is the source's secret.",
        "A mapping with the action Send: this URL, method POST, data as it stands (`$.`), batch size 0.",
    ),
    deletes="There are none: a call never changes.",
    limits=(
        "with `batches` on, only the first event of a batch is proved; the others are whatever the request says",
        "traits are those that a call names, so that a user's present state is not a row",
        "a call without `messageId` is told by its content: two that are alike in all are one",
    ),
    proof="vector: segment.one, segment.batch",
)


def _call(table: Table) -> Mapper:
    def map_call(event: Event) -> Iterator[Record]:
        yield table.row({**event.data, "messageId": event.id}, at=event.at)

    return map_call


for _type, _table in TABLES.items():
    vendor.maps(_type)(_call(_table))


# --- samples ------------------------------------------------------------------------------------------

_OWN: Final[dict[str, dict[str, Any]]] = {
    "track": {
        "event": "Order Completed",
        "properties": {"order_id": "7001", "revenue": "39.95", "currency": "EUR"},
    },
    "identify": {"traits": {"email": "ida@mail.example", "plan": "pro", "logins": 7}},
    "page": {"name": "Pricing", "category": "Docs", "properties": {"path": "/pricing", "title": "Preise"}},
    "screen": {"name": "Cart", "properties": {"items": 3}},
    "group": {"groupId": "g-17", "traits": {"name": "Nordlicht GmbH", "employees": 42}},
    "alias": {"previousId": "anon-17"},
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        at = f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}.250Z"
        page = {"path": "/pricing", "url": "https://imkerei.example/pricing", "referrer": ""}
        return Sample({
            "type": type_, "messageId": f"ajs-next-{now}-{type_}-{n:012d}", "userId": f"user-{n}",
            "anonymousId": f"00000000-0000-4000-8000-{n % 16**12:012x}", "channel": "client", **_OWN[type_],
            "context": {"ip": "192.0.2.7", "locale": "de-DE", "page": page, "library": {"name": "analytics.js"}},
            "integrations": {}, "timestamp": at, "originalTimestamp": at, "sentAt": at, "receivedAt": at,
        })  # fmt: skip

    return sample


for _type in TABLES:
    vendor.sample(_type)(_sample_of(_type))
