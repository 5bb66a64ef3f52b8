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

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from psycopg import errors

from relay.errors import Transient
from relay.records import WHOLE, Type, version_instant
from worker.columns import sql
from worker.columns.changes import Rows, compared
from worker.columns.copytext import column_text, copy_blocks
from worker.columns.erasing import emptied, raised
from worker.columns.layout import Layout, quoted
from worker.columns.values import instant_text
from worker.columns.work import Part, Work, is_gone
from worker.destination import SUPERSEDED, Batch, Destination, Limits, Preview, TableInfo, TableSpec, Verdict
from worker.destinations.postgres.reading import SchemaReader
from worker.destinations.postgres.session import PostgresSettings, Session
from worker.destinations.postgres.tables import DIALECT, TYPES, Tables

# What is staged of each row beside its data. The receipt is worked out of the arrival number by the server.
_STAGED: Final = (
    '_relay_n integer, _relay_source text, _relay_event text, _relay_version text COLLATE "C", '
    "_relay_deleted_at timestamptz, _relay_test boolean"
)
_RECEIVED: Final = "timestamptz 'epoch' + i._relay_event::float8 * interval '1 microsecond'"
#: How often a batch starts anew because the table changed under it.
_ATTEMPTS: Final = 5


class _Changed(Exception):
    """The table is no longer what the layout says."""


