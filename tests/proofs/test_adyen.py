"""Adyen's own library and our file: what one signs the other accepts, and what is changed both refuse."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources.adyen import SignedItems
from tests.contracts import sources

OURS = SignedItems()
SECRET = OURS.test_secret(0)
ITEM = {
    "pspReference": "QFQTPCQ8HXSKGK82",
    "originalReference": "JDD6LKT8MBLZNN84",
    "merchantAccountCode": "NordECOM",
    "merchantReference": "a:b\\c/ü",
    "amount": {"value": 1130, "currency": "EUR"},
    "eventCode": "REFUND",
    "eventDate": "2026-03-01T09:15:00+01:00",
    "success": "true",
}


@pytest.fixture
def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from Adyen import util
    return util


def delivery(*items: dict[str, Any]) -> Request:
    wrapped = [{"NotificationRequestItem": item} for item in items]
    return Request("POST", "", {}, json.dumps({"live": "false", "notificationItems": wrapped}).encode())


def changes() -> list[dict[str, Any]]:
    """The item with each signed field changed."""
    names = [name for name in ITEM if name not in {"amount", "eventDate"}]
    other = {**ITEM["amount"], "value": 1131}, {**ITEM["amount"], "currency": "USD"}  # type: ignore[dict-item]
    return [{**ITEM, name: f"{ITEM[name]}x"} for name in names] + [{**ITEM, "amount": amount} for amount in other]


def test_what_we_sign_the_library_accepts_and_changed_it_does_not(library: Any) -> None:
    signed = json.loads(OURS.sign(delivery(ITEM), SECRET, 0).body)
    assert library.is_valid_hmac_notification(signed, SECRET)
    assert not library.is_valid_hmac_notification(signed, OURS.test_secret(1))
    for changed in changes():
        spoilt = copy.deepcopy(signed)
        inside = spoilt["notificationItems"][0]["NotificationRequestItem"]
        inside.update({**changed, "additionalData": inside["additionalData"]})
        assert not library.is_valid_hmac_notification(spoilt, SECRET)


def test_what_the_library_signs_we_accept_and_changed_we_do_not(library: Any) -> None:
    signature = library.generate_notification_sig(ITEM, SECRET).decode()
    signed = {**ITEM, "additionalData": {"hmacSignature": signature}}
    OURS.verify(delivery(signed), (SECRET,), 0)
    vendor = sources.vendor_of("adyen")
    assert [event.type for event in sources.read(vendor, delivery(signed))] == ["REFUND"]
    for changed in changes():
        with pytest.raises(Unauthenticated):
            OURS.verify(delivery({**signed, **changed}), (SECRET,), 0)
