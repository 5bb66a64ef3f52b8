"""Adobe signs events of all its customers with the same two keys; a shop has a key of its own."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.publickeys import RSA, Ring, Signed, new_key
from relay.records import Request
from relay.sources.adobe_commerce import SignedForClient, verifier

FIRST, SECOND = "x-adobe-digital-signature-1", "x-adobe-digital-signature-2"
KEY, OTHER = new_key(RSA, 0), new_key(RSA, 1)


def signed(body: bytes, **keys: str) -> Request:
    """A delivery with the signatures of these keys in the first and the second header."""
    headers = {}
    for header, key in zip((FIRST, SECOND), (keys.get("first"), keys.get("second")), strict=True):
        if key is not None:
            one = Signed(header, ring=Ring(RSA)).sign(Request("POST", "", {}, body), key, 0)
            headers[header] = one.headers[header]
    return Request("POST", "", headers, body)


def reason(ours: Any, request: Request, *secrets: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        ours.verify(request, secrets or (KEY,), 0)
    return refused.value.reason


MINE = b'{"recipient_client_id":"mine"}'


def test_either_signature_suffices() -> None:
    ours = SignedForClient("mine")
    ours.verify(signed(MINE, first=KEY, second=OTHER), (KEY,), 0)
    ours.verify(signed(MINE, first=OTHER, second=KEY), (KEY,), 0)
    ours.verify(signed(MINE, second=KEY), (OTHER, KEY), 0)
    assert reason(ours, signed(MINE, first=OTHER, second=OTHER)) == "signature_wrong"
    assert reason(ours, signed(MINE)) == "signature_missing"


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"recipient_client_id":"theirs"}', b"{}", b"[]", b"null", b"7", b"nonsense", b"", b"\xff"),
        *(
            b'[{"recipient_client_id":"mine"},{"recipient_client_id":"theirs"}]',
            b'[{"recipient_client_id":"mine"},7]',
        ),
        *(b'{"recipient_client_id":null}', b'{"recipient_client_id":["mine"]}', b'{"recipient_client_id":""}'),
    ],
)
def test_events_of_another_client_are_refused_though_adobe_signed_them(body: bytes) -> None:
    assert reason(SignedForClient("mine"), signed(body, first=KEY)) == "signature_wrong"


def test_a_batch_of_ours_is_accepted() -> None:
    SignedForClient("mine").verify(signed(b"[" + MINE + b"," + MINE + b"]", first=KEY), (KEY,), 0)


@pytest.mark.parametrize("client", [None, "", 7, []])
def test_without_a_client_all_is_refused(client: Any) -> None:
    assert reason(SignedForClient(client), signed(MINE, first=KEY)) == "secret_malformed"


def test_a_shop_signs_the_base64_of_its_body() -> None:
    ours = verifier({"delivery": "webhooks", "recipient_client_id": None})
    request = Request("POST", "", {}, b'{"cartId":"21"}')
    sent = ours.sign(request, KEY, 0)
    plain = Signed("X-Adobe-Commerce-Webhook-Signature", ring=Ring(RSA))
    encoded = msgspec.structs.replace(sent, body=base64.b64encode(request.body))
    plain.verify(encoded, (KEY,), 0)
    ours.verify(sent, (KEY,), 0)
    assert reason(ours, plain.sign(request, KEY, 0)) == "signature_wrong"


def test_what_is_sent_is_chosen_by_the_settings_alone() -> None:
    assert isinstance(verifier({"delivery": "events", "recipient_client_id": "x"}), SignedForClient)
    with pytest.raises(ConfigInvalid):
        verifier({"delivery": "both", "recipient_client_id": "x"})
