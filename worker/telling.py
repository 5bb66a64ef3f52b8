"""The one line, and the span, of each attempt to deliver a claim: what went, how it ended, and why it did not.

At info where all is well, so that a busy relay writes as many lines as it settles claims; a warning else. Words
are the destination's own, cut short.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from structlog.contextvars import bound_contextvars

from relay import tracing
from relay.buffer.lanes import Lane
from relay.errors import StaleClaim
from relay.telemetry import logger
from worker.destination import STORED, SUPERSEDED
from worker.measuring import Measuring
from worker.reading import Work
from worker.tally import Tally

log = logger("delivery")
#: Tables, events and causes that a line names.
_MOST: Final = 20
DEAD: Final = "dead"
_WELL: Final = frozenset({"stored", "superseded"})


@contextmanager
def told(lane: Lane, work: Work, turn: Tally, measuring: Measuring) -> Iterator[None]:
    """Say what becomes of an attempt when it ends, however that is.

    Args:
        lane: that is served.
        work: what is delivered.
        turn: what is counted meanwhile.
        measuring: of the same drain.
    """
    waited_ms, began = measuring.age_ms(min((one.arrival for one in work.claimed), default="")), time.monotonic()
    batch, parents = secrets.token_hex(6), set(work.traces.values())
    # Of one event's trace it is a part; of several it is none, and each call of the destination links to its own.
    parent = parents.pop() if len(parents) == 1 and len(work.traces) == len(work.claimed) else ""
    with (
        bound_contextvars(batch_id=batch),
        tracing.span("drain", "CONSUMER", parent=parent, lane=lane.name, batch_id=batch) as span,
    ):
        outcome = "unknown"  # ended by something else, such as the time limit of a job
        try:
            yield
            outcome = _outcome(turn)
        except StaleClaim:
            outcome = "lane_lost"
            raise
        finally:
            span.note(outcome=outcome, events=len(work.claimed))
            spent_ms = round((time.monotonic() - began) * 1000, 1)
            _say(lane, work, turn, outcome, measuring.calls, waited_ms, spent_ms)


def _say(lane: Lane, work: Work, turn: Tally, outcome: str, calls: int, waited_ms: int | None, ms: float) -> None:
    states = _states(turn)
    log.log(
        logging.WARNING if outcome not in _WELL else logging.INFO,
        "delivery_attempt",
        destination=lane.destination,
        lane=lane.name,
        outcome=outcome,
        tables=sorted(work.items)[:_MOST],
        events=len(work.claimed),
        event_ids=[one.arrival for one in work.claimed[:_MOST]],
        records=sum(map(len, work.items.values())),
        bytes=sum(len(one.blob) for one in work.claimed),
        attempt=max((one.tries for one in work.claimed), default=0) + 1,
        calls=calls,
        stored=states[STORED],
        superseded=states[SUPERSEDED],
        buried=states[DEAD],
        again=sum(map(len, turn.again.values())),
        unread=len(work.unread),
        ms=ms,
        waited_ms=waited_ms,
        reason=turn.reason,
        detail="; ".join(turn.causes[:_MOST]) or turn.why[:500],
    )


def _states(turn: Tally) -> Counter[str]:
    found: Counter[str] = Counter()
    for field, n in turn.counts.items():
        found[field.rsplit("|", 1)[1]] += n
    return found


def _outcome(turn: Tally) -> str:
    """How an attempt ended, in one word."""
    states = _states(turn)
    if turn.again:
        if turn.passed:
            return "partly"
        return "refused" if turn.denied else "retry"
    if states[DEAD]:
        return "bisected" if states[STORED] or states[SUPERSEDED] else "buried"
    return "stored" if states[STORED] or not states[SUPERSEDED] else "superseded"
