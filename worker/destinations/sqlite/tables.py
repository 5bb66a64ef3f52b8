"""What tables look like, remembered in `_relay_tables` and `_relay_columns`, and how they are made and changed."""
# ruff: noqa: S608 - names go through quoted(), values are parameters

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from relay.errors import Transient
from relay.records import WHOLE, Type
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

DIALECT: Final = Dialect(fold=str.lower, any_number=True)
_TYPES: Final = {
    Type.TEXT.value: "TEXT",
    Type.INT.value: "",
    Type.NUMBER.value: "TEXT",
    Type.INSTANT.value: "TEXT",
    Type.BOOL.value: "BOOLEAN",
    Type.JSON.value: "TEXT",
    MISFIT: "TEXT",
}
CATALOGUE: Final = """
CREATE TABLE IF NOT EXISTS _relay_tables (table_name TEXT PRIMARY KEY, sql_name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS _relay_columns (table_name TEXT, source_column TEXT NOT NULL, sql_column TEXT,
    type TEXT NOT NULL, PRIMARY KEY (table_name, sql_column));
CREATE TABLE IF NOT EXISTS _relay_sets (table_name TEXT, parent_key TEXT, version TEXT NOT NULL,
    PRIMARY KEY (table_name, parent_key))
"""
_RELAY_TYPES: Final = (
    "_relay_source TEXT, _relay_event TEXT, _relay_version TEXT NOT NULL, _relay_received_at TEXT, "
    "_relay_deleted_at TEXT, _relay_test BOOLEAN, _relay_data_version TEXT"
)


def layout_of(db: sqlite3.Connection, spec: TableSpec, file: str) -> Layout:
    """What a table looks like; it is made where there is none. `file` is named in faults."""
    layout = read(db, spec.name)
    if layout is None:
        _create(db, spec, file)
        layout = read(db, spec.name)
    if layout is None:
        raise Transient(f"table {spec.name} vanished while it was made")
    return layout


def read(db: sqlite3.Connection, name: str) -> Layout | None:
    """A table as the catalogue and the file agree on it: what was dropped by hand is forgotten."""
    found = db.execute("SELECT sql_name FROM _relay_tables WHERE table_name = ?", (name,)).fetchone()
    actual = _actual(db, found[0]) if found else set()
    if not actual:
        return None
    columns = db.execute(
        "SELECT source_column, sql_column, type FROM _relay_columns WHERE table_name = ? ORDER BY rowid",
        (name,),
    ).fetchall()
    return Layout(found[0], [Column(*column) for column in columns if column[1] in actual], 0)


def _create(db: sqlite3.Connection, spec: TableSpec, file: str) -> None:
    for catalogue in ("_relay_tables", "_relay_columns", "_relay_sets"):
        db.execute(f"DELETE FROM {catalogue} WHERE table_name = ?", (spec.name,))
    taken = {name.lower() for (name,) in db.execute("SELECT sql_name FROM _relay_tables")}
    # SQLite keeps names that begin so for itself.
    wish = f"x{spec.name}" if spec.name.lower().startswith("sqlite_") else spec.name
    table = sql_name(wish, taken, DIALECT)
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE", (table,)).fetchone():
        raise foreign_table(table, file)
    columns = first_columns(spec, DIALECT)
    parts = ", ".join(f"{quoted(c.name)} {_TYPES[c.kind]}" for c in columns)
    key = sql.listed(c.name for source in spec.key for c in columns if c.source == source)
    db.execute(f"CREATE TABLE {quoted(table)} ({parts}, {_RELAY_TYPES}, PRIMARY KEY ({key}))")
    db.execute("INSERT INTO _relay_tables VALUES (?, ?)", (spec.name, table))
    _remember(db, spec, columns)


def add(db: sqlite3.Connection, spec: TableSpec, layout: Layout, wanted: Sequence[Wanted]) -> None:
    """Add columns that a table lacks.

    Raises:
        Permanent: it would have more than SQLite allows.
    """
    taken, lacking = _actual(db, layout.table), list(filter(layout.lacks, wanted))
    check_width(layout.table, len(taken), len(lacking), db.getlimit(sqlite3.SQLITE_LIMIT_COLUMN))
    for want in lacking:
        column = layout.column_for(want, taken, DIALECT)
        db.execute(f"ALTER TABLE {quoted(layout.table)} ADD COLUMN {quoted(column.name)} {_TYPES[column.kind]}")
        _remember(db, spec, [column])
        taken.add(column.name)


def floor(db: sqlite3.Connection, spec: TableSpec) -> str:
    """The version before which all rows are deleted, of a table that comes in versions of the whole."""
    find = "SELECT version FROM _relay_sets WHERE table_name = ? AND parent_key = '[]'"
    found = db.execute(find, (spec.name,)).fetchone() if WHOLE in spec.columns else None
    return found[0] if found else ""


def _actual(db: sqlite3.Connection, table: str) -> set[str]:
    """The columns that a table really has; empty where there is none."""
    return {row[1] for row in db.execute(f"PRAGMA table_xinfo({quoted(table)})")}


def _remember(db: sqlite3.Connection, spec: TableSpec, columns: Sequence[Column]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO _relay_columns VALUES (?, ?, ?, ?)",
        [(spec.name, column.source, column.name, column.kind) for column in columns],
    )
