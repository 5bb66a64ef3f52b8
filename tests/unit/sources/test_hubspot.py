"""HubSpot's traps that the contract of vendors cannot see: the URL's escapes, versions, and what one event is."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request, encode_json
from relay.sources import hubspot

NOW = 1_772_352_960 * NS
SECRET = "s3cret-of-an-app"
EVENT = {"portalId": 1, "subscriptionId": 2, "eventId": 3, "objectId": 4, "occurredAt": 1_772_352_960_000}
CHANGE = {**EVENT, "subscriptionType": "contact.propertyChange", "propertyName": "email", "propertyValue": "a"}


def signed_over(signed_url: str, sent_url: str) -> Request:
    stamp = str(NOW // 1_000_000)
    digest = hmac.new(SECRET.encode(), f"POST{signed_url}[]{stamp}".encode(), hashlib.sha256).digest()
    headers = {
        "x-hubspot-signature-v3": base64.b64encode(digest).decode(),
        "x-hubspot-request-timestamp": stamp,
    }
    return Request("POST", sent_url, headers, b"[]")


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ("%3A%2F%3F%40%21%24%27%28%29%2A%2C%3B", ":/?@!$'()*,;"),
        ("a%20b%2Bc%26d%3De%23f%5B%25", "a%20b%2Bc%26d%3De%23f%5B%25"),  # none of those that are listed
        ("%253A", "%253A"),  # undone once: what stood behind an escaped percent sign stays
        ("%25%33A", "%25%33A"),
        ("%2f%3a", "%2f%3a"),  # listed in capitals
        ("é+%C3%A9", "é+%C3%A9"),
    ],
)
def test_exactly_the_listed_escapes_of_the_url_are_undone_once(sent: str, signed: str) -> None:
    base = "https://hooks.shop.example/hooks/crm?q="
    hubspot.SignedV3().verify(signed_over(base + signed, base + sent), (SECRET,), NOW)
    request = Request("POST", base + sent, {}, b"[]")
    made = hubspot.SignedV3().sign(request, SECRET, NOW)
    assert made.url == base + sent
    assert made.headers == signed_over(base + signed, base + sent).headers


def test_a_signature_over_another_url_is_refused() -> None:
    base = "https://hooks.shop.example/hooks/crm"
    for other in (base + "/", base + "?a=1", "http://hooks.shop.example/hooks/crm", base.upper()):
        with pytest.raises(Unauthenticated):
            hubspot.SignedV3().verify(signed_over(base, other), (SECRET,), NOW)


def test_the_sender_cannot_choose_an_older_version() -> None:
    body = b"[]"
    request = Request("POST", "https://hooks.shop.example/", {}, body)
    for chosen in ("v1", "v2", "v3"):
        for sent in {"v1", "v2", "v3"} - {chosen}:
            signed = hubspot.verifier({"signature": sent}).sign(request, SECRET, NOW)
            with pytest.raises(Unauthenticated):
                hubspot.verifier({"signature": chosen}).verify(signed, (SECRET,), NOW)


def test_an_older_signature_beside_the_new_one_changes_nothing() -> None:
    """HubSpot sends both; the older one is not even looked at."""
    request = Request("POST", "https://hooks.shop.example/", {}, b"[]")
    signed = hubspot.SignedV3().sign(hubspot.PlainHash("v1").sign(request, "another", NOW), SECRET, NOW)
    hubspot.SignedV3().verify(signed, (SECRET,), NOW)


@pytest.mark.parametrize("wrong", ["", "v4", "V3", None, 3])
def test_a_version_that_is_none_is_refused_when_the_source_is_loaded(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid):
        hubspot.verifier({"signature": wrong})


def only(item: dict[str, Any]) -> str:
    (event,) = hubspot.read(Request("POST", "", {}, b""), [item])
    return event.id


def test_a_retry_is_the_same_event() -> None:
    assert only({**CHANGE, "attemptNumber": 0}) == only({**CHANGE, "attemptNumber": 7})


@pytest.mark.parametrize(
    "other",
    [
        {"propertyName": "phone"},
        {"propertyValue": "b"},
        {"occurredAt": 1_772_352_960_001},
        {"objectId": 5},
        {"portalId": 2},
        {"subscriptionId": 9},
        {"subscriptionType": "company.propertyChange"},
        {"objectId": "4"},
    ],
)
def test_events_that_share_an_event_id_are_told_apart(other: dict[str, Any]) -> None:
    assert only(CHANGE) != only({**CHANGE, **other})


def test_the_two_formats_name_one_object_alike() -> None:
    old = {**EVENT, "subscriptionType": "contact.creation"}
    new = {**EVENT, "subscriptionType": "object.creation", "objectTypeId": "0-1"}
    keys = []
    for item in (old, new):
        (event,) = hubspot.read(Request("POST", "", {}, b""), [item])
        (record,) = hubspot.changed(event)
        keys.append([record.data[column] for column in hubspot.OBJECTS.key])
    assert keys[0] == keys[1]


def test_a_single_event_that_is_no_array_is_read() -> None:
    (event,) = hubspot.read(Request("POST", "", {}, encode_json(CHANGE)), CHANGE)
    assert event.type == "contact.propertyChange"
