"""What the ticker looks after besides bells: clock, parking, fences, documents, alerts, pulses, samples."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import redis as driver
from redis.exceptions import RedisError

from relay.buffer.alarms import maxmemory
from relay.buffer.bounds import bounds_of
from relay.buffer.clock import Clock
from relay.buffer.documents import Documents
from relay.buffer.fences import Fences, keeping
from relay.buffer.parking import Parking
from relay.buffer.pulse import Pulse
from relay.buffer.samples import Sampler
from relay.buffer.waiting import Waiting
from relay.config import Config
from relay.dispatch import ask_to_expand, ask_to_fetch
from relay.errors import RelayError
from relay.telemetry import logger
from worker import exports
from worker.jobs import open_archive
from worker.watching import Watchman

log = logger("keeper")
PARK_S: Final = 1.0
FENCES_S: Final = 3600.0
#: Beyond the longest time after which a delivery is still sent again, so that clocks may differ.
_MORE_DAYS: Final = 1


class Keeper:
    """Does a little at each tick.

    Args:
        config: settings. client: Redis.
    """

    def __init__(self, config: Config, client: driver.Redis) -> None:
        self.config, self.client = config, client
        self._parking: Parking | None = None
        self._parked = self._cleaned = -FENCES_S
        self._cleaning: Iterator[None] = iter(())
        self._watchman, self._clock = Watchman(client), Clock(client)
        self._documents, self._waiting = Documents(client), Waiting(client)
        self._pulse, self._sampler = Pulse(client), Sampler(client)

    def reload(self, config: Config) -> None:
        """Go on with other settings."""
        self.config, self._parking = config, None

    def tick(self) -> None:
        """One turn.

        Raises:
            RedisError, OSError: Redis cannot be asked.
        """
        now = time.monotonic()
        self._clock.tick()
        if now - self._parked > PARK_S:
            self._parked = now
            self._park()
        self._clean(now)
        for execution in self._documents.due():
            if ask_to_expand(self.client, execution, again=True):
                self._documents.asked(execution)
        for source in self._waiting.due(int(time.time() * 1000)):
            ask_to_fetch(self.client, source)
        _watched(
            lambda: self._pulse.look(self.config.settings.sources)
        )  # first, or nobody would have looked lately
        self._watchman.tick(self.config)
        _watched(self._sampler.look)

    def _park(self) -> None:
        if self.config.settings.archive_days == 0:  # the only other place for what waits
            return
        if self._parking is None:
            bounds = bounds_of(self.config.settings, maxmemory(self.client))
            self._parking = Parking(self.client, bounds, self._archived)
        freed = self._parking.step()
        if freed:
            log.info("events_parked", bytes=freed)

    def _archived(self, arrivals: Sequence[str]) -> set[str]:
        # Opened for the moment: this process forks, and a file of SQLite must not live through that.
        with contextlib.closing(open_archive(self.config)) as archive:
            return archive.has(arrivals)

    def _clean(self, now: float) -> None:
        if next(self._cleaning, self) is not self:
            return
        if now - self._cleaned > FENCES_S:
            self._cleaned = now
            exports.sweep(self.config)
            settings = self.config.settings
            days = max(settings.dedup_days, settings.archive_days) + _MORE_DAYS
            bounds = bounds_of(settings, maxmemory(self.client))
            self._cleaning = keeping(Fences(self.client), days, bounds.fences)


def _watched(look: Callable[[], None]) -> None:
    """Let what only watches fail alone: a counter that a hand damaged must not end deliveries.

    Raises:
        RelayError, RedisError, OSError: Redis cannot be asked.
    """
    try:
        look()
    except (RelayError, RedisError, OSError):
        raise
    except Exception:
        log.exception("not_watched")
