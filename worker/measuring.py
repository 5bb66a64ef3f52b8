"""What one drain notes: how its attempts end, how many rows they have, how old a row is once it is committed.

Counted by the script that settles the claim: in the same step, and so once. Nothing hangs on it: a fault is
logged, and the drain goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec
import redis as driver
from rq.timeouts import BaseTimeoutException

from relay.buffer import attempts, measures
from relay.buffer.lanes import Settlement
from relay.errors import Permanent, Refused, StaleClaim, Transient
from relay.telemetry import logger
from worker.destination import Batch

log = logger("measuring")
_MICROS = 1_000_000
_WELL = "stored"


class _Try(msgspec.Struct, frozen=True):
    """One call of the destination; its times are of the monotonic clock."""

    batch: Batch
    outcome: str
    words: str
    began: float
    ended: float


class Measuring:
    """The measures of one drain; attempts may be noted from several threads.

    Args:
        client: Redis. destination: that is delivered to. lane: that is served.
    """

    def __init__(self, client: driver.Redis, destination: str, lane: str = "") -> None:
        self._client, self._destination, self._lane = client, destination, lane
        self._tries: list[_Try] = []
        #: Redis's time less the monotonic one: no clock of this machine that can be set is used.
        self._offset_us: int | None = None

    @contextmanager
    def attempt(self, batch: Batch) -> Iterator[None]:
        """Note an attempt, by how it ends."""
        began = time.monotonic()
        outcome, words = "unknown", ""  # ended by something else, such as the time limit of a job
        try:
            yield
            outcome = "stored"
        except Transient as error:
            outcome, words = "unknown" if error.unknown else "transient", str(error)
            raise
        except Refused as error:
            outcome, words = "refused", str(error)
            raise
        except Permanent as error:
            outcome, words = "broken" if error.reason == "ours" else "rejected", str(error)
            raise
        except StaleClaim:
            outcome = ""  # nothing was sent
            raise
        finally:
            if outcome:
                self._tries.append(_Try(batch, outcome, words, began, time.monotonic()))

    @property
    def calls(self) -> int:
        """Attempts noted since the last counts."""
        return len(self._tries)

    def age_ms(self, arrival: str) -> int | None:
        """How long ago an event was taken; None where that cannot be told."""
        if not arrival:
            return None
        try:
            return max(0, self._now_us() - int(arrival)) // 1000
        except BaseTimeoutException:  # the job's own end
            raise
        except Exception:  # noqa: BLE001 - it is only told
            return None

    def note(self, settlement: Settlement, committed: Iterable[str]) -> None:
        """Hand over what was noted, and the lag of records that were just committed, by their arrival numbers."""
        tries, self._tries = self._tries, []
        found = measures.batches(self._destination, ((len(t.batch.items), t.outcome) for t in tries))
        try:
            found += measures.lags(self._destination, committed, self._now_us())
            failed = attempts.chosen([t for t in tries if t.outcome != _WELL])
            settlement.attempts = [self._told([t]) for t in failed]
            passed = [t for t in tries if t.outcome == _WELL]
            settlement.successes = [self._told(passed)] if passed else []
        except BaseTimeoutException:  # the job's own end
            raise
        except Exception as error:  # noqa: BLE001 - what was delivered is settled in any case
            log.warning("lag_not_measured", destination=self._destination, why=type(error).__name__)
        settlement.measured = {field: n for field, n in found.items() if n}

    def _told(self, tries: list[_Try]) -> attempts.Attempt:
        """Attempts that ended alike, as one."""
        names = {t.batch.table.name for t in tries}
        items = [item for t in tries for item in t.batch.items]
        count, first, last, named = attempts.of_events(item.event for item in items)
        return attempts.Attempt(
            (self._us(tries[-1].ended) // 1000), self._lane, names.pop() if len(names) == 1 else "",
            sum(item.rows for item in items), tries[0].outcome, tries[-1].words[: attempts.WORDS], count, first,
            last, named, int(sum(t.ended - t.began for t in tries) * 1000),
        )  # fmt: skip

    def _now_us(self) -> int:
        return self._us(time.monotonic())

    def _us(self, monotonic: float) -> int:
        """A moment by Redis's clock."""
        if self._offset_us is None:
            self._offset_us = measures.now_us(self._client) - int(time.monotonic() * _MICROS)
        return self._offset_us + int(monotonic * _MICROS)
