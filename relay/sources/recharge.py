"""Recharge: subscriptions, charges and orders of a shop's recurring sales, customers and their addresses.

https://docs.getrecharge.com/docs/webhooks-overview and
https://developer.rechargepayments.com/2021-11/webhooks_endpoints

A body is what the API answers for the object, under its name: `{"charge": {…}}`. No header says the topic, so that
name is the type. Objects that a webhook was asked to include stand beside the first one, under their own names.
There are two schemes. The newer is a keyed hash over a time and the body. `X-Recharge-Hmac-Sha256` is, despite its
name, a plain hash of the secret and the body, and is looked at only by a setting, and where the newer is absent.
A retry is sent for two days, and may be two days old: hence the width of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid
from relay.mechanisms import Keyed, Place
from relay.records import NS, Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import AnyOf, Hmac, Timestamp, Verifier
from relay.source import Reply, Sample, Setting, Vendor, table

_CLOCK: Final = "updated_at, in seconds, else created_at; a deletion's receipt"
_PARENT: Final = "its parent's " + _CLOCK
_WINDOW_S: Final = 48 * 3600

# fmt: off
ADDRESSES = table(
    "addresses", "id", _CLOCK,
    id="id customer_id payment_method_id", instant="created_at updated_at",
    text="address1 address2 city company country country_code first_name last_name phone province zip order_note "
    "presentment_currency", json="discounts order_attributes shipping_lines_conserved shipping_lines_override",
)
CHARGES = table(
    "charges", "id", _CLOCK,
    id="id address_id", int="charge_attempts orders_count total_weight_grams",
    instant="created_at updated_at processed_at last_charge_attempt merged_at",
    money="subtotal_price total_discounts total_duties total_line_items_price total_price total_refunds total_tax",
    bool="has_uncommitted_changes taxable taxes_included",
    # Days of the shop's calendar, without a time.
    text="currency error error_type note payment_processor status tags type scheduled_at retry_date",
    json="analytics_data billing_address client_details customer discounts external_order_id "
    "external_transaction_id order_attributes shipping_address shipping_lines tax_lines",
)
ORDERS = table(
    "orders", "id", _CLOCK,
    id="id address_id", bool="is_prepaid taxable taxes_included", int="total_weight_grams",
    instant="created_at updated_at processed_at",
    money="subtotal_price total_discounts total_duties total_line_items_price total_price total_refunds total_tax",
    text="currency error external_cart_token note status tags type scheduled_at",
    json="billing_address charge client_details customer discounts external_order_id external_order_name "
    "external_order_number order_attributes shipping_address shipping_lines tax_lines",
)


def _lines(name: str, parent: str) -> Table:
    """A list inside an object; its members have no ids, so their places are a part of the key."""
    return table(
        name, f"{parent} position", _PARENT, parent, int="position quantity grams",
        id=f"{parent} purchase_item_id subscription_id", money="unit_price total_price tax_due",
        text="title variant_title sku purchase_item_type handle", bool="taxable unit_price_includes_tax",
        json="external_product_id external_variant_id images properties tax_lines original_unit_price",
    )


CHARGE_LINES = _lines("charge_line_items", "charge_id")
ORDER_LINES = _lines("order_line_items", "order_id")
CUSTOMERS = table(
    "customers", "id", _CLOCK,
    id="id", instant="created_at updated_at first_charge_processed_at", text="email first_name last_name phone",
    int="subscriptions_active_count subscriptions_total_count subscription_related_charge_streak",
    bool="accepts_marketing apply_credit_to_next_recurring_charge has_card_error_in_dunning "
    "has_valid_payment_method tax_exempt",
    json="analytics_data external_customer_id",
)
_ITEM: Final = {
    "id": "id address_id customer_id", "instant": "created_at updated_at", "money": "price",
    "json": "external_product_id external_variant_id properties",
}
ONETIMES = table(
    "onetimes", "id", _CLOCK,
    **_ITEM, int="quantity", bool="is_cancelled sku_override",
    text="next_charge_scheduled_at presentment_currency product_title sku type variant_title",
)
SUBSCRIPTIONS = table(
    "subscriptions", "id", _CLOCK,
    **{**_ITEM, "instant": _ITEM["instant"] + " cancelled_at", "json": _ITEM["json"] + " analytics_data"},
    int="quantity charge_interval_frequency order_interval_frequency order_day_of_month order_day_of_week "
    "expire_after_specific_number_of_charges",
    # Yes and no come as 0 and 1 in an older version of the API.
    text="cancellation_reason cancellation_reason_comments next_charge_scheduled_at order_interval_unit "
    "presentment_currency product_title sku status type variant_title",
    bool="has_queued_charges is_prepaid is_skippable is_swappable max_retries_reached sku_override",
)
# fmt: on
#: By the name under which a body has it.
TABLES: Final = {
    "address": ADDRESSES,
    "charge": CHARGES,
    "customer": CUSTOMERS,
    "onetime": ONETIMES,
    "order": ORDERS,
    "subscription": SUBSCRIPTIONS,
}
_LINES: Final = {"charge": CHARGE_LINES, "order": ORDER_LINES}
#: Of one second the later state wins.
_STATES: Final = ("queued", "pending", "skipped", "error", "success", "partially_refunded", "refunded")


#: The older scheme: a hash of the secret and the body behind it, not a keyed one.
PLAIN_HASH: Final = Keyed(Place(header="X-Recharge-Hmac-Sha256"), plain_hash=True, message="{secret}{body}")


def _verifier(settings: Mapping[str, Any]) -> Verifier:
    """The newer scheme, and behind it the older one where the operator allows that.

    Raises:
        ConfigInvalid: the setting is neither true nor false.
    """
    signed = Hmac(
        "X-Recharge-Webhook-Signature",
        pair="v1",
        message="{timestamp}.{body}",
        timestamp=Timestamp(tolerance_s=_WINDOW_S),
    )
    legacy = settings["legacy_hash"]
    if not isinstance(legacy, bool):
        raise ConfigInvalid(f"legacy_hash is true or false, not {legacy!r}")
    return AnyOf(signed, PLAIN_HASH) if legacy else signed


def _type(_request: Request, data: Any) -> str:
    """The name of the object: the first one that is known, else the first of all."""
    names = list(data) if isinstance(data, dict) else [""]
    return next((name for name in names if name in TABLES), names[0] if names else "")


def scrub(data: Any) -> Any:
    """The body without a customer's `hash`, which is a part of the link to the customer's portal."""
    return {name: _without_hash(name, part) for name, part in data.items()} if isinstance(data, dict) else data


def _without_hash(name: str, part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if name == "customer":
        return {key: value for key, value in part.items() if key != "hash"}
    inner = part.get("customer")
    return {**part, "customer": _without_hash("customer", inner)} if isinstance(inner, dict) else part


vendor = Vendor(
    title="Recharge",
    family="carts",
    docs="https://docs.getrecharge.com/docs/webhooks-overview",
    verify=_verifier,
    type=_type,
    tables=(*TABLES.values(), *_LINES.values()),
    scrub=scrub,
    # "respond with a 200 OK", within five seconds: the page in `docs`.
    reply=Reply(),
    settings={
        "legacy_hash": Setting(
            help="Also accept the older `X-Recharge-Hmac-Sha256`, a plain hash without a time, on deliveries that "
            "lack `X-Recharge-Webhook-Signature`.",
            default=False,
        )
    },
    setup=(
        "POST https://api.rechargeapps.com/webhooks for each topic: this URL as `address`, version 2021-11.",
        "The secret: the API client secret on the token's page, under Integrations → API tokens; not the token.",
    ),
    deletes="A body that holds nothing but an id marks the row deleted; it keeps what it held.",
    limits=(
        "nothing says the topic: a deletion that comes with the whole object looks like any other change",
        "times are whole seconds, and have no zone in version 2021-01: they are read as UTC",
        "there is no delivery id: repetitions are told by content, for minutes",
    ),
    proof="library: stripe, of the same scheme",
    # Twenty tries in two days, then the webhook itself is deleted: the page in `docs`, under retries.
    fragile=True,
)


@vendor.maps(*TABLES)
def changed(event: Event) -> Iterator[Record]:
    """The object that the event is about, and those that were included whole."""
    for name, into in TABLES.items():
        found = event.data.get(name)
        if isinstance(found, dict):
            yield from _object(name, into, found)
        elif name == event.type:
            raise TypeError(f"{name} is not an object")


def _object(name: str, into: Table, found: dict[str, Any]) -> Iterator[Record]:
    identity, lines = found["id"], _LINES.get(name)
    if identity is None:
        raise KeyError("id")
    if len(found) == 1:
        yield into.gone({"id": identity})
        if lines is not None:
            yield lines.children({lines.parent[0]: identity}, (), rank=99)
        return
    read = (instant_ns(found.get(time)) for time in ("updated_at", "created_at"))
    at = next((ns for ns in read if ns is not None), None)
    version: dict[str, Any] = {"at": at, "rank": _rank(name, found)}
    left_out = {"line_items"} if lines is not None else set()
    yield into.row({key: value for key, value in found.items() if key not in left_out}, **version)
    items = found.get("line_items")
    if lines is not None and isinstance(items, list):
        members = [{**item, "position": position} for position, item in enumerate(items, 1)]
        yield lines.children({lines.parent[0]: identity}, members, **version)


def _rank(name: str, found: Mapping[str, Any]) -> int:
    """How far a charge is; other objects go to and fro."""
    status = found.get("status")
    known = name == "charge" and isinstance(status, str) and status.lower() in _STATES
    return _STATES.index(status.lower()) + 1 if known and isinstance(status, str) else 0


# --- samples ------------------------------------------------------------------------------------------


def _iso(now: int) -> str:
    return f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S+00:00}"


def _person(n: int) -> dict[str, Any]:
    return {"id": 90_300_000 + n % 500, "email": f"ida.{n % 500}@example.com",
            "external_customer_id": {"ecommerce": str(5_500_000_000_000 + n % 500)}}  # fmt: skip


def _place(n: int) -> dict[str, Any]:
    return {"first_name": "Ida", "last_name": "Brandt", "address1": f"Mühlenweg {1 + n % 90}", "zip": "14467",
            "city": "Potsdam", "country_code": "DE", "company": None, "phone": "+49 331 5550100"}  # fmt: skip


def _item(n: int) -> dict[str, Any]:
    return {"external_product_id": {"ecommerce": str(7_700_000_000_000 + n % 30)}, "quantity": 1 + n % 3,
            "external_variant_id": {"ecommerce": str(44_000_000_000_000 + n % 30)}, "sku": "TEA-100",
            "variant_title": "", "properties": []}  # fmt: skip


def _sale(n: int) -> dict[str, Any]:
    lines = [
        {
            **_item(n + i),
            "title": f"Tee {i}",
            "unit_price": "12.00",
            "total_price": "12.00",
            "tax_due": "0.00",
            "purchase_item_id": 160_000_000 + 2 * n + i,
            "purchase_item_type": "subscription",
        }
        for i in range(2)
    ]
    return {"address_id": 71_100_000 + n, "currency": "EUR", "customer": _person(n), "line_items": lines,
            "subtotal_price": "24.00", "total_price": "28.90", "total_tax": "3.84", "total_refunds": None,
            "shipping_address": _place(n), "scheduled_at": "2026-03-01", "type": "recurring"}  # fmt: skip


#: The object's name -> what a sample of it holds beside id and times.
_SAMPLES: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "address": lambda n: {**_place(n), "customer_id": 90_300_000 + n % 500, "discounts": []},
    "charge": lambda n: {**_sale(n), "status": "success", "payment_processor": "shopify_payments"},
    "customer": lambda n: {**_person(n), "first_name": "Ida", "last_name": "Brandt", "tax_exempt": False},
    "onetime": lambda n: {**_item(n), "address_id": 71_100_000 + n, "price": "6.00", "product_title": "Tasse"},
    "order": lambda n: {**_sale(n), "status": "success", "charge": {"id": 501_000_000 + n}, "is_prepaid": False},
    "subscription": lambda n: {**_item(n), "address_id": 71_100_000 + n, "customer_id": 90_300_000 + n % 500,
                               "price": "12.00", "product_title": "Tee im Monat", "status": "active",
                               "order_interval_unit": "month", "order_interval_frequency": 1},
}  # fmt: skip


def _sample_of(name: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        times = {"created_at": _iso(now - 86_400 * NS), "updated_at": _iso(now)}
        return Sample({name: {**_SAMPLES[name](n), "id": 501_000_000 + n, **times}})

    return sample


for _name in TABLES:
    vendor.sample(_name)(_sample_of(_name))
