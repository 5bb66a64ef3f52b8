"""Jira and Jira Service Management: issues, their changes, comments and worklogs, links, attachments, projects.

A request of a service desk is an issue, and comes as one. Issue events carry the whole issue; comment events carry
a few of its fields, which are no issue's row. An issue's key moves with it to another project, its id stays.
https://developer.atlassian.com/cloud/jira/platform/webhooks/
https://developer.atlassian.com/server/jira/platform/webhooks/
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from relay.records import NS, Event, Record, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Sample, Vendor, field, header, table

#: Each event has it; what an object says of its own last change stands still for links, votes and deletes.
_CLOCK: Final = "the event's timestamp (milliseconds), then the object's own `updated`"
_EVENT: Final = "the event's timestamp (milliseconds)"
_CREATED, _CHANGED, _DELETED = 0, 10, 90
_CUSTOM: Final = "customfield_"
#: Lists inside an issue that have a table of their own.
_LISTS: Final = ("comment", "worklog")
#: Where Jira Server's comment events name no issue, the comment's address does.
_ISSUE_OF: Final = re.compile(r"/issue/(\d+)/comment/")

# fmt: off
ISSUES = table(
    "issues", "id", _CLOCK,
    id="id", text="key self summary description environment duedate issue_event_type_name",
    int="timespent timeestimate timeoriginalestimate aggregatetimespent aggregatetimeestimate "
    "aggregatetimeoriginalestimate workratio",
    instant="created updated resolutiondate statuscategorychangedate lastViewed",
    json="issuetype project status statusCategory priority resolution assignee reporter creator labels components "
    "fixVersions versions parent subtasks issuelinks attachment progress aggregateprogress timetracking votes "
    "watches security issuerestriction custom_fields",
)
CHANGES = table(
    "changelog_items", "changelogId position", _EVENT, "changelogId",
    id="changelogId issueId", int="position",
    text="field fieldtype fieldId from fromString to toString issueKey", instant="timestamp", json="user",
)
COMMENTS = table(
    "comments", "issueId id", _CLOCK, "issueId",
    id="issueId id parentId", text="body self", instant="created updated", bool="jsdPublic",
    json="author updateAuthor visibility",
)
WORKLOGS = table(
    "worklogs", "issueId id", _CLOCK, "issueId",
    id="issueId id", text="comment timeSpent self", int="timeSpentSeconds", instant="created updated started",
    json="author updateAuthor visibility",
)
LINKS = table(
    "issue_links", "id", _EVENT,
    id="id sourceIssueId destinationIssueId", int="sequence", bool="systemLink", json="issueLinkType",
)
ATTACHMENTS = table(
    "attachments", "id", _EVENT,
    id="id", text="filename mimeType content thumbnail self", int="size", instant="created", json="author",
)
PROJECTS = table(
    "projects", "id", _EVENT,
    id="id", text="key name self assigneeType", json="avatarUrls projectLead projectCategory",
)
VERSIONS = table(
    "versions", "id", _EVENT,
    id="id projectId", text="name description self startDate releaseDate userStartDate userReleaseDate",
    bool="archived released overdue",
)
SPRINTS = table(
    "sprints", "id", _EVENT,
    id="id originBoardId", text="name state goal self",
    instant="createdDate startDate endDate completeDate activatedDate",
)
# fmt: on

vendor = Vendor(
    title="Jira",
    family="helpdesk",
    docs="https://developer.atlassian.com/cloud/jira/platform/webhooks/",
    verify=Hmac("X-Hub-Signature", prefix="sha256="),
    type=field("webhookEvent"),
    # The same for each attempt; Jira Server has none, so its deliveries are told apart by content.
    id=header("X-Atlassian-Webhook-Identifier"),
    at=field("timestamp"),
    tables=(ISSUES, CHANGES, COMMENTS, WORKLOGS, LINKS, ATTACHMENTS, PROJECTS, VERSIONS, SPRINTS),
    setup=(
        "Settings → System → WebHooks → Create a WebHook: this URL, the events, “Exclude body” off.",
        "The secret: generate one in that form's field Secret.",
    ),
    deletes="Every `*_deleted` marks its row deleted, an issue's comments and worklogs with it.",
    limits=(
        "webhooks that Connect and OAuth apps register are not signed in this way and are refused",
        "users, boards, filters and properties of issues are counted and become no rows",
        "events of bulk changes come up to a quarter of an hour late",
    ),
    proof="vector: atlassian.docs",
    # Jira Cloud is said to try again five times, five to fifteen minutes apart.
    fragile=True,
)


def _version(event: Event, thing: dict[str, Any], rank: int) -> dict[str, Any]:
    updated = instant_ns(thing.get("updated"))
    return {"at": event.at, "sequence": 0 if updated is None else updated // 1_000_000, "rank": rank}


@vendor.maps("jira:issue_created", "jira:issue_updated", "jira:issue_deleted")
def issue(event: Event) -> Iterator[Record]:
    """The issue as it is now, what changed in it, and its comments and worklogs as far as they come along."""
    data: dict[str, Any] = event.data["issue"]
    fields: dict[str, Any] = data["fields"]
    gone = event.type.endswith("_deleted")
    rank = _DELETED if gone else _CREATED if event.type.endswith("_created") else _CHANGED
    version = _version(event, fields, rank)
    named = {name: data.get(name) for name in ("id", "key", "self")}
    plain = {k: v for k, v in fields.items() if not k.startswith(_CUSTOM) and k not in _LISTS}
    custom = {k: v for k, v in fields.items() if k.startswith(_CUSTOM)}
    happened = event.data.get("issue_event_type_name")
    row = {**plain, **named, "custom_fields": custom, "issue_event_type_name": happened}
    yield ISSUES.row(row, **version, gone=gone)
    yield from _changes(event, data)
    if gone:
        for child in (COMMENTS, WORKLOGS):
            yield child.children({"issueId": data["id"]}, [], at=event.at, rank=_DELETED)
        return
    yield from _list(COMMENTS, data["id"], fields.get("comment"), "comments", event)
    yield from _list(WORKLOGS, data["id"], fields.get("worklog"), "worklogs", event)
    comment_ = event.data.get("comment")
    if isinstance(comment_, dict):  # an empty text where a transition had no comment
        yield COMMENTS.row({**comment_, "issueId": data["id"]}, **_version(event, comment_, _CHANGED))


def _changes(event: Event, data: dict[str, Any]) -> Iterator[Record]:
    log = event.data.get("changelog")
    if not isinstance(log, dict) or log.get("id") is None:
        return
    common = {
        "issueId": data["id"],
        "issueKey": data.get("key"),
        "timestamp": event.data.get("timestamp"),
        "user": event.data.get("user"),
    }
    items = [{**item, **common, "position": n} for n, item in enumerate(log.get("items") or ())]
    yield CHANGES.children({"changelogId": log["id"]}, items, at=event.at)


def _list(child: Table, issue_id: Any, page: Any, name: str, event: Event) -> Iterator[Record]:
    """A list inside the issue; only the first of them may come, and `total` says how many there are."""
    items = page.get(name) if isinstance(page, dict) else None
    if isinstance(items, list):
        members = {item["id"]: item for item in items}
        complete = page.get("total") == len(items)
        yield child.children(
            {"issueId": issue_id}, members.values(), at=event.at, rank=_CHANGED, complete=complete
        )


def _child(child: Table, thing: dict[str, Any], issue_id: Any, event: Event) -> Record:
    if event.type.endswith("_deleted"):
        return child.gone({"issueId": issue_id, "id": thing["id"]}, at=event.at, rank=_DELETED)
    rank = _CREATED if event.type.endswith("_created") else _CHANGED
    return child.row({**thing, "issueId": issue_id}, **_version(event, thing, rank))


@vendor.maps("comment_created", "comment_updated", "comment_deleted")
def comment(event: Event) -> Iterator[Record]:
    """One comment. The issue beside it has a few of its fields only, so it is no row.

    Raises:
        KeyError: neither the event nor the comment's address names the issue.
    """
    thing: dict[str, Any] = event.data["comment"]
    about = event.data.get("issue")
    issue_id = about.get("id") if isinstance(about, dict) else None
    if issue_id is None:
        found = _ISSUE_OF.search(str(thing.get("self")))
        if found is None:
            raise KeyError("issue")
        issue_id = found[1]
    yield _child(COMMENTS, thing, issue_id, event)


@vendor.maps("worklog_created", "worklog_updated", "worklog_deleted")
def worklog(event: Event) -> Iterator[Record]:
    """Time that somebody spent on an issue."""
    thing = event.data["worklog"]
    yield _child(WORKLOGS, thing, thing["issueId"], event)


#: What an event is about (the word before its last one) -> its object's name in the body, and the table.
_OBJECTS: Final = {
    "issuelink": ("issueLink", LINKS),
    "attachment": ("attachment", ATTACHMENTS),
    "project": ("project", PROJECTS),
    "version": ("version", VERSIONS),
    "sprint": ("sprint", SPRINTS),
}


@vendor.maps("issuelink_*", "attachment_*", "project_*", "jira:version_*", "sprint_*")
def thing(event: Event) -> Iterator[Record]:
    """An object that is its own row. A project in the bin (`project_soft_deleted`) counts as deleted."""
    name, into = _OBJECTS[event.type.removeprefix("jira:").partition("_")[0]]
    body: dict[str, Any] = event.data[name]
    gone = event.type.endswith("_deleted") and not event.type.endswith("restored_deleted")
    rank = _DELETED if gone else _CREATED if event.type.endswith("_created") else _CHANGED
    yield into.row(dict(body), at=event.at, rank=rank, gone=gone)


# --- samples ------------------------------------------------------------------------------------------

_SITE: Final = "https://shop.atlassian.example/rest/api/2"


def _time(ns: int) -> str:
    return f"{instant_of_ns(ns):%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000 % 1000:03d}+0000"


def _person(n: int) -> dict[str, Any]:
    account = f"712020:{n:08d}-0000-4000-8000-000000000000"
    return {"accountId": account, "displayName": f"Ida Brandt {n}", "active": True, "timeZone": "Europe/Berlin"}


def _issue(n: int, now: int, status: str) -> dict[str, Any]:
    fields = {
        "summary": f"Parcel {n} came without its lid",
        "description": "Could you send a new one to the same address?",
        "issuetype": {"id": "10012", "name": "[System] Service request", "subtask": False},
        "project": {"id": "10001", "key": "DESK", "name": "Service desk", "projectTypeKey": "service_desk"},
        "status": {"id": "3", "name": status, "statusCategory": {"id": 4, "key": "indeterminate"}},
        "priority": {"id": str(1 + n % 5), "name": ("Highest", "High", "Medium", "Low", "Lowest")[n % 5]},
        "resolution": {"id": "10000", "name": "Done"} if status == "Resolved" else None,
        "resolutiondate": _time(now) if status == "Resolved" else None,
        "assignee": _person(n % 9),
        "reporter": _person(n),
        "creator": _person(n),
        "created": _time(now - 3_600 * NS),
        "updated": _time(now),
        "labels": ["breakage"],
        "components": [],
        "fixVersions": [],
        "versions": [],
        "subtasks": [],
        "issuelinks": [],
        "attachment": [],
        "duedate": None,
        "timespent": None,
        "workratio": -1,
        "watches": {"watchCount": 1, "isWatching": False},
        "votes": {"votes": 0, "hasVoted": False},
        "customfield_10010": {
            "requestType": {"id": "25", "name": "Get help"},
            "currentStatus": {"status": status},
        },
    }
    id_ = str(10_000 + n)
    return {"id": id_, "self": f"{_SITE}/issue/{id_}", "key": f"DESK-{n}", "fields": fields}


def _about(type_: str, n: int, now: int) -> dict[str, Any]:
    """What only an event of this type has."""
    noun = type_.removeprefix("jira:").partition("_")[0]
    id_ = str(20_000 + n)
    if noun == "issue":
        happened = {"created": "issue_created", "updated": "issue_generic", "deleted": "issue_deleted"}
        step = type_.rpartition("_")[2]
        body = {"issue_event_type_name": happened[step], "user": _person(n % 9)}
        body |= {"issue": _issue(n, now, "Resolved" if step == "updated" else "Waiting for support")}
        move = {"field": "status", "fieldtype": "jira", "fieldId": "status", "from": "1", "to": "5"}
        move |= {"fromString": "Waiting for support", "toString": "Resolved"}
        return {**body, **({"changelog": {"id": id_, "items": [move]}} if step == "updated" else {})}
    times = {"created": _time(now), "updated": _time(now)}
    if noun == "comment":
        text: dict[str, Any] = {
            "id": id_,
            "self": f"{_SITE}/issue/{10_000 + n}/comment/{id_}",
            "body": "A new one is on its way.",
        }
        text |= {"author": _person(n % 9), "updateAuthor": _person(n % 9), "jsdPublic": True, **times}
        return {"comment": text, "issue": {"id": str(10_000 + n), "key": f"DESK-{n}", "fields": {"summary": "…"}}}
    if noun == "worklog":
        spent = {"id": id_, "issueId": str(10_000 + n), "timeSpent": "20m", "timeSpentSeconds": 1200, **times}
        return {"worklog": {**spent, "author": _person(n % 9), "started": _time(now - 1200 * NS), "comment": ""}}
    more: dict[str, dict[str, Any]] = {
        "issuelink": {"sourceIssueId": 10_000 + n, "destinationIssueId": 10_001 + n, "systemLink": False},
        "attachment": {"filename": f"lid{n}.jpg", "size": 22_000 + n, "mimeType": "image/jpeg", **times},
        "project": {"key": f"P{n}", "name": f"Project {n}", "assigneeType": "UNASSIGNED"},
        "version": {"name": f"1.{n}", "archived": False, "released": True, "projectId": 10_001},
        "sprint": {"name": f"Sprint {n}", "state": "active", "originBoardId": 3},
    }
    return {_OBJECTS[noun][0]: {"id": 20_000 + n, **more[noun]}}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        named = str(uuid.uuid5(uuid.NAMESPACE_URL, f"jira/{type_}/{n}/{now}"))
        headers = {"X-Atlassian-Webhook-Identifier": named, "X-Atlassian-Webhook-Flow": "Primary"}
        return Sample({"timestamp": now // 1_000_000, "webhookEvent": type_, **_about(type_, n, now)}, headers)

    return sample


for _type in (
    *vendor.mappers,
    *("issuelink_created", "attachment_created", "project_created", "jira:version_released", "sprint_started"),
):
    vendor.sample(_type)(_sample_of(_type))
