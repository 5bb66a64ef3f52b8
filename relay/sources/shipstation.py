"""ShipStation: notices of orders, shipments, labels, fulfillments and batches, and tracking with its scans.

All but tracking are thin: `resource_url` says where to fetch what happened, and with an API key it is fetched.
Only a path and a query of known forms are taken of that address, never its host: whoever can send could name any.

V2 signs with RSA-SHA256 over the timestamp, a dot and the body. The keys are the same for all customers, so the
signature says that ShipStation sent it, not on whose account: a token of your own in the address says that.
V1 signs nothing, and there the token is all.
https://docs.shipstation.com/apis/docs/guides/webhooks-validation
https://docs.shipstation.com/apis/docs/guides/webhooks-schemas
https://docs.shipstation.com/apis/shipstation-v1/docs/models/webhook
What is fetched: https://docs.shipstation.com/openapi and https://www.shipstation.com/docs/api/ (V1)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from relay.errors import ConfigInvalid, Unauthenticated
from relay.publickeys import RSA, Ring, Signed, parted
from relay.records import Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Timestamp, Token, Verifier, same
from relay.source import FETCHED, Fetch, Sample, Setting, Vendor, api, field, table

_TOKEN: Final = "token"  # noqa: S105 - the name of a query field
_TRACKING: Final = frozenset({"TRACK_EVENT_V2", "API_TRACK"})
_LABEL: Final = re.compile(r"/labels/([\w-]{1,64})/track")
_CLOCK: Final = "the latest scan's occurred_at, then the number of scans"
_V1_CLOCK: Final = "modifyDate, else voidDate or createDate, in Pacific time"
_V2_CLOCK: Final = "the latest of its own times but those of shipping"

# fmt: off
NOTICES = table(
    "notices", "resource_type resource_url", "the delivery's receipt",
    text="resource_type resource_url", id="batch_id", json="query",
)
TRACKING = table(
    "tracking", "carrier_code tracking_number", _CLOCK,
    text="carrier_code tracking_number tracking_url status_code status_description status_detail_code "
    "status_detail_description carrier_detail_code carrier_status_code carrier_status_description "
    "exception_description label_id", id="carrier_id",
    instant="ship_date estimated_delivery_date actual_delivery_date",
)
TRACKING_EVENTS = table(
    "tracking_events", "carrier_code tracking_number position", _CLOCK, "carrier_code tracking_number",
    text="carrier_code tracking_number description city_locality state_province postal_code country_code "
    "company_name signer event_code carrier_detail_code status_code status_description status_detail_code "
    "status_detail_description carrier_status_code carrier_status_description",
    int="position", instant="occurred_at carrier_occurred_at", number="latitude longitude",
)
ORDERS = table(
    "orders", "orderId", _V1_CLOCK,
    id="orderId customerId", text="orderNumber orderKey orderStatus customerUsername customerEmail customerNotes "
    "internalNotes paymentMethod carrierCode serviceCode packageCode confirmation requestedShippingService "
    "orderDate createDate modifyDate paymentDate shipByDate shipDate holdUntilDate externallyFulfilledBy",
    money="orderTotal amountPaid taxAmount shippingAmount", bool="gift externallyFulfilled",
    json="billTo shipTo weight dimensions insuranceOptions internationalOptions advancedOptions tagIds",
)
ORDER_ITEMS = table(
    "order_items", "orderId orderItemId", "the order's", "orderId",
    id="orderId orderItemId productId", text="lineItemKey sku name imageUrl upc fulfillmentSku warehouseLocation "
    "createDate modifyDate", int="quantity", money="unitPrice taxAmount shippingAmount", bool="adjustment",
    json="options weight",
)
V1_SHIPMENTS = table(
    "v1_shipments", "shipmentId", _V1_CLOCK,
    id="shipmentId orderId userId batchNumber", money="shipmentCost insuranceCost",
    text="orderKey orderNumber customerEmail trackingNumber carrierCode serviceCode packageCode confirmation "
    "createDate shipDate voidDate",
    bool="isReturnLabel voided marketplaceNotified", json="shipTo shipmentItems weight dimensions advancedOptions",
)
V1_FULFILLMENTS = table(
    "v1_fulfillments", "fulfillmentId", _V1_CLOCK,
    id="fulfillmentId orderId", text="orderNumber trackingNumber carrierCode fulfillmentProviderCode createDate "
    "shipDate voidDate deliveryDate", money="fulfillmentFee", bool="voided", json="shipTo",
)
SHIPMENTS = table(
    "shipments", "shipment_id", _V2_CLOCK,
    text="shipment_id external_shipment_id shipment_number external_order_id carrier_id service_code "
    "shipment_status warehouse_id store_id sales_order_id", instant="created_at modified_at ship_date",
    bool="is_return", json="ship_to ship_from return_to items packages tags total_weight amount_paid tax_paid",
)
LABELS = table(
    "labels", "label_id", _V2_CLOCK,
    text="label_id shipment_id status tracking_number tracking_status carrier_id carrier_code service_code "
    "package_code batch_id label_format rma_number", instant="created_at ship_date voided_at",
    bool="voided is_return_label is_international trackable",
    json="shipment_cost insurance_cost label_download packages",
)
FULFILLMENTS = table(
    "fulfillments", "fulfillment_id", _V2_CLOCK,
    text="fulfillment_id shipment_id shipment_number tracking_number fulfillment_carrier_friendly_name "
    "fulfillment_provider_code order_source_id",
    instant="created_at shipped_at modified_at voided_at delivered_at", bool="voided void_requested",
    json="ship_to fulfillment_fee",
)
BATCHES = table(
    "batches", "batch_id", _V2_CLOCK,
    text="batch_id external_batch_id status batch_notes", instant="created_at processed_at completed_at",
    int="errors warnings forms completed count", json="label_download form_download",
)
# fmt: on
#: By version of the API and the last fixed part of the path: what it lists.
_WHOLE: Final[Mapping[str, Mapping[str, Table]]] = {
    "v1": {"orders": ORDERS, "shipments": V1_SHIPMENTS, "fulfillments": V1_FULFILLMENTS},
    "v2": {"shipments": SHIPMENTS, "labels": LABELS, "fulfillments": FULFILLMENTS, "batches": BATCHES},
}
#: The times of an object, of which the latest is its clock; that of shipping may lie in the future.
_TIMES: Final = (
    *("modifyDate", "voidDate", "createDate"),
    *("modified_at", "voided_at", "completed_at", "processed_at", "created_at"),
)
_BASES: Final = {"v1": "https://ssapi.shipstation.com", "v2": "https://api.shipstation.com"}
_PATH: Final = re.compile(r"(/v2)?/([a-z]{1,20})(?:/([A-Za-z0-9-]{1,64}))?")
#: What a query may say, and which of it must be there: else all that there is would be listed.
_QUERY: Final = frozenset({"storeID", "includeItems", "includeShipmentItems"})
_NAMING: Final = frozenset({"importBatch", "batchId", "label_id", "shipment_id", "fulfillment_id", "batch_id"})
_VALUE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SignedForUs:
    """ShipStation's signature, and a token of ours in the address: the secret begins with it.

    Args:
        keys: of the setting `jwks`.
    """

    def __init__(self, keys: Any) -> None:
        ring = Ring(RSA, setting="jwks", keys=keys, named=("the token of the address", "t0ken-of-the-address"))
        self.token = Token(query=_TOKEN)
        self.signed = Signed(
            "X-ShipEngine-RSA-SHA256-Signature",
            ring=ring,
            message="{timestamp}.{body}",
            timestamp=Timestamp("X-ShipEngine-Timestamp", unit="iso"),
            key_id_header="X-ShipEngine-RSA-SHA256-Key-ID",
        )
        self.scheme, self.test_secret = f"{self.signed.scheme}, and {self.token.scheme}", ring.test_secret

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        given = request.query.get(_TOKEN, "")
        ours = tuple(secret for secret in secrets if same(parted(secret)[0], given))
        self.token.verify(request, tuple(parted(secret)[0] for secret in secrets), now)
        self.signed.verify(request, ours, now)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`; needs a private key behind the token."""
        name = parted(secret)[0]
        if not name:
            raise Unauthenticated("the secret does not begin with a token", reason="secret_malformed")
        return self.signed.sign(self.token.sign(request, name, now), secret, now)


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The scheme of the API by which the webhook was made.

    Raises:
        ConfigInvalid: there is no such API.
    """
    if settings["api"] == "v1":
        return Token(query=_TOKEN)
    if settings["api"] != "v2":
        raise ConfigInvalid(f"api is v2 or v1, not {settings['api']!r}")
    return SignedForUs(settings["jwks"])


vendor = Vendor(
    title="ShipStation",
    family="carts",
    docs="https://docs.shipstation.com/apis/docs/guides/webhooks-validation",
    verify=verifier,
    type=field("resource_type"),
    tables=(
        *(NOTICES, TRACKING, TRACKING_EVENTS, SHIPMENTS, LABELS, FULFILLMENTS, BATCHES),
        *(ORDERS, ORDER_ITEMS, V1_SHIPMENTS, V1_FULFILLMENTS),
    ),
    settings={
        **api("", 0.6),
        "api_key": Setting("An API key; with it what a notice names is fetched.", secret=True),
        "api_secret": Setting("The key's secret: V1 alone has one, and nothing is fetched without.", secret=True),
        "api": Setting(
            help="`v2`: signed, by webhooks made with API V2 or in the app for events of V2. `v1`: not signed.",
            default="v2",
        ),
        "jwks": Setting(
            help="ShipStation's keys, the whole text at https://api.shipengine.com/jwks. Without them a source of "
            "`v2` refuses all; when ShipStation changes its keys, fetch them anew."
        ),
    },
    setup=(
        "Think of a token, long and random: that is the secret.",
        "Settings → Account → API Settings → Webhooks: this URL with ?token=<the token> behind it.",
        "`jwks`: ShipStation's keys, see there. For webhooks of API V1: `api: v1`.",
    ),
    deletes="There are none; a cancellation is not told at all.",
    limits=(
        "a notice names where to fetch what happened, which `api_key` does; only tracking carries what it tells",
        "of a list that is longer than a page (500 in V1, 25 in V2) the first page is fetched",
        "V1 writes times without a zone, in Pacific time: they are text",
        "deliveries have no id: the same body again within minutes counts once",
        "the token stands in the address, which proxies may write down",
    ),
    proof="documented: RSA-SHA256 of timestamp, dot and body, by the page on validation; V1 is a token of yours",
)


def _place(url: Any) -> tuple[str, str, str] | None:
    """What a `resource_url` names: the API's version, what it lists, and where, without the host."""
    if not isinstance(url, str) or not url.isprintable() or "#" in url:  # what urlsplit would take away
        return None
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        return None
    found = _PATH.fullmatch(parts.path)
    if found is None or not all(name in _QUERY | _NAMING and _VALUE.fullmatch(value) for name, value in pairs):
        return None
    version = "v2" if found[1] else "v1"
    named = found[3] or any(name in _NAMING for name, _ in pairs)
    if found[2] not in _WHOLE[version] or not named:
        return None
    pairs += [("pageSize", "500")] if version == "v1" and not found[3] else []
    return version, found[2], f"{parts.path}?{urlencode(pairs)}" if pairs else parts.path


