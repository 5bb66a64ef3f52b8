"""What tables look like, remembered in `_relay_tables` and `_relay_columns`, and how they are made and changed."""
# ruff: noqa: S608 - names go through quoted() and values through psycopg.sql.quote

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import errors

from relay.records import Type
from worker.columns import sql
from worker.columns.layout import (
    MISFIT,
    Column,
    Dialect,
    Layout,
    Wanted,
    first_columns,
    foreign_table,
    quoted,
    sql_name,
)
from worker.destination import TableSpec
from worker.destinations.postgres.session import Session

_SYSTEM: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
#: `numeric` holds 131,072 digits before the point and 16,383 after it.
DIALECT: Final = Dialect(fold=str, reserved=_SYSTEM, typed_keys=True, nul=False, digits=(131_072, 16_383))
TYPES: Final = {
    Type.TEXT.value: "text",
    Type.INT.value: "bigint",
    Type.NUMBER.value: "numeric",
    Type.INSTANT.value: "timestamptz",
    Type.BOOL.value: "boolean",
    Type.JSON.value: "jsonb",
    MISFIT: "text",
}
_RELAY_TYPES: Final = (
    ("_relay_source", "text"),
    ("_relay_event", "text"),
    ("_relay_version", 'text COLLATE "C" NOT NULL'),
    ("_relay_received_at", "timestamptz"),
    ("_relay_deleted_at", "timestamptz"),
    ("_relay_test", "boolean"),
    ("_relay_data_version", 'text COLLATE "C"'),
)
#: A table of more rows is not rewritten to widen a column.
WIDEN_ROWS: Final = 100_000


