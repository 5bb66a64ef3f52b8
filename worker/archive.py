"""Every event that was taken, kept by days and bytes in SQLite: what replay, lineage and search read.

An event is archived as it waits, in a lane of its own, so a slow archive never slows a destination. The same event
again (after a retry through a mended mapping) replaces itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from relay.buffer.lanes import Claimed, Settlement, Standing
from relay.errors import Transient
from relay.records import Codec
from relay.telemetry import logger
from worker.columns.files import durable, rewritten

log = logger("archive")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    arrival TEXT PRIMARY KEY, source TEXT NOT NULL, type TEXT NOT NULL, delivery_id TEXT NOT NULL,
    fault TEXT NOT NULL, blob BLOB NOT NULL
) WITHOUT ROWID
"""
_BUSY_S: Final = 10.0
_PRUNE_EVERY_S: Final = 60.0
_DAY_US: Final = 86_400 * 1_000_000
_PAGE: Final = 500
_LEFT: Final = "the events are deleted, but events.db may hold their bytes still: run VACUUM on it"


class Wanted(msgspec.Struct, frozen=True):
    """Which archived events are meant; an empty field means any.

    Args:
        since, until: arrival numbers, the first included, the second not.
        arrivals: just these, whatever else is said.
    """

    source: str = ""
    type: str = ""
    delivery_id: str = ""
    arrival: str = ""
    since: str = ""
    until: str = ""
    arrivals: list[str] = []


