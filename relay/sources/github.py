"""GitHub: issues, pull requests and their reviews, pushes and commits, releases, workflow and check runs, stars.

https://docs.github.com/en/webhooks/webhook-events-and-payloads
https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries

One address serves a repository, an organization or an app; ids are GitHub's own, the same over all repositories.
The event's name stands in a header, what happened in `action`; both make the type, `issues.opened`. Bodies are
JSON, or a form whose field `payload` is that JSON; the signature is over the bytes as sent. A redelivery keeps the
delivery's id. Objects are whole and have `updated_at`, in seconds; what lacks it goes by other times of its own.
A ping, and all that has no table, is accepted and ignored.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from relay.records import Event, Record, Request, Table, instant_ns, instant_of_ns
from relay.signatures import Hmac
from relay.source import Mapper, Sample, Vendor, header, table

_UPDATED: Final = "updated_at, in seconds, else the delivery's receipt; then the action"
#: People inside an object, of whom id and login become columns.
_PEOPLE: Final = ("user", "author", "actor", "triggering_actor", "assignee", "merged_by")


def _objects(name: str, clock: str = _UPDATED, key: str = "id", **columns: str) -> Table:
    """A table of objects of a repository, with what all of them have."""
    both = {
        **columns,
        "id": f"{key} repository_id organization_id {columns.get('id', '')}",
        "text": f"node_id repository_full_name sender_login {columns.get('text', '')}",
    }
    return table(name, key, clock, **both)


# fmt: off
ISSUES = _objects(
    "issues", id="user_id assignee_id", int="number comments", bool="locked draft",
    instant="created_at updated_at closed_at", json="user assignee assignees milestone reactions pull_request",
    text="title state state_reason author_association active_lock_reason body html_url user_login assignee_login",
)
ISSUE_LABELS = table(
    "issue_labels", "issue_id id", "its issue's clock", "issue_id",
    id="issue_id id", text="node_id name color description url", bool="default",
)
PULL_REQUESTS = _objects(
    "pull_requests", id="user_id assignee_id merged_by_id head_repository_id base_repository_id",
    int="number comments review_comments commits additions deletions changed_files",
    bool="locked draft merged mergeable rebaseable maintainer_can_modify",
    instant="created_at updated_at closed_at merged_at",
    text="title state body merge_commit_sha mergeable_state author_association active_lock_reason html_url "
    "user_login assignee_login merged_by_login head_label head_ref head_sha base_label base_ref base_sha",
    json="user assignee assignees requested_reviewers requested_teams milestone auto_merge merged_by",
)
PULL_REQUEST_LABELS = table(
    "pull_request_labels", "pull_request_id id", "its pull request's clock", "pull_request_id",
    id="pull_request_id id", text="node_id name color description url", bool="default",
)
REVIEWS = _objects(
    "pull_request_reviews", "updated_at, else submitted_at, in seconds; then the review's state",
    id="user_id pull_request_id", instant="submitted_at updated_at", json="user",
    text="body state commit_id author_association html_url user_login",
)
REVIEW_COMMENTS = _objects(
    "pull_request_review_comments", id="user_id pull_request_id pull_request_review_id in_reply_to_id",
    int="position original_position line original_line start_line original_start_line",
    instant="created_at updated_at", json="user reactions",
    text="body path diff_hunk side start_side commit_id original_commit_id author_association html_url user_login",
)
ISSUE_COMMENTS = _objects(
    "issue_comments", id="user_id issue_id", instant="created_at updated_at",
    json="user reactions performed_via_github_app",
    text="body author_association html_url issue_url user_login",
)
DISCUSSIONS = _objects(
    "discussions", id="user_id", int="number comments", bool="locked", json="user category reactions",
    instant="created_at updated_at answer_chosen_at",
    text="title state body author_association html_url user_login",
)
RELEASES = _objects(
    "releases", id="author_id", bool="draft prerelease immutable", json="author assets reactions",
    instant="created_at updated_at published_at",
    text="tag_name target_commitish name body html_url author_login",
)
WORKFLOW_RUNS = _objects(
    "workflow_runs", "updated_at, in seconds; then run_attempt, then the action",
    id="workflow_id check_suite_id actor_id triggering_actor_id head_repository_id", int="run_number run_attempt",
    instant="created_at updated_at run_started_at", json="head_commit pull_requests referenced_workflows actor",
    text="name display_title event status conclusion head_branch head_sha path html_url actor_login",
)
WORKFLOW_JOBS = _objects(
    "workflow_jobs", "the latest of created_at, started_at and completed_at, in seconds; then the status",
    id="run_id runner_id runner_group_id", int="run_attempt", instant="created_at started_at completed_at",
    text="name workflow_name status conclusion head_branch head_sha html_url runner_name runner_group_name",
    json="steps labels",
)
CHECK_RUNS = _objects(
    "check_runs", "the later of started_at and completed_at, in seconds; then the status",
    id="external_id", instant="started_at completed_at", json="output check_suite app pull_requests",
    text="name status conclusion head_sha html_url details_url",
)
REPOSITORIES = table(
    "repositories", "id", _UPDATED,
    id="id organization_id", instant="created_at updated_at pushed_at",
    json="owner license topics custom_properties",
    int="size stargazers_count watchers_count forks_count open_issues_count",
    bool="private fork archived disabled is_template has_issues has_projects has_wiki has_pages",
    text="node_id name full_name description homepage language default_branch visibility html_url sender_login",
)
PUSHES = _objects(
    "pushes", "repository.pushed_at, in seconds", "delivery_id", id="head_commit_id",
    text="ref before after base_ref compare pusher_name pusher_email", int="commit_count",
    bool="created deleted forced", instant="pushed_at",
)
PUSH_COMMITS = table(
    "push_commits", "delivery_id id", "its push's clock", "delivery_id",
    id="delivery_id repository_id", int="position", bool="distinct", text="id",
)
COMMITS = table(
    "commits", "repository_id id", "the push's repository.pushed_at; a commit never changes",
    id="repository_id", instant="timestamp", json="added removed modified",
    text="id tree_id message url author_name author_email author_username committer_name committer_email "
    "committer_username repository_full_name",
)
STARS = table(
    "stars", "repository_id user_id", "starred_at, in seconds; a removal's receipt",
    id="repository_id user_id", instant="starred_at", text="user_login repository_full_name",
)
# fmt: on
#: The most commits that a push names: https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
_MOST_COMMITS: Final = 2048
#: Of one second the later of these wins, and a deletion over all.
_STATUS: Final = {"completed": 3, "in_progress": 2, "dismissed": 2, "waiting": 1, "pending": 1}
_FIRST: Final = frozenset({"opened", "created", "requested", "submitted", "queued"})
_GONE: Final = 99
#: What of a push has columns or tables of its own, or is in all events.
_OTHERS: Final = {"commits", "head_commit", "pusher", "repository", "organization", "installation", "sender"}


def _type(request: Request, data: Any) -> str:
    name = request.headers.get("x-github-event", "")
    action = data.get("action") if isinstance(data, dict) else None
    return f"{name}.{action}" if name and isinstance(action, str) and action else name


vendor = Vendor(
    title="GitHub",
    family="generic",
    docs="https://docs.github.com/en/webhooks",
    # Not the SHA-1 of X-Hub-Signature, which comes beside it.
    verify=Hmac("X-Hub-Signature-256", prefix="sha256="),
    type=_type,
    id=header("X-GitHub-Delivery"),
    tables=(
        *(ISSUES, ISSUE_LABELS, PULL_REQUESTS, PULL_REQUEST_LABELS, REVIEWS, REVIEW_COMMENTS, ISSUE_COMMENTS),
        *(DISCUSSIONS, RELEASES, WORKFLOW_RUNS, WORKFLOW_JOBS, CHECK_RUNS, REPOSITORIES),
        *(PUSHES, PUSH_COMMITS, COMMITS, STARS),
    ),
    keep_headers=("X-GitHub-Event", "X-GitHub-Delivery", "X-GitHub-Hook-ID"),
    setup=(
        "Repository or organization → Settings → Webhooks → Add webhook: this URL, content type JSON.",
        "A secret of your own there is the source's secret; without one GitHub signs nothing.",
        "Its first delivery is a ping, which is accepted and ignored.",
    ),
    deletes="`deleted` carries the whole object: the row is marked deleted. An issue or discussion that is "
    "transferred is deleted where it was, and has another id where it goes.",
    limits=(
        "GitHub sends nothing again by itself; what was refused can be redelivered by hand for three days",
        "times are whole seconds: two changes within one are ordered by action, then by arrival",
        f"a push names {_MOST_COMMITS} commits at most",
        "of a pull request's head and base, and a run's repository, only names and ids are kept",
    ),
    proof="vector: github.docs, github.octokit",
    # https://docs.github.com/en/webhooks/using-webhooks/handling-failed-webhook-deliveries
    fragile=True,
)


#: Part of an event -> its field that becomes a column, where a table has that column.
_CONTEXT: Final = (
    ("repository", "id", "repository_id"),
    ("repository", "full_name", "repository_full_name"),
    ("organization", "id", "organization_id"),
    ("sender", "login", "sender_login"),
    ("issue", "id", "issue_id"),
    ("pull_request", "id", "pull_request_id"),
)


def _row(event: Event, table: Table, item: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    """An object's fields and where it belongs; people also by id and login, branches by names and ids alone."""
    row = {
        column: event.data[part].get(own)
        for part, own, column in _CONTEXT
        if column in table.columns and isinstance(event.data.get(part), dict)
    }
    row |= {name: value for name, value in item.items() if name not in left_out}
    for name in _PEOPLE:
        if isinstance(item.get(name), dict):
            row |= {f"{name}_id": item[name].get("id"), f"{name}_login": item[name].get("login")}
    for name in ("head", "base"):
        if isinstance(item.get(name), dict):
            row |= {f"{name}_{part}": item[name].get(part) for part in ("label", "ref", "sha")}
            row[f"{name}_repository_id"] = (item[name].get("repo") or {}).get("id")
    if "head_repository" in item:
        row["head_repository_id"] = (item["head_repository"] or {}).get("id")
    return row


