"""SQLite from rows in memory: `executemany` of one upsert, COMMIT; WAL, commits synced. No versions, no sets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

Rows = Sequence[Sequence[object]]


def store(
    connection: sqlite3.Connection,
    batches: Iterable[tuple[str, Rows]],
    columns: dict[str, list[str]],
    keys: dict[str, list[str]],
) -> None:
    """Upsert batches of (table, rows), a transaction each; the connection is in autocommit mode."""
    for table, rows in batches:
        names = [f'"{c}"' for c in columns[table]]
        listed, marks = ", ".join(names), ", ".join("?" * len(names))
        key, sets = ", ".join(f'"{c}"' for c in keys[table]), ", ".join(f"{c} = excluded.{c}" for c in names)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            f'INSERT INTO "{table}" ({listed}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {sets}',
            rows,
        )
        connection.execute("COMMIT")
