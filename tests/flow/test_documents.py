"""Document imports as they are served: what is taken, what becomes of it, and what a crash in between changes."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr
from werkzeug.serving import make_server

from relay import expanding
from relay.buffer import documents, keys, ledger
from relay.buffer.bounds import Bounds
from relay.buffer.documents import Documents
from relay.buffer.registry import id_of
from relay.records import Codec
from tests.flow.test_history import ERP, ORDERS
from tests.flow.test_imports import Served
from worker.destinations.mediarithmics.api import Api

NDJSON, CSV = "application/x-ndjson", "text/csv"


class Datamart(Served):
    """A relay with a client that sends documents."""

    #: Jobs by hand, so that a test says when one runs.
    jobs = 0

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, kind: str = "", **more: Any
    ):
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        headers = {"Authorization": self.key if key is None else key, **more}
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        at = path if path.startswith("/v1/data_file") else f"/v1/datamarts/12/document_imports{path}"
        return self.web.open(at, method=method, data=data, headers=headers)

    def make(self, document_type: str = "USER_PROFILE", mime: str = "APPLICATION_X_NDJSON", **more: Any) -> str:
        told = {"document_type": document_type, "mime_type": mime, "encoding": "utf-8", "name": "mine", **more}
        answer = self.call("POST", "", told)
        assert answer.status_code == 200, answer.text
        return str(answer.get_json()["data"]["id"])

    def send(self, import_id: str, document: bytes, kind: str = NDJSON) -> str:
        answer = self.call("POST", f"/{import_id}/executions", document, kind=kind)
        assert answer.status_code == 200, answer.text
        assert answer.get_json()["data"]["status"] == "PENDING"
        return str(answer.get_json()["data"]["id"])

    def told(self, import_id: str, execution: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/{import_id}/executions/{execution}").get_json()["data"])

    def work(self, execution: str) -> None:
        """One job of an execution."""
        self.jobs += 1
        expanding.work(self.config, int(execution), f"job-{self.jobs}")

    def run_through(self, import_id: str, document: bytes, kind: str = NDJSON) -> dict[str, Any]:
        execution = self.send(import_id, document, kind)
        self.work(execution)
        return self.told(import_id, execution)

    def errors(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        uri = told["result"]["error_file_uri"]
        answer = self.call("GET", f"/v1/data_file/data?uri={uri}&access_token={self.key}")
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.data.splitlines()]

    def well(self) -> None:
        """Nothing of a document is left, and every account balances."""
        assert ledger.audit(self.client, deep=True) == []
        held = {k.decode(): int(v) for k, v in self.client.hgetall(keys.BYTES).items()}
        blobs = sum(len(blob) for blob in self.client.hvals(keys.EVENTS))
        chunks = list(self.client.scan_iter("rh:execution:*:chunks"))
        assert (held.get("*", 0), chunks) == (blobs, [])


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Datamart:
    return Datamart(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}})


def profile(n: int, **more: Any) -> dict[str, Any]:
    return {"operation": "UPSERT", "user_account_id": str(n), "user_profile": {"n": n}, **more}


def lines(*commands: Any) -> bytes:
    return b"\n".join(c if isinstance(c, bytes) else json.dumps(c).encode() for c in commands) + b"\n"


def test_a_document_that_was_sent_becomes_rows(here):
    made = here.make()
    told = here.run_through(made, lines(profile(1), profile(2, compartment_id="7"), profile(1, name="newer")))
    assert (told["status"], told["num_tasks"], told["completed_tasks"], told["erroneous_tasks"]) == (
        "SUCCEEDED", 3, 3, 0,
    )  # fmt: skip
    assert told["result"]["total_success"] == 3
    assert told["end_date"] == told["start_date"] + told["duration"]
    assert here.rows("user_profiles", "user_id, user_profile, name") == [
        ("account:7:2", '{"n":2}', None),
        ("account::1", '{"n":1}', "newer"),
    ]
    here.well()


def test_an_import_is_created_listed_read_changed_and_deleted(here):
    first, second = (
        here.make(name="Stores"),
        here.make("USER_SEGMENT", "TEXT_CSV", name="Segments", priority="HIGH"),
    )
    answer = here.call("GET", "?max_results=1")
    page = answer.get_json()
    assert (answer.content_type, page["status"]) == ("application/json", "ok")
    assert [page[k] for k in ("count", "total", "first_result", "max_results")] == [1, 2, 0, 1]
    assert page["data"][0]["id"] == second
    assert [one["id"] for one in here.call("GET", "?keywords=stor").get_json()["data"]] == [first]
    told = here.call("GET", f"/{second}").get_json()["data"]
    assert told == {
        "id": second, "datafarm_key": "DF_RELAY", "datamart_id": "12", "document_type": "USER_SEGMENT",
        "mime_type": "TEXT_CSV", "encoding": "utf-8", "name": "Segments", "priority": "HIGH",
    }  # fmt: skip
    assert here.call("PUT", f"/{first}", {"name": "Shops"}).get_json()["data"]["name"] == "Shops"
    assert here.call("PUT", f"/{first}", {"mime_type": "TEXT_CSV"}).status_code == 400
    assert here.call("DELETE", f"/{first}").get_json() == {"status": "ok"}
    assert here.call("GET", f"/{first}").status_code == 404
    assert (
        here.web.get("/v1/datamarts/12/documents_imports", headers={"Authorization": here.key}).status_code == 200
    )


def test_an_execution_waits_as_the_vendor_shows_it_and_the_newest_is_listed_first(here):
    made = here.make()
    first, second = (here.send(made, lines(profile(n))) for n in (1, 2))
    told = here.told(made, first)
    assert told.pop("creation_date") > 1_700_000_000_000
    assert told == {
        "parameters": None, "result": None, "error": None, "id": first, "status": "PENDING", "start_date": None,
        "duration": None, "organisation_id": "12", "user_id": None, "cancel_status": None, "debug": None,
        "is_retryable": False, "permalink_uri": f"datamarts/12/document_imports/{made}/executions/{first}",
        "num_tasks": None, "completed_tasks": None, "erroneous_tasks": None, "retry_count": 0,
        "job_type": "DOCUMENT_IMPORT", "import_mode": "MANUAL_FILE", "import_type": None,
    }  # fmt: skip
    page = here.call("GET", f"/{made}/executions?first_result=0&max_results=10").get_json()
    assert [one["id"] for one in page["data"]] == [second, first]
    assert page["total"] == 2


def test_tokens_are_taken_bare_and_behind_api_and_others_are_401(here):
    other = here.created("--client", "13")
    assert here.call("GET", "", key=f"api:{here.key}").status_code == 200
    for key in ("", "wrong", f"Bearer {here.key}", other):
        answer = here.call("GET", "", key=key)
        assert (answer.status_code, answer.content_type) == (401, "application/json")
        assert answer.get_json()["status"] == "error"
        assert set(answer.get_json()) == {"status", "error", "error_id"}
    made = here.make()
    answer = here.web.get(f"/v1/datamarts/13/document_imports/{made}", headers={"Authorization": other})
    assert answer.status_code == 404, "another's import is none"


BAD_IMPORTS = {
    "an unknown type": {"document_type": "USER"},
    "an unknown mime type": {"mime_type": "application/json"},
    "CSV of profiles": {"mime_type": "TEXT_CSV"},
    "another encoding": {"encoding": "utf-16"},
    "no name": {"name": ""},
    "an unknown priority": {"priority": "URGENT"},
}


@pytest.mark.parametrize("what", BAD_IMPORTS)
def test_an_import_that_cannot_be_is_400_in_the_vendors_envelope(here, what):
    usual = {
        "document_type": "USER_PROFILE",
        "mime_type": "APPLICATION_X_NDJSON",
        "encoding": "utf-8",
        "name": "n",
    }
    answer = here.call("POST", "", usual | BAD_IMPORTS[what])
    assert answer.status_code == 400
    assert next(iter(BAD_IMPORTS[what])) in answer.get_json()["error"]


@pytest.mark.parametrize("kind", [CSV, "application/json", "application/x-ndjson; charset=latin-1", ""])
def test_the_content_type_must_match_and_nothing_is_kept_of_what_does_not(here, kind):
    made = here.make()
    answer = here.call("POST", f"/{made}/executions", lines(profile(1)), kind=kind or "x/y")
    assert answer.status_code == 400
    assert "Content-Type" in answer.get_json()["error"]
    assert here.call("GET", f"/{made}/executions").get_json()["total"] == 0
    here.well()


def form(file: bytes, file_type: str, **fields: str) -> dict[str, Any]:
    return {**fields, "file": (io.BytesIO(file), "mine.ndjson", file_type)}


@pytest.mark.parametrize(
    ("file_type", "fields", "status"),
    [
        (NDJSON, {}, 200),
        ("application/octet-stream", {"type": NDJSON}, 200),
        (NDJSON, {"type": CSV}, 400),
        (CSV, {}, 400),
    ],
)
def test_a_form_as_the_vendors_page_sends_it_is_taken_by_its_type(here, file_type, fields, status):
    made = here.make()
    path = f"/v1/datamarts/12/document_imports/{made}/executions"
    document = lines(*(profile(n, text="x" * 900) for n in range(300)))
    body = form(document, file_type, **fields)
    answer = here.web.post(path, data=body, headers={"Authorization": here.key})
    assert answer.status_code == status, answer.text
    if status == 200:
        execution = answer.get_json()["data"]["id"]
        here.work(execution)
        told = here.told(made, execution)
        assert (told["num_tasks"], told["result"]["input_file_name"]) == (300, "mine.ndjson")
        assert len(here.rows("user_profiles", "user_id")) == 300
    here.well()


def test_a_bomb_in_a_form_is_never_blown_up(here):
    """As a zip file in the form, or as a form that is compressed as a whole."""
    made = here.make()
    path = f"/v1/datamarts/12/document_imports/{made}/executions"
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("mine.ndjson", b" " * 200_000_000)
    answer = here.web.post(path, data=form(bomb.getvalue(), NDJSON), headers={"Authorization": here.key})
    assert answer.status_code == 200, answer.text
    execution = answer.get_json()["data"]["id"]
    here.work(execution)
    told = here.told(made, execution)
    assert (told["status"], told["completed_tasks"]) == ("FAILED", 0)
    assert "zip" in told["error"]["message"]
    headers = {"Authorization": here.key, "Content-Encoding": "gzip"}
    answer = here.web.post(path, data=form(gzip.compress(b" " * 200_000_000), NDJSON), headers=headers)
    assert (answer.status_code, answer.get_json()["status"]) == (415, "error")
    here.well()


def test_pretty_printed_and_concatenated_commands_are_taken(here):
    made = here.make()
    document = json.dumps(profile(1), indent=2).encode() + b"\n" + json.dumps(profile(2)).encode() * 2
    document += json.dumps(profile(3), indent=0).encode()
    told = here.run_through(made, document)
    assert (told["completed_tasks"], told["erroneous_tasks"]) == (4, 0)
    assert len(here.rows("user_profiles", "user_id")) == 3


def test_bad_lines_stand_in_the_error_file_and_the_rest_is_stored(here):
    made = here.make()
    told = here.run_through(
        made,
        lines(
            profile(1), b'{"operation": nope}', {"operation": "UPSERT"}, profile(2),
            profile(3, update_strategy="PARTIAL_UPDATE"), b"[1]", profile(4, email_hash="x"), b'{"a":"\xff"}',
        ),
    )  # fmt: skip
    assert (told["status"], told["completed_tasks"], told["erroneous_tasks"]) == ("SUCCEEDED", 2, 6)
    assert told["result"]["total_failure"] == 6
    found = here.errors(told)
    assert [one["line"] for one in found] == [2, 3, 5, 6, 7, 8]
    assert all(one["error"] for one in found)
    assert found[0]["input"] == '{"operation": nope}'
    assert "whole" in found[2]["error"]
    assert len(here.rows("user_profiles", "user_id")) == 2
    uri = told["result"]["error_file_uri"]
    assert here.call("GET", f"/v1/data_file/data?uri={uri}&access_token=wrong").status_code == 401
    assert here.call("GET", f"/v1/data_file/data?uri=x&access_token={here.key}").status_code == 404
    here.well()


def test_what_a_rule_redacts_and_card_numbers_are_in_no_error_file(here):
    made = here.make()
    card = b'{"operation": "UPSERT", "note": "card 4111 1111 1111 1111 please"}'
    told = here.run_through(made, lines(card))
    assert "4111 1111" not in here.errors(told)[0]["input"]
    here.write(tables={"user_profiles": {"drop": ["phone"]}}, redaction_key="a long enough one")
    told = here.run_through(made, lines({"phone": "555"}, profile(1, phone="555")))
    assert here.errors(told)[0]["input"] is None
    assert "phone" not in [
        c[1] for c in here.rows("user_profiles", "user_id") and here.sql("PRAGMA table_info(user_profiles)")
    ]


def test_a_document_under_rules_waits_sealed_and_is_refused_where_there_is_no_key_to_seal_it(here):
    """Its rows do not exist yet, so that no rule can be applied to them."""
    made, planted = here.make(), "planted-4711-value"
    rules = {"user_profiles": {"drop": ["phone"]}}
    here.write(tables=rules)
    refused = here.call("POST", f"/{made}/executions", lines(profile(1, phone=planted)), kind=NDJSON)
    assert (refused.status_code, refused.get_json()["status"]) == (503, "error")
    here.write(tables=rules, redaction_key="one")
    execution = here.send(made, lines(profile(1, phone=planted)))
    (chunk,) = here.client.hvals(f"rh:execution:{execution}:chunks")
    assert chunk.startswith(b"sealed1:")
    for key in ({"redaction_key": "another"}, {}):
        here.write(tables=rules, **key)
        here.work(execution)
        assert here.told(made, execution)["status"] in {"PENDING", "RUNNING"}, "it waits for the key it has"
    here.write(tables=rules, redaction_key="one")
    here.work(execution)
    assert here.told(made, execution)["status"] == "SUCCEEDED"
    here.well()
    for key in here.client.scan_iter("*"):
        assert planted.encode() not in (here.client.dump(key) or b"")
    assert all(planted.encode() not in Codec().unpack(blob).raw for blob in here.client.hvals(keys.EVENTS))


def test_rows_are_deleted_and_segments_come_as_csv(here):
    made = here.make("USER_SEGMENT", "TEXT_CSV")
    head = b"\xef\xbb\xbfoperation,email_hash,segment_id,expiration_duration,data_bag\r\n"
    told = here.run_through(
        made,
        head
        + b'UPDATE,aa,7,60,"{""n"": 1}"\r\nUPDATE,bb,7,0,\r\n\r\n'
        + b'UPDATE,cc,7\r\nUPDATE,dd,7,soon,\r\n"UPDATE,ee,7,0,\r\n',
        CSV,
    )
    assert (told["status"], told["completed_tasks"], told["erroneous_tasks"]) == ("SUCCEEDED", 2, 3)
    assert [one["line"] for one in here.errors(told)] == [5, 6, 7]
    here.run_through(made, head + b"DELETE,bb,7,,\n", CSV)
    rows = here.rows("user_segments", "user_id, segment, expiration_duration, data_bag, _relay_deleted_at IS NULL")
    assert rows == [("email:aa", "id:7", 60, '{"n":1}', 1), ("email:bb", "id:7", 0, None, 0)]


def test_activities_are_added_each_one_and_once_however_often_their_document_is_worked_on(here, monkeypatch):
    made = here.make("USER_ACTIVITY")
    activity = {
        "$email_hash": {"$email": "a@example.com"},
        "$type": "TOUCH",
        "$ts": 1605262037783,
        "$events": [{}],
    }
    execution = here.send(made, lines(*[activity] * 3))
    real = Documents.note

    def dies(*args: Any, **more: Any) -> int:
        monkeypatch.setattr(Documents, "note", real)
        raise RuntimeError("as if killed between the put and the note")

    monkeypatch.setattr(Documents, "note", dies)
    with pytest.raises(RuntimeError):
        here.work(execution)
    assert here.told(made, execution)["completed_tasks"] == 0
    here.client.hset(keys.execution(int(execution)), "until", 0)  # its lease ends
    here.work(execution)
    assert here.told(made, execution)["completed_tasks"] == 3
    assert (
        here.rows("user_activities", "type, ts, user_id") == [("TOUCH", 1605262037783, "email:a@example.com")] * 3
    )
    events = ledger.read(here.client).events["client:12"]
    assert events == {"accepted": 2, "mapped": 1, "duplicate": 1}
    here.well()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("PATCH", "", 405), ("GET", "/1/2/3", 404), ("GET", "/x", 404)]
)
def test_every_other_answer_is_in_the_vendors_envelope(here, method, path, status):
    answer = here.call(method, path)
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert answer.get_json()["status"] == "error"


def test_the_later_document_wins_whichever_is_worked_on_first(here):
    made = here.make()
    old, new = (here.send(made, lines(*(profile(1, v=v) for v in vs))) for vs in (("a", "b"), ("c", "d")))
    here.work(new)
    here.work(old)
    assert here.rows("user_profiles", "user_id, v") == [("account::1", "d")]


def test_a_deletion_within_a_document_holds_only_until_a_later_line(here):
    made = here.make()
    gone = {"operation": "DELETE", "user_account_id": "1"}
    here.run_through(
        made, lines(profile(1), gone, profile(1, v="again"), profile(2), gone | {"user_account_id": "2"})
    )
    rows = here.rows("user_profiles", "user_id, v, _relay_deleted_at IS NULL")
    assert rows == [("account::1", "again", 1), ("account::2", None, 0)]


def test_what_waits_is_canceled_at_once_and_its_chunks_are_gone(here):
    made = here.make()
    execution = here.send(made, lines(profile(1)))
    answer = here.call("POST", f"/{made}/executions/{execution}/action", {"action": "CANCEL"})
    assert answer.get_json()["data"]["status"] == "CANCELED"
    assert here.call("POST", f"/{made}/executions/{execution}/action", {"action": "RETRY"}).status_code == 400
    here.work(execution)
    assert here.told(made, execution)["status"] == "CANCELED"
    assert here.client.hlen(keys.EVENTS) == 0
    here.well()


def test_what_runs_is_canceled_between_two_pieces(here, monkeypatch):
    made = here.make()
    execution = here.send(made, lines(*(profile(n) for n in range(expanding.PIECE * 3))))
    real = expanding.Expansion._put

    def put_and_cancel(self: Any, piece: Any) -> None:
        answer = here.call("POST", f"/{made}/executions/{execution}/action", {"action": "CANCEL"})
        assert (answer.get_json()["data"]["status"], answer.get_json()["data"]["cancel_status"]) == (
            "RUNNING", "REQUESTED",
        )  # fmt: skip
        real(self, piece)

    monkeypatch.setattr(expanding.Expansion, "_put", put_and_cancel)
    here.work(execution)
    told = here.told(made, execution)
    assert (told["status"], told["completed_tasks"]) == ("CANCELED", expanding.PIECE)
    assert len(here.rows("user_profiles", "user_id")) == expanding.PIECE
    here.well()


def test_an_import_is_deleted_with_all_that_waits(here):
    made = here.make()
    done = here.run_through(made, lines(b"bad"))
    execution = here.send(made, lines(profile(1)))
    assert here.call("DELETE", f"/{made}").status_code == 200
    here.work(execution)
    assert here.client.hlen(keys.EVENTS) == 0
    assert list(here.client.scan_iter("rh:execution*")) == []
    uri = done["result"]["error_file_uri"]
    assert here.call("GET", f"/v1/data_file/data?uri={uri}&access_token={here.key}").status_code == 404
    here.well()


def test_without_room_a_document_is_503_and_nothing_of_it_is_left(here):
    noise = b"".join(json.dumps(profile(n, v=os.urandom(60).hex())).encode() + b"\n" for n in range(20_000))
    made = here.make()
    here.write(max_pending_bytes=1_500_000)
    answer = here.call("POST", f"/{made}/executions", noise, kind=NDJSON)
    assert (answer.status_code, answer.get_json()["status"]) == (503, "error")
    assert int(answer.headers["Retry-After"]) > 0
    assert list(here.client.scan_iter("rh:execution:*")) == []
    here.well()


def test_a_document_that_breaks_off_leaves_nothing(here):
    made = here.make()
    path = f"/v1/datamarts/12/document_imports/{made}/executions"
    headers = {"Authorization": here.key, "Content-Type": NDJSON}
    announced = {"CONTENT_LENGTH": "5000"}
    answer = here.web.post(path, data=lines(profile(1)), headers=headers, environ_overrides=announced)
    assert answer.status_code == 400
    assert list(here.client.scan_iter("rh:execution:*")) == []


def test_an_upload_of_a_web_process_that_died_is_swept(here):
    store = Documents(here.client)
    made = store.find(12, int(here.make()))
    run = store.upload(made)
    store.store(run, 0, b"x" * 100, Bounds())
    assert store.due() == []
    assert int(here.client.hget(keys.BYTES, "*")) > 0
    here.client.zadd(keys.DOCUMENTS_UPLOADS, {str(run.id): 1})
    assert store.due() == []
    assert list(here.client.scan_iter("rh:execution:*")) == []
    with pytest.raises(documents.BufferUnavailable):
        store.store(run, 1, b"x", Bounds())
    assert not store.commit(run, 101, 1)
    here.well()


def test_over_a_hundred_megabytes_is_413_before_anything_is_read(here):
    made = here.make()
    path = f"/v1/datamarts/12/document_imports/{made}/executions"
    headers = {"Authorization": here.key, "Content-Type": NDJSON}
    announced = {"CONTENT_LENGTH": str(100 * 1024 * 1024 + 1)}
    answer = here.web.post(path, data=b"", headers=headers, environ_overrides=announced)
    assert (answer.status_code, answer.get_json()["status"]) == (413, "error")
    told = here.call("PUT", f"/{made}", b'{"name": "%s"}' % (b"x" * 70_000))
    assert (told.status_code, told.get_json()["error"]) == (413, "70012 bytes are over the limit of 65536")


@pytest.mark.parametrize("document", [b"[{}]", b"\xff\xfe{\x00}\x00", b"\x1f\x8b\x08"])
def test_a_document_that_is_something_else_fails_with_words(here, document):
    told = here.run_through(here.make(), document)
    assert told["status"] == "FAILED"
    assert told["error"]["message"]
    here.well()


def test_an_empty_document_succeeds_with_nothing(here):
    told = here.run_through(here.make(), b"")
    assert (told["status"], told["num_tasks"]) == ("SUCCEEDED", 0)
    here.well()


def test_what_was_acknowledged_is_stored_though_the_key_is_revoked(here):
    made = here.make()
    execution = here.send(made, lines(profile(1)))
    here.run("keys", "revoke", id_of(here.key)[:10])
    here.work(execution)
    assert len(here.rows("user_profiles", "user_id")) == 1


def test_a_key_for_other_tables_sends_no_documents(here):
    narrow = here.created("--client", "12", "--table", "kiosks")
    told = {"document_type": "USER_PROFILE", "mime_type": "APPLICATION_X_NDJSON", "encoding": "utf-8", "name": "n"}
    assert here.call("POST", "", told, key=narrow).status_code == 401
    made = here.make()
    answer = here.call("POST", f"/{made}/executions", lines(profile(1)), kind=NDJSON, key=narrow)
    assert answer.status_code == 401
    failed = here.run_through(made, lines(b"bad"))
    execution = here.send(made, lines(profile(1)))
    uri = failed["result"]["error_file_uri"]
    assert here.call("GET", f"/v1/data_file/data?uri={uri}&access_token={narrow}").status_code == 401
    action = {"action": "CANCEL"}
    assert here.call("POST", f"/{made}/executions/{execution}/action", action, key=narrow).status_code == 401
    assert here.call("PUT", f"/{made}", {"name": "theirs"}, key=narrow).status_code == 401
    assert here.call("DELETE", f"/{made}", key=narrow).status_code == 401
    assert here.told(made, execution)["status"] == "PENDING"


def test_a_table_that_is_known_by_another_key_is_not_written(here):
    assert here.push({"keys": ["id"], "id": 1}, "user_profiles").status_code == 201
    answer = here.call("POST", f"/{here.make()}/executions", lines(profile(1)), kind=NDJSON)
    assert answer.status_code == 400
    assert "known by id" in answer.get_json()["error"]


def test_while_the_buffer_is_full_a_document_waits_and_then_goes_on(here):
    made = here.make()
    execution = here.send(made, lines(*(profile(n) for n in range(10))))
    before = dict(here.settings)
    here.write(max_pending_bytes=1)
    here.work(execution)
    told = here.told(made, execution)
    assert (told["status"], told["completed_tasks"]) == ("RUNNING", 0)
    here.settings = before
    here.write(max_pending_bytes=0)
    here.work(execution)
    assert here.told(made, execution)["status"] == "SUCCEEDED"
    assert len(here.rows("user_profiles", "user_id")) == 10
    here.well()


def test_an_execution_that_never_gets_on_fails_in_the_end(here, monkeypatch):
    made = here.make()
    execution = here.send(made, lines(profile(1)))

    def dies(*_: Any) -> None:
        raise RuntimeError("as if killed")

    monkeypatch.setattr(expanding.Expansion, "work", dies)
    for _ in range(expanding.MOST_TRIES):
        with pytest.raises(RuntimeError):
            here.work(execution)
        Documents(here.client).free(int(execution), f"job-{here.jobs}")  # as a worker does whose horse was killed
    here.work(execution)
    assert here.told(made, execution)["status"] == "FAILED"
    here.well()


def test_rowhooks_own_client_of_the_api_finds_sends_and_reads_its_errors_as_from_the_vendor(here):
    """Over a socket, in a form, by another thread: what `kind: mediarithmics` does at a destination."""
    server = make_server("127.0.0.1", 0, here.web.application, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        api = Api(f"http://127.0.0.1:{server.port}/v1", 12, SecretStr(here.key), 10.0, None)
        made = api.import_of("mine", "USER_PROFILE")
        assert api.import_of("mine", "USER_PROFILE") == made
        run = api.send(made, "rows-1.ndjson", [json.dumps(profile(1)).encode(), b"{nope}"])
        here.work(run.id)
        run = api.end_of(made, run, 10)
        assert run.done
        assert [one.id for one in api.executions(made)] == [run.id]
        assert [(line, text) for line, text, _ in api.refused(run)] == [(2, b"{nope}")]
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    assert here.rows("user_profiles", "user_id") == [("account::1",)]


# --- under real workers -------------------------------------------------------------------------------


def until(what: Callable[[], object], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def crew(here: Datamart) -> Iterator[psutil.Process]:
    """`python -m worker` with one RQ worker."""
    here.write(workers=1)
    env = {**os.environ, "RELAY_CONFIG": str(here.path), "RELAY_DATA": str(here.folder)}
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=env)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def test_a_killed_horse_loses_nothing_and_counts_nothing_twice(here, crew):
    """Its job is killed twice, wherever it is just then."""
    made = here.make("USER_ACTIVITY")
    total = 20_000
    document = lines(*({"$user_account_id": str(n), "$ts": n} for n in range(total)))
    execution = here.send(made, document)
    struck = 0
    for least in (1, total // 3):
        until(lambda least=least: (here.told(made, execution)["completed_tasks"] or 0) >= least)
        horse = until_found(here, crew, int(execution))
        if horse is None:
            break
        horse.send_signal(signal.SIGKILL)
        struck += 1
    until(lambda: here.told(made, execution)["status"] == "SUCCEEDED")
    told = here.told(made, execution)
    assert struck
    assert (told["completed_tasks"], told["erroneous_tasks"]) == (total, 0)
    until(lambda: not ledger.read(here.client).records[("client:12", "warehouse", "user_activities")]["pending"])
    assert here.sql("SELECT count(*), count(DISTINCT user_account_id) FROM user_activities") == [(total, total)]
    until(lambda: here.client.hlen(keys.EVENTS) == 0)
    here.well()


def until_found(here: Datamart, crew: psutil.Process, execution: int) -> psutil.Process | None:
    """The horse that works on an execution; None where it is over."""
    found: list[psutil.Process] = []

    def look() -> bool:
        run = Documents(here.client).execution(execution)
        if run is None or not run.open:
            return True
        for worker in crew.children():
            found[:] = worker.children() if run.token.startswith("expand-") and run.until else []
            if found:
                return True
        return False

    until(look)
    return found[0] if found else None