def _rank(item: dict[str, Any], action: Any) -> int:
    state = item.get("status") or item.get("state")
    step = _STATUS.get(state) if isinstance(state, str) else None
    return int(action not in _FIRST) if step is None else step


def _object(field: str, table: Table, *times: str) -> Mapper:
    """A mapper of the object in a field of the event; the latest of `times` is its version."""
    labels = {ISSUES.name: ISSUE_LABELS, PULL_REQUESTS.name: PULL_REQUEST_LABELS}.get(table.name)
    left_out = {"head", "base", "repository", "head_repository", *(("labels",) if labels else ())}
    final = {"deleted"} if table is REPOSITORIES else {"deleted", "transferred"}

    def map_object(event: Event) -> Iterator[Record]:
        item, action = event.data[field], event.data.get("action")
        gone = isinstance(action, str) and action in final
        said = [at for at in (instant_ns(item.get(name)) for name in times) if at is not None]
        at, rank = max(said, default=None), _GONE if gone else _rank(item, action)
        # A run that is started again keeps its id.
        attempt = item.get("run_attempt") if table is WORKFLOW_RUNS else 0
        sequence = attempt if isinstance(attempt, int) else 0
        identity = item["id"]
        yield table.row(_row(event, table, item, left_out), at=at, sequence=sequence, rank=rank, gone=gone)
        found = item.get("labels")
        if labels is not None and (gone or isinstance(found, list)):
            members = {} if gone else {label["id"]: label for label in found}
            yield labels.children({labels.parent[0]: identity}, members.values(), at=at, rank=rank)

    return map_object


