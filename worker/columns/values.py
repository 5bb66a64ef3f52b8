"""JSON values as a column's type takes them."""

from __future__ import annotations

import datetime as dt
import re
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.records import Type, instant_ns, instant_of_ns
from worker.columns.layout import MISFIT, Dialect

_NONE: Final = type(None)

# Each encoder takes a whole column and returns its values as the database takes them, and the places of those
# that do not fit (their encoded value is None). Columns of one Python type, nearly all of them, take short cuts.

Encoded = tuple[list[Any], list[int]]
Encoder = Callable[[list[Any], Dialect], Encoded]

_json: Final = msgspec.json.Encoder(decimal_format="number")
_NUMBER: Final = r"[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+"
_ONE_NUMBER: Final = re.compile(_NUMBER)
_NUMBERS: Final = re.compile(f"(?:{_NUMBER}\0)*+")
# Years and offsets that every database reads the same way; the calendar itself is checked by datetime.
_ZONED: Final = re.compile(
    r"(?:(?!9999)[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?+"
    "(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])\0)*+"
)
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(\+00)?")
_FIRST_NS: Final = -62_135_596_800 * 10**9
_LAST_NS: Final = 253_402_300_800 * 10**9 - 1
# A string of digits is an integer only where it reads back the same: "007" is not.
_ONE_INT: Final = re.compile("0|-?[1-9][0-9]{0,18}")
_LEAST, _MOST = -(2**63), 2**63 - 1
_BOOLS: Final = {"true": True, "false": False}


def as_text(value: Any) -> str | None:
    """A value as it was sent: strings as they are, anything else as its JSON."""
    return value if value is None or isinstance(value, str) else _json.encode(value).decode()


def instant_text(moment: dt.datetime) -> str:
    """A UTC moment as `2026-11-21T04:03:09.123456Z`: it sorts as text."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def moment(text: str | None) -> str | None:
    """`2026-11-21 04:03:09.5+00` as `2026-11-21T04:03:09.500000Z`; without a zone where there was none."""
    found = _MOMENT.fullmatch(text) if text else None
    if found is None:
        return text
    return f"{found[1]}T{found[2]}.{(found[3] or '').ljust(6, '0')}{'Z' if found[4] else ''}"


def _each(values: list[Any], one: Callable[[Any], Any]) -> Encoded:
    encoded = [None if value is None else one(value) for value in values]
    return encoded, [n for n, value in enumerate(encoded) if value is None and values[n] is not None]


def _texts(values: list[Any], _dialect: Dialect) -> Encoded:
    if set(map(type, values)) <= {str, _NONE}:
        return values, []
    return [as_text(value) for value in values], []


def _ints(values: list[Any], dialect: Dialect) -> Encoded:
    if set(map(type, values)) <= {int, _NONE}:
        present = [value for value in values if value is not None]
        if not present or (min(present) >= _LEAST and max(present) <= _MOST):
            return values, []

    def one(value: Any) -> int | str | None:
        if isinstance(value, str):
            return number if _ONE_INT.fullmatch(value) and _LEAST <= (number := int(value)) <= _MOST else None
        if type(value) is int and _LEAST <= value <= _MOST:
            return value
        return str(value) if dialect.any_number and is_number(value) else None

    return _each(values, one)


def is_number(value: Any) -> bool:
    """Whether JSON would call it a number."""
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _numbers(values: list[Any], _dialect: Dialect) -> Encoded:
    types = set(map(type, values))
    if types <= {int, Decimal}:
        return list(map(str, values)), []
    if types <= {str, _NONE} and _all_match(_NUMBERS, values):
        return values, []

    def one(value: Any) -> str | None:
        if isinstance(value, str):
            return value if _ONE_NUMBER.fullmatch(value) else None
        return str(value) if is_number(value) else None

    return _each(values, one)


def _all_match(pattern: re.Pattern[str], values: list[Any]) -> bool:
    """One match over a whole column of strings, several times faster than one for each."""
    blob = "\0".join([value for value in values if value is not None] + [""])
    return pattern.fullmatch(blob) is not None and blob.count("\0") == len(values) - values.count(None)


def _instants(values: list[Any], dialect: Dialect) -> Encoded:
    if dialect.typed_keys and set(map(type, values)) <= {str, _NONE} and _all_zoned(values):
        return values, []
    return _each(values, _instant)


def _all_zoned(values: list[Any]) -> bool:
    try:
        deque(map(dt.datetime.fromisoformat, [value for value in values if value is not None]), maxlen=0)
    except ValueError:
        return False
    return _all_match(_ZONED, values)


def _instant(value: Any) -> str | None:
    try:
        ns = instant_ns(value)
    except (ArithmeticError, ValueError):
        return None
    return None if ns is None or not _FIRST_NS <= ns <= _LAST_NS else instant_text(instant_of_ns(ns))


def _bools(values: list[Any], _dialect: Dialect) -> Encoded:
    if set(map(type, values)) <= {bool, _NONE}:
        return values, []
    return _each(values, lambda v: v if isinstance(v, bool) else _BOOLS.get(v) if isinstance(v, str) else None)


def _jsons(values: list[Any], _dialect: Dialect) -> Encoded:
    lines = _json.encode_lines(values).decode().split("\n")
    return [None if value is None else line for value, line in zip(values, lines, strict=False)], []


ENCODERS: Final[dict[str, Encoder]] = {
    Type.TEXT: _texts,
    Type.INT: _ints,
    Type.NUMBER: _numbers,
    Type.INSTANT: _instants,
    Type.BOOL: _bools,
    Type.JSON: _jsons,
}


def of_key(kind: str, text: str, dialect: Dialect) -> Any:
    """A key's value, given as text, as its column holds it; None where it cannot."""
    encoded = [text] if kind == Type.JSON else ENCODERS[kind]([text], dialect)[0]
    return None if faults(kind, encoded, [text], dialect) or "\0" in text else encoded[0]


