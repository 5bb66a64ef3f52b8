"""What an API's client pushes, on its way to the buffer: the same events, records and lanes as a webhook's.

No Flask, no I/O, no clock.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from relay import cards, tracing
from relay.buffer.accept import Delivery, Guard, Offer
from relay.buffer.keys import ARCHIVE, lane_name
from relay.config import Config
from relay.configured import Source
from relay.dialect import Pushed, PushRefused, Row
from relay.errors import ConfigInvalid
from relay.records import (
    Codec,
    Meta,
    Record,
    Table,
    Type,
    encode_json,
    instant_of_ns,
    key_of,
    key_text,
    lane_columns,
    partition_of,
)
from relay.redaction import Redaction

#: The key of a row that has none: made up, so that each push of it is another row.
ROW_ID: Final = "_row_id"
#: Rows of one event, and about how many bytes of them. A drain takes events whole, so that a large push becomes
#: several; and what the body and its rows have in common is compressed away only where it lies this near.
ROWS_OF_EVENT: Final = 500
BYTES_OF_EVENT: Final = 150_000
#: Where rows go that their own table cannot hold, as Stitch calls it.
REJECTED: Final = "_sdc_rejected"
_MOST_MS: Final = 10**13
_LAST: Final = 10**19 - 1
_RANK: Final = 99
_REJECTED_COLUMNS: Final = {
    "_sdc_rejected_at": "instant",
    "table_name": "text",
    "reason": "text",
    "record": "json",
}
#: Before a client's number: no configured source can have such a name.
PREFIX: Final = "client:"


class Client(msgspec.Struct):
    """One API client, as what it pushes is taken.

    Args:
        number: its id in URLs. to: destination -> lanes. prefix: what its tables begin with at the destination.
        owned: names of tables that sources write there. archive: lanes of the archive.
        redaction: of all tables, or None. mask_cards: of free text.
        declared: declarations of tables by schema id, where what was pushed is sent again.
    """

    number: int
    to: dict[str, int]
    prefix: str
    owned: frozenset[str]
    archive: tuple[str, ...]
    redaction: Redaction | None
    mask_cards: bool
    declared: dict[str, bytes] = {}

    @property
    def schemas(self) -> dict[str, bytes]:
        """Declarations that the buffer may not have; it has those of all that was ever pushed."""
        return {}

    @property
    def name(self) -> str:
        """As the ledger calls it."""
        return f"{PREFIX}{self.number}"

    def table(self, name: str) -> str:
        """The full name of a table.

        Raises:
            PushRefused: it is a source's.
        """
        full = self.prefix + name
        if full in self.owned:
            raise PushRefused("invalid table name", f"the table {name!r} belongs to a source of this relay")
        return full


def client_of(
    config: Config,
    sources: Iterable[Source],
    number: int,
    prefix: Callable[[int, Sequence[str]], str],
) -> Client:
    """A client as configured, or as it is by default.

    Args:
        config: settings.
        sources: as configured.
        number: the client's.
        prefix: asked for what its tables begin with, where the settings do not say.

    Raises:
        ConfigInvalid: it is not said where its rows go.
    """
    settings = config.settings
    block = settings.clients.get(number)
    names = block.to if block is not None and block.to else tuple(settings.destinations)
    if (block is None or not block.to) and len(names) != 1:
        known = ", ".join(settings.destinations)
        raise ConfigInvalid(
            f"clients.{number}.to: say which of the destinations client {number} writes to: {known}"
        )
    given = block.prefix if block is not None else None
    owned = frozenset(
        full for source in sources if set(source.to) & set(names) for full, _ in source.tables.values()
    )
    rules = settings.tables
    key = settings.redaction_key.get_secret_value().encode()
    return Client(
        number,
        {name: config.lanes(name) for name in names},
        given if given is not None else prefix(number, names),
        owned,
        (lane_name(ARCHIVE, 0, 1),) if settings.archive_days else (),
        Redaction(None, rules, key) if rules else None,
        settings.mask_cards,
    )


def delivery(
    client: Client,
    pushed: Sequence[Pushed],
    key_id: str,
    codec: Codec,
    *,
    kind: str,
    cards_in: bool,
    now: int = 0,
) -> Delivery:
    """What the buffer is offered, all of it or nothing.

    Args:
        client: who pushes.
        pushed: what.
        key_id: of the API key.
        codec: of this thread.
        kind: the dialect's name.
        cards_in: the body may hold card numbers (`relay.cards.suspected`).
        now: ns since 1970, where rows may be rejected.

    Raises:
        PushRefused: a table is not the client's to write.
    """
    offers, schemas = [], {}
    for part in _held(client, pushed, now):
        table = _declared(client, part)
        schemas[table.schema_id] = table.declaration
        for rows in _in_events(part.rows):
            some = msgspec.structs.replace(part, rows=rows)
            offers.append(_offer(client, table, some, codec, kind, cards_in=cards_in))
        if part.active:  # of none before the first
            offers.append(_packed(client, table, part.table, [_swept(table, part.active)], codec, kind))
    tables = dict.fromkeys(part.table for part in pushed if not part.ours)
    return Delivery(client.name, tuple(offers), schemas, Guard(key_id, "import", client.number, tuple(tables)))


def _in_events(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows, as many in one event as their first one's size allows."""
    at = 0
    while at < len(rows):
        size = len(encode_json(rows[at].data))
        step = min(ROWS_OF_EVENT, max(1, BYTES_OF_EVENT // size))
        yield rows[at : at + step]
        at += step


def _held(client: Client, pushed: Sequence[Pushed], now: int) -> list[Pushed]:
    """What was pushed, with the rows that no table can hold as rows of the table of those."""
    rejected: list[Row] = []
    held: list[Pushed] = []
    for part in pushed:
        full = client.table(part.table)
        held.append(msgspec.structs.replace(part, rows=[row for row in part.rows if not row.rejected]))
        for row in part.rows:
            if row.rejected:
                record = Record(full, "row", "", row.data)
                record = client.redaction.record(record) if client.redaction is not None else record
                at = instant_of_ns(now).isoformat()
                told = {"table_name": part.table, "reason": row.rejected, "record": record.data}
                rejected.append(Row({"_sdc_rejected_at": at, **told}))
    return [*held, Pushed(REJECTED, (), rejected, _REJECTED_COLUMNS, ours=True)] if rejected else held


def _declared(client: Client, part: Pushed) -> Table:
    columns = {name: Type(type_) for name, type_ in part.columns.items()}
    return Table(client.table(part.table), key=part.key or (ROW_ID,), columns=columns)


def _offer(client: Client, table: Table, part: Pushed, codec: Codec, kind: str, *, cards_in: bool) -> Offer:
    newest: dict[str, Record] = {}
    for row in part.rows:
        data = row.data if part.key else {**row.data, ROW_ID: uuid.uuid4().hex}
        if cards_in and client.mask_cards:
            data = cards.masked(data)
        make: Any = table.gone if row.gone else table.row
        at, sequence = (row.sequence, 0) if row.version is None else (_moment(row.version), row.sequence or 0)
        record: Record = make(data, at=at, sequence=sequence)
        if client.redaction is not None:
            record = client.redaction.record(record)
            if any(record.data.get(column) is None for column in table.key):
                raise PushRefused("invalid key", f"this relay's settings drop a key field of {part.table!r}")
        identity = key_of(record.data, table.key)
        before = newest.pop(identity, None)
        newest[identity] = before if before is not None and before.version > record.version else record
    return _packed(client, table, part.table, list(newest.values()), codec, kind)


def _moment(version: int) -> int:
    """A version of a whole table as a time, in the same order; what its clients use are milliseconds."""
    return version * 1_000_000 if version < _MOST_MS else 10**19 + version


def _swept(table: Table, active: int) -> Record:
    """The end of all rows of older versions: nothing of the active one stands before it."""
    return table.children({}, (), at=_moment(active) - 1, sequence=_LAST, rank=_RANK)


def _packed(client: Client, table: Table, name: str, records: list[Record], codec: Codec, kind: str) -> Offer:
    raw = encode_json([record.data for record in records])
    meta = Meta(
        client.name, kind, name, headers={"content-type": "application/json"},
        schemas={table.name: table.schema_id}, to=tuple(client.to), trace=tracing.current(),
    )  # fmt: skip
    counts: Counter[str] = Counter({f"e|{client.name}|accepted": 1, f"e|{client.name}|mapped": 1})
    for destination in client.to:
        at = f"r|{client.name}|{destination}|{table.name}|"
        counts[at + "emitted"] += len(records)
        counts[at + "pending"] += len(records)
    lanes = _lanes(client, table, records)
    # A push is never a repetition: the same row again is the same row again.
    return Offer("", "", codec.pack(meta, raw, records), False, lanes, counts, name)  # noqa: FBT003 - see Offer


def _lanes(client: Client, table: Table, records: Iterable[Record]) -> tuple[str, ...]:
    lanes = dict.fromkeys(client.archive)
    for destination, partitions in client.to.items():
        for record in records:
            key = key_text(record, lane_columns(table.key, table.parent, table.columns))
            lanes[lane_name(destination, partition_of(table.name, key, partitions), partitions)] = None
    return tuple(lanes)
