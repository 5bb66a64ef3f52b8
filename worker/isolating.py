"""Finds the records over which a load fails again and again, although nobody calls them wrong.

A poison record and an outage say the same: the load failed. What tells them apart is whether anything else of the
same table is taken. So a batch is halved, all of its parts in turn; and a record is to blame only where it failed
alone twice, with a record taken before the second time that was taken after it as well. An outage between any two
moments cannot look like that, and where nothing is taken at all, nobody is to blame.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from relay.errors import Refused, Transient
from relay.telemetry import logger
from worker.destination import STORED, Item, Rejected, Verdict

log = logger("delivery")
#: The reason of such failures.
LOAD: Final = "load"
#: So many parts failed with none taken: it is the destination.
MOST_FAILED: Final = 8
#: After so long no further part is begun: RQ has a limit of its own.
MOST_S: Final = 90.0

#: A verdict of None: the destination fails over this record alone, so it waits and holds nobody else up.
Verdicts = list[Verdict | None]
Send = Callable[[list[Item]], Verdicts]


def told_apart(batch: Sequence[Item], send: Send, may_blame: Callable[[Item], bool]) -> Verdicts:
    """What becomes of the records of a batch that failed as a whole; all None where nothing of it is taken.

    Args:
        batch: the records; of one alone nothing can be told.
        send: delivers some of them; raises `Transient` of reason `LOAD` where that failed. What else it raises of
            a destination ends it.
        may_blame: whether a record has failed often enough to be buried.
    """
    verdicts: Verdicts = [None] * len(batch)
    alone: list[int] = []
    parts, failed, until = deque(_halves(0, len(batch)) if len(batch) > 1 else ()), 0, time.monotonic() + MOST_S
    try:
        while parts and time.monotonic() < until and (failed < MOST_FAILED or STORED in verdicts):
            start, end = parts.popleft()
            answer = _sent(send, batch[start:end])
            if not isinstance(answer, Transient):
                verdicts[start:end] = answer
                continue
            failed += 1
            if end - start > 1:
                parts.extend(_halves(start, end))
            elif may_blame(batch[start]):
                alone.append(start)
        if alone and STORED in verdicts:
            _confirm(batch, send, alone[:MOST_FAILED], verdicts)
    except (Transient, Refused):
        return verdicts  # the destination is away, or takes nothing: what has no verdict waits
    return verdicts


def held(table: str, batch: Sequence[Item], send: Send, over: Callable[[], bool]) -> Verdicts:
    """Halve a batch over which a destination fails while it takes others; None for a record that fails alone.

    Args:
        table: for the log.
        batch: the records.
        send: delivers some of them, or raises.
        over: whether the destination went away meanwhile.
    """
    try:
        return send(list(batch))
    except (Transient, Refused) as error:
        if len(batch) == 1 or over():
            log.warning("record_held", table=table, key=batch[0].key, detail=str(error)[:500])
            return [None] * len(batch)
    half = len(batch) // 2
    return held(table, batch[:half], send, over) + held(table, batch[half:], send, over)


def _confirm(batch: Sequence[Item], send: Send, alone: Sequence[int], verdicts: Verdicts) -> None:
    witness = [batch[verdicts.index(STORED)]]
    send(witness)
    answers = {n: _sent(send, [batch[n]]) for n in alone}
    send(witness)
    for n, answer in answers.items():
        if not isinstance(answer, Transient):
            verdicts[n] = answer[0]
        elif not answer.unknown:  # else it may be there, and an older one would go over it once this is given up
            verdicts[n] = Rejected(
                f"the load fails over this record alone, while others of its table are taken: {answer}"
            )


def _sent(send: Send, part: Sequence[Item]) -> Verdicts | Transient:
    try:
        return send(list(part))
    except Transient as error:
        if error.reason != LOAD:
            raise
        return error


def _halves(start: int, end: int) -> list[tuple[int, int]]:
    middle = (start + end) // 2
    return [(start, middle), (middle, end)]
