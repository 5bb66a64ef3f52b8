"""WooCommerce: orders with their lines, products, customers, coupons.

https://woocommerce.com/document/webhooks/ and https://woocommerce.github.io/woocommerce-rest-api-docs/

The body is the REST object; the topic stands in a header. Times named `*_gmt` carry no zone and are UTC. A
deletion carries the id alone and no time, so it is ordered by its receipt; a restored object is too, since the
undoing of a deletion may be older than the receipt of that deletion. The delivery id is a hash of the webhook's id
and the second: two objects that change in one second share it, so deliveries are told apart by content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import NS, Event, Record, Request, Table, Type, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Mapper, Reply, Sample, Vendor, header, table

_CLOCK: Final = "date_modified_gmt, in seconds; a deletion's or restoration's receipt"
_PARENT: Final = "the order's date_modified_gmt, in seconds; a deletion's or restoration's receipt"


def _lines(name: str, **columns: str) -> Table:
    """A list inside an order."""
    both = {
        **columns,
        "int": f"order_id id {columns.get('int', '')}",
        "json": f"meta_data {columns.get('json', '')}",
    }
    return table(name, "order_id id", _PARENT, "order_id", **both)


# fmt: off
ORDERS = table(
    "orders", "id", _CLOCK,
    int="id parent_id customer_id",
    money="cart_tax discount_tax discount_total shipping_tax shipping_total total total_tax",
    instant="date_created_gmt date_modified_gmt date_completed_gmt date_paid_gmt",
    bool="is_editable needs_payment needs_processing prices_include_tax",
    # Local times of the shop have no zone, so they are text.
    text="cart_hash created_via currency currency_symbol customer_ip_address customer_note customer_user_agent "
    "date_completed date_created date_modified date_paid number order_key payment_method payment_method_title "
    "payment_url status transaction_id version",
    json="billing shipping meta_data _links",
)
ORDER_LINE_ITEMS = _lines(
    "order_line_items", int="product_id variation_id", number="quantity", json="image taxes",
    money="price subtotal subtotal_tax total total_tax", text="global_unique_id name parent_name sku tax_class",
)
ORDER_SHIPPING_LINES = _lines(
    "order_shipping_lines", money="total total_tax", text="instance_id method_id method_title", json="taxes",
)
ORDER_FEE_LINES = _lines(
    "order_fee_lines", money="amount total total_tax", text="name tax_class tax_status", json="taxes",
)
ORDER_COUPON_LINES = _lines(
    "order_coupon_lines", money="discount discount_tax nominal_amount", text="code discount_type",
    bool="free_shipping",
)
ORDER_TAX_LINES = _lines(
    "order_tax_lines", int="rate_id", money="shipping_tax_total tax_total", number="rate_percent", bool="compound",
    text="label rate_code",
)
ORDER_REFUNDS = _lines("order_refunds", money="total", text="reason")
PRODUCTS = table(
    "products", "id", _CLOCK,
    int="id download_expiry download_limit menu_order parent_id rating_count shipping_class_id stock_quantity "
    "total_sales",
    money="price regular_price sale_price",
    instant="date_created_gmt date_modified_gmt date_on_sale_from_gmt date_on_sale_to_gmt",
    bool="backordered backorders_allowed downloadable featured manage_stock on_sale purchasable reviews_allowed "
    "shipping_required sold_individually virtual",
    text="average_rating backorders catalog_visibility date_created date_modified description name permalink "
    "short_description sku slug status stock_status tax_class tax_status type weight",
    json="attributes categories default_attributes dimensions downloads images meta_data tags variations _links",
)
CUSTOMERS = table(
    "customers", "id", _CLOCK,
    int="id orders_count", money="total_spent", bool="is_paying_customer",
    instant="date_created_gmt date_modified_gmt",
    text="avatar_url date_created date_modified email first_name last_name role username",
    json="billing shipping meta_data _links",
)
COUPONS = table(
    "coupons", "id", _CLOCK,
    int="id limit_usage_to_x_items usage_count usage_limit usage_limit_per_user",
    money="amount maximum_amount minimum_amount",
    instant="date_created_gmt date_modified_gmt date_expires_gmt",
    bool="exclude_sale_items free_shipping individual_use",
    text="code date_created date_expires date_modified description discount_type status",
    json="email_restrictions excluded_product_ids meta_data product_ids used_by _links",
)
# fmt: on
#: A list of an order -> its table.
_LISTS: Final = {
    "line_items": ORDER_LINE_ITEMS,
    "shipping_lines": ORDER_SHIPPING_LINES,
    "fee_lines": ORDER_FEE_LINES,
    "coupon_lines": ORDER_COUPON_LINES,
    "tax_lines": ORDER_TAX_LINES,
    "refunds": ORDER_REFUNDS,
}
_RANKS: Final = {"created": 0, "updated": 1, "restored": 2}
_PING: Final = re.compile(rb"webhook_id=[0-9]{1,20}")


def handshake(request: Request, _secrets: tuple[str, ...], _settings: Mapping[str, Any]) -> Reply | None:
    """Answers the ping that WooCommerce sends, unsigned, when a webhook is saved; without a 200 it stays off."""
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    plain = not any(name.startswith("x-wc-") for name in request.headers)
    is_ping = request.method == "POST" and plain and form == "application/x-www-form-urlencoded"
    return Reply() if is_ping and _PING.fullmatch(request.body) else None


def _delivery(request: Request, data: Any) -> str:
    """Nothing, as content tells deliveries apart; but deletions of one object, undone between, are all alike."""
    if not request.headers.get("x-wc-webhook-topic", "").endswith(".deleted") or not isinstance(data, dict):
        return ""
    delivery = request.headers.get("x-wc-webhook-delivery-id", "")
    return delivery and f"{delivery}:{data.get('id')}"


vendor = Vendor(
    title="WooCommerce",
    family="carts",
    docs="https://woocommerce.com/document/webhooks/",
    verify=Hmac("X-WC-Webhook-Signature", encoding="base64"),
    type=header("X-WC-Webhook-Topic"),
    id=_delivery,
    tables=(ORDERS, *_LISTS.values(), PRODUCTS, CUSTOMERS, COUPONS),
    keep_headers=("X-WC-Webhook-Source", "X-WC-Webhook-ID", "X-WC-Webhook-Delivery-ID"),
    handshake=handshake,
    setup=(
        "WooCommerce → Settings → Advanced → Webhooks: this URL, a secret of your own, WP REST API v3.",
        "Its first delivery is an unsigned ping, which is answered and not kept.",
    ),
    deletes="`*.deleted` says the id alone: the row is marked deleted and keeps what it held.",
    limits=("times are whole seconds: two changes within one are ordered by arrival",),
    proof="vector: woocommerce.oracle",
    # No delivery is tried again, and five failures in a row disable the webhook: the page in `docs`.
    fragile=True,
)


def _identity(data: dict[str, Any]) -> Any:
    value = data["id"]
    if value is None:
        raise KeyError("id")
    return value


_BLANKABLE: Final = {Type.INT, Type.NUMBER, Type.MONEY, Type.INSTANT}


def _row(table: Table, data: dict[str, Any]) -> dict[str, Any]:
    """An object's columns; where a number or a time is not set, WooCommerce writes an empty string."""
    blank = {name for name, value in data.items() if value == "" and table.columns.get(name) in _BLANKABLE}
    return {**data, **dict.fromkeys(blank)}


