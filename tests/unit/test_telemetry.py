"""Logs: one manner for every line of a process, and no secret in any of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from relay.telemetry import carrying, without_secrets

LINES = """
import logging, sys, threading, warnings
import structlog
from relay import telemetry

telemetry.setup("json", "info")
structlog.contextvars.bind_contextvars(request_id="r1")
telemetry.logger("ours").warning("said", url="postgresql://me:hunter2@db/x", n=3)
logging.getLogger("theirs").warning("GET /a?apikey=%s went wrong", "hunter2")
warnings.warn("old manner, password=hunter2", DeprecationWarning, stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="helper")
thread.start()
thread.join()
raise ValueError("could not reach redis://:hunter2@cache/0")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """What a process logs that does everything wrong, one JSON object a line."""
    command = [sys.executable, "-W", "default", "-c", LINES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_what_we_and_libraries_say_warn_and_die_of_are_lines_of_one_manner(lines):
    assert [(line["logger_name"], line["level"]) for line in lines] == [
        ("ours", "warning"),
        ("theirs", "warning"),
        ("py.warnings", "warning"),
        ("process", "error"),
        ("process", "critical"),
    ]
    assert all({"timestamp", "process_id", "event"} <= line.keys() for line in lines)
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert lines[4]["event"] == "process_failed"


def test_what_is_bound_stands_in_every_line_of_the_thread_and_in_no_others(lines):
    assert [line.get("request_id") for line in lines] == ["r1", "r1", "r1", None, "r1"]


def test_nothing_secret_of_a_url_or_a_dsn_is_written():
    for text, plain in {
        "postgresql://me:p@ss/w0rd@db:5432/x": "postgresql://…@db:5432/x",
        "redis://:secret@cache/0 is away": "redis://…@cache/0 is away",
        "https://h/v2/t?apikey=abc&x=1": "https://h/v2/t?apikey=…&x=1",
        "host=db password='a b' user=me": "host=db password=… user=me",
        "https://h/a?access_token=abc": "https://h/a?access_token=…",
        "plain words": "plain words",
    }.items():
        assert without_secrets(text) == plain


def test_a_line_is_bounded():
    assert len(without_secrets("x" * 100_000)) < 20_000


def test_a_call_for_another_thread_carries_what_is_bound_here():
    from concurrent.futures import ThreadPoolExecutor

    import structlog

    with structlog.contextvars.bound_contextvars(batch="b1"), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(carrying(lambda _: structlog.contextvars.get_contextvars()), range(3)))
    assert found == [{"batch": "b1"}] * 3
