"""LinkedIn: leads of Lead Sync, and what people do with an organization's posts.

https://learn.microsoft.com/en-us/linkedin/shared/api-guide/webhook-validation
https://learn.microsoft.com/en-us/linkedin/marketing/lead-sync/leadsync
https://learn.microsoft.com/en-us/linkedin/marketing/community-management/organizations/organization-social-action-notifications

A lead's delivery names it alone: its answers are fetched where there is a token. The challenge is answered with
the very hash that signs deliveries: if any challenge were answered, `hmacsha256=<a made-up lead>` would come back
with its signature. So only what has the form of a UUID is answered, and no delivery begins like one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.records import Event, Record, Request, encode_json, instant_ns
from relay.signatures import Hmac
from relay.source import FETCHED, Fetch, Reply, Sample, Setting, Vendor, api, table

_LEAD: Final = "LEAD_ACTION"
_SOCIAL: Final = "ORGANIZATION_SOCIAL_ACTION_NOTIFICATIONS"
_MS: Final = 1_000_000
#: At one occurredAt a fetched lead says more than a delivery, and a deletion is the last.
_FETCHED, _DELETED = 10, 99
_URN: Final = re.compile(r"urn:li:leadGenFormResponse:([A-Za-z0-9-]{1,100})")
#: What is asked of a lead, with the questions of its form: an answer has only a question's number.
_ASKED: Final = (
    "id,owner,submitter,submittedAt,testLead,leadType,versionedLeadGenFormUrn,associatedEntity,leadMetadata,"
    "formResponse,form:(id,name,hiddenFields,content)"
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# fmt: off
LEADS = table(
    "leads", "leadGenFormResponse", "occurredAt (milliseconds)",
    text="leadGenFormResponse leadGenForm leadType leadAction type submitter versionedLeadGenFormUrn form_name",
    # Which kind of account, event or ad it belongs to: one URN under the name of its kind.
    json="owner associatedEntity leadMetadata consentResponses hiddenFields", id="form_id", bool="testLead",
    instant="occurredAt submittedAt",
)
ANSWERS = table(
    "lead_answers", "leadGenFormResponse questionId", "the lead's", "leadGenFormResponse",
    text="leadGenFormResponse name predefinedField answer", id="questionId", json="options question answerDetails",
)
NOTIFICATIONS = table(
    "notifications", "notificationId", "lastModifiedAt (milliseconds)",
    id="notificationId",
    text="action generatedActivity organizationalEntity sourcePost subscriber",
    json="decoratedGeneratedActivity decoratedSourcePost", instant="lastModifiedAt",
)
# fmt: on


def handshake(request: Request, secrets: tuple[str, ...], _settings: Mapping[str, Any]) -> Reply | None:
    """Answers `GET ?challengeCode=<uuid>`, every two hours; a code of any other form is refused, never signed."""
    if request.method != "GET" or "challengeCode" not in request.query:
        return None
    code = request.query["challengeCode"]
    if not secrets or _UUID.fullmatch(code) is None:
        return Reply(403)
    answer = hmac.new(secrets[0].encode("utf-8", "replace"), code.encode(), hashlib.sha256).hexdigest()
    body = encode_json({"challengeCode": code, "challengeResponse": answer})
    return Reply(200, body, "application/json")


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One lead; or each of up to ten notifications for itself, so that a bad one never fails the others.

    Raises:
        MalformedPayload: the body is not an object, or its notifications are not a list.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    kind = data.get("type")
    if kind == _SOCIAL:
        items = data.get("notifications")
        if not isinstance(items, list):
            raise MalformedPayload("`notifications` is not a list", reason="no_notifications")
        yield from (_notification(item) for item in items)
        return
    # A lead's delivery has no id of its own: it is told by what happened to which lead, and when.
    parts = [data.get(name) for name in ("leadGenFormResponse", "leadAction", "occurredAt")]
    known = all(isinstance(part, (str, int)) and part != "" for part in parts)
    yield Event(
        type=kind if isinstance(kind, str) else "",
        data=data,
        id="/".join(map(str, parts)) if known else "",
        at=instant_ns(data.get("occurredAt")),
        dedup="id" if known else "content",
    )


def _notification(item: Any) -> Event:
    known: dict[str, Any] = item if isinstance(item, dict) else {}
    id_ = known.get("notificationId")
    return Event(
        type=_SOCIAL,
        data=item,
        id="" if id_ is None else str(id_),
        at=instant_ns(known.get("lastModifiedAt")),
        dedup="id" if id_ is not None else "content",
    )


vendor = Vendor(
    title="LinkedIn Lead Sync",
    family="ads",
    docs="https://learn.microsoft.com/en-us/linkedin/marketing/lead-sync/leadsync",
    verify=Hmac("X-LI-Signature", message="hmacsha256={body}"),
    events=read,
    tables=(LEADS, ANSWERS, NOTIFICATIONS),
    handshake=handshake,
    settings={
        **api("https://api.linkedin.com"),
        "api_token": Setting(
            "An access token with r_marketing_leadgen_automation; with it a lead's answers are fetched.",
            secret=True,
        ),
        "api_version": Setting("The `LinkedIn-Version` that they are asked for in; LinkedIn ends each.", "202601"),
    },
    setup=(
        "The secret: your application's client secret. Set it first, since the next step is checked at once.",
        "For leads: POST /rest/leadNotifications, with this URL as `webhook`, the owner and the lead type.",
        "For posts: the Webhooks tab of the application.",
        "While a secret is being changed, put first the one that LinkedIn shows: it answers the challenges.",
    ),
    deletes="leadAction DELETED marks the row deleted, which keeps what it last held.",
    limits=(
        "a delivery names the lead alone; with `api_token` its answers are fetched, and the token lives 60 days",
        "three unanswered challenges in a row, one every two hours, block the webhook",
    ),
    proof="documented: hex HMAC-SHA256 of `hmacsha256=` and the body; Microsoft's page on webhook validation says "
    "so and publishes no secret with its sample",
    # Notifications of posts are tried for eight hours, says the page on them; of leads nothing is promised.
    fragile=True,
)


@vendor.hydrates(_LEAD, token="api_token", hosts=("api.linkedin.com",))  # noqa: S106 - a setting's name
def answers(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The whole lead, unless it was deleted."""
    named = _URN.fullmatch(str(event.data["leadGenFormResponse"]))
    if named is None or event.data["leadAction"] == "DELETED":
        return None
    headers = {
        "Authorization": f"Bearer {settings['api_token']}",
        "LinkedIn-Version": str(settings["api_version"]),
        "X-Restli-Protocol-Version": "2.0.0",
    }
    return Fetch(f"{settings['api_url']}/rest/leadFormResponses/{named[1]}?fields={_ASKED}", headers)


