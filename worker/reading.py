"""From claimed blobs to items by table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import zstandard

from relay.buffer.lanes import Claimed
from relay.records import (
    Codec,
    Packed,
    Record,
    decode_json,
    encode_json,
    full_version,
    key_of,
    lane_columns,
    partition_of,
    records_of,
)
from relay.telemetry import logger
from worker.destination import Item, TableSpec

log = logger("reading")
_EXACT_SIZE_FROM: Final = 65_536
#: What a damaged body, or a declaration that is gone, ends in: it must not stop the events beside it.
_UNREADABLE: Final = (
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
    zstandard.ZstdError,
)


class Work(msgspec.Struct):
    """A claim, taken apart.

    Args:
        tables: what each record's table is. items: by table. claimed: as they came.
        unread: arrivals of events that could not be read; they wait, and are looked at again.
        traces: by arrival, the span in which an event came, where anything is traced.
    """

    tables: dict[str, TableSpec]
    items: dict[str, list[Item]]
    claimed: Sequence[Claimed]
    unread: set[str]
    traces: dict[str, str] = {}

    def blame(self, one: Claimed, error: Exception) -> None:
        """Set an event aside."""
        log.error("event_unreadable", event_id=one.arrival, source=one.source, error=repr(error)[:500])
        self.unread.add(one.arrival)


class Reader:
    """Turns claimed blobs into items; remembers declarations of tables by their content address.

    Args:
        declared: declarations of tables by schema id.
        partition, partitions: which share of the keys is ours.
    """

    def __init__(
        self, declared: Callable[[list[str]], Mapping[str, bytes]], partition: int = 0, partitions: int = 1
    ) -> None:
        self._declared, self._codec = declared, Codec()
        self._partition, self._partitions = partition, partitions
        self._known: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]] = {}

    def read(self, claimed: Sequence[Claimed]) -> Work:
        """Unpack a claim."""
        work = Work({}, {}, claimed, set())
        packed = []
        for one in claimed:
            try:
                packed.append((one, self._codec.unpack(one.blob)))
            except _UNREADABLE as error:
                work.blame(one, error if one.blob else LookupError("neither the buffer nor the archive has it"))
        self._learn({id_ for _, p in packed for id_ in p.meta.schemas.values()})
        for one, event in packed:
            try:
                items = list(self._items(one, event, work.tables))
            except _UNREADABLE as error:
                work.blame(one, error)
                continue
            for table, item in items:
                work.items.setdefault(table, []).append(item)
            if event.meta.trace:
                work.traces[one.arrival] = event.meta.trace
        return work

    def _items(self, one: Claimed, event: Packed, tables: dict[str, TableSpec]) -> Iterator[tuple[str, Item]]:
        rough = len(event.rows)
        for position, record in enumerate(records_of(event)):
            if one.left is not None and position not in one.left:
                continue
            spec = tables.get(record.table)
            if spec is None:
                spec = tables[record.table] = self._spec(record.table, event.meta.schemas[record.table])
            if self._partitions == 1 or self._ours(record, spec):
                yield record.table, self._item(one, record, position, spec, rough, test=event.meta.test)

    def _ours(self, record: Record, spec: TableSpec) -> bool:
        key = key_of(record.data, lane_columns(spec.key, spec.parent, spec.columns))
        return partition_of(record.table, key, self._partitions) == self._partition

    def _item(
        self, one: Claimed, record: Record, position: int, spec: TableSpec, rough: int, *, test: bool
    ) -> Item:
        key = key_of(record.data, spec.parent if record.members is not None else spec.key)
        return Item(
            op=record.op,
            data=record.data,
            members=record.members,
            complete=record.complete,
            version=full_version(record.version, one.arrival),
            key=key,
            event=one.arrival,
            position=position,
            source=one.source,
            test=test,
            size=rough if rough < _EXACT_SIZE_FROM else len(encode_json(record)),
        )

    def _spec(self, name: str, schema_id: str) -> TableSpec:
        key, parent, columns = self._known[schema_id]
        return TableSpec(name, key, parent, columns)

    def _learn(self, ids: Iterable[str]) -> None:
        unknown = [i for i in ids if i not in self._known]
        for id_, text in self._declared(unknown).items():
            key, parent, columns = decode_json(text)
            self._known[id_] = (tuple(key), tuple(parent), columns)
