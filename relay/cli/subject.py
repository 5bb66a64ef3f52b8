"""Everything that `relay forget` erases with one row, and which events say something of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from relay.records import Packed, Record, Table, encode_json, key_of, records_of
from relay.sharing import OWNER


class Part(msgspec.Struct, frozen=True):
    """Rows of one table: the row itself, or all that have it as their parent.

    Args:
        table: full name. declared: the table. named: the key's columns, or the parent's, each with its text.
        whole: these are the whole key.
    """

    table: str
    declared: Table
    named: dict[str, str]
    whole: bool

    @property
    def key(self) -> str:
        """Of the row, or of the parent, as text."""
        return key_of(self.named, tuple(self.named))


class Subject:
    """A row with its child rows.

    Args:
        source: whose tables these are.
        tables: its tables, full name to declaration.
        table: the row's, one of them.
        values: of its key, one text a column.
    """

    def __init__(self, source: str, tables: Mapping[str, Table], table: str, values: Sequence[str]) -> None:
        declared = tables[table]
        named = dict(zip(declared.key, values, strict=True))
        self.source = source
        self.parts = [Part(table, declared, named, whole=True)]
        for full, child in tables.items():
            columns = _parent_columns(tables, table, full)
            if columns:
                self.parts.append(Part(full, child, {c: named[columns[c]] for c in child.parent}, whole=False))
        #: (table, column) -> value, as the vendor sent it: a number and its digits are two keys at some places.
        self.sent: dict[tuple[str, str], Any] = {}
        #: Table -> key as text -> key columns of child rows, also as sent.
        self.members: dict[str, dict[str, dict[str, Any]]] = {}
        sent = [value.encode() for column, value in named.items() if column != OWNER]
        self._texts = [re.compile(rb"(?<![0-9A-Za-z])%b(?![0-9A-Za-z])" % re.escape(value)) for value in sent]
        # Bytes of which each pair has one in the records of an event that says something of these rows.
        outer = [named[c] for c in declared.parent or declared.key]
        self._hints = [(encode_json(value)[1:-1], value.encode()) for value in outer]

    def touches(self, packed: Packed) -> bool:
        """Whether an event writes, deletes or leaves out one of the rows; how it names them is kept in `sent`."""
        if packed.meta.fault or not all(a in packed.rows or b in packed.rows for a, b in self._hints):
            return False
        found = False
        for record in records_of(packed):
            for part in self.parts:
                if part.table == record.table:
                    for row in _rows(record, part):
                        found = True
                        self.sent.update(((part.table, column), row[column]) for column in part.named)
                        self._note(part, record)
        return found

    def _note(self, part: Part, record: Record) -> None:
        rows = [] if part.whole else record.members or [record.data]
        keys = [{c: {**record.data, **row}.get(c) for c in part.declared.key} for row in rows]
        self.members.setdefault(part.table, {}).update((key_of(k, part.declared.key), k) for k in keys)

    def named_in(self, raw: bytes) -> bool:
        """Whether the body of an event without records holds the key's values."""
        return all(text.search(raw) for text in self._texts)

    def told(self) -> list[dict[str, Any]]:
        """What the delivering half is asked to erase, see `worker.forget.Wanted`."""
        return [
            {
                "table": part.table,
                "declared": part.declared.declaration.decode(),
                "named": {c: self.sent.get((part.table, c), text) for c, text in part.named.items()},
                "whole": part.whole,
                "members": [*self.members.get(part.table, {}).values()],
            }
            for part in self.parts
        ]


def _rows(record: Record, part: Part) -> Iterator[dict[str, Any]]:
    """Rows in a record that are of the part; of a complete set that leaves the row out, its key."""
    columns = tuple(part.named)
    if record.members is not None and not part.declared.parent:
        return  # the end of a whole version of the table, which names no row
    if not part.whole:
        if key_of(record.data, columns) == part.key:
            yield record.data
        return
    if record.members is None:
        if key_of(record.data, columns) == part.key:
            yield record.data
        return
    named = {c: part.named[c] for c in part.declared.parent}
    if key_of(record.data, part.declared.parent) != key_of(named, part.declared.parent):
        return
    written = [row for m in record.members if key_of(row := {**record.data, **m}, columns) == part.key]
    if written or record.complete:
        yield written[0] if written else {**part.named, **record.data}


def _parent_columns(tables: Mapping[str, Table], table: str, child: str) -> dict[str, str]:
    """Column of a child table -> key column of its parent's; empty where the table is not its parent.

    Declarations do not name the parent's table. Its name and key are in the child's: the lines of `orders` have
    `order_id`, or they are in a table called `order_…`.
    """
    declared, key = tables[child], tables[table].key
    if not declared.parent or len(declared.parent) != len(key):
        return {}
    near = _nearest(tables, child) == table
    one = tables[table].name.removesuffix("s")
    named = {p: k for p in declared.parent for k in key if p == f"{one}_{k}" or ((near or p == OWNER) and p == k)}
    if len(named) == len(key):
        return named
    return {declared.parent[0]: key[0]} if near and len(key) == 1 else {}


def _nearest(tables: Mapping[str, Table], child: str) -> str:
    """The table whose name the child's begins with, the longest of them."""
    name = tables[child].name
    found = [
        (len(t.name), full)
        for full, t in tables.items()
        if not t.parent and name.startswith((f"{t.name}_", f"{t.name.removesuffix('s')}_"))
    ]
    return max(found, default=(0, ""))[1]
