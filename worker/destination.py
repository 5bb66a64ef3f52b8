"""The contract of a destination: where batches of records are upserted.

A destination does one thing, `deliver`, and has exactly three endings: it returns a verdict for each record, in
order; it raises `Transient` (the whole batch may succeed later), `Refused` (credentials) or `Permanent` (never);
nothing else may come out of it. A driver's exceptions are translated in the destination's own file. It never
splits, sleeps or retries: it declares `limits`, and `worker.delivery` obeys them.

What every destination must make true of a batch, in any order and any number of times:

* A record with a newer version wins, an equal version is the same delivery and counts as stored, an older one is
  superseded and changes nothing, but for the next line.
* `row`: the whole row is replaced; columns that are absent become empty. `gone`: `_relay_deleted_at` is set to
  the version's time and what the row last held is kept, where `keeps_deleted` says so; a late `row` that is
  older than the tombstone and newer than what it holds is then written beneath it, so that the order of arrival
  never shows. `full_gone`: row and tombstone in one. A newer `row` clears `_relay_deleted_at` again.
* `set`: members are upserted as rows; where the set is complete, rows of the same parent that are not members
  are marked deleted; an older set than the newest complete one applied for this parent changes nothing. Where
  the table has no parent, a complete set has no members either: all rows of an older version are deleted, and
  such rows are deleted as they come where the table has the column `relay.records.WHOLE`.
* Each key occurs once in a batch (`worker.batching` sees to it); where `keeps_deleted`, once as a row and once as
  a `gone`; and a parent may occur with several sets where a newer one is incomplete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from relay.buffer.looking import Column
from relay.errors import Permanent

STORED: Final = "stored"
SUPERSEDED: Final = "superseded"


class Rejected(msgspec.Struct, frozen=True):
    """The destination will never take this record; `reason` holds its own words, without secrets."""

    reason: str


#: What became of one record: `STORED`, `SUPERSEDED` or `Rejected`.
Verdict = str | Rejected


class Limits(msgspec.Struct, frozen=True):
    """What one call of `deliver` may carry.

    Args:
        records: rows in a batch; the members of a set count each, and a larger set goes alone.
        body_bytes: bytes of its JSON form, None where nothing limits them.
        concurrency: calls that may run at once, from threads of one process.
    """

    records: int
    body_bytes: int | None = None
    concurrency: int = 1


class TableSpec(msgspec.Struct, frozen=True):
    """A destination's view of a table.

    Args:
        name: the full name, `<source>_<table>`.
        key: columns that identify a row. parent: the first of them that name a set's parent, else empty.
        columns: declared columns, name to `relay.records.Type` value; others come as they come.
    """

    name: str
    key: tuple[str, ...]
    parent: tuple[str, ...]
    columns: dict[str, str]


class Item(msgspec.Struct):
    """One record on its way: `relay.records.Record` with everything that a row carries besides.

    Args:
        op, data, members, complete: as in `Record`.
        version: the full version, 57 digits.
        key: the row's (or the parent's) identity as text.
        event: arrival number of its event, 16 digits. position: its place among the event's records.
        source: the configured source's name. test: the vendor calls it a test.
        size: bytes of its JSON form, roughly.
    """

    op: str
    data: dict[str, Any]
    members: list[dict[str, Any]] | None
    complete: bool
    version: str
    key: str
    event: str
    position: int
    source: str
    test: bool
    size: int

    @property
    def rows(self) -> int:
        """How many rows it counts for against `Limits.records`."""
        return 1 if self.members is None else max(1, len(self.members))


class Batch(msgspec.Struct, frozen=True):
    """Records of one table, within the destination's limits."""

    table: TableSpec
    items: Sequence[Item]


class TableInfo(msgspec.Struct, frozen=True):
    """What `relay tables` shows of one table: live rows, deleted ones, the newest receipt (UTC, ISO 8601).

    Its name is as it was given; `at` is what it is called at the destination.
    """

    name: str
    at: str
    rows: int
    deleted: int
    last_received_at: str | None
    columns: dict[str, str]


class Change(msgspec.Struct, frozen=True):
    """A row that a batch would make, or make different.

    Args:
        op: `inserted` or `changed`. table: the full name.
        key: the row's key columns, as the destination holds them.
        fields: column to what it holds before and after, where they differ.
    """

    op: str
    table: str
    key: dict[str, Any]
    fields: dict[str, tuple[Any, Any]]


class Preview(msgspec.Struct, frozen=True):
    """What a batch would do.

    Args:
        changes: rows that would be other than they are; a row that would only be noted as received again is not.
        ignored: how many of the rows that the batch is about would stay as they are.
        verdicts: as `deliver` would return them.
    """

    changes: list[Change]
    ignored: int
    verdicts: list[Verdict]


#: Cells of one row: text, numbers (`Decimal` where they are not whole), booleans and None; moments are text as
#: `2026-11-21T04:03:09.123456Z`, JSON is its text.
Cells = tuple[Any, ...]


class Found(msgspec.Struct, frozen=True):
    """What reading gives: names of columns, and rows, read as they are asked for and no later than the reader."""

    columns: list[str]
    rows: Iterator[Cells]


