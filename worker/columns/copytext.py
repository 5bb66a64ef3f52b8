"""Encoded columns as PostgreSQL's COPY text, a column at a time: no Python runs for a single value where it can.

https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from relay.records import Type

_NULL: Final = "\\N"
#: Lines in a block.
_BLOCK: Final = 500
_BOOL: Final[dict[bool | None, str]] = {True: "t", False: "f", None: _NULL}
#: Kinds whose texts hold only digits, signs and the like.
_PLAIN: Final = frozenset({Type.NUMBER.value, Type.INSTANT.value})


def column_text(kind: str, values: list[Any]) -> list[str]:
    """One column's fields, escaped; values as `worker.columns.values` encodes them, NUL-free."""
    nulls = values.count(None)
    if nulls == len(values):
        return [_NULL] * nulls
    if kind == Type.BOOL:
        return [_BOOL[value] for value in values]
    if kind == Type.INT:
        return [_NULL if value is None else str(value) for value in values] if nulls else list(map(str, values))
    if kind in _PLAIN:
        return [_NULL if value is None else value for value in values] if nulls else values
    if not nulls:
        return _escaped(values)
    fields = _escaped(["" if value is None else value for value in values])
    return [_NULL if value is None else field for value, field in zip(values, fields, strict=True)]


def _escaped(texts: list[str]) -> list[str]:
    blob = "\0".join(texts)
    changed = False
    for character, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        if character in blob:
            blob, changed = blob.replace(character, escape), True
    return blob.split("\0") if changed else texts


def copy_blocks(columns: Iterable[list[str]], order: Sequence[int]) -> Iterator[bytes]:
    """The lines of a COPY, in blocks that the server can read while the next is made.

    Args:
        columns: fields, a list for each column.
        order: picks rows and their order.
    """
    lines = list(map("\t".join, zip(*columns, strict=True)))
    for start in range(0, len(order), _BLOCK):
        yield "\n".join([*(lines[n] for n in order[start : start + _BLOCK]), ""]).encode()
