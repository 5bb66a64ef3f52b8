"""Intercom: conversations and their parts, contacts and their tags, companies, tickets.

A notification holds the object as it was when the notification was made, under `data.item`, or one level deeper
where the topic is about two objects. Bodies of API 1.x call contacts users and leads.
https://developers.intercom.com/docs/references/webhooks/webhook-models
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from relay.records import NS, Event, Record, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Sample, Vendor, field, table

#: An object's own `updated_at` stands still where it is tagged or archived, and deletes have none: the one time
#: that each notification has is its `created_at`. Within one second the object's `updated_at` (milliseconds) is
#: the sequence.
_CLOCK: Final = "the notification's created_at (seconds); within a second the object's updated_at"
#: A sequence after every `updated_at`: what is deleted within a second was there before.
_LAST: Final = 10**15
_CREATED, _CHANGED, _CLOSED, _GONE = 0, 10, 20, 90
_MS: Final = 1_000_000
#: Topics by which an object is new; `conversation_part.tag.created` and `ticket.note.created` are changes.
_NEW: Final = (
    "user.created",
    "lead.created",
    "single.created",
    "contact.created",
    "company.created",
    "ticket.created",
)

# fmt: off
CONVERSATIONS = table(
    "conversations", "id", _CLOCK,
    id="id admin_assignee_id team_assignee_id workspace_id", text="type state title priority", bool="open read",
    instant="created_at updated_at waiting_since snoozed_until",
    json="source contacts teammates tags custom_attributes statistics conversation_rating sla_applied "
    # API 1.x
    "first_contact_reply topics user assignee conversation_message metadata links tags_added",
)
PARTS = table(
    "conversation_parts", "conversation_id id", _CLOCK, "conversation_id",
    id="conversation_id id external_id", text="type part_type body", bool="redacted",
    instant="created_at updated_at notified_at", json="author assigned_to attachments tags",
)
CONTACTS = table(
    "contacts", "id", _CLOCK,
    id="id workspace_id external_id owner_id user_id app_id", int="session_count",
    text="type role email phone name pseudonym language_override browser browser_version browser_language os "
    "referrer utm_campaign utm_content utm_medium utm_source utm_term",
    instant="created_at updated_at signed_up_at last_seen_at last_replied_at last_contacted_at "
    "last_email_opened_at last_email_clicked_at last_request_at remote_created_at",
    bool="has_hard_bounced marked_email_as_spam unsubscribed_from_emails unsubscribed_from_sms sms_consent "
    "anonymous",
    json="avatar location custom_attributes social_profiles tags notes companies segments location_data",
)
#: Filled by the tag topics alone, since a contact's own `tags` lists some of them, and without names. So they are
#: not a set of the contact's: what tags a deleted contact had, nobody says.
CONTACT_TAGS = table(
    "contact_tags", "contact_id tag_id", _CLOCK,
    id="contact_id tag_id", text="name", instant="created_at", json="admin",
)
COMPANIES = table(
    "companies", "id", _CLOCK,
    id="id company_id app_id", text="type name industry website", money="monthly_spend",
    instant="created_at updated_at remote_created_at last_request_at", int="session_count user_count size",
    json="plan tags segments custom_attributes",
)
TICKETS = table(
    "tickets", "id", _CLOCK,
    id="id ticket_id admin_assignee_id team_assignee_id", text="type category", bool="open is_shared",
    instant="created_at updated_at snoozed_until",
    json="ticket_attributes ticket_state ticket_type contacts ticket_parts linked_objects",
)
# fmt: on

vendor = Vendor(
    title="Intercom",
    family="helpdesk",
    docs="https://developers.intercom.com/docs/references/webhooks/webhook-models",
    verify=Hmac("X-Hub-Signature", algorithm="sha1", prefix="sha1="),
    type=field("topic"),
    id=field("id"),
    at=field("created_at"),
    tables=(CONVERSATIONS, PARTS, CONTACTS, CONTACT_TAGS, COMPANIES, TICKETS),
    setup=(
        "Developer Hub → your app → Webhooks: this URL and the topics.",
        "The secret: the app's client secret, under Basic information.",
    ),
    deletes="`*.deleted` says little more than the id: the row is marked deleted and keeps what it held.",
    limits=("times are whole seconds: two changes within one are ordered by state, then by arrival",),
    proof="vector: rfc2202.2, whose digest stands in the header",
)


def _item(event: Event, noun: str = "") -> dict[str, Any]:
    """The object that a topic is about; one level deeper where it is about two (`contact.unsubscribed`)."""
    item: dict[str, Any] = event.data["data"]["item"]
    inner = item.get(noun)
    return inner if isinstance(inner, dict) else item


def _version(event: Event, item: dict[str, Any], rank: int) -> dict[str, Any]:
    updated = instant_ns(item.get("updated_at"))
    return {"at": event.at, "sequence": 0 if updated is None else max(updated, 0) // _MS, "rank": rank}


def _gone_version(event: Event) -> dict[str, Any]:
    return {"at": event.at, "sequence": _LAST, "rank": _GONE}


def _rank(event: Event) -> int:
    return _CREATED if event.type.endswith(_NEW) else _CHANGED


def _id(item: dict[str, Any]) -> Any:
    if not item["id"]:
        raise KeyError("id")
    return item["id"]


def _row(table: Table, event: Event, item: dict[str, Any]) -> Iterator[Record]:
    if _whole(item):
        yield table.row({**item, "id": _id(item)}, **_version(event, item, _rank(event)))


def _whole(item: dict[str, Any]) -> bool:
    """True for an object rather than its identity alone, which must not blank a row."""
    return "created_at" in item or "updated_at" in item


# --- conversations --------------------------------------------------------------------------------------


@vendor.maps("conversation.*", "conversation_part.*")
def conversation(event: Event) -> Iterator[Record]:
    """A conversation and the parts that the notification is about.

    `total_count` counts the parts sent, not the conversation's: where a part is tagged, only that part comes and
    the count is 1. So a set is never taken for all parts.
    """
    item = _item(event, "conversation")
    if item.get("type") == "conversation_part":
        if item.get("conversation_id"):
            yield _parts(item["conversation_id"], [item], _version(event, item, _CHANGED))
        return
    rank = _rank(event)
    if rank == _CHANGED and item.get("state") == "closed":
        rank = _CLOSED
    version = _version(event, item, rank)
    if _whole(item):
        row = {name: value for name, value in item.items() if name != "conversation_parts"}
        yield CONVERSATIONS.row({**row, "id": _id(item)}, **version)
    parts = (item.get("conversation_parts") or {}).get("conversation_parts")
    if parts:
        yield _parts(_id(item), parts, version)


def _parts(id_: Any, parts: list[dict[str, Any]], version: dict[str, Any]) -> Record:
    members = {_id(part): part for part in parts}
    return PARTS.children({"conversation_id": id_}, members.values(), **version, complete=False)


@vendor.maps("conversation.deleted")
def conversation_gone(event: Event) -> Iterator[Record]:
    """A deleted conversation, named by `conversation_id`."""
    item = _item(event, "conversation")
    id_ = item.get("conversation_id") or _id(item)
    yield CONVERSATIONS.gone({"id": id_}, **_gone_version(event))
    yield PARTS.children({"conversation_id": id_}, [], **_gone_version(event))


# --- contacts -------------------------------------------------------------------------------------------


def _person(event: Event) -> dict[str, Any]:
    return _item(event, event.type.partition(".")[0])


@vendor.maps("contact.*", "user.*")
def contact(event: Event) -> Iterator[Record]:
    """A contact as it is now; of `contact.merged` it is the one that remains (the other one is not named)."""
    yield from _row(CONTACTS, event, _person(event))


@vendor.maps("contact.deleted", "contact.archived", "user.deleted")
def contact_gone(event: Event) -> Iterator[Record]:
    """A deleted or archived contact, often its identity alone; `contact.unarchived` brings the row back."""
    item = _person(event)
    if _whole(item):
        yield CONTACTS.row({**item, "id": _id(item)}, **_gone_version(event), gone=True)
    else:
        yield CONTACTS.gone({"id": _id(item)}, **_gone_version(event))


_TAGGED: Final = ("contact.tag", "contact.user.tag", "contact.lead.tag", "user.tag")


@vendor.maps(*(f"{topic}.created" for topic in _TAGGED))
def contact_tagged(event: Event) -> Iterator[Record]:
    """A tag on a contact, and the contact as it is now."""
    yield from contact(event)
    item = _item(event)
    row = {"contact_id": _id(_person(event)), "tag_id": _id(item["tag"]), "name": item["tag"].get("name")}
    row |= {"created_at": item.get("created_at"), "admin": item.get("admin")}
    yield CONTACT_TAGS.row(row, at=event.at, rank=_CREATED)


@vendor.maps(*(f"{topic}.deleted" for topic in _TAGGED))
def contact_untagged(event: Event) -> Iterator[Record]:
    """A tag taken off a contact, and the contact as it is now."""
    yield from contact(event)
    key = {"contact_id": _id(_person(event)), "tag_id": _id(_item(event)["tag"])}
    yield CONTACT_TAGS.gone(key, at=event.at, rank=_GONE)


# --- companies and tickets ------------------------------------------------------------------------------


@vendor.maps("company.*")
def company(event: Event) -> Iterator[Record]:
    """A company as it is now."""
    yield from _row(COMPANIES, event, _item(event, "company"))


@vendor.maps("company.deleted")
def company_gone(event: Event) -> Iterator[Record]:
    """A deleted company."""
    yield COMPANIES.gone({"id": _id(_item(event, "company"))}, **_gone_version(event))


@vendor.maps("ticket.*")
def ticket(event: Event) -> Iterator[Record]:
    """A ticket as it is now; its `id` is the key, `ticket_id` the number that people see."""
    yield from _row(TICKETS, event, _item(event, "ticket"))


@vendor.maps("ticket.deleted")
def ticket_gone(event: Event) -> Iterator[Record]:
    """A deleted ticket."""
    yield TICKETS.gone({"id": _id(_item(event, "ticket"))}, **_gone_version(event))


# --- samples --------------------------------------------------------------------------------------------


def _notice(topic: str, n: int, now: int, item: Any) -> Sample:
    id_, time = uuid.uuid5(uuid.NAMESPACE_URL, f"intercom/{topic}/{n}/{now}"), now // NS
    body: dict[str, Any] = {"type": "notification_event", "app_id": "k7sample", "links": {}, "self": None}
    body |= {"id": f"notif_{id_}", "topic": topic, "created_at": time, "first_sent_at": time, "delivered_at": 0}
    body |= {"delivery_status": "pending", "delivery_attempts": 1}
    return Sample({**body, "data": {"type": "notification_event_data", "item": item}})


def _conversation(topic: str, n: int, now: int, state: str, parts: list[dict[str, Any]]) -> Sample:
    person, time, begun = f"64dbc8be{n:016x}", now // NS, 1_767_866_400 + n
    author = {"type": "user", "id": person, "name": f"Customer {n}", "email": f"customer{n}@mail.example"}
    source = {"type": "conversation", "id": str(403_000_000 + n), "delivered_as": "customer_initiated"}
    listed = [{"type": "conversation_part", "created_at": time, "updated_at": time, **part} for part in parts]
    item: dict[str, Any] = {"type": "conversation", "id": str(215_470_000_000 + n), "title": f"Parcel {n}"}
    item |= {"created_at": begun, "updated_at": time, "waiting_since": None, "snoozed_until": None}
    item |= {"open": state != "closed", "state": state, "read": False, "priority": "not_priority"}
    item |= {
        "admin_assignee_id": 1_957_471,
        "team_assignee_id": 4_100_311,
        "custom_attributes": {"order": f"#{n}"},
    }
    item["source"] = {
        **source,
        "subject": "",
        "body": f"<p>Where is parcel {n}?</p>",
        "author": author,
        "attachments": [],
    }
    item["contacts"] = {
        "type": "contact.list",
        "contacts": [{"type": "contact", "id": person, "external_id": f"{n}"}],
    }
    item["tags"] = {"type": "tag.list", "tags": [{"type": "tag", "id": "2525085", "name": "delivery"}]}
    item["teammates"] = {"type": "admin.list", "admins": [{"type": "admin", "id": "1957471"}]}
    item["statistics"] = {"type": "conversation_statistics", "count_reopens": 0, "time_to_assignment": 30}
    item |= {"conversation_rating": None, "sla_applied": None, "first_contact_reply": {"created_at": begun}}
    of = {"type": "conversation_part.list", "conversation_parts": listed, "total_count": len(listed)}
    return _notice(topic, n, now, {**item, "conversation_parts": of})


@vendor.sample("conversation.user.created")
def conversation_sample(n: int, now: int) -> Sample:
    """A customer writes."""
    return _conversation("conversation.user.created", n, now, "open", [])


@vendor.sample("conversation.admin.closed")
def conversation_closed_sample(n: int, now: int) -> Sample:
    """An agent answers and closes the same conversation."""
    agent = {"type": "admin", "id": "1957471", "name": "Ida Brandt", "email": "ida@shop.example"}
    extra = {"author": agent, "attachments": [], "notified_at": now // NS, "assigned_to": None, "redacted": False}
    reply = {"id": str(2_826_000_000 + 2 * n), "part_type": "comment", "body": "<p>It comes today.</p>", **extra}
    close = {"id": str(2_826_000_001 + 2 * n), "part_type": "close", "body": None, **extra}
    return _conversation("conversation.admin.closed", n, now, "closed", [reply, close])


@vendor.sample("conversation.deleted")
def conversation_deleted_sample(n: int, now: int) -> Sample:
    """The same conversation, deleted."""
    item = {"type": "conversation", "conversation_id": str(215_470_000_000 + n)}
    return _notice("conversation.deleted", n, now, item)


def _contact(n: int, now: int) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "contact", "id": f"64dbc8be{n:016x}", "role": "user", "external_id": f"{n}"}
    item |= {"workspace_id": "k7sample", "email": f"customer{n}@mail.example", "phone": f"+4930{n:08d}"}
    item |= {"name": f"Customer {n}", "signed_up_at": None, "custom_attributes": {"plan": "team"}}
    item |= {"has_hard_bounced": False, "marked_email_as_spam": False, "unsubscribed_from_emails": False}
    item |= {"created_at": "2026-01-08T10:00:00.000+00:00"}
    item |= {"updated_at": instant_of_ns(now).isoformat(timespec="milliseconds")}
    item["location"] = {"type": "location", "country": "Germany", "city": "Potsdam", "country_code": "DEU"}
    item["tags"] = {"type": "list", "data": [], "total_count": 0, "has_more": False}
    return item


def _contact_sample(topic: str, n: int, now: int) -> Sample:
    return _notice(topic, n, now, {**_contact(n, now), "unsubscribed_from_emails": topic.endswith("updated")})


def _contact_gone_sample(topic: str, n: int, now: int) -> Sample:
    item = {name: _contact(n, now)[name] for name in ("type", "id", "external_id", "email")}
    return _notice(topic, n, now, item)


def _tag_sample(topic: str, n: int, now: int) -> Sample:
    tag = {"type": "tag", "id": "2525085", "name": "delivery"}
    person = {topic.partition(".")[0]: _contact(n, now)}
    return _notice(topic, n, now, {"type": "contact_tag", "created_at": now // NS, "tag": tag, **person})


def _company_sample(topic: str, n: int, now: int) -> Sample:
    item = {"type": "company", "id": f"66dbc8be{n:016x}", "company_id": f"crm-{n}", "name": f"Mill Lane {n} Ltd"}
    return _notice(topic, n, now, {**item, "created_at": 1_767_866_400, "updated_at": now // NS, "user_count": 3})


def _ticket_sample(topic: str, n: int, now: int) -> Sample:
    item = {"type": "ticket", "id": str(215_480_000_000 + n), "ticket_id": str(n), "open": True}
    return _notice(topic, n, now, {**item, "created_at": 1_767_866_400, "updated_at": now // NS})


def _part_sample(topic: str, n: int, now: int) -> Sample:
    return _conversation(topic, n, now, "open", [])


_PLAIN: Final[dict[str, Callable[[str, int, int], Sample]]] = {
    **dict.fromkeys(("contact.user.created", "contact.user.updated", "user.created"), _contact_sample),
    **dict.fromkeys(("contact.deleted", "contact.archived", "user.deleted"), _contact_gone_sample),
    **{f"{topic}.{did}": _tag_sample for topic in _TAGGED for did in ("created", "deleted")},
    **dict.fromkeys(("company.created", "company.deleted"), _company_sample),
    **dict.fromkeys(("ticket.created", "ticket.deleted"), _ticket_sample),
    "conversation_part.tag.created": _part_sample,
}
for _topic, _make in _PLAIN.items():
    vendor.sample(_topic)(partial(_make, _topic))