@vendor.maps("push")
def push(event: Event) -> Iterator[Record]:
    """A push, its commits, and which of them were new with it.

    Raises:
        KeyError: the delivery has no id: a push has no other, as a branch can be pushed back and forth.
    """
    if not event.id:
        raise KeyError("x-github-delivery")
    data, repository, commits = event.data, event.data["repository"], event.data["commits"]
    at, parent = instant_ns(repository.get("pushed_at")), {"delivery_id": event.id}
    row = {
        **_row(event, PUSHES, data, _OTHERS),
        **parent,
        "head_commit_id": (data.get("head_commit") or {}).get("id"),
        "pusher_name": (data.get("pusher") or {}).get("name"),
        "pusher_email": (data.get("pusher") or {}).get("email"),
        "commit_count": len(commits),
        "pushed_at": repository.get("pushed_at"),
    }
    yield PUSHES.row(row, at=at)
    links, about = {}, {"repository_id": repository["id"], "repository_full_name": repository.get("full_name")}
    for position, commit in enumerate(commits):
        link = {"id": commit["id"], "repository_id": repository["id"], "position": position}
        links[commit["id"]] = {**link, "distinct": commit.get("distinct")}
        plain = {name: value for name, value in commit.items() if name not in {"distinct", "author", "committer"}}
        for name in ("author", "committer"):
            person = commit.get(name) or {}
            plain |= {f"{name}_{part}": person.get(part) for part in ("name", "email", "username")}
        yield COMMITS.row({**about, **plain}, at=at)
    yield PUSH_COMMITS.children(parent, links.values(), complete=len(commits) < _MOST_COMMITS, at=at)


