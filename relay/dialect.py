"""The contract of an API that the relay serves: what a client pushes, as rows. Pure: no I/O, no clock.

A dialect reads the bytes of a request into `Pushed`, or raises `PushRefused` with what its documents say. What
becomes of it is `relay.pushes`' business, the same for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from relay.errors import IntakeError

#: Names that any destination can have; with a client's prefix they stay within PostgreSQL's 63 bytes.
LONGEST_NAME: Final = 55
_NAME: Final = re.compile(r"[A-Za-z0-9_]+\Z")
_OURS: Final = "_relay_"


class PushRefused(IntakeError):
    """A push that is not taken, and why.

    Args:
        message: in a few words.
        status: of the answer. reasons: sentences for whoever wrote the client.
    """

    reason = "push_refused"

    def __init__(self, message: str, *reasons: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.reasons = status, reasons


class Row(msgspec.Struct, frozen=True):
    """One row as a client pushed it.

    Args:
        data: column name to JSON value.
        sequence: the client's own order of a row's changes; None where the order of arrival is meant.
        version: of the whole table (`relay.records.WHOLE`), which orders before the sequence does.
        gone: it is deleted.
        rejected: why its table cannot hold it: it then goes, with this, to the table of rejected ones.
    """

    data: dict[str, Any]
    sequence: int | None = None
    version: int | None = None
    gone: bool = False
    rejected: str = ""


class Pushed(msgspec.Struct, frozen=True):
    """Rows of one table.

    Args:
        table: as the client calls it.
        key: columns that identify a row; none where every row is a new one.
        rows: in the order in which they were pushed; of equal keys the last one counts.
        columns: declared columns, name to `relay.records.Type` value; others come as they come.
        ours: the API keeps it, so that no key need allow it.
        active: rows of versions of the table before this one are deleted.
    """

    table: str
    key: tuple[str, ...]
    rows: list[Row]
    columns: Mapping[str, str] = {}
    ours: bool = False
    active: int | None = None


def check_table(name: str) -> None:
    """Refuse a table's name that is none.

    Raises:
        PushRefused: it is not letters, digits and underscores, or too long.
    """
    if not _NAME.match(name):
        raise PushRefused(
            "invalid table name", f"a table's name is letters, digits and underscores, not {name[:80]!r}"
        )
    if len(name) > LONGEST_NAME:
        raise PushRefused("invalid table name", f"a table's name has at most {LONGEST_NAME} characters")


def check_row(data: Mapping[str, Any], key: Iterable[str], where: str) -> None:
    """Refuse a row that cannot be stored under its key.

    Raises:
        PushRefused: a key field is missing, null or nested, or a field has a name of the relay's own.
    """
    for column in key:
        value = data.get(column)
        if value is None:
            raise PushRefused("missing a required parameter", f"{where}: the key field {column[:80]!r} is missing")
        if isinstance(value, (dict, list)):
            raise PushRefused("invalid key", f"{where}: the key field {column[:80]!r} is nested")
    for column in data:
        if column.startswith(_OURS) or not column:
            raise PushRefused("invalid field name", f"{where}: a field cannot be called {column[:80]!r}")
