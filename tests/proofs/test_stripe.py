"""Stripe's own library signs and verifies: what it makes is taken by us, and what we make by it."""

from __future__ import annotations

import json

import msgspec
import pytest
import stripe

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.source import sample_request
from relay.sources.stripe import vendor
from tests.contracts.sources import NOW

SECRET = "whsec_" + "7f" * 20
VERIFIER = vendor.verifier({})
HEADER = "stripe-signature"
PLAIN = sample_request(vendor.samples["invoice.paid"](7, NOW), "https://relay.example/hooks/stripe")


def theirs(body: bytes, secret: str = SECRET, at: int = NOW) -> Request:
    """A request as Stripe's library would have it signed."""
    stamp = at // NS
    digest = stripe.WebhookSignature._compute_signature(f"{stamp}.{body.decode()}", secret)
    return msgspec.structs.replace(PLAIN, body=body, headers={HEADER: f"t={stamp},v1={digest},v0=00"})


def accepted_by_stripe(request: Request, secret: str = SECRET) -> bool:
    """By the call that its page tells people to make, without its look at the clock."""
    try:
        return stripe.WebhookSignature.verify_header(request.body.decode(), request.headers[HEADER], secret)
    except stripe.SignatureVerificationError:
        return False


def test_what_the_library_signs_is_accepted() -> None:
    VERIFIER.verify(theirs(PLAIN.body), (SECRET,), NOW)


def test_what_it_signs_otherwise_is_refused() -> None:
    signed = theirs(PLAIN.body)
    for wrong in (
        msgspec.structs.replace(signed, body=signed.body + b" "),
        theirs(PLAIN.body, "whsec_another"),
        theirs(PLAIN.body, at=NOW - 301 * NS),
    ):
        with pytest.raises(Unauthenticated):
            VERIFIER.verify(wrong, (SECRET,), NOW)


def test_what_we_sign_is_accepted_by_the_library_and_what_is_changed_is_not() -> None:
    signed = VERIFIER.sign(PLAIN, SECRET, NOW)
    assert accepted_by_stripe(signed)
    assert not accepted_by_stripe(signed, "whsec_another")
    assert not accepted_by_stripe(msgspec.structs.replace(signed, body=signed.body + b" "))
    assert json.loads(signed.body)["type"] == "invoice.paid"
