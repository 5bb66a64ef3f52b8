"""What is special to BigCommerce: signed hooks or a header of one's own, and a hash that is no event's id."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import Request, encode_json
from relay.sources.bigcommerce import vendor

BODY = {
    "scope": "store/order/updated", "store_id": "1", "producer": "stores/nord", "hash": "abc",
    "created_at": 1_772_352_900, "data": {"type": "order", "id": 250},
}  # fmt: skip


def delivery(**changed: Any) -> str:
    data = {**BODY, **changed}
    return vendor.read(Request("POST", "https://relay.example/", {}, encode_json(data)), data)[0].id


def test_the_same_hash_in_another_second_or_scope_is_another_event() -> None:
    first = delivery()
    assert delivery() == first
    assert delivery(created_at=1_772_352_901) != first
    assert delivery(scope="store/order/archived") != first


def test_a_token_is_no_proof_where_signed_hooks_are_expected() -> None:
    by_token = vendor.verifier({"token_header": "X-Nord"})
    request = by_token.sign(Request("POST", "https://relay.example/", {}, b"{}"), "s3cret", 0)
    by_token.verify(request, ("s3cret",), 0)
    with pytest.raises(Unauthenticated):
        vendor.verifier({"token_header": ""}).verify(request, ("s3cret",), 0)


def test_a_signature_is_no_proof_where_a_header_is_expected() -> None:
    request = vendor.verifier({"token_header": ""}).sign(
        Request("POST", "https://relay.example/", {}, b"{}"), "s", 0
    )
    with pytest.raises(Unauthenticated):
        vendor.verifier({"token_header": "X-Nord"}).verify(request, ("s",), 0)


@pytest.mark.parametrize("wrong", ["X Nord", "X-Nord:", "é", "x" * 101, 7, True, ["X-Nord"], "\n"])
def test_a_setting_that_is_no_headers_name_is_refused_at_load(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid, match="token_header"):
        vendor.verifier({"token_header": wrong})
