"""The statements by which newer wins, in words that PostgreSQL and SQLite share.

A live row holds the version of its data. A deleted one holds its tombstone's, and in `_relay_data_version` the
version of what lies beneath, so that a row which arrives late finds its place in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from worker.columns.layout import Layout, quoted

#: The relay's own columns of each table, in the order in which `INSERT`s name them.
RELAY: Final = (
    "_relay_source",
    "_relay_event",
    "_relay_version",
    "_relay_received_at",
    "_relay_deleted_at",
    "_relay_test",
    "_relay_data_version",
)


#: Of a row `t`, where a set has no parent: what is deleted stays as it is.
LIVING: Final = "t._relay_deleted_at IS NULL"


def older(version: str) -> str:
    """Of a row `t`: it is older than this version of the whole table, or was deleted as it."""
    return f"({LIVING} AND t._relay_version < {version}) OR t._relay_version = {version}"


def listed(names: Iterable[str]) -> str:
    """Quoted names with commas."""
    return ", ".join(map(quoted, names))


def whole_rows(layout: Layout, key: Sequence[str], present: Sequence[str]) -> str:
    """How an `INSERT INTO … AS t` of rows ends: a row is replaced whole by one that is not older.

    At equal versions a tombstone stays: which of two records of one event arrives first must not show.
    """
    sets = _cells(layout, key, present, lambda name: f"excluded.{quoted(name)}")
    sets += [f"{name} = excluded.{name}" for name in RELAY]
    return (
        f"ON CONFLICT ({listed(key)}) DO UPDATE SET {', '.join(sets)} "
        "WHERE t._relay_version < excluded._relay_version OR (t._relay_version = excluded._relay_version "
        "AND (t._relay_deleted_at IS NULL OR excluded._relay_deleted_at IS NOT NULL))"
    )


def tombstones(key: Sequence[str]) -> str:
    """How an `INSERT INTO … AS t` of tombstones ends: what the row holds is kept."""
    return (
        f"ON CONFLICT ({listed(key)}) DO UPDATE SET {tombstone_cells('excluded.')}, "
        "_relay_received_at = excluded._relay_received_at WHERE t._relay_version <= excluded._relay_version"
    )


def tombstone_cells(of: str) -> str:
    """What a tombstone makes of a row `t`, but for the receipt; `of` is the tombstone's prefix."""
    same = ("_relay_source", "_relay_event", "_relay_version", "_relay_deleted_at", "_relay_test")
    return ", ".join(f"{name} = {of}{name}" for name in same) + (
        ", _relay_data_version = "
        "CASE WHEN t._relay_deleted_at IS NULL THEN t._relay_version ELSE t._relay_data_version END"
    )


def beneath(
    layout: Layout, key: Sequence[str], present: Sequence[str], value: Callable[[str], str], rows: str = ""
) -> str:
    """`SET … WHERE` of an `UPDATE … AS t` that writes late rows beneath newer tombstones.

    Args:
        layout: the table's.
        key: SQL names of the key columns.
        present: SQL names of the columns that the rows have.
        value: how the statement refers to a row's value of a column.
        rows: a `FROM` clause that names them, where there is one.
    """
    version = value("_relay_version")
    sets = [*_cells(layout, key, present, value), f"_relay_data_version = {version}"]
    match = [f"t.{quoted(name)} = {value(name)}" for name in key]
    return (
        f"SET {', '.join(sets)} {rows} WHERE {' AND '.join(match)} AND t._relay_deleted_at IS NOT NULL "
        f"AND {version} <= t._relay_version AND {version} >= coalesce(t._relay_data_version, '')"
    )


def _cells(layout: Layout, key: Sequence[str], present: Sequence[str], value: Callable[[str], str]) -> list[str]:
    """What each column of the relay's becomes: the row's value, or null where the row lacks it."""
    own = [column.name for column in layout.columns if column.name not in key]
    return [f"{quoted(name)} = {value(name) if name in present else 'NULL'}" for name in own]
