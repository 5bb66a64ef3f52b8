"""What a batch changed: the rows that it is about, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from worker.destination import Change, Preview, Verdict

#: Rows by the cells of their key columns.
Rows = dict[tuple[Any, ...], dict[str, Any]]
#: Where a row comes from. These columns alone make no change: the same event again writes them anew.
ORIGIN: Final = frozenset(
    {"_relay_source", "_relay_event", "_relay_received_at", "_relay_version", "_relay_data_version"}
)


def compared(table: str, key: Sequence[str], before: Rows, after: Rows, verdicts: list[Verdict]) -> Preview:
    """The difference between the same rows before and after; `key` are the key columns' SQL names."""
    changes = []
    for cells, row in after.items():
        held = before.get(cells, {})
        fields = {name: (held.get(name), cell) for name, cell in row.items() if held.get(name) != cell}
        if not held or fields.keys() - ORIGIN:
            changes.append(
                Change("changed" if held else "inserted", table, dict(zip(key, cells, strict=True)), fields)
            )
    return Preview(changes, len(after) - len(changes), verdicts)
