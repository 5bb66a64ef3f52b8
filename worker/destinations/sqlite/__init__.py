"""SQLite: the embedded destination, one file that any tool can read while the relay writes.

A batch is one `BEGIN IMMEDIATE` transaction, changes of the tables' shape included; WAL and `synchronous=FULL`,
so it is on disk before `deliver` returns. Numbers that must stay exact are text, and whole numbers stand in
columns without a type, since SQLite would otherwise turn digits that it cannot hold into a float.

https://www.sqlite.org/lang_upsert.html · https://www.sqlite.org/datatype3.html#determination_of_column_affinity
"""
# ruff: noqa: S608 - names go through quoted(), values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from relay.errors import DeliveryError, Permanent, Refused, Transient
from worker.columns import sql
from worker.columns.changes import Rows, compared
from worker.columns.erasing import emptied, raised
from worker.columns.files import durable, rewritten
from worker.columns.layout import Layout, quoted
from worker.columns.reader import FileReader
from worker.columns.work import Part, Work, is_gone, relay_cells
from worker.destination import (
    SUPERSEDED,
    Batch,
    Destination,
    Limits,
    Preview,
    Settings,
    TableInfo,
    Verdict,
)
from worker.destinations.sqlite.tables import CATALOGUE, DIALECT, add, floor, layout_of, read

# https://www.sqlite.org/rescode.html: primary codes by consequence; what is in neither is Permanent.
_TRANSIENT: Final = frozenset(
    {5, 6, 7, 9, 10, 13, 14, 15}
)  # busy locked nomem interrupt ioerr full cantopen protocol
_REFUSED: Final = frozenset({3, 8, 11, 23, 26})  # perm readonly corrupt auth notadb


class SqliteSettings(Settings):
    """The block of a SQLite destination."""

    path: str = Field("warehouse.db", description="The file; a relative path lies under the data folder.")
    busy_timeout_s: float = Field(10, ge=0, description="Seconds to wait for another writer of the file.")


