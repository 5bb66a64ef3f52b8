"""Crisp: what the contract of vendors cannot see."""

from __future__ import annotations

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request
from relay.sources.crisp import vendor

NOW = 1_772_352_960 * NS
SIGNED, URL = {"proof": "signature", "tolerance_s": 300}, {"proof": "url", "tolerance_s": 300}
REQUEST = Request("POST", "https://relay.example/hooks/crisp", {}, b'{"event":"message:send","timestamp":1}')


def test_a_source_that_wants_signatures_takes_no_key_from_the_address() -> None:
    sent = vendor.verifier(URL).sign(REQUEST, "a-secret", NOW)
    vendor.verifier(URL).verify(sent, ("a-secret",), NOW)
    with pytest.raises(Unauthenticated, match="no x-crisp-signature"):
        vendor.verifier(SIGNED).verify(sent, ("a-secret",), NOW)


def test_a_source_that_wants_a_key_takes_no_signature() -> None:
    sent = vendor.verifier(SIGNED).sign(REQUEST, "a-secret", NOW)
    with pytest.raises(Unauthenticated):
        vendor.verifier(URL).verify(sent, ("a-secret",), NOW)


@pytest.mark.parametrize("wrong", [{"proof": "none"}, {"tolerance_s": 0}, {"tolerance_s": "300"}])
def test_a_setting_that_is_none_is_told_at_the_start(wrong) -> None:
    with pytest.raises(ConfigInvalid):
        vendor.verifier({**SIGNED, **wrong})


def test_a_body_without_a_time_is_told_apart_by_content_for_minutes_alone() -> None:
    [event] = vendor.read(REQUEST, {"event": "message:send"})
    assert event.dedup == "content"
