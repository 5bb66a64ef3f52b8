"""The Import API destination against a real HTTP server: what is sent, settings, secrets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.errors import DeliveryError, Permanent, Refused, Transient
from tests.servers.import_case import (
    KEY,
    NOON,
    ONE,
    Make,
    everything_of,
    failure,
    free_port,
    item,
    maker,
    orders,
    version,
)
from tests.servers.import_server import Fault, ImportServer, drop, late, page, redirect, refuse
from worker import wire
from worker.destination import STORED, Batch, TableSpec


@pytest.fixture
def server() -> Iterator[ImportServer]:
    with ImportServer(api_key=KEY) as running:
        yield running


@pytest.fixture
def make(server: ImportServer, tmp_path: Path) -> Iterator[Make]:
    with maker(server, tmp_path) as build:
        yield build


# --- what is sent ---------------------------------------------------------------------------------------


def test_rows_arrive_with_keys_version_and_source(server: ImportServer, make: Make) -> None:
    verdicts = make().deliver(orders(item({"id": "1", "name": "Åsa ☃"}), item({"id": "2", "name": None})))
    assert verdicts == [STORED, STORED]
    assert server.rows("shop_orders") == [
        {"keys": ["id"], "id": "1", "name": "Åsa ☃", "_relay_source": "shop", "_relay_version": version()},
        {"keys": ["id"], "id": "2", "name": None, "_relay_source": "shop", "_relay_version": version()},
    ]
    line, headers = server.requests[-1]
    assert line == f"POST /v2/client/12/table/shop_orders/data?apikey={KEY}"
    assert headers["content-type"] == "application/json"


def test_numbers_of_any_size_and_scale_arrive_digit_for_digit(server: ImportServer, make: Make) -> None:
    data = {"id": "1", "total": "19.90", "ratio": Decimal("0.10"), "count": 10**40, "fine": Decimal("1e-30")}
    make().deliver(orders(item(data)))
    for text in (b'"total":"19.90"', b'"ratio":0.10', b'"count":1' + b"0" * 40 + b",", b'"fine":1E-30'):
        assert text in server.posts[0].body


def test_nested_values_arrive_as_json_text(server: ImportServer, make: Make) -> None:
    make().deliver(orders(item({"id": "1", "lines": [{"price": Decimal("1.50")}], "tags": {}})))
    row = server.rows("shop_orders")[0]
    assert (row["lines"], row["tags"]) == ('[{"price":1.50}]', "{}")


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("2026-03-04T13:30:00.5+01:00", "2026-03-04 12:30:00"),
        ("2026-03-04", "2026-03-04 00:00:00"),
        (1772625600, "2026-03-04 12:00:00"),
        (1772625600123, "2026-03-04 12:00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00"),
        ("soon", "soon"),
        ("", ""),
        (None, None),
        (-99_999_999_999, -99_999_999_999),
        ("0001-01-01T00:00:00+05:00", "0001-01-01T00:00:00+05:00"),
    ],
)
def test_a_declared_instant_takes_the_api_s_date_form_where_it_is_a_time(
    server: ImportServer, make: Make, sent: Any, arrives: Any
) -> None:
    make().deliver(orders(item({"id": "1", "created_at": sent, "note": "2026-03-04T12:00:00Z"})))
    row = server.rows("shop_orders")[0]
    assert row["created_at"] == arrives
    assert row["note"] == "2026-03-04T12:00:00Z"


def test_a_key_has_one_form_whether_its_digits_came_as_number_or_text(server: ImportServer, make: Make) -> None:
    numbers = TableSpec("shop_items", ("n", "at"), (), {"n": "int", "at": "instant"})
    api = make()
    for key in (7, "7"):
        api.deliver(orders(item({"id": key})))
        api.deliver(Batch(numbers, [item({"n": key, "at": NOON})]))
    assert [r["id"] for r in server.rows("shop_orders")] == ["7"]
    assert [(r["n"], r["at"]) for r in server.rows("shop_items")] == [(7, NOON)]


@pytest.mark.parametrize("text", ["007", "7.0", "-0", "seven"])
def test_key_text_that_is_not_plain_digits_stays_text(server: ImportServer, make: Make, text: str) -> None:
    make().deliver(Batch(TableSpec("t", ("n",), (), {"n": "int"}), [item({"n": text})]))
    assert server.rows("t")[0]["n"] == text


def test_columns_of_the_protocol_s_name_move_aside_without_meeting(server: ImportServer, make: Make) -> None:
    spec = TableSpec("shop_locks", ("keys",), (), {})
    make().deliver(
        Batch(spec, [item({"keys": "k", "keys_": "other", "_relay_version": "x", "_relay_deleted_at": "x"})])
    )
    row = server.rows("shop_locks")[0]
    assert (row["keys"], row["keys_"], row["keys__"]) == (["keys_"], "k", "other")
    assert row["_relay_version"] == version()
    assert "_relay_deleted_at" not in row


@pytest.mark.parametrize(
    ("deletes", "gone", "full_gone"),
    [
        ("blank", {"id": "1", "_relay_deleted_at": "2026-03-04 12:00:00"}, {"id": "2", "name": "b"}),
        ("mark", {"id": "1", "name": "a", "_relay_deleted_at": "2026-03-04 12:00:00"}, {"id": "2", "name": "b"}),
    ],
)
def test_a_tombstone_is_a_time_in_a_column(
    server: ImportServer, make: Make, deletes: str, gone: dict[str, Any], full_gone: dict[str, Any]
) -> None:
    batch = orders(item({"id": "1", "name": "a"}, "gone"), item({"id": "2", "name": "b"}, "full_gone"))
    assert make(deletes=deletes).deliver(batch) == [STORED, STORED]
    added = {"keys": ["id"], "_relay_source": "shop", "_relay_version": version()}
    marked = {**full_gone, "_relay_deleted_at": "2026-03-04 12:00:00"}
    assert server.rows("shop_orders") == [gone | added, marked | added]


def test_where_deleted_rows_are_kept_no_tombstone_is_sent(server: ImportServer, make: Make) -> None:
    api = make(deletes="keep")
    tombs = (item({"id": "1"}, "gone"), item({"id": "2", "name": "b"}, "full_gone"))
    assert api.deliver(orders(*tombs)) == [STORED, STORED]
    assert server.posts == []
    assert api.deliver(orders(tombs[0], item({"id": "3"}), tombs[1])) == [STORED] * 3
    assert [r["id"] for r in server.rows("shop_orders")] == ["3"]


@pytest.mark.parametrize("name", ["shop-orders", "ordérs", "a/b", "", "a\n"])
def test_a_table_name_that_the_api_cannot_take_is_refused_before_anything_is_sent(
    server: ImportServer, make: Make, name: str
) -> None:
    with pytest.raises(Permanent, match="letters, digits and _ only"):
        make().deliver(Batch(TableSpec(name, ("id",), (), {}), [item({"id": "1"})]))
    assert server.requests == []


def test_a_batch_over_the_api_s_5_mb_is_halved_before_it_travels_and_one_record_goes(
    server: ImportServer, make: Make
) -> None:
    big = [item({"id": str(n), "text": "x" * 2_600_000}) for n in range(2)]
    assert isinstance(failure(make(), orders(*big)), Permanent)
    assert server.requests == []
    assert make().deliver(orders(big[0])) == [STORED]


def test_a_set_is_refused_by_name(make: Make) -> None:
    with pytest.raises(Permanent, match="'set'"):
        make().deliver(orders(item({"id": "1"}, "set")))


# --- connections -----------------------------------------------------------------------------------------


def test_connections_are_kept_between_requests_and_renewed_after_a_rest(
    server: ImportServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    accept = server._http.process_request
    monkeypatch.setattr(server._http, "process_request", lambda *a: (opened.append(a), accept(*a)))
    api = make()
    for _ in range(5):
        api.deliver(ONE)
    assert len(opened) == 1
    monkeypatch.setattr(wire, "_IDLE_S", 0.0)
    api.deliver(ONE)
    assert len(opened) == 2


def test_a_connection_is_never_shared_by_two_requests_at_once(server: ImportServer, make: Make) -> None:
    api = make(concurrency=8)
    server.latency_s = 0.02
    batches = [orders(item({"id": str(n)})) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(api.deliver, batches)) == [[STORED]] * 40
    assert len(server.rows("shop_orders")) == 40
    assert len(api._http._wire._idle) <= 8


def test_the_environment_s_proxies_and_cookies_of_the_server_are_ignored(
    server: ImportServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    server.faults(Fault(headers={"Set-Cookie": "a=b"}))
    api = make()
    api.deliver(ONE)
    api.deliver(ONE)
    assert all("cookie" not in headers for _, headers in server.requests)


def test_a_configured_proxy_is_used(server: ImportServer, make: Make) -> None:
    """The stand-in server sees a proxy's request line: the whole URL."""
    api = make(url="http://mbi.example", proxy=server.url)
    assert api.deliver(ONE) == [STORED]
    assert server.requests[-1][0].startswith("POST http://mbi.example/v2/client/12/")


