"""Ecwid: that orders, carts, products, customers and more are made, changed and deleted; they have to be fetched.

https://docs.ecwid.com/webhook-automations/learn-ecwid-webhooks/event-data-in-webhooks
https://api-docs.ecwid.com/reference/webhooks-structure
What is fetched: https://docs.ecwid.com/api-reference/rest-api/orders/get-order, products and customers beside it.

The signature covers `eventCreated` and `eventId` alone: whoever saw one delivery can say anything else under it.
So only what belongs to the one store of the settings' token is fetched, under ids of the form that Ecwid gives.
An app has one secret and may serve several stores at one address, so the store is part of each key. Of orders
`orderId` is the id that Ecwid means, and `entityId` an inner number; older stores know the latter alone, and of a
cart that is not finished it may be -1, which names nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import Unauthenticated
from relay.records import NS, Event, Record, Request, instant_ns
from relay.signatures import key_bytes, same, with_headers
from relay.source import FETCHED, Fetch, Reply, Sample, Setting, Vendor, api, field, table

_CLOCK: Final = "eventCreated, in seconds, then what happened"
_HEADER: Final = "x-ecwid-webhook-signature"
_NOTHING: Final = (None, "", -1, "-1")
_RANKS: Final = {"created": 0, "installed": 0, "uninstalled": 2, "deleted": 3}
_UPDATED: Final = 1
#: At one second a fetched object says more than an event says of it.
_FETCHED: Final = 10
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_ORDER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DATE: Final = re.compile(r"\A([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9:]{8}) ([+-][0-9]{4})\Z")

# fmt: off
EVENTS = table(
    "events", "eventId", "eventCreated: each is written once",
    id="eventId storeId entityId", text="eventType", instant="eventCreated", json="data",
)
ORDERS = table(
    "orders", "storeId orderId", f"{_CLOCK}; a fetched one's updateTimestamp",
    id="storeId orderId entityId eventId internalId orderNumber customerId",
    instant="eventCreated createDate updateDate createTimestamp updateTimestamp",
    text="eventType oldPaymentStatus newPaymentStatus oldFulfillmentStatus newFulfillmentStatus vendorOrderNumber "
    "email paymentStatus fulfillmentStatus paymentMethod trackingNumber orderComments privateAdminNotes ipAddress "
    "globalReferer refererUrl",
    money="subtotal total tax refundedAmount discount couponDiscount volumeDiscount usdTotal totalWithoutTax",
    bool="acceptMarketing customerTaxExempt hidden",
    json="billingPerson shippingPerson shippingOption discountInfo handlingFee refunds additionalInfo",
)
ORDER_ITEMS = table(
    "order_items", "storeId orderId id", "the order's updateTimestamp", "storeId orderId",
    id="storeId orderId id productId categoryId combinationId", text="name sku", int="quantity",
    money="price productPrice tax shipping couponAmount discount", number="weight", bool="digital",
    json="selectedOptions taxes discounts dimensions files",
)
PRODUCTS = table(
    "products", "storeId id", "updateTimestamp, in seconds; a deletion's eventCreated",
    id="storeId id defaultCategoryId", text="name sku description url imageUrl", int="quantity warningLimit",
    money="price compareToPrice costPrice", number="weight", bool="unlimited inStock enabled isShippingRequired",
    instant="created updated createTimestamp updateTimestamp",
    json="categoryIds options attributes combinations tax media nameTranslated",
)
CUSTOMERS = table(
    "customers", "storeId id", "updated, in seconds; a deletion's eventCreated",
    id="storeId id customerGroupId", text="email name customerGroupName taxId lang privateAdminNotes b2b_b2c",
    bool="taxExempt taxIdValid acceptMarketing", instant="registered updated",
    json="billingPerson shippingAddresses contacts stats",
)
UNFINISHED_ORDERS = table(
    "unfinished_orders", "storeId orderId", _CLOCK,
    id="storeId orderId entityId eventId", text="cartId eventType", instant="eventCreated",
)
ENTITIES = table(
    "entities", "storeId entity entityId", _CLOCK,
    id="storeId entityId eventId", text="entity eventType", instant="eventCreated", json="data",
)
# fmt: on
#: By the first word of a type: where the whole of it is, and which of its times is its clock.
_WHOLE: Final = {
    "order": ("orders", _ORDER, "updateTimestamp"),
    "product": ("products", _NUMBER, "updateTimestamp"),
    "customer": ("customers", _NUMBER, "updated"),
}
_TABLES: Final = {"product": PRODUCTS, "customer": CUSTOMERS}


class _Signed(msgspec.Struct, frozen=True):
    created: str | int = msgspec.field(default="", name="eventCreated")
    id: str | int = msgspec.field(default="", name="eventId")


# Reads what is signed and steps over the rest: whoever has no secret must not make us build the whole body.
_only: Final = msgspec.json.Decoder(_Signed).decode


class EcwidSignature:
    """A keyed hash over the event's time and id, not over what else the body says."""

    scheme = "hmac-sha256 base64 of the body's eventCreated, a dot and its eventId"
    covers_body = False

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        given = request.headers.get(_HEADER, "")
        if not given:
            raise Unauthenticated(f"no {_HEADER} header", reason="signature_missing")
        message = _signed(request.body)
        fits = False
        for secret in secrets:
            fits |= same(_digest(secret, message), given)
        if not fits:
            raise Unauthenticated("no secret fits the signature", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        return with_headers(request, {_HEADER: _digest(secret, _signed(request.body))})


def _signed(body: bytes) -> str:
    try:
        told = _only(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = _Signed()
    if told.created == "" or told.id == "":
        raise Unauthenticated("no eventCreated and eventId in the body", reason="body_malformed")
    return f"{told.created}.{told.id}"


def _digest(secret: str, message: str) -> str:
    made = hmac.new(key_bytes(secret, "utf8"), message.encode("utf-8", "replace"), hashlib.sha256)
    return base64.b64encode(made.digest()).decode()


vendor = Vendor(
    title="Ecwid",
    family="carts",
    docs="https://docs.ecwid.com/webhook-automations/learn-ecwid-webhooks",
    verify=EcwidSignature(),
    type=field("eventType"),
    id=field("eventId"),
    at=field("eventCreated"),
    tables=(EVENTS, ORDERS, ORDER_ITEMS, UNFINISHED_ORDERS, PRODUCTS, CUSTOMERS, ENTITIES),
    # Anything but 200 is tried again.
    reply=Reply(),
    settings={
        **api("https://app.ecwid.com"),
        "api_token": Setting(
            "A secret token of an app with read_orders, read_catalog and read_customers; with it and `store_id` "
            "orders, products and customers are fetched.",
            secret=True,
        ),
        "store_id": Setting("The one store whose token that is."),
    },
    setup=(
        "The app's settings in Ecwid → Webhooks: this URL and the events that you want.",
        "The secret: the app's client secret.",
    ),
    deletes="`*.deleted` says the id alone: the row is marked deleted and keeps what it held.",
    limits=(
        "the signature covers the event's id and time alone: whoever saw one delivery can send others under it",
        "an event names the object alone; `api_token` and `store_id` fetch orders, products and customers",
        "a cart that is not finished and has no order id is a row of `events` alone",
        "times are whole seconds: two changes within one are ordered by what they are, then by arrival",
    ),
    proof="documented: eventCreated, a dot and eventId, by Ecwid's description of webhooks",
)


def _about(event: Event) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """An event's envelope, what it says besides, and the version of whatever it is about."""
    data, action = event.data, event.type.rpartition(".")[2]
    envelope = {name: data.get(name) for name in ("storeId", "entityId", "eventId", "eventType", "eventCreated")}
    told = data.get("data")
    order = {"at": instant_ns(data.get("eventCreated")), "rank": _RANKS.get(action, _UPDATED)}
    return envelope, told if isinstance(told, dict) else {}, order


@vendor.hydrates("order.*", "product.*", "customer.*", token="api_token", hosts=("app.ecwid.com",))  # noqa: S106
def whole(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The order, product or customer that an event names, if it is of our store."""
    kind, _, action = event.type.partition(".")
    path, form, _ = _WHOLE[kind]
    store, identity = str(settings.get("store_id") or ""), _named(event)
    ours = _NUMBER.fullmatch(store) and store == str(event.data["storeId"]) and action != "deleted"
    if not ours or not isinstance(identity, (str, int)) or identity is True or not form.fullmatch(str(identity)):
        return None
    headers = {"Authorization": f"Bearer {settings['api_token']}"}
    return Fetch(f"{settings['api_url']}/api/v3/{store}/{path}/{identity}", headers)


def _named(event: Event) -> Any:
    """The id of what an event is about, None where it names nothing."""
    told = event.data.get("data") if event.type.startswith(("order.", "unfinished_order.")) else None
    order_id = told.get("orderId") if isinstance(told, dict) else None
    return next((i for i in (order_id, event.data.get("entityId")) if i not in _NOTHING), None)


def _fetched(event: Event, identity: Any) -> tuple[dict[str, Any], int] | None:
    """What was fetched and when it changed last, its times written as others write them."""
    found = event.data.get(FETCHED)
    if not isinstance(found, dict):
        return None
    if str(identity) not in {str(found.get(name)) for name in ("id", "internalId", "orderNumber")}:
        return None
    row = {name: _DATE.sub(r"\1T\2\3", v) if isinstance(v, str) else v for name, v in found.items()}
    at = instant_ns(row[_WHOLE[event.type.partition(".")[0]][2]])
    if at is None:
        raise KeyError("updated")
    return row, at


def _event_row(event: Event) -> Record:
    if event.data["eventId"] in _NOTHING:
        raise KeyError("eventId")
    return EVENTS.row({name: value for name, value in event.data.items() if name != FETCHED}, at=event.at)


@vendor.maps("order.*", "unfinished_order.*")
def order(event: Event) -> Iterator[Record]:
    """What was last said of an order, or of a cart that is not finished; all of an order where it was fetched."""
    yield _event_row(event)
    envelope, told, version = _about(event)
    identity = _named(event)
    if identity is None:
        return
    key = {"storeId": event.data["storeId"], "orderId": identity}
    finished = event.type.startswith("order.")
    rows = ORDERS if finished else UNFINISHED_ORDERS
    found = _fetched(event, identity) if finished else None
    if event.type.endswith(".deleted"):
        yield rows.gone(key, at=version["at"])
        if finished:
            yield ORDER_ITEMS.children(key, [], at=version["at"], rank=99)
    elif found is not None:
        row, at = found
        items = {item["id"]: item for item in row.pop("items", None) or ()}
        del row["id"]
        yield ORDERS.row({**row, **envelope, **key}, at=at, rank=_FETCHED)
        yield ORDER_ITEMS.children(key, items.values(), at=at, rank=_FETCHED)
    else:
        columns = {name: value for name, value in told.items() if name in rows.columns}
        yield rows.row({**columns, **envelope, **key}, **version)


@vendor.maps(
    *("product.*", "category.*", "customer.*", "customer_group.*", "review.*", "discount_coupon.*"),
    *("promotion.*", "invoice.*", "application.*", "profile.*"),
)
def entity(event: Event) -> Iterator[Record]:
    """What was last said of anything else; ids of two kinds may be the same."""
    yield _event_row(event)
    envelope, told, version = _about(event)
    if envelope["entityId"] in _NOTHING:
        return
    kind = event.type.partition(".")[0]
    key = {"storeId": event.data["storeId"], "entity": kind, "entityId": envelope["entityId"]}
    own = {"storeId": key["storeId"], "id": key["entityId"]}
    if event.type.endswith(".deleted"):
        yield ENTITIES.gone(key, at=version["at"])
        if kind in _TABLES:
            yield _TABLES[kind].gone(own, at=version["at"])
        return
    yield ENTITIES.row({**envelope, **key, "data": told or None}, **version)
    found = _fetched(event, key["entityId"]) if kind in _TABLES else None
    if found is not None:
        yield _TABLES[kind].row({**found[0], **own}, at=found[1], rank=_FETCHED)


# --- samples ------------------------------------------------------------------------------------------


def _sample_of(type_: str, told: Callable[[int], dict[str, Any]]) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        at, more = now // NS, told(n)
        body = {
            "eventId": f"{n:032x}-{type_}",
            "eventCreated": at,
            "storeId": 1003 + n % 5,
            "entityId": 66_000_000 + n,
        }
        return Sample({**body, "eventType": type_, **({"data": more} if more else {})})

    return sample


def _status(n: int) -> dict[str, str]:
    return {"orderId": f"XJ{n:X}H", "newPaymentStatus": "PAID", "newFulfillmentStatus": "SHIPPED"}


for _type in ("order.created", "order.updated", "order.deleted"):
    vendor.sample(_type)(_sample_of(_type, _status))
for _type in ("unfinished_order.created", "unfinished_order.deleted"):
    vendor.sample(_type)(_sample_of(_type, lambda n: {"orderId": f"RA{n:X}D", "cartId": f"{n:032X}"}))
for _type in (
    *("product.created", "product.deleted", "category.updated", "customer.created", "customer_group.created"),
    *("review.created", "discount_coupon.created", "promotion.created", "invoice.created"),
    *("application.installed", "profile.updated"),
):
    vendor.sample(_type)(_sample_of(_type, lambda _n: {}))
