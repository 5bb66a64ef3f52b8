"""Adobe Commerce (Magento): what its events say of orders, products, customers, stock; and calls of its webhooks.

Two products send here, and a source speaks one of them (`delivery`). I/O Events are sent after something was
stored, one or a list at a time; Adobe signs the body with two RSA keys, of which either suffices. All customers
have the same two, so `recipient_client_id` must be yours. Webhooks are calls of a shop in the midst of a request:
it waits for an answer, signs the base64 of the body with a key of its own, and says neither what it is about nor
when.
https://developer.adobe.com/events/docs/guides/
https://developer.adobe.com/commerce/extensibility/events/
https://developer.adobe.com/commerce/extensibility/webhooks/signature-verification/
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.publickeys import RSA, Ring, Signed
from relay.records import NS, Event, Record, Request, Table, decode_json, encode_json, instant_ns, instant_of_ns
from relay.signatures import Verifier, same
from relay.source import Reply, Sample, Setting, Vendor, table

_RECIPIENT: Final = "recipient_client_id"
_PREFIX: Final = "com.adobe.commerce.observer."
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CLOCK: Final = "the event's time (milliseconds), then updated_at (seconds)"

# fmt: off
_TOTALS = "base_grand_total grand_total subtotal shipping_amount tax_amount discount_amount"
#: What stands before `_save_commit_after` and `_delete_commit_after` in an event's type -> the table.
TABLES: Final[Mapping[str, Table]] = {
    "sales_order": table(
        "orders", "entity_id", _CLOCK,
        id="entity_id increment_id real_order_id store_id customer_id customer_group_id quote_id",
        money=f"{_TOTALS} total_paid total_refunded total_due", number="total_qty_ordered weight",
        text="state status order_currency_code base_currency_code customer_email customer_firstname "
        "customer_lastname coupon_code shipping_method shipping_description remote_ip store_name",
        bool="is_virtual customer_is_guest", instant="created_at updated_at", json="items addresses payment"),
    "sales_order_invoice": table(
        "invoices", "entity_id", _CLOCK, id="entity_id increment_id order_id store_id transaction_id state",
        money=_TOTALS, instant="created_at updated_at", json="items comments"),
    "sales_order_shipment": table(
        "shipments", "entity_id", _CLOCK, id="entity_id increment_id order_id store_id customer_id",
        number="total_qty total_weight", instant="created_at updated_at", json="items tracks comments packages"),
    "sales_order_creditmemo": table(
        "credit_memos", "entity_id", _CLOCK, id="entity_id increment_id order_id invoice_id store_id state",
        money=f"{_TOTALS} adjustment", instant="created_at updated_at", json="items comments"),
    "catalog_product": table(
        "products", "sku", _CLOCK, id="entity_id attribute_set_id store_id visibility tax_class_id",
        text="sku name type_id status url_key description short_description", number="weight",
        money="price special_price cost", instant="created_at updated_at special_from_date special_to_date",
        json="stock_data category_ids website_ids media_gallery extension_attributes"),
    "catalog_category": table(
        "categories", "entity_id", _CLOCK, id="entity_id parent_id attribute_set_id store_id",
        text="name path url_key url_path", int="position level children_count", bool="is_active include_in_menu",
        instant="created_at updated_at"),
    "customer": table(
        "customers", "entity_id", _CLOCK, id="entity_id group_id store_id website_id default_billing "
        "default_shipping", text="email firstname lastname middlename prefix suffix dob gender taxvat created_in",
        bool="is_active", instant="created_at updated_at", json="addresses extension_attributes"),
    "customer_group": table(
        "customer_groups", "customer_group_id", _CLOCK, id="customer_group_id tax_class_id",
        text="customer_group_code"),
    "cataloginventory_stock_item": table(
        "stock_items", "product_id", _CLOCK, id="product_id item_id stock_id website_id",
        number="qty min_qty min_sale_qty max_sale_qty notify_stock_qty", bool="is_in_stock manage_stock",
        int="backorders"),
}
CALLS = table("webhook_calls", "call_id", "the delivery's receipt", text="call_id event", json="payload")
# fmt: on


class SignedForClient:
    """Adobe's signature of I/O Events, and the client that each event is for.

    Args:
        client_id: the only one whose events are taken.
    """

    def __init__(self, client_id: Any) -> None:
        self.client_id = client_id if isinstance(client_id, str) else ""
        self.signed = Signed("X-Adobe-Digital-Signature-1", "X-Adobe-Digital-Signature-2", ring=Ring(RSA))
        self.scheme, self.test_secret = f"{self.signed.scheme}, for one {_RECIPIENT}", self.signed.test_secret

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        self.signed.verify(request, secrets, now)
        if not self.client_id:
            raise Unauthenticated(
                f"no client is configured: put the project's client id into the source's `{_RECIPIENT}`",
                reason="secret_malformed",
            )
        try:
            data = decode_json(request.body)
        except MalformedPayload:
            data = None
        items = data if isinstance(data, list) else [data]
        given = [item.get(_RECIPIENT) if isinstance(item, dict) else None for item in items]
        if not given or not all(isinstance(one, str) and same(one, self.client_id) for one in given):
            raise Unauthenticated("an event is for another client", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`; needs a private key."""
        return self.signed.sign(request, secret, now)


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The scheme of what is sent.

    Raises:
        ConfigInvalid: there is no such thing.
    """
    if settings["delivery"] == "events":
        return SignedForClient(settings[_RECIPIENT])
    if settings["delivery"] != "webhooks":
        raise ConfigInvalid(f"delivery is webhooks or events, not {settings['delivery']!r}")
    return Signed("X-Adobe-Commerce-Webhook-Signature", ring=Ring(RSA), message="{body_base64}")


def handshake(request: Request, _secrets: tuple[str, ...], _settings: Mapping[str, Any]) -> Reply | None:
    """Answers `GET ?challenge=…` of I/O Events with the challenge, where it is of a challenge's shape."""
    if request.method != "GET" or "challenge" not in request.query:
        return None
    challenge = request.query["challenge"]
    return Reply(200, challenge.encode()) if _CHALLENGE.fullmatch(challenge) else Reply(400)