def test_an_upsert_through_a_path_prefix_keeps_the_prefix(server: ImportServer, make: Make) -> None:
    assert isinstance(failure(make(url=f"{server.url}/sandbox/")), Permanent)
    assert server.requests[-1][0].startswith("POST /sandbox/v2/client/12/table/")


def test_the_key_is_in_no_log_line_even_at_debug(
    server: ImportServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3")  # an application may have raised it
    server.faults(drop(), page(), refuse(429))
    api = make()
    for _ in range(3):
        failure(api)
    api.deliver(ONE)
    api.ping()
    assert "apikey=***" in caplog.text
    assert KEY not in caplog.text + "".join(f"{r.args} {r.msg}" for r in caplog.records)


# --- ping and settings ----------------------------------------------------------------------------------


def test_ping_has_the_key_checked(server: ImportServer, make: Make) -> None:
    make().ping()
    assert server.requests == [(f"GET /v2/client/12/authenticate?apikey={KEY}", server.requests[0][1])]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (refuse(401), Refused),
        (refuse(403), Refused),
        (refuse(503), Transient),
        (page(), Transient),
        (drop(), Transient),
        (redirect("https://example.com/"), Refused),
    ],
)
def test_ping_tells_why_a_batch_would_not_be_taken(
    server: ImportServer, make: Make, fault: Fault, kind: type[DeliveryError]
) -> None:
    server.key_check = fault
    with pytest.raises(kind) as caught:
        make().ping()
    assert KEY not in everything_of(caught.value)
    assert not getattr(caught.value, "unknown", False)


