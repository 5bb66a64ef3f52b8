"""Zoho Desk: tickets with threads, comments and attachments, contacts, accounts, agents, activities, articles.

A delivery carries a token, `X-ZDesk-JWT` (RS256), by which Zoho says who sent it and to which webhook. The body is
not covered by it: whoever has seen one delivery can send another body with the same token, for as long as that
lasts. Zoho signs for all its customers with the keys of a data centre, so the organisation and the webhook in the
token are what tells your deliveries from those that another customer sends to your address.

When a webhook is made, Zoho asks for the address by GET, and by POST where that fails. Only 200 within five
seconds counts; 410 removes the webhook, and of repetitions Zoho says nothing.
https://desk.zoho.com/support/WebhookDocument.do
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.publickeys import RSA, Ring, SignedToken
from relay.records import Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.source import Reply, Sample, Setting, Vendor, table

_HEADER: Final = "X-ZDesk-JWT"
_CLOCK: Final = "eventTime (milliseconds), then what was done"
#: Of two events in one millisecond the later step counts.
_STEPS: Final = {"Add": 0, "Update": 10}

# fmt: off
#: The beginning of an event's type -> the table of what its `payload` is.
TABLES: Final[Mapping[str, Table]] = {
    "Ticket": table(
        "tickets", "id", _CLOCK,
        id="id ticketNumber departmentId contactId accountId productId assigneeId teamId layoutId slaId createdBy "
        "modifiedBy", bool="isEscalated isOverDue isResponseOverdue isSpam isTrashed isDeleted",
        int="threadCount commentCount attachmentCount taskCount approvalCount timeEntryCount tagCount",
        instant="createdTime modifiedTime closedTime dueDate responseDueDate onholdTime customerResponseTime",
        text="subject description status statusType priority category subCategory channel classification email "
        "phone language resolution webUrl", json="cf contact assignee source sharedDepartments secondaryContacts"),
    "Ticket_Thread": table(
        "ticket_threads", "id", _CLOCK, id="id ticketId", instant="createdTime", int="attachmentCount",
        text="channel content contentType direction fromEmailAddress plainText responderId status summary to cc "
        "bcc visibility", bool="canReply hasAttach isContentTruncated isDescriptionThread isForward",
        json="author attachments source replyTo"),
    "Ticket_Comment": table(
        "ticket_comments", "id", _CLOCK, id="id ticketId commenterId", instant="commentedTime modifiedTime",
        text="content contentType plainText", bool="isPublic", json="attachments commenter mention"),
    "Ticket_Attachment": table(
        "ticket_attachments", "id", _CLOCK, id="id ticketId creatorId", instant="createdTime", int="size",
        text="name href previewurl", bool="isPublic isTrashed"),
    "Contact": table(
        "contacts", "id", _CLOCK, id="id ownerId accountId zohoCRMContact",
        instant="createdTime modifiedTime customerHappinessTime",
        bool="isAnonymous isDeleted isEndUser isSpam isTrashed",
        text="firstName lastName email secondaryEmail phone mobile title type street city state zip country "
        "facebook twitter description photoURL webUrl", json="cf account owner customerHappiness"),
    "Account": table(
        "accounts", "id", _CLOCK, id="id ownerId", instant="createdTime modifiedTime", bool="isDeleted isTrashed",
        text="accountName email phone fax website industry annualrevenue street city state code country "
        "description webUrl", json="cf owner associatedSLAIds"),
    "Agent": table(
        "agents", "id", _CLOCK, id="id roleId profileId zuid",
        text="firstName lastName name emailId phone mobile status langCode countryCode timeZone photoURL",
        bool="isConfirmed isLightAgent isZiaAgent", json="associatedDepartmentIds channelExpert aboutInfo"),
    "Department": table(
        "departments", "id", _CLOCK, id="id creatorId", instant="createdTime",
        text="name nameInCustomerPortal description chatStatus sanitizedName",
        bool="isDefault isEnabled isAssignToTeamEnabled isVisibleInCustomerPortal hasLogo",
        json="associatedAgentIds"),
    "Task": table(
        "tasks", "id", _CLOCK, id="id ticketId departmentId contactId ownerId creatorId teamId layoutId",
        instant="createdTime modifiedTime completedTime dueDate", text="subject description status priority "
        "category webUrl", json="cf reminder"),
    "Call": table(
        "calls", "id", _CLOCK, id="id ticketId departmentId contactId ownerId creatorId teamId layoutId",
        int="duration",
        instant="createdTime modifiedTime completedTime startTime", text="subject description direction status "
        "priority webUrl", json="cf reminder"),
    "Event": table(
        "events", "id", _CLOCK, id="id ticketId departmentId contactId ownerId creatorId teamId layoutId",
        int="duration",
        instant="createdTime modifiedTime completedTime startTime", text="subject description status priority "
        "category webUrl", json="cf reminder"),
    "TimeEntry": table(
        "time_entries", "id", _CLOCK, id="id ticketId requestId departmentId ownerId createdBy layoutId",
        int="hoursSpent minutesSpent secondsSpent", instant="executedTime createdTime modifiedTime", money="cost "
        "totalCost additionalCost", text="description requestChargeType module", json="cf parent"),
    "Article": table(
        "articles", "id", _CLOCK,
        id="id categoryId rootCategoryId departmentId authorId creatorId ownerId modifierId",
        instant="createdTime modifiedTime expiryDate", text="title answer summary status permission permalink "
        "locale webUrl", bool="isTrashed isTemplate", int="viewCount likeCount dislikeCount commentCount",
        json="tags category author seo attachments"),
}
# fmt: on


def claims(name: str) -> dict[str, str]:
    """What the token must say for `<organisation>/<webhook>`."""
    organisation, _, webhook = name.partition("/")
    return {"iss": f"orgId:{organisation.strip()}", "aud": f"webhookId:{webhook.strip()}"}


def verifier(settings: Mapping[str, Any]) -> SignedToken:
    """The token, with the keys of a data centre."""
    named = ("<orgId>/<webhookId>", "700100200/81700000000123001")
    return SignedToken(_HEADER, claims=claims, ring=Ring(RSA, setting="jwks", keys=settings["jwks"], named=named))


def handshake(request: Request, _secrets: tuple[str, ...], _settings: Mapping[str, Any]) -> Reply | None:
    """Answers Zoho's question whether somebody is there: a GET, or a POST without a token that says nothing."""
    if request.method == "GET":
        return Reply(200)
    empty = request.body.strip() in {b"", b"{}", b"[]"}
    return Reply(200) if empty and not request.headers.get(_HEADER.lower()) else None


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each item is an event of its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: the body is not a list.
    """
    if not isinstance(data, list):
        raise MalformedPayload("the body is not a list of events", reason="no_events")
    for item in data:
        known: dict[str, Any] = item if isinstance(item, dict) else {}
        type_, time, payload = known.get("eventType"), known.get("eventTime"), known.get("payload")
        id_ = payload.get("id") if isinstance(payload, dict) else None
        told = all(isinstance(part, (str, int)) and part for part in (type_, time, id_))
        yield Event(
            type=type_ if isinstance(type_, str) and type_ else "unknown",
            data=item,
            id=f"{type_}/{id_}/{time}" if told else "",
            at=instant_ns(time),
            dedup="id" if told else "content",
        )


vendor = Vendor(
    title="Zoho Desk",
    family="helpdesk",
    docs="https://desk.zoho.com/support/WebhookDocument.do",
    verify=verifier,
    events=read,
    tables=tuple(TABLES.values()),
    handshake=handshake,
    reply=Reply(200),
    settings={
        "jwks": Setting(
            help="The keys of your data centre, the whole text at https://desk.zoho.com/.well-known/jwks.json (or "
            "desk.zoho.eu, .in, .com.au, …). Without them all is refused; fetch them anew when they change."
        )
    },
    setup=(
        "Setup → Developer Space → Webhooks → New webhook: this URL, and the events that you want.",
        "The secret: `<orgId>/<webhookId>`, that of the organisation (Setup → Developer Space → API) first.",
        "`jwks`: the keys of your data centre, see there.",
    ),
    deletes="`*_Delete` marks the row deleted.",
    limits=(
        "the token says who sent, not what: keep the address secret",
        "the order of events is kept within a module, not between modules",
        "`prevState` stays with the event and becomes no row",
    ),
    proof="library: PyJWT",
    # 410 or nothing within five seconds is a failure, and no repetition is promised: the page in `docs`.
    fragile=True,
)


@vendor.maps(*(f"{module}_{did}" for module in TABLES for did in ("Add", "Update", "Delete")))
def snapshot(event: Event) -> Iterator[Record]:
    """What the event is about, as it is now.

    Raises:
        KeyError: there is no payload, or it has no id.
    """
    module, _, did = event.type.rpartition("_")
    row = event.data["payload"]
    if not row["id"]:
        raise KeyError("id")
    if did == "Delete":
        yield TABLES[module].gone({"id": row["id"]}, at=event.at)
    else:
        yield TABLES[module].row(dict(row), at=event.at, rank=_STEPS[did])


# --- samples ------------------------------------------------------------------------------------------


def _payload(module: str, n: int, at: str) -> dict[str, Any]:
    id_, ticket = str(81_700_000_100_000_000 + n), str(81_700_000_000_000_000 + n)
    mail = f"kunde{n}@mail.example"
    about: dict[str, dict[str, Any]] = {
        "Ticket": {
            "id": ticket, "ticketNumber": str(100 + n), "subject": f"Lieferung {n} fehlt", "status": "Open",
            "statusType": "Open", "priority": "High", "channel": "Email", "email": mail, "createdTime": at,
            "modifiedTime": at, "threadCount": "1", "cf": {"cf_order": f"NL-{n:06d}"}, "isTrashed": False,
            "description": "<div>Wo bleibt mein Paket?</div>", "departmentId": "81700000000006907",
            "contactId": str(81_700_000_200_000_000 + n % 40), "closedTime": None, "assigneeId": None,
        },
        "Ticket_Thread": {"ticketId": ticket, "content": "Hallo", "direction": "in", "fromEmailAddress": mail},
        "Ticket_Comment": {"ticketId": ticket, "content": "Bitte prüfen", "isPublic": False, "commentedTime": at},
        "Ticket_Attachment": {"ticketId": ticket, "name": "foto.jpg", "size": str(1000 + n)},
        "Contact": {"firstName": "Ida", "lastName": f"Brandt {n}", "email": mail, "createdTime": at},
        "Account": {"accountName": f"Nordlicht {n} GmbH", "website": "nordlicht.example", "createdTime": at},
        "Agent": {"firstName": "Jan", "lastName": f"Otte {n}", "emailId": f"agent{n}@desk.example"},
        "Department": {"name": f"Versand {n}", "isEnabled": True, "createdTime": at},
        "TimeEntry": {"ticketId": ticket, "minutesSpent": n % 60, "executedTime": at},
        "Article": {"title": f"Rücksendung {n}", "status": "Published", "createdTime": at},
    }  # fmt: skip
    activity = {"ticketId": ticket, "subject": f"Rückruf {n}", "status": "In Progress", "createdTime": at}
    return {"id": id_, **about.get(module, activity)}


def _sample_of(type_: str) -> Any:
    module, _, did = type_.rpartition("_")

    def sample(n: int, now: int) -> Sample:
        payload = _payload(module, n, f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.000Z}")
        told = {"id": payload["id"]} if did == "Delete" else payload
        event = {"payload": told, "eventTime": str(now // 1_000_000), "eventType": type_, "orgId": "700100200"}
        return Sample([{**event, "prevState": None} if did == "Update" else event])

    return sample


for _module in TABLES:
    for _did in ("Add", "Update", "Delete"):
        vendor.sample(f"{_module}_{_did}")(_sample_of(f"{_module}_{_did}"))
