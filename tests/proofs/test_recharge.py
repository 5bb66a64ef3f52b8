"""Both schemes are those of other vendors, whose libraries sign and verify them: Stripe's, and HubSpot's first.

Recharge has no library and publishes no signature. What its page says of the newer scheme is Stripe's, under
another header; of the older one, HubSpot's v1.
"""

from __future__ import annotations

import warnings

import msgspec
import pytest
import stripe

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.signatures import with_headers
from relay.sources.recharge import PLAIN_HASH, vendor
from tests.contracts.sources import NOW

SECRET = "recharge-client-secret-Ümläut"
BODY = '{"charge":{"id":501200034,"note":"Grüße \\u00e9"}}'.encode()
HEADER = "x-recharge-webhook-signature"
PLAIN = Request("POST", "https://relay.example/hooks/recharge", {}, BODY)
SIGNED = vendor.verifier({"legacy_hash": False})


def stripe_accepts(request: Request, secret: str = SECRET) -> bool:
    """Without its look at the clock."""
    try:
        return stripe.WebhookSignature.verify_header(request.body.decode(), request.headers[HEADER], secret)
    except stripe.SignatureVerificationError:
        return False


def hubspot_accepts(request: Request, secret: str = SECRET) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hubspot.utils.signature import Signature  # it warns on import
    signature = request.headers[PLAIN_HASH.header]
    return bool(Signature.is_valid(signature, secret, request.body.decode(), signature_version="v1"))


def signed() -> Request:
    return SIGNED.sign(PLAIN, SECRET, NOW)


def hashed() -> Request:
    return PLAIN_HASH.sign(PLAIN, SECRET, NOW)


def test_stripes_library_accepts_what_we_sign() -> None:
    assert stripe_accepts(signed())


def changes() -> dict[str, Request]:
    request = signed()
    value = request.headers[HEADER]
    return {
        "body": msgspec.structs.replace(request, body=BODY + b"\n"),
        "time": with_headers(request, {HEADER: value.replace(str(NOW // NS), str(NOW // NS + 1))}),
        "version": with_headers(request, {HEADER: value.replace("v1=", "v2=")}),
    }


@pytest.mark.parametrize("name", list(changes()))
def test_what_is_changed_is_refused_by_both(name: str) -> None:
    request = changes()[name]
    assert not stripe_accepts(request)
    with pytest.raises(Unauthenticated):
        SIGNED.verify(request, (SECRET,), NOW)


def test_hubspots_library_accepts_what_we_hash() -> None:
    assert hubspot_accepts(hashed())


def test_what_is_changed_behind_a_hash_is_refused_by_both() -> None:
    longer = msgspec.structs.replace(hashed(), body=BODY + b" ")
    for request, secret in ((longer, SECRET), (hashed(), "another")):
        assert not hubspot_accepts(request, secret)
        with pytest.raises(Unauthenticated):
            PLAIN_HASH.verify(request, (secret,), NOW)
