"""BigCommerce: thin events of a store, of which each names what changed and how, and has to be fetched.

https://developer.bigcommerce.com/docs/integrations/webhooks and
https://developer.bigcommerce.com/docs/integrations/webhooks/events
What is fetched: https://developer.bigcommerce.com/docs/rest-management/orders (V2), and of V3 /catalog/products,
/customers and /carts beside it.

Hooks of an app are signed as Standard Webhooks are, with the text of the app's client secret as the key. Those of
a store-level API account have no client secret that signs; such a hook carries a header of its owner's choice, set
when the hook is created. An app has one address for all its stores, so the store is a part of each key.

`hash` is made of the payload alone, so an order that changes twice has the same one twice: it identifies an event
only together with the scope and the second. Where there is a `webhook-id`, that is the better one.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid
from relay.records import NS, Event, Record, Request, Table, instant_ns
from relay.signatures import Hmac, Timestamp, Token, Verifier
from relay.source import FETCHED, Fetch, Reply, Sample, Setting, Vendor, api, field, table

_CLOCK: Final = "created_at, in seconds, else the delivery's receipt"
_MODIFIED: Final = "date_modified, in seconds; a deletion's created_at"

# fmt: off
#: What is known of each thing in a store: when it last changed, and how.
RESOURCES = table(
    "resources", "producer resource id", _CLOCK,
    text="producer resource type scope hash", id="id store_id channel_id", instant="created_at",
)
#: Each event as it was, since many say something that is true of that event alone.
EVENTS = table(
    "events", "producer event_id", _CLOCK,
    text="producer event_id resource scope type hash cartId token currency locale method transaction_status "
    "transaction_type resource_type namespace message error_code",
    id="id store_id channel_id resource_id customer_id order_id orderId couponId product_id variant_id "
    "metafield_id order_message_id price_list_id customer_group_id refund_id transaction_id",
    int="new_status_id previous_status_id", number="value", instant="created_at", json="data",
)
#: Stock that an event gives as a whole; `variant_id` is 0 where the product itself is counted.
INVENTORY = table(
    "inventory", "producer product_id variant_id", _CLOCK,
    text="producer method scope type", id="product_id variant_id id store_id", number="value",
    instant="created_at",
)
ORDERS = table(
    "orders", "producer id", _MODIFIED,
    text="producer status custom_status cart_id currency_code default_currency_code store_default_currency_code "
    "payment_method payment_status payment_provider_id order_source external_source external_id external_order_id "
    "customer_message staff_notes customer_locale geoip_country geoip_country_iso2 ip_address tax_provider_id",
    id="id customer_id channel_id status_id", int="items_total items_shipped shipping_address_count",
    money="subtotal_ex_tax subtotal_inc_tax subtotal_tax total_ex_tax total_inc_tax total_tax discount_amount "
    "coupon_discount refunded_amount store_credit_amount gift_certificate_amount base_shipping_cost "
    "shipping_cost_ex_tax shipping_cost_inc_tax handling_cost_inc_tax wrapping_cost_inc_tax",
    number="currency_exchange_rate", bool="is_deleted order_is_digital is_email_opt_in",
    instant="date_created date_modified date_shipped", json="billing_address consignments fees",
)
ORDER_LINES = table(
    "order_lines", "producer order_id id", "the order's date_modified", "producer order_id",
    text="producer name sku upc type brand", id="order_id id product_id variant_id order_address_id",
    int="quantity quantity_shipped quantity_refunded", bool="is_refunded is_bundled_product", number="weight",
    money="base_price price_ex_tax price_inc_tax price_tax base_total total_ex_tax total_inc_tax total_tax "
    "cost_price_inc_tax refund_amount discounted_total_inc_tax",
    json="product_options applied_discounts configurable_fields",
)
PRODUCTS = table(
    "products", "producer id", _MODIFIED,
    text="producer name type sku description availability inventory_tracking condition upc mpn gtin page_title",
    id="id brand_id tax_class_id", int="inventory_level inventory_warning_level total_sold view_count sort_order",
    money="price cost_price retail_price sale_price map_price calculated_price fixed_cost_shipping_price",
    number="weight width depth height", bool="is_visible is_featured is_free_shipping is_price_hidden",
    instant="date_created date_modified preorder_release_date", json="categories custom_url custom_fields images",
)
VARIANTS = table(
    "product_variants", "producer product_id id", "the product's date_modified", "producer product_id",
    text="producer sku upc mpn gtin image_url", id="product_id id sku_id", int="inventory_level",
    money="price cost_price retail_price sale_price map_price calculated_price", number="weight",
    bool="purchasing_disabled is_free_shipping", json="option_values",
)
CUSTOMERS = table(
    "customers", "producer id", _MODIFIED,
    text="producer email first_name last_name company phone notes tax_exempt_category registration_ip_address",
    id="id customer_group_id origin_channel_id", int="address_count attribute_count",
    bool="accepts_product_review_abandoned_cart_emails", instant="date_created date_modified",
    json="addresses attributes form_fields store_credit_amounts channel_ids",
)
CARTS = table(
    "carts", "producer id", "updated_time",
    text="producer email locale", id="id customer_id channel_id", bool="tax_included",
    money="base_amount discount_amount cart_amount", instant="created_time updated_time",
    json="currency coupons discounts line_items",
)
# fmt: on
#: Names of a delivery's payload that are columns of `events`; those of the envelope come from there alone.
_ENVELOPE: Final = frozenset(
    ("producer", "event_id", "resource", "scope", "hash", "store_id", "created_at", "data", "channel_id")
)
_PAYLOAD: Final = frozenset(EVENTS.columns) - _ENVELOPE
_CHANNEL: Final = re.compile(r"channel/([0-9]+)/(.+)")
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
_STORE: Final = re.compile(r"stores/([A-Za-z0-9]{1,40})")
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
#: By what changed: what its id looks like, where the whole of it is, and in which tables that ends.
_WHOLE: Final[Mapping[str, tuple[re.Pattern[str], str, Table]]] = {
    "order": (_NUMBER, "v2/orders/{}?include=consignments.line_items,fees&consignment_structure=object", ORDERS),
    "product": (_NUMBER, "v3/catalog/products/{}?include=variants,images,custom_fields", PRODUCTS),
    "customer": (_NUMBER, "v3/customers?id:in={}&include=addresses,attributes,formfields,storecredit", CUSTOMERS),
    "cart": (_UUID, "v3/carts/{}", CARTS),
}
_PARTS: Final = {"order": (ORDER_LINES, "order_id"), "product": (VARIANTS, "product_id")}
#: A cart that was converted is an order, and can be had no more.
_NOT_THERE: Final = frozenset({"deleted", "converted"})
_RANK: Final = 10


def _verifier(settings: Mapping[str, Any]) -> Verifier:
    """The app's signature, or the header that the operator chose; a sender cannot choose.

    Raises:
        ConfigInvalid: the setting is no header's name.
    """
    name = settings["token_header"]
    if name is None or name == "":
        return Hmac(
            "webhook-signature",
            encoding="base64",
            message="{id}.{timestamp}.{body}",
            versions="v1",
            id_header="webhook-id",
            timestamp=Timestamp(header="webhook-timestamp"),
        )
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise ConfigInvalid(f"token_header is the name of a header, or empty, not {name!r}")
    return Token(header=name)


def _delivery(request: Request, data: Any) -> str:
    """The message's id, which a retry keeps; else what tells one event of a store from the next."""
    given = request.headers.get("webhook-id", "")
    if given or not isinstance(data, dict) or not data.get("hash"):
        return given
    return ":".join(str(data.get(name)) for name in ("scope", "hash", "created_at"))


