"""PostgreSQL from rows in memory: COPY into a temporary table, one upsert, COMMIT. No versions, no sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg
from psycopg import sql

Rows = Sequence[Sequence[object]]


def store(
    connection: psycopg.Connection,
    batches: Iterable[tuple[str, Rows]],
    columns: dict[str, list[str]],
    keys: dict[str, list[str]],
) -> None:
    """Upsert batches of (table, rows), a transaction each; the connection is in autocommit mode."""
    for table, rows in batches:
        name, names = sql.Identifier(table), [sql.Identifier(c) for c in columns[table]]
        sets = [sql.SQL("{0} = excluded.{0}").format(c) for c in names]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TEMP TABLE stage (LIKE {}) ON COMMIT DROP").format(name))
            listed = sql.SQL(", ").join(names)
            with cursor.copy(sql.SQL("COPY stage ({}) FROM STDIN").format(listed)) as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(
                sql.SQL("INSERT INTO {} ({}) SELECT {} FROM stage ON CONFLICT ({}) DO UPDATE SET {}").format(
                    name,
                    listed,
                    listed,
                    sql.SQL(", ").join(map(sql.Identifier, keys[table])),
                    sql.SQL(", ").join(sets),
                )
            )
