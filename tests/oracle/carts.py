"""Lives of orders, customers, products and invoices, as carts tell of them.

https://shopify.dev/docs/api/webhooks, https://docs.stripe.com/api/events,
https://woocommerce.github.io/woocommerce-rest-api-docs/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from tests.oracle.model import Fact
from tests.oracle.sending import Delivery
from tests.oracle.values import At, Money, Number, at, dumps

Body = dict[str, Any]
WORDS = (
    "Tee",
    "Kanne",
    "naïve",
    "日本茶",
    'quo"te',
    "tab\there",
    "two\nlines",
    "🍵",
    "a'b",
    "null",
    "\\N",
    "1,5",
    "",
)


def amount(rng: Random) -> Money:
    """An amount; some are larger than a float can hold to the cent."""
    whole = rng.choice((rng.randrange(1000), rng.randrange(10**15, 10**16)))
    return Money(f"{whole}.{rng.randrange(100):02d}")


def text(rng: Random) -> str:
    """Words that an unquoted query would trip over."""
    return " ".join(rng.choice(WORDS) for _ in range(3))


def big(rng: Random) -> int:
    """An id beyond 2^53, as Shopify's are on their way to be."""
    return rng.randrange(2**53, 2**62)


def steps(rng: Random, most: int) -> Iterator[float]:
    """Moments of one object's life, whole seconds apart."""
    moment = rng.randrange(10**6)
    for _ in range(rng.randint(1, most)):
        yield moment
        moment += rng.randint(1, 5000)


def without(body: Body, *names: str) -> Body:
    """A body less its lists."""
    return {name: value for name, value in body.items() if name not in names}


def members(parent: str, parent_id: Any, items: list[Body], own: str) -> dict[tuple[str, ...], Body]:
    """A set's rows by their key, with the parent's column."""
    return {(str(parent_id), str(item[own])): {**item, parent: parent_id} for item in items}


# --- Shopify --------------------------------------------------------------------------------------------

_ORDER_LISTS = {"line_items": ("order_lines", "id"), "discount_codes": ("order_discount_codes", "code")}


def _shopify(rng: Random, topic: str, body: Body, triggered: At, facts: list[Fact]) -> Delivery:
    headers = {
        "X-Shopify-Topic": topic,
        "X-Shopify-Shop-Domain": "teehaus.myshopify.com",
        "X-Shopify-Webhook-Id": str(uuid.UUID(int=rng.getrandbits(128))),
        "X-Shopify-Triggered-At": str(triggered.wire()),
    }
    return Delivery("shopify", "shopify", dumps(body), headers, tuple(facts))


def _shopify_row(
    table: str, key: tuple[str, ...], body: Body, triggered: At, lists: Mapping[str, tuple[str, str]] | None = None
) -> list[Fact]:
    """What a whole object says: its clock is `updated_at`, then when the webhook was triggered."""
    when, lists = body["updated_at"].ns, lists or {}
    facts = [Fact(f"shopify_{table}", "row", key, when, triggered.ns, values=without(body, *lists))]
    for name, (child, own) in lists.items():
        if name in body:
            rows = members("order_id" if "order" in child else "product_id", body["id"], body[name], own)
            gids = body.get("variant_gids")
            complete = gids is None or len(gids) <= len(rows)
            facts.append(Fact(f"shopify_{child}", "set", key, when, triggered.ns, members=rows, complete=complete))
    return facts


def _shopify_gone(rng: Random, topic: str, identity: int, moment: float, tables: list[str]) -> Delivery:
    key, triggered = (str(identity),), at(moment + 0.5, "nano")
    own, *children = tables
    facts = [Fact(f"shopify_{own}", "gone", key, triggered.ns, triggered.ns, 99)]
    facts += [Fact(f"shopify_{child}", "set", key, triggered.ns, triggered.ns) for child in children]
    return _shopify(rng, topic, {"id": identity}, triggered, facts)


