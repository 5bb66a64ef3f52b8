"""Shopify: orders and their lines, refunds, transactions, customers, products, fulfillments, drafts, carts, stock.

https://shopify.dev/docs/api/webhooks and https://shopify.dev/docs/apps/build/webhooks/subscribe/https

The body is the REST resource itself; the topic stands in a header. Current SDKs take the headers with and
without `X-`, and so do we. `*/delete` topics carry little more than the id. A subscription with `include_fields`
sends only some fields: a child list that is absent says nothing of the children, an empty one that there are none.
The compliance topics (`customers/redact`, `shop/redact`, `customers/data_request`) hold no rows: not mapped.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Mapper, Sample, Vendor, table

_UPDATED: Final = "updated_at, then X-Shopify-Triggered-At"
_PARENT: Final = "its parent's updated_at, then X-Shopify-Triggered-At"
_MADE: Final = "processed_at, else created_at, then X-Shopify-Triggered-At"


# fmt: off
ORDERS = table(
    "orders", "id", _UPDATED,
    int="id app_id checkout_id location_id number order_number total_weight user_id",
    money="current_subtotal_price current_total_discounts current_total_price current_total_tax subtotal_price "
    "total_discounts total_line_items_price total_outstanding total_price total_tax total_tip_received",
    instant="cancelled_at closed_at created_at processed_at updated_at",
    bool="buyer_accepts_marketing confirmed estimated_taxes tax_exempt taxes_included test",
    text="admin_graphql_api_id browser_ip cancel_reason cart_token checkout_token confirmation_number "
    "contact_email currency customer_locale email financial_status fulfillment_status landing_site name note "
    "phone po_number presentment_currency reference referring_site source_name tags token",
    json="billing_address client_details customer discount_applications fulfillments note_attributes "
    "payment_gateway_names payment_terms refunds shipping_address tax_lines total_price_set total_tax_set",
)
ORDER_LINES = table(
    "order_lines", "order_id id", _PARENT, "order_id",
    int="order_id id product_id variant_id quantity current_quantity fulfillable_quantity grams",
    money="price total_discount", bool="gift_card product_exists requires_shipping taxable",
    text="admin_graphql_api_id fulfillment_service fulfillment_status name sku title variant_title vendor",
    json="discount_allocations duties price_set properties tax_lines total_discount_set",
)
ORDER_SHIPPING = table(
    "order_shipping_lines", "order_id id", _PARENT, "order_id",
    int="order_id id", money="discounted_price price", bool="is_removed",
    text="carrier_identifier code phone source title",
    json="discount_allocations discounted_price_set price_set tax_lines",
)
ORDER_CODES = table(
    "order_discount_codes", "order_id code", _PARENT, "order_id", int="order_id", text="code type", money="amount")
REFUNDS = table(
    "refunds", "id", _MADE,
    int="id order_id user_id", instant="created_at processed_at", bool="restock", text="admin_graphql_api_id note",
    json="duties order_adjustments refund_shipping_lines return total_duties_set",
)
REFUND_LINES = table(
    "refund_lines", "refund_id id", "the refund's " + _MADE, "refund_id",
    int="refund_id id line_item_id location_id quantity", money="subtotal total_tax", text="restock_type",
    json="line_item subtotal_set total_tax_set",
)
TRANSACTIONS = table(
    "transactions", "id", _MADE,
    int="id order_id parent_id location_id user_id device_id", money="amount", instant="created_at processed_at",
    bool="test manual_payment_gateway", json="payment_details receipt total_unsettled_set",
    text="admin_graphql_api_id authorization currency error_code gateway kind message payment_id source_name "
    "status",
)
CUSTOMERS = table(
    "customers", "id", _UPDATED,
    int="id last_order_id orders_count", money="total_spent", instant="created_at updated_at",
    bool="accepts_marketing tax_exempt verified_email",
    text="admin_graphql_api_id currency email first_name last_name last_order_name multipass_identifier note "
    "phone state tags",
    json="addresses default_address email_marketing_consent sms_marketing_consent tax_exemptions",
)
PRODUCTS = table(
    "products", "id", _UPDATED,
    int="id", instant="created_at published_at updated_at", bool="has_variants_that_requires_components",
    text="admin_graphql_api_id body_html handle product_type published_scope status tags template_suffix title "
    "vendor",
    json="category image images media options variant_gids",
)
PRODUCT_VARIANTS = table(
    "product_variants", "product_id id", _PARENT, "product_id",
    int="product_id id image_id inventory_item_id inventory_quantity old_inventory_quantity position grams",
    money="compare_at_price price", number="weight", instant="created_at updated_at",
    bool="requires_shipping taxable",
    text="admin_graphql_api_id barcode inventory_policy option1 option2 option3 sku title weight_unit",
)
FULFILLMENTS = table(
    "fulfillments", "id", _UPDATED,
    int="id order_id location_id", instant="created_at updated_at",
    text="admin_graphql_api_id email name service shipment_status status tracking_company tracking_number "
    "tracking_url",
    json="destination line_items origin_address receipt tracking_numbers tracking_urls",
)
DRAFT_ORDERS = table(
    "draft_orders", "id", _UPDATED,
    int="id order_id", money="subtotal_price total_price total_tax",
    instant="completed_at created_at invoice_sent_at updated_at", bool="tax_exempt taxes_included",
    text="admin_graphql_api_id currency email invoice_url name note status tags",
    json="applied_discount billing_address customer note_attributes shipping_address shipping_line tax_lines",
)
DRAFT_ORDER_LINES = table(
    "draft_order_lines", "draft_order_id id", _PARENT, "draft_order_id",
    int="draft_order_id id product_id variant_id quantity grams", money="price",
    bool="custom gift_card requires_shipping taxable", json="applied_discount properties tax_lines",
    text="admin_graphql_api_id fulfillment_service name sku title variant_title vendor",
)
CHECKOUTS = table(
    "checkouts", "token", _UPDATED,
    int="id location_id total_weight user_id", bool="buyer_accepts_marketing taxes_included",
    money="subtotal_price total_discounts total_line_items_price total_price total_tax",
    instant="closed_at completed_at created_at updated_at",
    text="token abandoned_checkout_url cart_token currency email gateway landing_site name note phone "
    "presentment_currency referring_site source_name",
    json="billing_address customer discount_codes line_items note_attributes shipping_address shipping_lines "
    "tax_lines",
)
CARTS = table(
    "carts", "token", _UPDATED,
    text="token id note", instant="created_at updated_at", json="line_items note_attributes",
)
INVENTORY_LEVELS = table(
    "inventory_levels", "inventory_item_id location_id", _UPDATED,
    int="inventory_item_id location_id available", instant="updated_at", text="admin_graphql_api_id",
)
# fmt: on


def _either(name: str) -> Callable[[Mapping[str, str]], str]:
    """Reads `X-Shopify-<name>` or `Shopify-<name>`."""
    lower = f"shopify-{name}"
    return lambda headers: headers.get(f"x-{lower}") or headers.get(lower) or ""


_topic, _webhook_id, _triggered_at, _test = map(_either, ("topic", "webhook-id", "triggered-at", "test"))
_SIGNATURE: Final = "X-Shopify-Hmac-Sha256"
_KEPT = ("topic", "shop-domain", "api-version", "webhook-id", "event-id", "triggered-at", "test")

vendor = Vendor(
    title="Shopify",
    family="carts",
    docs="https://shopify.dev/docs/apps/build/webhooks/subscribe/https",
    verify=Hmac(_SIGNATURE, encoding="base64", aliases={_SIGNATURE: _SIGNATURE.removeprefix("X-")}),
    type=lambda request, _data: _topic(request.headers),
    # Not the event id: one action of the merchant gives many deliveries the same one.
    id=lambda request, _data: _webhook_id(request.headers),
    at=lambda request, _data: _triggered_at(request.headers),
    test=lambda request, _data: _test(request.headers).lower() == "true",
    tables=(
        *(ORDERS, ORDER_LINES, ORDER_SHIPPING, ORDER_CODES),
        *(REFUNDS, REFUND_LINES, TRANSACTIONS, CUSTOMERS, PRODUCTS, PRODUCT_VARIANTS, FULFILLMENTS),
        *(DRAFT_ORDERS, DRAFT_ORDER_LINES, CHECKOUTS, CARTS, INVENTORY_LEVELS),
    ),
    keep_headers=tuple(f"{x}shopify-{name}" for name in _KEPT for x in ("x-", "")),
    setup=(
        "Settings → Notifications → Webhooks, or an app's `webhookSubscriptionCreate`: this URL, format JSON.",
        "The secret: the app's client secret, or “Your webhooks will be signed with …” on that page.",
    ),
    deletes="`*/delete` says the id alone: the row is marked deleted and keeps what it held.",
    limits=("a product's variants behind the first 100 come as ids alone",),
    proof="vector: shopify.oracle",
    # Eight tries in four hours, then the subscription is deleted: the page in `docs`, under "Retries".
    fragile=True,
)

#: Of one moment the later state wins.
_RANKS: Final = {
    "create": 0, "connect": 0, "updated": 1, "update": 1, "enable": 1, "partially_fulfilled": 2, "paid": 3,
    "fulfilled": 4, "disable": 5, "cancelled": 6,
}  # fmt: skip


def _order_of(event: Event, *times: str) -> dict[str, Any]:
    """The version of an object: its first time that is set (in seconds), the trigger's (ns), the topic's rank."""
    at = next((ns for ns in (instant_ns(event.data.get(name)) for name in times) if ns is not None), event.at)
    return {"at": at, "sequence": event.at or 0, "rank": _RANKS.get(event.type.rpartition("/")[2], 0)}


def _required(data: dict[str, Any], name: str) -> Any:
    """A part of a key; it must be there."""
    value = data[name]
    if value is None:
        raise KeyError(name)
    return value


def _children(
    table: Table, parent_id: Any, items: Any, version: dict[str, Any], *, complete: bool = True
) -> Iterator[Record]:
    """The set of a parent's children; nothing where the list is absent."""
    if isinstance(items, list):
        parent, own = {table.parent[0]: parent_id}, table.key[-1]
        members = {_required(item, own): {**item, **parent} for item in items}
        yield table.children(parent, members.values(), complete=complete, **version)


