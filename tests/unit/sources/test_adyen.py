"""Adyen signs each item by itself, and only eight fields of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources.adyen import SignedItems, scrub

OURS = SignedItems()
SECRET, OTHER = OURS.test_secret(0), OURS.test_secret(1)


def item(reference: str, **more: Any) -> dict[str, Any]:
    return {"pspReference": reference, "eventCode": "REFUND", "amount": {"value": 1, "currency": "EUR"}, **more}


def delivery(*items: Any) -> Request:
    wrapped = [{"NotificationRequestItem": one} for one in items]
    return Request("POST", "", {}, json.dumps({"notificationItems": wrapped}).encode())


def signed_items(*items: Any, secret: str = SECRET) -> list[Any]:
    data = json.loads(OURS.sign(delivery(*items), secret, 0).body)
    return [one["NotificationRequestItem"] for one in data["notificationItems"]]


def reason(sent: Request, *secrets: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        OURS.verify(sent, secrets or (SECRET,), 0)
    return refused.value.reason


def test_one_item_without_its_signature_refuses_the_whole_delivery() -> None:
    first, second = signed_items(item("A"), item("B"))
    OURS.verify(delivery(first, second), (SECRET,), 0)
    for wrong in (item("B"), {**second, "additionalData": {"hmacSignature": None}}, None, 7, []):
        assert reason(delivery(first, wrong)) == "signature_missing"
    assert reason(delivery(first, {**second, "pspReference": "C"})) == "signature_wrong"


def test_items_signed_with_different_secrets_are_refused() -> None:
    mixed = delivery(*signed_items(item("A")), *signed_items(item("B"), secret=OTHER))
    assert reason(mixed, SECRET, OTHER) == "signature_wrong"


def test_a_delivery_of_no_items_is_refused() -> None:
    for body in (b'{"notificationItems":[]}', b"{}", b"[]", b"", b"\xff", b'{"notificationItems":{}}'):
        assert reason(Request("POST", "", {}, body)) == "signature_missing"


def test_a_secret_that_is_not_hex_fits_nothing_and_shuts_nobody_out() -> None:
    sent = delivery(*signed_items(item("A")))
    assert reason(sent, "not hex") == "secret_malformed"
    OURS.verify(sent, ("not hex", SECRET), 0)


def test_signatures_are_not_kept() -> None:
    data = json.loads(OURS.sign(delivery(item("A", additionalData={"x": 1})), SECRET, 0).body)
    assert scrub(data)["notificationItems"][0]["NotificationRequestItem"]["additionalData"] == {"x": 1}
