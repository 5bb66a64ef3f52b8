"""What the contract cannot see: the form of the time that is signed, and whose webhook a body is of."""

from __future__ import annotations

import pytest

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import NS, Request
from relay.sources import customerio, klaviyo

SENT = 1_704_391_525
BODY = b'{"data":[],"meta":{}}'


def signed(seconds: int = SENT, **settings: int) -> Request:
    verifier = klaviyo.vendor.verifier({"tolerance_s": 300, **settings})
    return verifier.sign(Request("POST", "https://relay.example/", {}, BODY), "s" * 16, seconds * NS)


def test_the_time_is_written_as_http_writes_it():
    assert signed().headers["klaviyo-timestamp"] == "Thu, 04 Jan 2024 18:05:25 GMT"


@pytest.mark.parametrize(
    "text",
    [
        *("1704391525", "2024-01-04T18:05:25Z", "Thu, 04 Jan 2024 18:05:25 +0000", " GMT", "Thu, 99 Jan 2024 GMT"),
        *("Thu, 04 Jan 99999 18:05:25 GMT", "Thu, 04 Jan 0000 18:05:25 GMT", "x" * 1_000_000 + " GMT", "٣ GMT"),
    ],
    ids=lambda text: text[:30],
)
def test_a_time_of_another_form_is_none(text):
    assert klaviyo.HttpDate("x").read(text) is None


def test_how_old_a_delivery_may_be_is_a_setting():
    late = (SENT + 3600) * NS
    with pytest.raises(Unauthenticated):
        klaviyo.vendor.verifier({"tolerance_s": 300}).verify(signed(), ("s" * 16,), late)
    klaviyo.vendor.verifier({"tolerance_s": 3600}).verify(signed(), ("s" * 16,), late)


@pytest.mark.parametrize("wrong", ["300", 0, -5, None, [], 1.5])
@pytest.mark.parametrize("vendor", [klaviyo.vendor, customerio.vendor], ids=lambda v: v.title)
def test_a_tolerance_that_is_no_number_of_seconds_is_refused_by_name(vendor, wrong):
    with pytest.raises(ConfigInvalid, match="tolerance_s"):
        vendor.verifier({"tolerance_s": wrong})


def test_a_body_of_another_webhook_than_its_header_says_is_not_read():
    """As the vendor's page asks: the header is not signed, the body is."""
    request = Request("POST", "https://relay.example/", {"klaviyo-webhook-id": "a"}, b"")
    with pytest.raises(MalformedPayload, match="klaviyo_webhook_id"):
        klaviyo.vendor.read(request, {"data": [], "meta": {"klaviyo_webhook_id": "b"}})


def test_the_same_event_id_of_two_accounts_is_two_events():
    ids = set()
    for account in ("A", "B"):
        body = {"data": [{"external_id": "e"}], "meta": {"klaviyo_account_id": account}}
        [event] = klaviyo.vendor.read(Request("POST", "https://relay.example/", {}, b""), body)
        ids.add(event.id)
    assert len(ids) == 2