def _object(table: Table, *times: str, **children: Table) -> Mapper:
    """A mapper of an object that is one row, and of its lists that have tables of their own."""

    def map_object(event: Event) -> Iterator[Record]:
        data, version = event.data, _order_of(event, *times)
        identity = [_required(data, name) for name in table.key]
        yield table.row({name: value for name, value in data.items() if name not in children}, **version)
        for name, child in children.items():
            yield from _children(child, identity[0], data.get(name), version)

    return map_object


def _deleted(table: Table, *children: Table) -> Mapper:
    """A mapper of a body that holds the key and no more: the row and all its children go."""

    def map_deleted(event: Event) -> Iterator[Record]:
        key = {name: _required(event.data, name) for name in table.key}
        version = {**_order_of(event), "rank": 99}
        yield table.gone(key, **version)
        for child in children:
            yield child.children({child.parent[0]: key["id"]}, (), **version)

    return map_deleted


@vendor.maps("refunds/create")
def refund(event: Event) -> Iterator[Record]:
    """A refund with its lines; its transactions are those of the order."""
    data, version = event.data, _order_of(event, "processed_at", "created_at")
    identity = _required(data, "id")
    own = {"refund_line_items", "transactions"}
    yield REFUNDS.row({name: data[name] for name in data if name not in own}, **version)
    yield from _children(REFUND_LINES, identity, data.get("refund_line_items"), version)
    for item in data.get("transactions") or ():
        _required(item, "id")
        at = instant_ns(item.get("processed_at")) or instant_ns(item.get("created_at")) or version["at"]
        yield TRANSACTIONS.row(dict(item), **{**version, "at": at})


