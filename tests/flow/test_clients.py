"""Every client that was ever published for the served push APIs, unmodified, against a relay as it runs.

Those of Python are run as they are on PyPI. Of those in other languages the requests are replayed as they were
seen on the wire, and the answers judged by what their code does with them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relay.buffer import ledger
from tests.clients import replays
from tests.clients.replays import CLIENTS, CURL, SHEETS, exchange
from tests.clients.serving import Serving, client

MANY = [(n, f"u{n}@example.com", "héllo ☃") for n in range(1, 251)]


@pytest.fixture(scope="module")
def relay(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(valkey_url, tmp_path_factory.mktemp("clients"))
    try:
        yield serving
        serving.drain()
        assert ledger.audit(serving.client, deep=True) == []
    finally:
        serving.stop()


def of(relay: Serving, table: str) -> list[tuple[int, str, str]]:
    return sorted((int(n), email, note) for n, email, note in relay.rows(table, "id, email, note"))


# --- the Import API: clients of Python, as published --------------------------------------------------


def test_the_python_client_of_rjmetrics_authenticates_pushes_and_tries_the_sandbox(relay):
    done = client("push_rjmetrics", relay.base, "12", relay.key, json.dumps(replays.rows(1, 251)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "authenticated": [True, False],
        "pushed": [201, 201, 201],
        "tried": [201, 201, 201],
        "older": [201],
        "refused": [False],
        "none": [],
    }
    assert of(relay, "of_rjmetrics") == MANY
    assert relay.sql("SELECT name FROM sqlite_master WHERE name IN ('tried', 'test')") == []


def singer(table: str, **more: object) -> str:
    """What a Singer tap writes: two tables' schemas, 250 rows, a change of the first one, and where it stands."""
    properties = {"id": {"type": "integer"}, "email": {"type": "string"}, "note": {"type": "string"}}
    schema = {"type": "object", "properties": properties}
    lines: list[dict[str, object]] = [
        {"type": "SCHEMA", "stream": name, "schema": schema, "key_properties": ["id"]}
        for name in (table, f"{table}_two")
    ]
    for row in [*replays.rows(1, 251), {"id": 1, "email": "new", "note": "héllo ☃"}]:
        record = {name: value for name, value in row.items() if name != "keys"}
        lines.append({"type": "RECORD", "stream": table, "record": record, **more})
    lines.append({"type": "STATE", "value": {"at": 251}})
    lines.append(
        {"type": "RECORD", "stream": f"{table}_two", "record": {"id": 7, "email": "e", "note": "n"}, **more}
    )
    lines.append({"type": "STATE", "value": {"at": 252}})
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_target_magentobi_pushes_what_a_tap_says_and_then_its_state(relay):
    done = client("push_magentobi", relay.base, "12", relay.key, told=singer("of_magentobi"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"at": 252}
    assert of(relay, "of_magentobi") == [(1, "new", "héllo ☃"), *MANY[1:]]
    assert of(relay, "of_magentobi_two") == [(7, "e", "n")]


def test_target_magentobi_ends_with_our_words_where_its_key_is_wrong(relay):
    done = client("push_magentobi", relay.base, "12", "wrong", told=singer("of_nobody"))
    assert done.returncode != 0
    assert "Error sending data to the Magento BI API. 401" in done.stderr
    assert "Double check your API key" in done.stderr


# --- the Import API: clients of other languages, as they were seen ------------------------------------


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_answered_as_its_code_demands(relay, name):
    one, table = CLIENTS[name], f"of_{name}"
    requests = [one.ask(relay.host, relay.key)]
    for length, body in one.bodies:
        assert len(body) == length
        requests.append(one.push(relay.host, relay.key, table, body))
    if one.closes:
        # Each request has a connection of its own, and JavaScript sends all of them at once.
        with ThreadPoolExecutor(4) as pool:
            answers = [answer for [answer] in pool.map(lambda request: exchange(relay.port, [request]), requests)]
    else:
        answers = exchange(relay.port, requests)
    assert {answer.closed for answer in answers} == {one.closes}
    asked, *pushed = answers
    assert (asked.status, asked.json()["code"]) == (200, 200)
    for answer in pushed:
        one.demands(answer)
    assert of(relay, table) == MANY


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_that_is_refused_gets_an_object_with_reasons_that_it_can_print(relay, name):
    one = CLIENTS[name]
    wrong = replays.compact([{"id": 1}])
    for status, request in (
        (401, one.ask(relay.host, "wrong")),
        (401, one.push(relay.host, "wrong", "t", wrong)),
        (400, one.push(relay.host, relay.key, "t", wrong)),
        (400, one.push(relay.host, relay.key, "t", b'[["id"],1,"what array_chunk makes of one row"]')),
        (404, one.ask(relay.host, relay.key).replace(b"/authenticate", b"/nothing")),
        (405, one.ask(relay.host, relay.key).replace(b"/authenticate", b"/table/t/data")),
        (413, one.push(relay.host, relay.key, "t", b"[" + b" " * 5_300_000 + b"]")),
    ):
        [answer] = exchange(relay.port, [request])
        assert answer.status == status
        assert answer.kind == "Application/json"
        said = answer.json()
        assert said["code"] == status
        assert said["message"]
        assert said["reasons"]
        assert all(isinstance(reason, str) for reason in said["reasons"])


def test_the_sheets_scripts_of_version_1_append_rows_without_keys(relay):
    body = replays.compact([{"sheet": "s", "n": n} for n in range(100)])
    head = SHEETS.format(table="of_sheets", key=relay.key, host=relay.host, length=len(body))
    [answer] = exchange(relay.port, [head.replace("\n", "\r\n").encode() + body])
    assert answer.status == 201
    assert len(relay.rows("of_sheets", "_row_id, n")) == 100


@pytest.mark.parametrize("line", CURL)
def test_the_curl_lines_of_the_documents_work(relay, line):
    head, body, status = CURL[line]
    raw = head.format(table="of_curl", key=relay.key, host=relay.host, length=len(body))
    [answer] = exchange(relay.port, [raw.replace("\n", "\r\n").encode() + body])
    assert (answer.status, answer.json()["code"]) == (status, status)
    if line == "upsert of two":
        assert relay.rows("of_curl", "id, status") == [("1", "complete")]


# --- the Stitch API -----------------------------------------------------------------------------------


def stitched(table: str, **more: object) -> list[dict[str, object]]:
    """Messages as stitchclient is given them."""
    rows = [{name: value for name, value in row.items() if name != "keys"} for row in replays.rows(1, 251)]
    return [
        {"action": "upsert", "table_name": table, "key_names": ["id"], "sequence": at, "data": row | more}
        for at, row in enumerate(rows, 1)
    ]


@pytest.mark.parametrize("most", [4_194_304, 9_000], ids=["in one body", "halved until they fit"])
def test_stitchclient_pushes_transit_and_calls_back_for_what_was_taken(relay, most):
    table = f"of_stitchclient_{most}"
    messages = [*stitched(table), {**stitched(table)[0], "sequence": 0, "data": {"id": 1, "email": "too old"}}]
    told = "".join(json.dumps(message) + "\n" for message in messages)
    done = client("push_stitchclient", f"{relay.base}/v2/import/push", "12", relay.key, str(most), told=told)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["done"] == list(range(251))
    assert (answer["bodies"] == 1) == (most > 9_000)
    assert of(relay, table) == MANY


def test_stitchclients_decimals_moments_and_large_numbers_arrive_as_they_were(relay):
    told = json.dumps(stitched("of_typed", typed=True)[0])
    done = client("push_stitchclient", f"{relay.base}/v2/import/push", "12", relay.key, "4194304", told=told)
    assert done.returncode == 0, done.stderr
    [(exact, big, at)] = relay.rows("of_typed", "exact, big, at")
    assert (str(exact), str(big), at) == ("19.990", str(2**60), "2026-01-02T03:04:05.678000Z")


def test_stitchclients_short_codes_are_understood_also_when_it_has_run_out_of_them(relay):
    deep = {f"field {n}": f"^{n}" for n in range(2_500)} | {"~odd": "`x"}
    told = "".join(json.dumps(message) + "\n" for message in stitched("of_codes", deep=deep)[:3])
    done = client("push_stitchclient", f"{relay.base}/v2/import/push", "12", relay.key, "4194304", told=told)
    assert done.returncode == 0, done.stderr
    assert [json.loads(found) for _, found in relay.rows("of_codes", "id, deep")] == [deep] * 3


def test_stitchclient_ends_with_our_words_where_it_is_refused(relay):
    message = {**stitched("of_nobody")[0], "data": {"email": "without its key"}}
    url, told = f"{relay.base}/v2/import/push", json.dumps(message)
    done = client("push_stitchclient", url, "12", relay.key, "4194304", told=told)
    assert "422" in json.loads(done.stdout)["error"]
    assert "data must include keys" in json.loads(done.stdout)["error"]
    assert (
        "403" in json.loads(client("push_stitchclient", url, "13", relay.key, "99999", told=told).stdout)["error"]
    )
    assert "401" in json.loads(client("push_stitchclient", url, "12", "wrong", "99999", told=told).stdout)["error"]


def target(relay: Serving, tmp_path: Path, lines: str, key: str, *args: str) -> subprocess.CompletedProcess[str]:
    """target-stitch, as its command line is."""
    url = f"{relay.base}/v2/import/batch"
    settings = {
        "token": key, "client_id": 12, "small_batch_url": url, "big_batch_url": url, "disable_collection": True,
        "batch_size_preferences": {"full_table_streams": []},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return client("target-stitch", "--config", str(tmp_path / "config.json"), *args, told=lines)


def test_target_stitch_sends_batches_and_then_its_state(relay, tmp_path):
    lines = singer("of-target", time_extracted="2026-01-02T03:04:05Z")
    done = target(relay, tmp_path, lines, relay.key, "--max-batch-records", "100")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"at": 252}
    assert of(relay, "of_target") == [(1, "new", "héllo ☃"), *MANY[1:]]
    assert of(relay, "of_target_two") == [(7, "e", "n")]


def test_target_stitch_activates_versions_and_which_one_is_active_is_on_record(relay, tmp_path):
    lines = singer("of_versions", version=1_700_000_000_000).splitlines()
    lines.insert(
        -3, json.dumps({"type": "ACTIVATE_VERSION", "stream": "of_versions", "version": 1_700_000_000_000})
    )
    done = target(relay, tmp_path, "\n".join(lines) + "\n", relay.key)
    assert done.returncode == 0, done.stderr
    assert len(of(relay, "of_versions")) == 250
    assert set(relay.rows("of_versions", "_sdc_table_version")) == {(1_700_000_000_000,)}
    active = "table_name, table_version"
    assert ("of_versions", 1_700_000_000_000) in relay.rows("_sdc_table_versions", active)


def test_target_stitch_ends_with_our_words_where_a_record_does_not_fit_its_schema(relay, tmp_path):
    lines = singer("of_misfits").replace('"id": 7,', '"id": "seven",')
    done = target(relay, tmp_path, lines, relay.key)
    assert done.returncode == 1
    assert "did not conform to schema: #/id: expected: Integer, found: String" in done.stderr
    assert "Not Authorized" in target(relay, tmp_path, lines, "wrong").stderr
