"""Which column a value goes to, and in what form: the part that SQL destinations share. Pure.

* A declared column has its declared type, any other that of the first value seen in it; key columns that are not
  declared are text, since vendors send the same id as a number here and as a string there.
* Text and JSON columns take every value. What does not fit another column (a garbage date, text among numbers)
  goes, as it was sent, to a sibling `<column>__text`, and the column itself is empty: nothing is lost, no batch
  fails. One change in place exists: whole numbers that meet a larger or broken one become `numeric`, where the
  database can do that safely. More widening would rewrite tables and break views for values that are rare.
* SQL names are the source's own, cut to 63 bytes, made distinct and remembered in `_relay_columns`.
* What a database cannot hold at all (NUL characters, numbers beyond `numeric`) is rejected by name.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.records import Type, instant_ns, instant_of_ns
from worker.destination import STORED, SUPERSEDED, Batch, Rejected, Verdict

#: Type of a sibling column in the catalogue, beside those of `relay.records.Type`.
MISFIT: Final = "misfit"
NAME_BYTES: Final = 63
_KIND_OF: Final = {Type.ID: Type.TEXT, Type.MONEY: Type.NUMBER}
_INFERRED: Final[dict[type, Type]] = {bool: Type.BOOL, int: Type.INT, Decimal: Type.NUMBER, str: Type.TEXT}
_NONE: Final = type(None)


class Dialect(msgspec.Struct, frozen=True):
    """How a database differs.

    Args:
        fold: names that are equal after it are the same column there.
        reserved: column names that it keeps for itself.
        any_number: an `int` column takes numbers of any size, as digits.
        zoned: it reads ISO 8601 with an offset itself, so the text can go as it came.
        nul: text may hold NUL characters.
        digits: most digits before and after the decimal point, or None.
    """

    fold: Callable[[str], str]
    reserved: frozenset[str] = frozenset()
    any_number: bool = False
    zoned: bool = False
    nul: bool = True
    digits: tuple[int, int] | None = None


class Column(msgspec.Struct, frozen=True):
    """A column that the relay made: the source's name for it, its SQL name, its type (or `MISFIT`)."""

    source: str
    name: str
    kind: str


class Wanted(msgspec.Struct, frozen=True):
    """A column that must be made (or widened to `kind`) before the records fit."""

    source: str
    kind: str


class Layout:
    """What the catalogue knows of one table; `revision` grows with each change of it."""

    def __init__(self, table: str, columns: Iterable[Column], revision: int) -> None:
        self.table, self.revision = table, revision
        self.columns = tuple(columns)
        self.by_source = {c.source: c for c in self.columns if c.kind != MISFIT}
        self.siblings = {c.source: c.name for c in self.columns if c.kind == MISFIT}

    def names(self, sources: Iterable[str]) -> list[str]:
        """SQL names of source columns."""
        return [self.by_source[source].name for source in sources]

    def lacks(self, wanted: Wanted) -> bool:
        """Whether it is still to be made: another process may have been quicker."""
        if wanted.kind == MISFIT:
            return wanted.source not in self.siblings
        return wanted.source not in self.by_source


# --- names --------------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_name(source: str, taken: Collection[str], dialect: Dialect, suffix: str = "") -> str:
    """A name for a table or column that is legal, not ours, and not among `taken` (folded names)."""
    base = source or "unnamed"
    if base.lower().startswith("_relay_"):
        base = "x" + base
    name, n = _cut(base, suffix), 1
    while dialect.fold(name) in taken or name in dialect.reserved:
        n += 1
        name = _cut(base, f"{suffix}__{n}")
    return name


def _cut(base: str, suffix: str) -> str:
    room = NAME_BYTES - len(suffix)
    raw = base.encode()
    if len(raw) > room:
        digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
        base = f"{raw[: room - 9].decode('utf-8', 'ignore')}_{digest}"
    return base + suffix


def kind_of(declared: str) -> str:
    """The column type of a declared one: ids are text, money is a number."""
    return _KIND_OF.get(Type(declared), Type(declared)).value


# --- values -------------------------------------------------------------------------------------------
# Each encoder takes a whole column and returns its values as the database takes them, and the places of those
# that do not fit (their encoded value is None). Columns of one Python type, nearly all of them, take short cuts.

Encoded = tuple[list[Any], list[int]]
Encoder = Callable[[list[Any], Dialect], Encoded]

_lines: Final = msgspec.json.Encoder(decimal_format="number")
_NUMBER: Final = r"[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+"
_ONE_NUMBER: Final = re.compile(_NUMBER)
_NUMBERS: Final = re.compile(f"(?:{_NUMBER}\0)*+")
# Years and offsets that every database reads the same way; the calendar itself is checked by datetime.
_ZONED: Final = re.compile(
    r"(?:(?!9999)[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?+"
    "(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])\0)*+"
)
_FIRST_NS: Final = -62_135_596_800 * 10**9
_LAST_NS: Final = 253_402_300_800 * 10**9 - 1
_INT64: Final = range(-(2**63), 2**63)
_BOOLS: Final = {"true": True, "false": False}