@vendor.maps("star.created", "star.deleted")
def star(event: Event) -> Iterator[Record]:
    """A star is of its giver, the sender; a removal says no time."""
    repository, user = event.data["repository"], event.data["sender"]
    key = {"repository_id": repository["id"], "user_id": user["id"]}
    if event.type.endswith(".deleted"):
        yield STARS.gone(key)
        return
    more = {"user_login": user.get("login"), "repository_full_name": repository.get("full_name")}
    given = event.data.get("starred_at")
    yield STARS.row({**key, "starred_at": given, **more}, at=instant_ns(given))


_CHANGED: Final = "updated_at"
#: Event -> where its object is, the object's table, and the times of which the latest is its version.
_OBJECTS: Final[dict[str, tuple[Any, ...]]] = {
    "issues": ("issue", ISSUES, _CHANGED),
    "pull_request": ("pull_request", PULL_REQUESTS, _CHANGED),
    "issue_comment": ("comment", ISSUE_COMMENTS, _CHANGED),
    "pull_request_review": ("review", REVIEWS, _CHANGED, "submitted_at"),
    "pull_request_review_comment": ("comment", REVIEW_COMMENTS, _CHANGED),
    "discussion": ("discussion", DISCUSSIONS, _CHANGED),
    "release": ("release", RELEASES, _CHANGED),
    "workflow_run": ("workflow_run", WORKFLOW_RUNS, _CHANGED),
    "workflow_job": ("workflow_job", WORKFLOW_JOBS, "created_at", "started_at", "completed_at"),
    "check_run": ("check_run", CHECK_RUNS, "started_at", "completed_at"),
    "repository": ("repository", REPOSITORIES, _CHANGED),
}
for _event, _how in _OBJECTS.items():
    vendor.maps(f"{_event}.*")(_object(*_how))


# --- samples ------------------------------------------------------------------------------------------


def _person(n: int) -> dict[str, Any]:
    login = f"ida{n % 40}"
    return {"login": login, "id": 9_000_000 + n % 40, "type": "User", "html_url": f"https://github.com/{login}"}


_LABEL: Final = {"id": 2_081_045_946, "name": "bug", "color": "d73a4a", "default": True}
_SHA: Final = "{:040x}".format


def _issue(n: int, made: str) -> dict[str, Any]:
    return {
        "number": n % 5000 + 1, "title": f"Order {n} has no invoice", "state": "open", "user": _person(n),
        "body": "Since yesterday.", "labels": [_LABEL], "assignees": [], "comments": n % 7, "locked": False,
        "html_url": f"https://github.com/nordlicht/shop/issues/{n % 5000 + 1}", "closed_at": None,
        "author_association": "MEMBER", "created_at": made,
    }  # fmt: skip