vendor = Vendor(
    title="BigCommerce",
    family="carts",
    docs="https://developer.bigcommerce.com/docs/integrations/webhooks",
    verify=_verifier,
    type=field("scope"),
    id=_delivery,
    at=field("created_at"),
    tables=(RESOURCES, EVENTS, INVENTORY, ORDERS, ORDER_LINES, PRODUCTS, VARIANTS, CUSTOMERS, CARTS),
    keep_headers=("webhook-id",),
    # "the destination server must return an HTTP 200 response": the HTTPS overview at the vendor's.
    reply=Reply(),
    settings={
        **api("https://api.bigcommerce.com"),
        "api_token": Setting(
            help="The access token of an API account; with it orders, products, customers and carts are fetched.",
            secret=True,
        ),
        "store_hash": Setting(
            help="The store whose token that is, where an app has several: nothing is fetched of the others.",
            default="",
        ),
        "token_header": Setting(
            help="For hooks of a store-level API account, which nobody signs: the name of the header that you set "
            "when you created the hook; its value is the source's secret. Empty for an app's signed hooks.",
            default="",
        ),
    },
    setup=(
        "POST /stores/{store_hash}/v3/hooks for each scope: this URL as `destination`, `is_active` true.",
        "An app's hooks: the secret is the app's client secret, as text.",
        "A store-level account's hooks: in `headers` a name, which is `token_header`, and a value, the secret.",
    ),
    deletes="`*/deleted` marks the rows of what it names deleted; what was known of it stays.",
    limits=(
        "an event names what changed, and no more of it: with `api_token` the whole of it is fetched",
        "times are whole seconds: two changes within one are ordered by arrival",
        "under 90 % success in two minutes BigCommerce stops for three, for all hooks of the domain",
        "unsigned hooks have no id: two relative stock changes of one size in one second count as one",
    ),
    proof="library: standardwebhooks",
)


