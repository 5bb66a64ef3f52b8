"""Notices how the rows that a drain delivered differ from what their tables declare.

It stands in the drain, behind the destination: the accept path pays nothing for it, a row is stored before it is
looked at, and what redaction took out is gone. A drain looks at so many rows of a table a second, for a fiftieth
of its time at most, but always at a table that it has not seen. It tells Redis every few seconds. Where little
comes, it sees nearly every row.

A row goes to each destination of its source, so only the drains of the first one look. Rows of test events are
left out, and rows that go again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from rq.timeouts import BaseTimeoutException

from relay.buffer.drift import MOST_COLUMNS, MOST_FINDINGS, NAME, Drift, Finding, Seen
from relay.records import Type, instant_ns
from relay.telemetry import logger
from worker.columns.layout import Dialect, kind_of
from worker.columns.values import ENCODERS
from worker.destination import Item, TableSpec
from worker.reading import Work

log = logger("drift")
#: Of each table in each second: rows, and values in them.
ROWS, VALUES = 100, 10_000
FLUSH_S: Final = 5.0
#: The part of a drain's time that looking may take, and how much of it (seconds) may be saved up for a burst.
SHARE, SAVED_S = 0.02, 0.05
#: A field's text is tried as a time only where it is no longer than one.
_LONGEST_TIME: Final = 40
_DIALECT: Final = Dialect(str.lower)
_SHAPES: Final[dict[type, str]] = {bool: "bool", int: "int", dict: "object", list: "list"}
#: When it was received (ms), and what it holds.
Row = tuple[int, dict[str, Any]]


class Watch:
    """What one drain notices; a fault ends the noticing, never the drain.

    Args:
        drift: where it is kept. sources: those whose rows are looked at. clock: seconds.
    """

    def __init__(
        self, drift: Drift, sources: Collection[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._drift, self._sources, self._clock = drift, sources, clock
        self._tables: dict[tuple[str, str], _Table] = {}
        self._known: set[str] = set()
        self._flushed, self._off = clock(), not sources
        self._left_s, self._counted = SAVED_S, clock()

    def look(self, work: Work) -> None:
        """Look at some rows of a claim that was delivered."""
        self._guarded(lambda: self._look(work))

    def close(self) -> None:
        """Tell what was not told yet."""
        self._guarded(self._flush)

    def _guarded(self, act: Callable[[], None]) -> None:
        if self._off:
            return
        try:
            act()
        except BaseTimeoutException:  # the job's own end
            raise
        except Exception as error:  # noqa: BLE001 - nothing hangs on it
            self._off = True
            log.warning("drift_not_noticed", why=type(error).__name__)  # its text could quote a value

    def _look(self, work: Work) -> None:
        now = self._clock()
        self._left_s = min(SAVED_S, self._left_s + SHARE * (now - self._counted))
        self._counted = now
        if self._left_s > 0 or not self._known.issuperset(work.items):
            again = {one.arrival for one in work.claimed if one.left is not None or one.tries}
            for name, items in work.items.items():
                some = items[:: len(items) // ROWS + 1]  # from all over the claim
                self._look_at(
                    work.tables[name],
                    [i for i in some if i.source in self._sources and not i.test and i.event not in again],
                    now,
                )
            self._known.update(work.items)
            self._left_s -= self._clock() - now
        if now - self._flushed >= FLUSH_S:
            self._flush()

    def _look_at(self, spec: TableSpec, items: Sequence[Item], now: float) -> None:
        for source in dict.fromkeys(item.source for item in items):  # several may share a table
            table = self._tables.get((source, spec.name))
            if table is None:
                table = self._tables[source, spec.name] = _Table(source, spec.name)
            table.look(spec, [item for item in items if item.source == source], now)

    def _flush(self) -> None:
        self._flushed = self._clock()
        self._drift.note([seen for table in self._tables.values() if (seen := table.taken())])


class _Table:
    """What was seen of one table and not told yet, and how much may be looked at in this second."""

    def __init__(self, source: str, name: str) -> None:
        self.source, self.name = source, name
        self._second, self._rows, self._values = float("-inf"), 0, 0
        self._forget()

    def look(self, spec: TableSpec, items: Sequence[Item], now: float) -> None:
        """Look at rows, as many as may be."""
        if now - self._second >= 1:
            self._second, self._rows, self._values = now, ROWS, VALUES
        rows: list[Row] = []
        for row in rows_of(items):
            if self._rows <= 0 or self._values <= 0:
                break
            self._rows, self._values = self._rows - 1, self._values - len(row[1])
            rows.append(row)
        if rows:
            self._note(spec, sorted(rows, key=lambda row: row[0]))

    def taken(self) -> Seen | None:
        """What was seen since the last time."""
        if not self._count:
            return None
        seen = Seen(
            self.source, self.name, self._first, self._last, self._count,
            list(self._unknown.values()), list(self._misfits.values()), list(self._columns.values()),
        )  # fmt: skip
        self._forget()
        return seen

    def _forget(self) -> None:
        self._first, self._last, self._count = 2**62, 0, 0
        self._unknown: dict[tuple[str, str], Finding] = {}
        self._misfits: dict[tuple[str, str], Finding] = {}
        self._columns: dict[tuple[str, str], Finding] = {}

    def _note(self, spec: TableSpec, rows: list[Row]) -> None:
        self._count += len(rows)
        self._first, self._last = min(self._first, rows[0][0]), max(self._last, rows[-1][0])
        declared = {**dict.fromkeys(spec.key, Type.ID.value), **spec.columns}
        present = set[str]().union(*(data for _, data in rows))
        for name in islice((name for name in declared if name in present), MOST_COLUMNS):
            filled = _filled(rows, name)
            if filled:
                _add(self._columns, (name, "", ""), filled)
                unfit = misfits(declared[name], [value for _, value in filled])
                for found, some in _by_shape([filled[n] for n in unfit]).items():
                    _add(self._misfits, (name, declared[name], found), some)
        for name in islice((name for name in present if name not in declared), MOST_FINDINGS):
            for found, some in _by_shape(_filled(rows, name), moments=True).items():
                _add(self._unknown, (name, "", found), some)


def rows_of(items: Sequence[Item]) -> Iterator[Row]:
    """Whole rows, members of sets among them; of a tombstone, which has its key alone, none."""
    for item in items:
        at = int(item.event) // 1000
        if item.members is not None:
            yield from ((at, member) for member in item.members)
        elif item.op != "gone":
            yield at, item.data


def misfits(declared: str, values: list[Any]) -> list[int]:
    """Places of values that a column of that type cannot hold as they are.

    A database that keeps text takes anything, but what was declared as text and comes as an object has changed.
    """
    if declared == Type.TEXT:
        return [] if set(map(type, values)) <= {str} else [n for n, v in enumerate(values) if type(v) is not str]
    return ENCODERS[kind_of(declared)](values, _DIALECT)[1]


def shape(value: Any, *, moments: bool = False) -> str:
    """A value's type in one word, nothing of what it holds; with `moments`, text that is a time is called so."""
    if isinstance(value, str):
        if not value:
            return "empty text"
        return "instant" if moments and _is_moment(value) else "text"
    return _SHAPES.get(type(value), "number")


def _is_moment(text: str) -> bool:
    return len(text) <= _LONGEST_TIME and "-" in text[4:5] and instant_ns(text) is not None


def _filled(rows: list[Row], name: str) -> list[tuple[int, Any]]:
    return [(at, value) for at, data in rows if (value := data.get(name)) is not None]


def _by_shape(filled: list[tuple[int, Any]], *, moments: bool = False) -> dict[str, list[tuple[int, Any]]]:
    found: dict[str, list[tuple[int, Any]]] = {}
    for at, value in filled:
        found.setdefault(shape(value, moments=moments), []).append((at, value))
    return found


def _add(
    findings: dict[tuple[str, str], Finding], what: tuple[str, str, str], filled: list[tuple[int, Any]]
) -> None:
    """Count what was found, of rows in the order of their receipt."""
    name, declared, found = what[0][:NAME], what[1], what[2]
    first, last = filled[0][0], filled[-1][0]
    known = findings.get((name, found))
    if known is not None:
        known.count += len(filled)
        known.first, known.last = min(known.first, first), max(known.last, last)
    elif len(findings) < MOST_COLUMNS:
        findings[name, found] = Finding(name, declared, found, len(filled), first, last)
