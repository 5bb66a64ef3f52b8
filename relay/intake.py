"""The front half: from a vendor's request to what the buffer is offered. No Flask, no I/O, no clock."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from relay import sharing, tracing
from relay.bodies import decode_body as decode_body  # noqa: PLC0414 - for those who map later
from relay.bodies import inflate, unread_without_cards, without_cards
from relay.buffer.accept import Delivery, Offer, digest_of
from relay.buffer.keys import lane_name
from relay.configured import Source
from relay.errors import (
    IntakeError,
    MalformedPayload,
    MappingFailed,
    SecretMissing,
    Unauthenticated,
    UnsupportedMedia,
)
from relay.kinds import SOURCES as SOURCES  # noqa: PLC0414 - for those who list the kinds
from relay.kinds import vendor_of as vendor_of  # noqa: PLC0414 - for those who have no source
from relay.records import Codec, Event, Meta, Record, Request, Table, encode_json, key_text, partition_of
from relay.redaction import Redaction
from relay.source import Reply


class Accepted(msgspec.Struct, frozen=True):
    """A delivery ready for the buffer, and how many rows it becomes."""

    delivery: Delivery
    rows: int
    faults: tuple[str, ...]  # why events of it are quarantined
    events: tuple[Event, ...] = ()
    secret: int = 0  # which of the source's secrets it fits, counted from 1


def handshake(source: Source, request: Request) -> Reply | None:
    """The vendor's challenge answered, or None where the request is no challenge."""
    if source.vendor.handshake is None:
        return None
    return source.vendor.handshake(request, source.secrets, source.settings)


def webhook(source: Source, request: Request, now: int, codec: Codec, *, limit: int) -> Accepted:
    """Verify, read, map and pack one delivery.

    Args:
        source: whose URL was called.
        request: as it came.
        now: ns since 1970.
        codec: of this thread.
        limit: bytes that a body may have once inflated.

    Raises:
        SecretMissing, Unauthenticated, TooLarge, UnsupportedMedia: refused. What cannot be read or mapped is in
            the answer, quarantined.
    """
    if not source.secrets:
        raise SecretMissing(f"source {source.name} has no secret yet")
    request = verified(source, request, now, limit)
    data: Any = None
    clean = source.vendor.scrub is None and source.redaction is None
    try:
        data, as_sent = cleaned(source, request)
        clean = clean and as_sent
        events = events_of(source, request, data)
    except MalformedPayload as error:
        raw = _unread_body(source, request, data, clean=clean)
        offer = _quarantine(source, _unread(source, request), request, raw, codec, error)
        return Accepted(Delivery(source.name, (offer,), {}), 0, (str(error),), secret=request.secret)
    whole = len(events) == 1 and clean and events[0].data is data
    offers, rows, faults = [], 0, []
    for event in events:
        raw = request.body if whole else _kept(source, event)
        try:
            records = records_of(source, event)
        except MappingFailed as error:
            offers.append(_quarantine(source, event, request, raw, codec, error))
            faults.append(str(error))
            continue
        rows += sum(1 if r.members is None else len(r.members) for r in records)
        offers.append(_offer(source, event, request, raw, codec, records))
    delivery = Delivery(source.name, tuple(offers), source.schemas)
    return Accepted(delivery, rows, tuple(faults), tuple(events), request.secret)


def cleaned(source: Source, request: Request) -> tuple[Any, bool]:
    """A decoded body without cards, secrets and what rules name; and whether it held no card.

    Raises:
        MalformedPayload: it cannot be decoded.
    """
    decoded = data = decode_body(request, forms=source.vendor.forms)
    if source.mask_cards:
        data = without_cards(request, decoded)
    as_sent = data is decoded
    if source.vendor.scrub is not None:
        data = source.vendor.scrub(data)
    if source.redaction is not None:
        data = source.redaction.body(data)
    return data, as_sent


