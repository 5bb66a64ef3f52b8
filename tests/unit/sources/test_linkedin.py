"""LinkedIn's challenge is answered with the hash that signs deliveries: it must never sign one."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Unauthenticated
from relay.records import Request, encode_json
from relay.source import Reply
from tests.contracts import sources

NOW = sources.NOW
SECRET = "the-applications-client-secret"
UUID = "890e4665-4dfe-4ab1-b689-ed553bceeed0"
FORGED = encode_json(
    {
        "type": "LEAD_ACTION",
        "leadGenFormResponse": "urn:li:leadGenFormResponse:666-1",
        "leadAction": "DELETED",
        "occurredAt": 253_402_300_799_999,
    }
)
VENDOR = sources.vendor_of("linkedin")
VERIFIER = VENDOR.verifier({})


def challenged(code: str) -> Reply | None:
    assert VENDOR.handshake is not None
    url = f"https://relay.example/hooks/linkedin?challengeCode={quote(code)}"
    return VENDOR.handshake(Request("GET", url, {}, b"", {"challengeCode": code}), (SECRET,), {})


def hashed(text: bytes) -> str:
    return hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()


def delivered(body: bytes, signature: str) -> None:
    request = Request("POST", "https://relay.example/hooks/linkedin", {"x-li-signature": signature}, body)
    VERIFIER.verify(request, (SECRET,), NOW)


def test_a_forged_delivery_as_a_challenge_is_refused_and_its_signature_never_said() -> None:
    code = "hmacsha256=" + FORGED.decode()
    signature = hashed(code.encode())
    delivered(FORGED, signature)  # whoever had that answer could send this lead: the danger is real
    reply = challenged(code)
    assert reply is not None
    assert reply.status == 403
    assert reply.body == b""
    with pytest.raises(Unauthenticated):
        delivered(FORGED, "")


@pytest.mark.parametrize(
    "code",
    [
        f"{UUID}hmacsha256={FORGED.decode()}",
        f"hmacsha256={UUID}",
        f"{UUID}\n",
        f" {UUID}",
        f"{{{UUID}}}",
        UUID.replace("-", ""),
        f"urn:uuid:{UUID}",
        UUID[:-1],
        UUID + "0",
        UUID.replace("8", "٨"),  # a digit, but none of ours
        UUID.replace("8", "\N{FULLWIDTH DIGIT EIGHT}"),
        "hmacsha256=",
        "",
        "x" * 100_000,
    ],
)
def test_a_code_that_is_no_uuid_is_not_signed(code: str) -> None:
    reply = challenged(code)
    assert reply is not None
    assert (reply.status, reply.body) == (403, b"")


def test_a_uuid_is_signed_with_the_first_secret() -> None:
    reply = challenged(UUID)
    assert reply is not None
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert reply.body == encode_json({"challengeCode": UUID, "challengeResponse": hashed(UUID.encode())})


@given(st.one_of(st.text(), st.uuids().map(str), st.text().map(lambda text: "hmacsha256=" + text)))
def test_nothing_that_is_answered_begins_like_a_delivery(code: str) -> None:
    reply = challenged(code)
    assert reply is not None
    assert reply.status == 403 or not code.startswith("hmacsha256=")


def test_the_answer_to_a_challenge_signs_no_delivery() -> None:
    for body in (b"", UUID.encode(), FORGED, b"{}"):
        with pytest.raises(Unauthenticated):
            delivered(body, hashed(UUID.encode()))


def test_a_delivery_signed_without_the_prefix_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        delivered(FORGED, hashed(FORGED))
    with pytest.raises(Unauthenticated):
        delivered(FORGED, "hmacsha256=" + hashed(b"hmacsha256=" + FORGED))


def test_one_bad_notification_of_a_delivery_does_not_fail_the_others() -> None:
    kind = "ORGANIZATION_SOCIAL_ACTION_NOTIFICATIONS"
    body = encode_json(
        {"type": kind, "notifications": [{"notificationId": 7, "action": "LIKE"}, 5, {"action": "X"}]}
    )
    events = sources.read(VENDOR, Request("POST", "https://relay.example/", {}, body))
    assert [event.id for event in events] == ["7", "", ""]
    assert [record.data for record in sources.mapped(VENDOR, events[0])] == [
        {"notificationId": 7, "action": "LIKE"}
    ]
    for bad in events[1:]:
        with pytest.raises((KeyError, TypeError)):
            sources.mapped(VENDOR, bad)
