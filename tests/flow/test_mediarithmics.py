"""Rows on their way to mediarithmics, with the version fence before it: deletes, held tables, unknown outcomes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.buffer import keys, ledger
from tests.flow.test_history import ERP, Here
from tests.flow.test_parking import drain
from tests.servers.mediarithmics import Mediarithmics, drop
from worker.destinations.mediarithmics import api

PEOPLE: dict[str, Any] = {
    "table": "people",
    "key": ["id"],
    "columns": {"id": "id", "email": "email"},
    "version": "at",
    "when": "type != 'visit'",
    "deleted": "type == 'gone'",
}
VISITS = {"table": "visits", "key": ["id"], "version": "at", "when": "type == 'visit'"}
PROFILE = {"document_type": "USER_PROFILE", "identifier": {"email_hash": "email", "hash": "sha256"}}
ACTIVITY = {
    "document_type": "USER_ACTIVITY",
    "identifier": {"email_hash": "email", "hash": "sha256"},
    "event": "visit",
    "time": "at",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mediarithmics]:
    monkeypatch.setattr(api, "_FIRST_LOOK_S", 0.01)
    with Mediarithmics() as running:
        yield running


def relay(
    url: str, folder: Path, server: Mediarithmics, tables: dict[str, Any], people: dict[str, Any] = PEOPLE
) -> Here:
    dmp = {
        "kind": "mediarithmics", "url": server.url, "datamart_id": 1502, "token": server.token, "tables": tables,
        "timeout_s": 5, "unknown_hold_s": 5,
    }  # fmt: skip
    sources = {"erp": {**ERP, "tables": [people, VISITS]}}
    return Here(url, folder, sources=sources, destinations={"dmp": dmp})


def person(n: int, second: int, kind: str = "person", **data: Any) -> dict[str, Any]:
    return {"type": kind, "id": n, "at": f"2026-11-01T00:00:{second:02d}Z", **data}


@pytest.mark.parametrize("columns", [{}, {"at": "at"}], ids=["with its key alone", "with some of the row"])
def test_a_deleted_row_is_deleted_by_the_address_that_it_last_had(
    redis_url: str, tmp_path: Path, server: Mediarithmics, columns: dict[str, str]
) -> None:
    people = {**PEOPLE, "columns": {**PEOPLE["columns"], **columns}}
    here = relay(redis_url, tmp_path, server, {"erp_people": PROFILE}, people)
    here.post("erp", person(1, 1, email="old@x.org"))
    here.post("erp", person(1, 2, email="new@x.org"))
    here.drain()
    here.post("erp", person(1, 1, email="old@x.org"))
    here.post("erp", person(1, 3, "gone"))
    here.drain()
    told = [(line["operation"], line["email_hash"]) for line in server.taken("USER_PROFILE")]
    new = hashlib.sha256(b"new@x.org").hexdigest()
    assert told == [("UPSERT", new), ("DELETE", new)]
    assert ledger.audit(here.client, deep=True) == []


def test_rows_of_a_table_without_a_rule_wait_while_the_others_are_stored(
    redis_url: str, tmp_path: Path, server: Mediarithmics
) -> None:
    here = relay(redis_url, tmp_path, server, {"erp_people": PROFILE})
    here.post("erp", person(1, 1, "visit", email="a@x.org"))
    drain(here, "dmp")
    here.post("erp", person(1, 1, email="a@x.org"))
    drain(here, "dmp")
    assert len(server.taken("USER_PROFILE")) == 1
    assert ledger.read(here.client).records["erp", "dmp", "erp_visits"]["pending"] == 1
    assert not here.client.exists(keys.destination("dmp")), "the destination is well"
    assert ledger.audit(here.client, deep=True) == []


def test_activities_behind_a_lost_answer_are_added_once_though_more_came_meanwhile(
    redis_url: str, tmp_path: Path, server: Mediarithmics
) -> None:
    here = relay(redis_url, tmp_path, server, {"erp_visits": ACTIVITY})
    server.faults(drop(takes=True))
    for n in (1, 2):
        here.post("erp", person(n, n, "visit", email="a@x.org"))
    drain(here, "dmp")
    here.post("erp", person(3, 3, "visit", email="a@x.org"))
    lane = keys.lane("dmp/0/1")
    assert here.client.hget(lane, "hold_until") is not None, "an unknown outcome rests"
    here.client.hdel(lane, "hold_until")  # the rest is over
    for queue in here.client.scan_iter("rh:queue:dmp/*"):
        here.client.zadd(queue, dict.fromkeys((m for m, _ in here.client.zscan_iter(queue)), 0))
    here.drain()
    sent = [line["$events"][0]["$properties"]["id"] for line in server.taken("USER_ACTIVITY")]
    assert sorted(sent) == [1, 2, 3]
    assert [len(run.lines) for run in server.executions] == [2, 1]
    assert ledger.audit(here.client, deep=True) == []
