"""What an API's client pushes, on its way to the buffer: the same events, records and lanes as a webhook's.

No Flask, no I/O, no clock.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from relay import cards
from relay.buffer.accept import Delivery, Guard, Offer
from relay.buffer.keys import ARCHIVE, lane_name
from relay.config import Config
from relay.dialect import Pushed, PushRefused
from relay.errors import ConfigInvalid
from relay.intake import Source
from relay.records import Codec, Meta, Record, Table, Type, encode_json, key_of, key_text, partition_of
from relay.redaction import Redaction

#: The key of a row that has none: made up, so that each push of it is another row.
ROW_ID: Final = "_row_id"
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
    client: Client, pushed: Sequence[Pushed], key_id: str, codec: Codec, *, kind: str, cards_in: bool
) -> Delivery:
    """What the buffer is offered, all of it or nothing.

    Args:
        client: who pushes.
        pushed: what.
        key_id: of the API key.
        codec: of this thread.
        kind: the dialect's name.
        cards_in: the body may hold card numbers (`relay.cards.suspected`).

    Raises:
        PushRefused: a table is not the client's to write.
    """
    offers, schemas = [], {}
    for part in pushed:
        table = _declared(client, part)
        schemas[table.schema_id] = table.declaration
        offers.append(_offer(client, table, part, codec, kind, cards_in=cards_in))
    guard = Guard(key_id, "import", client.number, tuple(dict.fromkeys(part.table for part in pushed)))
    return Delivery(client.name, tuple(offers), schemas, guard)


def _declared(client: Client, part: Pushed) -> Table:
    columns = {name: Type(type_) for name, type_ in part.columns.items()}
    return Table(client.table(part.table), key=part.key or (ROW_ID,), columns=columns)


def _offer(client: Client, table: Table, part: Pushed, codec: Codec, kind: str, *, cards_in: bool) -> Offer:
    newest: dict[str, Record] = {}
    for row in part.rows:
        data = row.data if part.key else {ROW_ID: uuid.uuid4().hex, **row.data}
        if cards_in and client.mask_cards:
            data = cards.masked(data)
        make: Any = table.gone if row.gone else table.row
        record: Record = make(data, at=row.sequence)
        if client.redaction is not None:
            record = client.redaction.record(record)
        identity = key_of(record.data, table.key)
        before = newest.pop(identity, None)
        newest[identity] = before if before is not None and before.version > record.version else record
    records = list(newest.values())
    raw = encode_json([record.data for record in records])
    meta = Meta(
        client.name, kind, part.table, headers={"content-type": "application/json"},
        schemas={table.name: table.schema_id}, to=tuple(client.to),
    )  # fmt: skip
    counts: Counter[str] = Counter({f"e|{client.name}|accepted": 1, f"e|{client.name}|mapped": 1})
    for destination in client.to:
        at = f"r|{client.name}|{destination}|{table.name}|"
        counts[at + "emitted"] += len(records)
        counts[at + "pending"] += len(records)
    lanes = _lanes(client, table, records)
    # A push is never a repetition: the same row again is the same row again.
    return Offer("", "", codec.pack(meta, raw, records), False, lanes, counts, part.table)  # noqa: FBT003 - see Offer


def _lanes(client: Client, table: Table, records: Iterable[Record]) -> tuple[str, ...]:
    lanes = dict.fromkeys(client.archive)
    for destination, partitions in client.to.items():
        for record in records:
            key = key_text(record, table.parent or table.key)
            lanes[lane_name(destination, partition_of(table.name, key, partitions), partitions)] = None
    return tuple(lanes)
