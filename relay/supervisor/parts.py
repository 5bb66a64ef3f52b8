"""A part is a child process: how it is started, watched, told to reload and stopped.

Each part leads a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone, and what a
part leaves behind can be ended as a group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from relay import telemetry

_log = telemetry.logger(__name__)
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 30.0  # a part that ran this long starts again at the first pause
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
# Loaded here, not after the fork: a child between fork and exec should not import or allocate much.
_LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None


class Part(msgspec.Struct, frozen=True):
    """How one child process is run.

    Args:
        name: for people and logs.
        argv: the command. env: what is set above the supervisor's own environment.
        check: a command that ends with 0 where the part could start under the configuration in `RELAY_CONFIG`.
        stop_signal: asks it to finish. stop_after_s: how long it may take before it is killed.
        reload_signal: asks it to read the configuration again.
        pass_fds: open files that it inherits.
        settle_s: it counts as up once it has run for so long.
        faulty_code: the exit code by which it says that it cannot start with these settings.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    check: tuple[str, ...] = ()
    stop_signal: int = signal.SIGTERM
    stop_after_s: float = 30.0
    reload_signal: int = signal.SIGHUP
    pass_fds: tuple[int, ...] = ()
    settle_s: float = 0.0
    faulty_code: int | None = None


class Backoff:
    """Pauses between restarts: 0.5 s, doubled up to 10 s, from the start again after a steady run."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_S

    def after(self, ran_s: float) -> float:
        """The pause before the next start, in seconds, after a run of this length."""
        if ran_s >= _STEADY_S:
            self._pause = FIRST_PAUSE_S
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_S)
        return pause


class Running:
    """One part and its present process, if it has one."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ended = ""  # how it last ended, for people
        self.faulty = False  # it ended saying that it cannot start with these settings
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._since = self._due = 0.0
        self._stopping_since: float | None = None

    @property
    def pid(self) -> int | None:
        """Its process, or None while there is none."""
        return self._process.pid if self._process else None

    @property
    def settled(self) -> bool:
        """Whether it runs, and has for long enough to tell."""
        return self._process is not None and time.monotonic() - self._since >= self.part.settle_s

    @property
    def steady(self) -> bool:
        """Whether it never ended, or has run on for half a minute since."""
        ran = time.monotonic() - self._since if self._process else 0.0
        return self._process is not None and (not self.ended or ran >= _STEADY_S)

    def start(self) -> None:
        """Start it; where that fails it is tried again later."""
        self._since = time.monotonic()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self.part.argv,
                env={**os.environ, **self.part.env},
                stdin=subprocess.DEVNULL,
                pass_fds=self.part.pass_fds,
                process_group=0,
                # No threads run in the supervisor, so nothing can hold a lock across this fork.
                preexec_fn=_follow(os.getpid()),  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._again(str(error))

    def tick(self) -> None:
        """Notice its end, and start it again once its pause is over."""
        if self._process is None:
            if time.monotonic() >= self._due and self._stopping_since is None:
                self.start()
        elif (code := self._process.poll()) is not None:
            self._sweep(self._process.pid)
            self._process = None
            if self._stopping_since is None:
                self.faulty = code == self.part.faulty_code
                self._again(ending(code))

    def reload(self) -> None:
        """Ask it to read its configuration again."""
        self._send(self.part.reload_signal)

    def stop(self) -> None:
        """Ask it to finish; `done` tells when it has."""
        self._stopping_since = time.monotonic()
        self._send(self.part.stop_signal)

    def done(self, *, hurry: bool) -> bool:
        """Whether a stopped part is gone; it is killed when its time is up, or at once in a hurry."""
        self.tick()
        if self._process is None:
            return True
        if hurry or time.monotonic() - (self._stopping_since or 0.0) > self.part.stop_after_s:
            if not hurry:
                _log.warning("part_killed", part=self.part.name, waited_s=self.part.stop_after_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            return True
        return False

    def _send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _again(self, ended: str) -> None:
        now = time.monotonic()
        pause = self._backoff.after(now - self._since)
        self._due, self.ended = now + pause, ended
        _log.warning("part_ended", part=self.part.name, ended=ended, again_in_s=pause)

    @staticmethod
    def _sweep(group: int) -> None:
        # A leader that was killed leaves its children: they would serve on beside those of the next start.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)


def ending(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _follow(parent: int) -> Callable[[], None] | None:
    """What a child does first: ask for SIGTERM when the supervisor is gone.

    A supervisor that is killed with SIGKILL can stop nothing, and parts without one are never restarted, reloaded
    or stopped. Linux tells them; elsewhere they stay. The server is not told: it must outlive us with its data.
    """
    if _LIBC is None:
        return None

    def follow() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)

    return follow


def adopt_orphans() -> None:
    """Become the parent of what dying parts leave behind (Linux), so that `end_orphans` can find it.

    An RQ worker's forked job leads a group of its own: when the worker is killed, its group does not name the job.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: set[int]) -> None:
    """Take the exit status of adopted processes that have ended, so that no zombies pile up."""
    for pid in _children() - known:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_orphans(known: set[int]) -> None:
    """Kill what stopped parts left behind, and theirs."""
    for _ in range(100):
        left = _children() - known
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _children() -> set[int]:
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:  # not Linux, or a kernel without the list
        return set()
    return {int(pid) for pid in listed.split()}
