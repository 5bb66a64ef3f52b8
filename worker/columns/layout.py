"""What a database knows of a table's columns, and how they are named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from relay.errors import Permanent
from relay.records import Type
from worker.destination import TableSpec

#: Type of a sibling column in the catalogue, beside those of `relay.records.Type`.
MISFIT: Final = "misfit"
NAME_BYTES: Final = 63
_KIND_OF: Final = {Type.ID: Type.TEXT, Type.MONEY: Type.NUMBER}


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

    def column_for(self, wanted: Wanted, taken: Collection[str], dialect: Dialect) -> Column:
        """A new column: the wanted one, or a sibling where the column is there and does not take its values.

        Args:
            wanted: what is lacking.
            taken: names of all columns that the table has, the users' own among them.
            dialect: decides which names are the same.
        """
        folded = {dialect.fold(name) for name in (*taken, *(c.name for c in self.columns))}
        if (known := self.by_source.get(wanted.source)) is not None:
            return Column(wanted.source, sql_name(known.name, folded, dialect, "__text"), MISFIT)
        return Column(wanted.source, sql_name(wanted.source, folded, dialect), wanted.kind)


def first_columns(spec: TableSpec, dialect: Dialect) -> list[Column]:
    """The columns with which a table is made: its key and all that is declared."""
    columns: list[Column] = []
    for source in dict.fromkeys([*spec.key, *spec.columns]):
        taken = {dialect.fold(column.name) for column in columns}
        columns.append(Column(source, sql_name(source, taken, dialect), kind_of(spec.columns.get(source, "id"))))
    return columns


def foreign_table(table: str, where: str) -> Permanent:
    """The refusal to write to a table that is not ours."""
    return Permanent(
        f"table {table} exists in {where} and was not made by the relay: "
        "rename it or choose another place for the relay's tables",
        reason="foreign_table",
    )


def check_width(table: str, has: int, more: int, most: int) -> None:
    """Refuse more columns than a table can have, before any is made: each takes longer than the one before.

    Raises:
        Permanent: says how many there are.
    """
    if has + more > most:
        raise Permanent(
            f"table {table} has {has} columns and would need {more} more, but a table has at most {most}: leave "
            "fields out (the source's `redact: drop`), or send them as one field"
        )


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
