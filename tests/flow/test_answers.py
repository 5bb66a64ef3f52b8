"""What every API has in common: compressed bodies, and what is said where nothing is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from relay.buffer import keys
from tests.flow.test_imports import Served

MIB = 1024 * 1024
ROW = {"keys": ["id"], "id": 1, "v": "a"}
RECORD = {"client_id": 12, "table_name": "people", "sequence": 1, "action": "upsert", "key_names": ["id"]}


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Served:
    return Served(redis_url, tmp_path)


def send(here: Served, path: str, body: bytes, encoding: str = "gzip", **headers: str) -> Any:
    sent = {"Authorization": f"Bearer {here.key}", "Content-Type": "application/json", **headers}
    if encoding:
        sent["Content-Encoding"] = encoding
    return here.web.post(f"{path}?apikey={here.key}", data=body, headers=sent)


IMPORTS, STITCH, DOCUMENTS = (
    "/v2/client/12/table/kiosks/data",
    "/v2/import/push",
    "/v1/datamarts/12/document_imports",
)


def packed(data: Any) -> bytes:
    return gzip.compress(json.dumps(data).encode(), mtime=0)


def test_a_push_that_is_compressed_with_gzip_is_taken(here):
    assert send(here, IMPORTS, packed(ROW)).status_code == 201
    assert send(here, STITCH, packed([{**RECORD, "data": {"id": 7}}]), "x-gzip").status_code == 201
    assert [v for _, v in here.rows("kiosks")] == ["a"]
    assert [str(n) for (n,) in here.rows("people", "id")] == ["7"]


def test_a_definition_that_is_compressed_with_gzip_is_taken(here):
    told = {"document_type": "USER_PROFILE", "mime_type": "APPLICATION_X_NDJSON", "encoding": "utf-8", "name": "n"}
    assert send(here, DOCUMENTS, packed(told), Authorization=here.key).status_code == 200


@pytest.mark.parametrize("path", [IMPORTS, f"/sandbox{IMPORTS}", STITCH, "/v2/import/batch", DOCUMENTS])
@pytest.mark.parametrize(("body", "encoding"), [(b"{}", "br"), (b"{}", "gzip"), (packed(ROW)[:-4], "gzip")])
def test_a_body_compressed_otherwise_or_broken_is_415_with_reasons(here, path, body, encoding):
    more = {"Authorization": here.key} if path == DOCUMENTS else {}
    answer = send(here, path, body, encoding, **more)
    assert answer.status_code == 415
    said = answer.get_json(force=True)
    assert "gzip" in json.dumps(said) or path == DOCUMENTS
    assert "again" not in json.dumps(said)
    assert here.client.hlen(keys.EVENTS) == 0


def test_a_body_that_is_too_large_once_inflated_is_413_and_costs_no_more_than_the_limit(here):
    bomb = gzip.compress(b'{"keys": ["id"], "id": 1, "v": "' + b"x" * (64 * MIB) + b'"}')
    assert len(bomb) < MIB
    assert send(here, IMPORTS, bomb).status_code == 413
    assert send(here, STITCH, bomb).status_code == 413


def test_the_old_address_of_the_stitch_api_takes_what_the_new_one_takes(here):
    answer = send(here, "/push", json.dumps([{**RECORD, "data": {"id": 7}}]).encode(), "")
    assert (answer.status_code, answer.get_json(force=True)["status"]) == (201, "OK")
    assert [str(n) for (n,) in here.rows("people", "id")] == ["7"]
    refused = send(here, "/push", b"[]", "", Authorization="Bearer wrong")
    assert (refused.status_code, refused.get_json(force=True)["error"]) == (401, "Not Authenticated.")


PLACES = [
    "/nothing", "/hooks", "/hooks/", "/hooks/a/b", "/v1", "/v1/nothing", "/v1/client/12",
    "/v2/client//table/t/data", "/v1/datamarts/12/nothing", "/v1/data_file", "/v2/import", "/v2/import/nothing",
    "/push/more", "/sandbox", "/sandbox/nothing", "/0.1", "/0.1/nothing", "/0.1/client/12/table/",
    "/openapi.json/", "/%00", "/%ff",
]  # fmt: skip


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_where_nothing_is_the_answer_is_404_and_a_json_object(here, path, method):
    answer = here.web.open(path, method=method)
    assert answer.status_code == 404
    assert isinstance(answer.get_json(force=True), dict)


def test_where_the_settings_do_not_say_where_rows_go_a_push_is_503_and_says_when_to_ask_again(here):
    here.write(destinations={"one": {"kind": "sqlite", "path": "1.db"}, "two": {"kind": "sqlite", "path": "2.db"}})
    answer = send(here, IMPORTS, json.dumps(ROW).encode(), "")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")


def test_a_document_in_a_form_needs_no_file_name(here):
    told = {"document_type": "USER_PROFILE", "mime_type": "APPLICATION_X_NDJSON", "encoding": "utf-8", "name": "n"}
    send(here, DOCUMENTS, packed(told), Authorization=here.key)
    form = {"file": '{"operation":"UPSERT","user_account_id":"1"}\n', "type": "application/x-ndjson"}
    headers = {"Authorization": here.key, "Content-Type": "multipart/form-data"}
    answer = here.web.post(f"{DOCUMENTS}/1/executions", data=form, headers=headers)
    assert (answer.status_code, answer.get_json()["data"]["status"]) == (200, "PENDING")
