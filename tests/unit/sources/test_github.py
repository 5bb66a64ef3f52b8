"""What the contract cannot see: which of two deliveries about one object wins, and which proof counts."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources import github

EARLY, LATE = "2026-03-01T08:15:00Z", "2026-03-01T08:15:01Z"


def version(name, action, item, field=None):
    """The version of the object's own row."""
    data = {"action": action, field or name: {"id": 1, **item}}
    request = Request("POST", "https://relay.example/", {"x-github-event": name, "x-github-delivery": "g"}, b"")
    [event] = github.vendor.read(request, data)
    mapper = github.vendor.mapper(event.type)
    assert mapper is not None
    return next(iter(mapper(event))).version


def issue(action, at):
    return version("issues", action, {"updated_at": at}, "issue")


def job(status, **times):
    return version("workflow_job", status, {"status": status, **times})


def run(status, attempt, at):
    return version("workflow_run", "x", {"status": status, "run_attempt": attempt, "updated_at": at})


def review(action, state):
    return version("pull_request_review", action, {"state": state, "submitted_at": EARLY}, "review")


def test_of_one_second_a_change_comes_after_the_opening_and_before_the_deletion():
    assert issue("opened", EARLY) < issue("labeled", EARLY) < issue("deleted", EARLY) < issue("opened", LATE)


def test_a_transfer_ends_an_issue_as_a_deletion_does():
    assert issue("edited", EARLY) < issue("transferred", EARLY)


def test_a_repository_that_is_transferred_is_still_there():
    [event] = github.vendor.read(
        Request("POST", "https://relay.example/", {"x-github-event": "repository"}, b""),
        {"action": "transferred", "repository": {"id": 1, "updated_at": EARLY}},
    )
    mapper = github.vendor.mapper(event.type)
    assert mapper is not None
    assert [record.op for record in mapper(event)] == ["row"]


def test_a_job_goes_from_queued_to_completed_though_its_times_do_not_move():
    """A job that is skipped ends in the second in which it was queued, or even before its start."""
    queued = job("queued", created_at=EARLY, started_at=LATE)
    started = job("in_progress", created_at=EARLY, started_at=LATE)
    skipped = job("completed", created_at=EARLY, started_at=LATE, completed_at=EARLY)
    assert queued < started < skipped


def test_the_second_attempt_of_a_run_wins_over_the_end_of_the_first():
    assert run("in_progress", 1, EARLY) < run("completed", 1, EARLY) < run("queued", 2, EARLY)


def test_a_review_that_is_dismissed_stays_so():
    submitted, edited = review("submitted", "approved"), review("edited", "approved")
    assert submitted < edited < review("dismissed", "dismissed")


def test_the_old_sha1_signature_alone_is_refused():
    old = hmac.new(b"secret", b"{}", hashlib.sha1).hexdigest()
    request = Request("POST", "https://relay.example/", {"x-hub-signature": f"sha1={old}"}, b"{}")
    with pytest.raises(Unauthenticated) as caught:
        github.vendor.verifier({}).verify(request, ("secret",), 0)
    assert caught.value.reason == "signature_missing"


def test_a_push_without_a_delivery_id_is_quarantined():
    mapper = github.vendor.mapper("push")
    assert mapper is not None
    [event] = github.vendor.read(
        Request("POST", "https://relay.example/", {"x-github-event": "push"}, b""), {"commits": []}
    )
    with pytest.raises(KeyError, match="x-github-delivery"):
        list(mapper(event))
