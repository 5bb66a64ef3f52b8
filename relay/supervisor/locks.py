"""Who may run in a data folder.

Two locks, see `relay.locks`:

* `DIR/up.lock`, never inherited: one supervisor a folder.
* `DIR/lock`, inherited by the embedded server: one server a folder. A server that outlived its supervisor still
  holds it, so a second start cannot put another one onto the same AOF.
"""

from __future__ import annotations

import os
from pathlib import Path

from relay.errors import RelayError
from relay.locks import Lock


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