def _order(rng: Random) -> Iterator[Delivery]:
    identity, moment, lines = big(rng), 0.0, []
    for number, moment in enumerate(steps(rng, 5)):
        if not lines or rng.random() < 0.4:
            lines.append({"id": big(rng), "sku": text(rng), "price": amount(rng), "taxable": rng.random() < 0.5})
        elif rng.random() < 0.4:
            lines.pop(rng.randrange(len(lines)))
        for line in lines:
            line["quantity"] = rng.randint(1, 9)
        codes = [
            {"code": f"C{i}", "amount": amount(rng), "type": "fixed_amount"} for i in range(rng.randint(0, 2))
        ]
        body = {
            "id": identity, "name": f"#{number}", "email": f"{identity}@example.com", "note": text(rng),
            "created_at": at(0, "offset"), "updated_at": at(moment, "offset"), "total_price": amount(rng),
            "total_tax": Money("0.10"), "currency": "EUR", "test": False, "tags": text(rng), "cancelled_at": None,
            "customer": {"id": big(rng), "note": text(rng)}, "line_items": [dict(line) for line in lines],
            "discount_codes": codes,
        }  # fmt: skip
        if rng.random() < 0.1:
            body = without(body, "line_items", "email")  # a subscription with chosen fields
        topic = "orders/create" if number == 0 else "orders/updated"
        triggered = at(moment + 0.123456789 + number / 1000, "nano")
        yield _shopify(
            rng, topic, body, triggered, _shopify_row("orders", (str(identity),), body, triggered, _ORDER_LISTS)
        )
        if rng.random() < 0.2:  # paid in the same second: the later trigger wins
            body = {**body, "name": "paid", "total_price": amount(rng)}
            triggered = at(moment + 0.3 + number / 1000, "nano")
            facts = _shopify_row("orders", (str(identity),), body, triggered, _ORDER_LISTS)
            yield _shopify(rng, "orders/paid", body, triggered, facts)
    if rng.random() < 0.2:
        tables = ["orders", "order_lines", "order_discount_codes", "order_shipping_lines"]
        yield _shopify_gone(rng, "orders/delete", identity, moment, tables)


def _product(rng: Random) -> Iterator[Delivery]:
    identity, moment, known = big(rng), 0.0, [big(rng) for _ in range(4)]
    for moment in steps(rng, 4):
        some = sorted(rng.sample(known, rng.randint(1, 4)))
        variants = [{"id": i, "price": amount(rng), "sku": f"S{i}", "inventory_quantity": -3} for i in some]
        body = {
            "id": identity, "title": text(rng), "status": "active", "updated_at": at(moment), "variants": variants,
            "variant_gids": [{"admin_graphql_api_id": f"gid://shopify/ProductVariant/{i}"} for i in some],
        }  # fmt: skip
        if rng.random() < 0.2:  # more of them than are sent
            body["variants"] = variants[:-1]
        triggered = at(moment + rng.random(), "nano")
        facts = _shopify_row(
            "products", (str(identity),), body, triggered, {"variants": ("product_variants", "id")}
        )
        yield _shopify(rng, "products/update", body, triggered, facts)
    if rng.random() < 0.2:
        yield _shopify_gone(rng, "products/delete", identity, moment + 1, ["products", "product_variants"])


def _customer(rng: Random) -> Iterator[Delivery]:
    identity, moment = big(rng), 0.0
    for moment in steps(rng, 3):
        body = {
            "id": identity, "email": f"{identity}@example.com", "first_name": text(rng), "verified_email": True,
            "total_spent": amount(rng), "orders_count": rng.randrange(9), "updated_at": at(moment, "offset"),
        }  # fmt: skip
        triggered = at(moment + rng.random(), "nano")
        yield _shopify(
            rng, "customers/update", body, triggered, _shopify_row("customers", (str(identity),), body, triggered)
        )
    if rng.random() < 0.3:
        yield _shopify_gone(rng, "customers/delete", identity, moment + 1, ["customers"])


def _stock(rng: Random) -> Iterator[Delivery]:
    item, place = big(rng), big(rng)
    for moment in steps(rng, 4):
        body = {
            "inventory_item_id": item, "location_id": place, "available": rng.randrange(-5, 50),
            "updated_at": at(moment),
        }  # fmt: skip
        triggered = at(moment + rng.random(), "nano")
        facts = _shopify_row("inventory_levels", (str(item), str(place)), body, triggered)
        yield _shopify(rng, "inventory_levels/update", body, triggered, facts)


def shopify(rng: Random) -> Iterator[Delivery]:
    """One object's life."""
    yield from rng.choice((_order, _order, _product, _customer, _stock))(rng)


# --- Stripe ---------------------------------------------------------------------------------------------