def _whole(table: Table, lists: Mapping[str, Table]) -> Mapper:
    """A mapper of an object and of its lists; a list that is absent says nothing of its members."""

    def map_whole(event: Event) -> Iterator[Record]:
        data, identity, action = event.data, _identity(event.data), event.type.rpartition(".")[2]
        at = None if action == "restored" else instant_ns(data.get("date_modified_gmt"))
        rank = _RANKS[action]
        own = {name: value for name, value in data.items() if name not in lists}
        yield table.row(_row(table, own), at=at, rank=rank)
        for name, child in lists.items():
            items = data.get(name)
            if isinstance(items, list):
                members = {_identity(item): {**_row(child, item), "order_id": identity} for item in items}
                yield child.children({"order_id": identity}, members.values(), at=at, rank=rank)

    return map_whole


def _deleted(table: Table, lists: Mapping[str, Table]) -> Mapper:
    """A mapper of `{"id": …}`: the row and all its children go."""

    def map_deleted(event: Event) -> Iterator[Record]:
        identity = _identity(event.data)
        yield table.gone({"id": identity})
        for child in lists.values():
            yield child.children({"order_id": identity}, (), rank=99)

    return map_deleted


# --- samples ------------------------------------------------------------------------------------------


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _address(n: int) -> dict[str, Any]:
    return {
        "first_name": "Jonas", "last_name": f"Weber {n}", "company": "", "address_1": f"Am Markt {n % 40 + 1}",
        "address_2": "", "city": "Bremen", "state": "DE-HB", "postcode": "28195", "country": "DE", "phone": "",
    }  # fmt: skip


def _line(n: int, i: int) -> dict[str, Any]:
    total = _money(1250 * (i + 1))
    return {
        "id": 10 * n + i + 1, "name": ("Honig", "Wabe", "Kerze")[i], "product_id": 300 + i, "variation_id": 0,
        "quantity": i + 1, "tax_class": "", "subtotal": total, "subtotal_tax": "0.88", "total": total,
        "total_tax": "0.88", "taxes": [{"id": 1, "total": "0.88", "subtotal": "0.88"}], "sku": f"IMK-{i}",
        "meta_data": [{"id": 70 + i, "key": "pa_glas", "value": "500g", "display_key": "Glas"}], "price": 12,
        "image": {"id": f"{90 + i}", "src": f"https://imkerei.example/{i}.jpg"}, "parent_name": None,
    }  # fmt: skip