class Archive:
    """The archive of one data folder.

    Args:
        path: of the SQLite file, made where it is absent.
        days: after which events go; max_bytes: of the file's pages, over which the oldest go.
        held: of some arrival numbers, those that the buffer still holds; they never go.
    """

    def __init__(
        self,
        path: Path,
        *,
        days: int,
        max_bytes: int,
        held: Callable[[Sequence[str]], set[str]] = lambda _: set(),
    ) -> None:
        self._days, self._max_bytes, self._held = days, max_bytes, held
        self._codec = Codec()
        self._pruned = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # first: a file that has a page keeps its mode
        durable(self._db, _BUSY_S)
        self._db.execute(_SCHEMA)

    def keep(self, claimed: Sequence[Claimed], standing: Standing) -> Settlement:
        """Write claimed events, and say what became of them."""
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
            rest_ms = min(30_000, 500 * 2**standing.failures)
            return Settlement({}, waits, [], {}, {}, rest_ms=rest_ms, why=str(error), failed=True)
        done: dict[str, list[str]] = {}
        for one in claimed:
            done.setdefault(one.source, []).append(one.arrival)
        return Settlement(done, [], [], {}, {}, passed=True)

    def find(self, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
        """Arrival and blob of each event that is meant, oldest first, read page by page.

        Raises:
            Transient: the file cannot be read now.
        """
        if wanted.arrivals:
            for at in range(0, len(wanted.arrivals), _PAGE):
                yield from sorted(self.blobs(wanted.arrivals[at : at + _PAGE]).items())
            return
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

    def back(self, source: str) -> Iterator[tuple[str, bytes]]:
        """Arrival and blob of each event of a source, newest first, read page by page.

        Raises:
            Transient: the file cannot be read now.
        """
        query = (
            "SELECT arrival, blob FROM events WHERE arrival < ? AND source = ? "  # noqa: S608 - a number of ours
            f"ORDER BY arrival DESC LIMIT {_PAGE}"
        )
        until = "~"
        while True:
            try:
                page = self._db.execute(query, (until, source)).fetchall()
            except sqlite3.Error as error:
                raise Transient(f"the archive cannot be read: {error}") from error
            yield from page
            if len(page) < _PAGE:
                return
            until = page[-1][0]

    def window(self, wanted: Wanted, most: int) -> tuple[list[str], str]:
        """Which of the newest events are meant, newest first; and the number of the oldest that was looked at.

        Args:
            wanted: what, but for its `arrival`.
            most: events that are looked at; where there are no more, the number is empty.

        Raises:
            Transient: the file cannot be read now.
        """
        span = (wanted.since, wanted.until or "~")
        edge = (
            "SELECT arrival FROM events WHERE arrival >= ? AND arrival < ? ORDER BY arrival DESC LIMIT 1 OFFSET ?"
        )
        given = [(name, getattr(wanted, name)) for name in ("source", "type", "delivery_id")]
        where = "".join(f" AND {name} = ?" for name, value in given if value)
        query = f"SELECT arrival FROM events WHERE arrival >= ? AND arrival < ?{where} ORDER BY arrival DESC"  # noqa: S608 - fixed names
        try:
            oldest = self._db.execute(edge, (*span, most - 1)).fetchone()
            least = oldest[0] if oldest else wanted.since
            found = self._db.execute(query, (least, span[1], *(v for _, v in given if v))).fetchall()
        except sqlite3.Error as error:
            raise Transient(f"the archive cannot be read: {error}") from error
        return [arrival for (arrival,) in found], oldest[0] if oldest else ""

    def forget(self, arrivals: Sequence[str]) -> int:
        """Delete events for good, and rewrite the file so that its free pages and its log keep nothing of them.

        Returns:
            how many there were.

        Raises:
            Transient: the file cannot be written now; where the events are deleted all the same, it says so.
        """
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                found = self._db.executemany("DELETE FROM events WHERE arrival = ?", [(a,) for a in arrivals])
        except sqlite3.Error as error:
            raise Transient(f"the archive cannot be written, so nothing was deleted: {error}") from error
        try:
            whole = rewritten(self._db)
        except sqlite3.Error as error:
            raise Transient(f"{_LEFT}: {error}") from error
        if not whole:
            raise Transient(f"{_LEFT}: another process reads it")
        return found.rowcount

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def blobs(self, arrivals: Sequence[str]) -> dict[str, bytes]:
        """The blobs of those events that are here.

        Raises:
            Transient: the file cannot be read now.
        """
        found: dict[str, bytes] = {}
        try:
            for at in range(0, len(arrivals), _PAGE):
                page = arrivals[at : at + _PAGE]
                marks = ",".join("?" * len(page))
                query = f"SELECT arrival, blob FROM events WHERE arrival IN ({marks})"  # noqa: S608 - marks
                found.update(self._db.execute(query, page))
        except sqlite3.Error as error:
            raise Transient(f"the archive cannot be read: {error}") from error
        return found

    def has(self, arrivals: Sequence[str]) -> set[str]:
        """Those of some events that are here, on disk.

        Raises:
            Transient: the file cannot be read now.
        """
        marks = ",".join("?" * len(arrivals))
        try:
            rows = self._db.execute(f"SELECT arrival FROM events WHERE arrival IN ({marks})", arrivals)  # noqa: S608 - marks
            return {arrival for (arrival,) in rows}
        except sqlite3.Error as error:
            raise Transient(f"the archive cannot be read: {error}") from error

    def _prune(self) -> None:
        if time.monotonic() - self._pruned < _PRUNE_EVERY_S:
            return
        self._pruned = time.monotonic()
        oldest = f"{int(time.time() * 1_000_000) - self._days * _DAY_US:016d}"
        gone, over, since = 0, 0, ""
        query = "SELECT arrival FROM events WHERE arrival > ? ORDER BY arrival LIMIT ?"
        while True:
            page = self._db.execute(query, (since, _PAGE)).fetchall()
            by_age = [a for (a,) in page if a < oldest]
            chosen = by_age or ([a for (a,) in page] if self._size() > self._max_bytes else [])
            if not chosen:
                break
            since = chosen[-1]
            held = self._held(chosen)  # a lane may have nothing but the number of an event: its body is here
            with self._db:  # one transaction, and so one sync, a page
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "DELETE FROM events WHERE arrival = ?", [(a,) for a in chosen if a not in held]
                )
            gone += len(chosen) - len(held) if by_age else 0
            over += 0 if by_age else len(chosen) - len(held)
        if gone or over:
            self._db.execute("PRAGMA incremental_vacuum")
        if over:
            log.error(
                "archive_cut", setting="archive_max_bytes", events=over,
                detail="events younger than archive_days were given up: they cannot be replayed any more",
            )  # fmt: skip
        elif gone:
            log.info("archive_pruned", events=gone)

    def _size(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
