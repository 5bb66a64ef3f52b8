"""ShipStation signs for all its customers with the same keys: the token in the address tells whose it is."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from relay.errors import ConfigInvalid, Unauthenticated
from relay.publickeys import RSA, new_key
from relay.records import NS, Request
from relay.signatures import Token, with_headers
from relay.sources.shipstation import SignedForUs, verifier

NOW = 1_772_352_960 * NS
KEY_ID = "x-shipengine-rsa-sha256-key-id"


def keys(*kids: str) -> str:
    """A key set of the keys of this process, one for each id."""

    def text(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()

    found = []
    for number, kid in enumerate(kids):
        key: Any = serialization.load_pem_private_key(new_key(RSA, number).encode(), None)
        numbers = key.public_key().public_numbers()
        found.append({"kty": "RSA", "kid": kid, "n": text(numbers.n), "e": text(numbers.e)})
    return json.dumps({"keys": found})


def sent(number: int = 0, token: str = "mine", kid: str = "a") -> Request:
    request = Request("POST", "https://relay.example/hooks/shipstation", {}, b'{"resource_type":"X"}')
    signed = SignedForUs(None).sign(request, f"{token}\n{new_key(RSA, number)}", NOW)
    return with_headers(signed, {KEY_ID: kid})


def reason(request: Request, *secrets: str, jwks: Any = None) -> str:
    with pytest.raises(Unauthenticated) as refused:
        SignedForUs(keys("a", "b") if jwks is None else jwks).verify(request, secrets or ("mine",), NOW)
    return refused.value.reason


def test_signature_and_token_are_both_needed() -> None:
    ours = SignedForUs(keys("a", "b"))
    ours.verify(sent(), ("older", "mine"), NOW)
    ours.verify(sent(1, kid="b"), ("mine",), NOW)
    assert reason(sent(token="theirs")) == "signature_wrong"
    assert reason(msgspec.structs.replace(sent(), query={})) == "signature_missing"
    unsigned = {name: value for name, value in sent().headers.items() if "signature" not in name}
    assert reason(msgspec.structs.replace(sent(), headers=unsigned)) == "signature_missing"


def test_the_key_is_the_one_that_is_named() -> None:
    for number, kid in ((0, "b"), (1, "a"), (0, "c")):
        assert reason(sent(number, kid=kid)) == "signature_wrong"


def test_without_keys_all_is_refused() -> None:
    assert reason(sent(), jwks="") == "secret_malformed"
    assert reason(sent(), "") == "signature_wrong"
    assert reason(sent(), new_key(RSA, 0)) == "signature_wrong"


def test_the_api_is_chosen_by_the_settings_alone() -> None:
    assert isinstance(verifier({"api": "v1", "jwks": None}), Token)
    with pytest.raises(ConfigInvalid):
        verifier({"api": "v3", "jwks": None})
