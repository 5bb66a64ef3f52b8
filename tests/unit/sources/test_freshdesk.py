"""Freshdesk: the secret's place is a setting, and nothing is taken for a repetition."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import Request
from relay.sources import freshdesk

REQUEST = Request("POST", "https://hooks.shop.example/hooks/desk", {}, b"{}")
SECRET = "relay:s3cret"


@pytest.mark.parametrize(
    ("mine", "theirs"), [("", "X-Shop-Token"), ("X-Shop-Token", ""), ("X-Shop", "X-Shop-Token")]
)
def test_the_secret_counts_only_where_the_setting_says(mine: str, theirs: str) -> None:
    sent = freshdesk.verifier({"header": theirs}).sign(REQUEST, SECRET, 0)
    freshdesk.verifier({"header": theirs}).verify(sent, (SECRET,), 0)
    with pytest.raises(Unauthenticated):
        freshdesk.verifier({"header": mine}).verify(sent, (SECRET,), 0)


@pytest.mark.parametrize("wrong", ["X Shop", "X-Shop:", "Größe", "x" * 65, 3, ["X-Shop"], "a\nb"])
def test_a_header_that_is_no_name_is_refused_when_the_source_is_loaded(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid):
        freshdesk.verifier({"header": wrong})


def test_a_ticket_that_is_opened_again_is_no_repetition() -> None:
    """Neither ids nor times are sent: the third of open, closed, open has the first one's bytes."""
    body = {"ticket_id": 1, "ticket_status": "Open"}
    (event,) = freshdesk.read(REQUEST, body)
    assert event.dedup == "never"


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ("{ticket_action:deleted}", True),
        ('{"ticket_action":"deleted"}', True),
        ("{ticket_action: deleted}", True),
        ("{ticket_action:deleted_by_rule}", False),
        ("{ticket_action:updated}", False),
        ("deleted", False),
    ],
)
def test_only_the_triggered_event_says_that_a_ticket_is_deleted(said: str, gone: bool) -> None:
    (event,) = freshdesk.read(REQUEST, {"ticket_id": 1, "triggered_event": said})
    (record,) = freshdesk.ticket(event)
    assert (record.op == "full_gone") is gone
