"""Mailgun: what the contract of vendors cannot see."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request, decode_json, encode_json
from relay.sources.mailgun import vendor

NOW = 1_772_352_960
VERIFIER = vendor.verifier({"tolerance_s": 300})


def digest(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def delivery(signature: object) -> Request:
    return Request("POST", "", {}, encode_json({"signature": signature, "event-data": {"event": "opened"}}))


def test_a_subaccounts_event_is_accepted_by_the_primary_accounts_key() -> None:
    text = f"{NOW}token"
    both = {"signature": digest("of-the-subaccount", text), "parent-signature": digest("of-the-parent", text)}
    request = delivery({"timestamp": str(NOW), "token": "token", **both})
    for key in ("of-the-subaccount", "of-the-parent"):
        VERIFIER.verify(request, (key,), NOW * NS)
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(request, ("of-another",), NOW * NS)


def test_the_time_may_be_a_number() -> None:
    signature = {"timestamp": NOW, "token": "token", "signature": digest("key", f"{NOW}token")}
    VERIFIER.verify(delivery(signature), ("key",), NOW * NS)


@pytest.mark.parametrize(
    "signature",
    [
        *(None, "", [], {}, 7),
        {"timestamp": str(NOW), "token": "", "signature": digest("key", str(NOW))},
        {"timestamp": f"{NOW}t", "token": "oken", "signature": digest("key", f"{NOW}token")},
        {"timestamp": -NOW, "token": "token", "signature": digest("key", f"-{NOW}token")},
        {"timestamp": [NOW], "token": "token", "signature": digest("key", f"{NOW}token")},
        {"timestamp": 10**30, "token": "token", "signature": digest("key", f"{10**30}token")},
    ],
)
def test_a_signature_of_another_shape_is_refused(signature) -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(delivery(signature), ("key",), NOW * NS)


def test_the_signature_is_taken_out_before_anything_is_stored() -> None:
    signed = VERIFIER.sign(delivery({}), "key", NOW * NS)
    assert vendor.scrub(decode_json(signed.body)) == {"event-data": {"event": "opened"}}


@pytest.mark.parametrize("tolerance", [0, -1, True, "300", None])
def test_a_tolerance_that_is_no_number_of_seconds_is_told_at_the_start(tolerance) -> None:
    with pytest.raises(ConfigInvalid, match="number of seconds"):
        vendor.verifier({"tolerance_s": tolerance})
