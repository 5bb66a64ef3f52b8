"""TikTok signs leads in ASCII, and has two schemes of which the sender may not choose."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import Request, encode_json
from relay.sources import tiktok
from tests.contracts import sources

NOW = sources.NOW
SECRET = "the-apps-secret"
VENDOR = sources.vendor_of("tiktok")
PORTAL = tiktok.verifier({"signature": "TikTok-Signature"})
LEADS = tiktok.verifier({"signature": "X-Open-Signature"})
BODY = '{"object":1,"entry":[{"id":7012345678901234567,"page_name":"äöå 🏺 東京"}]}'.encode()


def request(body: bytes, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", "https://relay.example/hooks/tiktok", named, body)


def hashed(message: bytes) -> str:
    return hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()


def test_each_character_beyond_ascii_is_escaped_in_lower_case_and_nothing_else_is_touched() -> None:
    assert tiktok.escaped('"äöå" : "a\\n/\x7f"'.encode()) == b'"\\u00e4\\u00f6\\u00e5" : "a\\n/\x7f"'
    assert tiktok.escaped("\uffff\U00010000\U0001f3fa\U0010ffff".encode()) == (
        b"\\uffff\\ud800\\udc00\\ud83c\\udffa\\udbff\\udfff"
    )


@given(st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"])))
def test_an_escaped_text_is_what_json_writes_of_it(text: str) -> None:
    """But for the delete character, which Python escapes though it is ASCII."""
    assert tiktok.escaped(json.dumps(text, ensure_ascii=False).encode()) == json.dumps(text).encode()


def test_a_lead_is_accepted_as_it_is_signed_in_ascii_and_not_as_its_bytes() -> None:
    expected = hashed(json.dumps(json.loads(BODY), separators=(",", ":")).encode())
    LEADS.verify(request(BODY, x_open_signature=expected), (SECRET,), NOW)
    with pytest.raises(Unauthenticated):
        LEADS.verify(request(BODY, x_open_signature=hashed(BODY)), (SECRET,), NOW)


def test_a_body_that_is_no_text_is_refused() -> None:
    for body in (b"\xff", b'{"a":"\xc3"}', b"\xed\xa0\x80"):
        with pytest.raises(Unauthenticated) as caught:
            LEADS.verify(request(body, x_open_signature=hashed(body)), (SECRET,), NOW)
        assert caught.value.reason == "signature_wrong"


def test_the_sender_cannot_choose_the_scheme() -> None:
    by_portal, by_leads = PORTAL.sign(request(b"{}"), SECRET, NOW), LEADS.sign(request(b"{}"), SECRET, NOW)
    with pytest.raises(Unauthenticated):
        LEADS.verify(by_portal, (SECRET,), NOW)
    with pytest.raises(Unauthenticated):
        PORTAL.verify(by_leads, (SECRET,), NOW)


def test_a_time_and_body_signed_for_an_app_are_no_lead_signature_where_apps_are_served() -> None:
    """The hash of `<time>.<body>` fits the other scheme with that text as its body, so it must not be on offer."""
    signed = PORTAL.sign(request(BODY), SECRET, NOW)
    stamp, _, digest = signed.headers["tiktok-signature"].partition(",s=")
    moved = request(stamp.removeprefix("t=").encode() + b"." + BODY, x_open_signature=digest)
    with pytest.raises(Unauthenticated):
        PORTAL.verify(moved, (SECRET,), NOW)


@pytest.mark.parametrize("wrong", ["", "tiktok-signature", "none", None, 1])
def test_an_unknown_scheme_is_refused_when_the_source_is_set_up(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid):
        tiktok.verifier({"signature": wrong})


def test_one_bad_entry_does_not_fail_the_others() -> None:
    body = encode_json({"object": 1, "entry": [{"id": 1, "create_time": 1}, None, {"create_time": 2}]})
    events = sources.read(VENDOR, request(body))
    assert [event.id for event in events] == ["1", "", ""]
    assert [record.table for record in sources.mapped(VENDOR, events[0])] == ["leads"]
    for bad in events[1:]:
        with pytest.raises((KeyError, TypeError)):
            sources.mapped(VENDOR, bad)


def test_content_that_is_no_json_is_quarantined() -> None:
    body = encode_json({"event": "video.publish.completed", "create_time": 1, "content": "not {json"})
    (event,) = sources.read(VENDOR, request(body))
    with pytest.raises(MalformedPayload):
        sources.mapped(VENDOR, event)


def test_the_same_event_twice_is_one_and_another_second_makes_another() -> None:
    first, again, later = (
        sources.read(VENDOR, request(encode_json({"event": "tiktok.ping", "create_time": at, "content": "{}"})))[
            0
        ].id
        for at in (1, 1, 2)
    )
    assert first == again != later