def _stripe(
    rng: Random,
    type_: str,
    body: Body,
    seconds: float,
    table: str,
    rank: int,
    child: tuple[str, str, str] | None = None,
) -> Delivery:
    """One event: its clock is its `created`; `rank` is how far the object is in its life."""
    when = at(seconds, "epoch")
    event = {
        "id": f"evt_{rng.getrandbits(96):024x}", "object": "event", "type": type_, "created": when,
        "livemode": body["livemode"], "api_version": "2025-03-31.basil", "data": {"object": body},
    }  # fmt: skip
    if body["id"].endswith("7"):
        event["account"] = "acct_connected"
    own = {**without(body, "client_secret", "lines", "items")}
    own |= {"stripe_account": "acct_connected"} if "account" in event else {}
    gone = type_.endswith(".deleted")
    facts = [Fact(f"stripe_{table}", "full_gone" if gone else "row", (body["id"],), when.ns, 0, rank, own)]
    if child is not None:
        children, name, parent = child
        rows = {} if gone else members(parent, body["id"], body[name]["data"], "id")
        complete = gone or not body[name]["has_more"]
        facts.append(
            Fact(f"stripe_{children}", "set", (body["id"],), when.ns, 0, rank, members=rows, complete=complete)
        )
    test = body["livemode"] is False
    return Delivery("stripe", "stripe", dumps(event), {}, tuple(facts), test=test)


def _object(rng: Random, kind: str, prefix: str) -> Body:
    return {
        "id": f"{prefix}_{rng.getrandbits(64):016d}", "object": kind, "created": at(0, "epoch"),
        "livemode": rng.random() < 0.9, "metadata": {"note": text(rng)}, "currency": "eur",
    }  # fmt: skip


def _list(rng: Random, prefix: str, parent: str, of: list[int]) -> Body:
    data = [
        {"id": f"{prefix}_{parent}_{i}", "object": "item", "quantity": rng.randint(1, 5), "metadata": {"i": i}}
        for i in of
    ]
    return {"object": "list", "data": data, "has_more": rng.random() < 0.2}


def _invoice(rng: Random) -> Iterator[Delivery]:
    """Made, finalized and paid, often within one second."""
    body, moment = _object(rng, "invoice", "in"), float(rng.randrange(10**6))
    child, pause = ("invoice_lines", "lines", "invoice_id"), rng.choice((0, 0, 60))
    for rank, (did, status) in enumerate((("created", "draft"), ("finalized", "open"), ("paid", "paid"))):
        body |= {"status": status, "total": rng.randrange(10**12), "attempted": rank == 2, "number": text(rng)}
        body["lines"] = _list(rng, "il", body["id"], rng.sample(range(5), rng.randint(0, 4)))
        yield _stripe(rng, f"invoice.{did}", dict(body), moment + rank * pause, "invoices", rank, child)
    if rng.random() < 0.2:
        yield _stripe(rng, "invoice.deleted", dict(body), moment + 500, "invoices", 9, child)


def _subscription(rng: Random) -> Iterator[Delivery]:
    body, moment = _object(rng, "subscription", "sub"), 0.0
    child = ("subscription_items", "items", "subscription_id")
    for moment in steps(rng, 4):
        body |= {"status": "active", "cancel_at": at(moment, "epoch"), "customer": f"cus_{moment}"}
        body["items"] = _list(rng, "si", body["id"], rng.sample(range(4), rng.randint(1, 3)))
        yield _stripe(rng, "customer.subscription.updated", dict(body), moment, "subscriptions", 1, child)
    if rng.random() < 0.3:
        body["status"] = "canceled"
        yield _stripe(rng, "customer.subscription.deleted", dict(body), moment + 9, "subscriptions", 9, child)


def _payer(rng: Random) -> Iterator[Delivery]:
    body, moment = _object(rng, "customer", "cus"), 0.0
    for moment in steps(rng, 4):
        body |= {"email": text(rng), "balance": -rng.randrange(10**10), "delinquent": rng.random() < 0.5}
        body["address"] = rng.choice((None, {"city": text(rng), "lines": [1, 2.5, None, True]}))
        yield _stripe(rng, "customer.updated", dict(body), moment, "customers", 1)
    if rng.random() < 0.3:
        yield _stripe(rng, "customer.deleted", dict(body), moment + 9, "customers", 9)


def _intent(rng: Random) -> Iterator[Delivery]:
    body = _object(rng, "payment_intent", "pi") | {"client_secret": "pi_secret_of_the_buyer", "amount": 10**14}
    moment = float(rng.randrange(10**6))
    for rank, status in enumerate(("requires_payment_method", "processing", "succeeded")):
        name = {"processing": "processing", "succeeded": "succeeded"}.get(status, "created")
        yield _stripe(rng, f"payment_intent.{name}", {**body, "status": status}, moment, "payment_intents", rank)


def stripe(rng: Random) -> Iterator[Delivery]:
    """One object's life."""
    yield from rng.choice((_invoice, _invoice, _subscription, _payer, _intent))(rng)


