"""A batch as SQL sees it: whole rows, tombstones and parents of sets, column by column."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from relay.records import Type, arrival_instant, version_instant
from worker.columns.layout import MISFIT, Column, Dialect, Layout, Wanted, kind_of
from worker.columns.values import ENCODERS, as_text, canonical, faults, instant_text, is_number
from worker.destination import STORED, SUPERSEDED, Batch, Item, Rejected, Verdict

_INFERRED: Final[dict[type, Type]] = {bool: Type.BOOL, int: Type.INT, Decimal: Type.NUMBER, str: Type.TEXT}


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
        present = set(key).union(*self.datas) if self.sources is None else set(self.sources)
        if unknown := present.difference(layout.by_source):
            self._infer(unknown)
        known = [source for source in layout.by_source if source in present]
        for source, values in zip(known, _columns(self.datas, known), strict=True):
            column, sibling = layout.by_source[source], layout.siblings.get(source)
            self._fit(column, values, sibling, source in key, dialect)

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

    def _fit(self, column: Column, values: list[Any], sibling: str | None, is_key: bool, dialect: Dialect) -> None:
        encoded, unfit = ENCODERS[column.kind](values, dialect)
        self._take(column, encoded, values, dialect)
        if is_key:
            self._reject(column.source, [n for n, v in enumerate(values) if v is None], "is of the key and empty")
        if not unfit:
            return
        if column.kind == Type.INT and sibling is None and all(is_number(values[n]) for n in unfit):
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
        for why, places in faults(column.kind, encoded, values, dialect).items():
            self._reject(column.source, places, why)

    def _reject(self, source: str, places: Iterable[int], why: str) -> None:
        for n in places:
            self.rejected.setdefault(self.owners[n], f"column {source!r} {why}")


class Work:
    """What a batch does to a table, and what becomes of each item."""

    def __init__(self, batch: Batch) -> None:
        self.spec, self.items = batch.table, batch.items
        self.verdicts: list[Verdict] = [STORED] * len(batch.items)
        self.rows, self.gones, self.parents = Part(), Part(self.spec.key), Part(self.spec.parent)
        self._rejected: dict[int, str] = {}
        for n, item in enumerate(batch.items):
            if item.members is not None:
                self._add_set(n, item.data, item.members)
            else:
                (self.gones if item.op == "gone" else self.rows).add(n, item.data)

    def _add_set(self, n: int, parent: dict[str, Any], members: list[dict[str, Any]]) -> None:
        named = [(c, as_text(parent.get(c))) for c in self.spec.parent]
        self.parents.add(n, parent)
        for member in members:
            if any(c in member and as_text(member[c]) != text for c, text in named):
                self._rejected[n] = "a member of the set names another parent"
            self.rows.add(n, {**parent, **member})

    def fit(self, layout: Layout, dialect: Dialect) -> list[Wanted]:
        """Encode all rows; items that cannot be stored are rejected and taken out.

        Returns:
            what the table lacks; where it lacks anything, nothing is to be applied before it was made and all
            was fitted again.
        """
        parts = (self.rows, self.gones, self.parents)
        rejected = self._rejected
        while True:
            for n, why in rejected.items():
                self.verdicts[n] = Rejected(why)
            for part in parts:
                if rejected:
                    part.drop(rejected)
                part.fit(layout, self.spec.key, dialect)
            rejected = {n: why for part in parts for n, why in part.rejected.items()}
            if not rejected:
                break
        declared = [Wanted(c, kind_of(t)) for c, t in self.spec.columns.items() if c not in layout.by_source]
        new = {w.source for w in declared}
        found = [w for part in parts for w in part.wanted if w.source not in new]
        return list(dict.fromkeys([*declared, *found]))

    def order(self, part: Part, layout: Layout, dialect: Dialect, skip: Collection[int] = ()) -> list[int]:
        """Places of a part's rows in the order of their keys, so that two processes lock in the same order.

        Rows of the items in `skip` are left out. Of rows with equal keys (a vendor repeats a member, or spells a
        number in two ways) only the newest goes, and an older record is superseded by it.
        """
        columns = [canonical(part.kinds[n], part.columns[n], dialect) for n in layout.names(self.spec.key)]
        keys: list[Any] = list(zip(*columns, strict=True)) if len(columns) > 1 else columns[0]
        places = [n for n, owner in enumerate(part.owners) if owner not in skip] if skip else range(len(keys))
        if len(set(keys)) < len(keys):
            newest: dict[Any, int] = {}
            for n in places:
                other = newest.setdefault(keys[n], n)
                if other != n:
                    newest[keys[n]] = self._newer(part, other, n)
            places = list(newest.values())
        return sorted(places, key=list(map(str, keys)).__getitem__)

    def _newer(self, part: Part, one: int, other: int) -> int:
        old, new = sorted((one, other), key=lambda n: self.items[part.owners[n]].version)
        loser, winner = self.items[part.owners[old]], self.items[part.owners[new]]
        if loser.members is None and loser.version < winner.version:
            self.verdicts[part.owners[old]] = SUPERSEDED
        return new


def is_gone(item: Item, floor: str) -> bool:
    """Whether a whole row comes deleted: so it is said, or it is of a version of the table that is over."""
    return item.op == "full_gone" or item.version < floor


def relay_cells(item: Item, *, deleted: bool) -> tuple[Any, ...]:
    """The cells of `worker.columns.sql.RELAY`, moments as text; a row that comes deleted is its own data."""
    received = instant_text(arrival_instant(item.event))
    gone = instant_text(version_instant(item.version)) if deleted else None
    return (item.source, item.event, item.version, received, gone, item.test, item.version if deleted else None)


def _columns(datas: list[dict[str, Any]], names: list[str]) -> list[list[Any]]:
    """Rows as columns; those that have all of the names, nearly always all, take a short cut."""
    if datas and len(names) > 1:
        try:
            return list(map(list, zip(*map(itemgetter(*names), datas), strict=True)))
        except KeyError:
            pass
    return [[data.get(name) for data in datas] for name in names]
