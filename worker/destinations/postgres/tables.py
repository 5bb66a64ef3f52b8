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
    check_width,
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
#: PostgreSQL's own limit (https://www.postgresql.org/docs/current/limits.html); dropped columns count too.
MOST_COLUMNS: Final = 1_600
#: A table of more rows is not rewritten to widen a column.
WIDEN_ROWS: Final = 100_000


class Tables:
    """The relay's tables in one schema, and their layouts as this process knows them."""

    def __init__(self, session: Session) -> None:
        self._db = session
        self._known: dict[str, Layout] = {}

    def layout(self, spec: TableSpec) -> Layout:
        """What a table looks like, as far as this process knows; it is made where there is none."""
        known = self._known.get(spec.name)
        if known is None and self._has_catalogue():
            known = self._read(spec.name)
        if known is None:
            return self.extend(spec, [])
        self._known[spec.name] = known
        return known

    def find(self, spec: TableSpec) -> Layout | None:
        """What a table looks like now, None where there is none."""
        layout = self._read(spec.name) if self._has_catalogue() else None
        return layout if layout is not None and self._actual(layout.table) else None

    def forget(self, spec: TableSpec) -> None:
        """Read the layout anew next time."""
        self._known.pop(spec.name, None)

    def all(self) -> list[tuple[str, Layout]]:
        """Names and layouts of the tables in the catalogue."""
        if not self._has_catalogue():
            return []
        names = self._db.run(f"SELECT table_name FROM {self._db.at('_relay_tables')} ORDER BY 1").fetchall()
        return [(name, layout) for (name,) in names if (layout := self._read(name))]

    def columns_of(self, layout: Layout) -> list[str]:
        """SQL names of the columns that the catalogue and the table agree on; empty where it was dropped."""
        actual = self._actual(layout.table)
        return [column.name for column in layout.columns if column.name in actual]

    def described(self, layout: Layout) -> tuple[dict[str, str], list[str]]:
        """A table's columns with their types as the server words them, and its primary key."""
        where = f"nspname = {self._db.quote(self._db.schema)} AND relname = {self._db.quote(layout.table)}"
        found = self._db.run(
            "SELECT attname, format_type(atttypid, atttypmod), array_position(indkey::int2[], attnum) "
            "FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace "
            f"LEFT JOIN pg_index i ON i.indrelid = c.oid AND indisprimary WHERE {where} AND attnum > 0 "
            "AND NOT attisdropped"
        ).fetchall()
        key = sorted((place, name) for name, _, place in found if place is not None)
        return {name: type_ for name, type_, _ in found}, [name for _, name in key]

    def extend(self, spec: TableSpec, wanted: Sequence[Wanted]) -> Layout:
        """Make the table, or what it lacks, in a transaction of its own; processes take turns.

        What somebody dropped by hand is made again.
        """
        self._db.run(f"{self._db.opening()} SELECT pg_advisory_xact_lock({self._db.lock_of('tables')})")
        self._make_catalogue()
        layout = self._read(spec.name)
        actual = self._actual(layout.table) if layout else set()
        if layout is None or not actual:
            self._drop(spec)
            self._create(spec)
        elif not actual.issuperset(column.name for column in layout.columns):
            self._drop_columns(spec, actual)
        else:
            self._alter(spec, layout, wanted, actual)
        self._db.commit()
        self.forget(spec)
        return self.layout(spec)

    def _has_catalogue(self) -> bool:
        catalogue = self._db.quote(self._db.at("_relay_sets"))
        return self._db.run(f"SELECT to_regclass({catalogue})").fetchone() != (None,)

    def _read(self, name: str) -> Layout | None:
        where = f"WHERE table_name = {self._db.quote(name)}"
        # The revision first: where columns are newer than it, the next transaction finds out and reads again.
        table = self._db.run(f"SELECT sql_name, revision FROM {self._db.at('_relay_tables')} {where}").fetchone()
        if table is None:
            return None
        catalogue = self._db.at("_relay_columns")
        columns = self._db.run(
            f"SELECT source_column, sql_column, type FROM {catalogue} {where} ORDER BY position"
        ).fetchall()
        return Layout(table[0], [Column(*column) for column in columns], table[1])

    def _make_catalogue(self) -> None:
        schema = self._db.quote(self._db.schema)
        # Where the schema is there, no right to make one is needed.
        if not self._db.run(f"SELECT 1 FROM pg_namespace WHERE nspname = {schema}").fetchone():
            self._db.run(f"CREATE SCHEMA {quoted(self._db.schema)}")
        if self._has_catalogue():
            return
        self._db.run(
            f"CREATE TABLE {self._db.at('_relay_tables')} "
            "(table_name text PRIMARY KEY, sql_name text NOT NULL UNIQUE, revision bigint NOT NULL); "
            f"CREATE TABLE {self._db.at('_relay_columns')} (table_name text, position integer GENERATED ALWAYS "
            "AS IDENTITY, source_column text NOT NULL, sql_column text, type text NOT NULL, "
            "PRIMARY KEY (table_name, sql_column)); "
            f"CREATE TABLE {self._db.at('_relay_sets')} (table_name text, parent_key text, "
            'version text COLLATE "C" NOT NULL, PRIMARY KEY (table_name, parent_key))'
        )

    def _actual(self, table: str) -> set[str]:
        """The columns that a table, view or the like really has; empty where there is none of that name."""
        rows = self._db.run(
            "SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n "
            f"ON n.oid = relnamespace WHERE nspname = {self._db.quote(self._db.schema)} "
            f"AND relname = {self._db.quote(table)} AND attnum > 0 AND NOT attisdropped"
        ).fetchall()
        return {name for (name,) in rows}

    def _drop(self, spec: TableSpec) -> None:
        """Take a table out of the catalogue."""
        for catalogue in ("_relay_tables", "_relay_columns", "_relay_sets"):
            self._db.run(f"DELETE FROM {self._db.at(catalogue)} WHERE table_name = {self._db.quote(spec.name)}")

    def _drop_columns(self, spec: TableSpec, actual: set[str]) -> None:
        """Take columns that are no more out of the catalogue."""
        self._db.run(
            f"DELETE FROM {self._db.at('_relay_columns')} WHERE table_name = {self._db.quote(spec.name)} "
            f"AND sql_column <> ALL({self._db.quote(sorted(actual))}::text[])"
        )
        self._touch(spec)

    def _touch(self, spec: TableSpec) -> None:
        name = self._db.quote(spec.name)
        self._db.run(
            f"UPDATE {self._db.at('_relay_tables')} SET revision = txid_current() WHERE table_name = {name}"
        )

    def _create(self, spec: TableSpec) -> None:
        names = self._db.run(f"SELECT sql_name FROM {self._db.at('_relay_tables')}").fetchall()
        table = sql_name(spec.name, {name for (name,) in names}, DIALECT)
        if self._actual(table):
            raise foreign_table(table, f"schema {self._db.schema}")
        columns = first_columns(spec, DIALECT)
        parts = [f"{quoted(c.name)} {TYPES[c.kind]}" for c in columns]
        parts += [f"{name} {kind}" for name, kind in _RELAY_TYPES]
        key = sql.listed(c.name for s in spec.key for c in columns if c.source == s)
        self._db.run(f"CREATE TABLE {self._db.at(table)} ({', '.join(parts)}, PRIMARY KEY ({key}))")
        self._db.run(
            f"INSERT INTO {self._db.at('_relay_tables')} VALUES "
            f"({self._db.quote(spec.name)}, {self._db.quote(table)}, txid_current())"
        )
        self._remember(spec, columns)

    def _remember(self, spec: TableSpec, columns: Sequence[Column]) -> None:
        for column in columns:
            cells = ", ".join(self._db.quote(v) for v in (spec.name, column.source, column.name, column.kind))
            names = "(table_name, source_column, sql_column, type)"
            self._db.run(f"INSERT INTO {self._db.at('_relay_columns')} {names} VALUES ({cells})")

    def _alter(self, spec: TableSpec, layout: Layout, wanted: Sequence[Wanted], actual: set[str]) -> None:
        new: list[Column] = []
        lacking = [want for want in wanted if layout.lacks(want)]
        check_width(layout.table, len(actual), sum(not layout.narrow(want) for want in lacking), MOST_COLUMNS)
        for want in lacking:
            widened = layout.narrow(want) and self._widen(spec, layout, want)
            if not widened:
                new.append(layout.column_for(want, actual | {c.name for c in new}, DIALECT))
        if new:
            added = ", ".join(f"ADD COLUMN {quoted(c.name)} {TYPES[c.kind]}" for c in new)
            self._db.run(f"ALTER TABLE {self._db.at(layout.table)} {added}")
            self._remember(spec, new)
            self._touch(spec)

    def _widen(self, spec: TableSpec, layout: Layout, want: Wanted) -> bool:
        """Whole numbers become `numeric` in place; False where a view or the table's size forbids it."""
        table, name = self._db.at(layout.table), layout.by_source[want.source].name
        count = self._db.run(f"SELECT count(*) FROM (SELECT FROM {table} LIMIT {WIDEN_ROWS + 1}) AS x").fetchone()
        if count is None or count[0] > WIDEN_ROWS:
            return False
        self._db.run("SAVEPOINT widen")
        try:
            self._db.run(f"ALTER TABLE {table} ALTER COLUMN {quoted(name)} TYPE numeric")
        except errors.FeatureNotSupported:
            self._db.run("ROLLBACK TO SAVEPOINT widen")
            return False
        where = f"table_name = {self._db.quote(spec.name)} AND sql_column = {self._db.quote(name)}"
        self._db.run(f"UPDATE {self._db.at('_relay_columns')} SET type = 'number' WHERE {where}")
        self._touch(spec)
        return True
