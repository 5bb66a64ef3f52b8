"""What the ticker does about what needs a person: it says so in the log, and has it noted for alerts."""

from __future__ import annotations

import time
from typing import Final

import redis as driver
from redis.exceptions import RedisError

from relay.buffer import keys, measures
from relay.buffer.alerts import Alerts
from relay.buffer.needs import look
from relay.config import Config
from relay.dispatch import ask_to_send
from relay.errors import RelayError
from relay.telemetry import logger

#: How often the ticker looks, how often the log repeats what stays, and how often unsent alerts are asked for.
LOOK_S: Final = 60.0
REPEAT_S: Final = 3600.0
_SEND_S: Final = 1.0
#: Before the first look the workers that were just started have said that they are there.
_SETTLE_S: Final = 10.0
log = logger("needs")


class Watchman:
    """Looks for what needs a person.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client, self.alerts = client, Alerts(client)
        self._looked = time.monotonic() - LOOK_S + min(_SETTLE_S, LOOK_S)
        self._asked = -_SEND_S
        self._said: dict[str, float] = {}

    def tick(self, config: Config) -> None:
        """Look, where it is time to, and have sent what is unsent.

        Raises:
            RedisError, OSError, BufferUnavailable: Redis cannot be asked.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            try:
                self._look(config, now)
            except (RelayError, RedisError, OSError):
                raise
            except Exception:  # what a hand left in Redis must not end the ticker, and with it deliveries
                log.exception("needs_not_seen")
        if config.settings.alerts and now - self._asked >= _SEND_S:
            self._asked = now
            now_ms = measures.now_us(self.client) // 1000
            if self.alerts.due(now_ms) and not self.client.exists(keys.SENDING):
                ask_to_send(self.client)

    def _look(self, config: Config, now: float) -> None:
        needs = look(self.client, config)
        self._said = {need.id: self._said[need.id] for need in needs if need.id in self._said}
        for need in needs:
            if now - self._said.get(need.id, -REPEAT_S) >= REPEAT_S:
                self._said[need.id] = now
                say = log.error if need.tone == "bad" else log.warning
                say(need.kind, about=need.about, what=need.what, why=need.why)
        if config.settings.alerts:
            self.alerts.note(needs, measures.now_us(self.client) // 1000, config.settings)