# --- WooCommerce ----------------------------------------------------------------------------------------

_WOO_LISTS = {
    "line_items": "order_line_items", "coupon_lines": "order_coupon_lines", "refunds": "order_refunds",
    "shipping_lines": "order_shipping_lines", "fee_lines": "order_fee_lines", "tax_lines": "order_tax_lines",
}  # fmt: skip


def _woo(rng: Random, topic: str, body: Body, table: str, lists: Mapping[str, str]) -> Delivery:
    """A deletion and a restoration have no time of their own: they are ordered by their receipt."""
    action, key = topic.partition(".")[2], (str(body["id"]),)
    headers = {
        "X-WC-Webhook-Topic": topic,
        "X-WC-Webhook-Delivery-ID": f"{rng.getrandbits(128):032x}",
        "X-WC-Webhook-Source": "https://imkerei.example/",
    }
    if action == "deleted":
        facts = [Fact(f"woo_{table}", "gone", key, None, 0, 99)]
        facts += [Fact(f"woo_{child}", "set", key, None, 0, 99) for child in lists.values()]
        return Delivery("woo", "woocommerce", dumps(body), headers, tuple(facts))
    when = None if action == "restored" else body["date_modified_gmt"].ns
    rank = ("created", "updated", "restored").index(action)
    facts = [Fact(f"woo_{table}", "row", key, when, 0, rank, without(body, *lists))]
    for name, child in lists.items():
        if name in body:
            rows = members("order_id", body["id"], body[name], "id")
            facts.append(Fact(f"woo_{child}", "set", key, when, 0, rank, members=rows))
    return Delivery("woo", "woocommerce", dumps(body), headers, tuple(facts))


def _woo_life(
    rng: Random, resource: str, identity: int, lists: Mapping[str, str], fill: Any
) -> Iterator[Delivery]:
    table, body = f"{resource}s", {}
    for number, moment in enumerate(steps(rng, 4)):
        gmt = at(moment, "bare")
        body = {"id": identity, "date_created_gmt": at(0, "bare"), "date_modified_gmt": gmt, **fill(rng)}
        topic = f"{resource}.{'updated' if number else 'created'}"
        yield _woo(rng, topic, body, table, lists)
        if rng.random() < 0.2:  # updated in the same second
            yield _woo(rng, f"{resource}.updated", {**body, **fill(rng)}, table, lists)
            break
    if rng.random() < 0.3:
        yield _woo(rng, f"{resource}.deleted", {"id": identity}, table, lists)
        if resource != "customer" and rng.random() < 0.5:
            yield _woo(rng, f"{resource}.restored", {**body, **fill(rng)}, table, lists)


def _woo_order(rng: Random) -> Body:
    lines = [
        {
            "id": i,
            "name": text(rng),
            "quantity": rng.randint(1, 9),
            "total": amount(rng),
            "price": Number("12.3456789"),
        }
        for i in rng.sample(range(1, 6), rng.randint(0, 4))
    ]
    return {
        "status": rng.choice(("processing", "completed")), "total": amount(rng), "customer_note": text(rng),
        "prices_include_tax": False, "date_paid_gmt": rng.choice((None, at(5, "bare"))), "line_items": lines,
        "billing": {"city": text(rng)}, "meta_data": [{"id": 1, "key": "a", "value": [1, {"b": None}]}],
        "coupon_lines": [{"id": i, "code": f"c{i}", "discount": amount(rng)} for i in range(rng.randint(0, 2))],
        "refunds": [{"id": i, "reason": text(rng), "total": Money("-1.50")} for i in range(rng.randint(0, 2))],
        "shipping_lines": [], "fee_lines": [], "tax_lines": [],
    }  # fmt: skip


def _woo_product(rng: Random) -> Body:
    return {
        "name": text(rng), "sku": text(rng), "price": amount(rng), "stock_quantity": rng.randrange(99),
        "featured": rng.random() < 0.5, "tags": [{"id": 1, "name": text(rng)}], "variations": [1, 2],
    }  # fmt: skip


def _woo_customer(rng: Random) -> Body:
    return {"email": text(rng), "total_spent": amount(rng), "is_paying_customer": True, "orders_count": 3}


def woo(rng: Random) -> Iterator[Delivery]:
    """One object's life; ids are small, and those of an order and of a product may be the same."""
    kinds = (("order", _WOO_LISTS, _woo_order), ("product", {}, _woo_product), ("customer", {}, _woo_customer))
    resource, lists, fill = rng.choice((kinds[0], *kinds))
    yield from _woo_life(rng, resource, rng.randrange(10**9), lists, fill)
