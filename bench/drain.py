"""Rows a second out of a backlog, beside a bare loop that stores the same rows from memory in the same batches.

Slice by slice: the relay drains some thousand events, what it wrote is read back as tuples, and the bare loop
stores those into tables of the same shape. Reading back is not timed.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from bench.backlog import CUSTOMERS, ORDERS, Backlog
from bench.baselines import copy_upsert, posts, sqlite_upsert
from bench.report import Row, at_least
from bench.servers import ROOT, Postgres, Valkey, folder
from tests.servers.import_server import ImportServer
from worker.drain import MOST_EVENTS

_SLICES: Final = 5
_LATENCY_MS: Final = 25
_CONNECTIONS: Final = 4
Table = list[tuple[Any, ...]]


def run(*, quick: bool) -> list[Row]:
    """Measure; raises where a row is missing afterwards or the ledger does not balance."""
    size = 20_000 if quick else 50_000
    return [*_databases(CUSTOMERS, size), *_databases(ORDERS, size // 2), _import_api(3 if quick else 5)]


def _databases(topic: str, events: int) -> list[Row]:
    with folder() as data, Postgres(data) as postgres, Valkey(data) as valkey:
        blocks = {"pg": {"kind": "postgres", "dsn": postgres.url}, "lite": {"kind": "sqlite"}}
        backlog = Backlog(data, valkey, blocks, topic)
        backlog.fill(events)
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            rows = [_compare("PostgreSQL", backlog, "pg", Pg(connection, list(backlog.rows)))]
        with contextlib.closing(sqlite3.connect(data / "warehouse.db", isolation_level=None)) as file:
            rows.append(_compare("SQLite", backlog, "lite", Lite(file, data, list(backlog.rows))))
        backlog.verify()
    return rows


class Pg:
    """PostgreSQL read back, and the bare loop's tables in a schema of their own."""

    def __init__(self, connection: psycopg.Connection, tables: list[str]) -> None:
        self._connection, self._tables = connection, tables
        self.columns: dict[str, list[str]] = {}
        self._keys: dict[str, list[str]] = {}
        self._last = dict.fromkeys(tables, "")

    def new(self, table: str) -> Table:
        """Rows that came since the last call, all values as text."""
        if table not in self.columns:
            self._prepare(table)
        names = [sql.SQL("{}::text").format(sql.Identifier(c)) for c in self.columns[table]]
        query = sql.SQL("SELECT {} FROM public.{} WHERE _relay_event > {} ORDER BY _relay_event")
        found = self._connection.execute(
            query.format(sql.SQL(", ").join(names), sql.Identifier(table), self._last[table])
        ).fetchall()
        self._last[table] = max(row[self.columns[table].index("_relay_event")] for row in found)
        return found

    def store(self, batches: Sequence[tuple[str, Table]]) -> None:
        """The bare loop."""
        copy_upsert.store(self._connection, batches, self.columns, self._keys)

    def counts(self, *, bare: bool) -> dict[str, int]:
        """Rows by table."""
        count = sql.SQL("SELECT count(*) FROM {}.{}")
        schema = sql.Identifier("bare" if bare else "public")
        queries = {t: count.format(schema, sql.Identifier(t)) for t in self._tables}
        return {t: n for t, query in queries.items() for (n,) in self._connection.execute(query)}

    def _prepare(self, table: str) -> None:
        run, name = self._connection.execute, sql.Identifier(table)
        run("CREATE SCHEMA IF NOT EXISTS bare")
        run("SET search_path = bare")
        run(sql.SQL("CREATE TABLE bare.{0} (LIKE public.{0} INCLUDING ALL)").format(name))
        of = "WHERE attrelid = %s::regclass AND attnum > 0"
        every = f"SELECT attname FROM pg_attribute {of} AND NOT attisdropped ORDER BY attnum"
        keyed = f"SELECT attname FROM pg_attribute JOIN pg_index ON indrelid = attrelid {of} AND indisprimary"
        at = (f"public.{table}",)
        self.columns[table] = [c for (c,) in run(every.encode(), at)]
        self._keys[table] = [c for (c,) in run(f"{keyed} AND attnum = ANY(indkey)".encode(), at)]


class Lite:
    """SQLite read back, and the bare loop's file."""

    def __init__(self, file: sqlite3.Connection, data: Path, tables: list[str]) -> None:
        self._file, self._tables = file, tables
        self._bare = sqlite3.connect(data / "bare.db", isolation_level=None)
        self._bare.execute("PRAGMA journal_mode = WAL")
        self._bare.execute("PRAGMA synchronous = FULL")
        self.columns: dict[str, list[str]] = {}
        self._keys: dict[str, list[str]] = {}
        self._last = dict.fromkeys(tables, "")

    def new(self, table: str) -> Table:
        """Rows that came since the last call."""
        if table not in self.columns:
            info = self._file.execute(f"PRAGMA table_info({table})").fetchall()
            self.columns[table] = [row[1] for row in info]
            self._keys[table] = [row[1] for row in info if row[5]]
            (made,) = self._file.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            self._bare.execute(made)
        names = ", ".join(f'"{c}"' for c in self.columns[table])
        query = f"SELECT {names} FROM {table} WHERE _relay_event > ? ORDER BY _relay_event"
        found = self._file.execute(query, (self._last[table],)).fetchall()
        self._last[table] = max(row[self.columns[table].index("_relay_event")] for row in found)
        return found

    def store(self, batches: Sequence[tuple[str, Table]]) -> None:
        """The bare loop."""
        sqlite_upsert.store(self._bare, batches, self.columns, self._keys)

    def counts(self, *, bare: bool) -> dict[str, int]:
        """Rows by table."""
        file = self._bare if bare else self._file
        return {t: file.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in self._tables}


