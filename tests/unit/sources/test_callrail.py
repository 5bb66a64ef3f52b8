"""CallRail's deliveries of one call bear one time, so what they hold decides which is later."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from relay.records import Record, Request, encode_json
from tests.contracts import sources

VENDOR = sources.vendor_of("callrail")
CALL = {"resource_id": "CAL1", "start_time": "2026-03-02T10:15:07.236+01:00", "duration": "0", "answered": False}


def record_of(body: dict[str, Any], **query: str) -> Record:
    request = Request("POST", "https://relay.example/hooks/callrail", {}, encode_json(body), query)
    (event,) = sources.read(VENDOR, request)
    (record,) = sources.mapped(VENDOR, event)
    return record


def test_a_call_grows_older_with_its_duration_and_then_by_being_modified() -> None:
    told = (CALL, {**CALL, "duration": 9}, {**CALL, "duration": "133"}, {**CALL, "duration": "133", "changes": []})
    assert all(earlier.version < later.version for earlier, later in pairwise(map(record_of, told)))


def test_a_duration_that_is_no_number_counts_as_none() -> None:
    for wrong in ("", "2m 13s", "-5", "٣", None, [], 10**30, "9" * 5000):
        assert record_of({**CALL, "duration": wrong}).version == record_of(CALL).version


def test_the_address_is_not_signed_and_so_says_nothing() -> None:
    assert record_of(CALL, id="2", duration="9999", form_data="x", changes="x") == record_of(CALL)


def test_a_record_is_named_by_its_newer_id_where_it_has_both() -> None:
    assert record_of({**CALL, "id": 766}).data["resource_id"] == "CAL1"
    assert record_of({**CALL, "id": 766, "resource_id": ""}).data["resource_id"] == 766


def test_several_companies_keys_may_be_given_at_once() -> None:
    verifier = VENDOR.verifier({})
    request = Request("POST", "https://relay.example/", {}, encode_json(CALL))
    verifier.verify(
        verifier.sign(request, "of-the-second", sources.NOW), ("of-the-first", "of-the-second"), sources.NOW
    )
