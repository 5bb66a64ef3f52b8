"""Zendesk: tickets and their comments, users, organizations, articles, and bodies that triggers make.

Event subscriptions carry a whole snapshot (`detail`) beside what changed (`event`); the row is the snapshot.
Ids are strings here and numbers in the REST API; enums are upper case here; both are kept as sent.
https://developer.zendesk.com/api-reference/webhooks/event-types/webhook-event-types/
https://developer.zendesk.com/documentation/webhooks/verifying/
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from relay.errors import MalformedPayload, Unauthenticated
from relay.records import NS, Event, Record, Request, Table, Type, instant_of_ns
from relay.signatures import Hmac, Timestamp, same
from relay.source import Sample, Vendor

PREFIX: Final = "zen:event-type:"
_CLOCK: Final = "the event's time (nanoseconds)"
#: Ranks order what happened at one time: Zendesk writes some times in whole seconds.
_CREATED, _CHANGED, _DELETED = 0, 10, 90

TICKETS: Final = Table(
    "tickets",
    key=("id",),
    clock=_CLOCK,
    columns={
        **dict.fromkeys(("id", "actor_id", "assignee_id", "brand_id", "custom_status", "form_id"), Type.ID),
        **dict.fromkeys(("group_id", "organization_id", "requester_id", "submitter_id"), Type.ID),
        **dict.fromkeys(("description", "external_id", "priority", "status", "subject", "type"), Type.TEXT),
        **dict.fromkeys(("created_at", "updated_at"), Type.INSTANT),
        **dict.fromkeys(("tags", "via"), Type.JSON),
        "is_public": Type.BOOL,
    },
)
#: Comments come one at a time: sets of one member that are never complete, but for the empty one of a ticket
#: that is gone.
COMMENTS: Final = Table(
    "ticket_comments",
    key=("ticket_id", "id"),
    parent=("ticket_id",),
    clock=_CLOCK,
    columns={
        "ticket_id": Type.ID,
        "id": Type.ID,
        "body": Type.TEXT,
        "is_public": Type.BOOL,
        "author": Type.JSON,
        "author_id": Type.ID,
        "created_at": Type.INSTANT,
        "via": Type.JSON,
        "attachments": Type.JSON,
    },
)
USERS: Final = Table(
    "users",
    key=("id",),
    clock=_CLOCK,
    columns={
        **dict.fromkeys(("id", "default_group_id", "organization_id"), Type.ID),
        **dict.fromkeys(("name", "email", "external_id", "role"), Type.TEXT),
        **dict.fromkeys(("created_at", "updated_at"), Type.INSTANT),
    },
)
ORGANIZATIONS: Final = Table(
    "organizations",
    key=("id",),
    clock=_CLOCK,
    columns={
        **dict.fromkeys(("id", "group_id"), Type.ID),
        **dict.fromkeys(("name", "external_id"), Type.TEXT),
        **dict.fromkeys(("shared_comments", "shared_tickets"), Type.BOOL),
        **dict.fromkeys(("created_at", "updated_at"), Type.INSTANT),
    },
)
ARTICLES: Final = Table(
    "articles",
    key=("id",),
    clock=_CLOCK,
    columns={
        **dict.fromkeys(("id", "brand_id", "user_id", "author_id", "category_id", "section_id"), Type.ID),
        **dict.fromkeys(("locale", "title"), Type.TEXT),
    },
)
#: What an administrator's trigger or automation sends: any JSON object, the newest of each ticket.
TRIGGERS: Final = Table("trigger_payloads", key=("ticket_id",), columns={"ticket_id": Type.ID})

#: The secret with which the webhook builder signs its test sends. Zendesk publishes it, so whoever reads the
#: documentation can sign anything with it; a source that has only this secret has none.
TEST_SECRET: Final = "dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ=="  # noqa: S105 - published by Zendesk, and refused


class Signed:
    """Zendesk's HMAC over timestamp and body, with any secret but the published one."""

    def __init__(self) -> None:
        stamp = Timestamp(header="X-Zendesk-Webhook-Signature-Timestamp", unit="iso")
        self._hmac = Hmac(
            "X-Zendesk-Webhook-Signature", encoding="base64", message="{timestamp}{body}", timestamp=stamp
        )
        self.scheme = self._hmac.scheme

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        private = tuple(secret for secret in secrets if not same(secret.strip(), TEST_SECRET))
        if secrets and not private:
            raise Unauthenticated("the only secret is the one Zendesk publishes", reason="secret_malformed")
        self._hmac.verify(request, private, now)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`."""
        return self._hmac.sign(request, secret, now)


def _is_event(data: Any) -> bool:
    type_ = data.get("type")
    return isinstance(type_, str) and type_.startswith(PREFIX)


def _type(_request: Request, data: Any) -> str:
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    return data["type"] if _is_event(data) else "trigger"


def _id(request: Request, data: Any) -> Any:
    """The event's id; a trigger-made body's own `id` is a ticket's, so there it is the invocation's."""
    if _is_event(data):
        return data.get("id") or ""
    return request.headers.get("x-zendesk-webhook-invocation-id", "")


def _at(_request: Request, data: Any) -> Any:
    return data.get("time") if _is_event(data) else None


vendor = Vendor(
    title="Zendesk",
    family="helpdesk",
    docs="https://developer.zendesk.com/api-reference/webhooks/event-types/webhook-event-types/",
    verify=Signed(),
    type=_type,
    id=_id,
    at=_at,
    tables=(TICKETS, COMMENTS, USERS, ORGANIZATIONS, ARTICLES, TRIGGERS),
    keep_headers=("X-Zendesk-Webhook-Id",),
    setup=(
        "Admin Center → Apps and integrations → Webhooks → Create → Zendesk events: this URL.",
        "The secret: “Reveal secret” on the webhook's page; the fixed one of its test button is refused.",
    ),
    deletes="Events of a deletion say so: the row is marked deleted.",
    limits=("what a trigger sends is a template of the admin's own and becomes rows of `triggers`",),
    proof="vector: zendesk.oracle",
)


def _snapshot(event: Event) -> dict[str, Any]:
    """The event's detail, with its id; where detail has none the subject (`zen:ticket:5158`) does."""
    detail: dict[str, Any] = dict(event.data.get("detail") or {})
    if not detail.get("id"):
        detail["id"] = event.data["subject"].removeprefix("zen:").partition(":")[2]
        if not detail["id"]:
            raise KeyError("detail.id")
    return detail


def _rows(table: Table, event: Event) -> Iterator[Record]:
    detail = _snapshot(event)
    if len(detail) > 1:  # with the id alone the event says nothing of the row, and must not blank it
        rank = _CREATED if event.type.endswith(".created") else _CHANGED
        yield table.row(detail, at=event.at, rank=rank)


def _gone(table: Table, event: Event) -> Iterator[Record]:
    detail = _snapshot(event)
    if len(detail) > 1:
        yield table.row(detail, at=event.at, rank=_DELETED, gone=True)
    else:
        yield table.gone(detail, at=event.at, rank=_DELETED)


@vendor.maps(f"{PREFIX}ticket.*")
def ticket(event: Event) -> Iterator[Record]:
    """The ticket as it is now, and the comment that the event is about.

    A comment without its text (an attachment was linked to it) is no whole row; a redacted one is, for the old
    text must go.
    """
    yield from _rows(TICKETS, event)
    comment = (event.data.get("event") or {}).get("comment")
    redacted = event.type == f"{PREFIX}ticket.comment_redacted"
    if isinstance(comment, dict) and comment.get("id") and (redacted or comment.get("body") is not None):
        parent = {"ticket_id": _snapshot(event)["id"]}
        rank = _CREATED if event.type.endswith("_added") else _CHANGED
        yield COMMENTS.children(parent, [comment], at=event.at, rank=rank, complete=False)


@vendor.maps(*(f"{PREFIX}ticket.{what}" for what in ("soft_deleted", "permanently_deleted", "merged")))
def ticket_gone(event: Event) -> Iterator[Record]:
    """A ticket in the bin, deleted for good, or merged into another; `ticket.undeleted` brings its row back."""
    yield from _gone(TICKETS, event)
    yield COMMENTS.children({"ticket_id": _snapshot(event)["id"]}, [], at=event.at, rank=_DELETED)


@vendor.maps(f"{PREFIX}user.*")
def user(event: Event) -> Iterator[Record]:
    """A user as it is now; one that is no longer active is one that Zendesk calls deleted."""
    change = event.data.get("event")
    inactive = (
        event.type.endswith(".active_changed") and isinstance(change, dict) and change.get("current") is False
    )
    yield from (_gone if inactive else _rows)(USERS, event)


@vendor.maps(f"{PREFIX}user.deleted")
def user_gone(event: Event) -> Iterator[Record]:
    """A deleted user."""
    yield from _gone(USERS, event)


@vendor.maps(f"{PREFIX}organization.*")
def organization(event: Event) -> Iterator[Record]:
    """An organization as it is now."""
    yield from _rows(ORGANIZATIONS, event)


@vendor.maps(f"{PREFIX}organization.deleted")
def organization_gone(event: Event) -> Iterator[Record]:
    """A deleted organization."""
    yield from _gone(ORGANIZATIONS, event)


@vendor.maps(f"{PREFIX}article.published")
def article(event: Event) -> Iterator[Record]:
    """A published article: what it is stands in `event`, for `detail` holds little more than its id.

    Other article events (votes, comments, a new author) have neither title nor section and are ignored: a row
    made of them would lose both.
    """
    yield ARTICLES.row({**(event.data.get("event") or {}), **_snapshot(event)}, at=event.at, rank=_CHANGED)


@vendor.maps(f"{PREFIX}article.unpublished")
def article_gone(event: Event) -> Iterator[Record]:
    """An article that readers no longer see; publishing it again brings the row back."""
    yield ARTICLES.gone({"id": _snapshot(event)["id"]}, at=event.at, rank=_DELETED)


@vendor.maps("trigger")
def trigger(event: Event) -> Iterator[Record]:
    """What a trigger sent, under the ticket's id where the usual names have one.

    Raises:
        KeyError: the body names no ticket.
    """
    body: dict[str, Any] = event.data
    inner = body.get("ticket")
    found = (body.get("ticket_id"), inner.get("id") if isinstance(inner, dict) else None, body.get("id"))
    for id_ in found:
        if isinstance(id_, (str, int)) and not isinstance(id_, bool) and id_ != "":
            yield TRIGGERS.row({**body, "ticket_id": id_})
            return
    raise KeyError("ticket_id, ticket.id or id")


# --- samples ------------------------------------------------------------------------------------------

_ACCOUNT: Final = 22_417_305


def _time(now: int) -> str:
    return f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S}.{now % NS:09d}Z"


def _envelope(what: str, id_: str, n: int, now: int, detail: Any, event: Any) -> Sample:
    noun = what.partition(".")[0]
    body = {
        "type": f"{PREFIX}{what}",
        "account_id": _ACCOUNT,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"zendesk/{what}/{n}/{now}")),
        "time": _time(now),
        "zendesk_event_version": "2022-11-06",
        "subject": f"zen:{noun}:{id_}",
        "detail": detail,
        "event": event,
    }
    return Sample(body, {"X-Zendesk-Webhook-Id": "01JSAMPLEWEBHOOK0000000000"})


def _ticket_sample(what: str, n: int, now: int, *, status: str = "OPEN", event: Any = None) -> Sample:
    id_ = str(40_000 + n)
    person = str(8_447_388_000_000 + n % 500)
    detail = {
        "actor_id": person,
        "assignee_id": str(8_447_388_090_494),
        "brand_id": "8447346621310",
        "created_at": "2026-01-08T10:12:07Z",
        "custom_status": "8447320465790",
        "description": f"Parcel {n} arrived with a cracked lid. Could you send a new one to the same address?",
        "external_id": f"order-{n}",
        "form_id": "8646151517822",
        "group_id": "8447320466430",
        "id": id_,
        "is_public": True,
        "organization_id": "8447346622462",
        "priority": ("LOW", "NORMAL", "HIGH", "URGENT")[n % 4],
        "requester_id": person,
        "status": status,
        "subject": f"Cracked lid in order {n}",
        "submitter_id": person,
        "tags": ["damage", "replacement"],
        "type": "PROBLEM",
        "updated_at": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}",
        "via": {"channel": "web_service"},
    }
    meta = {"meta": {"sequence": {"id": f"{n:032X}", "position": 1, "total": 1}}}
    return _envelope(what, id_, n, now, detail, {**meta, **(event or {})})


@vendor.sample(f"{PREFIX}ticket.status_changed")
def ticket_changed_sample(n: int, now: int) -> Sample:
    """The same ticket, solved."""
    change = {"current": "SOLVED", "previous": "OPEN"}
    return _ticket_sample("ticket.status_changed", n, now, status="SOLVED", event=change)


@vendor.sample(f"{PREFIX}ticket.comment_added")
def comment_sample(n: int, now: int) -> Sample:
    """A reply to it."""
    comment = {"id": str(9_100_000_000 + n), "body": "A new one is on its way.", "is_public": True}
    comment["author"] = {"id": "8447388090494", "is_staff": True, "name": "Ida Brandt"}
    return _ticket_sample("ticket.comment_added", n, now, event={"comment": comment})


def _user_sample(what: str, n: int, now: int) -> Sample:
    id_ = str(8_447_388_000_000 + n)
    detail = {
        "created_at": "2026-01-08T10:12:07Z",
        "email": f"customer{n}@mail.example",
        "external_id": f"crm-{n}",
        "default_group_id": "0",
        "id": id_,
        "organization_id": "8447346622462",
        "role": "end-user",
        "updated_at": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}",
    }
    return _envelope(what, id_, n, now, detail, {})


def _organization_sample(what: str, n: int, now: int) -> Sample:
    id_, time = str(6_607_619_000_000 + n), f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}"
    detail = {"id": id_, "name": f"Mill Lane {n} Ltd", "shared_comments": False, "shared_tickets": False}
    detail |= {"created_at": time, "updated_at": time, "external_id": f"crm-{n}", "group_id": "8447320466430"}
    return _envelope(what, id_, n, now, detail, {})


def _article_sample(what: str, n: int, now: int) -> Sample:
    id_ = str(7_005_450_000_000 + n)
    event = {"author_id": "8447388090494", "category_id": "7005450400001", "locale": "en-gb"}
    event |= {"section_id": "7005450400002", "title": f"How to return parcel {n}"}
    detail = {"brand_id": "8447346621310", "id": id_, "user_id": "8447388090494"}
    return _envelope(what, id_, n, now, detail, event)


def _merged_sample(what: str, n: int, now: int) -> Sample:
    return _ticket_sample(what, n, now, status="CLOSED", event={"target_ticket_id": str(30_000 + n)})


_PLAIN: Final[dict[str, Callable[[str, int, int], Sample]]] = {
    "ticket.created": partial(_ticket_sample, status="NEW"),
    "ticket.soft_deleted": partial(_ticket_sample, status="DELETED"),
    "ticket.permanently_deleted": partial(_ticket_sample, status="DELETED"),
    "ticket.merged": _merged_sample,
    **dict.fromkeys(("user.created", "user.deleted"), _user_sample),
    **dict.fromkeys(("organization.created", "organization.deleted"), _organization_sample),
    **dict.fromkeys(("article.published", "article.unpublished"), _article_sample),
}
for _what, _make in _PLAIN.items():
    vendor.sample(f"{PREFIX}{_what}")(partial(_make, _what))


@vendor.sample("trigger")
def trigger_sample(n: int, now: int) -> Sample:
    """What an administrator's trigger may send."""
    body = {"ticket_id": str(40_000 + n), "status": "Solved", "requester": f"customer{n}@mail.example"}
    return Sample(body, {"X-Zendesk-Webhook-Invocation-Id": f"01JSAMPLE{n:08d}{now // NS:011d}"})