def _pull_request(n: int, made: str) -> dict[str, Any]:
    branch = {"label": "nordlicht:main", "ref": "main", "sha": _SHA(n), "repo": {"id": 4711}}
    counts = {"commits": 2, "additions": 14, "deletions": 3, "changed_files": 2, "review_comments": 0}
    return {**_issue(n, made), "merged": False, "draft": False, "head": branch, "base": branch, **counts}


def _run(n: int, made: str) -> dict[str, Any]:
    return {
        "name": "tests", "head_branch": "main", "head_sha": _SHA(n), "run_number": n % 900, "run_attempt": 1,
        "event": "push", "status": "completed", "conclusion": "success", "workflow_id": 77, "created_at": made,
        "run_started_at": made, "started_at": made, "completed_at": made, "actor": _person(n),
        "head_repository": {"id": 4711, "full_name": "nordlicht/shop"}, "run_id": n, "steps": [],
    }  # fmt: skip


def _comment(n: int, made: str) -> dict[str, Any]:
    place = {"path": "shop/invoice.py", "line": 12, "commit_id": _SHA(n), "submitted_at": made}
    return {"body": f"Seen in order {n} too.", "user": _person(n), "created_at": made, **place}


def _push(n: int, made: str) -> dict[str, Any]:
    author = {"name": "Ida Brandt", "email": "ida@mail.example", "username": "ida1"}
    commit = {
        "id": _SHA(n + 1), "tree_id": _SHA(n + 2), "distinct": True, "message": f"Invoice {n}", "timestamp": made,
        "author": author, "committer": author, "added": [], "removed": [], "modified": ["shop/invoice.py"],
    }  # fmt: skip
    return {
        "ref": "refs/heads/main", "before": _SHA(n), "after": _SHA(n + 1), "created": False, "deleted": False,
        "forced": False, "base_ref": None, "compare": "https://github.com/nordlicht/shop/compare/a...b",
        "commits": [commit], "head_commit": commit, "pusher": {"name": "ida1", "email": "ida@mail.example"},
    }  # fmt: skip


def _other(n: int, made: str) -> dict[str, Any]:
    return {"tag_name": f"v1.{n}", "name": f"nordlicht-{n}", "full_name": f"nordlicht/{n}", "created_at": made}


_MAKERS: Final[dict[str, Callable[[int, str], dict[str, Any]]]] = {
    "issue": _issue, "discussion": _issue, "pull_request": _pull_request, "comment": _comment,
    "review": _comment, "workflow_run": _run, "workflow_job": _run, "check_run": _run,
}  # fmt: skip


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    name, _, action = type_.partition(".")
    field = _OBJECTS.get(name, ("",))[0]

    def sample(n: int, now: int) -> Sample:
        made = f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}"
        pushed = now // 1_000_000_000 if name == "push" else made
        repository = {"id": 4711 + n % 3, "full_name": "nordlicht/shop", "private": True, "pushed_at": pushed}
        body: dict[str, Any] = {**({"action": action} if action else {}), "repository": repository}
        if name == "push":
            body |= _push(n, made)
        elif name == "star":
            body["starred_at"] = made if action == "created" else None
        if field:
            body[field] = {"id": 3_000_000_000 + n, **_MAKERS.get(field, _other)(n, made), "updated_at": made}
        body["sender"] = {**_person(n), "id": 9_000_000 + n}
        guid = uuid.uuid5(uuid.NAMESPACE_URL, f"{type_}/{n}/{now}")
        return Sample(body, {"X-GitHub-Event": name, "X-GitHub-Delivery": f"{guid}", "X-GitHub-Hook-ID": "501"})

    return sample


for _type_ in (
    *("push", "star.created", "star.deleted", "issues.opened", "issues.closed", "issues.deleted"),
    *("pull_request.opened", "pull_request.synchronize", "pull_request.closed", "pull_request_review.submitted"),
    *("pull_request_review_comment.created", "issue_comment.created", "issue_comment.deleted"),
    *("discussion.created", "release.published", "workflow_run.completed"),
    *("workflow_job.completed", "check_run.completed", "repository.edited"),
):
    vendor.sample(_type_)(_sample_of(_type_))
