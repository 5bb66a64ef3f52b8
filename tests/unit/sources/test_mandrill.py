"""Mandrill: what the contract of vendors cannot see."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec
import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources.mandrill import vendor

FORM = "application/x-www-form-urlencoded"
KEY = "a-key"
URL = "https://relay.example/hooks/mandrill?a=1"


def form(body: str, method: str = "POST", kind: str = FORM) -> Request:
    return Request(method, URL, {"content-type": kind}, body.encode())


@pytest.mark.parametrize(
    "request_",
    [
        form("mandrill_events=%5B%5D", "GET"),
        form("mandrill_events=%5B%5D", kind="application/json"),
        form("mandrill_events=%5B%5D&x=1"),
        form("mandrill_events=%5B%7B%7D%5D"),
        form(""),
    ],
)
def test_only_the_empty_list_by_post_is_answered_unsigned(request_) -> None:
    assert vendor.handshake(request_, (KEY,), {}) is None


def test_the_key_that_everybody_knows_opens_nothing() -> None:
    body = urlencode({"mandrill_events": '[{"event":"send"}]'})
    signed = vendor.verifier({}).sign(form(body), "test-webhook", 0)
    with pytest.raises(Unauthenticated):
        vendor.verifier({}).verify(signed, (KEY,), 0)


def test_a_field_that_comes_twice_is_refused_since_only_one_of_them_would_be_read() -> None:
    one = vendor.verifier({}).sign(form("mandrill_events=%5B%5D"), KEY, 0)
    twice = msgspec.structs.replace(one, body=b"mandrill_events=%5B%5D&mandrill_events=%5B%5D")
    with pytest.raises(Unauthenticated):
        vendor.verifier({}).verify(twice, (KEY,), 0)


def test_another_address_is_refused() -> None:
    signed = vendor.verifier({}).sign(form("mandrill_events=%5B%5D"), KEY, 0)
    with pytest.raises(Unauthenticated):
        vendor.verifier({}).verify(msgspec.structs.replace(signed, url=URL + "2"), (KEY,), 0)


def test_an_event_that_was_kept_is_read_again_as_itself() -> None:
    item = {"event": "send", "_id": "a", "ts": 1_772_529_300, "msg": {"_id": "a"}}
    [event] = vendor.read(form(""), item)
    assert (event.type, event.data) == ("send", item)
