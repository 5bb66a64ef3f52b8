"""What one drain measures: how its attempts end, how many rows they have, how old a row is once it is committed.

Counted by the script that settles the claim: in the same step, and so once. Nothing hangs on it: a fault is
logged, and the drain goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import redis as driver
from rq.timeouts import BaseTimeoutException

from relay.buffer import measures
from relay.errors import Permanent, Refused, StaleClaim, Transient
from relay.telemetry import logger

log = logger("measuring")
_MICROS = 1_000_000


class Measuring:
    """The measures of one drain; attempts may be noted from several threads.

    Args:
        client: Redis. destination: that is delivered to.
    """

    def __init__(self, client: driver.Redis, destination: str) -> None:
        self._client, self._destination = client, destination
        self._tries: list[tuple[int, str]] = []
        #: Redis's time less the monotonic one: no clock of this machine that can be set is used.
        self._offset_us: int | None = None

    @contextmanager
    def attempt(self, rows: int) -> Iterator[None]:
        """Note an attempt, by how it ends."""
        outcome = "unknown"  # ended by something else, such as the time limit of a job
        try:
            yield
            outcome = "stored"
        except Transient as error:
            outcome = "unknown" if error.unknown else "transient"
            raise
        except Refused:
            outcome = "refused"
            raise
        except Permanent as error:
            outcome = "broken" if error.reason == "ours" else "rejected"
            raise
        except StaleClaim:
            outcome = ""  # nothing was sent
            raise
        finally:
            if outcome:
                self._tries.append((rows, outcome))

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

    def counts(self, committed: Iterable[str]) -> dict[str, int]:
        """What was noted, and the lag of records that were just committed, by their arrival numbers."""
        tries, self._tries = self._tries, []
        found = measures.batches(self._destination, tries)
        try:
            found += measures.lags(self._destination, committed, self._now_us())
        except BaseTimeoutException:  # the job's own end
            raise
        except Exception as error:  # noqa: BLE001 - what was delivered is settled in any case
            log.warning("lag_not_measured", destination=self._destination, why=type(error).__name__)
        return {field: n for field, n in found.items() if n}

    def _now_us(self) -> int:
        if self._offset_us is None:
            self._offset_us = measures.now_us(self._client) - int(time.monotonic() * _MICROS)
        return self._offset_us + int(time.monotonic() * _MICROS)
