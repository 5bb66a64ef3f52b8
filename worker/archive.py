"""Every event that was taken, kept by days and bytes in SQLite: what replay, lineage and search read.

An event is archived as it waits, in a lane of its own, so a slow archive never slows a destination. The same event
again (after a retry through a mended mapping) replaces itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from relay.buffer.lanes import Claimed, Settlement
from relay.errors import Transient
from relay.records import Codec
from relay.telemetry import logger

log = logger("archive")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    arrival TEXT PRIMARY KEY, source TEXT NOT NULL, type TEXT NOT NULL, delivery_id TEXT NOT NULL,
    fault TEXT NOT NULL, blob BLOB NOT NULL
) WITHOUT ROWID
"""
_PRUNE_EVERY_S: Final = 60.0
_DAY_US: Final = 86_400 * 1_000_000
_PAGE: Final = 500


class Wanted(msgspec.Struct, frozen=True):
    """Which archived events are meant; an empty field means any.

    Args:
        since, until: arrival numbers, the first included, the second not.
    """

    source: str = ""
    type: str = ""
    delivery_id: str = ""
    arrival: str = ""
    since: str = ""
    until: str = ""


class Archive:
    """The archive of one data folder.

    Args:
        path: of the SQLite file, made where it is absent.
        days: after which events go; max_bytes: of the file's pages, over which the oldest go.
    """

    def __init__(self, path: Path, *, days: int, max_bytes: int) -> None:
        self._days, self._max_bytes = days, max_bytes
        self._codec = Codec()
        self._pruned = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # first: a file that has a page keeps its mode
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_SCHEMA)

    def keep(self, claimed: Sequence[Claimed], failures: int) -> tuple[Settlement, int]:
        """Write claimed events; the settlement, and the failures in a row after it."""
        rows = []
        for one in claimed:
            if one.blob:
                meta = self._codec.unpack(one.blob).meta
                rows.append((one.arrival, meta.source, meta.type, meta.delivery_id, meta.fault, one.blob))
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._prune()
        except sqlite3.Error as error:
            log.warning("archive_failed", detail=str(error), events=len(rows))
            waits = [(one.source, one.arrival, "", 1000) for one in claimed]
            settlement = Settlement(
                {}, waits, [], {}, {}, failures + 1, min(30_000, 500 * 2**failures), str(error)
            )
            return settlement, failures + 1
        done: dict[str, list[str]] = {}
        for one in claimed:
            done.setdefault(one.source, []).append(one.arrival)
        return Settlement(done, [], [], {}, {}), 0

    def find(self, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
        """Arrival and blob of each event that is meant, oldest first, read page by page.

        Raises:
            Transient: the file cannot be read now.
        """
        names = ("source", "type", "delivery_id", "arrival")
        given = [(name, getattr(wanted, name)) for name in names if getattr(wanted, name)]
        where = "".join(f" AND {name} = ?" for name, _ in given)
        query = (
            f"SELECT arrival, blob FROM events WHERE arrival >= ? AND arrival < ?{where} "  # noqa: S608 - fixed names
            f"ORDER BY arrival LIMIT {_PAGE}"
        )
        since, until = wanted.since, wanted.until or "~"
        while True:
            try:
                page = self._db.execute(query, (since, until, *(value for _, value in given))).fetchall()
            except sqlite3.Error as error:
                raise Transient(f"the archive cannot be read: {error}") from error
            yield from page
            if len(page) < _PAGE:
                return
            since = page[-1][0] + "!"  # just above it

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _prune(self) -> None:
        if time.monotonic() - self._pruned < _PRUNE_EVERY_S:
            return
        self._pruned = time.monotonic()
        oldest = f"{int(time.time() * 1_000_000) - self._days * _DAY_US:016d}"
        gone = self._db.execute("DELETE FROM events WHERE arrival < ?", (oldest,)).rowcount
        over = 0
        while self._size() > self._max_bytes:
            bound = self._db.execute("SELECT arrival FROM events ORDER BY arrival LIMIT 1 OFFSET 999").fetchone()
            where, args = ("WHERE arrival <= ?", bound) if bound else ("", ())
            cut = self._db.execute(f"DELETE FROM events {where}", args).rowcount  # noqa: S608 - fixed text
            if not cut:
                break
            over += cut
        if gone or over:
            self._db.execute("PRAGMA incremental_vacuum")
            log.warning("archive_pruned", by_age=gone, by_size=over)

    def _size(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
