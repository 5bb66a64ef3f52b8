"""What an account of drift says of a table under its declaration as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from relay import recipes
from relay.buffer.drift import NAME, Account, Finding
from relay.configured import Source
from relay.described import Settings
from relay.records import Table

#: A column vanished where no row has had it for so many rows, a day long, and a hundred times as many rows as it
#: took on average before: a column that is filled in one row of fifty is not missed after a thousand.
VANISHED_ROWS: Final = 1_000
VANISHED_MS: Final = 24 * 3600 * 1000
VANISHED_GAPS: Final = 100
#: Undeclared fields that came within the first hour of a table are as old as our knowledge of it.
START_MS: Final = 3600 * 1000
#: Types of one column without a declared one that are no change.
_ALIKE: Final = ({"int", "number"}, {"text", "empty text", "instant"}, {"object", "list"})


class Vanished(msgspec.Struct, frozen=True):
    """A column that rows no longer fill: its declared type, when it last was filled, rows looked at since."""

    name: str
    declared: str
    last: int
    rows_since: int


class Report(msgspec.Struct, frozen=True):
    """What there is to say of one table; times are ms since 1970.

    Args:
        rows: that were looked at. since, last: the first and the newest of them.
        new: undeclared fields that came later than the table's first rows. undeclared: those that came with them.
        vanished: columns. changed: values that do not fit their column's declared type, or not the one before.
    """

    source: str
    table: str
    rows: int
    since: int
    last: int
    new: list[Finding]
    undeclared: list[Finding]
    vanished: list[Vanished]
    changed: list[Finding]

    @property
    def fits(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.new or self.undeclared or self.vanished or self.changed)


def report(source: str, name: str, account: Account, declared: Table, own: frozenset[str]) -> Report:
    """What an account says under the declaration as it is now; what was declared or mended since is left out.

    Args:
        source: whose.
        name: of the table.
        account: as kept.
        declared: the table.
        own: columns that the settings name without a type.
    """
    types = {column[:NAME]: str(type_) for column, type_ in declared.columns.items()}
    known = {*types, *(column[:NAME] for column in declared.key)}
    unknown = [found for found in account.unknown if found.name not in known]
    strange = [found for found in unknown if found.name not in own]
    untyped: dict[str, list[Finding]] = {}
    for found in unknown:
        if found.name in own:
            untyped.setdefault(found.name, []).append(found)
    columns = {found.name: [found] for found in account.columns if found.name in known} | untyped
    misfits = [found for found in account.misfits if types.get(found.name) == found.declared]
    return Report(
        source, name, account.rows, account.since, account.last,
        [found for found in strange if found.first - account.since >= START_MS],
        [found for found in strange if found.first - account.since < START_MS],
        [gone for column, seen in columns.items() if (gone := _vanished(column, types, seen, account))],
        misfits + [found for seen in untyped.values() for found in _turned(seen)],
    )  # fmt: skip


def _vanished(name: str, types: Mapping[str, str], seen: list[Finding], account: Account) -> Vanished | None:
    rows, count, last = max(f.rows for f in seen), sum(f.count for f in seen), max(f.last for f in seen)
    since = account.rows - rows
    usual = rows / max(count, 1)
    if since < max(VANISHED_ROWS, VANISHED_GAPS * usual) or account.last - last < VANISHED_MS:
        return None
    return Vanished(name, types.get(name, ""), last, since)


def _turned(seen: list[Finding]) -> list[Finding]:
    """Of a column without a declared type, what came beside the type that came first."""
    first, *later = sorted(seen, key=lambda found: found.first)
    alike: set[str] = next((group for group in _ALIKE if first.found in group), {first.found})
    return [msgspec.structs.replace(found, declared=first.found) for found in later if found.found not in alike]


def named(source: Source) -> dict[str, frozenset[str]]:
    """Columns that the settings of a described source name, by full name of the table."""
    if source.kind != "custom" and source.kind not in recipes.names():
        return {}
    block = dict(source.settings)
    settings = Settings.model_validate(
        recipes.load(source.kind).under(block) if source.kind in recipes.names() else block
    )
    found: dict[str, frozenset[str]] = {}
    for entry in settings.tables:
        rows = [(entry.table, entry.columns)]
        rows += [
            (child.table or f"{entry.table}_{field}", child.columns) for field, child in entry.children.items()
        ]
        for short, columns in rows:
            full = source.tables[short][0]
            found[full] = found.get(full, frozenset()) | {column[:NAME] for column in columns or ()}
    return found
