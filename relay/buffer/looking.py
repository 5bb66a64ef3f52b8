"""What the console asks of a table at a destination, and what it is told: bounded on both sides."""

from __future__ import annotations

from typing import Final

import msgspec

NEWEST: Final = "newest"
BY_KEY: Final = "key"
ORDERS: Final = (NEWEST, BY_KEY)


class Look(msgspec.Struct, frozen=True):
    """Which rows, and how much of them.

    Args:
        order: `newest` (what was received last) or `key`.
        after: where the page begins, as of `Row.place`; empty for the first.
        key: one row alone, one text a key column; empty for a page.
        column, start: one long cell alone, from which character on.
        rows, columns, chars: at most so many, and characters of a cell.
        budget: characters of all cells of a row together.
    """

    order: str = NEWEST
    after: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    column: str = ""
    start: int = 0
    rows: int = 50
    columns: int = 40
    chars: int = 160
    budget: int = 100_000


class Cell(msgspec.Struct, frozen=True, array_like=True):
    """A value as the destination words it, None for NULL; and whether more of it was left out."""

    text: str | None
    cut: bool = False


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One row.

    Args:
        cells: by column. key: of the row; empty where it is too long to be named.
        event: its last event. received, deleted: when, empty for never.
    """

    cells: list[Cell]
    key: list[str]
    event: str
    received: str
    deleted: str

    def place(self, order: str) -> list[str]:
        """What the next page comes after; empty where it cannot be said."""
        return [*([self.event] if order == NEWEST and self.key else []), *self.key]


class Seen(msgspec.Struct, frozen=True):
    """What a look found.

    Args:
        columns: SQL names of those that are shown. key: of those that identify a row. hidden: columns left out.
        more: there are further rows.
    """

    columns: list[str]
    key: list[str]
    hidden: int
    rows: list[Row]
    more: bool


class RowOf(msgspec.Struct, frozen=True):
    """A row of which the deliveries are asked for.

    Args:
        source: whose. key: columns. parent: columns of it that name its set's parent. values: of the key, as text.
        to: destinations of its source.
    """

    source: str
    key: tuple[str, ...]
    parent: tuple[str, ...]
    values: tuple[str, ...]
    to: tuple[str, ...]


class Column(msgspec.Struct, frozen=True):
    """A column at a destination: the sender's name, its SQL name, what the relay takes it for, its SQL type."""

    source: str
    name: str
    kind: str
    type: str


class Shape(msgspec.Struct, frozen=True):
    """A table at a destination.

    Args:
        at: its SQL name. columns: the relay's. key: SQL names of the primary key.
        rows, deleted: counted just now; None where that took too long. newest: the last receipt.
    """

    at: str
    columns: list[Column]
    key: list[str]
    rows: int | None
    deleted: int | None
    newest: str | None
