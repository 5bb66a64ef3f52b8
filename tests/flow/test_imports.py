"""The Import API as it is served: what a client may push, what it is answered, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay.buffer import keys, ledger
from relay.buffer.registry import Registry, id_of
from relay.errors import ConfigInvalid
from tests.flow.test_history import ERP, ORDERS, Here

TYPE = "Application/json"


class Served(Here):
    """A relay with a client of its Import API."""

    def __init__(self, url: str, folder: Path, **settings: Any):
        super().__init__(url, folder, **settings)
        self.key = self.created("--client", "12")

    def created(self, *args: str) -> str:
        return str(self.run("keys", "create", "--kind", "import", *args).stdout.splitlines()[0])

    def push(self, body: Any, table: str = "kiosks", *, cid: Any = 12, key: str | None = None, base: str = "/v2"):
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.web.post(
            f"{base}/client/{cid}/table/{table}/data?apikey={self.key if key is None else key}",
            data=data,
            headers={"Content-Type": "application/json"},
        )

    def rows(self, table: str, columns: str = "id, v") -> list[tuple[Any, ...]]:
        self.drain()
        return self.sql(f"SELECT {columns} FROM {table} ORDER BY 1")


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Served:
    return Served(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [ORDERS]}})


def point(n: Any, **more: Any) -> dict[str, Any]:
    return {"keys": ["id"], "id": n, **more}


def test_a_push_is_answered_201_and_becomes_rows(here):
    answer = here.push([point(1, v="a"), point(2, v="b")])
    assert (answer.status_code, answer.content_type) == (201, TYPE)
    assert answer.get_json(force=True) == {"code": 201, "message": "created"}
    assert here.rows("kiosks") == [("1", "a"), ("2", "b")] or here.rows("kiosks") == [(1, "a"), (2, "b")]
    assert ledger.audit(here.client, deep=True) == []
    assert ledger.read(here.client).events["client:12"] == {"accepted": 1, "mapped": 1}


def test_a_table_that_cannot_have_its_name_at_the_destination_is_listed_with_the_one_it_has(here):
    for table in ("_relay_tables", "kiosks", "KIOSKS"):
        assert here.push(point(1), table).status_code == 201
    here.drain()
    found = {
        one["name"]: one["at"] for one in json.loads(here.run("tables", "--json").stdout)["warehouse"]["tables"]
    }
    assert found.pop("_relay_tables") == "x_relay_tables"
    assert found.keys() == {"kiosks", "KIOSKS"}
    assert sorted(at.lower() for at in found.values()) == ["kiosks", "kiosks__2"]
    said = here.run("tables").stdout
    assert "warehouse  _relay_tables (there x_relay_tables): 1 rows" in said
    assert said.count("(there ") == 2, "only where it is another"


def test_a_bare_object_is_a_point_and_of_equal_keys_the_last_one_counts(here):
    assert here.push(point(1, v="alone")).status_code == 201
    assert here.push([point(2, v="pending"), point(2, v="complete")]).status_code == 201
    assert [v for _, v in here.rows("kiosks")] == ["alone", "complete"]


def test_the_same_row_again_is_an_upsert_that_replaces_all_of_it(here):
    here.push(point(1, v="old", w="old"))
    here.drain()
    here.push(point(1, v="new"))
    here.push(point(1, v="new"))
    assert [row[1:] for row in here.rows("kiosks", "id, v, w")] == [("new", None)]
    assert ledger.read(here.client).events["client:12"] == {"accepted": 3, "mapped": 3}


def test_composite_keys_and_numbers_without_loss(here):
    row = b'{"keys":["kiosk","at"],"kiosk":7,"at":"2026-01-01","sum":19.990,"big":18446744073709551616123}'
    assert here.push(row).status_code == 201
    assert [tuple(map(str, r)) for r in here.rows("kiosks", "kiosk, at, sum, big")] == [
        ("7", "2026-01-01", "19.990", "18446744073709551616123")
    ]


BAD = {
    "101 points": [point(n) for n in range(101)],
    "no points": [],
    "no keys": {"id": 1},
    "keys that are a text": {"keys": "id", "id": 1},
    "empty keys": {"keys": [], "id": 1},
    "a key twice": {"keys": ["id", "id"], "id": 1},
    "a key field that is missing": {"keys": ["id"], "v": 1},
    "a key field that is null": point(None),
    "a key field that is nested": point([1]),
    "what PHP makes of one record": [["id"], 1],
    "different keys": [point(1), {"keys": ["v"], "v": 1}],
    "a text": "x",
    "not JSON": b'{"keys":["id"],"id":NaN}',
    "not UTF-8": b'{"keys":["id"],"id":"\xff"}',
    "an empty body": b"",
    "a field of the relay's own": point(1, _relay_version="0"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_push_that_is_wrong_is_400_with_reasons_and_nothing_of_it_is_stored(here, what):
    answer = here.push(BAD[what])
    assert (answer.status_code, answer.content_type) == (400, TYPE)
    said = answer.get_json(force=True)
    assert said["code"] == 400
    assert isinstance(said["message"], str)
    assert said["reasons"]
    assert here.client.hlen(keys.EVENTS) == 0
    assert ledger.read(here.client).events == {}


@pytest.mark.parametrize("table", ["a-b!", "x" * 200, "erp_orders"])
def test_a_table_that_cannot_be_is_400(here, table):
    answer = here.push(point(1), table)
    assert answer.status_code == 400
    assert answer.get_json(force=True)["reasons"]


def test_a_body_over_five_megabytes_is_413_and_one_of_almost_so_much_is_taken(here):
    assert here.push(point(1, v="x" * (5 * 1024 * 1024 - 100))).status_code == 201
    answer = here.push(point(1, v="x" * 6_000_000))
    assert answer.status_code == 413
    assert answer.get_json(force=True)["code"] == 413


def test_a_table_keeps_the_key_of_its_first_push(here):
    assert here.push({"keys": ["id"], "id": 1, "sku": "a"}).status_code == 201
    answer = here.push({"keys": ["sku"], "id": 1, "sku": "a"})
    assert answer.status_code == 400
    assert "known by id" in answer.get_json(force=True)["reasons"][0]


@pytest.mark.parametrize("base", ["/v2", "/v1", "/sandbox/v2"])
def test_wrong_keys_are_401_and_say_nothing_more(here, base):
    other = here.created("--client", "13")
    foreign = here.run("keys", "create", "--kind", "export", "--client", "12").stdout.splitlines()[0]
    for key in ("", "wrong", other, foreign):
        answer = here.push(point(1), key=key, base=base)
        assert (answer.status_code, answer.content_type) == (401, TYPE)
        assert answer.get_json(force=True)["reasons"] == ["Double check your API key"]
        asked = here.web.get(f"{base}/client/12/authenticate?apikey={key}")
        assert asked.status_code == 401
    assert here.client.hlen(keys.EVENTS) == 0


def test_authenticate_is_200_for_the_right_key(here):
    for base in ("/v2", "/v1", "/sandbox/v2"):
        answer = here.web.get(f"{base}/client/12/authenticate?apikey={here.key}")
        assert (answer.status_code, answer.content_type) == (200, TYPE)
        assert answer.get_json(force=True)["code"] == 200


def test_a_revoked_key_opens_nothing_from_that_moment_on_whatever_was_remembered_of_it(here):
    assert here.push(point(1)).status_code == 201
    here.run("keys", "revoke", id_of(here.key)[:10])
    answer = here.push(point(2))
    assert answer.status_code == 401
    assert ledger.read(here.client).events["client:12"] == {"accepted": 1, "mapped": 1}


def test_an_expired_key_is_refused_by_the_put_itself(here):
    assert here.push(point(1)).status_code == 201
    entry = here.client.hget(keys.API_KEYS, id_of(here.key)).decode().split("|")
    entry[3] = "1"
    here.client.hset(keys.API_KEYS, id_of(here.key), "|".join(entry))
    assert here.push(point(2)).status_code == 401


def test_a_key_for_one_table_writes_only_that_and_its_use_is_shown(here):
    narrow = here.created("--client", "12", "--table", "kiosks")
    assert here.push(point(1), key=narrow).status_code == 201
    assert here.push(point(1), "others", key=narrow).status_code == 401
    listed = here.run("keys", "list").stdout
    assert "tables kiosks" in listed
    assert narrow not in listed
    assert {k.used_s > 0 for k in Registry(here.client).every() if k.tables} == {True}


def test_keys_are_guessed_slowly(here):
    for _ in range(30):
        assert here.push(point(1), key="guess").status_code == 401
    answer = here.push(point(1), key="guess")
    assert answer.status_code == 429
    assert answer.get_json(force=True)["code"] == 429


def test_version_1_takes_rows_without_keys_each_as_a_new_one(here):
    for _ in range(2):
        assert here.push([{"v": "a"}, {"v": "a"}], base="/v1").status_code == 201
    assert [v for _, v in here.rows("kiosks", "_row_id, v")] == ["a"] * 4


@pytest.mark.parametrize("how", ["path", "host"])
def test_the_sandbox_checks_all_and_stores_nothing(here, how):
    base = "/sandbox/v2" if how == "path" else "/v2"
    headers = {"Host": "sandbox-relay.example"} if how == "host" else {}

    def push(body: Any) -> int:
        at = f"{base}/client/12/table/test/data?apikey={here.key}"
        return int(here.web.post(at, data=json.dumps(body), headers=headers).status_code)

    assert push([{"keys": ["id"], "id": 1}]) == 201
    assert push({"id": 1}) == 400
    assert here.client.hlen(keys.EVENTS) == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/client/12/table/kiosks/data", 405),
        ("POST", "/v2/client/12/authenticate", 405),
        ("GET", "/v2/client/12/nothing", 404),
        ("POST", "/v1/client/x/table/t/data", 400),
        ("POST", "/sandbox/v2/client/0/table/t/data", 400),
    ],
)
def test_every_other_answer_is_a_json_object_with_a_code(here, method, path, status):
    answer = here.web.open(path, method=method)
    assert (answer.status_code, answer.content_type) == (status, TYPE)
    assert answer.get_json(force=True)["code"] == status


def test_the_status_needs_no_key(here):
    assert here.web.get("/").get_json(force=True)["code"] == 200


def test_two_clients_of_one_destination_have_name_spaces_of_their_own(here):
    other = here.created("--client", "13")
    here.push(point(1, v="of 12"))
    here.push(point(1, v="of 13"), cid=13, key=other)
    assert [v for _, v in here.rows("kiosks")] == ["of 12"]
    assert [v for _, v in here.rows("c13_kiosks")] == ["of 13"]


def test_the_key_is_in_no_log_no_event_and_no_list(here, capfd, caplog):
    here.push(point(1))
    here.push({"id": 1})
    here.push(point(1), "a-b!")
    here.drain()
    said = capfd.readouterr()
    assert here.key not in said.out + said.err + caplog.text
    stored = b"".join(filter(None, (here.client.dump(key) for key in here.client.scan_iter("*"))))
    assert here.key.encode() not in stored
    assert here.key.encode() not in (here.folder / "events.db").read_bytes()


def test_a_client_that_may_write_to_several_places_is_named_before_it_has_a_key_and_stops_no_replay(here):
    here.push(point(1, v="a"))
    here.post("erp", {"type": "order.saved", "id": 1, "at": "2026-01-01T00:00:00Z"})
    here.drain()
    here.write(
        sources={"erp": {**ERP, "tables": [ORDERS], "to": ["warehouse"]}},
        destinations={"warehouse": {"kind": "sqlite"}, "other": {"kind": "sqlite", "path": "other.db"}},
    )
    with pytest.raises(ConfigInvalid, match=r"clients\.13\.to: say which of the destinations"):
        here.created("--client", "13")
    assert here.run("replay", "--source", "erp", "--since", "1h").exit_code == 0


def test_what_was_pushed_is_replayed_and_a_row_that_moved_on_stays(here):
    here.push(point(1, v="old"))
    here.push(point(1, v="new"))
    here.drain()
    here.sql("DELETE FROM kiosks")
    done = here.run("replay", "--source", "client:12", "--since", "1h")
    assert done.exit_code == 0, done.stdout
    assert [v for _, v in here.rows("kiosks")] == ["new"]
    assert ledger.audit(here.client, deep=True) == []


def test_the_lineage_of_a_pushed_row(here):
    first, second = (here.push(point(1, v=v)) for v in "ab")
    assert (first.status_code, second.status_code) == (201, 201)
    here.drain()
    assert [(says, state) for _, says, state in here.lineage("kiosks", "1")] == [
        ("writes it", "superseded"),
        ("writes it", "won"),
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clients": {12: {"to": "nowhere"}}}, "there is no destination 'nowhere'"),
        ({"clients": {0: {}}}, "a client id is a number from 1"),
        ({"tables": {"kiosks": {"hash": ["email"]}}}, "needs a key"),
    ],
)
def test_settings_of_clients_that_cannot_be_are_named_before_anything_starts(here, settings, words):
    with pytest.raises(ConfigInvalid, match=words):
        here.write(**settings)


def test_a_push_is_redacted_and_one_whose_key_the_settings_drop_is_refused(here):
    here.write(
        tables={"kiosks": {"hash": ["email"], "drop": ["phone"]}, "calls": {"drop": ["id"]}}, redaction_key="k"
    )
    assert here.push(point(1, email="ann@example.com", phone="555", v="a")).status_code == 201
    assert here.push(point(1), "calls").status_code == 400
    ((email,),) = here.rows("kiosks", "email")
    assert email.startswith("hmac-")
    assert b"ann@example.com" not in (here.folder / "events.db").read_bytes()


def test_a_pushed_row_is_forgotten(here):
    here.push(point(1, v="planted"))
    here.push(point(2, v="kept"))
    here.drain()
    done = here.run("forget", "kiosks", "1", "--yes")
    assert done.exit_code == 0, done.stdout
    assert sorted(v for _, v in here.rows("kiosks") if v) == ["kept"]
    assert b"planted" not in (here.folder / "warehouse.db").read_bytes()


def test_where_the_buffer_is_full_a_push_is_503_in_the_apis_words(here):
    here.write(max_pending_bytes=1)
    answer = here.push(point(1))
    assert (answer.status_code, answer.content_type) == (503, TYPE)
    assert answer.get_json(force=True)["code"] == 503
    assert int(answer.headers["Retry-After"]) > 0
