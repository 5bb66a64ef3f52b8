"""Unbounce: times of twelve hours, a secret in two places, and submissions without an id."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import Request, encode_json, instant_ns
from relay.sources import unbounce
from tests.contracts import sources

NOW = sources.NOW
VENDOR = sources.vendor_of("unbounce")
SECRET = "a-long-text-of-our-own"
FORM = {"content-type": "application/x-www-form-urlencoded"}


def submitted(**entered: Any) -> Request:
    body = urlencode({"page_id": "p1", "variant": "a", "data.json": encode_json(entered).decode()}).encode()
    return Request("POST", "https://relay.example/hooks/unbounce", FORM, body)


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        ("12:00 AM UTC", "2026-03-02T00:00:00Z"),
        ("12:59 PM UTC", "2026-03-02T12:59:00Z"),
        ("1:05 AM UTC", "2026-03-02T01:05:00Z"),
        ("11:45 PM UTC", "2026-03-02T23:45:00Z"),
        ("11:45 PM CET", None),
        ("11:75 PM UTC", None),
        ("23:45", None),
        ("\N{ARABIC-INDIC DIGIT ONE}1:45 PM UTC", None),
    ],
)
def test_a_time_of_twelve_hours_is_read_in_utc_alone(time: str, moment: str | None) -> None:
    request = submitted(email=["a@mail.example"], date_submitted=["2026-03-02"], time_submitted=[time])
    (event,) = sources.read(VENDOR, request)
    assert event.at == (None if moment is None else instant_ns(moment))


def test_another_minute_or_another_variant_makes_another_submission() -> None:
    events = [
        sources.read(VENDOR, submitted(email=["a@mail.example"], time_submitted=[time], variant=[variant]))[0].id
        for time, variant in (
            ("1:05 AM UTC", "a"),
            ("1:06 AM UTC", "a"),
            ("1:05 AM UTC", "b"),
            ("1:05 AM UTC", "a"),
        )
    ]
    assert len(set(events)) == 3
    assert events[0] == events[3]


def test_without_a_time_the_same_entries_are_a_repetition_for_minutes_only() -> None:
    timed = submitted(email=["a@mail.example"], date_submitted=["2026-03-02"], time_submitted=["1:05 AM UTC"])
    assert [event.dedup for event in sources.read(VENDOR, timed)] == ["id"]
    assert [event.dedup for event in sources.read(VENDOR, submitted(email=["a@mail.example"]))] == ["content"]


def test_the_secret_is_looked_for_in_the_one_place_that_was_chosen() -> None:
    by_url, by_header = (
        unbounce.verifier({"token_header": ""}),
        unbounce.verifier({"token_header": "X-Relay-Token"}),
    )
    request = submitted(email=["a@mail.example"])
    by_url.verify(by_url.sign(request, SECRET, NOW), (SECRET,), NOW)
    by_header.verify(by_header.sign(request, SECRET, NOW), (SECRET,), NOW)
    for verifier, other in ((by_url, by_header), (by_header, by_url)):
        with pytest.raises(Unauthenticated):
            verifier.verify(other.sign(request, SECRET, NOW), (SECRET,), NOW)
    with pytest.raises(ConfigInvalid):
        unbounce.verifier({"token_header": 5})


def test_entries_that_are_no_json_are_malformed_and_none_at_all_are_quarantined() -> None:
    broken = Request("POST", "https://relay.example/", FORM, b"page_id=p1&data.json=%7B")
    with pytest.raises(MalformedPayload):
        sources.read(VENDOR, broken)
    for body in (b"page_id=p1", b"page_id=p1&data.json=", b"page_id=p1&data.json=%7B%7D"):
        (event,) = sources.read(VENDOR, Request("POST", "https://relay.example/", FORM, body))
        with pytest.raises(KeyError, match=r"data\.json"):
            sources.mapped(VENDOR, event)
