"""SQLite files: written durably, and rewritten so that nothing is left of what was deleted."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

_BUSY: Final = 5  # https://www.sqlite.org/rescode.html#busy
#: How long a reader of a file may hold on to its log.
_READER_S: Final = 10.0
_LOOK_S: Final = 0.05


def durable(db: sqlite3.Connection, patience_s: float) -> None:
    """Have commits synced, in a write-ahead log that lets others read meanwhile.

    Args:
        db: just opened.
        patience_s: how long to wait for another process: SQLite itself does not, where both make the log.

    Raises:
        sqlite3.Error: it cannot be done.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != _BUSY or time.monotonic() > until:
                raise
            time.sleep(_LOOK_S)
    db.execute("PRAGMA synchronous = FULL")


def rewritten(db: sqlite3.Connection) -> bool:
    """Build a SQLite file anew from what it holds, and cut off its log: neither keeps what was deleted before.

    It takes as much room again as the file has. Returns False where a reader did not let go of the log in time.

    Raises:
        sqlite3.Error: it cannot be done now.
    """
    db.execute("VACUUM")
    until = time.monotonic() + _READER_S
    while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True
