"""Any warehouse that dlt loads: BigQuery, Snowflake, Redshift, Databricks, ClickHouse, DuckDB and others.

https://dlthub.com/docs/dlt-ecosystem/destinations/ · https://dlthub.com/docs/general-usage/merge-loading

Each batch is one load of dlt with the write disposition `merge`: rows with equal keys are replaced whole. Such a
load knows no versions, so `worker.delivery` keeps a version fence before it, and a tombstone is a column. dlt
keeps unsent packages in a folder and would send them by itself the next time, after newer ones may have gone: so
that folder is thrown away with each failure and each process. What dlt must know of the tables, it reads back from
the warehouse.

A merge goes through `<dataset>_staging.<table>`, which each load empties first. Of two loads at once, one would
merge nothing and be told that all went well: so there is one lane, and one destination a dataset. A load of which
nobody knows what became may do as much to the next one; so for as long as it may, the rows of each are counted.

dlt is an extra, `pip install 'rowhook[dlt]'`, with what the warehouse needs besides (`dlt[snowflake]`). Shown with
DuckDB; of the others only dlt's own word is known.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar

from pydantic import Field, SecretStr, field_validator

from relay.errors import DeliveryError, Permanent, Refused, Transient
from worker.destination import STORED, Batch, Destination, Limits, Settings, TableInfo, Verdict
from worker.destinations.dlt.home import Home
from worker.destinations.dlt.rows import check_names, named, rows_of
from worker.wire import one_line, scrub

_Answer = TypeVar("_Answer")
_CREDENTIALS_IN_URL: Final = re.compile(r"//[^/@\s]*@")
_FOLDER: Final = "dlt"
#: The steps of dlt that work in its folder alone.
_HERE: Final = frozenset({"extract", "normalize"})
_LACKS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
_COUNTS: Final = (
    "SELECT count(*) - count(_relay_deleted_at), count(_relay_deleted_at), max(_relay_received_at) FROM"
)


class DltSettings(Settings):
    """A destination of kind `dlt`."""

    alone: ClassVar[tuple[str, ...]] = ("warehouse", "credentials", "dataset")
    warehouse: str = Field(description="dlt's name of it: `duckdb`, `bigquery`, `snowflake`, …")
    credentials: SecretStr | None = Field(
        None, description="A connection string as dlt takes it; else dlt looks in its own environment variables."
    )
    dataset: str = Field("rowhook", description="The dataset or schema that the tables are made in.")
    deletes: Literal["blank", "mark", "keep"] = Field(
        "blank",
        description="A deleted row: its key and _relay_deleted_at; mark: its last columns too; keep: as it was.",
    )
    unknown_hold_s: float = Field(300.0, gt=0, description="Rest after a load whose outcome is unknown.")

    @field_validator("lanes")
    @classmethod
    def _one_lane(cls, lanes: int) -> int:
        if lanes != 1:
            raise ValueError(
                "must be 1: dlt merges through one staging table, and of two loads at once one empties the other's"
            )
        return lanes


class Dlt(Destination):
    """Merges batches by dlt."""

    Settings = DltSettings
    conditional: ClassVar[bool] = False
    limits = Limits(records=10_000)

    def __init__(self, name: str, settings: DltSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self.marks = settings.deletes == "mark"
        # dlt takes the process's signals for itself in the main thread, and thinks by thread.
        self._thread = ThreadPoolExecutor(1, "dlt")
        self._folder = data_dir / _FOLDER / name
        self._home: Home | None = None
        self._pipeline: Any = None
        #: Until then (`time.monotonic`) a load whose outcome is unknown may still do something.
        self._doubted_until = 0.0

    def deliver(self, batch: Batch) -> list[Verdict]:
        """See `Destination`; a load is over once dlt says that the merge was done."""
        deletes = self.settings.deletes
        sent = [item for item in batch.items if deletes != "keep" or item.op == "row"]
        if sent:
            rows, hints = rows_of(batch, sent, deletes)
            self._run(self._open)
            self._run(lambda: self._load(batch, rows, hints), records=True)
        return [STORED] * len(batch.items)

    def ping(self) -> None:
        """Connect; stores nothing."""
        self._run(lambda: self._ask("SELECT 1"))

    def tables(self) -> list[TableInfo]:
        """What the relay made here, as dlt's schema has it; counts are exact, so this reads each table."""
        return self._run(self._tables)

    def close(self) -> None:
        """Forget what dlt keeps on this machine."""
        self._thread.shutdown()
        self._drop()

    # --- in dlt's thread ----------------------------------------------------------------------------

    def _run(self, work: Callable[[], _Answer], *, records: bool = False) -> _Answer:
        """Do it there. Over `records`, what is no fault of dlt's steps is one of ours, and goes out as it is."""
        return self._thread.submit(self._translated, work, records).result()

    def _translated(self, work: Callable[[], _Answer], records: bool) -> _Answer:
        try:
            return work()
        except DeliveryError:
            raise
        except Exception as error:  # drivers of all warehouses; each gets its consequence
            self._drop()
            if records and _is_ours(error):
                raise
            consequence = self._consequence(error)
            if isinstance(consequence, Transient) and consequence.unknown:
                self._doubted_until = time.monotonic() + self.settings.unknown_hold_s
            raise consequence from None

    def _open(self) -> Any:
        if self._pipeline is not None:
            return self._pipeline
        os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
        os.environ.setdefault("RUNTIME__LOG_LEVEL", "ERROR")
        try:
            import dlt
            from dlt.common.destination import Destination as Warehouse
        except ImportError:
            raise Refused(
                f"destination {self.name}: dlt is not installed here: pip install 'rowhook[dlt]'"
            ) from None
        try:
            self._home = Home(self._folder)
        except OSError as error:
            raise self._no_room(error) from None
        secret = self.settings.credentials
        given = {"credentials": secret.get_secret_value()} if secret is not None else {}
        self._pipeline = dlt.pipeline(
            f"rowhook_{self.name}",
            destination=Warehouse.from_reference(self.settings.warehouse, **given),
            dataset_name=self.settings.dataset,
            pipelines_dir=str(self._home.path),
        )
        return self._pipeline

    def _drop(self) -> None:
        self._pipeline = None
        if self._home is not None:
            self._home.remove()
            self._home = None

    def _load(self, batch: Batch, rows: list[dict[str, Any]], hints: dict[str, Any]) -> None:
        pipeline = self._open()
        import dlt

        naming = dlt.Schema("names").naming
        names = {column: named(column, naming.break_path) for column in hints.keys() | rows[0].keys()}
        check_names(names, naming.normalize_identifier)
        resource = dlt.resource(
            [{names.get(column, column): value for column, value in row.items()} for row in rows],
            name=batch.table.name,
            write_disposition="merge",
            primary_key=[names[column] for column in batch.table.key],
            columns={names[column]: hint for column, hint in hints.items()},
            max_table_nesting=0,
        )
        done = pipeline.run(resource)
        done.raise_on_failed_jobs()
        if time.monotonic() < self._doubted_until:
            self._check_there(batch.table.name, done.loads_ids, len(rows))

    def _check_there(self, table: str, loads: Sequence[str], expected: int) -> None:
        """Raise where not all rows of a load are in their table: an earlier one emptied the staging under it."""
        ids = ", ".join(f"'{load}'" for load in loads)  # dlt's own, of digits and a point
        sql = f"SELECT count(*) FROM {self._qualified(table)} WHERE _dlt_load_id IN ({ids})"  # noqa: S608 - ours
        ((there,),) = self._ask(sql)
        if there != expected:
            raise Transient(
                f"{self.settings.warehouse}: {there} of {expected} rows of a load are in {table}, though it said "
                "that all is well; it goes again once nothing of an earlier load can still arrive",
                reason="load", unknown=True,
            )  # fmt: skip

    def _qualified(self, table: str) -> str:
        pipeline = self._open()
        with pipeline.sql_client() as client:
            name: str = client.make_qualified_table_name(
                pipeline.default_schema.naming.normalize_table_identifier(table)
            )
            return name

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self._open().sql_client() as client, client.execute_query(sql) as cursor:
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def _tables(self) -> list[TableInfo]:
        pipeline = self._open()
        pipeline.sync_destination()
        if not pipeline.schemas:
            return []
        schema = pipeline.default_schema
        found = []
        for table in schema.data_tables():
            ((rows, deleted, newest),) = self._ask(f"{_COUNTS} {self._qualified(table['name'])}")
            columns = table["columns"].items()
            types = {n: str(c.get("data_type", "")) for n, c in columns if not n.startswith(("_relay_", "_dlt_"))}
            found.append(TableInfo(table["name"], table["name"], rows, deleted, _utc(newest), types))
        return sorted(found, key=lambda info: info.name)

    def _consequence(self, error: Exception) -> DeliveryError:
        """An error of dlt's by consequence; its words without credentials."""
        from dlt.common.configuration.exceptions import ConfigurationException
        from dlt.common.destination.exceptions import (
            DestinationTerminalException,
            InvalidDestinationReference,
            UnknownDestinationModule,
        )
        from dlt.destinations.exceptions import DestinationConnectionError
        from dlt.load.exceptions import LoadClientJobFailed
        from dlt.pipeline.exceptions import PipelineStepFailed

        step = error.step if isinstance(error, PipelineStepFailed) else ""
        causes = _causes(error)
        words = f"{self.settings.warehouse}: {self._words(causes[-1])}"
        for cause in causes:
            if _is_this_machines(cause, step):
                return self._no_room(cause, unknown=step == "load")
        kinds = (ConfigurationException, InvalidDestinationReference, UnknownDestinationModule, ImportError)
        if any(isinstance(cause, kinds) for cause in causes):
            return Refused(words)
        if any(isinstance(cause, DestinationConnectionError) for cause in causes):
            return Transient(words, reason="away", unknown=step == "load")
        if step in _HERE:
            return Permanent(words)
        if any(isinstance(cause, LoadClientJobFailed) for cause in causes):
            return Permanent(words)
        # Of what the warehouse itself refused, nothing can arrive later.
        answered = any(isinstance(cause, DestinationTerminalException) for cause in causes)
        return Transient(words, reason="load", unknown=step == "load" and not answered)

    def _no_room(self, error: BaseException, *, unknown: bool = False) -> Transient:
        return Transient(
            f"{self._words(error)}: dlt could not work in {self._folder} on this machine; see that there is disk, "
            "memory and files to be had, and it goes again by itself",
            reason="machine", unknown=unknown,
        )  # fmt: skip

    def _words(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"
        secret = self.settings.credentials
        if secret is not None and secret.get_secret_value():
            text = scrub(text, secret.get_secret_value())
        return one_line(_CREDENTIALS_IN_URL.sub("//…@", text))


destination = Dlt


def _is_ours(error: Exception) -> bool:
    """Whether it came of none of dlt's steps, nor of this machine or what is installed on it."""
    from dlt.common.exceptions import DltException

    return not isinstance(error, (DltException, OSError, ImportError))


def _is_this_machines(cause: BaseException, step: str) -> bool:
    """Whether this machine lacks something. Of the steps before a load, none speaks to anybody else."""
    if isinstance(cause, OSError):
        return step in _HERE or cause.errno in _LACKS
    return isinstance(cause, MemoryError) or (isinstance(cause, RuntimeError) and "new thread" in str(cause))


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it came of, the last one first to have happened."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        before = None if step.__suppress_context__ else step.__context__
        step = getattr(step, "exception", None) or step.__cause__ or before
    return found


def _utc(moment: Any) -> str | None:
    return moment.astimezone(dt.UTC).isoformat() if isinstance(moment, dt.datetime) else None