_JSON_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LONG: Final = 16_000


def faults(kind: str, encoded: list[Any], values: list[Any], dialect: Dialect) -> dict[str, list[int]]:
    """Places of values that the database cannot hold in any column, by the reason."""
    found: dict[str, list[int]] = {}
    if not dialect.nul and kind in {Type.TEXT, MISFIT, Type.JSON} and (nuls := _nuls(kind, encoded)):
        found["holds a NUL character, which this database cannot store"] = nuls
    if dialect.digits and kind in {Type.NUMBER, Type.JSON}:
        marks = ("E+", "E-") if kind == Type.JSON else ("E", "e")  # msgspec writes an exponent with its sign
        held = values if kind == Type.JSON else encoded
        if over := [n for n in _suspects(encoded, marks) if _over(held[n], dialect.digits)]:
            found["holds a number beyond this database's range"] = over
    return found


def _suspects(encoded: list[Any], marks: tuple[str, str]) -> list[int]:
    """Places of texts that are long or hold a mark; mostly one look at all of them together finds none."""
    present = [text for text in encoded if text is not None]
    blob = "\n".join(present)
    if marks[0] not in blob and marks[1] not in blob and max(map(len, present), default=0) <= _LONG:
        return []
    return [n for n, t in enumerate(encoded) if t and (marks[0] in t or marks[1] in t or len(t) > _LONG)]


def _nuls(kind: str, encoded: list[Any]) -> list[int]:
    needle = "\\u0000" if kind == Type.JSON else "\0"
    if needle not in "\n".join([text for text in encoded if text is not None]):
        return []
    held = [n for n, text in enumerate(encoded) if text is not None and needle in text]
    return held if kind != Type.JSON else [n for n in held if _JSON_NUL.search(encoded[n])]


def _over(value: Any, digits: tuple[int, int]) -> bool:
    """Whether a number (or its text), or one inside a value, has more digits than the database keeps."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return any(_over(v, digits) for v in inner if not isinstance(v, str))
    if value is None or isinstance(value, bool):
        return False
    try:
        number = Decimal(value)
    except ArithmeticError:  # an exponent that even Decimal cannot hold
        return True
    return number.adjusted() >= digits[0] or -int(number.as_tuple().exponent) > digits[1]


def canonical(kind: str, encoded: list[Any], dialect: Dialect) -> list[Any]:
    """Key values such that they are equal here exactly where the database finds them equal."""
    if dialect.typed_keys and kind == Type.NUMBER:
        return [Decimal(text) for text in encoded]
    if dialect.typed_keys and kind == Type.INSTANT:
        return [_instant(text) for text in encoded]
    return encoded
