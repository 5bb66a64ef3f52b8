"""Rows of every destination against the model; which differences are acknowledged changes that are missing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.oracle.model import Expected, Key, Model
from tests.oracle.reading import Row, key_columns
from tests.oracle.values import At, same

#: What `_relay_version` ends with: the number of the delivery.
_ARRIVAL = 16
_NS = 20


class Difference(NamedTuple):
    """One row that is not as it must be; `lost` where it lacks a change that was answered 202."""

    table: str
    key: Key
    fault: str
    lost: bool


def differences(model: Model, tables: Mapping[str, Iterable[Row]], *, keeps_deleted: bool) -> list[Difference]:
    """At most one for each row.

    Args:
        model: everything that was acknowledged.
        tables: what is there.
        keeps_deleted: a deleted row still has its columns there.
    """
    found = []
    for table in sorted(model.tables() | tables.keys()):
        rows = list(tables.get(table, ()))
        actual = {tuple(str(row[column]) for column in key_columns(table)): row for row in rows}
        if len(actual) != len(rows):
            found.append(Difference(table, (), f"{len(rows) - len(actual)} rows are there twice", lost=False))
        expected, possible = model.rows(table), model.keys(table)
        for key in actual.keys() - expected.keys():
            found += _unexpected(table, key, actual[key], sent=key in possible)
        for key, wanted in expected.items():
            found += _expected(table, key, wanted, actual.get(key), keeps_deleted=keeps_deleted)
    return found


def _unexpected(table: str, key: Key, row: Row, *, sent: bool) -> Iterator[Difference]:
    if not sent:
        yield Difference(table, key, "nobody ever sent it", lost=False)
    elif row.get("_relay_deleted_at") is None:
        yield Difference(table, key, "is live, but its parent lost it", lost=True)


def _expected(
    table: str, key: Key, wanted: Expected, row: Row | None, *, keeps_deleted: bool
) -> Iterator[Difference]:
    if row is None:
        yield Difference(table, key, "missing", lost=True)
        return
    must, has = _version(wanted), _parsed(row["_relay_version"])
    if wanted.deleted_at is not None:
        must = (wanted.deleted_at, has[1])  # which of two deliveries deleted it is not told
    if has != must:
        yield Difference(table, key, f"has version {has}, not {must}", lost=has < must)
    elif (wanted.deleted_at is not None) != (row.get("_relay_deleted_at") is not None):
        yield Difference(table, key, f"deleted at {row.get('_relay_deleted_at')}", lost=False)
    elif wanted.deleted_at is None or keeps_deleted:
        for column, value in wanted.values.items():
            if not _same(value, row.get(column)):
                yield Difference(table, key, f"{column} is {row.get(column)!r}, not {value!r}", lost=False)
                return


def _version(wanted: Expected) -> tuple[int, int]:
    return wanted.version[0], wanted.received


def _parsed(version: str) -> tuple[int, int]:
    return int(version[:_NS]), int(version[-_ARRIVAL:])


def _same(value: Any, actual: Any) -> bool:
    """Also in the Import API's form of a moment: UTC without a zone, to the second."""
    if isinstance(value, At) and isinstance(actual, str) and "+" not in actual and not actual.endswith("Z"):
        return dt.datetime.fromisoformat(actual).replace(tzinfo=dt.UTC) == value.moment().replace(microsecond=0)
    return same(value, actual)
