"""What follows from a 401, beside the request and never in its way: a look at why, and if wished a sealed copy.

The answer does not wait for any of it, so neither its text nor its time tells a caller what was found. One thread
of each process does the work, only while there is some. At most once a second a source's refusal is looked at, and
the thread rests several times as long as it looked, so that whoever posts rubbish buys no more than a count.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
import redis as driver

from relay.bodies import inflate
from relay.buffer.refused import Accounts, Refused, Room
from relay.buffer.seal import of_refused
from relay.config import Settings
from relay.configured import Source
from relay.doctor import MOST_REWRITTEN, Case, Finding, diagnose
from relay.errors import IntakeError, RelayError
from relay.records import Request
from relay.telemetry import logger

log = logger("hooks")
#: Refusals for which another secret could make the difference; no other is worth keeping.
MENDABLE: Final = frozenset({"signature_wrong", "secret_malformed"})
_LOOK_EVERY_S: Final = 1.0
_REST: Final = 4
_MOST_WAITING: Final = 256
_MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
#: After a request found no room, the source's next ones are not even tried for so long.
_FULL_FOR_S: Final = 10.0
#: After Redis could not be told, it is tried again so much later.
_AWAY_S: Final = 5.0
_CLOSE_S: Final = 2.0


class _Tally:
    """What is remembered of one source between its refusals; times are of the monotonic clock."""

    def __init__(self) -> None:
        self.refused = 0  # and not yet in the account
        self.look_at = self.keep_at = float("-inf")
        self.second, self.kept = 0, 0


class _Job(msgspec.Struct, frozen=True):
    source: Source
    request: Request
    now: int
    reason: str
    weight: int
    look: bool
    keep: bool


class Refusals:
    """The refusals of one web process.

    Args:
        settings: all. sources: all, since a delivery may fit another one's secret. client: of the buffer.
    """

    def __init__(self, settings: Settings, sources: Mapping[str, Source], client: driver.Redis) -> None:
        self._sources = sources
        self._accounts = Accounts(client)
        self._refused: Refused | None = None
        if settings.keep_refused:
            self._refused = Refused(client, of_refused(settings.refused_key.get_secret_value()))
        self._room = Room(
            settings.refused_max_bytes, settings.refused_source_max_bytes, settings.refused_request_max_bytes
        )
        self._rate = settings.refused_per_second
        self._tallies = {name: _Tally() for name in sources}
        self._jobs: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def took(self, source: Source, request: Request, now: int, reason: str) -> None:
        """Take note of a refused delivery; quick, and whatever goes wrong here is only logged.

        Args:
            source: whose URL was called.
            request: as it came.
            now: ns since 1970, as it was refused.
            reason: of the refusal.
        """
        try:
            self._take(source, request, now, reason)
        except Exception as error:  # noqa: BLE001 - the caller's answer does not depend on it
            log.warning("refusal_not_noted", source=source.name, why=_why(error))

    def close(self, within_s: float = _CLOSE_S) -> None:
        """Finish what waits, or leave it when the time is over."""
        self._closing.set()
        with self._wake:
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(within_s)

    def _take(self, source: Source, request: Request, now: int, reason: str) -> None:
        clock = time.monotonic()
        with self._wake:
            tally = self._tallies[source.name]
            tally.refused += 1
            look = clock >= tally.look_at
            keep = self._refused is not None and reason in MENDABLE and self._in_rate(tally, clock)
            if not look and not keep:
                return
            tally.look_at = clock + _LOOK_EVERY_S if look else tally.look_at
            weight = _weight(request)
            keep = keep and weight <= self._room.request
            fits = len(self._jobs) < _MOST_WAITING and self._waiting_bytes + weight <= _MOST_WAITING_BYTES
            if fits and (look or keep):
                self._waiting_bytes += weight
                self._jobs.append(_Job(source, request, now, reason, weight, look, keep))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._wake.notify()

    def _in_rate(self, tally: _Tally, clock: float) -> bool:
        if clock < tally.keep_at:
            return False
        if int(clock) != tally.second:
            tally.second, tally.kept = int(clock), 0
        tally.kept += 1
        return tally.kept <= self._rate

    def _run(self) -> None:
        pause, idle = _LOOK_EVERY_S, False
        while True:
            with self._wake:
                if not self._jobs and not self._closing.is_set():
                    # Those that are only counted wake nobody, so one more look after each that found something.
                    idle = idle and not any(t.refused for t in self._tallies.values())
                    self._wake.wait(None if idle else pause)
                job = self._jobs.popleft() if self._jobs else None
                self._waiting_bytes -= job.weight if job else 0
                finished = job is None and self._closing.is_set()
            pause = _LOOK_EVERY_S
            idle = job is None and not any(t.refused for t in self._tallies.values())
            try:
                self._count() if job is None else self._do(job)
            except Exception as error:  # noqa: BLE001 - the next one may succeed
                pause = _AWAY_S
                if not finished:  # at the very end a few counts are lost, and the log may be closed
                    log.warning("refusal_not_noted", source=job.source.name if job else "", why=_why(error))
            if finished:
                return

    def _do(self, job: _Job) -> None:
        if job.keep and self._refused is not None:
            try:
                kept = self._refused.keep(job.source.name, job.request, job.now, job.reason, self._room)
            except Exception as error:  # noqa: BLE001 - the look is worth having all the same
                log.warning("refused_not_kept", source=job.source.name, why=_why(error))
            else:
                if not kept:
                    self._tallies[job.source.name].keep_at = time.monotonic() + _FULL_FOR_S
                    log.warning("refused_not_kept", source=job.source.name, why="no room")
        if job.look:
            started = time.thread_time()
            finding = self._look(job)
            log.warning(
                "signature_refused",
                source=job.source.name,
                reason=job.reason,
                kind=finding.kind,
                hypothesis=finding.hypothesis,
            )
            self._note(job.source.name, job.reason, finding)
            self._closing.wait(_REST * (time.thread_time() - started))

    def _look(self, job: _Job) -> Finding:
        source, request = job.source, job.request
        others = {name: other.secrets for name, other in self._sources.items() if name != source.name}
        case = Case(source.name, source.verifier, source.secrets, others, request, job.now, job.reason)
        finding = diagnose(case)
        if finding.kind == "unknown" and request.headers.get("content-encoding", "").strip().lower().endswith(
            "gzip"
        ):
            with suppress(IntakeError):
                plain = inflate(request.body, MOST_REWRITTEN)
                inflated = msgspec.structs.replace(request, body=plain)
                finding = diagnose(msgspec.structs.replace(case, request=inflated))
        return finding

    def _count(self) -> None:
        """Bring the accounts up to date with what was counted and not looked at."""
        for name, tally in self._tallies.items():
            if tally.refused:
                self._note(name)

    def _note(self, source: str, reason: str = "", finding: Finding | None = None) -> None:
        tally = self._tallies[source]
        with self._wake:
            n, tally.refused = tally.refused, 0
        try:
            if finding is None:
                self._accounts.note(source, n)
            else:
                self._accounts.note(source, n, reason, finding.kind, finding.hypothesis)
        except Exception:
            with self._wake:  # counted when Redis is back
                tally.refused += n
            raise


def _why(error: Exception) -> str:
    """An error in one word; its text could quote a body."""
    return error.reason if isinstance(error, RelayError) else type(error).__name__


def _weight(request: Request) -> int:
    """Bytes that a waiting request takes, about; no less than when it is kept."""
    headers = sum(len(name) + len(value) + 16 for name, value in request.headers.items())
    return len(request.body) + 3 * len(request.url) + headers + 1024