def _compare(title: str, backlog: Backlog, name: str, side: Pg | Lite) -> Row:
    destination, drained = backlog.open(name)
    slice_ = backlog.size // _SLICES
    ours, bare = [], []
    for n in range(1, _SLICES + 1):
        left = backlog.size - n * slice_ if n < _SLICES else 0
        ours.append(drained(left))
        batches = [
            b for t, r in backlog.rows.items() for b in _batches(t, side.new(t), r, destination.limits.records)
        ]
        started = time.perf_counter()
        side.store(batches)
        bare.append(time.perf_counter() - started)
    destination.close()
    backlog.expect(f"{title}, drained", side.counts(bare=False))
    backlog.expect(f"{title}, bare loop", side.counts(bare=True))
    columns, children = len(side.columns[next(iter(backlog.rows))]), sum(backlog.rows.values()) - 1
    kinds = f" and {children} children in {len(backlog.rows) - 1} sets each" if children else ""
    what = f"{title}: {backlog.size} x {backlog.topic}, {columns} columns{kinds}"
    return _row(what, slice_ * (children + 1), ours, bare, 0.6)


def _row(what: str, rows: int, ours: Sequence[float], bare: Sequence[float], target: float) -> Row:
    words = [f"{rows / statistics.median(times):.0f} rows/s" for times in (ours, bare)]
    ratios = [b / o for o, b in zip(ours, bare, strict=True)]
    return at_least("drain", what, words[0], words[1], statistics.median(ratios), target)


def _batches(table: str, rows: Table, each: int, most: int) -> Iterator[tuple[str, Table]]:
    """Rows in the batches that the relay made: the events of one claim, at most so many rows each."""
    for start in range(0, len(rows), MOST_EVENTS * each):
        claim = rows[start : start + MOST_EVENTS * each]
        for first in range(0, len(claim), most):
            yield table, claim[first : first + most]


# --- the Import API ------------------------------------------------------------------------------------


def _import_api(slices: int) -> Row:
    slice_ = MOST_EVENTS  # a claim is taken whole
    events = slices * slice_
    recorded = _recorded(events)
    with folder() as data, Valkey(data) as valkey, _api() as (ours_url, ours_counts), _api() as (url, counts):
        backlog = Backlog(data, valkey, {"api": _block(ours_url)}, ORDERS)
        backlog.fill(events)
        destination, drained = backlog.open("api")
        ours, bare = [], []
        for n in range(slices):
            ours.append(drained(events - (n + 1) * slice_))
            batches = [
                (table, points[at : at + 100])
                for table, rows in backlog.rows.items()
                for points in [recorded[table][n * slice_ * rows : (n + 1) * slice_ * rows]]
                for at in range(0, len(points), 100)
            ]
            started = time.perf_counter()
            posts.store(url, batches, _CONNECTIONS)
            bare.append(time.perf_counter() - started)
        destination.close()
        backlog.expect("Import API, drained", ours_counts())
        backlog.expect("Import API, bare loop", counts())
        backlog.verify()
    what = f"Import API that answers in {_LATENCY_MS} ms, {_CONNECTIONS} connections: {events} orders"
    return _row(what, slice_ * sum(backlog.rows.values()), ours, bare, 0.9)


def _block(url: str) -> dict[str, Any]:
    at = {"url": url, "client_id": 12, "api_key": "goodkey"}
    return {"kind": "import_api", **at, "concurrency": _CONNECTIONS}


def _recorded(events: int) -> dict[str, list[dict[str, Any]]]:
    """The points that the relay sends, by table: what the bare loop has in memory."""
    with folder() as data, Valkey(data) as valkey, ImportServer() as server:
        backlog = Backlog(data, valkey, {"api": _block(server.url)}, ORDERS)
        backlog.fill(events)
        destination, drained = backlog.open("api")
        drained(0)
        destination.close()
        return {table: list(server.tables[table].values()) for table in backlog.rows}


@contextlib.contextmanager
def _api() -> Iterator[tuple[str, Callable[[], dict[str, int]]]]:
    """An Import API in a process of its own: its address, and a call that counts its rows."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.api", str(_LATENCY_MS)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("no pipes")
    out, answers = child.stdin, child.stdout

    def counts() -> dict[str, int]:
        out.write("\n")
        out.flush()
        found: dict[str, int] = json.loads(answers.readline())
        return found

    try:
        yield answers.readline().strip(), counts
    finally:
        out.close()
        child.wait(30)
        answers.close()