def read(request: Request, data: Any) -> Iterator[Event]:
    """Each event of I/O Events by itself, so that a bad one never fails its siblings; or the call of a webhook.

    Raises:
        MalformedPayload: the body is neither an object nor a list.
    """
    if not isinstance(data, (dict, list)):
        raise MalformedPayload("the body is neither an object nor a list", reason="not_an_object")
    if isinstance(data, dict) and _RECIPIENT not in data and "specversion" not in data:
        call = {"event": request.query.get("event"), "payload": data}
        yield Event(type="webhook", data=call, dedup="content")
        return
    for item in data if isinstance(data, list) else [data]:
        known: dict[str, Any] = item if isinstance(item, dict) else {}
        type_, id_ = known.get("type"), known.get("event_id")
        told = isinstance(id_, str) and id_ != ""
        yield Event(
            type=type_ if isinstance(type_, str) and type_ else "unknown",
            data=item,
            id=str(id_) if told else "",
            at=instant_ns(known.get("time")),
            dedup="id" if told else "content",
        )


vendor = Vendor(
    title="Adobe Commerce",
    family="carts",
    docs="https://developer.adobe.com/commerce/extensibility/",
    verify=verifier,
    events=read,
    tables=(*TABLES.values(), CALLS),
    handshake=handshake,
    # A shop waits for the answer to its webhook, and goes on by it. I/O Events take any 2xx.
    reply=Reply(200, b'{"op":"success"}', "application/json"),
    settings={
        "delivery": Setting(help="`webhooks` of the shop, or `events` of Adobe I/O Events.", default="webhooks"),
        _RECIPIENT: Setting(
            help="Of `events`: the client id of the project in the Adobe Developer Console, see its credential. "
            "Without it all is refused, for Adobe signs the events of all customers with the same keys."
        ),
    },
    setup=(
        "Webhooks: Stores → Configuration → Adobe Services → Webhooks → Digital Signature: enable it, regenerate.",
        "The secret: the public key shown there. Put ?event=<the method's name> behind this URL in the webhook.",
        "Or I/O Events: `delivery: events`; Developer Console → project → event registration → Webhook: this URL.",
        "The secrets: both keys at static.adobeioevents.com, in PEM; deliveries name their paths in headers.",
        f"`{_RECIPIENT}`: the project's client id.",
    ),
    deletes="`*_delete_commit_after` marks the row deleted.",
    limits=(
        "only the fields of an event's subscription are sent: name all that you want, and the key",
        "products are known by their sku: one that is renamed becomes another row",
        "a webhook may be called before anything is stored: its calls become `webhook_calls`, nothing else",
        "I/O Events never repeats what was refused with 401: set the keys before you register",
    ),
    proof="vector: adobe.aio-lib-events",
    # Webhooks are never repeated; I/O Events drops what is refused other than by 429 or 5xx
    # (https://developer.adobe.com/events/docs/common/retry-doc).
    fragile=True,
)


