"""Paddle's own SDK verifies what we sign, and we verify what it verifies (`pip install paddle-python-sdk`)."""

from __future__ import annotations

import hashlib
import hmac
import warnings
from types import SimpleNamespace

import msgspec
import pytest

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.signatures import with_headers
from relay.sources.paddle import vendor
from tests.contracts import sources
from tests.contracts.sources import NOW

SECRET = "pdl_ntfset_01relay_GrOWLNef+vmtj/IYq4"
OLD = "pdl_ntfset_01relay_before"
BODY = '{"data":{"name":"Grüße 東京 \\u00e9"},"event_id":"evt_1"}'.encode()
VERIFIER = vendor.verifier(sources.defaults(vendor))
HEADER = "paddle-signature"


def of_the_sdk(request: Request, *secrets: str) -> bool:
    """Its time is this machine's, so it checks all but the time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from paddle_billing.Notifications import Secret, Verifier  # it warns on import
    carrier = SimpleNamespace(headers={"Paddle-Signature": request.headers[HEADER]}, body=request.body)
    try:
        return bool(Verifier().verify(carrier, [Secret(s) for s in secrets], verify_time_drift=False))
    except ConnectionRefusedError:
        return False


def signed() -> Request:
    return VERIFIER.sign(Request("POST", "https://relay.example/", {}, BODY), SECRET, NOW)


def rotated() -> Request:
    """As Paddle sends while two secrets are live: two digests of one time."""
    stamp = NOW // NS
    digests = [
        hmac.new(s.encode(), f"{stamp}:".encode() + BODY, hashlib.sha256).hexdigest() for s in (OLD, SECRET)
    ]
    return with_headers(signed(), {HEADER: f"ts={stamp};h1={digests[0]};h1={digests[1]}"})


def test_the_sdk_accepts_what_we_sign() -> None:
    assert of_the_sdk(signed(), SECRET)


@pytest.mark.parametrize("secret", [OLD, SECRET])
def test_either_of_two_digests_is_accepted_by_both(secret: str) -> None:
    assert of_the_sdk(rotated(), secret)
    VERIFIER.verify(rotated(), (secret,), NOW)


def changes() -> dict[str, Request]:
    request = signed()
    value = request.headers[HEADER]
    return {
        "body": msgspec.structs.replace(request, body=BODY + b"\n"),
        "time": with_headers(request, {HEADER: value.replace(str(NOW // NS), str(NOW // NS + 1))}),
        "digest": with_headers(request, {HEADER: value[:-1] + ("0" if value[-1] != "0" else "1")}),
        "none": with_headers(request, {HEADER: value.partition(";")[0]}),
    }


@pytest.mark.parametrize("name", list(changes()))
def test_what_is_changed_is_refused_by_both(name: str) -> None:
    request = changes()[name]
    assert not of_the_sdk(request, SECRET)
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(request, (SECRET,), NOW)


def test_another_secret_is_refused_by_both() -> None:
    assert not of_the_sdk(signed(), OLD)
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(signed(), (OLD,), NOW)