_META: Final = (
    ("is_vat_exempt", "no"),
    ("_wc_order_attribution_source_type", "organic"),
    ("_wc_order_attribution_referrer", "https://www.google.com/"),
    ("_wc_order_attribution_utm_source", "google"),
    ("_wc_order_attribution_session_entry", "https://imkerei.example/honig/"),
    ("_wc_order_attribution_session_start_time", "2026-02-28 19:22:41"),
    ("_wc_order_attribution_session_pages", "7"),
    ("_wc_order_attribution_device_type", "Desktop"),
    ("_wc_order_attribution_user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
)


def _order(n: int, gmt: str) -> dict[str, Any]:
    orders = "https://imkerei.example/wp-json/wc/v3/orders"
    shipped = {"id": 10 * n + 6, "method_title": "DHL", "method_id": "flat_rate", "instance_id": "1", "taxes": []}
    taxed = {"id": 10 * n + 5, "rate_code": "DE-MWST-1", "rate_id": 1, "label": "MwSt", "rate_percent": 7}
    return {
        "id": n + 1, "parent_id": 0, "number": str(n + 1), "order_key": f"wc_order_{n:013x}", "version": "9.6.0",
        "created_via": "checkout", "status": "processing", "currency": "EUR", "currency_symbol": "€",
        "date_created": gmt, "date_created_gmt": gmt, "date_modified": gmt, "date_modified_gmt": gmt,
        "date_paid": gmt, "date_paid_gmt": gmt, "date_completed": None, "date_completed_gmt": None,
        "discount_total": "5.00", "discount_tax": "0.35", "shipping_total": "4.90", "shipping_tax": "0.34",
        "cart_tax": "2.64", "total": "77.88", "total_tax": "2.98", "prices_include_tax": False,
        "customer_id": n % 500, "customer_ip_address": "192.0.2.7", "customer_user_agent": "Mozilla/5.0",
        "customer_note": "", "billing": {**_address(n), "email": f"jonas.{n}@example.com"},
        "shipping": _address(n), "payment_method": "bacs", "payment_method_title": "Überweisung",
        "transaction_id": "", "cart_hash": f"{n:032x}", "is_editable": False, "needs_payment": False,
        "needs_processing": True, "payment_url": f"https://imkerei.example/zahlen/{n + 1}?key=wc_order_{n:013x}",
        "meta_data": [{"id": 10 * n + i, "key": key, "value": value} for i, (key, value) in enumerate(_META)],
        "line_items": [_line(n, i) for i in range(3)],
        "tax_lines": [{**taxed, "compound": False, "tax_total": "2.64", "shipping_tax_total": "0.34"}],
        "shipping_lines": [{**shipped, "total": "4.90", "total_tax": "0.34", "meta_data": []}],
        "fee_lines": [], "refunds": [],
        "coupon_lines": [{"id": 10 * n + 7, "code": "biene", "discount": "5.00", "discount_tax": "0.35"}],
        "_links": {"self": [{"href": f"{orders}/{n + 1}"}], "collection": [{"href": orders}]},
    }  # fmt: skip


def _bodies(n: int, gmt: str) -> dict[str, dict[str, Any]]:
    made = {"date_created_gmt": gmt, "date_modified_gmt": gmt}
    return {
        "order": _order(n, gmt),
        "product": {
            "id": n + 1, "name": "Honig", "slug": f"honig-{n}", "sku": f"IMK-{n}", "type": "simple",
            "price": "12.50", "regular_price": "12.50", "sale_price": "", "status": "publish", "parent_id": 0,
            "manage_stock": True, "stock_quantity": n % 40, "categories": [{"id": 9, "name": "Honig"}], **made,
        },
        "customer": {
            "id": n + 1, "email": f"jonas.{n}@example.com", "first_name": "Jonas", "last_name": f"Weber {n}",
            "role": "customer", "username": f"jonas{n}", "billing": _address(n), **made,
        },
        "coupon": {
            "id": n + 1, "code": f"biene{n}", "amount": "5.00", "discount_type": "fixed_cart", "usage_count": 3,
            "usage_limit": None, "date_expires_gmt": None, "product_ids": [], **made,
        },
    }  # fmt: skip


def _sample_of(resource: str, action: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        body = _bodies(n, f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}")[resource]
        headers = {
            "X-WC-Webhook-Source": "https://imkerei.example/",
            "X-WC-Webhook-Topic": f"{resource}.{action}",
            "X-WC-Webhook-Resource": resource,
            "X-WC-Webhook-Event": action,
            "X-WC-Webhook-ID": "7",
            "X-WC-Webhook-Delivery-ID": f"{now // NS:032x}",
        }
        return Sample({"id": body["id"]} if action == "deleted" else body, headers)

    return sample


def _declare(resource: str, table: Table, lists: Mapping[str, Table], *actions: str) -> None:
    """Maps a resource's topics; of customers there is no restoration, as there is no bin for them."""
    for action in (*actions, "deleted"):
        mapper = _deleted(table, lists) if action == "deleted" else _whole(table, lists)
        vendor.maps(f"{resource}.{action}")(mapper)
        vendor.sample(f"{resource}.{action}")(_sample_of(resource, action))


_declare("order", ORDERS, _LISTS, "created", "updated", "restored")
_declare("product", PRODUCTS, {}, "created", "updated", "restored")
_declare("coupon", COUPONS, {}, "created", "updated", "restored")
_declare("customer", CUSTOMERS, {}, "created", "updated")
