"""Ecwid: what the contract of vendors cannot see."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources.ecwid import vendor

VERIFIER = vendor.verifier({})


def delivery(body: bytes, signed: str) -> Request:
    digest = hmac.new(b"app-secret", signed.encode(), hashlib.sha256).digest()
    return Request("POST", "", {"x-ecwid-webhook-signature": base64.b64encode(digest).decode()}, body)


@pytest.mark.parametrize(
    ("body", "signed"),
    [
        (b'{"eventCreated":1772529307,"eventId":"a-1"}', "1772529307.a-1"),
        (b'{"eventId":9007199254740993,"eventCreated":"1772529307","x":[1]}', "1772529307.9007199254740993"),
    ],
)
def test_the_time_and_the_id_are_signed_as_they_are_written(body, signed) -> None:
    VERIFIER.verify(delivery(body, signed), ("app-secret",), 0)


@pytest.mark.parametrize(
    ("body", "signed"),
    [
        (b'{"eventCreated":1772529307}', "1772529307."),
        (b'{"eventId":"a-1"}', ".a-1"),
        (b"{}", "."),
        (b'{"eventCreated":1.5,"eventId":"a"}', "1.5.a"),
        (b'{"eventCreated":null,"eventId":"a"}', "None.a"),
        (b'[{"eventCreated":1,"eventId":"a"}]', "1.a"),
    ],
)
def test_a_body_without_both_is_refused_whatever_is_signed(body, signed) -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(delivery(body, signed), ("app-secret",), 0)


def test_of_two_stores_the_same_id_is_two_rows() -> None:
    keys = []
    for store in (1003, 1004):
        data = {"eventType": "product.updated", "eventId": "a", "eventCreated": 1, "storeId": store, "entityId": 7}
        [event] = vendor.read(Request("POST", "", {}, b""), data)
        keys += [r.data["storeId"] for r in vendor.mapper(event.type)(event) if r.table == "entities"]
    assert keys == [1003, 1004]