@vendor.maps("products/create", "products/update")
def product(event: Event) -> Iterator[Record]:
    """A product with its variants, of which only the first hundred are sent; `variant_gids` names all."""
    data, version = event.data, _order_of(event, "updated_at")
    identity, variants = _required(data, "id"), data.get("variants")
    yield PRODUCTS.row({name: value for name, value in data.items() if name != "variants"}, **version)
    complete = not isinstance(variants, list) or len(data.get("variant_gids") or ()) <= len(variants)
    yield from _children(PRODUCT_VARIANTS, identity, variants, version, complete=complete)


@vendor.maps("carts/create", "carts/update")
def cart(event: Event) -> Iterator[Record]:
    """A cart; its token is also its id."""
    token = event.data.get("token") or _required(event.data, "id")
    yield CARTS.row({**event.data, "token": token}, **_order_of(event, "updated_at"))


@vendor.maps("checkouts/delete")
def checkout_deleted(event: Event) -> Iterator[Record]:
    """A checkout that is gone; old API versions name it by an id that is not its key, which says nothing to us."""
    if event.data.get("token") is not None:
        yield from _deleted(CHECKOUTS)(event)


_LISTS = {"line_items": ORDER_LINES, "shipping_lines": ORDER_SHIPPING, "discount_codes": ORDER_CODES}
for _action in ("create", "updated", "partially_fulfilled", "paid", "fulfilled", "cancelled"):
    vendor.maps(f"orders/{_action}")(_object(ORDERS, "updated_at", **_LISTS))
