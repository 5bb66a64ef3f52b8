"""Counts the types of events of which no row came, beside the request and never in its way.

Nothing of such an event is kept, so it can be noticed only here. An event that is mapped costs one look at it;
what was counted is told to Redis seconds later by a thread of its own, which is there only while there is
something to tell. Whatever goes wrong, counts are lost and nothing else.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence
from typing import Final

import redis as driver

from relay.buffer.accept import Taken
from relay.buffer.drift import NAME, Drift, Finding, Seen
from relay.configured import Source
from relay.intake import Accepted
from relay.telemetry import logger

log = logger("hooks")
FLUSH_S: Final = 2.0
#: Types that are counted between two flushes.
_MOST: Final = 200


class Unmapped:
    """The ignored events of one web process."""

    def __init__(self, client: driver.Redis) -> None:
        self._drift = Drift(client)
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str], Finding] = {}
        self._timer: threading.Timer | None = None
        self._told = self._registered = False

    def took(self, source: Source, accepted: Accepted, taken: Sequence[Taken]) -> None:
        """Take note of the events of a delivery that was taken; whatever goes wrong here is only logged, once."""
        try:
            self._took(source, accepted, taken)
        except Exception as error:  # noqa: BLE001 - the caller's answer does not depend on it
            self._say(error)

    def _took(self, source: Source, accepted: Accepted, taken: Sequence[Taken]) -> None:
        if all(offer.blob for offer in accepted.delivery.offers):
            return
        for number, (offer, one) in enumerate(zip(accepted.delivery.offers, taken, strict=True)):
            # Nothing of an ignored event is stored; a test that is dropped by the settings is none of those.
            if offer.blob or one.duplicate or (source.drop_tests and accepted.events[number].test):
                continue
            self._count(source.name, offer.type[:NAME], int(one.arrival) // 1000)

    def flush(self) -> None:
        """Tell what was counted."""
        with self._lock:
            counted, self._counted, self._timer = self._counted, {}, None
        if not counted:
            return
        try:
            self._drift.note(
                Seen(source, "", one.first, one.last, one.count, [one]) for (source, _), one in counted.items()
            )
        except Exception as error:  # noqa: BLE001 - nothing hangs on it
            self._say(error)

    def _say(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            log.warning("drift_not_noticed", why=type(error).__name__)

    def _count(self, source: str, type_: str, at: int) -> None:
        with self._lock:
            known = self._counted.get((source, type_))
            if known is not None:
                known.count, known.last = known.count + 1, max(known.last, at)
            elif len(self._counted) < _MOST:
                self._counted[source, type_] = Finding(type_, "", "", 1, at, at)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_S, self.flush)
                self._timer.name, self._timer.daemon = "unmapped", True
                self._timer.start()
            if not self._registered:
                self._registered = True
                atexit.register(self.flush)
