"""Which deliveries touched a row, and which of them it holds: worked out of the archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from relay.buffer.failures import Failure
from relay.records import (
    Packed,
    Record,
    Table,
    arrival_instant,
    encode_json,
    full_version,
    key_of,
    records_of,
)

#: What a delivery says of a row. At equal versions the later of these stands.
_SAYS: Final = ("leaves it out", "writes it", "deletes it")


class Touch(msgspec.Struct):
    """One delivery that says something of a row.

    Args:
        event: its id. at: when it was taken, UTC. type, delivery_id: the vendor's.
        says: `writes it`, `deletes it`, or `leaves it out` of a complete set.
        version: the row's, by this delivery.
        state: `won`, `superseded`, or `refused` where every destination buried it.
        refused_by: destinations that did.
    """

    event: str
    at: str
    type: str
    delivery_id: str
    says: str
    version: str
    state: str = "superseded"
    refused_by: list[str] = []


class Traced(msgspec.Struct, frozen=True):
    """The deliveries that touched a row, oldest version first.

    Args:
        since: where not all that is kept was looked through, the arrival number of the oldest event that was.
    """

    touches: list[Touch]
    since: str


class Sought(msgspec.Struct, frozen=True):
    """A row.

    Args:
        table: full name. declared: the table. key: the row's identity as text. parent: its parent's, or empty.
        hints: bytes of which each pair has one in every event that says something of the row.
    """

    table: str
    declared: Table
    key: str
    parent: str
    hints: tuple[tuple[bytes, bytes], ...]


def sought(table: str, declared: Table, values: Sequence[str]) -> Sought:
    """The row of a key, given as one text a key column."""
    row = dict(zip(declared.key, values, strict=True))
    named = [row[column] for column in declared.parent or declared.key]
    hints = tuple((encode_json(value)[1:-1], value.encode()) for value in named)  # a string, or a nested value
    parent = key_of(row, declared.parent) if declared.parent else ""
    return Sought(table, declared, key_of(row, declared.key), parent, hints)


def lineage(
    events: Iterable[tuple[str, Packed]], row: Sought, letters: Iterable[Failure] = (), to: Iterable[str] = ()
) -> list[Touch]:
    """The deliveries that touched a row, oldest version first; the last that was not refused everywhere won.

    Args:
        events: archived ones.
        row: that they are asked about.
        letters: dead letters of any row.
        to: destinations of its source.
    """
    found = sorted(_touches(events, row), key=_order)
    buried: dict[str, set[str]] = {}
    for letter in letters:
        if letter.table == row.table and letter.key in {row.key, row.parent}:
            buried.setdefault(letter.arrival, set()).add(letter.destination)
    for touch in found:
        touch.refused_by = sorted(buried.get(touch.event, ()))
        if touch.refused_by and set(to) <= set(touch.refused_by):
            touch.state = "refused"
    taken = [touch for touch in found if touch.state != "refused"]
    if taken:
        taken[-1].state = "won"
    return found


def _order(touch: Touch) -> tuple[str, int]:
    return touch.version, _SAYS.index(touch.says)


def _touches(events: Iterable[tuple[str, Packed]], row: Sought) -> Iterator[Touch]:
    for arrival, packed in events:
        # Most events are of other rows; their records need not be read to know it.
        if packed.meta.fault or not all(a in packed.rows or b in packed.rows for a, b in row.hints):
            continue
        for record in records_of(packed):
            says = _says(record, row)
            if says is not None:
                yield Touch(
                    arrival, f"{arrival_instant(arrival):%Y-%m-%d %H:%M:%S}", packed.meta.type,
                    packed.meta.delivery_id, says, full_version(record.version, arrival),
                )  # fmt: skip


def _says(record: Record, row: Sought) -> str | None:
    if record.table != row.table:
        return None
    if record.members is None:
        if key_of(record.data, row.declared.key) != row.key:
            return None
        return "writes it" if record.op == "row" else "deletes it"
    if key_of(record.data, row.declared.parent) != row.parent:
        return None
    # Members need not repeat what names their parent.
    if any(key_of({**record.data, **member}, row.declared.key) == row.key for member in record.members):
        return "writes it"
    return "leaves it out" if record.complete else None