def events_of(source: Source, request: Request, data: Any) -> list[Event]:
    """The events of a cleaned body.

    Raises:
        MalformedPayload: it is not of the vendor's shape.
    """
    events, rules = source.vendor.live(request, data), source.redaction
    if not source.vendor.forms or rules is None:
        return events
    # Some forms hold JSON, which is read only here.
    return [msgspec.structs.replace(event, data=rules.body(event.data)) for event in events]


def _kept(source: Source, event: Event) -> bytes:
    return encode_json(event.data if source.redaction is None else source.redaction.kept(event.data))


def _unread_body(source: Source, request: Request, data: Any, *, clean: bool) -> bytes:
    """What may be kept of a body that is not of the vendor's shape.

    Args:
        source: whose it is.
        request: as verified.
        data: the body decoded, without its secrets; None where it could not even be decoded.
        clean: that is all of it.
    """
    if source.redaction is not None or (source.vendor.scrub is not None and data is None):
        return Redaction.unread(request.body)
    if data is None and source.mask_cards:
        return unread_without_cards(request)
    return request.body if clean else encode_json(data)


def _unread(source: Source, request: Request) -> Event:
    """What can be said of a delivery whose body cannot be read: what its headers say."""
    kept = {name: request.headers[name] for name in source.vendor.keep_headers if name in request.headers}
    type_ = source.vendor.type(request, None)
    return Event(type_ if isinstance(type_, str) else "", None, headers=kept, dedup="content")


def verified(source: Source, request: Request, now: int, limit: int) -> Request:
    """The request with its body inflated, once a secret fits what came over the wire (or what it inflates to)."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return msgspec.structs.replace(request, secret=_fitting(source, request, now))
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedMedia(f"content-encoding {encoding[:40]!r}", reason="unsupported_encoding")
    plain = msgspec.structs.replace(request, body=inflate(request.body, limit))
    try:
        fits = _fitting(source, request, now)
    except Unauthenticated:
        fits = _fitting(source, plain, now)
    return msgspec.structs.replace(plain, secret=fits)


def _fitting(source: Source, request: Request, now: int) -> int:
    """Verify a request; which of the source's secrets fits, counted from 1, or 0 where no single one does."""
    if len(source.secrets) > 1:  # while secrets rotate
        for number, secret in enumerate(source.secrets, 1):
            with contextlib.suppress(Unauthenticated):
                source.verifier.verify(request, (secret,), now)
                return number
    source.verifier.verify(request, source.secrets, now)
    return 1 if len(source.secrets) == 1 else 0


def records_of(source: Source, event: Event) -> list[Record]:
    """An event's records under their full table names; none where its type is not mapped.

    Raises:
        MappingFailed: the mapper could not make sense of the event; says of which field.
    """
    mapper = source.vendor.mapper(event.type)
    if mapper is None or (event.test and source.drop_tests):
        return []
    try:
        return [_named(source, record) for record in mapper(event)]
    except MappingFailed:
        raise
    except Exception as error:  # a vendor's surprise or our bug: kept, and told to the operator
        raise MappingFailed(f"{source.kind} {event.type or 'event'}: {_in_words(error)}") from error


def _named(source: Source, record: Record) -> Record:
    name, table = source.tables[record.table]
    if source.shares:
        record = sharing.owned(record, source.name)
    _check_key(record.data, table.parent if record.members is not None else table.key, record.table)
    for member in record.members or ():
        _check_key(member, table.key, record.table)
    named = Record(name, record.op, record.version, record.data, record.members, record.complete)
    return named if source.redaction is None else source.redaction.record(named)


def _check_key(row: dict[str, Any], key: tuple[str, ...], table: str) -> None:
    for column in key:
        if row.get(column) is None:
            raise MappingFailed(f"a row of {table} has no {column}, which is its key", reason="key_missing")


def _in_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    return f"{type(error).__name__}: {error}"[:300]


