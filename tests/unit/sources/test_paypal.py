"""PayPal's certificate is configured, never fetched; the key and the certificate of these tests are made here."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from relay.errors import ConfigInvalid, Unauthenticated
from relay.publickeys import RSA, new_key
from relay.records import NS, Request
from relay.signatures import with_headers
from relay.sources.paypal import SignedByPayPal, is_paypal

NOW = 1_772_352_960 * NS
WEBHOOK = "5JE12345AB678901C"


def verifier(**settings: Any) -> SignedByPayPal:
    return SignedByPayPal({"certificates": None, "tolerance_s": 300, **settings})


def certificate(private: str) -> str:
    """A certificate made by its own key, as PayPal's is made by an authority."""
    key: Any = serialization.load_pem_private_key(private.encode(), None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "messageverificationcerts.paypal.com")])
    moment = dt.datetime.fromtimestamp(NOW // NS, dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1)
    made = made.not_valid_before(moment - dt.timedelta(days=1)).not_valid_after(moment + dt.timedelta(days=1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def sent(number: int = 0, webhook: str = WEBHOOK) -> Request:
    request = Request("POST", "https://relay.example/hooks/paypal", {}, b'{"id":"WH-1"}')
    return verifier().sign(request, f"{webhook}\n{new_key(RSA, number)}", NOW)


def refused(ours: SignedByPayPal, request: Request, secret: str = WEBHOOK, now: int = NOW) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as error:
        ours.verify(request, (secret,), now)
    return error.value


def test_the_secret_is_the_webhooks_id_and_the_certificate_a_setting() -> None:
    pem = certificate(new_key(RSA, 0))
    for certificates in (pem, [certificate(new_key(RSA, 1)), pem], certificate(new_key(RSA, 1)) + pem):
        verifier(certificates=certificates).verify(sent(), (WEBHOOK,), NOW)
    ours = verifier(certificates=pem)
    assert refused(ours, sent(1)).reason == "signature_wrong"
    assert refused(ours, sent(webhook="OTHER")).reason == "signature_wrong"
    assert refused(ours, sent(), now=NOW + 2 * 86_400 * NS).reason == "timestamp_stale"


def test_without_a_certificate_all_is_refused_with_a_word_on_what_to_do() -> None:
    error = refused(verifier(), sent())
    assert error.reason == "secret_malformed"
    assert "put the sender's into the source's `certificates`" in str(error)
    assert "`certificates` holds no key" in str(refused(verifier(certificates="nonsense"), sent()))


@pytest.mark.parametrize(
    "url",
    [
        *("http://api.paypal.com/c", "https://paypal.com.evil.example/c", "https://evilpaypal.com/c", "ftp://x"),
        *("https://api.paypal.com@evil.example/c", "https://evil.example/api.paypal.com", "//api.paypal.com/c"),
        *("https://api.paypal.com:8443/c", "https://api.paypal.com:x/c", "https://[::1", "https://paypal.com/c"),
        *(
            "https://evil.example\\.paypal.com/c",
            "https://äpi.paypal.com/c",
            "https://a\x00.paypal.com/c",
            "x" * 9999,
        ),
    ],
)
def test_a_certificate_that_is_said_to_be_elsewhere_is_refused(url: str) -> None:
    assert not is_paypal(url)
    request = with_headers(sent(), {"paypal-cert-url": url})
    assert refused(verifier(certificates=certificate(new_key(RSA, 0))), request).reason == "signature_malformed"


def test_addresses_of_paypal_are_known() -> None:
    assert is_paypal("https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1")
    assert is_paypal("https://api.paypal.com:443/v1/notifications/certs/CERT-1")


def test_the_sender_does_not_pick_the_algorithm() -> None:
    for algorithm in ("", "SHA1withRSA", "none", "SHA256withECDSA"):
        request = with_headers(sent(), {"paypal-auth-algo": algorithm})
        assert refused(verifier(), request).reason == "signature_malformed"


@pytest.mark.parametrize("tolerance", [0, -1, True, "x", None, 1.5])
def test_a_tolerance_that_is_no_number_of_seconds_is_a_fault_of_the_settings(tolerance: Any) -> None:
    with pytest.raises(ConfigInvalid):
        verifier(tolerance_s=tolerance)
