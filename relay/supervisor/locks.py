"""Who may run in a data folder.

Two locks, since a `flock` belongs to the open file and a child that inherits it keeps it after we died:

* `DIR/up.lock`, never inherited: one supervisor a folder.
* `DIR/lock`, inherited by the embedded server: one server a folder. A server that outlived its supervisor still
  holds it, so a second start cannot put another one onto the same AOF.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from relay.errors import RelayError


class Lock:
    """An exclusive lock on a file, with a text for whoever finds it held.

    Args:
        path: the file; it is never deleted, since a deleted one could be locked twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int | None = None

    def take(self) -> bool:
        """Take it, if nobody holds it."""
        if self.fd is not None:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def prepare(data_dir: Path) -> None:
    """Make the data folder, readable by its owner only.

    Raises:
        RelayError: it cannot be made.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if data_dir.stat().st_uid == os.geteuid():
            data_dir.chmod(0o700)
    except OSError as error:
        raise RelayError(
            f"the data folder {data_dir} cannot be used ({error.strerror}): choose another with --data"
        ) from None


def one_supervisor(data_dir: Path) -> Lock:
    """The folder's first lock, held until this process ends.

    Raises:
        RelayError: another supervisor holds it; names its process.
    """
    lock = Lock(data_dir / "up.lock")
    try:
        taken = lock.take()
    except OSError as error:
        raise RelayError(
            f"{lock.path} cannot be written ({error.strerror}): choose another folder with --data"
        ) from None
    if not taken:
        raise RelayError(
            f"`relay up` is already running in {data_dir} (process {lock.said() or 'unknown'}): "
            "stop it first, or choose another folder with --data"
        )
    lock.say(f"{os.getpid()}\n")
    return lock
