"""The expected rows: every change ever sent, and what its vendor's clock makes of all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, ...]
Values = Mapping[str, Any]
#: ns of the vendor's time (or of the receipt), the vendor's tie-breaker, the state's rank, the receipt's number.
Version = tuple[int, int, int, int]


@dataclass(frozen=True)
class Fact:
    """What one event says of one row, or of all children of one parent.

    Args:
        table: full name. op: `row`, `gone` (its key alone), `full_gone` (a whole row that is deleted) or `set`.
        key: of the row, or of the parent. at: the vendor's time in ns, None where only the receipt tells.
        tie, rank: order what happened at one time. values: columns of the row.
        members: of a set, by their whole key. complete: they are all that there are.
    """

    table: str
    op: str
    key: Key
    at: int | None
    tie: int = 0
    rank: int = 0
    values: Values = field(default_factory=dict)
    members: Mapping[Key, Values] = field(default_factory=dict)
    complete: bool = True

    def version(self, received: int) -> Version:
        """Its place among the changes of its row; `received` is the delivery's number, in microseconds."""
        return (received * 1000 if self.at is None else self.at, self.tie, self.rank, received)


@dataclass(frozen=True)
class Expected:
    """One row as it must be.

    Args:
        values: columns. deleted_at: ns, None for a live row. version: of what it holds. source: whose it is.
        received: the number of the delivery that it came with. spread: events of that delivery; one of them it is.
        test: the vendor called it a test.
    """

    values: Values
    deleted_at: int | None
    version: Version
    source: str
    received: int
    spread: int
    test: bool


@dataclass(frozen=True)
class Told:
    """A fact with the circumstances of its delivery."""

    fact: Fact
    version: Version
    source: str
    spread: int
    test: bool


class Model:
    """All facts by table."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Key, list[Told]]] = defaultdict(lambda: defaultdict(list))
        self._sets: dict[str, dict[Key, list[Told]]] = defaultdict(lambda: defaultdict(list))

    def tell(
        self, facts: Iterable[Fact], *, source: str, received: int, spread: int = 1, test: bool = False
    ) -> None:
        """Learn what one delivery said, and the number it was answered with."""
        for fact in facts:
            told = Told(fact, fact.version(received), source, spread, test)
            (self._sets if fact.op == "set" else self._rows)[fact.table][fact.key].append(told)

    def tables(self) -> set[str]:
        """Every table that anything was said of."""
        return self._rows.keys() | self._sets.keys()

    def rows(self, table: str) -> dict[Key, Expected]:
        """Rows that must be there, the deleted ones of single objects among them."""
        found = {key: _row(told) for key, told in self._rows[table].items()}
        for told in self._sets[table].values():
            found.update(_children(told))
        return found

    def keys(self, table: str) -> set[Key]:
        """Every key that may be there; a child that its parent lost may be, marked deleted, or not."""
        children = {key for told in self._sets[table].values() for one in told for key in one.fact.members}
        return children | self._rows[table].keys()


def _row(told: list[Told]) -> Expected:
    whole = [one for one in told if one.fact.op != "gone"]
    ends = [one for one in told if one.fact.op != "row"]
    newest = max(whole or ends, key=lambda one: one.version)
    end = max((one.version for one in ends), default=None)
    deleted_at = end[0] if end is not None and end >= newest.version else None
    values = {column: None for one in whole for column in one.fact.values} | dict(newest.fact.values)
    return _expected(newest, values, deleted_at)


def _children(told: list[Told]) -> dict[Key, Expected]:
    told = sorted(told, key=lambda one: one.version)
    last = max((n for n, one in enumerate(told) if one.fact.complete), default=0)
    columns = {column: None for one in told for values in one.fact.members.values() for column in values}
    found = {}
    for one in told[last:]:
        for key, values in one.fact.members.items():
            found[key] = _expected(one, {**columns, **values}, None)
    return found


def _expected(one: Told, values: Values, deleted_at: int | None) -> Expected:
    return Expected(values, deleted_at, one.version, one.source, one.version[3], one.spread, one.test)
