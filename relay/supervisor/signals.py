"""The supervisor's signals, as a thing that its one loop waits for."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Final, Self

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)
_HEARD: Final = (*_STOPS, signal.SIGHUP, signal.SIGCHLD)
#: A wrapper such as `uv run` passes on the Ctrl-C that the terminal has already sent us: one wish, not two.
_SAME_WISH_S: Final = 0.5


class Stopped(Exception):
    """A stop was asked for while something was being waited for."""


class Signals:
    """SIGINT and SIGTERM stop, a second one hurries, SIGHUP reloads, SIGCHLD only wakes.

    A context manager for the main thread. Handlers do nothing: the numbers arrive through a pipe.
    """

    def __init__(self) -> None:
        self.stop = self.hurry = self.reload = False
        self._stopped_at = 0.0
        self._before: dict[int, Any] = {}
        self._terminal = os.isatty(0)

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # Set even where a shell without job control started us with SIGINT ignored.
        self._before = {number: signal.signal(number, _nothing) for number in _HEARD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal, or for so long."""
        select.select([self._read], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._read, 4096):
                self._heard(number)

    def pause(self, timeout_s: float) -> None:
        """Wait likewise while something is started.

        Raises:
            Stopped: a stop was asked for.
        """
        self.wait(timeout_s)
        if self.stop:
            raise Stopped

    def _heard(self, number: int) -> None:
        now = time.monotonic()
        if number in _STOPS or (number == signal.SIGHUP and self._terminal and not _terminal_is_there()):
            if not self.stop:
                self.stop, self._stopped_at = True, now
            elif now - self._stopped_at > _SAME_WISH_S:
                self.hurry = True
        elif number == signal.SIGHUP:
            self.reload = True


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler must be there for the wake-up; the loop does the rest."""


def _terminal_is_there() -> bool:
    """False when SIGHUP came because the terminal was closed: then nobody is left who could stop us."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
