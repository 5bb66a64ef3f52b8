"""What erasing a row takes in SQL: a version above all others, and cells emptied."""
# ruff: noqa: S608 - names go through quoted()

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from relay.records import ARRIVAL_DIGITS, RANK_DIGITS, SEQUENCE_DIGITS, TIME_DIGITS
from worker.columns.layout import Layout, quoted
from worker.destination import Batch

_DIGITS: Final = TIME_DIGITS + SEQUENCE_DIGITS + RANK_DIGITS + ARRIVAL_DIGITS


def above(version: str, held: Iterable[str]) -> str:
    """The version itself where it is newer than all that is held, else the one next above them."""
    newest = max(held, default="")
    return version if newest < version else f"{int(newest) + 1:0{_DIGITS}d}"


def raised(batch: Batch, held: Sequence[str]) -> Batch:
    """A batch whose records win over the versions that are held: a vendor's clock may be ahead of ours."""
    items = [msgspec.structs.replace(i, version=above(i.version, held)) for i in batch.items]
    return Batch(batch.table, items)


def emptied(table: str, layout: Layout, key: Sequence[str]) -> str:
    """An `UPDATE` that leaves only the key of deleted rows, up to its `FROM` or `WHERE`.

    What lies beneath then counts as new as the tombstone, so that no late row is written there again.

    Args:
        table: its name in the statement.
        layout: its columns.
        key: SQL names of the key's.
    """
    cells = [f"{quoted(column.name)} = NULL" for column in layout.columns if column.name not in key]
    return f"UPDATE {table} AS t SET {', '.join([*cells, '_relay_data_version = _relay_version'])}"