def _offer(
    source: Source, event: Event, request: Request, raw: bytes, codec: Codec, records: list[Record]
) -> Offer:
    digest, window = _identity(source, event, raw)
    counts: Counter[str] = Counter({f"e|{source.name}|accepted": 1})
    if not records:
        counts[f"e|{source.name}|ignored"] = 1
        return Offer(digest, window, b"", False, (), counts, event.type)  # noqa: FBT003 - see Offer
    if waits(source, event):
        counts[f"e|{source.name}|waiting"] = 1
        meta = _meta(source, event, request, raw, {})
        return Offer(digest, window, codec.pack(meta, raw, []), False, (), counts, event.type, waits=True)  # noqa: FBT003 - see Offer
    counts[f"e|{source.name}|mapped"] = 1
    counts.update(emitted(source, records, source.to))
    meta = _meta(source, event, request, raw, schemas_of(source, records))
    blob = codec.pack(meta, raw, records)
    return Offer(digest, window, blob, False, lanes_of(source, records, source.to), counts, event.type)  # noqa: FBT003 - see Offer


def waits(source: Source, event: Event) -> bool:
    """Whether what an event names is to be fetched before it is mapped."""
    needed = source.vendor.hydration(event.type) if source.vendor.hydrations else None
    return needed is not None and bool(source.settings.get(needed.token)) and isinstance(event.data, dict)


def _quarantine(
    source: Source, event: Event, request: Request, raw: bytes, codec: Codec, error: IntakeError
) -> Offer:
    digest, window = _identity(source, event, raw)
    counts = {f"e|{source.name}|accepted": 1, f"e|{source.name}|quarantined": 1}
    meta = msgspec.structs.replace(_meta(source, event, request, raw, {}), fault=f"{error.reason}: {error}")
    return Offer(digest, window, codec.pack(meta, raw, []), True, source.archive, counts, event.type)  # noqa: FBT003 - see Offer


def _identity(source: Source, event: Event, raw: bytes) -> tuple[str, str]:
    if event.dedup == "never":
        return "", ""
    if event.dedup == "id" and event.id:
        return digest_of(source.name, event.type, event.id.encode()), "id"
    return digest_of(source.name, event.type, raw), "content"


def _meta(source: Source, event: Event, request: Request, raw: bytes, schemas: dict[str, str]) -> Meta:
    headers = dict(event.headers)
    # One of several events of a delivery is kept as JSON, whatever the delivery was.
    kind = request.headers.get("content-type") if raw is request.body else None
    headers["content-type"] = kind or "application/json"
    to = tuple(source.to)
    return Meta(
        source.name, source.kind, event.type, event.id, event.at, headers, event.test, schemas, to=to,
        trace=tracing.current(), secret=request.secret,
    )  # fmt: skip


def schemas_of(source: Source, records: Iterable[Record]) -> dict[str, str]:
    """Table to schema id, of the tables that records use."""
    used = {record.table for record in records}
    return {full: table.schema_id for full, table in source.declared.items() if full in used}


class Named(Protocol):
    """Whatever has a name on the ledger."""

    @property
    def name(self) -> str:
        """As the ledger calls it."""


def emitted(source: Named, records: Iterable[Record], destinations: Iterable[str]) -> dict[str, int]:
    """Ledger fields of records that are given to destinations."""
    counts: Counter[str] = Counter()
    for record in records:
        for destination in destinations:
            counts[f"r|{source.name}|{destination}|{record.table}|emitted"] += 1
            counts[f"r|{source.name}|{destination}|{record.table}|pending"] += 1
    return counts


def lanes_of(source: Source, records: Iterable[Record], destinations: Iterable[str]) -> tuple[str, ...]:
    """The lanes that records go to, and the archive's."""
    lanes = dict.fromkeys(source.archive)
    for destination in destinations:
        partitions = source.to[destination]
        if partitions == 1:
            lanes[lane_name(destination, 0, 1)] = None
            continue
        for record in records:
            table = _table(source, record.table)
            # Rows of a child table go with their parent: one lane decides on them and on its sets.
            key = key_text(record, table.parent or table.key)
            partition = partition_of(record.table, key, partitions)
            lanes[lane_name(destination, partition, partitions)] = None
    return tuple(lanes)


def _table(source: Source, full: str) -> Table:
    return source.declared[full]
