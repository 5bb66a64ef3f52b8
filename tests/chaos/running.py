"""One run: load, strikes one after another, and what is left at the end."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import psutil
import redis

from tests.chaos.comparing import Difference, differences
from tests.chaos.database import SCHEMA, Server
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.orders import SOURCE, endless, posts
from tests.chaos.scene import LANES, Scene, scene
from tests.oracle import reading
from tests.oracle.machine import eventually, gone
from tests.oracle.model import Model
from tests.oracle.sending import Answers, Delivery

_RECOVERS_S = 300.0
#: How much of a share is posted as fast as it goes, and the pause between two of the rest.
_AT_ONCE, _PAUSE_S = 0.4, 0.03
#: No strike takes longer to find its victim; then even a share that waits for it ends.
_LONGEST_S = 240.0


@dataclass
class Result:
    """What one run came to.

    Args:
        fault: name. events: distinct deliveries that were answered 202. in_flight: at each strike.
        lost, wrong: rows, over all destinations. regressed: versions that became smaller, at any time.
        residual: records and events that the ledger cannot account for. recovery_s: of each strike, until all that
        had been acknowledged by then was settled everywhere. problems: sentences, for whoever has to find out.
    """

    fault: str
    events: int = 0
    posts: int = 0
    in_flight: list[int] = field(default_factory=list)
    lost: int = 0
    wrong: int = 0
    regressed: int = 0
    changes: int = 0
    residual: int = 0
    recovery_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def strikes(self) -> int:
        """How often it struck."""
        return len(self.in_flight)

    @property
    def valid(self) -> bool:
        """Whether something was in flight at every strike."""
        return bool(self.in_flight) and min(self.in_flight) > 0

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return self.valid and not (self.lost or self.wrong or self.regressed or self.residual or self.problems)


def run(server: Server, name: str, faults: Sequence[str], *, strikes: int, events: int, seed: int = 1) -> Result:
    """Strike each fault so many times in one relay's life.

    Args:
        server: PostgreSQL.
        name: of the result.
        faults: struck in turn.
        strikes: of each.
        events: in all.
        seed: of the orders, and of what the faults choose.
    """
    result, plan = Result(name), [FAULTS[fault] for fault in faults for _ in range(strikes)]
    size = -(-len(posts(seed, events)) // (len(plan) + 1))
    load = endless(seed, events)
    with scene(server, seed, {fault.own for fault in plan}) as here:
        here.vendor.post(islice(load, size))
        eventually(lambda: here.settled(here.clock()), "the first share is settled", _RECOVERS_S)
        for turn, fault in enumerate(plan):
            here.turn = turn
            _strike(here, fault, load, size, result)
        buried = any(fault.retries_dead for fault in plan)
        _finish(here, result, retry=buried)
        _judge(here, result, buried=buried)
    return result


def _paced(load: Iterator[Delivery], size: int, struck: threading.Event) -> Iterator[Delivery]:
    """A share of the load: the first part at once, then a few at a time until it has struck, then the rest.

    A share lasts until it has struck, however long that takes: there is load when it does.
    """
    until = time.monotonic() + _LONGEST_S
    for place in count():
        over = struck.is_set() or time.monotonic() > until
        if place >= size and over:
            return
        if place > size * _AT_ONCE and not over:
            struck.wait(_PAUSE_S)
        yield next(load)


def _strike(here: Scene, fault: Fault, load: Iterator[Delivery], size: int, result: Result) -> None:
    struck = threading.Event()

    def beside() -> None:
        time.sleep(here.rng.uniform(0, 0.3))
        began = time.monotonic()
        try:
            result.in_flight.append(fault.strike(here))
        except AssertionError as error:
            result.in_flight.append(0)
            result.problems.append(f"strike {here.turn}: {error}")
        finally:
            struck.set()
        _recovered(here, result)
        result.recovery_s.append(round(time.monotonic() - began, 1))

    # A horse without a parent keeps its lane until that is idle, and cannot lose its parent again.
    eventually(lambda: all(map(gone, here.orphans)), "orphans come to their end", _RECOVERS_S)
    sent = len(here.vendor.log)
    here.vendor.post(_paced(load, size, struck), beside)
    sys.stderr.write(
        f"{result.fault} {here.turn + 1}: {result.in_flight[-1]} in flight, "
        f"recovered in {result.recovery_s[-1]} s, {len(here.vendor.log) - sent} new events\n"
    )


def _recovered(here: Scene, result: Result) -> None:
    """Wait for the strike's end: what had arrived by then is settled, and posts are taken again."""
    began = time.monotonic()
    until = eventually(here.clock, "Redis says what it has taken", _RECOVERS_S)

    def look() -> bool:
        taken = not here.vendor.on_the_way or here.vendor.answered_at > began
        return taken and here.settled(until)

    try:
        eventually(look, "all that had arrived is settled", _RECOVERS_S)
    except AssertionError as error:
        result.problems.append(f"strike {here.turn}: {error}: {_lanes(here)}")


