"""docs/explanation/guarantees.md, from the last run of each fault (guarantees.json, a line each)."""

from __future__ import annotations

import datetime as dt
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS
from tests.chaos.running import Result

_DOCS = Path(__file__).parents[2] / "docs" / "explanation"
RESULTS, PAGE = _DOCS / "guarantees.json", _DOCS / "guarantees.md"
#: A row below these is a try, not a proof.
STRIKES, EVENTS = 20, 5000
_HEAD = """# What is guaranteed, and how it was tried

No acknowledged event is lost, no row goes back in time, every event is accounted for. Here is what happened when
that was put to the test. Written by `make chaos`; one row again: `make chaos FAULT=valkey_sigkill`.

A vendor posts the lives of orders to a running relay from six threads: their lines grow, shrink, go and come back;
orders are deleted and made anew; timestamps are equal; a tenth of the deliveries comes late, a tenth twice. It
repeats what is not answered 202, as vendors do. The relay has three destinations at once: SQLite, PostgreSQL and
an Import API. While it works, the fault strikes, again and again. At the end every row of every destination is
held against a model that imports nothing of the relay.

* **in flight**: requests, events or rows that the victim had in hand, the least of all strikes. With 0 the row is
  invalid: nothing was at stake.
* **lost**: rows that lack a change which was answered 202. **wrong**: rows that differ in any way.
* **regressed**: how often a row's version became smaller, at any time: a trigger in PostgreSQL and the Import
  server's log see every change.
* **residual**: events and records that the ledger does not account for, and every sentence of
  `relay audit --deep`.
* **recovery**: from the strike until all that had been acknowledged by its end was settled at every destination,
  and posts were taken again; median and longest. A stall's own length is in it.

Assumed: an Import API applies nothing later than `unknown_hold_s` after a connection ended. Here that is 2 s, the
relay waits 1 s for an answer, and late commits come up to 1.5 s after the connection was dropped. SQLite,
PostgreSQL and Valkey keep what they said they synced. Clocks are no more than two days apart; this vendor signs no
time, and one that does is refused (401) by a process whose clock is off.

| fault | strikes | events | in flight | lost | wrong | regressed (of changes) | residual | recovery, s | verdict |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---|
"""


def results() -> dict[str, dict[str, Any]]:
    """The last result of each fault."""
    if not RESULTS.exists():
        return {}
    return {row["fault"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}


def line(result: Result) -> str:
    """A result as JSON, with the day."""
    return json.dumps({**asdict(result), "day": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"})


def read(said: str) -> Result:
    """A result from its line."""
    return Result(**{name: value for name, value in json.loads(said).items() if name != "day"})


def keep(result: Result) -> None:
    """Replace the fault's result, and write the page."""
    known = results()
    known[result.fault] = json.loads(line(result))
    RESULTS.write_text("".join(json.dumps(known[name]) + "\n" for name in FAULTS if name in known))
    write(known)


def write(known: dict[str, dict[str, Any]]) -> None:
    """Write the page."""
    PAGE.write_text(text(known))


def text(known: dict[str, dict[str, Any]]) -> str:
    """The page: a row a fault, those that were not run included."""
    return _HEAD + "".join(_row(name, known.get(name)) for name in FAULTS)


def _row(name: str, row: dict[str, Any] | None) -> str:
    says = f"| `{name}`: {FAULTS[name].says} "
    if row is None:
        return says + "| | | | | | | | | not run |\n"
    least = f"{min(row['in_flight'])} {FAULTS[name].in_flight}"
    recovery = f"{statistics.median(row['recovery_s']):.1f} / {max(row['recovery_s']):.1f}"
    cells = [
        len(row["in_flight"]), row["events"], least, row["lost"], row["wrong"],
        f"{row['regressed']} ({row['changes']})", row["residual"], recovery, _verdict(row),
    ]  # fmt: skip
    return says + "".join(f"| {cell} " for cell in cells) + "|\n"


def _verdict(row: dict[str, Any]) -> str:
    if not min(row["in_flight"]):
        return "invalid"
    if row["lost"] or row["wrong"] or row["regressed"] or row["residual"] or row["problems"]:
        return "**broken**"
    return "holds" if len(row["in_flight"]) >= STRIKES and row["events"] >= EVENTS else "holds, in a short run"
