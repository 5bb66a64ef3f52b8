"""Pipedrive: deals, persons, organizations, leads, activities, products, notes and what they are sorted into.

Nothing is signed; HTTP Basic proves the sender. Bodies of webhooks v2 (`data`, `previous`, `meta.entity`) and v1
(`current`, `previous`, `meta.object`) hold the whole object; v1 mixes custom fields with its own, by a hash.
https://pipedrive.readme.io/docs/guide-for-webhooks-v2
https://pipedrive.readme.io/docs/guide-for-webhooks
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.records import Event, Record, Request, encode_json, instant_ns, instant_of_ns
from relay.signatures import Basic
from relay.source import Sample, Vendor, table

_CLOCK: Final = "meta.timestamp (milliseconds; in v1 meta.timestamp_micro)"
#: What happened at one millisecond: the object is made first.
_CREATED, _CHANGED, _DELETED = 0, 10, 90
#: v1's words for what happened, in v2's.
_WORDS: Final = {"added": "create", "updated": "change", "deleted": "delete", "merged": "change"}
#: A custom field in v1: a hash, at times with a suffix (`…_currency`, `…_until`).
_CUSTOM: Final = re.compile(r"[0-9a-f]{40}(?:_\w+)?")
#: What tells two v1 deliveries apart: there, `meta.id` is the object's, and a retry changes `retry` alone.
_IDENTITY: Final = ("company_id", "object", "id", "action", "timestamp", "timestamp_micro")

_KEY: Final = "company_id id"
_TIMES: Final = "add_time update_time"
_OWNED: Final = "company_id id owner_id merged_to_id"
# fmt: off
TABLES: Final = {
    "deal": table(
        "deals", _KEY, _CLOCK,
        id=f"{_OWNED} creator_user_id person_id org_id pipeline_id stage_id channel_id origin_id user_id",
        text="title status currency lost_reason origin channel visible_to expected_close_date",
        money="value weighted_value acv arr mrr", number="probability", bool="is_archived active deleted",
        instant=f"{_TIMES} stage_change_time won_time lost_time close_time first_won_time archive_time",
        json="label_ids custom_fields"),
    "person": table(
        "persons", _KEY, _CLOCK,
        id=f"{_OWNED} org_id picture_id", text="name first_name last_name visible_to marketing_status job_title",
        bool="active_flag", instant=_TIMES, json="emails phones label_ids custom_fields"),
    "organization": table(
        "organizations", _KEY, _CLOCK,
        id=_OWNED, text="name visible_to website linkedin industry", int="annual_revenue employee_count",
        bool="active_flag", instant=_TIMES, json="address label_ids custom_fields"),
    "lead": table(
        "leads", _KEY, _CLOCK,
        id=f"{_OWNED} creator_id person_id organization_id next_activity_id channel_id origin_id",
        text="title source_name origin channel expected_close_date visible_to", bool="is_archived was_seen",
        instant=_TIMES, json="value label_ids custom_fields"),
    "activity": table(
        "activities", _KEY, _CLOCK,
        id=f"{_OWNED} deal_id lead_id person_id org_id project_id creator_user_id update_user_id user_id",
        text="subject type due_date public_description note priority", bool="done busy_flag busy active_flag",
        instant=f"{_TIMES} marked_as_done_time", json="due_time duration location participants attendees "
        "custom_fields"),
    "product": table(
        "products", _KEY, _CLOCK,
        id=f"{_OWNED} category", text="name code description unit visible_to", number="tax",
        bool="active_flag is_linkable selectable is_deleted", instant=_TIMES, json="prices custom_fields"),
    "note": table(
        "notes", _KEY, _CLOCK,
        id="company_id id user_id deal_id lead_id person_id org_id project_id merged_to_id", text="content",
        bool="active_flag pinned_to_deal_flag pinned_to_lead_flag pinned_to_person_flag "
        "pinned_to_organization_flag", instant=_TIMES, json="custom_fields"),
    "pipeline": table(
        "pipelines", _KEY, _CLOCK,
        id="company_id id", text="name url_title", int="order_nr", bool="active active_flag selected",
        instant=_TIMES, json="deal_probability is_deal_probability_enabled"),
    "stage": table(
        "stages", _KEY, _CLOCK,
        id="company_id id pipeline_id", text="name", int="order_nr rotten_days days_to_rotten deal_probability",
        bool="active_flag rotten_flag is_deal_rot_enabled", instant=_TIMES),
    "user": table(
        "users", _KEY, _CLOCK,
        id="company_id id role_id", text="name email lang locale timezone_name phone default_currency",
        bool="active_flag activated is_admin is_you", instant="created modified last_login", json="access"),
}
# fmt: on


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One event, named in v2's words (`deal.change`) in either version.

    Raises:
        MalformedPayload: it has no meta block.
    """
    meta = data.get("meta") if isinstance(data, dict) else None
    if not isinstance(meta, dict):
        raise MalformedPayload("the body has no meta block", reason="no_meta")
    old = "object" in meta
    action = meta.get("action")
    word = _WORDS.get(action, action) if old and isinstance(action, str) else action
    entity = meta.get("object" if old else "entity")
    if old:
        identity = encode_json([*(meta.get(name) for name in _IDENTITY), data.get("current")])
        id_ = hashlib.blake2b(identity, digest_size=16).hexdigest()
    else:
        id_ = str(meta.get("id") or "")
    when = meta.get("timestamp_micro") or meta.get("timestamp")
    named = isinstance(entity, str) and isinstance(word, str)
    yield Event(
        type=f"{entity}.{word}" if named else "unknown",
        data=data,
        id=id_,
        at=instant_ns(when),
        dedup="id" if id_ else "content",
    )


