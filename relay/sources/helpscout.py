"""Help Scout: conversations and their threads, customers, tags, satisfaction ratings, Beacon chats.

The body is the object of the Inbox API 2.0 itself, the event stands in a header; a delete carries the id alone.
Webhooks that were set to the old payload (v1) send threads as a list of the conversation's own.
https://developer.helpscout.com/webhooks/
https://developer.helpscout.com/mailbox-api/endpoints/conversations/get/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.records import Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Sample, Vendor, header, table

#: `userUpdatedAt` stands still where a customer writes; what is newest in the body moves with each change.
_NEWEST: Final = (
    "the newest of userUpdatedAt, modifiedAt, closedAt, createdAt and the threads' createdAt (seconds)"
)
_UPDATED: Final = "updatedAt, else modifiedAt, else createdAt (seconds)"
_TIMES: Final = ("userUpdatedAt", "modifiedAt", "closedAt", "createdAt")
#: What happened within one second: the object is made first.
_CREATED, _CHANGED = 0, 10

# fmt: off
CONVERSATIONS = table(
    "conversations", "id", _NEWEST + ", then the number of threads; for a delete its receipt",
    id="id folderId mailboxId closedBy", int="number threads threadCount",
    text="type status state subject preview", bool="isDraft",
    instant="createdAt closedAt userUpdatedAt modifiedAt",
    json="assignee createdBy closedByUser customerWaitingSince source tags cc bcc primaryCustomer customFields "
    "snooze nextEvent owner mailbox customer",
)
THREADS = table(
    "threads", "conversationId id", "its conversation's", "conversationId",
    id="conversationId id savedReplyId", text="type status state body", instant="createdAt openedAt",
    json="action source customer createdBy assignedTo to cc bcc attachments rating",
)
CUSTOMERS = table(
    "customers", "id", _UPDATED + "; for a delete its receipt",
    id="id organizationId conversationCount",
    text="firstName lastName gender jobTitle location organization photoType photoUrl background age",
    instant="createdAt updatedAt modifiedAt", bool="draft",
    json="emails phones chats social_profiles websites address properties",
)
TAGS = table(
    "tags", "id", _UPDATED + "; for a delete its receipt",
    id="id", text="slug name color tag", instant="createdAt updatedAt", int="ticketCount",
)
RATINGS = table(
    "satisfaction_ratings", "id", _UPDATED,
    id="id threadId conversationId mailboxId", int="conversationNumber", text="rating comments",
    instant="createdAt modifiedAt", json="customer user",
)
CHATS = table(
    "chats", "id", "the delivery's receipt",
    id="id beaconId mailboxId conversationId", text="preview", instant="createdAt endedAt",
    json="assignee customer tags customFields timeline",
)
# fmt: on


def _is_test(request: Request, _data: Any) -> bool:
    return request.headers.get("x-helpscout-event", "") == "helpscout.test"


vendor = Vendor(
    title="Help Scout",
    family="helpdesk",
    docs="https://developer.helpscout.com/webhooks/",
    verify=Hmac("X-HelpScout-Signature", algorithm="sha1", encoding="base64"),
    # There is no delivery id, and a tag put on, taken off and put on again makes one body twice: by content alone.
    type=header("X-HelpScout-Event"),
    test=_is_test,
    tables=(CONVERSATIONS, THREADS, CUSTOMERS, TAGS, RATINGS, CHATS),
    setup=(
        "Manage → Apps → Webhooks: this URL as the callback URL, payload version v2, the events.",
        "The secret: the secret key that you type there.",
    ),
    deletes="Conversations, customers and tags: the row is marked deleted, a conversation's threads with it.",
    limits=(
        "a merge carries the conversation that remains, and does not name the one that went into it",
        "a conversation may come with its newest threads only; such a set deletes nothing",
        "survey responses are counted and become no rows",
    ),
    proof="vector: helpscout.php, helpscout.python",
    # Help Scout switches a webhook off after ten events that it gave up on, as users of the page above report.
    fragile=True,
)


@vendor.maps(
    *("convo.created", "convo.ai-answers.created", "convo.assigned", "convo.merged", "convo.moved"),
    *("convo.status", "convo.tags", "convo.custom-fields", "convo.note.created"),
    *("convo.customer.reply.created", "convo.agent.reply.created"),
)
def conversation(event: Event) -> Iterator[Record]:
    """A conversation as it is now, and its threads as far as they come with it.

    `threads` is their number in v2, and the list itself in v1.
    """
    data = event.data
    threads = _threads(data)
    listed = isinstance(data.get("threads"), list)
    row = {k: v for k, v in data.items() if k not in {"_embedded", "_links"} and not (listed and k == "threads")}
    at = _newest(data, threads or [])
    count = data.get("threadCount" if listed else "threads")
    rank = _CREATED if event.type in {"convo.created", "convo.ai-answers.created"} else _CHANGED
    clock: dict[str, Any] = {"at": at, "sequence": count if isinstance(count, int) else 0, "rank": rank}
    gone = data.get("state") == "deleted"
    yield CONVERSATIONS.row(row, **clock, gone=gone)
    if gone:
        yield THREADS.children({"conversationId": data["id"]}, [], **clock)
    elif threads is not None:
        members = {thread["id"]: _thread(thread) for thread in threads}
        yield THREADS.children({"conversationId": data["id"]}, members.values(), **clock, complete=False)


def _threads(data: dict[str, Any]) -> list[dict[str, Any]] | None:
    inside = (data.get("_embedded") or {}).get("threads", data.get("threads"))
    return inside if isinstance(inside, list) else None


def _thread(thread: dict[str, Any]) -> dict[str, Any]:
    embedded = thread.get("_embedded") or {}
    return {**{k: v for k, v in thread.items() if k not in {"_embedded", "_links"}}, **embedded}


def _newest(data: dict[str, Any], threads: list[dict[str, Any]]) -> int | None:
    times = [data.get(name) for name in _TIMES] + [thread.get("createdAt") for thread in threads]
    return max((at for at in map(instant_ns, times) if at is not None), default=None)


def _plain(event: Event, table_: Table) -> Record:
    """An object of one table, its embedded lists as columns; one that is new goes before its changes."""
    data = event.data
    embedded = data.get("_embedded") or {}
    row = {**{k: v for k, v in data.items() if k not in {"_embedded", "_links"}}, **embedded}
    times = (instant_ns(data.get(name)) for name in ("updatedAt", "modifiedAt", "createdAt"))
    at = next((time for time in times if time is not None), None)
    return table_.row(row, at=at, rank=_CREATED if event.type.endswith(".created") else _CHANGED)


@vendor.maps("customer.created", "customer.updated")
def customer(event: Event) -> Iterator[Record]:
    """A customer with the ways to reach them."""
    yield _plain(event, CUSTOMERS)


@vendor.maps("tag.created", "tag.updated")
def tag(event: Event) -> Iterator[Record]:
    """A tag."""
    yield _plain(event, TAGS)


@vendor.maps("satisfaction.ratings")
def rating(event: Event) -> Iterator[Record]:
    """What a customer thinks of a reply."""
    yield _plain(event, RATINGS)


@vendor.maps("beacon.chat.created", "beacon.chat.customer.replied")
def chat(event: Event) -> Iterator[Record]:
    """A chat as it is now; it names no time of its last change."""
    data = event.data
    row = {**{k: v for k, v in data.items() if k not in {"_embedded", "_links"}}, **(data.get("_embedded") or {})}
    yield CHATS.row(row)


@vendor.maps("convo.deleted", "customer.deleted", "tag.deleted")
def gone(event: Event) -> Iterator[Record]:
    """What was deleted, by its id; no time is said, so it counts as of its receipt."""
    key = {"id": event.data["id"]}
    if event.type == "convo.deleted":
        yield CONVERSATIONS.gone(key)
        yield THREADS.children({"conversationId": key["id"]}, [], rank=99)
    else:
        yield (CUSTOMERS if event.type == "customer.deleted" else TAGS).gone(key)


# --- samples ------------------------------------------------------------------------------------------


def _time(ns: int) -> str:
    return f"{instant_of_ns(ns):%Y-%m-%dT%H:%M:%SZ}"


def _person(n: int, kind: str) -> dict[str, Any]:
    return {"id": 600_000 + n, "type": kind, "first": "Ida", "last": f"Brandt {n}", "email": f"p{n}@mail.example"}


def _conversation(n: int, now: int, status: str, replies: int) -> dict[str, Any]:
    threads: list[dict[str, Any]] = [
        {
            "id": 8_800_000_000 + 10 * n + i,
            "type": ("customer", "message")[i % 2],
            "status": "active",
            "state": "published",
            "action": {"type": "default", "associatedEntities": {}},
            "body": f"Parcel {n} came without its lid." if i == 0 else "A new one is on its way.",
            "source": {"type": "email", "via": ("customer", "user")[i % 2]},
            "customer": _person(n, "customer"),
            "createdBy": _person(n if i == 0 else 1, ("customer", "user")[i % 2]),
            "to": [f"p{n}@mail.example"] if i else [],
            "cc": [],
            "bcc": [],
            "createdAt": _time(now - 60_000_000_000 * (replies - i)),
            "_embedded": {"attachments": []},
        }
        for i in range(replies)
    ]
    return {
        "id": 2_910_000_000 + n,
        "number": 10_000 + n,
        "threads": replies,
        "type": "email",
        "folderId": 1234,
        "status": status,
        "state": "published",
        "subject": f"Parcel {n}",
        "preview": f"Parcel {n} came without its lid.",
        "mailboxId": 85,
        "assignee": _person(1, "user"),
        "createdBy": _person(n, "customer"),
        "createdAt": _time(now - 3_600_000_000_000),
        "closedBy": 1 if status == "closed" else 0,
        "closedAt": _time(now) if status == "closed" else None,
        "userUpdatedAt": _time(now),
        "customerWaitingSince": {"time": _time(now - 3_600_000_000_000), "friendly": "an hour ago"},
        "source": {"type": "email", "via": "customer"},
        "tags": [{"id": 9150, "color": "#929499", "tag": "breakage"}],
        "cc": [],
        "bcc": [],
        "primaryCustomer": _person(n, "customer"),
        "customFields": [{"id": 8, "name": "Order", "value": str(40_000 + n), "text": str(40_000 + n)}],
        "_embedded": {"threads": threads},
        "_links": {"self": {"href": f"https://api.helpscout.net/v2/conversations/{2_910_000_000 + n}"}},
    }


#: Event -> the status that the conversation has then, and how many threads.
_CONVERSATIONS: Final[Mapping[str, tuple[str, int]]] = {
    "convo.created": ("active", 1),
    "convo.ai-answers.created": ("active", 1),
    "convo.assigned": ("active", 1),
    "convo.tags": ("active", 1),
    "convo.custom-fields": ("active", 1),
    "convo.moved": ("active", 1),
    "convo.merged": ("active", 2),
    "convo.note.created": ("active", 2),
    "convo.agent.reply.created": ("pending", 2),
    "convo.customer.reply.created": ("active", 3),
    "convo.status": ("closed", 3),
}


def _customer(n: int, now: int) -> dict[str, Any]:
    emails = [{"id": 700_000 + n, "value": f"p{n}@mail.example", "type": "work"}]
    times = {"createdAt": _time(now - 3_600_000_000_000), "updatedAt": _time(now)}
    name = {"firstName": "Ida", "lastName": f"Brandt {n}", "gender": "unknown", "organization": "Mill Lane Ltd"}
    return {"id": 600_000 + n, **name, **times, "draft": False, "_embedded": {"emails": emails, "phones": []}}


def _body(type_: str, n: int, now: int) -> dict[str, Any]:
    if type_ in _CONVERSATIONS:
        return _conversation(n, now, *_CONVERSATIONS[type_])
    if type_.endswith(".deleted"):
        return {"id": {"convo": 2_910_000_000, "customer": 600_000, "tag": 9000}[type_.partition(".")[0]] + n}
    if type_.startswith("customer."):
        return _customer(n, now)
    if type_.startswith("tag."):
        return {"id": 9000 + n, "slug": f"tag-{n}", "name": f"Tag {n}", "color": "none", "createdAt": _time(now)}
    if type_.startswith("beacon."):
        return {
            "id": f"{n:08d}-0000-4000-8000-000000000000",
            "beaconId": "b-1",
            "mailboxId": 85,
            "preview": "Hello",
        }
    about = {"conversationId": 2_910_000_000 + n, "threadId": 8_800_000_000 + 10 * n, "mailboxId": 85}
    return {"id": 500_000 + n, "rating": "great", "comments": "Quick!", **about, "createdAt": _time(now)}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    return lambda n, now: Sample(_body(type_, n, now), {"X-HelpScout-Event": type_})


for _type in vendor.mappers:
    vendor.sample(_type)(_sample_of(_type))
