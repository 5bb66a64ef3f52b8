"""HubSpot: what happened to CRM objects, their properties, associations and merges; bodies of workflows.

An app's subscriptions send arrays of small events, each of one property or one step of an object's life, so no
event is a whole object: a changed property becomes a row of its own, and an object's row says only how it lives.
A workflow's “Send a webhook” action sends the whole object instead, and with a token it is fetched.
https://developers.hubspot.com/docs/guides/api/app-management/webhooks
https://developers.hubspot.com/docs/guides/apps/authentication/validating-requests
https://developers.hubspot.com/docs/guides/crm/using-object-apis
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.mechanisms import Keyed, Place
from relay.records import Event, Record, Request, Table, Type, encode_json, instant_ns
from relay.signatures import Hmac, Timestamp, Verifier, with_headers
from relay.source import FETCHED, Fetch, Sample, Setting, Vendor, api, table

_CLOCK: Final = "occurredAt (milliseconds)"
#: What happened at one millisecond: an object is made before it is merged, restored or deleted.
_CREATED, _CHANGED, _MERGED, _RESTORED, _DELETED = 0, 0, 10, 20, 90
#: `object.creation` and `contact.creation` are the same news in two formats, so both go by one name.
_NAMES: Final = {
    "0-1": "contact", "0-2": "company", "0-3": "deal", "0-5": "ticket", "0-7": "product", "0-8": "line_item",
}  # fmt: skip
_TYPE_IDS: Final = {name: type_id for type_id, name in _NAMES.items()}
#: What tells two events apart. `eventId` alone is not unique, and a retry changes `attemptNumber`.
_IDENTITY: Final = (
    *("portalId", "appId", "subscriptionId", "subscriptionType", "eventId", "occurredAt", "objectId"),
    *("objectTypeId", "propertyName", "propertyValue", "messageId", "associationType", "associationTypeId"),
    *("fromObjectId", "toObjectId", "associationRemoved", "primaryObjectId", "newObjectId", "mergedObjectIds"),
)
_EVENT: Final = "appId eventId subscriptionId"
_CHANGE: Final = "subscriptionType changeFlag changeSource sourceId objectTypeId"

# fmt: off
OBJECTS = table(
    "objects", "portalId objectType objectId", _CLOCK,
    id=f"portalId objectId {_EVENT}", text=f"objectType {_CHANGE}", instant="occurredAt",
)
PROPERTIES = table(
    "properties", "portalId objectType objectId propertyName", _CLOCK, "portalId objectType objectId",
    id=f"portalId objectId {_EVENT}", text=f"objectType propertyName propertyValue {_CHANGE}",
    bool="isSensitive", instant="occurredAt",
)
ASSOCIATIONS = table(
    "associations", "portalId associationType associationTypeId fromObjectId toObjectId", _CLOCK,
    id=f"portalId fromObjectId toObjectId objectId associationTypeId {_EVENT}",
    text=f"associationType associationCategory fromObjectTypeId toObjectTypeId {_CHANGE}",
    bool="associationRemoved isPrimaryAssociation", instant="occurredAt",
)
#: One row for each object that a merge made vanish; it vanishes but once.
MERGES = table(
    "merges", "portalId objectType mergedObjectId", _CLOCK,
    id=f"portalId mergedObjectId survivingObjectId primaryObjectId newObjectId objectId {_EVENT}",
    text=f"objectType {_CHANGE}", int="numberOfPropertiesMoved", json="mergedObjectIds", instant="occurredAt",
)
MESSAGES = table(
    "conversation_messages", "portalId objectId messageId", _CLOCK, "portalId objectId",
    id=f"portalId objectId messageId {_EVENT}", text=f"messageType {_CHANGE}", instant="occurredAt",
)
WORKFLOWS = table(
    "workflow_objects", "portalId objectType objectId",
    "the object's hs_lastmodifieddate or lastmodifieddate, else the delivery's receipt",
    id="portalId objectId", text="objectType objectTypeId profile_url", int="version",
    bool="isDeleted is_contact",
    json="properties associations form_submissions list_memberships identity_profiles merge_audits",
)


_NUMBERS: Final = dict.fromkeys(("amount", "price", "discount", "annualrevenue"), Type.MONEY) | dict.fromkeys(
    ("quantity", "numberofemployees"), Type.NUMBER)
_OWN: Final = dict.fromkeys(("portalId", "objectId"), Type.ID) | {"archived": Type.BOOL} | dict.fromkeys(
    ("createdAt", "updatedAt", "archivedAt"), Type.INSTANT)


def _whole(name: str, asked: str) -> Table:
    """A table of fetched objects, with the properties that are asked for."""
    types = {n: _NUMBERS.get(n, Type.INSTANT if n.endswith("date") else Type.TEXT) for n in asked.split()}
    types |= {"hubspot_owner_id": Type.ID, "createdate": Type.INSTANT}
    return Table(name, ("portalId", "objectId"), "updatedAt (milliseconds)", {**_OWN, **types})


WHOLE: Final = {
    "contact": _whole("contacts", "email firstname lastname phone mobilephone company jobtitle website address "
                      "city state zip country lifecyclestage hs_lead_status"),
    "company": _whole("companies", "name domain phone website industry annualrevenue numberofemployees address "
                      "city state zip country lifecyclestage"),
    "deal": _whole("deals", "dealname dealstage pipeline dealtype amount deal_currency_code closedate"),
    "ticket": _whole("tickets", "subject content hs_pipeline hs_pipeline_stage hs_ticket_priority "
                     "hs_ticket_category source_type closed_date"),
    "product": _whole("products", "name description hs_sku price"),
    "line_item": _whole("line_items", "name hs_sku hs_product_id quantity price amount discount"),
}
# fmt: on
_ID, _PROPERTY = re.compile(r"[0-9]{1,19}"), re.compile(r"[a-z][a-z0-9_]{0,99}")
_WHEN: Final = ("creation", "propertyChange", "restore", "merge")
_THIN: Final = tuple(f"{kind}.{what}" for kind in ("object", *WHOLE) for what in _WHEN)


class SignedV3(Hmac):
    """An HMAC over method, URL, body and time; of the URL, some escapes are undone before it is signed."""

    #: Exactly those that HubSpot lists, each once; any other escape is signed as it stands in the URL.
    _ESCAPES: Final = re.compile("%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)")

    def __init__(self) -> None:
        timestamp = Timestamp(header="X-HubSpot-Request-Timestamp", unit="ms")
        message = "{method}{url}{body}{timestamp}"
        super().__init__("X-HubSpot-Signature-v3", encoding="base64", message=message, timestamp=timestamp)

    def _message(self, request: Request, stamp: str) -> bytes:
        url = self._ESCAPES.sub(lambda escape: chr(int(escape[0][1:], 16)), request.url)
        return super()._message(msgspec.structs.replace(request, url=url), stamp)


class PlainHash(Keyed):
    """The older versions: SHA-256 of secret and message, not keyed, not timed; only where a setting asks.

    Whoever has one such hash can make that of a longer message. What is longer begins with the same body and goes
    on with padding that no JSON can hold, so such a body is never read as an event.
    """

    _VERSION: Final = "x-hubspot-signature-version"

    def __init__(self, version: str) -> None:
        message = "{secret}{body}" if version == "v1" else "{secret}{method}{url}{body}"
        super().__init__(Place(header="X-HubSpot-Signature"), plain_hash=True, message=message)
        self._version = version
        self.scheme = f"sha256 hex of secret{'' if version == 'v1' else ', method, url'} and body ({version})"

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`; a delivery of the other version is refused, not tried."""
        if self.header in request.headers and request.headers.get(self._VERSION, "") != self._version:
            raise Unauthenticated(f"the signature is not {self._version}", reason="signature_malformed")
        super().verify(request, secrets, now)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`."""
        return with_headers(super().sign(request, secret, now), {self._VERSION: self._version})


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The one version that the operator chose; a sender cannot choose an older one."""
    version = settings["signature"]
    if version == "v3":
        return SignedV3()
    if version in {"v1", "v2"}:
        return PlainHash(version)
    raise ConfigInvalid(f"signature is v3, v2 or v1, not {version!r}")


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each event of a batch for itself, so that a bad one never fails the others; or one workflow's object.

    Raises:
        MalformedPayload: the body is neither an array nor an object.
    """
    if isinstance(data, dict) and "subscriptionType" not in data:
        yield Event(type="workflow" if "properties" in data else "unknown", data=data, dedup="content")
        return
    if not isinstance(data, (dict, list)):
        raise MalformedPayload("the body is neither an array nor an object", reason="not_an_array")
    for item in data if isinstance(data, list) else [data]:
        yield _event(item)


def _event(item: Any) -> Event:
    type_ = item.get("subscriptionType") if isinstance(item, dict) else None
    if not isinstance(type_, str) or not type_:
        return Event(type="unknown", data=item, dedup="content")
    identity = encode_json([item.get(name) for name in _IDENTITY])
    return Event(
        type=type_,
        data=item,
        id=hashlib.blake2b(identity, digest_size=16).hexdigest(),
        at=instant_ns(item.get("occurredAt")),
    )


vendor = Vendor(
    title="HubSpot",
    family="helpdesk",
    docs="https://developers.hubspot.com/docs/guides/api/app-management/webhooks",
    verify=verifier,
    events=read,
    tables=(OBJECTS, PROPERTIES, ASSOCIATIONS, MERGES, MESSAGES, WORKFLOWS, *WHOLE.values()),
    settings={
        **api("https://api.hubapi.com", 5),
        "api_token": Setting("A private app's access token; with it objects are fetched whole.", secret=True),
        "portal_id": Setting("The portal whose token that is, where an app has several.", ""),
        "properties": Setting("More properties to fetch, by kind: `{contact: [hs_persona]}`.", {}),
        "signature": Setting(
            "v3 (default), or v2 or v1 where v3 does not come: those are plain hashes and can be replayed.", "v3"
        ),
    },
    setup=(
        "Your app → Webhooks: this URL as the target URL, and the subscriptions.",
        "Set the source's `public_url` to the target URL, letter by letter: it is part of what is signed.",
        "The secret: the app's client secret, under Auth.",
        "For whole objects: a workflow's action “Send a webhook”, POST, signed with the same app's secret.",
    ),
    deletes="The object's row is marked deleted with the rows of its properties and messages.",
    limits=(
        "a subscription says what changed, never the whole object: workflows send it, and `api_token` fetches it",
        "custom objects are not fetched, nor associations",
        "a restored object's properties come back as they next change",
        "contact.privacyDeletion marks rows deleted; `relay forget` removes what they held",
        "HubSpot sends REDACTED in place of a sensitive property's value",
        "a workflow whose body is not the whole object (chosen fields) is counted, and becomes no row",
    ),
    proof="vector: hubspot.v3.py, hubspot.v2.docs, hubspot.v2.py, hubspot.v1.docs, hubspot.v1.py",
)


def _kind(item: dict[str, Any]) -> str:
    """An object's type: the old format's word for it, else the id of a custom one."""
    word: str = item["subscriptionType"].partition(".")[0]
    if word != "object":
        return word
    type_id = item["objectTypeId"]
    if not isinstance(type_id, str) or not type_id:
        raise KeyError("objectTypeId")
    return _NAMES.get(type_id, type_id)


def _row(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The event's fields but what was fetched and the number of this attempt, which says nothing of the object."""
    return {name: value for name, value in {**item, **more}.items() if name not in {"attemptNumber", FETCHED}}


def _key(item: dict[str, Any], object_id: Any) -> dict[str, Any]:
    return {"portalId": item["portalId"], "objectType": _kind(item), "objectId": object_id}


def _vanished(item: dict[str, Any], object_id: Any, at: int | None) -> Iterator[Record]:
    key = _key(item, object_id)
    yield OBJECTS.gone({**key}, at=at, rank=_DELETED)
    yield PROPERTIES.children({**key}, [], at=at, rank=_DELETED)
    if (kind := key.pop("objectType")) in WHOLE:
        yield WHOLE[kind].gone(key, at=at, rank=_DELETED)


def _named(item: dict[str, Any]) -> Any:
    """The id of the object that lives on."""
    return item.get("newObjectId") or item["primaryObjectId"] if "mergedObjectIds" in item else item["objectId"]


@vendor.hydrates(*_THIN, token="api_token", hosts=("api.hubapi.com",))  # noqa: S106 - a setting's name
def whole(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The object as it is now, with the properties that its table has, and those that the settings add."""
    item = event.data
    kind, object_id, portal = _kind(item), str(_named(item)), settings.get("portal_id") or item["portalId"]
    if kind not in WHOLE or not _ID.fullmatch(object_id) or str(portal) != str(item["portalId"]):
        return None
    more = (settings.get("properties") or {}).get(kind) or ()
    asked = [name for name in (*WHOLE[kind].columns, *more) if name not in _OWN and _PROPERTY.fullmatch(name)]
    url = f"{settings['api_url']}/crm/v3/objects/{_TYPE_IDS[kind]}/{object_id}?properties={','.join(asked)}"
    return Fetch(url, {"Authorization": f"Bearer {settings['api_token']}"})


def _fetched(item: dict[str, Any], at: int | None) -> Iterator[Record]:
    """The whole object; one that was restored is no older than that, since it may be as it was when deleted."""
    found, kind = item.get(FETCHED), _kind(item)
    if kind not in WHOLE or not isinstance(found, dict) or str(found.get("id")) != str(_named(item)):
        return
    updated = instant_ns(found["updatedAt"])
    if updated is None:
        raise KeyError("updatedAt")
    if item["subscriptionType"].endswith(".restore"):
        updated = max(updated, at or 0)
    row = {name: value for name, value in found.items() if name in _OWN}
    row |= {**found["properties"], "portalId": item["portalId"], "objectId": _named(item)}
    yield WHOLE[kind].row(row, at=updated, rank=_RESTORED)


@vendor.maps(*(f"{kind}.*" for kind in ("object", "conversation", *_NAMES.values())))
def changed(event: Event) -> Iterator[Record]:
    """One event, by what comes after the object's word; what is not known here becomes no row."""
    item, at = event.data, event.at
    what = event.type.partition(".")[2]
    if what in {"creation", "restore"}:
        rank = _CREATED if what == "creation" else _RESTORED
        yield OBJECTS.row(_row(item, **_key(item, item["objectId"])), at=at, rank=rank)
    elif what == "propertyChange":
        key = _key(item, item["objectId"])
        yield PROPERTIES.children(key, [_row(item)], at=at, rank=_CHANGED, complete=False)
    elif what in {"deletion", "privacyDeletion"}:
        yield from _vanished(item, item["objectId"], at)
        if _kind(item) == "conversation":
            yield MESSAGES.children({name: item[name] for name in MESSAGES.parent}, [], at=at, rank=_DELETED)
    elif what == "newMessage":
        thread = {name: item[name] for name in MESSAGES.parent}
        yield MESSAGES.children(thread, [_row(item)], at=at, complete=False)
    elif what == "associationChange":
        yield _association(item, at)
    elif what == "merge":
        yield from _merge(item, at)
    if what in _WHEN:
        yield from _fetched(item, at)


def _association(item: dict[str, Any], at: int | None) -> Record:
    """One direction of a pair under one label; the old format has no label's id."""
    key = {name: item[name] for name in ("portalId", "fromObjectId", "toObjectId")}
    category, type_id = item.get("associationCategory"), item.get("associationTypeId")
    name = item.get("associationType") or (type_id and f"{category}:{type_id}")
    if not name:
        raise KeyError("associationType")
    key |= {"associationType": name, "associationTypeId": "" if type_id is None else type_id}
    removed = item.get("associationRemoved") is True
    return ASSOCIATIONS.row(_row(item, **key), at=at, rank=_DELETED if removed else _CREATED, gone=removed)


def _merge(item: dict[str, Any], at: int | None) -> Iterator[Record]:
    """Merged objects vanish; the primary one as well where HubSpot made a new object of them all."""
    merged = item["mergedObjectIds"]
    if not isinstance(merged, list):
        raise TypeError("mergedObjectIds is not a list")
    primary = item["primaryObjectId"]
    surviving = item.get("newObjectId") or primary
    row = _row(item, objectType=_kind(item), survivingObjectId=surviving)
    for object_id in dict.fromkeys([primary, *merged]):
        if str(object_id) != str(surviving):
            yield MERGES.row({**row, "mergedObjectId": object_id}, at=at)
            yield from _vanished(item, object_id, at)
    yield OBJECTS.row(_row(item, **_key(item, surviving)), at=at, rank=_MERGED)


@vendor.maps("workflow")
def workflow(event: Event) -> Iterator[Record]:
    """A whole object: a contact by `vid` and names with dashes, any other by `objectId`.

    A property comes with its history; the row has its value alone.

    Raises:
        KeyError: the body does not say which object of which portal it is.
    """
    body = {name.replace("-", "_"): value for name, value in event.data.items()}
    contact = "vid" in body
    kind = "contact" if contact else str(body.get("objectType") or body["objectTypeId"]).lower()
    key = {
        "portalId": body["portal_id" if contact else "portalId"],
        "objectType": _NAMES.get(kind, kind),
        "objectId": body["vid" if contact else "objectId"],
    }
    left_out = {"vid", "canonical_vid", "portal_id", "profile_token", "merged_vids"}
    row = {name: value for name, value in body.items() if name not in left_out}
    properties = {name: _value(held) for name, held in body["properties"].items()}
    changed_at = properties.get("hs_lastmodifieddate") or properties.get("lastmodifieddate")
    gone = body.get("isDeleted") is True
    yield WORKFLOWS.row({**row, **key, "properties": properties}, at=instant_ns(changed_at), gone=gone)


def _value(held: Any) -> Any:
    return held.get("value") if isinstance(held, dict) else held


# --- samples ------------------------------------------------------------------------------------------

#: What happened -> the fields that only such an event has.
_SAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    **{f"{kind}.creation": {"changeFlag": "CREATED"} for kind in ("contact", "company", "product", "line_item")},
    "contact.propertyChange": {"propertyName": "email", "propertyValue": "ida@mail.example", "isSensitive": False},
    "contact.deletion": {"changeFlag": "DELETED"},
    "deal.propertyChange": {"propertyName": "dealstage", "propertyValue": "qualifiedtobuy"},
    "deal.associationChange": {"associationType": "DEAL_TO_CONTACT", "fromObjectId": 7, "toObjectId": 9},
    "ticket.restore": {"changeFlag": "RESTORED"},
    "contact.merge": {"primaryObjectId": 7, "mergedObjectIds": [8], "numberOfPropertiesMoved": 4},
    "object.creation": {"objectTypeId": "2-4510001", "changeFlag": "CREATED"},
    "conversation.newMessage": {"messageType": "MESSAGE", "messageId": "0a1b2c3d"},
}  # fmt: skip


@vendor.sample(*_SAMPLES)
def event_sample(n: int, now: int) -> Sample:
    """A batch with one event of each kind, as the app of one portal may get it."""
    both = {"appId": 1_160_452, "portalId": 6_400_123, "occurredAt": now // 1_000_000, "changeSource": "CRM_UI"}
    batch = []
    for place, (type_, own) in enumerate(_SAMPLES.items()):
        named = {"eventId": 100 * n + place, "subscriptionId": 3_300_000 + place, "objectId": 9_000_000 + n}
        batch.append({**both, **named, "subscriptionType": type_, "attemptNumber": 0, **own})
    return Sample(batch)


@vendor.sample("workflow")
def workflow_sample(n: int, now: int) -> Sample:
    """A deal, as a workflow sends it."""
    held = {"dealname": f"Deal {n}", "amount": "1900.00", "hs_lastmodifieddate": str(now // 1_000_000)}
    properties = {name: {"value": value, "versions": []} for name, value in held.items()}
    body = {"portalId": 6_400_123, "objectType": "DEAL", "objectTypeId": "0-3", "objectId": 7_000_000 + n}
    return Sample({**body, "properties": properties, "version": 1, "isDeleted": False})
