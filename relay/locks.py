"""Locks on files, which end with the process that holds them, wherever on this machine it runs.

A `flock` belongs to the open file: a child that inherits it keeps it after we died.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Lock:
    """An exclusive lock on a file, with a text for whoever finds it held.

    Args:
        path: the file; it is never deleted, since a deleted one could be locked twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int | None = None

    def take(self, *, wait: bool = False) -> bool:
        """Take it, if nobody holds it; or wait until nobody does."""
        if self.fd is not None:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return False
        self.fd = fd
        return True

    def say(self, text: str) -> None:
        """Write the text; only while the lock is ours. On a full disk the old one stays."""
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, os.pwrite(self.fd, text.encode(), 0))

    def said(self) -> str:
        """What its holder wrote."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """Let go of our hold; a child that inherited it keeps its own."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
