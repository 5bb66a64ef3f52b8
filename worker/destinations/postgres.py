"""PostgreSQL: batches are copied into a temporary table and merged with one `INSERT … ON CONFLICT`.

One transaction a batch, nothing kept in the session between two (so PgBouncer's transaction pooling is safe), no
dependence on the server's time zone. A table's shape is remembered in `_relay_tables` and `_relay_columns` and
checked by its revision inside each transaction, under a lock that a change of shape waits for: a process that
does not know a new column yet cannot leave an old value in it.

https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""
# ruff: noqa: S608 - names go through quoted(), values through psycopg.sql.quote or COPY

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.sql import quote
from pydantic import Field, SecretStr

from relay.errors import Transient
from relay.records import Type
from worker.columns import sql
from worker.columns.layout import MISFIT, Dialect, Layout, quoted
from worker.columns.work import Work
from worker.destination import (
    SUPERSEDED,
    Batch,
    Destination,
    Limits,
    Settings,
    TableInfo,
    TableSpec,
    Verdict,
)

_SYSTEM: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
#: `numeric` holds 131,072 digits before the point and 16,383 after it.
DIALECT: Final = Dialect(fold=str, reserved=_SYSTEM, typed_keys=True, nul=False, digits=(131_072, 16_383))
_TYPES: Final = {
    Type.TEXT.value: "text",
    Type.INT.value: "bigint",
    Type.NUMBER.value: "numeric",
    Type.INSTANT.value: "timestamptz",
    Type.BOOL.value: "boolean",
    Type.JSON.value: "jsonb",
    MISFIT: "text",
}
_RELAY_TYPES: Final = (
    ("_relay_source", "text"),
    ("_relay_event", "text"),
    ("_relay_version", 'text COLLATE "C" NOT NULL'),
    ("_relay_received_at", "timestamptz"),
    ("_relay_deleted_at", "timestamptz"),
    ("_relay_test", "boolean"),
    ("_relay_data_version", 'text COLLATE "C"'),
)
# What is staged of each row beside its data. The receipt is worked out of the arrival number by the server.
_STAGED: Final = (
    '_relay_n integer, _relay_source text, _relay_event text, _relay_version text COLLATE "C", '
    "_relay_deleted_at timestamptz, _relay_test boolean"
)
_RECEIVED: Final = "timestamptz 'epoch' + i._relay_event::float8 * interval '1 microsecond'"
#: A table of more rows is not rewritten to widen a column.
WIDEN_ROWS: Final = 100_000
#: How often a batch starts anew because the table changed under it.
_ATTEMPTS: Final = 5
# A dead network is noticed even where the server never answers again (libpq's parameters).
_NETWORK: Final = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}

# SQLSTATE classes by consequence; what is in neither is Permanent.
_REFUSED: Final = ("28", "42501", "3D000")
_TRANSIENT: Final = ("08", "25006", "40", "53", "55", "57", "58", "XX")
#: Before a session exists libpq has only words; the server's are in English until it knows better.
_REFUSED_WORDS: Final = ("password", "authentication", "does not exist", "pg_hba.conf", "permission denied", "not permitted")


class PostgresSettings(Settings):
    """The block of a PostgreSQL destination."""

    dsn: SecretStr = Field(description="Where to connect: a libpq URL or `key=value` string, password included.")
    schema_name: str = Field("public", alias="schema", description="Schema of the tables; made where it is absent.")
    connect_timeout_s: int = Field(10, ge=2, description="Seconds to wait for a connection.")
    statement_timeout_s: float = Field(60, gt=0, description="Seconds after which the server gives up a statement.")


class _Changed(Exception):
    """The table is no longer what the layout says."""


class Postgres(Destination):
    """Tables in one schema of a PostgreSQL database, version 11 or later."""

    Settings = PostgresSettings
    keeps_deleted = True
    limits = Limits(records=5000, body_bytes=16 * 1024 * 1024)

    def __init__(self, name: str, settings: PostgresSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self._connection: psycopg.Connection[Any] | None = None
        self._layouts: dict[str, Layout] = {}
        self._committing = False

    def __repr__(self) -> str:
        return f"<postgres {self.name}>"

    # --- the contract -------------------------------------------------------------------------------

    def deliver(self, batch: Batch) -> list[Verdict]:
        """Apply a batch in one transaction; see the contract."""
        with self._translated():
            for _ in range(_ATTEMPTS):
                try:
                    return self._apply(batch)
                except _Changed:
                    self._layouts.pop(batch.table.name, None)
                except (errors.UndefinedTable, errors.UndefinedColumn):
                    self._rollback()
                    self._extend(batch.table, [])
        raise Transient(f"the table {batch.table.name} changes faster than it can be written")

    def ping(self) -> None:
        """Raise unless the server takes writes."""
        with self._translated():
            (read_only,) = self._run("SHOW transaction_read_only").fetchone() or ("on",)
        if read_only != "off":
            raise Transient("the server is read-only: it may be a standby", reason="read_only")

    def tables(self) -> list[TableInfo]:
        """The tables in the catalogue; counts are exact, so this reads each table."""
        with self._translated():
            if not self._has_catalogue():
                return []
            rows = self._run(f"SELECT table_name, sql_name FROM {self._at('_relay_tables')} ORDER BY 1").fetchall()
            return [self._info(name, table) for name, table in rows]

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _info(self, name: str, table: str) -> TableInfo:
        counts = self._run(
            "SELECT count(*) FILTER (WHERE _relay_deleted_at IS NULL), count(_relay_deleted_at), "
            "to_char(max(_relay_received_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
            f"FROM {self._at(table)}"
        ).fetchone() or (0, 0, None)
        layout = self._read(name)
        columns = {c.name: _TYPES[c.kind] for c in layout.columns} if layout else {}
        return TableInfo(name, *counts, columns)

    # --- one batch ----------------------------------------------------------------------------------

    def _apply(self, batch: Batch) -> list[Verdict]:
        spec, work = batch.table, Work(batch)
        layout = self._layouts.get(spec.name) or self._extend(spec, [])
        while wanted := work.fit(layout, DIALECT):
            layout = self._extend(spec, wanted)
        self._begin(spec, layout)
        stale = self._mark_sets(work)
        self._upsert_rows(work, layout, stale)
        self._upsert_gones(work, layout)
        self._delete_strangers(work, layout, stale)
        self._commit()
        return work.verdicts

    def _begin(self, spec: TableSpec, layout: Layout) -> None:
        """Open the transaction; a change of the table's shape waits for it from here on.

        Raises:
            _Changed: the shape changed before.
        """
        cursor = self._run(
            f"{self._opening()} LOCK TABLE {self._at(layout.table)} IN ROW EXCLUSIVE MODE; "
            f"SELECT revision FROM {self._at('_relay_tables')} WHERE table_name = {quote(spec.name)}"
        )
        while cursor.nextset():
            pass
        if cursor.fetchone() != (layout.revision,):
            self._rollback()
            raise _Changed

    def _opening(self) -> str:
        return (
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; "
            f"SET LOCAL statement_timeout = {int(self.settings.statement_timeout_s * 1000)};"
        )

    def _commit(self) -> None:
        self._committing = True
        self._run("COMMIT")
        self._committing = False

    def _mark_sets(self, work: Work) -> set[int]:
        """Settle the sets against the newest complete ones; returns the places of those that came too late."""
        if not work.parents.owners:
            return set()
        sets = {n: work.items[n] for n in work.parents.owners}
        complete = all(item.complete for item in sets.values())
        # A marker's row lock orders complete sets of one parent. An incomplete set writes none, so it waits for
        # the sets of this table that are under way, and they for it.
        lock = "pg_advisory_xact_lock_shared" if complete else "pg_advisory_xact_lock"
        table = quote(work.spec.name)
        self._run(f"SELECT {lock}(hashtextextended({quote(f'{self._schema}.sets.')} || {table}, 0))")
        newest: dict[str, str] = {}
        for item in sets.values():
            if item.complete:
                newest[item.key] = max(item.version, newest.get(item.key, ""))
        marks = self._at("_relay_sets")
        for key, version in sorted(newest.items()):
            newest[key] = version
        keys, versions = list(newest), list(newest.values())
        rows = self._run(
            f"INSERT INTO {marks} AS s SELECT {table}, k, v FROM unnest({quote(keys)}::text[], "
            f"{quote(versions)}::text[]) AS u(k, v) ORDER BY k ON CONFLICT (table_name, parent_key) "
            "DO UPDATE SET version = greatest(s.version, excluded.version) RETURNING parent_key, version"
        ).fetchall()
        others = [item.key for item in sets.values() if item.key not in newest]
        rows += self._run(
            f"SELECT parent_key, version FROM {marks} WHERE table_name = {table} "
            f"AND parent_key = ANY({quote(others)}::text[])"
        ).fetchall()
        markers = dict(rows)
        stale = {n for n, item in sets.items() if item.version < markers.get(item.key, "")}
        for n in stale:
            work.verdicts[n] = SUPERSEDED
        return stale

    def _upsert_rows(self, work: Work, layout: Layout, stale: set[int]) -> None:
        order = work.order(work.rows, layout, DIALECT, stale)
        if not order:
            return
        key, present = layout.names(work.spec.key), list(work.rows.columns)
        table = self._at(layout.table)
        self._stage("_relay_rows", work, work.rows, order)
        done = self._run(
            f"INSERT INTO {table} AS t ({sql.listed(present)}, {sql.listed(sql.RELAY)}) "
            f"SELECT {sql.listed(present)}, {_relay_values('CASE WHEN _relay_deleted_at IS NOT NULL THEN _relay_version END')} "
            f"FROM pg_temp._relay_rows AS i ORDER BY _relay_n {sql.whole_rows(layout, key, present)}"
        )
        if done.rowcount == len(order):
            return
        late = sql.beneath(layout, key, present, lambda name: f"i.{quoted(name)}", "FROM pg_temp._relay_rows AS i")
        self._run(f"UPDATE {table} AS t {late}")
        self._supersede(work, layout, "_relay_rows", "t._relay_version, t._relay_data_version")

    def _upsert_gones(self, work: Work, layout: Layout) -> None:
        order = work.order(work.gones, layout, DIALECT)
        if not order:
            return
        key = layout.names(work.spec.key)
        self._stage("_relay_gones", work, work.gones, order)
        done = self._run(
            f"INSERT INTO {self._at(layout.table)} AS t ({sql.listed(key)}, {sql.listed(sql.RELAY)}) "
            f"""SELECT {sql.listed(key)}, {_relay_values("''")} FROM pg_temp._relay_gones AS i ORDER BY _relay_n """
            f"{sql.tombstones(key)}"
        )
        if done.rowcount != len(order):
            self._supersede(work, layout, "_relay_gones", "t._relay_version")

    def _supersede(self, work: Work, layout: Layout, stage: str, versions: str) -> None:
        """Mark records whose version the table does not hold now: a newer one does."""
        match = " AND ".join(f"t.{quoted(n)} = i.{quoted(n)}" for n in layout.names(work.spec.key))
        rows = self._run(
            f"SELECT i._relay_n FROM pg_temp.{stage} AS i JOIN {self._at(layout.table)} AS t ON {match} "
            f"WHERE (i._relay_version IN ({versions})) IS NOT TRUE"
        ).fetchall()
        for (owner,) in rows:
            if work.items[owner].members is None:
                work.verdicts[owner] = SUPERSEDED

    def _delete_strangers(self, work: Work, layout: Layout, stale: set[int]) -> None:
        """Mark what is in the table and not in a complete set: its members are as new as the set by now."""
        sets = [n for n, owner in enumerate(work.parents.owners) if owner not in stale]
        sets = [n for n in sets if work.items[work.parents.owners[n]].complete]
        if not sets:
            return
        parent = layout.names(work.spec.parent)
        self._stage("_relay_parents", work, work.parents, sets)
        match = " AND ".join(f"t.{quoted(n)} = i.{quoted(n)}" for n in parent)
        self._run(
            f"UPDATE {self._at(layout.table)} AS t SET _relay_data_version = "
            "CASE WHEN t._relay_deleted_at IS NULL THEN t._relay_version ELSE t._relay_data_version END, "
            "_relay_source = i._relay_source, _relay_event = i._relay_event, _relay_version = i._relay_version, "
            f"_relay_received_at = {_RECEIVED}, _relay_deleted_at = i._relay_deleted_at, _relay_test = i._relay_test "
            f"FROM pg_temp._relay_parents AS i WHERE {match} AND t._relay_version < i._relay_version"
        )