class Postgres(Destination):
    """Tables in one schema of a PostgreSQL database, version 11 or later."""

    Settings = PostgresSettings
    keeps_deleted = True
    reads = SchemaReader
    limits = Limits(records=5000, body_bytes=16 * 1024 * 1024)

    def __init__(self, name: str, settings: PostgresSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self._db = Session(settings)
        self._tables = Tables(self._db)

    def __repr__(self) -> str:
        return f"<postgres {self.name}>"

    # --- the contract -------------------------------------------------------------------------------

    def deliver(self, batch: Batch) -> list[Verdict]:
        """Apply a batch in one transaction; see the contract."""
        with self._db.translated():
            for _ in range(_ATTEMPTS):
                try:
                    return self._apply(batch)
                except _Changed:
                    self._tables.forget(batch.table)
                except (errors.UndefinedTable, errors.UndefinedColumn):
                    self._db.rollback()
                    self._tables.extend(batch.table, [])
        raise Transient(f"the table {batch.table.name} changes faster than it can be written")

    def preview(self, batch: Batch) -> Preview:
        """Apply a batch, look at its rows before and after, and roll back; changes of the shape included."""
        with self._db.translated():
            try:
                with self._db.rehearsal():
                    layout = self._tables.extend(batch.table, [])
                    about = Work(batch)
                    about.fit(layout, DIALECT)
                    before = self._rows(about, layout)
                    verdicts = self._apply(batch)
                    after = self._rows(about, self._tables.layout(batch.table))
            finally:
                self._tables.forget(batch.table)
        return compared(batch.table.name, layout.names(batch.table.key), before, after, verdicts)

    def forget(self, batches: Sequence[Batch]) -> int:
        """Empty rows, table by table. Dead row versions, WAL and backups are the server's own business."""
        return sum(self._empty(batch) for batch in batches)

    def ping(self) -> None:
        """Raise unless the server takes writes."""
        with self._db.translated():
            (read_only,) = self._db.run("SHOW transaction_read_only").fetchone() or ("on",)
        if read_only != "off":
            raise Transient("the server is read-only: it may be a standby", reason="read_only")

    def tables(self) -> list[TableInfo]:
        """The tables in the catalogue; counts are exact, so this reads each table."""
        with self._db.translated():
            return [self._info(name, layout) for name, layout in self._tables.all()]

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _info(self, name: str, layout: Layout) -> TableInfo:
        rows, deleted, newest = self._db.run(
            "SELECT count(*) FILTER (WHERE _relay_deleted_at IS NULL), count(_relay_deleted_at), "
            "to_char(max(_relay_received_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
            f"FROM {self._db.at(layout.table)}"
        ).fetchone() or (0, 0, None)
        return TableInfo(
            name, layout.table, rows, deleted, newest, {c.name: TYPES[c.kind] for c in layout.columns}
        )

    # --- one batch ----------------------------------------------------------------------------------

    def _apply(self, batch: Batch) -> list[Verdict]:
        spec, work = batch.table, Work(batch)
        layout = self._tables.layout(spec)
        while wanted := work.fit(layout, DIALECT):
            layout = self._tables.extend(spec, wanted)
        self._begin(spec, layout)
        stale = self._mark_sets(work)
        self._upsert_rows(work, layout, stale, self._floor(spec))
        self._upsert_gones(work, layout)
        self._delete_strangers(work, layout, stale)
        self._db.committing = True
        self._db.commit()
        return work.verdicts

    def _rows(self, work: Work, layout: Layout) -> Rows:
        """The rows that a batch is about, those of its sets' parents included; cells as the server words them."""
        names = [*(column.name for column in layout.columns), *sql.RELAY]
        key, found = layout.names(work.spec.key), {}
        parent = layout.names(work.spec.parent)
        for part, match in ((work.rows, key), (work.gones, key), (work.parents, parent)):
            if not part.owners:
                continue
            lists = [f"{self._db.quote(list(map(str, part.columns[name])))}::text[]" for name in match]
            same = [f"t.{quoted(name)} = u.k{n}::{TYPES[part.kinds[name]]}" for n, name in enumerate(match)]
            keys = f"unnest({', '.join(lists)}) AS u({', '.join(f'k{n}' for n in range(len(match)))})"
            # Without a parent: all that a whole version leaves behind.
            end = self._db.quote(max(work.items[n].version for n in part.owners))
            where = f"JOIN {keys} ON {' AND '.join(same)}" if match else f"WHERE {sql.older(end)}"
            rows = self._db.run(
                f"SELECT {', '.join(f't.{quoted(name)}::text' for name in names)} "
                f"FROM {self._db.at(layout.table)} AS t {where}"
            ).fetchall()
            for row in (dict(zip(names, cells, strict=True)) for cells in rows):
                found[tuple(row[name] for name in key)] = row
        return found

    def _empty(self, batch: Batch) -> int:
        with self._db.translated(), self._db.rehearsal():
            layout = self._tables.find(batch.table)
            if layout is None:
                return 0
            about = Work(batch)
            about.fit(layout, DIALECT)
            held = self._rows(about, layout)
            table, keys = self._db.quote(batch.table.name), self._db.quote([item.key for item in batch.items])
            sets = self._db.run(
                f"SELECT version FROM {self._db.at('_relay_sets')} "
                f"WHERE table_name = {table} AND parent_key = ANY({keys}::text[])"
            ).fetchall()
        versions = [*(str(row["_relay_version"]) for row in held.values()), *(version for (version,) in sets)]
        if not versions:
            return 0
        if SUPERSEDED in self.deliver(raised(batch, versions)):
            raise Transient(f"rows of {batch.table.name} changed meanwhile: erase them again")
        with self._db.translated():
            self._clear(batch.table, layout, list(held))
        return len(held)

    def _clear(self, spec: TableSpec, layout: Layout, held: list[tuple[str, ...]]) -> None:
        """Empty the rows of these keys, given as the server words them, where they are deleted."""
        columns = [layout.by_source[source] for source in spec.key]
        lists = [f"{self._db.quote([cells[n] for cells in held])}::text[]" for n in range(len(columns))]
        same = [f"t.{quoted(c.name)} = u.k{n}::{TYPES[c.kind]}" for n, c in enumerate(columns)]
        self._db.run(
            f"{self._db.opening()} {emptied(self._db.at(layout.table), layout, [c.name for c in columns])} "
            f"FROM unnest({', '.join(lists)}) AS u({', '.join(f'k{n}' for n in range(len(columns)))}) "
            f"WHERE {' AND '.join(same)} AND t._relay_deleted_at IS NOT NULL"
        )
        self._db.commit()

    def _begin(self, spec: TableSpec, layout: Layout) -> None:
        """Open the transaction; a change of the table's shape waits for it from here on.

        Raises:
            _Changed: the shape changed before.
        """
        revisions, name = self._db.at("_relay_tables"), self._db.quote(spec.name)
        cursor = self._db.run(
            f"{self._db.opening()} LOCK TABLE {self._db.at(layout.table)} IN ROW EXCLUSIVE MODE; "
            f"SELECT revision FROM {revisions} WHERE table_name = {name}"
        )
        while cursor.nextset():
            pass
        if cursor.fetchone() != (layout.revision,):
            self._db.rollback()
            raise _Changed

    def _mark_sets(self, work: Work) -> set[int]:
        """Settle the sets against the newest complete ones; returns the places of those that came too late."""
        sets = {n: work.items[n] for n in work.parents.owners}
        if not sets:
            return set()
        # A marker's row lock orders the complete sets of one parent. An incomplete set writes none, so it waits
        # for the sets of this table that are under way, and they for it.
        mode = "_shared" if all(item.complete for item in sets.values()) else ""
        self._db.run(f"SELECT pg_advisory_xact_lock{mode}({self._db.lock_of('sets of ' + work.spec.name)})")
        newest: dict[str, str] = {}
        for item in sets.values():
            if item.complete:
                newest[item.key] = max(item.version, newest.get(item.key, ""))
        others = [item.key for item in sets.values() if item.key not in newest]
        marks, table = self._db.at("_relay_sets"), self._db.quote(work.spec.name)
        keys, versions = self._db.quote(list(newest)), self._db.quote(list(newest.values()))
        markers = dict(
            self._db.run(
                f"INSERT INTO {marks} AS s SELECT {table}, k, v FROM unnest({keys}::text[], {versions}::text[]) "
                "AS u(k, v) ORDER BY k ON CONFLICT (table_name, parent_key) DO UPDATE "
                "SET version = greatest(s.version, excluded.version) RETURNING parent_key, version"
            ).fetchall()
            + self._db.run(
                f"SELECT parent_key, version FROM {marks} "
                f"WHERE table_name = {table} AND parent_key = ANY({self._db.quote(others)}::text[])"
            ).fetchall()
        )
        stale = {n for n, item in sets.items() if item.version < markers.get(item.key, "")}
        for n in stale:
            work.verdicts[n] = SUPERSEDED
        return stale

    def _floor(self, spec: TableSpec) -> str:
        """The version before which all rows are deleted, of a table that comes in versions of the whole."""
        if WHOLE not in spec.columns:
            return ""
        found = self._db.run(
            f"SELECT version FROM {self._db.at('_relay_sets')} "
            f"WHERE table_name = {self._db.quote(spec.name)} AND parent_key = '[]' FOR SHARE"
        ).fetchone()
        return str(found[0]) if found else ""

    def _upsert_rows(self, work: Work, layout: Layout, stale: set[int], floor: str) -> None:
        order = work.order(work.rows, layout, DIALECT, stale)
        if not order:
            return
        key, present = layout.names(work.spec.key), list(work.rows.columns)
        self._stage("_relay_rows", work, work.rows, order, floor)
        beneath = "CASE WHEN i._relay_deleted_at IS NOT NULL THEN i._relay_version END"
        done = self._insert("_relay_rows", layout, present, beneath, sql.whole_rows(layout, key, present))
        if done == len(order):
            return
        late = sql.beneath(layout, key, present, lambda name: f"i.{quoted(name)}", "FROM pg_temp._relay_rows AS i")
        self._db.run(f"UPDATE {self._db.at(layout.table)} AS t {late}")
        self._supersede(work, work.rows, layout, "_relay_rows")

    def _upsert_gones(self, work: Work, layout: Layout) -> None:
        order = work.order(work.gones, layout, DIALECT)
        if not order:
            return
        key = layout.names(work.spec.key)
        self._stage("_relay_gones", work, work.gones, order)
        if self._insert("_relay_gones", layout, key, "''", sql.tombstones(key)) != len(order):
            self._supersede(work, work.gones, layout, "_relay_gones")

    def _insert(self, stage: str, layout: Layout, names: Sequence[str], data_version: str, conflict: str) -> int:
        """Merge staged rows; returns how many were written. The stage is read in the order of its filling."""
        listed = sql.listed(names)
        return self._db.run(
            f"INSERT INTO {self._db.at(layout.table)} AS t ({listed}, {sql.listed(sql.RELAY)}) "
            f"SELECT {listed}, i._relay_source, i._relay_event, i._relay_version, {_RECEIVED}, "
            f"i._relay_deleted_at, i._relay_test, {data_version} FROM pg_temp.{stage} AS i {conflict}"
        ).rowcount

    def _supersede(self, work: Work, part: Part, layout: Layout, stage: str) -> None:
        """Mark records of a version that the table does not hold: a newer one was there."""
        rows = self._db.run(
            f"SELECT i._relay_n FROM pg_temp.{stage} AS i JOIN {self._db.at(layout.table)} AS t "
            f"ON {_match(layout.names(work.spec.key))} "
            "WHERE (i._relay_version IN (t._relay_version, t._relay_data_version)) IS NOT TRUE"
        ).fetchall()
        for (n,) in rows:
            if work.items[part.owners[n]].members is None:
                work.verdicts[part.owners[n]] = SUPERSEDED

    def _delete_strangers(self, work: Work, layout: Layout, stale: set[int]) -> None:
        """Mark rows that a complete set does not name: those that it names are as new as the set by now."""
        part = work.parents
        sets = [n for n, owner in enumerate(part.owners) if owner not in stale and work.items[owner].complete]
        if not sets:
            return
        self._stage("_relay_parents", work, part, sets)
        self._db.run(
            f"UPDATE {self._db.at(layout.table)} AS t SET {sql.tombstone_cells('i.')}, "
            f"_relay_received_at = {_RECEIVED} FROM pg_temp._relay_parents AS i "
            f"WHERE {_match(layout.names(work.spec.parent))} AND t._relay_version < i._relay_version"
        )

    def _stage(self, name: str, work: Work, part: Part, order: Sequence[int], floor: str = "") -> None:
        """Copy rows of a part into a temporary table."""
        items = [work.items[owner] for owner in part.owners]
        rows = part is work.rows
        gone = [
            None if rows and not is_gone(i, floor) else instant_text(version_instant(i.version)) for i in items
        ]
        fields = [
            list(map(str, range(len(items)))),
            column_text(Type.TEXT, [item.source for item in items]),
            [item.event for item in items],
            [item.version for item in items],
            column_text(Type.INSTANT, gone),
            column_text(Type.BOOL, [item.test for item in items]),
            *(column_text(part.kinds[column], values) for column, values in part.columns.items()),
        ]
        types = "".join(f", {quoted(column)} {TYPES[kind]}" for column, kind in part.kinds.items())
        self._db.run(f"CREATE TEMP TABLE {name} ({_STAGED}{types}) ON COMMIT DROP")
        with (
            self._db.open().cursor() as cursor,
            cursor.copy(f"COPY pg_temp.{name} FROM STDIN".encode()) as copy,
        ):
            for block in copy_blocks(fields, order):
                copy.write(block)


def _match(names: Sequence[str]) -> str:
    return " AND ".join(f"t.{quoted(name)} = i.{quoted(name)}" for name in names) or sql.LIVING


destination = Postgres