def _lanes(here: Scene) -> str:
    with suppress(redis.RedisError, OSError, psutil.Error):
        return json.dumps({lane: here.redis.hgetall(f"rh:lane:{lane}") for lane in LANES.values()})
    return "Redis does not answer"


def _finish(here: Scene, result: Result, *, retry: bool) -> None:
    """Everything is delivered; what was buried on purpose gets another chance."""
    here.imports.choose = lambda _post: None
    here.imports.objects_to = lambda _point: None
    lanes = [*LANES.values(), "archive/0/1"]
    try:
        eventually(lambda: not any(here.waiting(lane) for lane in lanes), "everything is delivered", _RECOVERS_S)
        if retry:
            again = here.relay.command("dead", "retry", "--all")
            sys.stderr.write(again.stdout[-300:])
            if again.returncode:
                result.problems.append(f"relay dead retry: {again.stdout}{again.stderr}"[-500:])
            eventually(
                lambda: not any(here.waiting(lane) for lane in lanes), "the retried are delivered", _RECOVERS_S
            )
    except AssertionError as error:
        result.problems.append(f"{error}: {_lanes(here)}")


def _judge(here: Scene, result: Result, *, buried: bool) -> None:
    log = here.vendor.log
    result.events, result.posts = len(log), sum(answers.posts for answers in log.values())
    tables = {
        "sqlite": reading.sqlite_tables(here.relay.data / "warehouse.db"),
        "postgres": reading.postgres_tables(here.database.uri, SCHEMA),
        "imports": {table: list(rows.values()) for table, rows in here.imports.tables.items()},
    }
    model = told(log)
    for destination, found in tables.items():
        wrong = differences(model, found, keeps_deleted=destination != "imports")
        _note(result, destination, wrong)
    result.regressed = here.database.regressed() + len(here.imports.regressions())
    result.changes = here.database.changed() + len(here.imports.log)
    for before, after in here.imports.regressions()[:3]:
        result.problems.append(
            f"imports {after.table} {after.key}: {after.point['_relay_version']} was stored "
            f"{after.at - before.at:.2f} s after {before.point['_relay_version']}"
        )
    result.problems += here.broken
    _account(here, result)
    if not buried:  # a delivery that failed is not forgotten when it is repeated, it is run again
        twice = [answers for answers in log.values() if len(answers.ids) != 1]
        result.lost += len(twice)  # the repetition of one that was lost gets a number of its own
        result.problems += [f"one delivery was given the numbers {answers.ids}" for answers in twice[:3]]


def _note(result: Result, destination: str, wrong: list[Difference]) -> None:
    result.wrong += len(wrong)
    result.lost += sum(one.lost for one in wrong)
    result.problems += [f"{destination} {one.table} {one.key}: {one.fault}" for one in wrong[:5]]


def told(log: dict[Delivery, Answers]) -> Model:
    """The model of all that was answered 202; where an answer was lost on its way, its repetition counts."""
    model = Model()
    for delivery, answers in log.items():
        for identity in answers.ids:
            model.tell(delivery.facts, source=SOURCE, received=int(identity))
    return model


def _account(here: Scene, result: Result) -> None:
    """The ledger against itself, and against what the vendor knows."""
    stats = json.loads(here.relay.command("stats", "--json").stdout)
    result.residual = sum(_residuals(stats, here.vendor.log))
    buried = here.redis.hgetall("rh:dead")
    result.problems += [f"buried, {place}: {letter}" for place, letter in sorted(buried.items())[:3]]
    audit = here.relay.command("audit", "--deep", "--json")
    faults = json.loads(audit.stdout)["faults"] if audit.stdout else [audit.stderr]
    result.residual += len(faults)
    result.problems += faults


def _residuals(stats: dict[str, Any], log: dict[Delivery, Answers]) -> Iterator[int]:
    events = stats["events"][SOURCE]
    states = ("duplicate", "ignored", "quarantined", "mapped", "waiting", "discarded")
    yield abs(events["accepted"] - sum(events.get(state, 0) for state in states))
    yield abs(events["mapped"] - sum(len(answers.ids) for answers in log.values()))
    for route in stats["records"]:
        states = ("stored", "superseded", "dead", "pending", "discarded")
        yield abs(route["emitted"] - sum(route.get(state, 0) for state in states))
        yield abs(route.get("dead", 0)) + abs(route.get("pending", 0))
