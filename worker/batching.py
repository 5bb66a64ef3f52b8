"""Which records travel together: newest of each key, split by a destination's limits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from worker.destination import Item, Limits


def collapse(items: Iterable[Item], *, keep_deleted: bool) -> tuple[list[Item], list[Item]]:
    """The newest record of each key, oldest first, and those that it makes superfluous.

    A later one of equal version replaces the earlier: it is the same delivery. A set replaces the older sets of
    its parent only if it is complete; an incomplete one says nothing of the members it leaves out.

    Args:
        items: records of one table.
        keep_deleted: the destination keeps what a deleted row last held, so a tombstone does not make the rows
            before it superfluous: a key may then occur once as a row and once as a `gone`.
    """
    kept: dict[tuple[str, bool], list[Item]] = {}
    superseded: list[Item] = []
    for item in sorted(items, key=_version):
        before = kept.setdefault((item.key, keep_deleted and item.op == "gone"), [])
        if item.members is None or item.complete:
            superseded += before
            before.clear()
        before.append(item)
    return sorted(chain.from_iterable(kept.values()), key=_version), superseded


def _version(item: Item) -> str:
    return item.version


def split(items: Sequence[Item], limits: Limits) -> Iterator[list[Item]]:
    """Batches within the limits; one record that is larger than they are goes alone."""
    batch: list[Item] = []
    rows = size = 0
    for item in items:
        over_rows = rows + item.rows > limits.records
        over_bytes = limits.body_bytes is not None and size + item.size > limits.body_bytes
        if batch and (over_rows or over_bytes):
            yield batch
            batch, rows, size = [], 0, 0
        batch.append(item)
        rows += item.rows
        size += item.size
    if batch:
        yield batch
