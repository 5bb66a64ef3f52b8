"""What events would change at a destination, tried there and rolled back; lanes and ledger know nothing of it.

All records of a key are brought together first, on disk, so that each row is judged once, as if all events had
been delivered in one claim.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec

from relay.errors import Permanent
from relay.records import encode_json, key_of
from worker.batching import collapse
from worker.destination import Batch, Destination, Item, Preview, Rejected, TableSpec
from worker.reading import Work

_decoder: Final = msgspec.json.Decoder(Item, float_hook=Decimal)
#: Faults of a place rather than of a record: halving the batch would not find it.
_WHOLE: Final = frozenset({"foreign_table", "no_preview"})


class Spool:
    """Items of many claims, by table and key; a file that only SQLite knows of, and that goes with the object."""

    def __init__(self) -> None:
        self._specs: dict[str, TableSpec] = {}
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE items (name TEXT, place TEXT, item BLOB)")
        self._db.execute("BEGIN")

    def add(self, work: Work) -> None:
        """Take in a claim."""
        self._specs |= work.tables
        for name, items in work.items.items():
            spec = work.tables[name]
            of = spec.parent or spec.key  # rows of a parent beside its sets, since these decide on them
            rows = [(name, key_of(item.data, of), encode_json(item)) for item in items]
            self._db.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)

    def batches(self, most: int) -> Iterator[Batch]:
        """All records, some `most` rows at a time; those of a key, or of a parent, are never apart."""
        for name, spec in sorted(self._specs.items()):
            batch: list[Item] = []
            size = 0
            for items in self._groups(name):
                rows = sum(item.rows for item in items)
                if batch and size + rows > most:
                    yield Batch(spec, batch)
                    batch, size = [], 0
                batch += items
                size += rows
            yield Batch(spec, batch)

    def close(self) -> None:
        """Throw all away."""
        self._db.close()

    def _groups(self, name: str) -> Iterator[list[Item]]:
        rows = self._db.execute("SELECT place, item FROM items WHERE name = ? ORDER BY place, rowid", (name,))
        for _, group in groupby(rows, itemgetter(0)):
            yield [_decoder.decode(item) for _, item in group]


def preview(destination: Destination, spool: Spool) -> Iterator[dict[str, Any]]:
    """What would change, one JSON object a row, and at last how many rows there are of each sort.

    Raises:
        DeliveryError: of the whole destination: it is away, refuses us, or cannot tell.
    """
    counts = Counter(inserted=0, changed=0, ignored=0, rejected=0)
    for batch in spool.batches(destination.limits.records):
        for items, found in _settled(destination, batch):
            counts["ignored"] += found.ignored
            for change in found.changes:
                counts[change.op] += 1
                yield {"destination": destination.name, **msgspec.to_builtins(change)}
            for item, verdict in zip(items, found.verdicts, strict=True):
                if isinstance(verdict, Rejected):
                    counts["rejected"] += 1
                    yield {
                        "destination": destination.name, "op": "rejected", "table": batch.table.name,
                        "key": item.key, "reason": verdict.reason,
                    }  # fmt: skip
    yield {"destination": destination.name, "counts": dict(counts)}


def _settled(destination: Destination, batch: Batch) -> Iterator[tuple[Sequence[Item], Preview]]:
    """Previews of the newest of each key; where one is rejected, of the records that it hid as well."""
    kept, hidden = collapse(batch.items, keep_deleted=destination.keeps_deleted)
    rejected: set[str] = set()
    for items, found in _tried(destination, Batch(batch.table, kept)):
        yield items, found
        verdicts = zip(items, found.verdicts, strict=True)
        rejected.update(item.key for item, verdict in verdicts if isinstance(verdict, Rejected))
    uncovered = [item for item in hidden if item.key in rejected]
    if uncovered:
        yield from _settled(destination, Batch(batch.table, uncovered))


def _tried(destination: Destination, batch: Batch) -> Iterator[tuple[Sequence[Item], Preview]]:
    """A batch's previews, halved as a delivery is until what is refused stands alone."""
    try:
        found = destination.preview(batch)
    except Permanent as error:
        if error.reason in _WHOLE:
            raise
        if len(batch.items) > 1:
            half = len(batch.items) // 2
            yield from _tried(destination, Batch(batch.table, batch.items[:half]))
            yield from _tried(destination, Batch(batch.table, batch.items[half:]))
            return
        found = Preview([], 0, [Rejected(str(error))])
    yield batch.items, found
