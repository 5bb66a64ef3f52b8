"""The line of each attempt to deliver: how it ended, and what the destination said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from relay import telemetry
from tests.flow.test_delivery import Here, here, order  # noqa: F401 - a fixture
from tests.servers import import_server as api

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """The attempts' lines so far, oldest first."""
    telemetry.setup("json")
    logging.getLogger().addHandler(caplog.handler)

    def found() -> list[dict[str, Any]]:
        said = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        return [line for line in said if line["event"] == "delivery_attempt"]

    return found


def test_what_is_stored_is_one_line_at_info_however_many_records(here: Here, lines: Lines):  # noqa: F811
    arrivals = [here.put(order(n)) for n in range(30)]
    here.drain()
    (line,) = lines()
    assert (line["level"], line["outcome"]) == ("info", "stored")
    assert line["reason"] == line["detail"] == ""
    assert (line["events"], line["records"], line["stored"], line["attempt"]) == (30, 30, 30, 1)
    assert (line["destination"], line["lane"], line["tables"]) == ("mbi", "mbi/0/1", ["s_orders"])
    assert line["event_ids"] == arrivals[:20]


def test_an_older_row_is_superseded(here: Here, lines: Lines):  # noqa: F811
    here.put(order(1, at=2))
    here.drain()
    here.put(order(1, at=1))
    here.drain()
    assert [line["outcome"] for line in lines()] == ["stored", "superseded"]


def test_one_bad_record_is_bisected_and_its_burial_counted(here: Here, lines: Lines):  # noqa: F811
    here.server.objects_to = lambda point: "id 7 is bad" if point["id"] == 7 else None
    for n in range(10):
        here.put(order(n))
    here.drain()
    (line,) = lines()
    assert (line["level"], line["outcome"]) == ("warning", "bisected")
    assert (line["stored"], line["buried"], line["again"]) == (9, 1, 0)
    assert line["calls"] > 2


def test_a_destination_that_fails_is_a_warning_with_its_words_and_the_next_attempt_has_a_number(here, lines):  # noqa: F811
    here.server.faults(api.refuse(503), api.refuse(503))
    here.put(order(1))
    here.drain()
    here.wake()
    here.drain()
    here.wake()
    here.drain()
    first, second, third = lines()
    assert (first["level"], first["outcome"], first["again"], first["stored"]) == ("warning", "retry", 1, 0)
    assert "503" in first["detail"]
    assert first["reason"]
    assert [line["attempt"] for line in (first, second, third)] == [1, 2, 3]
    assert third["outcome"] == "stored"


def test_refused_credentials_are_named_and_not_shown(here: Here, lines: Lines, capfd):  # noqa: F811
    here.put(order(1))
    here.drain(api_key="wrongkey0815")
    (line,) = lines()
    assert (line["level"], line["outcome"], line["again"]) == ("warning", "refused", 1)
    assert "wrongkey0815" not in str(line) + "".join(capfd.readouterr())