@vendor.maps(*(f"{_PREFIX}{name}_{did}_commit_after" for name in TABLES for did in ("save", "delete")))
def stored(event: Event) -> Iterator[Record]:
    """What was stored or deleted, as far as the subscription names its fields.

    Raises:
        KeyError: there is no value, or it lacks the table's key.
    """
    name, _, did = event.type.removeprefix(_PREFIX).removesuffix("_commit_after").rpartition("_")
    found, row = TABLES[name], dict(event.data["data"]["value"])
    (key,) = found.key
    if row[key] in ("", None):
        raise KeyError(key)
    updated = (instant_ns(row.get("updated_at")) or 0) // NS
    if did == "delete":
        yield found.gone({key: row[key]}, at=event.at, sequence=updated)
    else:
        yield found.row(row, at=event.at, sequence=updated)


@vendor.maps("webhook")
def call(event: Event) -> Iterator[Record]:
    """A call of a webhook as it came; two of the same content are one."""
    digest = hashlib.sha256(encode_json([event.data["event"], event.data["payload"]])).hexdigest()
    yield CALLS.row({"call_id": digest, **event.data})


# --- samples ------------------------------------------------------------------------------------------


def _value(name: str, n: int, at: str) -> dict[str, Any]:
    times = {"created_at": at, "updated_at": at}
    money = {"base_grand_total": f"{n % 900}.9500", "grand_total": f"{n % 900}.9500", "order_currency_code": "EUR"}
    about: dict[str, dict[str, Any]] = {
        "sales_order": {
            "increment_id": f"{n:09d}", "state": "new", "status": "pending", "store_id": "1", **money,
            "customer_email": f"kunde{n}@mail.example", "items": [{"sku": f"SKU-{n}", "qty_ordered": "2.0000"}],
        },
        "catalog_product": {
            "sku": f"SKU-{n}", "name": f"Becher {n}", "type_id": "simple", "price": f"{n % 90}.5000",
            "stock_data": {"qty": str(n % 50)},
        },
        "catalog_category": {"name": f"Becher {n}", "path": f"1/2/{n}", "level": "2", "is_active": True},
        "customer": {"email": f"kunde{n}@mail.example", "firstname": "Ida", "lastname": f"Brandt {n}"},
        "customer_group": {"customer_group_id": str(n), "customer_group_code": f"Großhandel {n}"},
        "cataloginventory_stock_item": {"product_id": str(n), "qty": str(n % 50), "is_in_stock": True},
    }  # fmt: skip
    return {
        "entity_id": str(n),
        **times,
        **about.get(name, {"order_id": str(n), "increment_id": f"{n:09d}", **money}),
    }


def _sample_of(type_: str) -> Any:
    name = type_.removeprefix(_PREFIX).removesuffix("_commit_after").rpartition("_")[0]

    def sample(n: int, now: int) -> Sample:
        moment = instant_of_ns(now)
        value = _value(name, n, f"{moment:%Y-%m-%d %H:%M:%S}")
        at = f"{moment:%Y-%m-%dT%H:%M:%S}.{now % NS // 10**6:03d}Z"
        id_ = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{type_}/{n}/{now}"))
        return Sample(
            {
                "specversion": "1.0", "id": id_, "event_id": id_, "type": type_, "source": "urn:uuid:nordlicht",
                "datacontenttype": "application/json", "time": at,
                _RECIPIENT: "f51ea733ba404db299fefbf285dc0001",
                "data": {"key": id_, "value": value, "source": "nordlicht.prod", "_metadata": {"storeId": "1"}},
            },
            content_type="application/cloudevents+json",
        )  # fmt: skip

    return sample


for _name in TABLES:
    for _did in ("save", "delete"):
        vendor.sample(f"{_PREFIX}{_name}_{_did}_commit_after")(_sample_of(f"{_PREFIX}{_name}_{_did}_commit_after"))


@vendor.sample("webhook")
def call_sample(n: int, _now: int) -> Sample:
    """A cart that is about to be ordered."""
    return Sample({"cartId": str(n), "address": {"city": "Lübeck", "postcode": "23552", "country_id": "DE"}})
