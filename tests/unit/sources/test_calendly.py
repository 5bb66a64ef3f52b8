"""Calendly's window of time is the operator's choice, and must be one."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request
from relay.sources import calendly
from tests.contracts import sources

NOW = sources.NOW
PLAIN = Request("POST", "https://relay.example/hooks/calendly", {}, b"{}")


@pytest.mark.parametrize("wrong", [0, -1, True, "300", 3.5, None])
def test_a_window_that_is_no_number_of_seconds_is_refused_when_the_source_is_set_up(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid, match="tolerance_s"):
        calendly.verifier({"tolerance_s": wrong})


def test_a_delivery_repeated_with_its_first_time_needs_a_larger_window() -> None:
    usual, wide = calendly.verifier({"tolerance_s": 300}), calendly.verifier({"tolerance_s": 86_400})
    signed = usual.sign(PLAIN, "a-key", NOW - 3600 * NS)
    with pytest.raises(Unauthenticated):
        usual.verify(signed, ("a-key",), NOW)
    wide.verify(signed, ("a-key",), NOW)


def test_two_answers_at_one_position_are_one_and_answers_without_positions_are_placed() -> None:
    payload = {"uri": "i1", "questions_and_answers": [{"answer": "a"}, {"answer": "b"}]}
    body = {"event": "invitee.created", "created_at": "2026-03-02T09:15:07Z", "payload": payload}
    vendor = sources.vendor_of("calendly")
    (event,) = vendor.read(PLAIN, body)
    (answers,) = [r for r in sources.mapped(vendor, event) if r.table == "invitee_answers"]
    assert [(m["position"], m["answer"]) for m in answers.members or ()] == [(0, "a"), (1, "b")]
