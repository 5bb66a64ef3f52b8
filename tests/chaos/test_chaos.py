"""A short cut of the chaos suite: one relay, some of the faults, once each; flow/test_end_to_end kills Valkey."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.chaos import page
from tests.chaos.database import Server
from tests.chaos.faults import FAULTS
from tests.chaos.running import Result, run

STORM = [
    "horse_sigkill",
    "parent_sigkill",
    "web_worker_sigkill",
    "death_before_settle",
    "import_500",
    "import_late_commit",
]


def test_nothing_is_lost_wrong_or_older_after_a_storm_of_faults():
    with Server() as server:
        result = run(server, "storm", STORM, strikes=1, events=800, seed=7)
    assert result.problems == []
    assert (result.lost, result.wrong, result.regressed, result.residual) == (0, 0, 0, 0)
    assert result.valid, f"something was in flight at each strike: {result.in_flight}"
    assert result.strikes == len(STORM)
    assert result.changes > result.events, "the trigger and the log were watching"


@pytest.mark.parametrize("name", ["orders", "comparing"])
def test_generator_and_model_import_nothing_of_what_they_test(name: str):
    files = [Path(__file__).with_name(f"{name}.py"), *(Path(__file__).parents[1] / "oracle").glob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in {"relay", "worker"}], file


def test_the_page_of_guarantees_is_what_the_last_results_say():
    assert page.PAGE.read_text() == page.text(page.results())


def test_a_fault_that_was_not_run_is_said_to_be_not_run():
    assert page.text({}).count("| not run |") == len(FAULTS)


def test_a_result_is_read_as_it_was_written():
    result = Result("import_500", 5, 6, [1, 2], wrong=1, recovery_s=[0.5, 1.5], problems=["one row is wrong"])
    assert page.read(page.line(result)) == result


def test_a_row_with_nothing_in_flight_is_invalid_and_one_with_a_loss_is_broken():
    row = {
        "fault": "import_500", "in_flight": [3] * 20, "events": 5000, "lost": 0, "wrong": 0, "regressed": 0,
        "changes": 9, "residual": 0, "recovery_s": [1.0, 2.0], "problems": [],
    }  # fmt: skip
    said = {
        state: page.text({"import_500": row | change}).split("`import_500`")[1].split("\n")[0]
        for state, change in (("holds", {}), ("invalid", {"in_flight": [3, 0]}), ("**broken**", {"lost": 1}))
    }
    for state, line in said.items():
        assert line.endswith(f"| {state} |")
