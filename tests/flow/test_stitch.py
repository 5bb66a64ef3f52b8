"""The Stitch Import API as it is served: what may be pushed, what is answered, and what becomes of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from relay.buffer import keys, ledger
from relay.buffer.registry import id_of
from tests.flow.test_history import Here
from tests.flow.test_imports import Served

TYPE = "Application/json"
SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "age": {"type": ["null", "number"]},
        "at": {"type": "string", "format": "date-time"},
    },
}


class Stitch(Served):
    """A relay with a client of its Stitch API."""

    def send(self, path: str, body: Any, *, key: str | None = None, kind: str = "application/json", **more: str):
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", "Content-Type": kind, **more}
        return self.web.post(f"/v2/import/{path}", data=data, headers=headers)

    def stored(self, table: str, columns: str) -> list[tuple[Any, ...]]:
        return [tuple(map(str, row)) for row in self.rows(table, columns)]


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Stitch:
    return Stitch(redis_url, tmp_path)


def record(n: Any, sequence: Any = 1, **more: Any) -> dict[str, Any]:
    data = {"id": n, **more}
    return {
        "client_id": 12,
        "table_name": "people",
        "sequence": sequence,
        "action": "upsert",
        "key_names": ["id"],
        "data": data,
    }


def batch(*rows: dict[str, Any], sequence: int = 1, **more: Any) -> dict[str, Any]:
    messages = [{"action": "upsert", "sequence": sequence + at, "data": row} for at, row in enumerate(rows)]
    return {"table_name": "people", "schema": SCHEMA, "key_names": ["id"], "messages": messages, **more}


def said(answer: Any) -> Any:
    assert answer.content_type == TYPE
    return answer.get_json(force=True)


# --- push ---------------------------------------------------------------------------------------------


def test_the_status_needs_no_token(here):
    answer = here.web.get("/v2/import/status")
    assert answer.status_code == 200
    assert said(answer) | {"version": ""} == {
        "name": "pipeline.gate",
        "version": "",
        "revision": "rowhook",
        "status": "OK",
        "reason": None,
    }


def test_a_push_of_several_tables_becomes_rows(here):
    answer = here.send(
        "push", [record(1, v="a"), record(2, v="b"), {**record(7, v="c"), "table_name": "public-pets"}]
    )
    assert (answer.status_code, said(answer)) == (201, {"status": "OK", "message": "Batch Accepted!"})
    assert here.stored("people", "id, v, _sdc_sequence") == [("1", "a", "1"), ("2", "b", "1")]
    assert here.stored("public_pets", "id, v") == [("7", "c")]
    assert ledger.audit(here.client, deep=True) == []


def test_the_greatest_sequence_of_a_key_wins_within_a_request_and_across_them(here):
    here.send("push", [record(1, 5, v="5"), record(1, 9, v="9"), record(1, 7, v="7")])
    assert here.stored("people", "v") == [("9",)]
    here.send("push", [record(1, 8, v="8")])
    assert here.stored("people", "v") == [("9",)]
    here.send("push", [record(1, 9, v="9 again")])
    assert here.stored("people", "v") == [("9 again",)]
    here.send("push", [record(1, 2**63 - 1, v="last"), record(2, 0, v="first")])
    assert here.stored("people", "v, _sdc_sequence") == [("first", "0"), ("last", str(2**63 - 1))]


def test_a_large_push_becomes_several_events_and_the_greatest_sequence_wins_across_them(here):
    many = [record(n % 1_500, 10_000 - n, v=n) for n in range(3_000)]
    assert here.send("push", many).status_code == 201
    assert here.client.hlen(keys.EVENTS) == 6
    assert {int(v) for (v,) in here.rows("people", "v")} == set(range(1_500))
    assert ledger.audit(here.client, deep=True) == []


def test_transit_is_read_without_loss(here):
    body = (
        '[["^ ","action","upsert","sequence",1,"data",["^ ","id",1,"exact","~f19.990",'
        '"big","~n1180591620717411303424","at","~m1767323045678","escaped","~~x","tags",["~#set",["~:a"]]],"key_names",["id"],"client_id",12,'
        '"table_name","people"],["^ ","^0","upsert","^1",2,"^2",["^ ","id",2,"^3","~f1.5"],"^7",["id"],"^8",12,'
        '"^9","people"]]'
    )
    assert here.send("push", body.encode(), kind="application/transit+json").status_code == 201
    columns = "id, exact, big, at, escaped, tags"
    at = "2026-01-02T03:04:05.678000Z"
    assert here.stored("people", columns) == [
        ("1", "19.990", "1180591620717411303424", at, "~x", '["a"]'),
        ("2", "1.5", "None", "None", "None", "None"),
    ]


FAULTS: dict[str, tuple[Any, Any]] = {
    "data": ("x", ["data must be an object"]),
    "data without its key": ({"v": 1}, ["data must include keys"]),
    "data with a null key": ({"id": None}, ["keys cannot not be null in data"]),
    "data with a nested key": ({"id": [1]}, ["keys must be top-level fields in data"]),
    "data with a long key": ({"id": "x" * 1025}, ["String keys cannot be longer than 1024 characters"]),
    "key_names": ([], ["can't be blank"]),
    "key_names that are missing": (None, ["can't be blank"]),
    "sequence": ("1", ["should be an integer", "should be a number"]),
    "sequence over the most": (2**63, ["should be from 0 to 9223372036854775807"]),
    "sequence below none": (-1, ["should be from 0 to 9223372036854775807"]),
    "action": ("delete", ["should be upsert"]),
    "table_name": (" ", ["can't be blank"]),
}


@pytest.mark.parametrize("path", ["push", "validate"])
@pytest.mark.parametrize("what", FAULTS)
def test_a_record_that_cannot_be_processed_is_422_in_the_documents_words(here, what, path):
    name = what.split()[0]
    value, words = FAULTS[what]
    answer = here.send(path, [record(1), {**record(2), name: value}])
    assert answer.status_code == 422
    assert said(answer) == {
        "status": "ERROR",
        "error": "Request cannot be processed; see errors.",
        "errors": [{"reason": {name: words}}],
    }
    assert here.client.hlen(keys.EVENTS) == 0


def test_what_is_no_push_is_refused_as_the_documents_say(here):
    array = {"status": "ERROR", "message": "An array of records is expected"}
    for body in (record(1), [], "x"):
        answer = here.send("push", body)
        assert (answer.status_code, said(answer)) == (400, array)
    answer = here.send("push", b'[{"client_id": 12')
    assert answer.status_code == 400
    assert said(answer) | {"error": ""} == {
        "status": "ERROR",
        "message": "Malformed json in the body!",
        "error": "",
        "input": None,
    }
    assert here.send("push", [record(n) for n in range(20_001)]).status_code == 400
    answer = here.send("push", b"a,b", kind="text/csv")
    assert answer.status_code == 415
    assert said(answer)["message"] == (
        "Unsupported content-type text/csv. Please send application/json or application/transit+json"
    )
    answer = here.send("push", b"[" + b" " * (20 * 1024 * 1024) + b"]")
    size = 20 * 1024 * 1024 + 2
    assert answer.status_code == 413
    assert said(answer)["message"] == f"Request rejected: request size ({size}s bytes) exceeds the maximum"
    assert here.send("push", b'["^0"]', kind="application/transit+json").status_code == 400
    answer = here.web.get("/v2/import/push")
    assert (answer.status_code, answer.text) == (405, "Method not allowed.")
    assert here.web.post("/v2/import/nothing").status_code == 404


def test_tokens_and_clients_that_do_not_fit_are_refused(here):
    other = here.created("--client", "13")
    export = here.run("keys", "create", "--kind", "export", "--client", "12").stdout.splitlines()[0]
    nobody = {"status": "ERROR", "error": "Not Authenticated.", "errors": None}
    foreign = {"error": "Access token is not associated with this client."}
    for path in ("push", "validate"):
        for key in ("", "wrong", export):
            answer = here.send(path, [record(1)], key=key)
            assert (answer.status_code, said(answer)) == (401, nobody)
        without = {name: value for name, value in record(1).items() if name != "client_id"}
        answer = here.send(path, [without])
        assert (answer.status_code, said(answer)) == (401, nobody)
        answer = here.send(path, [record(1)], key=other)
        assert (answer.status_code, said(answer)) == (
            403,
            {"status": "ERROR", "error": "Forbidden", "errors": foreign},
        )
        answer = here.send(path, [record(1), {**record(2), "client_id": 13}])
        assert answer.status_code == 422
        assert "Only client_id 12 is allowed" in said(answer)["errors"][0]["reason"]
    answer = here.send("batch", batch({"id": 1}), key="wrong")
    assert (answer.status_code, said(answer)) == (401, {"message": "Not Authorized"})
    assert here.client.hlen(keys.EVENTS) == 0


def test_a_revoked_token_opens_nothing_at_once_and_one_for_a_table_writes_only_that(here):
    narrow = here.created("--client", "12", "--table", "people")
    bad = {**record(1), "data": {"id": 1, "_relay_version": 1}}
    assert here.send("push", [record(1), bad], key=narrow).status_code == 201
    assert here.send("push", [{**record(1), "table_name": "pets"}], key=narrow).status_code == 401
    assert here.send("push", [record(1)]).status_code == 201
    here.run("keys", "revoke", id_of(here.key)[:10])
    assert here.send("push", [record(2)]).status_code == 401


def test_validate_says_what_a_push_would_and_stores_nothing(here):
    answer = here.send("validate", [record(1)])
    assert (answer.status_code, said(answer)) == (200, {"status": "OK", "message": "Batch is valid!"})
    assert here.client.hlen(keys.EVENTS) == 0


def test_a_record_that_no_table_can_hold_is_kept_with_the_reason_and_holds_up_nothing(here):
    odd = {"id": 3, "_relay_version": "x", "note": "4111 1111 1111 1111 is a card"}
    wide = {"id": 4, "deep": [[n] for n in range(10_001)]}
    pushed = [record(1, v="a"), {**record(2), "data": odd}, {**record(4), "data": wide}]
    assert here.send("push", pushed).status_code == 201
    assert here.stored("people", "id, v") == [("1", "a")]
    [first, second] = sorted(here.rows("_sdc_rejected", "reason, table_name, record, _sdc_rejected_at"))
    assert first[0] == "10002 data points, over the limit of 10000"
    assert second[:2] == ("a field cannot be called '_relay_version'", "people")
    assert json.loads(second[2])["_relay_version"] == "x"
    assert "4111" not in second[2]
    assert second[3].startswith("20")
    assert ledger.audit(here.client, deep=True) == []


def test_a_rejected_record_is_redacted_like_its_row(redis_url, tmp_path):
    here = Stitch(redis_url, tmp_path, tables={"people": {"drop": ["phone"]}})
    here.send("push", [{**record(1), "data": {"id": 1, "phone": "0123456", "_relay_x": 1}}])
    assert here.rows("_sdc_rejected", "record") == [('{"id":1,"_relay_x":1}',)]
    assert b"0123456" not in (here.folder / "events.db").read_bytes()


# --- batch --------------------------------------------------------------------------------------------


def test_a_batch_becomes_typed_rows(here):
    rows = ({"id": 1, "age": 41.50, "at": "2026-01-02T03:04:05+02:00"}, {"id": 2, "age": None, "more": {"a": 1}})
    answer = here.send("batch", batch(*rows, bookmark_names=["at"]))
    assert (answer.status_code, said(answer)) == (201, {"status": "OK", "message": "Batch Accepted!"})
    assert here.stored("people", "id, age, at, more, _sdc_sequence") == [
        ("1", "41.5", "2026-01-02T01:04:05.000000Z", "None", "1"),
        ("2", "None", "None", '{"a":1}', "2"),
    ]
    columns = dict(here.sql("SELECT name, type FROM pragma_table_info('people')"))
    assert columns["id"] == columns["_sdc_sequence"] != columns["at"]


def test_a_batch_without_key_names_only_appends(here):
    for _ in range(2):
        rows = ({"id": 1}, {"id": 1, "_row_id": None})
        assert here.send("batch", batch(*rows, key_names=[])).status_code == 201
    assert [row[1:] for row in here.stored("people", "_row_id, id")] == [("1",)] * 4


REFUSED: dict[str, tuple[Any, str]] = {
    "an array": ([], "Request failed validation:#: expected type: JSONObject, found: JSONArray"),
    "no messages": (
        {"table_name": "people", "schema": SCHEMA},
        "Request failed validation:#: required key [messages] not found",
    ),
    "an illegal argument": (
        batch({"id": 1}, x=1),
        "Request failed validation:#: extraneous key [x] is not permitted",
    ),
    "a schema that is an array": (
        batch({"id": 1}, schema=[]),
        "Request failed validation:#/schema: expected type: JSONObject, found: JSONArray",
    ),
    "a sequence over the most": (
        batch({"id": 1}, sequence=2**63),
        "Request failed validation:#: sequence can not be above 9223372036854775807",
    ),
    "a message without data": (
        batch(messages=[{"action": "upsert", "sequence": 1}]),
        "Request failed validation:#/messages/0: required key [data] not found",
    ),
    "an unknown type": (
        batch({"id": 1}, schema={"properties": {"id": {"type": "x"}}}),
        "Invalid JSON schema: unknown type: [x]",
    ),
    "a record that does not fit": (
        batch({"id": 1}, {"id": 2, "age": "old"}),
        "Record 1 did not conform to schema: #/age: expected: Null, Number, found: String",
    ),
    "a moment that is none": (
        batch({"id": 1, "at": "yesterday"}),
        "Record 0 did not conform to schema: #/at: fails format",
    ),
    "a record without its key": (batch({"age": 1}), "Record is missing key property id"),
    "a record with a null key": (batch({"id": None}), "Record is missing key property id"),
    "a schema of too many columns": (
        batch({"id": 1}, schema={"properties": {f"c{n}": {} for n in range(1_601)}}),
        "Invalid JSON schema: over 1600 properties",
    ),
    "a reference to elsewhere": (
        batch({"id": 1}, schema={"properties": {"id": {"$ref": "http://127.0.0.1:9/x"}}}),
        "Record 0 did not conform to schema: #: the schema's references lead nowhere",
    ),
    "a schema without an end": (
        batch({"id": 1}, schema={"$ref": "#"}),
        "Record 0 did not conform to schema: #: the schema's references lead nowhere",
    ),
    "too many digits": (
        b"".join(
            (
                b'{"table_name":"people","schema":{"properties":{"n":{"multipleOf":1e-30}}},"messages":',
                b'[{"action":"upsert","sequence":1,"data":{"n":1e99999}}]}',
            )
        ),
        "Record 0 did not conform to schema: #: a number with too many digits",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_batch_that_is_wrong_is_400_in_the_documents_words_and_nothing_of_it_is_stored(here, what):
    body, words = REFUSED[what]
    answer = here.send("batch", body)
    assert (answer.status_code, said(answer)) == (400, {"error": words})
    assert here.client.hlen(keys.EVENTS) == 0


def test_a_batch_takes_json_alone_and_at_most_20_megabytes(here):
    answer = here.send("batch", b"[]", kind="application/transit+json")
    assert (answer.status_code, answer.text) == (415, "Content-Type must be application/json")
    big = batch({"id": 1, "v": "x" * (20 * 1024 * 1024 - 1_000)})
    assert here.send("batch", big).status_code == 201
    assert here.send("batch", big | {"key_names": ["id"] * 1 + ["y" * 2_000]}).status_code == 413


def test_patterns_are_not_run_and_exact_multiples_are(here):
    schema = {
        "properties": {"v": {"pattern": "(a+)+$"}, "n": {"multipleOf": 0.01}},
        "patternProperties": {"(a+)+$": {}},
    }
    assert here.send("batch", batch({"id": 1, "v": "a" * 64 + "!", "n": 0.07}, schema=schema)).status_code == 201
    assert here.send("batch", batch({"id": 1, "n": 0.071}, schema=schema)).status_code == 400


ACTIVE = {"action": "activate_version", "sequence": 9}
STATE = "id, _sdc_table_version, _relay_deleted_at IS NULL"


def activated(version: int, *rows: dict[str, Any], sequence: int = 5) -> dict[str, Any]:
    """Rows of a version of the whole table, which is then the active one."""
    made = batch(*rows, sequence=sequence, table_version=version)
    return {**made, "messages": [*made["messages"], ACTIVE]}


def test_an_activated_version_deletes_the_rows_that_only_older_ones_had(here):
    assert here.send("batch", batch({"id": 1}, {"id": 2}, table_version=100)).status_code == 201
    assert here.stored("people", STATE) == [("1", "100", "1"), ("2", "100", "1")]
    assert here.send("batch", activated(200, {"id": 1})).status_code == 201
    assert here.stored("people", STATE) == [("1", "200", "1"), ("2", "100", "0")]
    assert here.stored("_sdc_table_versions", "table_name, table_version") == [("people", "200")]


def test_a_row_of_a_version_that_is_over_comes_deleted_and_one_of_the_active_one_alive(here):
    """Whatever its sequence, and whenever it comes: a retry, a replay, or another lane."""
    assert here.send("batch", activated(200, {"id": 1}, {"id": 2})).status_code == 201
    here.drain()
    assert here.send("batch", batch({"id": 2}, {"id": 3}, sequence=2**62, table_version=100)).status_code == 201
    assert here.send("batch", batch({"id": 4}, sequence=0, table_version=200)).status_code == 201
    assert here.stored("people", STATE) == [
        ("1", "200", "1"),
        ("2", "200", "1"),
        ("3", "100", "0"),
        ("4", "200", "1"),
    ]
    assert here.send("batch", activated(300)).status_code == 201
    assert [row[2] for row in here.stored("people", STATE)] == ["0", "0", "0", "0"]


def test_an_older_activation_that_comes_late_deletes_nothing_and_all_balances(here):
    assert here.send("batch", activated(300, {"id": 1})).status_code == 201
    assert here.send("batch", activated(200, {"id": 2})).status_code == 201
    assert here.stored("people", STATE) == [("1", "300", "1"), ("2", "200", "0")]
    assert ledger.audit(here.client, deep=True) == []
    audit = here.run("audit", "--deep")
    assert audit.exit_code == 0, audit.output
    replayed = here.run("replay", "--source", "client:12", "--since", "1h", "--dry-run")
    assert replayed.exit_code == 0, replayed.output
    assert replayed.output.startswith("0 inserted, 0 changed, "), replayed.output
    here.sql("DELETE FROM people")
    assert here.run("replay", "--source", "client:12", "--since", "1h").exit_code == 0
    assert here.stored("people", STATE) == [("1", "300", "1"), ("2", "200", "0")]


def test_an_activation_needs_a_version(here):
    active = ACTIVE
    answer = here.send("batch", batch(messages=[active]))
    assert said(answer) == {"error": "Request failed validation:#: required key [table_version] not found"}


# --- the rest -----------------------------------------------------------------------------------------


def test_the_two_apis_of_a_client_write_into_the_same_tables_under_the_same_key(here):
    assert here.push({"keys": ["id"], "id": 1, "v": "a"}, "people").status_code == 201
    answer = here.send("push", [{**record(1), "key_names": ["v"], "data": {"id": 1, "v": "a"}}])
    assert answer.status_code == 422
    assert "known by id" in said(answer)["errors"][0]["reason"]
    answer = here.send("batch", batch({"id": 1, "age": 2}, key_names=["age"]))
    assert answer.status_code == 400
    assert "known by id" in said(answer)["error"]


def test_where_the_buffer_is_full_a_push_is_503_and_can_be_sent_again(here):
    here.write(max_pending_bytes=1)
    answer = here.send("push", [record(1)])
    assert (answer.status_code, said(answer)["status"]) == (503, "ERROR")
    assert int(answer.headers["Retry-After"]) > 0


def test_what_was_pushed_is_replayed(here: Here):
    here.send("push", [record(1, v="a")])
    here.drain()
    here.sql("DELETE FROM people")
    assert here.run("replay", "--source", "client:12", "--since", "1h").exit_code == 0
    assert here.stored("people", "v") == [("a",)]


def test_the_token_is_in_no_log_and_no_event(here, capfd, caplog):
    here.send("push", [record(1)])
    here.send("push", [record(1, "x", secret="0815-4711")])
    here.send("batch", batch({"id": "0815-4711"}))
    here.drain()
    logged = capfd.readouterr()
    text = logged.out + logged.err + caplog.text
    assert here.key not in text
    assert "0815-4711" not in text
    stored = b"".join(filter(None, (here.client.dump(key) for key in here.client.scan_iter("*"))))
    assert here.key.encode() not in stored


def test_a_batch_of_twenty_megabytes_does_not_hold_up_what_comes_meanwhile(here):
    here.write(accept_deadline_s=30)
    rows = [{"id": n, "text": f"{n:07} " * 120} for n in range(19_000)]
    big = json.dumps(batch(*rows)).encode()
    assert 18_000_000 < len(big) < 20 * 1024 * 1024
    done: list[tuple[float, int]] = []

    def large() -> None:
        status = here.send("batch", big).status_code
        done.append((time.monotonic(), status))

    thread = threading.Thread(target=large)
    thread.start()
    small: list[float] = []
    n = 0
    while not done:
        n += 1
        assert here.send("push", [{**record(n), "table_name": "small"}]).status_code == 201
        small.append(time.monotonic())
    thread.join()
    assert done[0][1] == 201
    assert sum(at < done[0][0] for at in small) >= 3