def as_text(value: Any) -> str | None:
    """A value as it was sent: strings as they are, anything else as its JSON."""
    return value if value is None or isinstance(value, str) else _lines.encode(value).decode()


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
        if not present or (min(present) in _INT64 and max(present) in _INT64):
            return values, []

    def one(value: Any) -> int | str | None:
        if isinstance(value, str) and len(value) < 20 and value.isascii() and value.lstrip("-").isdigit():  # noqa: PLR2004 - an int64 has 19 digits
            number = int(value) if value.count("-") < 2 else None  # noqa: PLR2004
            return number if str(number) == value and number in _INT64 else None
        if type(value) is int and value in _INT64:
            return value
        return str(value) if dialect.any_number and _is_number(value) else None

    return _each(values, one)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _numbers(values: list[Any], _dialect: Dialect) -> Encoded:
    types = set(map(type, values))
    if types <= {int, Decimal}:
        return list(map(str, values)), []
    if types <= {str, _NONE} and _NUMBERS.fullmatch(_blob(values)):
        return values, []

    def one(value: Any) -> str | None:
        if isinstance(value, str):
            return value if _ONE_NUMBER.fullmatch(value) else None
        return str(value) if _is_number(value) else None

    return _each(values, one)


def _blob(values: list[Any]) -> str:
    return "\0".join([value for value in values if value is not None] + [""])


def _instants(values: list[Any], dialect: Dialect) -> Encoded:
    if dialect.zoned and set(map(type, values)) <= {str, _NONE} and _all_zoned(values):
        return values, []
    return _each(values, _instant)


def _all_zoned(values: list[Any]) -> bool:
    if not _ZONED.fullmatch(_blob(values)):
        return False
    try:
        for value in values:
            if value is not None:
                dt.datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _instant(value: Any) -> str | None:
    try:
        ns = instant_ns(value)
    except (ArithmeticError, ValueError):
        return None
    return None if ns is None or not _FIRST_NS <= ns <= _LAST_NS else instant_text(instant_of_ns(ns))


def instant_text(moment: dt.datetime) -> str:
    """A UTC moment as `2026-11-21T04:03:09.123456Z`: it sorts as text."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _bools(values: list[Any], _dialect: Dialect) -> Encoded:
    if set(map(type, values)) <= {bool, _NONE}:
        return values, []
    return _each(values, lambda v: v if isinstance(v, bool) else _BOOLS.get(v) if isinstance(v, str) else None)


def _jsons(values: list[Any], _dialect: Dialect) -> Encoded:
    lines = _lines.encode_lines(values).decode().split("\n")
    return [None if value is None else line for value, line in zip(values, lines, strict=False)], []


ENCODERS: Final[dict[str, Encoder]] = {
    Type.TEXT: _texts,
    Type.INT: _ints,
    Type.NUMBER: _numbers,
    Type.INSTANT: _instants,
    Type.BOOL: _bools,
    Type.JSON: _jsons,
    MISFIT: _texts,
}

_JSON_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LARGE_EXPONENT: Final = re.compile(r"[0-9][eE][+-]?[0-9]{5,}")
_LONG_NUMBER: Final = 16_000


def _faults(kind: str, encoded: list[Any], values: list[Any], dialect: Dialect) -> dict[int, str]:
    """Places of values that the database cannot hold in any column, with the reason."""
    found: dict[int, str] = {}
    if not dialect.nul and kind in {Type.TEXT, MISFIT, Type.JSON}:
        found = dict.fromkeys(_nuls(kind, encoded), "holds a NUL character, which this database cannot store")
    if dialect.digits and kind in {Type.NUMBER, Type.JSON}:
        for n, text in enumerate(encoded):
            if text and (len(text) > _LONG_NUMBER or "E" in text or "e" in text) and _over(values[n], dialect.digits):
                found[n] = "holds a number beyond this database's range"
    return found


def _nuls(kind: str, encoded: list[Any]) -> list[int]:
    if kind == Type.JSON:
        return [n for n, text in enumerate(encoded) if text and "\\u0000" in text and _JSON_NUL.search(text)]
    present = [text for text in encoded if text is not None]
    if "".join(present).find("\0") < 0:
        return []
    return [n for n, text in enumerate(encoded) if text is not None and "\0" in text]


def _over(value: Any, digits: tuple[int, int]) -> bool:
    """Whether a number somewhere in a value has more digits than the database keeps."""
    if isinstance(value, dict):
        return any(_over(inner, digits) for inner in value.values())
    if isinstance(value, list):
        return any(_over(inner, digits) for inner in value)
    if isinstance(value, str) and _ONE_NUMBER.fullmatch(value) is None:
        return False
    if not isinstance(value, (str, int, Decimal)):
        return False
    _sign, _digits, exponent = (number := Decimal(value)).as_tuple()
    return number.adjusted() >= digits[0] or -int(exponent) > digits[1]