vendor.maps("draft_orders/create", "draft_orders/update")(
    _object(DRAFT_ORDERS, "updated_at", line_items=DRAFT_ORDER_LINES)
)
vendor.maps("customers/create", "customers/update", "customers/enable", "customers/disable")(
    _object(CUSTOMERS, "updated_at")
)
vendor.maps("order_transactions/create")(_object(TRANSACTIONS, "processed_at", "created_at"))
vendor.maps("fulfillments/create", "fulfillments/update")(_object(FULFILLMENTS, "updated_at"))
vendor.maps("checkouts/create", "checkouts/update")(_object(CHECKOUTS, "updated_at"))
vendor.maps("inventory_levels/connect", "inventory_levels/update")(_object(INVENTORY_LEVELS, "updated_at"))
vendor.maps("inventory_levels/disconnect")(_deleted(INVENTORY_LEVELS))
vendor.maps("orders/delete")(_deleted(ORDERS, ORDER_LINES, ORDER_SHIPPING, ORDER_CODES))
vendor.maps("products/delete")(_deleted(PRODUCTS, PRODUCT_VARIANTS))
vendor.maps("draft_orders/delete")(_deleted(DRAFT_ORDERS, DRAFT_ORDER_LINES))
vendor.maps("customers/delete")(_deleted(CUSTOMERS))


# --- samples ------------------------------------------------------------------------------------------


def _iso(now: int) -> str:
    return f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S+00:00}"


def _set(amount: str) -> dict[str, Any]:
    return {side: {"amount": amount, "currency_code": "EUR"} for side in ("shop_money", "presentment_money")}


def _address(n: int) -> dict[str, Any]:
    return {
        "first_name": "Ada", "last_name": f"Berg {n}", "address1": f"Kastanienallee {n % 90 + 1}", "zip": "10435",
        "address2": "3. Stock", "city": "Berlin", "country": "Germany", "country_code": "DE", "phone": None,
    }  # fmt: skip


def _line(n: int, i: int) -> dict[str, Any]:
    sku = ("TEA-100", "POT-01", "CUP-6")[i]
    return {
        "id": 13_900_000_000_000 + 10 * n + i, "variant_id": 44_100_000_000_000 + i, "quantity": i + 1,
        "product_id": 8_100_000_000_000 + i, "name": f"{sku} / loose", "title": sku, "sku": sku, "vendor": "Tee",
        "variant_title": "loose", "price": "19.95", "price_set": _set("19.95"), "total_discount": "0.00",
        "grams": 100, "gift_card": False, "requires_shipping": True, "taxable": True, "product_exists": True,
        "fulfillable_quantity": i + 1, "fulfillment_service": "manual", "fulfillment_status": None,
        "properties": [], "tax_lines": [{"title": "MwSt", "price": "3.19"}], "total_discount_set": _set("0.00"),
    }  # fmt: skip


def _customer(n: int, now: int) -> dict[str, Any]:
    return {
        "id": 7_200_000_000_000 + n, "email": f"ada.{n}@example.com", "first_name": "Ada", "last_name": "Berg",
        "created_at": "2024-02-29T08:00:00+01:00", "updated_at": _iso(now), "state": "enabled", "note": None,
        "verified_email": True, "tags": "tea, berlin", "orders_count": n % 9, "total_spent": "119.70",
        "default_address": _address(n),
    }  # fmt: skip


