"""The folder in which dlt works: one for each that opens a pipeline, and gone with it.

Its owner holds a lock in it for as long as it lives. A process id would not tell: of two containers on one volume,
neither sees the other's processes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from relay.locks import Lock

_LOCK: Final = "lock"


class Home:
    """A new folder of our own; what the dead left beside it is removed.

    Args:
        folder: of the destination. In it, too, lies a lock: no folder is made while another process looks.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        looking = Lock(folder / _LOCK)
        looking.take(wait=True)
        try:
            _sweep(folder)
            self.path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folder))
            self._lock = Lock(self.path / _LOCK)
            self._lock.take()
        finally:
            looking.close()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _sweep(folder: Path) -> None:
    for home in folder.iterdir():
        if not home.is_dir():
            continue
        lock = Lock(home / _LOCK)
        try:
            if lock.take():
                shutil.rmtree(home, ignore_errors=True)
        except OSError:  # somebody else's, or just removed by its owner
            continue
        finally:
            lock.close()
