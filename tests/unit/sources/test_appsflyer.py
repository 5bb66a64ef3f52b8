"""AppsFlyer: where the token stands, and what stands in a text."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import Request, encode_json
from relay.sources import appsflyer
from tests.contracts import sources

NOW = sources.NOW
VENDOR = sources.vendor_of("appsflyer")
EVENT = {"appsflyer_id": "1-2", "event_name": "af_purchase", "event_time": "2026-03-02 09:15:07.123"}


def request(body: Any, **headers: str) -> Request:
    return Request("POST", "https://relay.example/hooks/appsflyer", headers, encode_json(body))


def row(body: Any) -> dict[str, Any]:
    (event,) = sources.read(VENDOR, request(body))
    (record,) = sources.mapped(VENDOR, event)
    return record.data


def test_the_token_is_the_whole_header_that_was_chosen() -> None:
    usual = appsflyer.verifier({"token_name": "Authorization"})
    usual.verify(request(EVENT, authorization="a-token"), ("a-token",), NOW)
    for headers in (
        {"authorization": "Bearer a-token"},
        {"x-token": "a-token"},
        {"authorization": "a-token "},
        {},
    ):
        with pytest.raises(Unauthenticated):
            usual.verify(request(EVENT, **headers), ("a-token",), NOW)


@pytest.mark.parametrize("wrong", ["", None, 5])
def test_a_token_without_a_header_is_refused_when_the_source_is_set_up(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid, match="token_name"):
        appsflyer.verifier({"token_name": wrong})


@pytest.mark.parametrize("missing", ["appsflyer_id", "event_name", "event_time"])
@pytest.mark.parametrize("value", [None, ""])
def test_an_event_without_a_part_of_its_identity_is_quarantined(missing: str, value: Any) -> None:
    with pytest.raises(KeyError, match=missing):
        row({**EVENT, missing: value})


@pytest.mark.parametrize(
    "text", ["{", "NaN", "[" * 10_000 + "]" * 10_000, "1e999999999", "007", "12", "Grüße", "{'a': 1}"]
)
def test_a_value_that_is_no_json_stays_the_text_that_it_is(text: str) -> None:
    assert row({**EVENT, "event_value": text})["event_value"] == text


def test_numbers_inside_a_text_keep_all_their_digits() -> None:
    value = row({**EVENT, "event_value": '{"id":9007199254740993,"af_revenue":0.10}'})["event_value"]
    assert encode_json(value) == b'{"id":9007199254740993,"af_revenue":0.10}'