def _order(n: int, now: int) -> dict[str, Any]:
    return {
        "id": 5_500_000_000_000 + n, "admin_graphql_api_id": f"gid://shopify/Order/{5_500_000_000_000 + n}",
        "name": f"#{1000 + n}", "number": n, "order_number": 1000 + n, "email": f"ada.{n}@example.com",
        "created_at": _iso(now - 60 * NS), "processed_at": _iso(now - 60 * NS), "updated_at": _iso(now),
        "cancelled_at": None, "closed_at": None, "cancel_reason": None, "confirmed": True, "test": False,
        "currency": "EUR", "presentment_currency": "EUR", "financial_status": "paid", "fulfillment_status": None,
        "subtotal_price": "119.70", "total_discounts": "5.00", "total_line_items_price": "119.70",
        "total_price": "119.60", "total_price_set": _set("119.60"), "total_tax": "19.10",
        "total_tax_set": _set("19.10"), "total_discounts_set": _set("5.00"), "subtotal_price_set": _set("119.70"),
        "total_outstanding": "0.00", "total_weight": 600, "taxes_included": True, "tags": "web",
        "note": "Bitte klingeln", "note_attributes": [{"name": "gift", "value": "no"}], "source_name": "web",
        "payment_gateway_names": ["visa"], "customer": _customer(n, now), "token": f"{n:032x}",
        "billing_address": _address(n), "shipping_address": _address(n), "tax_lines": [], "refunds": [],
        "discount_codes": [{"code": "HALLO5", "amount": "5.00", "type": "fixed_amount"}], "fulfillments": [],
        "line_items": [_line(n, i) for i in range(3)],
        "shipping_lines": [{"id": 4_600_000_000_000 + n, "title": "DHL", "price": "4.90", "source": "shopify"}],
    }  # fmt: skip


def _bodies(n: int, now: int) -> dict[str, dict[str, Any]]:
    order, customer, at = _order(n, now), _customer(n, now), _iso(now)
    made = {"created_at": order["created_at"], "updated_at": at}
    sale = {name: order[name] for name in ("email", "currency", "total_price", "line_items", "note")}
    payment = {
        "id": 6_800_000_000_000 + 2 * n, "kind": "sale", "processed_at": at, "created_at": at, "gateway": "visa",
        "order_id": order["id"], "currency": "EUR", "amount": "19.95", "status": "success",
    }  # fmt: skip
    refunded = {"line_item_id": order["line_items"][0]["id"], "quantity": 1, "subtotal": "19.95"}
    variant = {"price": "19.95", "inventory_quantity": 12, **made}
    return {
        "orders": order, "customers": customer, "order_transactions": payment,
        "refunds": {
            "id": 940_000_000_000 + n, "order_id": order["id"], "note": "broken", "created_at": at,
            "refund_line_items": [{"id": 480_000_000_000 + n, **refunded}],
            "transactions": [{**payment, "id": 6_800_000_000_001 + 2 * n, "kind": "refund"}],
        },
        "products": {
            "id": 8_100_000_000_000 + n, "title": "Assam", "vendor": "Tee", "status": "active", "handle": "assam",
            "variants": [{"id": 44_100_000_000_000 + 10 * n + i, "position": i + 1, **variant} for i in range(3)],
            **made,
        },
        "fulfillments": {
            "id": 5_010_000_000_000 + n, "order_id": order["id"], "status": "success", "tracking_company": "DHL",
            "tracking_number": f"00340{n:015d}", **made,
        },
        "draft_orders": {"id": 1_100_000_000_000 + n, "name": f"#D{n}", "status": "open", **sale, **made},
        "checkouts": {"token": f"c{n:031x}", "customer": customer, "completed_at": None, **sale, **made},
        "carts": {"id": f"d{n:031x}", "token": f"d{n:031x}", "line_items": sale["line_items"], **made},
        "inventory_levels": {
            "inventory_item_id": 46_200_000_000_000 + n, "location_id": 703, "available": n % 50, "updated_at": at,
        },
    }  # fmt: skip


def _sample_of(topic: str) -> Callable[[int, int], Sample]:
    resource, _, action = topic.partition("/")
    key = {"checkouts": CHECKOUTS.key, "inventory_levels": INVENTORY_LEVELS.key}.get(resource, ("id",))

    def sample(n: int, now: int) -> Sample:
        body, moment = _bodies(n, now)[resource], instant_of_ns(now)
        if action in ("delete", "disconnect"):
            body = {name: body[name] for name in key}
        return Sample(body, {
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": "teehaus.myshopify.com",
            "X-Shopify-Webhook-Id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{topic}/{n}/{now}")),
            "X-Shopify-Triggered-At": f"{moment:%Y-%m-%dT%H:%M:%S}.{now % NS:09d}Z",
        })  # fmt: skip

    return sample


for _name in vendor.mappers:
    vendor.sample(_name)(_sample_of(_name))