def _place(scope: str) -> tuple[str, str, str | None]:
    """What a scope is about, what happened to it, and on which channel: `store/order/updated` is `order`."""
    path = scope.strip("/").removeprefix("store/")
    channel = _CHANNEL.fullmatch(path)
    resource, _, action = (channel[2] if channel else path).rpartition("/")
    return resource, action, channel[1] if channel else None


def _identity(resource: str, data: Mapping[str, Any]) -> Any:
    """The id of what changed, None where an event names none or several parts of one.

    A message's or refund's event has the order's id as `id`, a customer address's its own.
    """
    if resource == "order/message":
        return data["message"]["order_message_id"]
    if resource == "order/refund":
        return data["refund"]["refund_id"]
    if resource.rpartition("/")[2] == "metafield":
        return data["metafield_id"]
    return data["price_list_id"] if resource == "priceList" else data.get("id")


@vendor.hydrates(
    *("store/order/*", "store/product/*", "store/customer/*", "store/cart/*", "store/channel/*"),
    token="api_token",  # noqa: S106 - a setting's name
    hosts=("api.bigcommerce.com",),
)
def whole(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The order, product, customer or cart that an event names."""
    resource, action, _ = _place(event.type)
    store = _STORE.fullmatch(str(event.data["producer"]))
    if resource not in _WHOLE or action in _NOT_THERE or store is None:
        return None
    if settings.get("store_hash") and str(settings["store_hash"]) != store[1]:
        return None
    form, path, _ = _WHOLE[resource]
    identity = str(event.data["data"]["id"])
    if not form.fullmatch(identity):
        return None
    url = f"{settings['api_url']}/stores/{store[1]}/{path.format(identity)}"
    return Fetch(url, {"X-Auth-Token": str(settings["api_token"])})


@vendor.maps("store/*")
def changed(event: Event) -> Iterator[Record]:
    """The event itself, what is known of the thing that it is about, and the stock where it says that.

    Where the thing itself was fetched, that as well.

    Raises:
        KeyError: the envelope or the payload lacks what identifies it.
    """
    body, scope = event.data, event.type
    resource, action, channel = _place(scope)
    envelope = {name: body.get(name) for name in ("store_id", "hash", "created_at")}
    envelope |= {"producer": _required(body, "producer"), "scope": scope, "resource": resource}
    data = body["data"]
    found = data if isinstance(data, dict) else {}
    if channel is not None:
        envelope["channel_id"] = channel
    rank = {"created": 0, "deleted": 99}.get(action, 1)
    yield EVENTS.row(
        {**_parts(found), **envelope, "event_id": _required({"hash": event.id}, "hash"), "data": data}, at=event.at
    )
    identity = _identity(resource, found)
    if resource and identity is not None and identity != "":
        key = {"producer": envelope["producer"], "resource": resource, "id": identity}
        if action == "deleted":
            yield RESOURCES.gone(key, at=event.at, rank=rank)
            if resource in _WHOLE:
                yield _WHOLE[resource][2].gone({name: key[name] for name in ("producer", "id")}, at=event.at)
            if resource in _PARTS:
                child, column = _PARTS[resource]
                yield child.children({"producer": key["producer"], column: identity}, [], at=event.at, rank=rank)
        else:
            yield RESOURCES.row({**envelope, **key, "type": found.get("type")}, at=event.at, rank=rank)
            if resource in _WHOLE:
                yield from _fetched(resource, event.data.get(FETCHED), envelope["producer"], identity)
    yield from _stock(event, found, envelope)


def _fetched(resource: str, found: Any, producer: str, identity: Any) -> Iterator[Record]:
    """What was fetched, with the lines of an order and the variants of a product.

    V3 has it under `data`, customers in a list that is empty where there is no such customer any more.
    """
    found = found.get("data", found) if isinstance(found, dict) else found
    found = next(iter(found), None) if isinstance(found, list) else found
    if not isinstance(found, dict) or str(found.get("id")) != str(identity):
        return
    table = _WHOLE[resource][2]
    row = dict(found)
    if resource == "order":
        row |= {name: _iso(row.get(name)) for name in ("date_created", "date_modified", "date_shipped")}
    at = instant_ns(row["updated_time" if resource == "cart" else "date_modified"])
    if at is None:
        raise KeyError("date_modified")
    parts = list(_lines(row.get("consignments"))) if resource == "order" else row.pop("variants", None)
    row = {n: v for n, v in row.items() if not (isinstance(v, dict) and "resource" in v)}  # links to more of it
    yield table.row({**row, "producer": producer, "id": identity}, at=at, rank=_RANK)
    if resource in _PARTS and (parts or resource == "product") and isinstance(parts, list):
        child, column = _PARTS[resource]
        members = {part["id"]: part for part in parts}
        yield child.children({"producer": producer, column: identity}, members.values(), at=at, rank=_RANK)


def _lines(part: Any) -> Iterator[dict[str, Any]]:
    """The lines of all consignments, whatever their kind: shipped, picked up, downloaded."""
    own = part.get("line_items") if isinstance(part, dict) else None
    if isinstance(own, list):
        yield from own
        return
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _lines(inner)


def _iso(value: Any) -> Any:
    """V2 writes times as mails do; empty is none."""
    if not isinstance(value, str):
        return value
    try:
        return email.utils.parsedate_to_datetime(value).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return value or None


def _required(data: Mapping[str, Any], name: str) -> Any:
    """A part of a key; it must be there."""
    value = data[name]
    if value is None or value == "":
        raise KeyError(name)
    return value


def _parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The payload's values, and those of the objects in it (`status`, `inventory`, `sku`), by their own names."""
    inner = {k: v for part in data.values() if isinstance(part, dict) for k, v in part.items()}
    return {k: v for k, v in {**inner, **data}.items() if k in _PAYLOAD and not isinstance(v, (dict, list))}


def _stock(event: Event, data: Mapping[str, Any], envelope: Mapping[str, Any]) -> Iterator[Record]:
    """A count where it is absolute; a relative one is only a difference, and stays in `events`."""
    found = data.get("inventory")
    if not isinstance(found, dict) or found.get("method") != "absolute":
        return
    row = {name: envelope[name] for name in ("producer", "store_id", "scope", "created_at")}
    row |= {name: data.get(name) for name in ("type", "id")}
    row |= {"product_id": _required(found, "product_id"), "variant_id": found.get("variant_id") or 0}
    yield INVENTORY.row({**found, **row}, at=event.at)


# --- samples ------------------------------------------------------------------------------------------

#: Scope -> the payload's data.
_SAMPLES: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "store/order/created": lambda n: {"type": "order", "id": 250 + n},
    "store/order/updated": lambda n: {"type": "order", "id": 250 + n},
    "store/order/statusUpdated": lambda n: {
        "type": "order", "id": 250 + n, "status": {"previous_status_id": 0, "new_status_id": 11}},
    "store/order/refund/created": lambda n: {"type": "order", "id": 250 + n, "refund": {"refund_id": n + 1}},
    "store/order/message/created": lambda n: {
        "type": "order", "id": 250 + n, "message": {"order_message_id": n + 1}},
    "store/cart/converted": lambda n: {
        "type": "cart", "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"cart/{n}")), "orderId": 250 + n},
    "store/cart/lineItem/updated": lambda n: {
        "type": "cart_line_item", "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"line/{n}")),
        "cartId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"cart/{n // 3}"))},
    "store/customer/updated": lambda n: {"type": "customer", "id": 30 + n},
    "store/customer/deleted": lambda n: {"type": "customer", "id": 30 + n},
    "store/customer/address/created": lambda n: {
        "type": "customer", "id": 60 + n, "address": {"customer_id": 30 + n % 90}},
    "store/product/updated": lambda n: {"type": "product", "id": 160 + n, "properties": ["warranty"]},
    "store/product/inventory/updated": lambda n: {
        "type": "product", "id": 160 + n,
        "inventory": {"product_id": 160 + n, "method": "absolute", "value": n % 70}},
    "store/sku/inventory/order/updated": lambda n: {
        "type": "sku", "id": 460 + n,
        "inventory": {"product_id": 200 + n, "method": "relative", "value": -1, "variant_id": 500 + n}},
    "store/shipment/created": lambda n: {"type": "shipment", "id": 12 + n, "orderId": 250 + n},
    "store/channel/2/cart/created": lambda n: {
        "type": "cart", "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"cart/{n}"))},
}  # fmt: skip


def _sample_of(scope: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        digest = hashlib.sha256(f"{scope}/{n}".encode()).hexdigest()[:40]
        head = {"scope": scope, "store_id": "2000417", "hash": digest, "created_at": now // NS}
        body = {**head, "data": _SAMPLES[scope](n), "producer": "stores/nordlicht"}
        return Sample(body, {"webhook-id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}/{n}/{now}"))})

    return sample


for _scope in _SAMPLES:
    vendor.sample(_scope)(_sample_of(_scope))
