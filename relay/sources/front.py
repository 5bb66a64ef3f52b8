"""Front: what happened to conversations, with the conversations, messages and comments that it is told with.

An app's webhook wraps an event (`{type, authorization, payload}`) and first asks for its challenge back; a rule's
webhook sends the bare event, signed in another way. Which of them a source takes is a setting. Both may send
previews, which hold ids and little else: such an event becomes a row of `events` alone.
https://dev.frontapp.com/docs/application-webhooks
https://dev.frontapp.com/docs/rule-webhooks
https://dev.frontapp.com/reference/events
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import Event, Record, Request, decode_json, encode_json
from relay.signatures import Hmac, Timestamp, Verifier
from relay.source import Reply, Sample, Setting, Vendor, table

_CLOCK: Final = "the event's emitted_at (milliseconds)"
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_.~+/=-]{8,256}")
#: By the event's type: of an app's webhook, and of a rule's.
_TRASHED: Final = ("conversation_deleted", "trash")
_CHANGED, _DELETED = 0, 90
#: What a whole conversation has, and a preview lacks.
_WHOLE: Final = frozenset({"status", "tags", "created_at"})

# fmt: off
EVENTS = table(
    "events", "id", _CLOCK,
    id="id company_id conversation_id source_id target_id", text="type event_type source_type target_type",
    instant="emitted_at", json="source target",
)
CONVERSATIONS = table(
    "conversations", "id", _CLOCK,
    id="id company_id assignee_id last_message_id", text="subject status status_id status_category",
    bool="is_private", instant="created_at waiting_since updated_at",
    json="assignee recipient links custom_fields scheduled_reminders metadata ticket_ids",
)
CONVERSATION_TAGS = table(
    "conversation_tags", "conversation_id id", _CLOCK, "conversation_id",
    id="conversation_id id", text="name highlight description", bool="is_private is_visible_in_conversation_lists",
    instant="created_at updated_at",
)
MESSAGES = table(
    "messages", "id", _CLOCK,
    id="id conversation_id author_id message_uid",
    text="type blurb body text subject error_type draft_mode version", bool="is_inbound is_draft",
    instant="created_at", json="author recipients attachments metadata signature",
)
COMMENTS = table(
    "comments", "id", _CLOCK,
    id="id conversation_id author_id", text="body", bool="is_pinned", instant="posted_at",
    json="author attachments",
)
# fmt: on

_APP: Final = Hmac(
    "X-Front-Signature",
    encoding="base64",
    message="{timestamp}:{body}",
    timestamp=Timestamp(header="X-Front-Request-Timestamp", unit="ms"),
)
_RULE: Final = Hmac("X-Front-Signature", algorithm="sha1", encoding="base64")


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """Both schemes use one header, so the operator says which it is; nothing in a request can."""
    kind = settings["webhooks"]
    if kind == "app":
        return _APP
    if kind == "rule":
        return _RULE
    raise ConfigInvalid(f"webhooks is app or rule, not {kind!r}")


def handshake(request: Request, secrets: tuple[str, ...], settings: Mapping[str, Any]) -> Reply | None:
    """Gives an app's challenge back, if the request that asks is signed: `sync` is, like any other.

    It may be an old one: whoever repeats it learns only what it said itself.
    """
    challenge = request.headers.get("x-front-challenge", "")
    if settings.get("webhooks") != "app" or request.method != "POST" or not _CHALLENGE.fullmatch(challenge):
        return None
    signed_at = _APP.signed_at(request)
    try:
        _APP.verify(request, secrets, 0 if signed_at is None else signed_at)
        body = decode_json(request.body)
    except (Unauthenticated, MalformedPayload):
        return None
    if not isinstance(body, dict) or body.get("type") != "sync":
        return None
    return Reply(200, encode_json({"challenge": challenge}), "application/json")


def _unwrapped(data: Any) -> dict[str, Any]:
    """The event itself, of either kind of webhook."""
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    payload = data.get("payload")
    return payload if isinstance(payload, dict) else data


def _type(_request: Request, data: Any) -> Any:
    inner = _unwrapped(data)
    return data.get("type") or inner.get("type") or ""


def _id(_request: Request, data: Any) -> Any:
    return _unwrapped(data).get("id") or ""


def _at(_request: Request, data: Any) -> Any:
    return _unwrapped(data).get("emitted_at")


vendor = Vendor(
    title="Front",
    family="helpdesk",
    docs="https://dev.frontapp.com/docs/application-webhooks",
    verify=verifier,
    type=_type,
    id=_id,
    at=_at,
    tables=(EVENTS, CONVERSATIONS, CONVERSATION_TAGS, MESSAGES, COMMENTS),
    handshake=handshake,
    settings={
        "webhooks": Setting(
            help="app (default): webhooks of an app; rule: those that a rule sends. Each signs in its own way.",
            default="app",
        )
    },
    setup=(
        "An app: Settings → Developers → your app → Features → Webhook: this URL; choose full events.",
        "The secret: the app's signing key, under Basic information. Set it first: Front asks for a challenge.",
        "Or a rule: the Webhooks integration, action “Send to a Webhook”; `webhooks: rule`, its API secret.",
    ),
    deletes="A conversation in the trash is marked deleted; restoring it brings the row back.",
    limits=(
        "previews become rows of `events` alone: choose full events",
        "what is deleted for good, and a message or comment that is deleted, sends nothing",
    ),
    proof="documented: by Front's pages; the hashes pass vectors of Paddle and of RFC 2202, written in its form",
    # A rule's webhook is said never to be tried again, an app's three times; not read in Front's own pages.
    fragile=True,
)


@vendor.maps("*")
def happened(event: Event) -> Iterator[Record]:
    """Any event: all are of one shape. The row of what it is about follows where the whole of it comes along.

    Raises:
        KeyError: it is an event without an id.
    """
    if event.type == "sync":
        return
    body = _unwrapped(event.data)
    company = (event.data.get("authorization") or {}).get("id") if body is not event.data else None
    conversation = body.get("conversation") or {}
    yield EVENTS.row(_event_row(event, body, conversation.get("id"), company), at=event.at)
    trashed = event.type in _TRASHED
    if conversation.keys() >= _WHOLE:
        yield from _conversation(conversation, company, event.at, trashed=trashed)
    elif trashed and conversation.get("id"):
        yield CONVERSATIONS.gone({"id": conversation["id"]}, at=event.at, rank=_DELETED)
    target = body.get("target") or {}
    messages = [conversation.get("last_message")]
    if _kind(target) == "message":
        messages.append(target.get("data"))
    # The last message often is the one that the event is about: one row of it.
    whole = {m["id"]: m for m in messages if isinstance(m, dict) and "body" in m}
    for message in whole.values():
        yield MESSAGES.row(_told(message, conversation), at=event.at)
    comment = target.get("data")
    if _kind(target) == "comment" and isinstance(comment, dict) and "body" in comment:
        yield COMMENTS.row(_told(comment, conversation), at=event.at)


def _event_row(event: Event, body: dict[str, Any], conversation_id: Any, company: Any) -> dict[str, Any]:
    """The event with the names of who did it and to what; a message or comment has a row of its own."""
    row = {"id": body["id"], "type": body.get("type"), "event_type": event.type, "emitted_at": body["emitted_at"]}
    row |= {"company_id": company, "conversation_id": conversation_id}
    for name in ("source", "target"):
        part = body.get(name) or {}
        data, kind = part.get("data"), _kind(part)
        row[f"{name}_type"] = kind
        row[f"{name}_id"] = data.get("id") if isinstance(data, dict) else None
        row[name] = None if kind in {"message", "comment"} else data
    return row


def _kind(part: dict[str, Any]) -> Any:
    return (part.get("_meta") or {}).get("type")


def _conversation(
    conversation: dict[str, Any], company: Any, at: int | None, *, trashed: bool
) -> Iterator[Record]:
    gone = trashed or conversation["status"] == "deleted"
    rank = _DELETED if gone else _CHANGED
    row = {k: v for k, v in conversation.items() if k not in {"_links", "last_message", "tags"}}
    row |= {"company_id": company, "assignee_id": (conversation.get("assignee") or {}).get("id")}
    row["last_message_id"] = (conversation.get("last_message") or {}).get("id")
    yield CONVERSATIONS.row(row, at=at, rank=rank, gone=gone)
    tags = [] if gone else conversation.get("tags")
    if isinstance(tags, list):
        members = {tag["id"]: {k: v for k, v in tag.items() if k != "_links"} for tag in tags}
        parent = {"conversation_id": conversation["id"]}
        yield CONVERSATION_TAGS.children(parent, members.values(), at=at, rank=rank)


def _told(thing: dict[str, Any], conversation: dict[str, Any]) -> dict[str, Any]:
    row = {k: v for k, v in thing.items() if k != "_links"}
    author = (thing.get("author") or {}).get("id")
    return {**row, "author_id": author, "conversation_id": conversation.get("id")}


# --- samples ------------------------------------------------------------------------------------------


def _person(n: int) -> dict[str, Any]:
    name = {"username": f"agent{n}", "first_name": "Ida", "last_name": f"Brandt {n}"}
    flags = {"is_admin": False, "is_available": True, "is_blocked": False}
    return {"id": f"tea_{n:x}", "email": f"agent{n}@shop.example", **name, **flags, "custom_fields": {}}


def _message(n: int, at: float, *, inbound: bool) -> dict[str, Any]:
    text = f"Parcel {n} came without its lid." if inbound else "A new one is on its way."
    return {
        "_links": {"self": f"https://shop.api.frontapp.example/messages/msg_{n:x}"},
        "id": f"msg_{2 * n + (not inbound):x}",
        "type": "email",
        "is_inbound": inbound,
        "created_at": at,
        "blurb": text,
        "body": f"<div>{text}</div>",
        "text": text,
        "error_type": None,
        "version": None,
        "subject": f"Parcel {n}",
        "draft_mode": None,
        "metadata": {},
        "author": None if inbound else _person(n % 9),
        "recipients": [{"handle": f"p{n}@mail.example", "role": "from" if inbound else "to"}],
        "attachments": [],
        "signature": None,
        "is_draft": False,
    }


#: Type of an app's event -> the event's own type, the conversation's status, the type of its target.
_SAMPLES: Final[Mapping[str, tuple[str, str, str]]] = {
    "inbound_received": ("inbound", "unassigned", "message"),
    "outbound_sent": ("outbound", "archived", "message"),
    "assignee_changed": ("assign", "assigned", "teammate"),
    "conversation_archived": ("archive", "archived", ""),
    "conversation_deleted": ("trash", "deleted", ""),
    "tag_added": ("tag", "unassigned", "tag"),
    "new_comment_added": ("comment", "assigned", "comment"),
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    kind, status, target = _SAMPLES[type_]

    def sample(n: int, now: int) -> Sample:
        at = now // 1_000_000 / 1000
        last = _message(n, at, inbound=kind != "outbound")
        tag = {"id": f"tag_{n % 7:x}", "name": "breakage", "highlight": "pink", "is_private": False}
        assignee = _person(n % 9) if status == "assigned" else None
        conversation = {
            "_links": {"self": f"https://shop.api.frontapp.example/conversations/cnv_{n:x}"},
            "id": f"cnv_{n:x}",
            "subject": f"Parcel {n}",
            "status": status,
            "assignee": assignee,
            "recipient": {"name": f"Ida {n}", "handle": f"p{n}@mail.example", "role": "from"},
            "tags": [tag] if kind == "tag" else [],
            "links": [],
            "custom_fields": {},
            "last_message": last,
            "created_at": at - 3600,
            "is_private": False,
            "scheduled_reminders": [],
            "metadata": {},
        }
        comment = {"id": f"com_{n:x}", "body": "Who takes it?", "posted_at": at, "author": _person(n % 9)}
        targets = {"message": last, "teammate": assignee, "tag": tag, "comment": comment}
        event: dict[str, Any] = {"id": f"evt_{len(kind)}{n:x}", "type": kind, "emitted_at": at}
        event |= {"conversation": conversation, "source": {"_meta": {"type": "teammate"}, "data": _person(n % 9)}}
        if target:
            event["target"] = {"_meta": {"type": target}, "data": targets[target]}
        return Sample({"type": type_, "authorization": {"id": "cmp_shop"}, "payload": event})

    return sample


for _name in _SAMPLES:
    vendor.sample(_name)(_sample_of(_name))
