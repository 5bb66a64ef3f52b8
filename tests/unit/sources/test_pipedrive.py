"""Pipedrive v1: `meta.id` is the object's, so what tells two deliveries apart is the rest."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import MalformedPayload
from relay.records import Request
from relay.sources import pipedrive

REQUEST = Request("POST", "https://hooks.shop.example/hooks/crm", {}, b"")
META = {"action": "updated", "object": "deal", "id": 8, "company_id": 1, "timestamp": 1_772_352_960}
BODY: dict[str, Any] = {"meta": META, "current": {"id": 8, "title": "a"}, "previous": {}, "retry": 0}


def id_of(body: dict[str, Any]) -> str:
    (event,) = pipedrive.read(REQUEST, body)
    return event.id


def test_a_retry_and_another_webhook_for_the_same_change_are_the_same_event() -> None:
    assert id_of({**BODY, "retry": 2}) == id_of(BODY)
    assert id_of({**BODY, "meta": {**META, "webhook_id": "2"}}) == id_of(BODY)


@pytest.mark.parametrize(
    "other",
    [
        {"current": {"id": 8, "title": "b"}},
        {"meta": {**META, "timestamp": 1_772_352_961}},
        {"meta": {**META, "timestamp_micro": 1_772_352_960_000_001}},
        {"meta": {**META, "company_id": 2}},
        {"meta": {**META, "action": "deleted"}},
        {"meta": {**META, "object": "person"}},
        {"meta": {**META, "id": 9}},
    ],
)
def test_two_changes_of_one_second_are_told_apart(other: dict[str, Any]) -> None:
    assert id_of({**BODY, **other}) != id_of(BODY)


def test_both_versions_name_what_happened_alike() -> None:
    (old,) = pipedrive.read(REQUEST, BODY)
    (new,) = pipedrive.read(REQUEST, {"meta": {"action": "change", "entity": "deal", "id": "e-1"}, "data": {}})
    assert old.type == new.type == "deal.change"
    assert new.id == "e-1"


@pytest.mark.parametrize("body", [[], None, "x", {}, {"meta": []}, {"meta": None}])
def test_a_body_without_a_meta_block_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedPayload):
        list(pipedrive.read(REQUEST, body))