def test_ping_with_the_wrong_key_is_refused(make: Make) -> None:
    with pytest.raises(Refused):
        make(api_key="other").ping()


def test_limits_are_the_api_s_with_the_configured_concurrency(make: Make) -> None:
    limits = make(concurrency=9).limits
    assert (limits.records, limits.body_bytes, limits.concurrency) == (100, 4 * 1024 * 1024, 9)


def test_the_key_is_in_no_repr(make: Make) -> None:
    api = make()
    api.ping()
    assert KEY not in f"{api!r} {api.settings!r} {api.settings} {vars(api)}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "connect.rjmetrics.com"},
        {"url": "ftp://h"},
        {"url": "https://u:p@h"},
        {"url": "https://h?apikey=x"},
        {"url": "https://h:99999"},
        {"client_id": 0},
        {"client_id": None},
        {"api_key": f"{KEY} with spaces"},
        {"api_key": ""},
        {"timeout_s": 0},
        {"timeout_s": 90},
        {"unknown_hold_s": 29},
        {"concurrency": 0},
        {"deletes": "drop"},
        {"colour": "blue"},
    ],
)
def test_a_wrong_setting_is_refused_without_telling_the_key(make: Make, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        make(**wrong)
    assert KEY not in str(caught.value) + repr(caught.value)


def test_a_key_from_a_file_may_end_with_a_newline(server: ImportServer, make: Make) -> None:
    make(api_key=f"{KEY}\n").ping()
    assert server.requests[0][0].endswith(f"apikey={KEY}")


# --- the test server itself -----------------------------------------------------------------------------


def test_the_server_names_rows_that_went_back_in_time(server: ImportServer, make: Make) -> None:
    api = make()
    for at in (NOON, "2026-03-04T12:00:01Z", NOON):
        api.deliver(orders(item({"id": "1"}, at=at)))
    assert [(a.order, b.order) for a, b in server.regressions()] == [(1, 2)]


def test_a_late_commit_comes_after_what_was_sent_meanwhile(server: ImportServer, make: Make) -> None:
    server.faults(late(0.1))
    api = make()
    failure(api, orders(item({"id": "1", "n": 1})))
    api.deliver(orders(item({"id": "1", "n": 2}, at="2026-03-04T12:00:01Z")))
    until = time.monotonic() + 5
    while len(server.log) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert [taken.point["n"] for taken in server.log] == [2, 1]
    assert len(server.regressions()) == 1