vendor = Vendor(
    title="Pipedrive",
    family="helpdesk",
    docs="https://pipedrive.readme.io/docs/guide-for-webhooks-v2",
    verify=Basic(),
    events=read,
    tables=tuple(TABLES.values()),
    setup=(
        "Settings → Tools and apps → Webhooks → Create: action and object *, this URL, version 2.",
        "HTTP auth username and password: of your own. The secret: `user:password`.",
    ),
    deletes="The row is marked deleted and keeps its last state; `merged_to_id` says what it was merged into.",
    limits=(
        "nothing is signed: whoever knows the user and password can send an object",
        "v1 and v2 name and fill fields differently: use one of them",
        "what cannot be delivered within minutes is lost, and after three days of failures so is the webhook",
    ),
    proof="documented: a user and a password, by the vendor's page; HTTP Basic itself passes RFC 7617's examples",
    # Three more attempts within minutes; after ten failures half an hour is lost, after three days the webhook:
    # the first page above.
    fragile=True,
)


@vendor.maps(*(f"{entity}.{did}" for entity in TABLES for did in ("create", "change", "delete")))
def changed(event: Event) -> Iterator[Record]:
    """The object as it is now, or its last state where it was deleted."""
    meta: dict[str, Any] = event.data["meta"]
    entity, _, did = event.type.partition(".")
    into = TABLES[entity]
    old = "object" in meta
    now, before = event.data.get("current" if old else "data"), event.data.get("previous")
    key = {"company_id": meta["company_id"], "id": meta["id" if old else "entity_id"]}
    gone = did == "delete"
    state = (now or before) if gone else now
    rank = _DELETED if gone else _CREATED if did == "create" else _CHANGED
    if gone and not (isinstance(state, dict) and "id" in state):
        yield into.gone(key, at=event.at, rank=rank)
        return
    row = _custom_apart(state) if old else state
    merged = {"merged_to_id": meta["merged_to_id"]} if meta.get("merged_to_id") else {}
    yield into.row({**row, **key, **merged}, at=event.at, rank=rank, gone=gone)


def _custom_apart(state: dict[str, Any]) -> dict[str, Any]:
    """A v1 object with its custom fields under one name, as v2 has them."""
    custom = {name: value for name, value in state.items() if _CUSTOM.fullmatch(name)}
    plain = {name: value for name, value in state.items() if name not in custom}
    return {**plain, **({"custom_fields": custom} if custom else {})}


# --- samples ------------------------------------------------------------------------------------------


def _object(entity: str, n: int, time: str) -> dict[str, Any]:
    common = {"id": 1000 + n, "add_time": "2026-01-08T10:12:07Z", "update_time": time}
    owned = {"owner_id": 12_415_000 + n % 9, "visible_to": "3", "custom_fields": {}, "label_ids": []}
    of = {
        "deal": {
            "title": f"Deal {n}",
            "status": ("open", "won", "lost")[n % 3],
            "value": 1900 + n % 700,
            "currency": "EUR",
            "person_id": 2000 + n,
            "org_id": 3000 + n % 50,
            "pipeline_id": 1,
            "stage_id": 1 + n % 5,
            "probability": None,
            "expected_close_date": "2026-04-01",
            "origin": "ManuallyCreated",
            **owned,
        },
        "person": {"name": f"Ida {n}", "emails": [{"primary": True, "value": f"p{n}@mail.example"}], **owned},
        "organization": {"name": f"Mill Lane {n} Ltd", "address": {"value": "Tallinn"}, **owned},
        "lead": {"title": f"Lead {n}", "value": {"amount": 300, "currency": "EUR"}, "was_seen": True, **owned},
        "activity": {"subject": f"Call {n}", "type": "call", "done": False, "due_date": "2026-03-01", **owned},
        "product": {"name": f"Lid {n}", "code": f"L-{n}", "tax": 19, "prices": [], **owned},
        "note": {"content": f"Note {n}", "deal_id": 1000 + n, "user_id": 12_415_000},
        "pipeline": {"name": f"Pipeline {n}", "order_nr": n, "active": True},
        "stage": {"name": f"Stage {n}", "order_nr": n, "pipeline_id": 1, "deal_probability": 50},
        "user": {"name": f"Agent {n}", "email": f"agent{n}@shop.example", "is_admin": False},
    }
    return {**common, **of[entity]}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    entity, _, did = type_.partition(".")

    def sample(n: int, now: int) -> Sample:
        time = instant_of_ns(now)
        state = _object(entity, n, f"{time:%Y-%m-%dT%H:%M:%SZ}")
        meta = {
            "action": did,
            "company_id": "8087000",
            "correlation_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"correlation/{type_}/{n}/{now}")),
            "entity_id": str(state["id"]),
            "entity": entity,
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"pipedrive/{type_}/{n}/{now}")),
            "is_bulk_edit": False,
            "timestamp": f"{time:%Y-%m-%dT%H:%M:%S}.{now // 1_000_000 % 1000:03d}Z",
            "type": "general",
            "user_id": "12415000",
            "version": "2.0",
            "webhook_id": "4710000",
            "webhook_owner_id": "12094000",
            "change_source": "app",
            "attempt": 1,
            "host": "shop.pipedrive.example",
        }
        before = {"update_time": "2026-01-08T10:12:07Z"} if did == "change" else None
        body = {"data": None, "previous": state} if did == "delete" else {"data": state, "previous": before}
        return Sample({**body, "meta": meta})

    return sample


for _name in vendor.mappers:
    vendor.sample(_name)(_sample_of(_name))