class Tables:
    """The relay's tables in one schema, and their layouts as this process knows them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, Layout] = {}

    def _layout(self, spec: TableSpec) -> Layout:
        known = self._layouts.get(spec.name)
        if known is None and self._session.has_catalogue():
            known = self._read(spec.name)
        if known is None:
            return self._extend(spec, [])
        self._layouts[spec.name] = known
        return known

    def _has_catalogue(self) -> bool:
        found = self._session.run(
            f"SELECT to_regclass({self._session.quote(self._session.at('_relay_sets'))})"
        ).fetchone()
        return found is not None and found[0] is not None

    def _read(self, name: str) -> Layout | None:
        where = f"WHERE table_name = {self._session.quote(name)}"
        table = self._session.run(
            f"SELECT sql_name, revision FROM {self._session.at('_relay_tables')} {where}"
        ).fetchone()
        if table is None:
            return None
        columns = self._session.run(
            f"SELECT source_column, sql_column, type FROM {self._session.at('_relay_columns')} {where} ORDER BY position"
        ).fetchall()
        return Layout(table[0], [Column(*column) for column in columns], table[1])

    def _extend(self, spec: TableSpec, wanted: Sequence[Wanted]) -> Layout:
        """Make the table, or what it lacks, in a transaction of its own; processes take turns."""
        self._session.run(
            f"{self._session.opening()} SELECT pg_advisory_xact_lock({self._session.lock_of('tables')})"
        )
        self._session.run(self._catalogue())
        layout = self._read(spec.name)
        actual = self._actual(layout.table) if layout else set()
        if layout is None or not actual:
            self._forget(spec, None)
            self._create(spec)
        else:
            self._forget(spec, actual)
            self._alter(spec, layout, wanted, actual)
        self._session.run("COMMIT")
        self._layouts.pop(spec.name, None)
        return self._layout(spec)

    def _catalogue(self) -> str:
        found = self._session.run(
            f"SELECT 1 FROM pg_namespace WHERE nspname = {self._session.quote(self._session.schema)}"
        ).fetchone()
        # Where the schema is there, no right to make one is needed.
        schema = "" if found else f"CREATE SCHEMA {quoted(self._session.schema)};"
        if found and self._session.has_catalogue():
            return "SELECT"
        return (
            f"{schema} CREATE TABLE {self._session.at('_relay_tables')} "
            "(table_name text PRIMARY KEY, sql_name text NOT NULL UNIQUE, revision bigint NOT NULL); "
            f"CREATE TABLE {self._session.at('_relay_columns')} (table_name text, position integer GENERATED ALWAYS AS "
            "IDENTITY, source_column text NOT NULL, sql_column text, type text NOT NULL, "
            "PRIMARY KEY (table_name, sql_column)); "
            f'CREATE TABLE {self._session.at("_relay_sets")} (table_name text, parent_key text, version text COLLATE "C" '
            "NOT NULL, PRIMARY KEY (table_name, parent_key))"
        )

    def _actual(self, table: str) -> set[str]:
        """The columns that a table, view or the like really has; empty where there is none of that name."""
        rows = self._session.run(
            "SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n "
            f"ON n.oid = relnamespace WHERE nspname = {self._session.quote(self._session.schema)} "
            f"AND relname = {self._session.quote(table)} AND attnum > 0 AND NOT attisdropped"
        ).fetchall()
        return {name for (name,) in rows}

    def _forget(self, spec: TableSpec, actual: set[str] | None) -> None:
        """Take what somebody dropped by hand out of the catalogue: some columns, or (None) the table."""
        name = self._session.quote(spec.name)
        if actual is None:
            for catalogue in ("_relay_tables", "_relay_columns", "_relay_sets"):
                self._session.run(f"DELETE FROM {self._session.at(catalogue)} WHERE table_name = {name}")
            return
        columns = self._session.quote(sorted(actual))
        gone = f"DELETE FROM {self._session.at('_relay_columns')} WHERE table_name = {name} AND sql_column <> ALL({columns})"
        if self._session.run(gone).rowcount:
            self._touch(spec)

    def _touch(self, spec: TableSpec) -> None:
        name = self._session.quote(spec.name)
        self._session.run(
            f"UPDATE {self._session.at('_relay_tables')} SET revision = txid_current() WHERE table_name = {name}"
        )

    def _create(self, spec: TableSpec) -> None:
        names = self._session.run(f"SELECT sql_name FROM {self._session.at('_relay_tables')}").fetchall()
        table = sql_name(spec.name, {name for (name,) in names}, DIALECT)
        if self._actual(table):
            raise foreign_table(table, f"schema {self._session.schema}")
        columns = first_columns(spec, DIALECT)
        parts = [f"{quoted(c.name)} {TYPES[c.kind]}" for c in columns]
        parts += [f"{name} {kind}" for name, kind in _RELAYTYPES]
        key = sql.listed(c.name for s in spec.key for c in columns if c.source == s)
        self._session.run(f"CREATE TABLE {self._session.at(table)} ({', '.join(parts)}, PRIMARY KEY ({key}))")
        self._session.run(
            f"INSERT INTO {self._session.at('_relay_tables')} VALUES "
            f"({self._session.quote(spec.name)}, {self._session.quote(table)}, txid_current())"
        )
        self._remember(spec, columns)

    def _remember(self, spec: TableSpec, columns: Sequence[Column]) -> None:
        for column in columns:
            cells = ", ".join(self._session.quote(v) for v in (spec.name, column.source, column.name, column.kind))
            names = "(table_name, source_column, sql_column, type)"
            self._session.run(f"INSERT INTO {self._session.at('_relay_columns')} {names} VALUES ({cells})")

    def _alter(self, spec: TableSpec, layout: Layout, wanted: Sequence[Wanted], actual: set[str]) -> None:
        new: list[Column] = []
        for want in filter(layout.lacks, wanted):
            widened = layout.narrow(want) and self._widen(spec, layout, want)
            if not widened:
                new.append(layout.column_for(want, actual | {c.name for c in new}, DIALECT))
        if new:
            added = ", ".join(f"ADD COLUMN {quoted(c.name)} {TYPES[c.kind]}" for c in new)
            self._session.run(f"ALTER TABLE {self._session.at(layout.table)} {added}")
            self._remember(spec, new)
            self._touch(spec)

    def _widen(self, spec: TableSpec, layout: Layout, want: Wanted) -> bool:
        """Whole numbers become `numeric` in place; False where a view or the table's size forbids it."""
        table, name = self._session.at(layout.table), layout.by_source[want.source].name
        count = self._session.run(
            f"SELECT count(*) FROM (SELECT FROM {table} LIMIT {WIDEN_ROWS + 1}) AS x"
        ).fetchone()
        if count is None or count[0] > WIDEN_ROWS:
            return False
        self._session.run("SAVEPOINT widen")
        try:
            self._session.run(f"ALTER TABLE {table} ALTER COLUMN {quoted(name)} TYPE numeric")
        except errors.FeatureNotSupported:
            self._session.run("ROLLBACK TO SAVEPOINT widen")
            return False
        where = f"table_name = {self._session.quote(spec.name)} AND sql_column = {self._session.quote(name)}"
        self._session.run(f"UPDATE {self._session.at('_relay_columns')} SET type = 'number' WHERE {where}")
        self._touch(spec)
        return True
