"""The mediarithmics destination against a real HTTP server: lines, verdicts, unknown outcomes, secrets."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from relay.errors import DeliveryError, Permanent, Refused, Transient
from tests.contracts.destinations import gone, item, row
from tests.servers.import_case import everything_of, free_port
from tests.servers.mediarithmics import Fault, Mediarithmics, drop, refuse
from worker.destination import STORED, Batch, Item, Rejected, TableSpec, Verdict
from worker.destinations import mediarithmics

TOKEN = "s3cr3t-t0ken-0011"
PEOPLE = TableSpec("shop_people", ("id",), (), {"id": "id", "email": "text"})
MEMBERS = TableSpec("shop_members", ("id",), (), {"id": "id"})
VISITS = TableSpec("shop_visits", ("id",), (), {"id": "id", "email": "text", "at": "instant"})
TABLES: dict[str, Any] = {
    "shop_people": {"document_type": "USER_PROFILE", "identifier": {"email_hash": "email", "hash": "sha256"}},
    "shop_members": {
        "document_type": "USER_SEGMENT",
        "identifier": {"user_account_id": "id", "compartment_id": 12},
        "segment_id": 555,
    },
    "shop_visits": {
        "document_type": "USER_ACTIVITY",
        "identifier": {"email_hash": "email", "hash": "sha256"},
        "event": "store-visit",
        "time": "at",
    },
}
Make = Callable[..., mediarithmics.Mediarithmics]


@pytest.fixture
def server() -> Iterator[Mediarithmics]:
    with Mediarithmics(token=TOKEN) as running:
        yield running


@pytest.fixture
def make(server: Mediarithmics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(mediarithmics.api, "_FIRST_LOOK_S", 0.01)
    opened: list[mediarithmics.Mediarithmics] = []

    def build(**settings: Any) -> mediarithmics.Mediarithmics:
        block = {"kind": "mediarithmics", "url": server.url, "datamart_id": 1502, "token": TOKEN, "tables": TABLES}
        found = mediarithmics.MediarithmicsSettings.model_validate(block | settings)
        opened.append(mediarithmics.destination("dmp", found, tmp_path))
        return opened[-1]

    yield build
    for one in opened:
        one.close()


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def visit(n: int, **data: Any) -> Item:
    return row(n, id=n, email=f"u{n}@x.org", at="2026-03-04T12:00:00.5Z", **data)


def deliver(destination: mediarithmics.Mediarithmics, table: TableSpec, *items: Item) -> list[Verdict]:
    return destination.deliver(Batch(table, items))


def failure(destination: mediarithmics.Mediarithmics, table: TableSpec, *items: Item) -> DeliveryError:
    """What a delivery raises, after a look for the token in it and in everything behind it."""
    with pytest.raises(DeliveryError) as caught:
        deliver(destination, table, *items)
    assert TOKEN not in everything_of(caught.value)
    return caught.value


def uploads(server: Mediarithmics) -> list[str]:
    return [path for method, path, _ in server.requests if method == "POST" and path.endswith("/executions")]


# --- what is sent ---------------------------------------------------------------------------------------


def test_a_row_becomes_a_profile_and_a_tombstone_deletes_it(server: Mediarithmics, make: Make) -> None:
    rows = [
        row(1, id=1, email=" Åsa@X.org ", total=Decimal("1.10"), tags=["a"], _relay_x=1),
        gone(2, id=2, email="b@x.org"),
    ]
    assert deliver(make(), PEOPLE, *rows) == [STORED, STORED]
    assert server.taken("USER_PROFILE") == [
        {
            "operation": "UPSERT",
            "email_hash": sha("åsa@x.org"),
            "update_strategy": "FORCE_REPLACE",
            "user_profile": {"id": 1, "email": " Åsa@X.org ", "total": Decimal("1.10"), "tags": ["a"]},
        },
        {"operation": "DELETE", "email_hash": sha("b@x.org")},
    ]


def test_a_row_becomes_a_member_of_the_segment_and_a_tombstone_takes_it_out(
    server: Mediarithmics, make: Make
) -> None:
    assert deliver(make(), MEMBERS, row(1, id=7), gone(2, id="8")) == [STORED, STORED]
    same = {"compartment_id": "12", "segment_id": "555", "expiration_duration": 0}
    assert server.taken("USER_SEGMENT") == [
        {"operation": "UPDATE", "user_account_id": "7", **same},
        {"operation": "DELETE", "user_account_id": "8", **same},
    ]


def test_a_row_becomes_an_activity_and_a_tombstone_nothing(server: Mediarithmics, make: Make) -> None:
    assert deliver(make(), VISITS, visit(1, shop="Lyon"), gone(2, id=2)) == [STORED, STORED]
    properties = {"id": 1, "email": "u1@x.org", "at": "2026-03-04T12:00:00.5Z", "shop": "Lyon"}
    assert server.taken("USER_ACTIVITY") == [
        {
            "$email_hash": {"$hash": sha("u1@x.org")},
            "$type": "TOUCH",
            "$session_status": "NO_SESSION",
            "$ts": 1772625600500,
            "$events": [{"$event_name": "store-visit", "$ts": 1772625600500, "$properties": properties}],
        }
    ]


def test_only_the_columns_that_are_asked_for_are_sent(server: Mediarithmics, make: Make) -> None:
    rule = {**TABLES["shop_people"], "columns": ["name"], "update_strategy": "PARTIAL_UPDATE"}
    deliver(make(tables={"shop_people": rule}), PEOPLE, row(1, id=1, email="a@x.org", name="A"))
    (line,) = server.taken("USER_PROFILE")
    assert (line["user_profile"], line["update_strategy"]) == ({"name": "A"}, "PARTIAL_UPDATE")


def test_a_column_may_hold_the_hash_or_a_device_already(server: Mediarithmics, make: Make) -> None:
    hashed = {"document_type": "USER_PROFILE", "identifier": {"email_hash": "email"}}
    device = {"document_type": "USER_PROFILE", "identifier": {"user_agent_id": "id"}}
    tables = {"shop_people": hashed, "shop_members": device}
    destination = make(tables=tables)
    deliver(destination, PEOPLE, row(1, id=1, email=sha("a")))
    deliver(destination, MEMBERS, row(1, id="vec:89"))
    assert [(line.get("email_hash"), line.get("user_agent_id")) for line in server.taken("USER_PROFILE")] == [
        (sha("a"), None),
        (None, "vec:89"),
    ]


def test_an_address_is_never_sent_as_if_it_were_a_hash(server: Mediarithmics, make: Make) -> None:
    tables = {"shop_people": {"document_type": "USER_PROFILE", "identifier": {"email_hash": "email"}}}
    (verdict,) = deliver(make(tables=tables), PEOPLE, row(1, id=1, email="a@x.org"))
    assert isinstance(verdict, Rejected)
    assert "hash: sha256" in verdict.reason
    assert "a@x.org" not in verdict.reason
    assert server.executions == []


def test_a_row_that_names_nobody_or_has_no_time_is_rejected_and_the_others_are_sent(
    server: Mediarithmics, make: Make
) -> None:
    batch = [visit(1), item("row", {"id": 2, "email": None, "at": 1772625600}, 2), visit(3)]
    batch.append(item("row", {"id": 4, "email": "d@x.org", "at": "soon"}, 4))
    verdicts = deliver(make(), VISITS, *batch)
    assert verdicts[0::2] == [STORED, STORED]
    assert [isinstance(v, Rejected) for v in verdicts[1::2]] == [True, True]
    assert [v.reason.split()[1] for v in verdicts if isinstance(v, Rejected)] == ["email", "at"]
    assert len(server.taken("USER_ACTIVITY")) == 2


def test_a_table_without_a_rule_is_held_with_a_word_of_what_to_write(server: Mediarithmics, make: Make) -> None:
    error = failure(make(), TableSpec("shop_orders", ("id",), (), {}), row(1, id=1))
    assert (type(error), error.reason) == (Permanent, "foreign_table")
    assert "destinations.dmp.tables.shop_orders" in str(error)
    assert server.requests == []


def test_a_rule_that_names_a_column_which_no_row_has_holds_the_table(server: Mediarithmics, make: Make) -> None:
    rule = {"document_type": "USER_PROFILE", "identifier": {"user_account_id": "custmer"}}
    error = failure(make(tables={"shop_people": rule}), PEOPLE, row(1, id=1), row(2, id=2))
    assert (type(error), error.reason) == (Permanent, "foreign_table")
    assert "custmer" in str(error)


@pytest.mark.parametrize("op", ["gone", "full_gone"])
def test_a_tombstone_that_names_nobody_is_rejected_rather_than_forgotten(make: Make, op: str) -> None:
    (verdict,) = deliver(make(), PEOPLE, item(op, {"id": 1}, 1))
    assert isinstance(verdict, Rejected)
    assert "column email" in verdict.reason


def test_tombstones_are_kept_back_where_deletes_is_keep(server: Mediarithmics, make: Make) -> None:
    assert deliver(make(deletes="keep"), PEOPLE, gone(1, id=1, email="a@x.org")) == [STORED]
    assert server.executions == []


@pytest.mark.parametrize(("deletes", "marks"), [("mark", True), ("key", False), ("keep", False)])
def test_the_fence_keeps_what_rows_last_held_only_where_deletes_need_it(
    make: Make, deletes: str, marks: bool
) -> None:
    assert make(deletes=deletes).marks is marks
    assert make(deletes=deletes, tables={"shop_visits": TABLES["shop_visits"]}).marks is False


def test_a_document_import_is_made_once_and_found_again_by_name_and_type(
    server: Mediarithmics, make: Make
) -> None:
    for n in range(120):  # more than a page, all with the name in theirs
        server.make({"name": f"rowhook shop_people {n}", "document_type": "USER_PROFILE"})
    server.make({"name": "rowhook shop_people", "document_type": "USER_SEGMENT"})
    deliver(make(), PEOPLE, row(1, id=1, email="a@x.org"))
    deliver(make(), PEOPLE, row(2, id=2, email="b@x.org"))
    made = [path for method, path, _ in server.requests if method == "POST" and path.endswith("document_imports")]
    assert len(made) == 1
    assert len({run.import_id for run in server.executions}) == 1
    (found,) = [server.imports[run.import_id] for run in server.executions[:1]]
    assert (found["name"], found["document_type"], found["mime_type"], found["encoding"]) == (
        "rowhook shop_people", "USER_PROFILE", "APPLICATION_X_NDJSON", "utf-8",
    )  # fmt: skip


def test_a_file_s_name_says_what_is_in_it_in_any_process_and_order(server: Mediarithmics, make: Make) -> None:
    one, two = row(1, id=1, email="a@x.org"), row(2, id=2, email="b@x.org")
    for batch in ([one, two], [two, one], [one]):
        deliver(make(), PEOPLE, *batch)
    names = [run.name for run in server.executions]
    assert names[0] == names[1] != names[2]
    assert re.fullmatch(r"rowhook_shop_people-[0-9]{16}-[0-9]{16}-[0-9a-f]{32}\.ndjson", names[0])


def test_an_empty_batch_is_no_execution(server: Mediarithmics, make: Make) -> None:
    assert deliver(make(), PEOPLE) == []
    assert server.executions == []


# --- verdicts -------------------------------------------------------------------------------------------


def bad(*numbers: int) -> Callable[[dict[str, Any]], str | None]:
    """Refuses the activities of these ids."""
    return lambda line: "compartment 9 is unknown" if line["$events"][0]["$properties"]["id"] in numbers else None


@pytest.mark.parametrize(
    "error_line",
    [
        lambda n, why, line: {"line": n, "error": why, "input": line.decode()},
        lambda n, why, _: {"line": n, "error": why},
        lambda _, why, line: {"error": why, "input": line.decode()},
        lambda n, why, line: {"line": n - 1, "error": why, "input": line.decode()},
    ],
    ids=["both", "number only", "input only", "numbered from 0"],
)
def test_lines_of_the_error_file_are_rejected_in_the_vendor_s_words(
    server: Mediarithmics, make: Make, error_line: Any
) -> None:
    server.objects_to, server.error_line = bad(2, 4), error_line
    verdicts = deliver(make(), VISITS, *(visit(n) for n in range(1, 6)))
    refused = Rejected("compartment 9 is unknown")
    assert verdicts == [STORED, refused, STORED, refused, STORED]


def test_where_the_error_file_cannot_be_read_nothing_that_may_be_refused_counts_as_stored(
    server: Mediarithmics, make: Make
) -> None:
    server.objects_to, server.error_line = bad(2), lambda *_: b"line two is bad"
    verdicts = deliver(make(), VISITS, visit(1), visit(2))
    assert [isinstance(v, Rejected) and "1 of 2 lines" in v.reason for v in verdicts] == [True, True]


def test_an_execution_that_fails_as_a_whole_goes_again(server: Mediarithmics, make: Make) -> None:
    server.end = "FAILED"
    error = failure(make(), VISITS, visit(1))
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("server", False)
    assert "the executor gave up" in str(error)
    server.end = "SUCCEEDED"
    assert deliver(make(), VISITS, visit(1)) == [STORED]
    assert len(server.taken("USER_ACTIVITY")) == 1


def test_a_canceled_execution_goes_again(server: Mediarithmics, make: Make) -> None:
    server.end = "CANCELED"
    assert isinstance(failure(make(), PEOPLE, row(1, id=1, email="a@x.org")), Transient)


def test_activities_of_an_execution_that_failed_half_way_are_not_added_again_by_themselves(
    server: Mediarithmics, make: Make
) -> None:
    server.end, server.partly = "FAILED", 1
    verdicts = deliver(make(), VISITS, visit(1), visit(2))
    assert [isinstance(v, Rejected) and "1 of its 2 lines" in v.reason for v in verdicts] == [True, True]


# --- unknown outcomes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True], ids=["runs still", "ended meanwhile"])
def test_an_upload_whose_answer_was_lost_is_found_again_by_another_process(
    server: Mediarithmics, make: Make, *, ended: bool
) -> None:
    server.faults(drop(takes=True))
    error = failure(make(), VISITS, visit(1), visit(2))
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("no_answer", True)
    if ended:
        server.finish()
    assert deliver(make(), VISITS, visit(1), visit(2)) == [STORED, STORED]
    assert len(server.taken("USER_ACTIVITY")) == 2
    assert len(uploads(server)) == 1


def test_an_upload_that_was_not_taken_is_sent_again(server: Mediarithmics, make: Make) -> None:
    server.faults(drop(takes=False))
    assert isinstance(failure(make(), VISITS, visit(1)), Transient)
    assert deliver(make(), VISITS, visit(1)) == [STORED]
    assert len(server.taken("USER_ACTIVITY")) == 1


@pytest.mark.parametrize("ended", [False, True], ids=["runs still", "ended meanwhile"])
@pytest.mark.parametrize("again", [(1, 2), (1, 2, 3, 4), (2,), (2, 3)], ids=str)
def test_activities_are_added_once_whatever_batch_they_come_back_in(
    server: Mediarithmics, make: Make, again: tuple[int, ...], *, ended: bool
) -> None:
    server.faults(drop(takes=True))
    failure(make(), VISITS, visit(1), visit(2))
    if ended:
        server.finish()
    assert deliver(make(), VISITS, *map(visit, again)) == [STORED] * len(again)
    sent = [line["$events"][0]["$properties"]["id"] for line in server.taken("USER_ACTIVITY")]
    assert sorted(sent) == sorted({1, 2, *again})


def test_equal_activities_of_two_records_are_two(server: Mediarithmics, make: Make) -> None:
    tables = {"shop_visits": {**TABLES["shop_visits"], "columns": ["shop"]}}
    one, two = (item("row", {"id": n, "email": "a@x.org", "at": 1772625600}, 1) for n in (1, 2))
    server.faults(drop(takes=True))
    failure(make(tables=tables), VISITS, one)
    assert deliver(make(tables=tables), VISITS, one, two) == [STORED, STORED]
    assert len(server.taken("USER_ACTIVITY")) == 2


def test_an_execution_that_does_not_end_in_time_is_an_unknown_outcome_and_waited_for(
    server: Mediarithmics, make: Make
) -> None:
    server.steps, server.objects_to = None, bad(2)
    error = failure(make(wait_s=0.2), VISITS, visit(1), visit(2))
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("no_answer", True)
    assert "wait_s" in str(error)
    assert isinstance(failure(make(wait_s=0.2), VISITS, visit(1), visit(2), visit(3)), Transient)
    assert len(server.executions) == 1, "nothing is sent while one runs"
    server.executions[0].steps, server.steps = 3, 2
    batch = [visit(1), visit(2), visit(3)]
    assert deliver(make(), VISITS, *batch) == [STORED, Rejected("compartment 9 is unknown"), STORED]
    assert [len(run.lines) for run in server.executions] == [2, 1]


def test_nothing_newer_is_applied_before_an_older_execution_has_ended(server: Mediarithmics, make: Make) -> None:
    server.steps = None
    failure(make(wait_s=0.2), PEOPLE, row(1, id=1, email="a@x.org", name="old"))
    server.executions[0].steps, server.steps = 3, 2
    assert deliver(make(), PEOPLE, row(2, id=1, email="a@x.org", name="new")) == [STORED]
    assert [line["user_profile"]["name"] for line in server.taken("USER_PROFILE")] == ["old", "new"]


def test_an_activity_that_was_refused_is_sent_again_when_somebody_asks_for_it(
    server: Mediarithmics, make: Make
) -> None:
    server.objects_to = bad(1)
    assert isinstance(deliver(make(), VISITS, visit(1))[0], Rejected)
    server.objects_to = lambda _: None
    assert deliver(make(), VISITS, visit(1)) == [STORED]
    assert len(server.taken("USER_ACTIVITY")) == 1


def test_a_profile_is_sent_again_when_somebody_asks_for_it(server: Mediarithmics, make: Make) -> None:
    for _ in range(2):
        assert deliver(make(), PEOPLE, row(1, id=1, email="a@x.org")) == [STORED]
    assert len(server.taken("USER_PROFILE")) == 2


def test_a_look_that_fails_is_waited_out(server: Mediarithmics, make: Make) -> None:
    looks = iter([Fault(status=503), drop(), Fault(status=429, headers={"Retry-After": "0"})])
    server.choose = lambda _, path: next(looks, None) if re.search(r"/executions/\d+$", path) else None
    assert deliver(make(), VISITS, visit(1)) == [STORED]
    assert len(uploads(server)) == 1


def test_two_tables_at_once_do_not_disturb_each_other(server: Mediarithmics, make: Make) -> None:
    destination, verdicts = make(), list[Verdict]()
    calls = [(PEOPLE, row(1, id=1, email="a@x.org")), (VISITS, visit(1)), (MEMBERS, row(1, id=1))]
    threads = [
        threading.Thread(target=lambda c=call: verdicts.extend(deliver(destination, *c)))  # type: ignore[misc]
        for call in calls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [STORED] * 3


def test_of_an_execution_that_ended_meanwhile_only_the_refused_lines_are_sent_again(
    server: Mediarithmics, make: Make
) -> None:
    server.objects_to = bad(2)
    server.faults(drop(takes=True))
    batch = [visit(1), visit(2), visit(3)]
    failure(make(), VISITS, *batch)
    server.finish()
    for _ in range(2):  # the second time two files hold line 2, and one of them the others
        assert deliver(make(), VISITS, *batch) == [STORED, Rejected("compartment 9 is unknown"), STORED]
    assert [len(run.lines) for run in server.executions] == [3, 1, 1]
    server.objects_to = lambda _: None
    assert deliver(make(), VISITS, *batch) == [STORED] * 3
    assert deliver(make(), VISITS, *batch) == [STORED] * 3
    assert len(server.taken("USER_ACTIVITY")) == 3


# --- what its answers mean ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_refused_access_pauses(server: Mediarithmics, make: Make, status: int) -> None:
    server.faults(refuse(status, f"no access with {TOKEN}"))
    error = failure(make(), VISITS, visit(1))
    assert isinstance(error, Refused)
    assert "no access with ***" in str(error)


def test_the_wrong_token_is_refused_by_ping_and_deliver_alike(server: Mediarithmics, make: Make) -> None:
    destination = make(token="other")
    with pytest.raises(Refused):
        destination.ping()
    assert isinstance(failure(destination, VISITS, visit(1)), Refused)
    make().ping()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_document_that_is_refused_will_never_be_taken(server: Mediarithmics, make: Make, status: int) -> None:
    server.faults(refuse(status, "line 1 is bad"))
    error = failure(make(), VISITS, visit(1))
    assert (type(error), error.reason) == (Permanent, "permanent")
    assert "line 1 is bad" in str(error)


@pytest.mark.parametrize(("status", "unknown"), [(429, False), (500, False), (502, True), (503, False)])
def test_a_server_that_cannot_now_may_later(
    server: Mediarithmics, make: Make, status: int, *, unknown: bool
) -> None:
    server.faults(refuse(status, "busy", retry_after="17"))
    error = failure(make(), VISITS, visit(1))
    assert isinstance(error, Transient)
    assert (error.retry_after_s, error.unknown) == (17, unknown)


def test_an_answer_that_is_none_of_the_api_s_is_an_unknown_outcome(server: Mediarithmics, make: Make) -> None:
    server.faults(Fault(takes=True, status=200, body=b"<html>Sign in</html>"))
    error = failure(make(), VISITS, visit(1))
    assert isinstance(error, Transient)
    assert error.unknown
    assert deliver(make(), VISITS, visit(1)) == [STORED]
    assert len(server.taken("USER_ACTIVITY")) == 1


def test_a_datamart_that_is_not_there_holds_the_table_and_buries_nothing(
    server: Mediarithmics, make: Make
) -> None:
    destination = make(datamart_id=7)
    error = failure(destination, VISITS, visit(1))
    assert (type(error), error.reason) == (Permanent, "foreign_table")
    with pytest.raises(Permanent, match="no such resource"):
        destination.ping()


def test_a_server_that_is_away_is_transient_and_nothing_is_in_doubt(make: Make) -> None:
    destination = make(url=f"http://127.0.0.1:{free_port()}")
    error = failure(destination, VISITS, visit(1))
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("away", False)
    with pytest.raises(Transient):
        destination.ping()


def test_a_file_of_errors_that_cannot_be_fetched_now_is_asked_for_again(server: Mediarithmics, make: Make) -> None:
    server.objects_to = bad(2)
    faults = iter([refuse(503, f"see /v1/data_file/data?uri=x&access_token={TOKEN}")])
    server.choose = lambda _, path: next(faults, None) if path.endswith("/data_file/data") else None
    assert isinstance(failure(make(), VISITS, visit(1), visit(2)), Transient)
    verdicts = deliver(make(), VISITS, visit(1), visit(2))
    assert verdicts == [STORED, Rejected("compartment 9 is unknown")]
    assert [line["$events"][0]["$properties"]["id"] for line in server.taken("USER_ACTIVITY")] == [1]


# --- secrets and settings -------------------------------------------------------------------------------


def test_the_token_is_a_header_and_in_no_line_of_the_log(
    server: Mediarithmics, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3")  # an application may have raised it
    server.objects_to = bad(1)
    deliver(make(), VISITS, visit(1))
    told = [headers["authorization"] for _, path, headers in server.requests if "data_file" not in path]
    assert set(told) == {TOKEN}
    assert any(f"access_token={TOKEN}" in path for _, path, _ in server.requests)
    assert "access_token=***" in caplog.text
    assert TOKEN not in caplog.text


PROFILE = TABLES["shop_people"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": "two words"}, "printable ASCII"),
        ({"url": "https://u:p@x.org"}, "takes no user"),
        ({"unknown_hold_s": 1}, "at least timeout_s"),
        ({"datamart_id": 0}, "greater than 0"),
        ({"tables": {"t": {"document_type": "USER_CHOICE"}}}, "USER_PROFILE"),
        ({"tables": {"t": {**PROFILE, "identifier": {}}}}, "exactly one"),
        ({"tables": {"t": {**PROFILE, "identifier": {"email_hash": "e", "user_agent_id": "u"}}}}, "exactly one"),
        ({"tables": {"t": {**PROFILE, "identifier": {"email_hash": "e", "compartment_id": 1}}}}, "compartment_id"),
        ({"tables": {"t": {**PROFILE, "identifier": {"user_agent_id": "e", "hash": "sha256"}}}}, "hash goes with"),
        ({"tables": {"t": {**TABLES["shop_members"], "segment_id": None}}}, "segment_technical_name"),
        ({"tables": {"t": {**PROFILE, "colums": ["a"]}}}, "Extra inputs"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_without_repeating_the_token(
    make: Make, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        make(**change)
    assert TOKEN not in str(caught.value)
    assert "two words" not in str(caught.value)


def test_the_block_in_the_documentation_is_one_that_works() -> None:
    page = Path(__file__).parents[2] / "docs/howto/send-to-mediarithmics.md"
    block = yaml.safe_load(page.read_text().split("```yaml")[1].split("```")[0])["destinations"]["dmp"]
    rules = mediarithmics.MediarithmicsSettings.model_validate(block).tables
    assert {rule.document_type for rule in rules.values()} == {"USER_PROFILE", "USER_SEGMENT", "USER_ACTIVITY"}


def test_settings_do_not_show_the_token(make: Make) -> None:
    destination = make()
    assert TOKEN not in f"{destination!r} {destination.settings!r} {destination.settings}"
