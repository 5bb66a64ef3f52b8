"""SendGrid's own library and our file: what one signs the other accepts, and what is changed both refuse."""

from __future__ import annotations

import base64
import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relay.errors import Unauthenticated
from relay.records import NS, Request
from tests.contracts import sources

NOW = 1_772_352_960 * NS
BODY = '[{"event":"open","sg_event_id":"a","email":"jürgen@mail.example"}]\r\n'
SIGNATURE, TIMESTAMP = "x-twilio-email-event-webhook-signature", "x-twilio-email-event-webhook-timestamp"


@pytest.fixture
def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sendgrid.helpers.eventwebhook import EventWebhook
    return EventWebhook


def verifier() -> Any:
    vendor = sources.vendor_of("sendgrid")
    return vendor.verifier(sources.defaults(vendor))


def pair() -> tuple[Any, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, base64.b64encode(key.public_key().public_bytes(*form)).decode()


def test_what_we_sign_the_library_accepts_and_changed_it_does_not(library: Any) -> None:
    _, other = pair()
    ours, secret = verifier(), verifier().test_secret(0)
    signed = ours.sign(Request("POST", "https://relay.example/", {}, BODY.encode()), secret, NOW)
    key: Any = serialization.load_pem_private_key(secret.encode(), None)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    theirs = library(base64.b64encode(key.public_key().public_bytes(*form)).decode())
    said = (signed.headers[SIGNATURE], signed.headers[TIMESTAMP])
    assert theirs.verify_signature(BODY, *said)
    assert not theirs.verify_signature(BODY.rstrip(), *said)
    assert not theirs.verify_signature(BODY, said[0], f"{said[1]}0")
    assert not library(other).verify_signature(BODY, *said)


def test_what_the_library_accepts_we_accept_and_what_it_refuses_we_refuse(library: Any) -> None:
    key, public = pair()
    stamp = str(NOW // NS)
    signature = base64.b64encode(key.sign((stamp + BODY).encode(), ec.ECDSA(hashes.SHA256()))).decode()
    for body, fits in ((BODY, True), (BODY.rstrip(), False), (BODY.replace("open", "opem"), False)):
        assert library(public).verify_signature(body, signature, stamp) is fits
        sent = Request("POST", "", {SIGNATURE: signature, TIMESTAMP: stamp}, body.encode())
        if fits:
            verifier().verify(sent, (public,), NOW)
        else:
            with pytest.raises(Unauthenticated):
                verifier().verify(sent, (public,), NOW)