@vendor.maps(_LEAD)
def lead(event: Event) -> Iterator[Record]:
    """A lead's row, with its answers where they were fetched, or its tombstone.

    Raises:
        KeyError: the lead is not named.
    """
    urn = event.data["leadGenFormResponse"]
    if not urn:
        raise KeyError("leadGenFormResponse")
    key = {"leadGenFormResponse": urn}
    if event.data["leadAction"] == "DELETED":
        yield LEADS.gone(key, at=event.at)
        yield ANSWERS.children(key, [], at=event.at, rank=_DELETED)
        return
    row = {name: value for name, value in event.data.items() if name != FETCHED}
    found = event.data.get(FETCHED)
    if not isinstance(found, dict) or not str(urn).endswith(f":{found.get('id')}"):
        yield LEADS.row(row, at=event.at)
        return
    form, response = found.get("form") or {}, found["formResponse"]
    more = {name: value for name, value in found.items() if name not in {"id", "form", "formResponse"}}
    more |= {"form_id": form.get("id"), "form_name": form.get("name"), "hiddenFields": form.get("hiddenFields")}
    more["consentResponses"] = response.get("consentResponses")
    # The same said of both is the delivery's: the ad has another name in the answer.
    yield LEADS.row({**more, **row}, at=event.at, rank=_FETCHED)
    questions = {one["questionId"]: one for one in (form.get("content") or {}).get("questions") or ()}
    members = {
        one["questionId"]: _answer(one, questions.get(one["questionId"]) or {}) for one in response["answers"]
    }
    yield ANSWERS.children(key, members.values(), at=event.at, rank=_FETCHED)


def _answer(answer: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    """An answer as text or as the numbers of options, and what was asked."""
    details = answer.get("answerDetails") or {}
    return {
        "questionId": answer["questionId"],
        "name": question.get("name"),
        "predefinedField": question.get("predefinedField"),
        "question": question.get("question"),
        "answer": (details.get("textQuestionAnswer") or {}).get("answer"),
        "options": (details.get("multipleChoiceAnswer") or {}).get("options"),
        "answerDetails": details,
    }


@vendor.maps(_SOCIAL)
def notification(event: Event) -> Iterator[Record]:
    """What somebody did with a post: a like, a comment, a share, and their undoing, each a row of its own.

    Raises:
        KeyError: it has no id.
    """
    if not event.data["notificationId"]:
        raise KeyError("notificationId")
    yield NOTIFICATIONS.row(dict(event.data), at=event.at)


@vendor.sample(_LEAD)
def lead_sample(n: int, now: int) -> Sample:
    """A new lead of an ad."""
    return Sample(
        {
            "type": _LEAD,
            "leadGenFormResponse": f"urn:li:leadGenFormResponse:{n:08d}-5c1e-4b0f-9d2a-1-{n % 9}",
            "leadGenForm": f"urn:li:versionedLeadGenForm:(urn:li:leadGenForm:{7_100_000 + n % 12},1)",
            "owner": {"sponsoredAccount": f"urn:li:sponsoredAccount:{510_000_000 + n % 3}"},
            "associatedEntity": {"sponsoredCreative": f"urn:li:sponsoredCreative:{340_000_000 + n % 60}"},
            "leadType": "SPONSORED",
            "leadAction": "CREATED",
            "occurredAt": now // _MS,
        }
    )


@vendor.sample(_SOCIAL)
def notification_sample(n: int, now: int) -> Sample:
    """A like and a comment under one post."""
    post = f"urn:li:share:{7_000_000_000_000_000_000 + n % 40}"
    common = {
        "organizationalEntity": "urn:li:organization:2414183",
        "sourcePost": post,
        "lastModifiedAt": now // _MS,
    }
    who = {"subscriber": "urn:li:person:qZXYVUTSR", "decoratedSourcePost": {"entity": post, "text": "Tag der Tür"}}
    comment = f"urn:li:comment:(urn:li:activity:{6_900_000_000_000_000_000 + n},{n})"
    items = [
        {**common, **who, "notificationId": 2 * n + 1, "action": "LIKE"},
        {**common, **who, "notificationId": 2 * n + 2, "action": "COMMENT", "generatedActivity": comment},
    ]
    return Sample({"type": _SOCIAL, "notifications": items})
