"""SQLite files read while others write them: opened read-only, one `SELECT` at a time, for a limited time.

https://www.sqlite.org/uri.html#recognized_query_parameters · https://www.sqlite.org/c3ref/set_authorizer.html
"""
# ruff: noqa: S608 - names go through quoted(), values are parameters

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from relay.buffer import looking
from relay.errors import Permanent, Transient
from relay.records import Type
from worker.columns import sql
from worker.columns.layout import Column, Dialect, Layout, quoted
from worker.columns.values import of_key
from worker.destination import Cells, Form, Found, Reader

#: Steps of SQLite's machine between two looks at the clock.
_STEPS: Final = 20_000
_READS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
# https://www.sqlite.org/rescode.html: busy, locked, nomem, ioerr, cantopen, protocol.
_TRANSIENT: Final = frozenset({5, 6, 7, 10, 14, 15})
_INTERRUPTED: Final = 9
_DIALECT: Final = Dialect(fold=str.lower, any_number=True)


class FileReader(Reader):
    """The tables of a SQLite destination."""

    def __init__(self, settings: Any, data_dir: Path) -> None:
        super().__init__(settings, data_dir)
        self._path: Path = data_dir / settings.path
        self._connection: sqlite3.Connection | None = None

    def names(self) -> list[str]:
        """See `Reader`."""
        with self._translated():
            return [name for name in self._catalogued() if self._layout(name) is not None]

    def columns(self, table: str) -> list[str]:
        """See `Reader`."""
        with self._translated():
            return [column.name for column in self._known(table).columns]

    def rows(self, table: str, seconds: float) -> Found:
        """See `Reader`."""
        with self._translated():
            layout = self._known(table)
        names = [column.name for column in layout.columns]
        statement = f"SELECT {sql.listed(names)} FROM {quoted(layout.table)} WHERE _relay_deleted_at IS NULL"
        found = self.query(statement, seconds)
        flags = {n for n, column in enumerate(layout.columns) if column.kind == Type.BOOL}
        return Found(names, _flagged(found.rows, flags) if flags else found.rows)

    def form(self, table: str) -> Form:
        """See `Reader`."""
        with self._translated():
            layout = self._known(table)
            actual = self._open().execute(f"PRAGMA table_xinfo({quoted(layout.table)})").fetchall()
        types = {name: type_ for _, name, type_, *_ in actual}
        key = [name for place, name in sorted((row[5], row[1]) for row in actual) if place]
        columns = [looking.Column(c.source, c.name, c.kind, types[c.name]) for c in layout.columns]
        return Form(quoted(layout.table), columns, key, _literal)

    def query(self, sql: str, seconds: float) -> Found:
        """See `Reader`."""
        with self._translated():
            db = self._open()
            until = time.monotonic() + seconds
            db.set_progress_handler(lambda: int(time.monotonic() > until), _STEPS)
            db.set_authorizer(_only_reads)
            cursor = db.execute(sql)
            if cursor.description is None:
                raise Permanent("the statement gives no rows: it must be one SELECT", reason="query")
        return Found([column[0] for column in cursor.description], self._rows(cursor))

    def close(self) -> None:
        """See `Reader`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rows(self, cursor: sqlite3.Cursor) -> Iterator[Cells]:
        with self._translated():
            for row in cursor:
                yield tuple(cell.hex() if isinstance(cell, bytes) else cell for cell in row)

    def _catalogued(self) -> list[str]:
        if not self._path.exists():  # nothing was delivered yet
            return []
        db = self._open()
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = '_relay_tables'").fetchone():
            return []
        return [name for (name,) in db.execute("SELECT table_name FROM _relay_tables ORDER BY 1")]

    def _known(self, table: str) -> Layout:
        layout = self._layout(table) if table in self._catalogued() else None
        if layout is None:
            raise Permanent(f"there is no table {table} in {self._path.name}", reason="no_table")
        return layout

    def _layout(self, table: str) -> Layout | None:
        """A table as the catalogue and the file agree on it; None where it was dropped by hand."""
        db = self._open()
        (name,) = db.execute("SELECT sql_name FROM _relay_tables WHERE table_name = ?", (table,)).fetchone()
        actual = {row[1] for row in db.execute(f"PRAGMA table_xinfo({quoted(name)})")}
        find = "SELECT source_column, sql_column, type FROM _relay_columns WHERE table_name = ? ORDER BY rowid"
        columns = [Column(*column) for column in db.execute(find, (table,)) if column[1] in actual]
        return Layout(name, columns, 0) if columns else None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            uri = f"{self._path.resolve().as_uri()}?mode=ro"
            db = sqlite3.connect(uri, self.settings.busy_timeout_s, isolation_level=None, uri=True)
            db.execute("PRAGMA query_only = ON")
            self._connection = db
        self._connection.set_authorizer(None)
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            words, code = f"{self._path.name}: {error}", getattr(error, "sqlite_errorcode", 1) & 0xFF
            if code == _INTERRUPTED:
                raise Permanent(f"{self._path.name}: it took too long", reason="too_slow") from None
            if code in _TRANSIENT:
                raise Transient(words, reason="file") from None
            raise Permanent(words, reason="query") from None
        except OSError as error:
            raise Transient(f"{self._path.name}: {error}", reason="file") from None


def _only_reads(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


def _literal(kind: str, text: str) -> str | None:
    # Of what SQLite compares by the text or the whole number in which it is stored.
    value = of_key(kind, text, _DIALECT)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return None if value is None else str(int(value))


def _flagged(rows: Iterator[Cells], flags: set[int]) -> Iterator[Cells]:
    """Columns of booleans hold 0 and 1 here."""
    for row in rows:
        yield tuple(bool(cell) if n in flags and isinstance(cell, int) else cell for n, cell in enumerate(row))