@vendor.hydrates("*", token="api_key", hosts=("api.shipstation.com", "ssapi.shipstation.com"))  # noqa: S106 - a name
def whole(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """What a notice names, of the API of which the settings have the key."""
    place, key, secret = _place(event.data["resource_url"]), settings["api_key"], settings.get("api_secret")
    if (
        event.type in _TRACKING
        or place is None
        or place[0] != settings["api"]
        or (place[0] == "v1" and not secret)
    ):
        return None
    basic = base64.b64encode(f"{key}:{secret}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"} if place[0] == "v1" else {"api-key": str(key)}
    return Fetch(f"{settings['api_url'] or _BASES[place[0]]}{place[2]}", headers)


@vendor.maps("*")
def notice(event: Event) -> Iterator[Record]:
    """The notice, and what it names where that was fetched; or what tracking says.

    Raises:
        KeyError: there is no `resource_url`, or no `tracking_number` where there must be one.
    """
    data = event.data.get("data")
    if event.type in _TRACKING and isinstance(data, dict):
        yield from _tracking(data, event.data.get("resource_url"))
        return
    url = event.data["resource_url"]
    if not url:
        raise KeyError("resource_url")
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    yield NOTICES.row({**{n: v for n, v in event.data.items() if n != FETCHED}, "query": query})
    found, place = event.data.get(FETCHED), _place(url)
    if isinstance(found, dict) and place is not None:
        version, name, _ = place
        into, listed = _WHOLE[version][name], found.get(name)
        alone = [found] if found.get(into.key[0]) else []
        for one in listed if isinstance(listed, list) else alone:
            yield from _fetched(into, one)


def _fetched(into: Table, found: dict[str, Any]) -> Iterator[Record]:
    """One object as the API has it, with the items of an order."""
    at = max((ns for name in _TIMES if (ns := instant_ns(found.get(name))) is not None), default=None)
    if at is None or not found[into.key[0]]:
        raise KeyError(into.key[0] if at is not None else into.clock)
    items = found.get("items") if into is ORDERS else None
    yield into.row({name: value for name, value in found.items() if name != "items" or into is not ORDERS}, at=at)
    if isinstance(items, list) and items:
        members = {item["orderItemId"]: item for item in items}
        yield ORDER_ITEMS.children({"orderId": found["orderId"]}, members.values(), at=at)


def _tracking(data: dict[str, Any], url: Any) -> Iterator[Record]:
    """A parcel and its scans: each delivery repeats all of them, the newest first."""
    number, carrier = data["tracking_number"], data.get("carrier_code") or ""
    if not number:
        raise KeyError("tracking_number")
    scans = data.get("events")
    listed = scans if isinstance(scans, list) else []
    # No scan yet is the earliest that can be told; a receipt's time would be later than the first scan's.
    at = max((instant_ns(scan.get("occurred_at")) or 0 for scan in listed), default=0)
    key = {"carrier_code": carrier, "tracking_number": number}
    label = _LABEL.search(url) if isinstance(url, str) else None
    row = {name: value for name, value in data.items() if name != "events"}
    row |= {**key, "label_id": label[1] if label else None}
    yield TRACKING.row(row, at=at, sequence=len(listed))
    if isinstance(scans, list):
        # Two scans may be equal in all they say, so they are told by their place, counted from the oldest.
        members = [{**scan, "position": len(listed) - i} for i, scan in enumerate(listed)]
        yield TRACKING_EVENTS.children(key, members, at=at, sequence=len(listed))


# --- samples ------------------------------------------------------------------------------------------

#: Type -> the address of what it is about, less the host.
_NOTICES: Final[Mapping[str, str]] = {
    "ORDER_NOTIFY": "ssapi.shipstation.com/orders?storeID=7001&importBatch=b{n}",
    "ITEM_ORDER_NOTIFY": "ssapi.shipstation.com/orders?storeID=7001&importBatch=b{n}&includeItems=True",
    "SHIP_NOTIFY": "ssapi.shipstation.com/shipments?batchId={n}&includeShipmentItems=False",
    "ITEM_SHIP_NOTIFY": "ssapi.shipstation.com/shipments?batchId={n}&includeShipmentItems=True",
    "LABEL_CREATED_V2": "api.shipstation.com/v2/labels?label_id=se-{n}",
    "SHIPMENT_CREATED_V2": "api.shipstation.com/v2/shipments?shipment_id=se-{n}",
    "FULFILLMENT_SHIPPED_V2": "api.shipstation.com/v2/fulfillments?fulfillment_id=se-{n}&shipment_id=se-9{n}",
    "BATCH_PROCESSED_V2": "api.shipstation.com/v2/batches/se-{n}",
}


def _sample_of(type_: str) -> Any:
    def sample(n: int, _now: int) -> Sample:
        return Sample({"resource_url": f"https://{_NOTICES[type_].format(n=n)}", "resource_type": type_})

    return sample


for _type in _NOTICES:
    vendor.sample(_type)(_sample_of(_type))


@vendor.sample("TRACK_EVENT_V2")
def tracking_sample(n: int, now: int) -> Sample:
    """A parcel that is on its way, with two scans."""
    places = (("IT", "Hamburg"), ("AC", "Köln"))
    scans = [
        {
            "occurred_at": f"{instant_of_ns(now - i * 3600 * 10**9):%Y-%m-%dT%H:%M:%SZ}",
            "description": "Arrived at facility" if i == 0 else "Picked up",
            "city_locality": city,
            "country_code": "DE",
            "status_code": code,
            "event_code": f"E{i}",
        }
        for i, (code, city) in enumerate(places)
    ]
    data = {
        "tracking_number": f"1Z999AA1{n:010d}",
        "carrier_code": "ups",
        "carrier_id": 3,
        "status_code": "IT",
        "status_description": "In Transit",
        "estimated_delivery_date": None,
        "events": scans,
    }
    url = f"https://api.shipstation.com/v2/labels/se-{n}/track"
    return Sample({"resource_url": url, "resource_type": "TRACK_EVENT_V2", "data": data})
