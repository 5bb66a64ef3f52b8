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
from itertools import chain
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
        typed_keys: it compares numbers and moments by value; else by the text in which they are stored.
        nul: text may hold NUL characters.
        digits: most digits before and after the decimal point, or None.
    """

    fold: Callable[[str], str]
    reserved: frozenset[str] = frozenset()
    any_number: bool = False
    typed_keys: bool = False
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
        return wanted.source not in self.by_source or self.narrow(wanted)

    def narrow(self, wanted: Wanted) -> bool:
        """Whether the column is there and may be widened to what is wanted."""
        column = self.by_source.get(wanted.source)
        is_int = column is not None and column.kind == Type.INT
        return is_int and wanted.kind == Type.NUMBER and wanted.source not in self.siblings


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

_json: Final = msgspec.json.Encoder(decimal_format="number")
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
        return str(value) if dialect.any_number and _is_number(value) else None

    return _each(values, one)


def _is_number(value: Any) -> bool:
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
        return str(value) if _is_number(value) else None

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
        for value in values:
            if value is not None:
                dt.datetime.fromisoformat(value)
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

_JSON_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LONG: Final = 16_000


def _faults(kind: str, encoded: list[Any], values: list[Any], dialect: Dialect) -> dict[str, list[int]]:
    """Places of values that the database cannot hold in any column, by the reason."""
    found: dict[str, list[int]] = {}
    if not dialect.nul and kind in {Type.TEXT, MISFIT, Type.JSON} and (nuls := _nuls(kind, encoded)):
        found["holds a NUL character, which this database cannot store"] = nuls
    if dialect.digits and kind in {Type.NUMBER, Type.JSON}:
        marks = ("E+", "E-") if kind == Type.JSON else ("E", "e")  # msgspec writes an exponent with its sign
        suspects = [n for n, t in enumerate(encoded) if t and (marks[0] in t or marks[1] in t or len(t) > _LONG)]
        held = values if kind == Type.JSON else encoded
        if over := [n for n in suspects if _over(held[n], dialect.digits)]:
            found["holds a number beyond this database's range"] = over
    return found


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


# --- a batch, taken apart -----------------------------------------------------------------------------


class Part:
    """Rows of one sort and their encoded columns by SQL name.

    `owners` are the places of the items that they come from (members of a set share one), `sources` the columns
    that matter (None for all), `wanted` the columns that must be made first, `rejected` items with the reason.
    """

    def __init__(self, sources: tuple[str, ...] | None = None) -> None:
        self.sources = sources
        self.owners: list[int] = []
        self.datas: list[dict[str, Any]] = []
        self.columns: dict[str, list[Any]] = {}
        self.kinds: dict[str, str] = {}
        self.wanted: list[Wanted] = []
        self.rejected: dict[int, str] = {}

    def add(self, owner: int, data: dict[str, Any]) -> None:
        """One more row."""
        self.owners.append(owner)
        self.datas.append(data)

    def drop(self, items: Collection[int]) -> None:
        """Take out all rows of some items."""
        kept = [n for n, owner in enumerate(self.owners) if owner not in items]
        self.owners, self.datas = [self.owners[n] for n in kept], [self.datas[n] for n in kept]

    def fit(self, layout: Layout, key: Sequence[str], dialect: Dialect) -> None:
        """Encode each column that the table has, and say what is `wanted` and `rejected`."""
        self.columns, self.kinds, self.wanted, self.rejected = {}, {}, [], {}
        present: set[str] = set(self.sources or key).union(*([] if self.sources is not None else self.datas))
        if unknown := present.difference(layout.by_source):
            self._infer(unknown)
        for source, column in layout.by_source.items():
            if source in present:
                self._fit(column, layout.siblings.get(source), source in key, dialect)

    def _infer(self, unknown: set[str]) -> None:
        """Want new columns, in the order in which they appear; one that is always null is not made."""
        firsts = {s: next((d[s] for d in self.datas if d.get(s) is not None), None) for s in unknown}
        if all(first is None for first in firsts.values()):
            return
        for source in dict.fromkeys(chain.from_iterable(self.datas)):
            if (first := firsts.get(source)) is not None:
                self.wanted.append(Wanted(source, _INFERRED.get(type(first), Type.JSON)))
                if "\0" in source:
                    holders = [n for n, data in enumerate(self.datas) if source in data]
                    self._reject(source, holders, "holds a NUL character in its name")

    def _fit(self, column: Column, sibling: str | None, is_key: bool, dialect: Dialect) -> None:
        values = [data.get(column.source) for data in self.datas]
        encoded, unfit = ENCODERS[column.kind](values, dialect)
        self._take(column, encoded, values, dialect)
        if is_key:
            self._reject(column.source, [n for n, v in enumerate(values) if v is None], "is of the key and empty")
        if not unfit:
            return
        if column.kind == Type.INT and sibling is None and all(_is_number(values[n]) for n in unfit):
            self.wanted.append(Wanted(column.source, Type.NUMBER))
        elif is_key:
            self._reject(column.source, unfit, f"is of the key and does not fit its type, {column.kind}")
        elif sibling is None:
            self.wanted.append(Wanted(column.source, MISFIT))
        else:
            texts: list[Any] = [None] * len(values)
            for n in unfit:
                texts[n] = as_text(values[n])
            self._take(Column(column.source, sibling, MISFIT), texts, values, dialect)

    def _take(self, column: Column, encoded: list[Any], values: list[Any], dialect: Dialect) -> None:
        self.columns[column.name], self.kinds[column.name] = encoded, column.kind
        for why, places in _faults(column.kind, encoded, values, dialect).items():
            self._reject(column.source, places, why)

    def _reject(self, source: str, places: Iterable[int], why: str) -> None:
        for n in places:
            self.rejected.setdefault(self.owners[n], f"column {source!r} {why}")
