"""What is special to Paddle: its tolerance is a setting, and some events carry keys."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request
from relay.sources.paddle import scrub, vendor
from tests.contracts.sources import NOW


def verifies(tolerance_s: Any, seconds_late: int) -> None:
    verifier = vendor.verifier({"tolerance_s": tolerance_s})
    request = verifier.sign(Request("POST", "https://relay.example/", {}, b"{}"), "pdl_ntfset_1", NOW)
    verifier.verify(request, ("pdl_ntfset_1",), NOW + seconds_late * NS)


def test_a_delivery_may_be_as_late_as_the_setting_says() -> None:
    verifies(5, 5)
    verifies(259_200, 259_200)
    with pytest.raises(Unauthenticated, match="at most 5 s"):
        verifies(5, 6)


@pytest.mark.parametrize("wrong", [0, -1, 259_201, True, "5", 5.0, None, [], 10**30])
def test_a_tolerance_that_is_no_number_of_seconds_is_refused_at_load(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid, match="tolerance_s"):
        vendor.verifier({"tolerance_s": wrong})


@pytest.mark.parametrize(("type_", "field"), [("api_key.created", "key"), ("client_token.created", "token")])
def test_no_key_of_the_vendors_account_is_kept(type_: str, field: str) -> None:
    event = {"event_type": type_, "data": {"id": "x_1", field: "live_secret", "name": "Till"}}
    assert scrub(event) == {"event_type": type_, "data": {"id": "x_1", "name": "Till"}}


def test_other_events_are_kept_as_they_are() -> None:
    event = {"event_type": "customer.created", "data": {"id": "ctm_1", "key": "theirs", "token": "theirs"}}
    assert scrub(event) is event
