"""Mailchimp: what the contract of vendors cannot see."""

from __future__ import annotations

import pytest

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import Request
from relay.sources.mailchimp import vendor

SIGNED, URL = {"proof": "signature"}, {"proof": "url"}
REQUEST = Request("POST", "https://relay.example/hooks/mailchimp", {}, b"type=subscribe")


@pytest.mark.parametrize("name", ["", "[", "data[", "data]x", "a[b]c", "[x]", "a" + "[b]" * 7])
def test_a_field_whose_name_is_none_makes_the_form_malformed(name) -> None:
    with pytest.raises(MalformedPayload):
        list(vendor.read(REQUEST, {name: ["1"]}))


@pytest.mark.parametrize("names", [("a", "a[b]"), ("a[b]", "a"), ("a[b]", "a[b][c]")])
def test_a_field_that_is_a_value_and_a_group_makes_the_form_malformed(names) -> None:
    with pytest.raises(MalformedPayload):
        list(vendor.read(REQUEST, {name: ["1"] for name in names}))


def test_what_was_taken_apart_is_read_again_as_itself() -> None:
    fields = {"type": ["subscribe"], "fired_at": ["2026-03-03 09:15:07"], "data[merges][FNAME]": ["L"]}
    [event] = vendor.read(REQUEST, fields)
    assert vendor.read(REQUEST, event.data) == [event]


def test_a_source_that_wants_signatures_takes_no_secret_from_the_address() -> None:
    sent = vendor.verifier(URL).sign(REQUEST, "a-secret", 0)
    vendor.verifier(URL).verify(sent, ("a-secret",), 0)
    with pytest.raises(Unauthenticated, match="no x-mailchimp-signature"):
        vendor.verifier(SIGNED).verify(sent, ("a-secret",), 0)


def test_an_unknown_proof_is_told_at_the_start() -> None:
    with pytest.raises(ConfigInvalid, match="signature or url"):
        vendor.verifier({"proof": "none"})
