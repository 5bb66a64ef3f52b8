"""The supervisor's loop: keeps parts and server running, says when all is ready, reloads, and stops in order."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from typing import Final

from relay import telemetry
from relay.config import Config
from relay.errors import ConfigInvalid
from relay.supervisor.active import Active
from relay.supervisor.address import Address
from relay.supervisor.embedded import Server
from relay.supervisor.parts import Part, Running, end_orphans, reap_orphans
from relay.supervisor.signals import Signals

_log = telemetry.logger(__name__)
_STEP_S: Final = 0.25
_PROBE_S: Final = 0.5
_PATIENCE_S: Final = 60.0
#: Settings that are fixed when `relay up` starts.
_FIXED: Final = ("host", "port", "redis_url")


class Supervisor:
    """Runs parts until it is told to stop.

    Args:
        parts: in the order in which they are stopped.
        server: the embedded server, stopped after all parts; None where Redis is elsewhere.
        address: where the web part listens. active: the configuration, for reloads. config: as it is now.
        signals: entered. say: takes progress, one line a call.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        server: Server | None,
        address: Address,
        active: Active,
        config: Config,
        signals: Signals,
        say: Callable[[str], None],
    ) -> None:
        self._running = [Running(part) for part in parts]
        self._server, self._address, self._active, self._config = server, address, active, config
        self._signals, self._say = signals, say
        self._ready = self._told = False
        self._since = self._probed = 0.0
        self._answer = "nothing answered yet"

    def run(self, ready: str) -> None:
        """Start the parts and keep them until a stop is asked for; then nothing of them is left.

        Args:
            ready: the line said once /readyz answers 200.

        Raises:
            ConfigInvalid: a part cannot start with these settings; what was started is stopped.
        """
        try:
            self._since = time.monotonic()
            for running in self._running:
                self._say(f"starting {running.part.name}")
                running.start()
            while not self._signals.stop:
                self._tick()
                if not self._ready:
                    self._faulty()
                    self._progress(ready)
                if self._signals.reload:
                    self._signals.reload = False
                    self._reload()
                self._signals.wait(_STEP_S)
        finally:
            self._stop()

    def _tick(self) -> None:
        if self._server is not None:
            self._server.tick()
        for running in self._running:
            running.tick()
        reap_orphans(self._pids())

    def _pids(self) -> set[int]:
        found = {running.pid for running in self._running}
        if self._server is not None:
            found.add(self._server.pid)
        return {pid for pid in found if pid is not None}

    def _faulty(self) -> None:
        """Give up where a part cannot start with these settings: starting it again would not help.

        Raises:
            ConfigInvalid: one cannot; it has said itself what is wrong.
        """
        for running in self._running:
            if running.faulty:
                self._active.accept([running.part])  # tells the fault with the name of the file that people edit
                raise ConfigInvalid(f"{running.part.name} cannot start with these settings: see its words above")

    def _progress(self, ready: str) -> None:
        now = time.monotonic()
        if now - self._probed < _PROBE_S:
            return
        self._probed = now
        status, self._answer = probe(self._address)
        if status == http.client.OK and all(running.settled for running in self._running):
            self._ready = True
            self._say(ready)
        elif now - self._since > _PATIENCE_S and not self._told:
            self._told = True
            self._say(f"not ready after {_PATIENCE_S:.0f} s: {self._missing()}; still trying")

    def _missing(self) -> str:
        if self._server is not None and not self._server.answers:
            return "the embedded Valkey does not answer"
        down = [f"{r.part.name} does not stay up ({r.ended})" for r in self._running if not r.steady]
        return "; ".join(down) or f"all parts run, but /readyz says: {self._answer}"

    def _reload(self) -> None:
        """Let a good file take effect; a bad one changes nothing and is said once."""
        try:
            config = self._active.accept([running.part for running in self._running])
        except ConfigInvalid as error:
            _log.error("config_refused", error=str(error), kept="the settings in use")
            return
        fixed = [n for n in _FIXED if getattr(config.settings, n) != getattr(self._config.settings, n)]
        if fixed:
            _log.warning("restart_needed", settings=fixed)
        self._config = config
        for running in self._running:
            running.reload()
        _log.info("config_reloaded")

    def _stop(self) -> None:
        self._say("stopping; a second Ctrl-C or SIGTERM hurries")
        # Callers are refused from now on instead of waiting for an answer that nobody will give.
        self._address.close()
        for running in self._running:
            running.stop()
            while not running.done(hurry=self._signals.hurry):
                if self._server is not None:
                    self._server.tick()  # what a worker finishes needs it
                self._signals.wait(_STEP_S / 5)
        end_orphans({self._server.pid} if self._server is not None and self._server.pid else set())


def probe(address: Address) -> tuple[int, str]:
    """The status of /readyz, and what was said, in at most half a second."""
    connection = http.client.HTTPConnection(address.reach, address.port, timeout=0.5)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        text = response.read(300).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"no answer ({error})"
    finally:
        connection.close()
    return response.status, f"{response.status} {text}"