class Sqlite(Destination):
    """Tables in one SQLite file, version 3.35 or later."""

    Settings = SqliteSettings
    keeps_deleted = True
    reads = FileReader
    limits = Limits(records=2000, body_bytes=16 * 1024 * 1024)

    def __init__(self, name: str, settings: SqliteSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self._path = data_dir / settings.path
        self._connection: sqlite3.Connection | None = None
        self._committing = False

    # --- the contract -------------------------------------------------------------------------------

    def deliver(self, batch: Batch) -> list[Verdict]:
        """Apply a batch in one transaction; see the contract."""
        with self._transaction() as db:
            return self._apply(db, batch)

    def preview(self, batch: Batch) -> Preview:
        """Apply a batch, look at its rows before and after, and roll back."""
        with self._transaction(keep=False) as db:
            layout = layout_of(db, batch.table, self._path.name)
            about = Work(batch)
            about.fit(layout, DIALECT)
            before = self._rows(db, about, layout)
            verdicts = self._apply(db, batch)
            after = self._rows(db, about, layout_of(db, batch.table, self._path.name))
        return compared(batch.table.name, layout.names(batch.table.key), before, after, verdicts)

    def forget(self, batches: Sequence[Batch]) -> int:
        """Empty rows in one transaction, and rewrite the file: its free pages and its log keep nothing of them."""
        with self._transaction() as db:
            count = sum(self._empty(db, batch) for batch in batches)
        if count:
            with self._translated():
                if not rewritten(self._open()):
                    raise Transient(f"{self._path.name}: the rows are empty, but a reader holds on to the log")
        return count

    def ping(self) -> None:
        """Raise unless the file can be written."""
        with self._transaction():
            pass

    def tables(self) -> list[TableInfo]:
        """The tables in the catalogue; counts are exact, so this reads each table."""
        with self._transaction() as db:
            names = db.execute("SELECT table_name FROM _relay_tables ORDER BY 1").fetchall()
            return [self._info(db, name) for (name,) in names]

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _info(self, db: sqlite3.Connection, name: str) -> TableInfo:
        layout = read(db, name)
        if layout is None:  # dropped by hand, and made again by the next batch
            return TableInfo(name, name, 0, 0, None, {})
        rows, deleted, newest = db.execute(
            "SELECT count(*) - count(_relay_deleted_at), count(_relay_deleted_at), max(_relay_received_at) "
            f"FROM {quoted(layout.table)}"
        ).fetchone()
        return TableInfo(name, layout.table, rows, deleted, newest, {c.name: c.kind for c in layout.columns})

    # --- one batch ----------------------------------------------------------------------------------

    def _apply(self, db: sqlite3.Connection, batch: Batch) -> list[Verdict]:
        work = Work(batch)
        layout = layout_of(db, batch.table, self._path.name)
        while wanted := work.fit(layout, DIALECT):
            add(db, batch.table, layout, wanted)
            layout = layout_of(db, batch.table, self._path.name)
        stale = self._mark_sets(db, work)
        self._upsert_rows(db, work, layout, stale, floor(db, batch.table))
        self._upsert_gones(db, work, layout)
        self._delete_strangers(db, work, layout, stale)
        return work.verdicts

    def _rows(self, db: sqlite3.Connection, work: Work, layout: Layout) -> Rows:
        """The rows that a batch is about, those of its sets' parents included."""
        names = [*(column.name for column in layout.columns), *sql.RELAY]
        key, found = layout.names(work.spec.key), {}
        parent = layout.names(work.spec.parent)
        for part, match in ((work.rows, key), (work.gones, key), (work.parents, parent)):
            where = " AND ".join(f"{quoted(name)} = ?" for name in match)
            find = f"SELECT {sql.listed(names)} FROM {quoted(layout.table)} AS t WHERE {where}"
            cells_of = set(zip(*(part.columns[name] for name in match), strict=True))
            if not match and part.owners:  # all that a whole version leaves behind
                find = f"{find}{sql.older('?1')}"
                cells_of = {(work.items[n].version,) for n in part.owners}
            for cells in cells_of:
                rows = [dict(zip(names, row, strict=True)) for row in db.execute(find, cells)]
                found.update({tuple(row[name] for name in key): row for row in rows})
        return found

    def _mark_sets(self, db: sqlite3.Connection, work: Work) -> set[int]:
        """Settle the sets against the newest complete ones; returns the places of those that came too late."""
        name = work.spec.name
        sets = {n: work.items[n] for n in work.parents.owners}
        db.executemany(
            "INSERT INTO _relay_sets AS s VALUES (?, ?, ?) ON CONFLICT (table_name, parent_key) DO UPDATE "
            "SET version = excluded.version WHERE s.version < excluded.version",
            [(name, item.key, item.version) for item in sets.values() if item.complete],
        )
        find = "SELECT 1 FROM _relay_sets WHERE table_name = ? AND parent_key = ? AND version > ?"
        stale = {n for n, i in sets.items() if db.execute(find, (name, i.key, i.version)).fetchone()}
        for n in stale:
            work.verdicts[n] = SUPERSEDED
        return stale

    def _upsert_rows(self, db: sqlite3.Connection, work: Work, layout: Layout, stale: set[int], over: str) -> None:
        order = work.order(work.rows, layout, DIALECT, stale)
        key, present = layout.names(work.spec.key), list(work.rows.columns)
        cells = list(zip(*work.rows.columns.values(), strict=True))
        items = [work.items[owner] for owner in work.rows.owners]
        rows = [(*cells[n], *relay_cells(items[n], deleted=is_gone(items[n], over))) for n in order]
        if _insert(db, layout, present, rows, sql.whole_rows(layout, key, present)) == len(order):
            return
        places = {name: f"?{n}" for n, name in enumerate([*present, "_relay_version"], 1)}
        late = sql.beneath(layout, key, present, places.__getitem__)
        versions = [(*cells[n], items[n].version) for n in order]
        db.executemany(f"UPDATE {quoted(layout.table)} AS t {late}", versions)
        self._supersede(db, work, work.rows, layout, order)

    def _upsert_gones(self, db: sqlite3.Connection, work: Work, layout: Layout) -> None:
        order = work.order(work.gones, layout, DIALECT)
        key = layout.names(work.spec.key)
        cells = list(zip(*(work.gones.columns[name] for name in key), strict=True))
        items = [work.items[owner] for owner in work.gones.owners]
        rows = [(*cells[n], *relay_cells(items[n], deleted=True)[:-1], "") for n in order]
        if _insert(db, layout, key, rows, sql.tombstones(key)) != len(order):
            self._supersede(db, work, work.gones, layout, order)

    def _supersede(
        self, db: sqlite3.Connection, work: Work, part: Part, layout: Layout, order: Sequence[int]
    ) -> None:
        """Mark records of a version that the table does not hold: a newer one was there."""
        key = layout.names(work.spec.key)
        find = (
            f"SELECT _relay_version, _relay_data_version FROM {quoted(layout.table)} "
            f"WHERE {' AND '.join(f'{quoted(name)} = ?' for name in key)}"
        )
        for n in order:
            item = work.items[part.owners[n]]
            held = db.execute(find, [part.columns[name][n] for name in key]).fetchone()
            if item.members is None and item.version not in held:
                work.verdicts[part.owners[n]] = SUPERSEDED

    def _delete_strangers(self, db: sqlite3.Connection, work: Work, layout: Layout, stale: set[int]) -> None:
        """Mark rows that a complete set does not name: those that it names are as new as the set by now."""
        parent, names = work.parents, layout.names(work.spec.parent)
        match = " AND ".join(f"t.{quoted(name)} = :parent{n}" for n, name in enumerate(names))
        statement = (
            f"UPDATE {quoted(layout.table)} AS t SET {sql.tombstone_cells(':')}, "
            f"_relay_received_at = :_relay_received_at "
            f"WHERE {match or sql.LIVING} AND t._relay_version < :_relay_version"
        )
        for n, owner in enumerate(parent.owners):
            if owner not in stale and work.items[owner].complete:
                cells = dict(zip(sql.RELAY, relay_cells(work.items[owner], deleted=True), strict=True))
                keys = {f"parent{p}": parent.columns[name][n] for p, name in enumerate(names)}
                db.execute(statement, cells | keys)

    def _empty(self, db: sqlite3.Connection, batch: Batch) -> int:
        if (layout := read(db, batch.table.name)) is None:
            return 0
        about, key = Work(batch), layout.names(batch.table.key)
        about.fit(layout, DIALECT)
        held = self._rows(db, about, layout)
        find = "SELECT version FROM _relay_sets WHERE table_name = ? AND parent_key = ?"
        sets = [db.execute(find, (batch.table.name, i.key)).fetchall() for i in batch.items if i.members == []]
        if not held and not any(sets):
            return 0
        versions = [row["_relay_version"] for row in held.values()] + [v for found in sets for (v,) in found]
        self._apply(db, raised(batch, versions))
        match = " AND ".join(f"{quoted(name)} = ?" for name in key)
        db.executemany(f"{emptied(quoted(layout.table), layout, key)} WHERE {match}", list(held))
        return len(held)

    # --- the file -----------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # The second argument is the busy time-out; transactions are begun and ended by hand.
            db = sqlite3.connect(
                self._path, self.settings.busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                durable(db, self.settings.busy_timeout_s)
            except sqlite3.Error:
                db.close()
                raise
            self._connection = db
        return self._connection

    @contextmanager
    def _transaction(self, *, keep: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing, the catalogue being there; errors leave by consequence."""
        with self._translated():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            for statement in CATALOGUE.split(";"):
                db.execute(statement)
            yield db
            self._committing = keep
            db.execute("COMMIT" if keep else "ROLLBACK")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Let nothing out but the endings of the contract, with nothing left half done."""
        self._committing = False
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._rollback()
            raise self._consequence(error) from None
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
        except sqlite3.Error:
            self.close()

    def _consequence(self, error: Exception) -> DeliveryError:
        if isinstance(error, OSError):
            words = f"{error.filename or self._path}: {error.strerror or error}"
            return Refused(words) if isinstance(error, (PermissionError, NotADirectoryError)) else Transient(words)
        words, code = f"{self._path.name or self._path}: {error}", getattr(error, "sqlite_errorcode", 1) & 0xFF
        if code in _TRANSIENT:
            locked = code in {5, 6}
            return Transient(words, reason="locked" if locked else "file", unknown=self._committing and not locked)
        return Refused(words) if code in _REFUSED else Permanent(words)


def _insert(
    db: sqlite3.Connection, layout: Layout, names: Sequence[str], rows: list[tuple[Any, ...]], conflict: str
) -> int:
    """Merge rows; returns how many were written."""
    if not rows:
        return 0
    columns = [*names, *sql.RELAY]
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {quoted(layout.table)} AS t ({sql.listed(columns)}) VALUES ({marks}) {conflict}"
    return db.executemany(statement, rows).rowcount


destination = Sqlite
