"""Square's own SDK verifies what we sign, and we verify what it verifies (`pip install squareup`)."""

from __future__ import annotations

import warnings
from typing import Any

import msgspec
import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.signatures import with_headers
from relay.sources.square import vendor

URL = "https://relay.example/hooks/square?tenant=nord&x=%2F"
KEY = "Ibxx_relay-Ümläut_key"
HEADER = "x-square-hmacsha256-signature"
BODY = '{"merchant_id":"ML1","note":"Grüße 東京 \\u00e9"}'.encode()
VERIFIER = vendor.verifier({})


def of_the_sdk(request: Request, key: str = KEY) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from square.utils.webhooks_helper import verify_signature  # it warns on import
    arguments: dict[str, Any] = {
        "request_body": request.body.decode(),
        "signature_header": request.headers[HEADER],
        "signature_key": key,
        "notification_url": request.url,
    }
    return verify_signature(**arguments)


def signed() -> Request:
    return VERIFIER.sign(Request("POST", URL, {}, BODY), KEY, 0)


def test_the_sdk_accepts_what_we_sign() -> None:
    assert of_the_sdk(signed())


def changes() -> dict[str, Request]:
    request = signed()
    return {
        "body": msgspec.structs.replace(request, body=BODY + b" "),
        "url": msgspec.structs.replace(request, url=URL + "/"),
        "host": msgspec.structs.replace(request, url=URL.replace("relay.", "proxy.")),
        "signature": with_headers(request, {HEADER: request.headers[HEADER][::-1]}),
    }


@pytest.mark.parametrize("name", list(changes()))
def test_what_is_changed_is_refused_by_both(name: str) -> None:
    request = changes()[name]
    assert not of_the_sdk(request)
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(request, (KEY,), 0)


def test_another_key_is_refused_by_both() -> None:
    assert not of_the_sdk(signed(), "another")
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(signed(), ("another",), 0)
