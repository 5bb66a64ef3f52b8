"""Twilio's own Python library against our verifier, in both directions."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec
import pytest
from twilio.request_validator import RequestValidator

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources.twilio import vendor

TOKEN = "0123456789abcdef0123456789abcdef"
URL = "https://relay.example/hooks/twilio?shop=1"
FORM = "application/x-www-form-urlencoded"
FIELDS = {"MessageSid": "SM1", "Body": "Grüße & Küsse 🍋", "From": "+4930901820", "FromCity": "", "a": "1"}


def verifier(algorithm: str = "sha1"):
    return vendor.verifier({"algorithm": algorithm})


def form(url: str, signature: str = "", fields=None) -> Request:
    body = urlencode(FIELDS if fields is None else fields).encode()
    return Request("POST", url, {"content-type": FORM, "x-twilio-signature": signature}, body)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_what_the_library_signs_is_accepted_and_what_is_changed_is_not(algorithm) -> None:
    made = RequestValidator(TOKEN).compute_signature(URL, FIELDS, f"HMAC_{algorithm.upper()}")
    verifier(algorithm).verify(form(URL, made), (TOKEN,), 0)
    for changed in (form(URL + "2", made), form(URL, made, {**FIELDS, "Body": "no"}), form(URL, made[:-2] + "==")):
        with pytest.raises(Unauthenticated):
            verifier(algorithm).verify(changed, (TOKEN,), 0)


def test_what_we_sign_is_accepted_by_the_library_and_what_is_changed_is_not() -> None:
    signed = verifier().sign(form(URL), TOKEN, 0)
    given = signed.headers["x-twilio-signature"]
    assert RequestValidator(TOKEN).validate(URL, FIELDS, given)
    assert not RequestValidator(TOKEN).validate(URL, {**FIELDS, "a": "2"}, given)
    assert not RequestValidator(TOKEN + "0").validate(URL, FIELDS, given)


def test_a_json_body_that_we_sign_is_accepted_by_the_library_by_its_hash() -> None:
    plain = Request("POST", URL, {"content-type": "application/json"}, b'[{"id":"EZ1"}]', {"shop": "1"})
    signed = verifier().sign(plain, TOKEN, 0)
    given = signed.headers["x-twilio-signature"]
    assert RequestValidator(TOKEN).validate(signed.url, signed.body.decode(), given)
    assert not RequestValidator(TOKEN).validate(signed.url, signed.body.decode() + " ", given)


@pytest.mark.parametrize(
    ("signed", "seen"),
    [
        ("https://relay.example:443/hooks/twilio", "https://relay.example/hooks/twilio"),
        ("https://relay.example/hooks/twilio", "https://relay.example:443/hooks/twilio"),
        ("http://relay.example:80/", "http://relay.example/"),
        ("https://relay.example/hooks/twilio?a=1", "https://relay.example:8443/hooks/twilio?a=1"),
    ],
)
def test_the_library_and_we_are_of_one_mind_on_ports(signed, seen) -> None:
    made = RequestValidator(TOKEN).compute_signature(signed, FIELDS)
    assert RequestValidator(TOKEN).validate(seen, FIELDS, made)
    verifier().verify(form(seen, made), (TOKEN,), 0)


@pytest.mark.parametrize(
    ("signed", "seen"),
    [
        ("https://relay.example:8443/hooks/twilio", "https://relay.example/hooks/twilio"),
        ("http://relay.example:443/hooks/twilio", "http://relay.example/hooks/twilio"),
        ("https://relay.example/hooks/twilio", "http://relay.example/hooks/twilio"),
    ],
)
def test_another_address_is_refused_by_both(signed, seen) -> None:
    made = RequestValidator(TOKEN).compute_signature(signed, FIELDS)
    assert not RequestValidator(TOKEN).validate(seen, FIELDS, made)
    with pytest.raises(Unauthenticated):
        verifier().verify(form(seen, made), (TOKEN,), 0)


def test_a_json_delivery_taken_for_a_form_is_refused() -> None:
    """Its address is signed alone, so an empty form under it would have a fitting signature."""
    plain = Request("POST", URL, {"content-type": "application/json"}, b"[]")
    signed = verifier().sign(plain, TOKEN, 0)
    headers = {**signed.headers, "content-type": FORM}
    with pytest.raises(Unauthenticated):
        verifier().verify(msgspec.structs.replace(signed, headers=headers, body=b""), (TOKEN,), 0)


def test_a_body_that_is_no_form_needs_its_hash_in_the_signed_address() -> None:
    made = RequestValidator(TOKEN).compute_signature(URL, {})
    plain = Request("POST", URL, {"content-type": "application/json", "x-twilio-signature": made}, b"[]")
    with pytest.raises(Unauthenticated):
        verifier().verify(plain, (TOKEN,), 0)


def test_the_sender_does_not_choose_the_algorithm() -> None:
    made = RequestValidator(TOKEN).compute_signature(URL, FIELDS, "HMAC_SHA256")
    request = form(URL, made)
    named = {**request.headers, "x-twilio-webhooks-signature-settings": "key=k,algorithm=HMAC_SHA256"}
    with pytest.raises(Unauthenticated):
        verifier("sha1").verify(msgspec.structs.replace(request, headers=named), (TOKEN,), 0)
