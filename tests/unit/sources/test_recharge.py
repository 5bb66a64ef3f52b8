"""What is special to Recharge: the older scheme is a setting and a last resort, and retries are two days old."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request
from relay.signatures import with_headers
from relay.sources.recharge import PLAIN_HASH, vendor
from tests.contracts.sources import NOW

SECRET = "client-secret"
PLAIN = Request("POST", "https://relay.example/", {}, b'{"charge":{"id":1}}')
STRICT, LENIENT = (vendor.verifier({"legacy_hash": legacy}) for legacy in (False, True))
HASHED = PLAIN_HASH.sign(PLAIN, SECRET, NOW)


def test_the_older_scheme_is_accepted_only_where_it_is_allowed() -> None:
    LENIENT.verify(HASHED, (SECRET,), NOW)
    with pytest.raises(Unauthenticated, match="x-recharge-webhook-signature"):
        STRICT.verify(HASHED, (SECRET,), NOW)


def test_the_older_scheme_never_saves_a_delivery_whose_newer_signature_is_wrong() -> None:
    wrong = with_headers(HASHED, {"x-recharge-webhook-signature": f"t={NOW // NS},v1={'0' * 64}"})
    with pytest.raises(Unauthenticated) as caught:
        LENIENT.verify(wrong, (SECRET,), NOW)
    assert caught.value.reason == "signature_wrong"


def test_a_retry_of_the_second_day_is_accepted() -> None:
    request = STRICT.sign(PLAIN, SECRET, NOW)
    STRICT.verify(request, (SECRET,), NOW + 48 * 3600 * NS)
    with pytest.raises(Unauthenticated):
        STRICT.verify(request, (SECRET,), NOW + (48 * 3600 + 1) * NS)


@pytest.mark.parametrize("secrets", [(), ("",), ("another",), ("", "another")])
def test_no_other_secret_fits_the_older_scheme(secrets: tuple[str, ...]) -> None:
    with pytest.raises(Unauthenticated):
        LENIENT.verify(HASHED, secrets, NOW)


@pytest.mark.parametrize("wrong", ["true", 1, None, []])
def test_a_setting_that_is_neither_true_nor_false_is_refused_at_load(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid, match="legacy_hash"):
        vendor.verifier({"legacy_hash": wrong})