class Form(msgspec.Struct, frozen=True):
    """How a table is spoken of in its destination's SQL.

    Args:
        at: its name, quoted. columns: the relay's, as they are there. key: SQL names of its primary key.
        literal: a key column's value, by the column's kind and as text; None where no row can have it.
    """

    at: str
    columns: list[Column]
    key: list[str]
    literal: Callable[[str, str], str | None]


class Reader(ABC):
    """A destination opened for reading alone: nothing can be changed through it, and no table is held in memory.

    All of it may raise a `DeliveryError`, rows while they are read, too: `Transient` where it may succeed later;
    `Permanent` of reason `no_table`, `too_slow` (the time given was over) or `query` (the destination's words).

    Args:
        settings, data_dir: as the destination's.
    """

    def __init__(self, settings: Any, data_dir: Path) -> None:
        self.settings, self.data_dir = settings, data_dir

    @abstractmethod
    def names(self) -> list[str]:
        """Full names of the relay's tables here, sorted."""

    @abstractmethod
    def columns(self, table: str) -> list[str]:
        """SQL names of a table's columns that hold what was sent; the relay's own are left out."""

    @abstractmethod
    def rows(self, table: str, seconds: float) -> Found:
        """The live rows of a table as they are at one moment, in no certain order."""

    @abstractmethod
    def form(self, table: str) -> Form:
        """How a table is spoken of in `query`."""

    @abstractmethod
    def query(self, sql: str, seconds: float) -> Found:
        """What one statement gives, in the destination's own SQL."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Settings(BaseModel):
    """What every destination's block in `relay.yaml` may say."""

    # A value may be a secret, so that no error may repeat it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    #: Settings that no two destinations of a kind may have alike, the last of them named; empty where they may.
    alone: ClassVar[tuple[str, ...]] = ()

    kind: str = Field(description="Which of these it is.")
    lanes: int = Field(1, description="Drains that work for it at once, each on rows of its own.")


class Destination(ABC):
    """One configured destination, opened in the process that delivers to it.

    Args:
        name: its name in `relay.yaml`.
        settings: an instance of the class's own `Settings`.
        data_dir: the folder under which relative paths lie.
    """

    Settings: ClassVar[type[Settings]]
    #: Newer-wins and sets are settled inside the destination itself. Where not, `worker.delivery` puts a version
    #: fence in Redis before it, and it is handed only rows and tombstones that are to be written, never sets.
    conditional: ClassVar[bool] = True
    #: A row that is sent again is the same row; where not, it would be another one.
    repeatable: ClassVar[bool] = True
    #: Tombstones are handed to it with what the row last held, kept in the fence.
    marks: bool = False
    #: What a deleted row last held stays readable here.
    keeps_deleted: ClassVar[bool] = False
    #: How it is read, where it can be.
    reads: ClassVar[type[Reader] | None] = None
    limits: Limits

    def __init__(self, name: str, settings: Any, data_dir: Path) -> None:
        self.name, self.settings, self.data_dir = name, settings, data_dir

    @abstractmethod
    def deliver(self, batch: Batch) -> list[Verdict]:
        """Apply a batch; a verdict for each of its items, in order, once it is committed and synced."""

    @abstractmethod
    def ping(self) -> None:
        """Raise a `DeliveryError` where the destination would not take a batch now."""

    def preview(self, batch: Batch) -> Preview:  # noqa: ARG002 - for those that can
        """What `deliver` would make of a batch; nothing is stored.

        Raises:
            DeliveryError: as `deliver`; `Permanent` of reason `no_preview` where a destination cannot tell.
        """
        raise Permanent(
            f"destination {self.name} (kind {self.settings.kind}) cannot be read back, so it cannot tell what "
            "would change",
            reason="no_preview",
        )

    def forget(self, batches: Sequence[Batch]) -> int:  # noqa: ARG002 - for those that can
        """Empty rows for good: their keys stay, as tombstones that win over all that was received so far.

        Args:
            batches: one a table, each of one item: `full_gone` with the key alone is that row, an empty complete
                set all rows of that parent. Its version is raised where the rows hold a newer one. A table or row
                that is not here is left out.

        Returns:
            how many rows are empty now.

        Raises:
            DeliveryError: as `deliver`; `Permanent` of reason `no_forget` where a destination cannot. One that is
                not `conditional` need not: blank rows are delivered to it, and noted in its fence.
        """
        raise Permanent(
            f"destination {self.name} (kind {self.settings.kind}) cannot erase rows: do it there",
            reason="no_forget",
        )

    def tables(self) -> list[TableInfo]:
        """The tables that the relay made here; empty where a destination cannot be read."""
        return []

    def reader(self) -> Reader:
        """A connection of its own for reading; batches may be delivered meanwhile.

        Raises:
            Permanent: of reason `no_export`: it cannot be read.
        """
        if self.reads is None:
            raise Permanent(
                f"destination {self.name} (kind {self.settings.kind}) cannot be read back", reason="no_export"
            )
        return self.reads(self.settings, self.data_dir)

    def close(self) -> None:  # noqa: B027 - nothing to close is the common case
        """Let go of connections; the object is not used again."""
