"""A table looked at for the console: a page of rows, one row, one long cell, its shape and its counts.

A cell is cut by the destination itself, so that nothing large is fetched; how long a look may take is limited too.
"""
# ruff: noqa: S608 - names go through quoted() and values through the destination's own literal()

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from relay.buffer.looking import NEWEST, ORDERS, Cell, Column, Look, Row, Seen, Shape
from relay.errors import Permanent
from relay.records import Type
from worker.columns.layout import quoted
from worker.columns.values import moment
from worker.destination import Form, Reader

#: For so long a destination is asked for one look; whoever asked waits little longer.
LOOK_S: Final = 5.0
#: At most, whatever is asked for.
_ROWS, _COLUMNS, _CHARS, _BUDGET = 100, 400, 65_536, 200_000
#: Characters of a key by which a row can still be named.
_KEY_CHARS: Final = 500
_RECEIPT: Final = ("_relay_event", "_relay_received_at", "_relay_deleted_at")
_BOOLS: Final = {"0": "false", "1": "true"}


def shape(reader: Reader, table: str) -> Shape:
    """What a table is like, and how many rows it has; no count where that takes too long."""
    form, until = reader.form(table), time.monotonic() + LOOK_S
    counted = (
        "SELECT count(*) - count(_relay_deleted_at), count(_relay_deleted_at), max(_relay_received_at) "
        f"FROM {form.at}"
    )
    try:
        rows, deleted, newest = next(iter(reader.query(counted, _left(until)).rows))
    except Permanent as error:
        if error.reason != "too_slow":
            raise
        rows = deleted = newest = None
    return Shape(form.at, form.columns, form.key, rows, deleted, newest)


def look(reader: Reader, table: str, wanted: Look) -> Seen:
    """Rows of a table, deleted ones too.

    Raises:
        DeliveryError: as all reading; `Permanent` of reason `query` where there is no such place or column.
    """
    form = reader.form(table)
    chosen, hidden = _chosen(form, wanted)
    most = 1 if wanted.key else min(wanted.rows, _ROWS)
    where = _where(form, wanted)
    if where is None:
        return Seen([c.name for c in chosen], form.key, hidden, [], more=False)
    chars = min(wanted.chars, _CHARS)
    cells = [f"substr({_text(c.name)}, {max(0, wanted.start) + 1}, {chars + 1})" for c in chosen]
    keys = [f"substr({_text(name)}, 1, {_KEY_CHARS + 1})" for name in form.key]
    named = ", ".join([*cells, *keys, *map(_text, _RECEIPT)])
    statement = f"SELECT {named} FROM {form.at} {where} {_order(form, wanted)} LIMIT {most + 1}"
    kinds = {column.name: column.kind for column in form.columns}
    rows = []
    for found in reader.query(statement, LOOK_S).rows:
        key = [_worded(kinds.get(name, ""), found[len(cells) + n]) for n, name in enumerate(form.key)]
        event, received, deleted = (moment(text) or "" for text in found[-len(_RECEIPT) :])
        known = [] if any(text is None or len(text) > _KEY_CHARS for text in key) else [str(text) for text in key]
        shown = _cells(chosen, found, chars, min(wanted.budget, _BUDGET))
        rows.append(Row(shown, known, event, received, deleted))
    return Seen([c.name for c in chosen], form.key, hidden, rows[:most], more=len(rows) > most)


def _chosen(form: Form, wanted: Look) -> tuple[list[Column], int]:
    """The columns that are shown, those of the key first, and how many are not."""
    if wanted.column:
        one = [column for column in form.columns if column.name == wanted.column]
        if not one:
            raise Permanent("there is no such column", reason="no_table")
        return one, len(form.columns) - 1
    ordered = sorted(form.columns, key=lambda column: column.name not in form.key)
    most = min(wanted.columns, _COLUMNS)
    return ordered[:most], max(0, len(ordered) - most)


def _where(form: Form, wanted: Look) -> str | None:
    """None where no row can be meant."""
    if wanted.key:
        cells = _literals(form, form.key, wanted.key)
        pairs = zip(form.key, cells or (), strict=bool(cells))
        return f"WHERE {' AND '.join(f'{quoted(name)} = {cell}' for name, cell in pairs)}" if cells else None
    if not wanted.after:
        return ""
    columns = _ordering(form, wanted)
    cells = _literals(form, columns, wanted.after)
    if cells is None:
        raise Permanent("there is no such page", reason="query")
    sign = "<" if wanted.order == NEWEST else ">"
    return f"WHERE ({', '.join(map(quoted, columns))}) {sign} ({', '.join(cells)})"


def _literals(form: Form, columns: Sequence[str], texts: Sequence[str]) -> list[str] | None:
    kinds = {column.name: column.kind for column in form.columns}
    if len(columns) != len(texts):
        return None
    found = [form.literal(kinds.get(name, Type.TEXT), text) for name, text in zip(columns, texts, strict=True)]
    return None if None in found else [str(cell) for cell in found]


def _ordering(form: Form, wanted: Look) -> list[str]:
    if wanted.order not in ORDERS:
        raise Permanent("there is no such order", reason="query")
    return ["_relay_event", *form.key] if wanted.order == NEWEST else form.key


def _order(form: Form, wanted: Look) -> str:
    down = " DESC" if wanted.order == NEWEST else ""
    return f"ORDER BY {', '.join(quoted(name) + down for name in _ordering(form, wanted))}"


def _text(name: str) -> str:
    return f"CAST({quoted(name)} AS TEXT)"


def _cells(columns: Iterable[Column], found: Sequence[Any], chars: int, budget: int) -> list[Cell]:
    """The first of these, of one row, cut where it is long or there is no room left for it."""
    shown = []
    for column, value in zip(columns, found, strict=False):
        text = _worded(column.kind, value)
        room = min(chars, budget)
        shown.append(Cell(text if text is None else text[:room], text is not None and len(text) > room))
        budget -= min(len(text or ""), room)
    return shown


def _worded(kind: str, value: Any) -> str | None:
    """A cell's text; what SQLite has no words for is worded as everywhere."""
    if kind == Type.BOOL and value in _BOOLS:
        return _BOOLS[value]
    if kind == Type.INSTANT:
        return moment(value)
    return None if value is None else str(value)


def _left(until: float) -> float:
    return max(0.1, until - time.monotonic())
