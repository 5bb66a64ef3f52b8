"""PostgreSQL read: one read-only transaction, a cursor of the server, a limit of time for each step and for all.

https://www.postgresql.org/docs/current/sql-set-transaction.html · https://www.postgresql.org/docs/current/sql-declare.html
"""
# ruff: noqa: S608 - names go through quoted()

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.types.string import TextLoader

from relay.buffer import looking
from relay.errors import Permanent
from worker.columns import sql
from worker.columns.layout import Layout
from worker.columns.values import moment, of_key
from worker.destination import Cells, Form, Found, Reader
from worker.destinations.postgres.session import Session
from worker.destinations.postgres.tables import DIALECT, Tables

#: Rows fetched at once.
_STEP: Final = 2_000
_NATIVE: Final = frozenset({"bool", "int2", "int4", "int8", "float4", "float8", "numeric"})
_TIMESTAMPTZ: Final = 1184
_TIMESTAMP: Final = 1114


class SchemaReader(Reader):
    """The tables of a PostgreSQL destination."""

    def __init__(self, settings: Any, data_dir: Path) -> None:
        super().__init__(settings, data_dir)
        self._db = Session(settings)
        self._tables = Tables(self._db)
        self._under_way: list[Generator[Any]] = []

    def names(self) -> list[str]:
        """See `Reader`."""
        with self._reading(self.settings.statement_timeout_s):
            return [name for name, layout in self._tables.all() if self._tables.columns_of(layout)]

    def columns(self, table: str) -> list[str]:
        """See `Reader`."""
        with self._reading(self.settings.statement_timeout_s):
            return self._known(table)[1]

    def rows(self, table: str, seconds: float) -> Found:
        """See `Reader`."""
        with self._reading(self.settings.statement_timeout_s):
            layout, names = self._known(table)
        return self.query(
            f"SELECT {sql.listed(names)} FROM {self._db.at(layout.table)} WHERE _relay_deleted_at IS NULL", seconds
        )

    def form(self, table: str) -> Form:
        """See `Reader`."""
        with self._reading(self.settings.statement_timeout_s):
            layout, _ = self._known(table)
            types, key = self._tables.described(layout)
        columns = [
            looking.Column(c.source, c.name, c.kind, types[c.name]) for c in layout.columns if c.name in types
        ]
        return Form(self._db.at(layout.table), columns, key, self._literal)

    def query(self, sql: str, seconds: float) -> Found:
        """See `Reader`."""
        rows = self._fetched(sql, time.monotonic() + seconds)
        self._under_way.append(rows)
        return Found(next(rows), rows)

    def close(self) -> None:
        """See `Reader`; what was not read to its end is let go first."""
        while self._under_way:
            self._under_way.pop().close()
        self._db.close()

    def _literal(self, kind: str, text: str) -> str | None:
        value = of_key(kind, text, DIALECT)
        return None if value is None else self._db.quote(value)

    def _known(self, table: str) -> tuple[Layout, list[str]]:
        layout = next((layout for name, layout in self._tables.all() if name == table), None)
        names = self._tables.columns_of(layout) if layout else []
        if layout is None or not names:
            raise Permanent(f"there is no table {table} in schema {self._db.schema}", reason="no_table")
        return layout, names

    def _fetched(self, sql: str, until: float) -> Generator[Any]:
        """Names of columns first, then rows."""
        with self._reading(until - time.monotonic()):
            # A named cursor is declared by the extended protocol, which takes one statement only.
            cursor = self._db.open().cursor(name="relay_export")
            for kind in cursor.adapters.types:
                for oid in {kind.oid, kind.array_oid} - {0}:
                    if kind.name not in _NATIVE or oid != kind.oid:
                        cursor.adapters.register_loader(oid, TextLoader)
            with _closing(cursor):
                cursor.execute(sql.encode())
                described = cursor.description or []
                yield [column.name for column in described]
                moments = [n for n, c in enumerate(described) if c.type_code in {_TIMESTAMPTZ, _TIMESTAMP}]
                while rows := self._step(cursor, until):
                    yield from _worded(rows, moments) if moments else rows

    def _step(self, cursor: psycopg.ServerCursor[Any], until: float) -> list[Cells]:
        left = int((until - time.monotonic()) * 1000)
        if left < 1:
            raise Permanent("it took too long", reason="too_slow")
        self._db.run(f"SET LOCAL statement_timeout = {left}")
        return cursor.fetchmany(_STEP)

    @contextmanager
    def _reading(self, seconds: float) -> Iterator[None]:
        """One transaction in which nothing can be changed; its errors by consequence."""
        try:
            with self._db.translated():
                try:
                    self._db.run(
                        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TIME ZONE 'UTC'; "
                        "SET LOCAL datestyle = 'ISO'; SET LOCAL bytea_output = 'hex'; "
                        "SET LOCAL extra_float_digits = 1; "
                        f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"
                    )
                    yield
                except psycopg.errors.QueryCanceled:
                    raise Permanent("it took too long", reason="too_slow") from None
                finally:
                    self._db.rollback()
        except Permanent as error:
            raise Permanent(str(error), reason="query" if error.reason == "permanent" else error.reason) from None


@contextmanager
def _closing(cursor: psycopg.ServerCursor[Any]) -> Iterator[None]:
    """Close it at the end; where the server is gone that fails, and it is closed with its connection."""
    try:
        yield
    finally:
        with suppress(psycopg.Error):
            cursor.close()
        if not cursor.closed:
            cursor.connection.close()
            cursor.close()


def _worded(rows: list[Cells], moments: list[int]) -> Iterator[Cells]:
    """Moments as the relay words them everywhere; what only PostgreSQL knows (infinity, BC) stays as it is."""
    for row in rows:
        cells = list(row)
        for n in moments:
            cells[n] = moment(cells[n])
        yield tuple(cells)
