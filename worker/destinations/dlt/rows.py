"""Records as dlt takes them: rows, the types of their columns, and which names would be one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from relay.errors import Permanent
from relay.records import Type, arrival_instant, version_instant
from worker.columns.layout import Dialect, sql_name
from worker.columns.values import ENCODERS, as_text
from worker.destination import Batch, Item

#: The dlt type of a declared column. JSON stays text: dlt would make text of the numbers in it.
_TYPES: Final[Mapping[str, dict[str, Any]]] = {
    Type.ID: {"data_type": "text"},
    Type.TEXT: {"data_type": "text"},
    Type.JSON: {"data_type": "text"},
    Type.INT: {"data_type": "bigint"},
    Type.BOOL: {"data_type": "bool"},
    Type.INSTANT: {"data_type": "timestamp", "precision": 6},
    Type.NUMBER: {"data_type": "decimal", "precision": 38, "scale": 9},
    Type.MONEY: {"data_type": "decimal", "precision": 38, "scale": 9},
}
_TEXT, _MOMENT = _TYPES[Type.TEXT], _TYPES[Type.INSTANT]
_OWN: Final = {
    "_relay_source": _TEXT, "_relay_event": _TEXT, "_relay_version": _TEXT, "_relay_received_at": _MOMENT,
    "_relay_deleted_at": _MOMENT, "_relay_test": _TYPES[Type.BOOL],
}  # fmt: skip
#: Digits that the decimal type has before and after the point.
_WHOLE, _FRACTION = 29, 9
_DIALECT: Final = Dialect(fold=str.lower)
_LEAST, _MOST = -(2**63), 2**63 - 1


def rows_of(batch: Batch, items: Sequence[Item], deletes: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records as dlt takes them, and the types of their columns.

    A value that its declared type cannot hold stands as text in `<column>__text`, as in SQL destinations.

    Raises:
        Permanent: a record that is no row.
    """
    spec = batch.table
    rows: list[dict[str, Any]] = [{} for _ in items]
    kinds = {**_OWN, **{name: _TYPES[kind] for name, kind in spec.columns.items()}}
    given = [_data(item, spec.key, deletes) for item in items]
    for column in dict.fromkeys(name for data in given for name in data):
        values = [data.get(column) for data in given]
        declared = spec.columns.get(column)
        if declared is None and column in spec.key:  # 1 and "1" are one row
            declared = Type.TEXT
        cells, misfits = _cells(values, declared) if declared else ([_as_it_is(v) for v in values], [])
        if misfits and column in spec.key:
            raise Permanent(f"{spec.name}: {column!r} is part of the key, and a value of it is no {declared}")
        for row, cell in zip(rows, cells, strict=True):
            row[column] = cell
        for n in misfits:
            kinds[f"{column}__text"] = _TEXT
            rows[n][column], rows[n][f"{column}__text"] = None, as_text(values[n])
    for row, item in zip(rows, items, strict=True):
        at = version_instant(item.version)
        row |= {
            "_relay_source": item.source, "_relay_event": item.event, "_relay_version": item.version,
            "_relay_received_at": arrival_instant(item.event), "_relay_test": item.test,
            "_relay_deleted_at": None if item.op == "row" else at,
        }  # fmt: skip
    return rows, {name: dict(kind) for name, kind in kinds.items()}  # dlt writes into them


def _data(item: Item, key: Sequence[str], deletes: str) -> dict[str, Any]:
    if item.op not in {"row", "gone", "full_gone"}:
        raise Permanent(f"dlt is handed no {item.op!r} record")
    if item.op == "gone" and deletes == "blank":
        return {name: item.data[name] for name in key if name in item.data}
    return {name: value for name, value in item.data.items() if not name.startswith("_relay_")}


def _cells(values: list[Any], declared: str) -> tuple[list[Any], list[int]]:
    kind = {Type.ID: Type.TEXT, Type.MONEY: Type.NUMBER}.get(Type(declared), Type(declared))
    encoded, misfits = ENCODERS[kind](values, _DIALECT)
    if kind == Type.NUMBER:
        numbers = [None if text is None else _decimal(text) for text in encoded]
        return numbers, [n for n, value in enumerate(values) if value is not None and numbers[n] is None]
    if kind == Type.INSTANT:
        return [None if text is None else dt.datetime.fromisoformat(text) for text in encoded], misfits
    return encoded, misfits


def _decimal(text: str) -> Decimal | None:
    """A number that the type holds digit for digit, else None."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    fits = isinstance(exponent, int) and -exponent <= _FRACTION and number.adjusted() < _WHOLE
    return number if fits else None


def _as_it_is(value: Any) -> Any:
    """A value of a column that nobody declared; dlt puts a later one of another type into a column beside it."""
    if isinstance(value, (dict, list)):
        return as_text(value)
    if isinstance(value, Decimal):
        number = _decimal(str(value))
        return number if number is not None else str(value)
    if type(value) is int and not _LEAST <= value <= _MOST:
        return str(value)
    return value


def named(column: str, parts: Callable[[str], Sequence[str]]) -> str:
    """The name under which a column is handed to dlt: its own, unless dlt would leave nothing of it (`""`, `__`).

    The same column has the same name in each batch, whatever else is in it.

    Args:
        column: as it was sent.
        parts: dlt's own way of taking a name apart.
    """
    if parts(column):
        return column
    return sql_name(f"unnamed_{column.encode().hex()}" if column else "", (), _DIALECT)


def check_names(columns: Mapping[str, str], normalized: Callable[[str], str]) -> None:
    """Raise where two columns would be one in the warehouse: one's values would be lost.

    Args:
        columns: what was sent → what dlt is handed.
        normalized: what dlt makes of a name.

    Raises:
        Permanent: names both.
    """
    taken: dict[str, str] = {}
    for column, name in columns.items():
        other = taken.setdefault(normalized(name), column)
        if other != column:
            raise Permanent(f"the columns {other!r} and {column!r} would be one here, {normalized(name)!r}")
