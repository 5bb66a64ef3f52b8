"""The nouns: tables, requests, events, records, versions, and the bytes in which they wait.

Nothing here does I/O or reads a clock. JSON is lossless in both directions: decimals are `Decimal`, integers
have any size, and a float never stands on the way.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import zlib
from collections.abc import Container, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import msgspec
import zstandard

from relay.errors import MalformedPayload

NS: Final = 1_000_000_000
#: Digits of a version: nanoseconds, vendor sequence (fits a 64-bit integer), state rank, arrival number.
TIME_DIGITS, SEQUENCE_DIGITS, RANK_DIGITS, ARRIVAL_DIGITS = 20, 19, 2, 16
#: A table with this column comes in versions of the whole: a set without a parent deletes what older ones left.
WHOLE: Final = "_sdc_table_version"
#: The time part of a version whose table has no vendor clock; the arrival number takes its place.
BY_RECEIPT: Final = "-" * TIME_DIGITS
#: Nested deeper than this a body is refused by name: recursive readers downstream have their own limits.
MAX_DEPTH: Final = 200


class Type(StrEnum):
    """What a declared column holds; each destination words it in its own types."""

    ID = "id"  # text, whatever the vendor sends: for ids that come as strings here and numbers there
    TEXT = "text"
    INT = "int"
    NUMBER = "number"
    MONEY = "money"
    INSTANT = "instant"  # a moment: ISO 8601, or epoch seconds, milliseconds as a number
    BOOL = "bool"
    JSON = "json"


class Table(msgspec.Struct, frozen=True, dict=True):
    """One table as its vendor file declares it.

    Args:
        name: short name; rows go to `<source>_<name>`.
        key: the columns that identify a row, present in each row.
        clock: the one clock of its versions, in words, for people.
        columns: declared columns and types; others are created as they come, typed by what they hold.
        parent: for children that come as whole sets: the first columns of `key`, the parent's identity.
    """

    name: str
    key: tuple[str, ...]
    clock: str = "the delivery's receipt"
    columns: Mapping[str, Type] = {}
    parent: tuple[str, ...] = ()

    @cached_property
    def declaration(self) -> bytes:
        """What the delivering half must know of this table, as JSON."""
        return msgspec.json.encode([self.key, self.parent, {c: str(t) for c, t in self.columns.items()}])

    @cached_property
    def schema_id(self) -> str:
        """Content address of the declaration: equal declarations share one, a changed one gets another."""
        return hashlib.blake2b(self.declaration, digest_size=9).hexdigest()

    def row(
        self, data: dict[str, Any], *, at: int | None = None, sequence: int = 0, rank: int = 0, gone: bool = False
    ) -> Record:
        """One whole row, the key columns included.

        Args:
            data: column name to JSON value; nested values become JSON columns.
            at: nanoseconds of the vendor's time for this object; None for the receipt's.
            sequence: the vendor's own counter, where it has one; orders equal times.
            rank: state rank; orders equal times and sequences (later states are higher).
            gone: the vendor says with the whole object that it is deleted.
        """
        return Record(self.name, "full_gone" if gone else "row", version_prefix(at, sequence, rank), data)

    def gone(self, key: dict[str, Any], *, at: int | None = None, sequence: int = 0, rank: int = 99) -> Record:
        """A tombstone: the row with this key is deleted; what it last held is kept where it can be."""
        return Record(self.name, "gone", version_prefix(at, sequence, rank), key)

    def children(
        self,
        parent: dict[str, Any],
        members: Iterable[dict[str, Any]],
        *,
        at: int | None = None,
        sequence: int = 0,
        rank: int = 0,
        complete: bool = True,
    ) -> Record:
        """All children of one parent, as one record that is never split.

        Members need not repeat the parent's columns. An incomplete set (the vendor sent only the first ones)
        deletes nothing; an empty complete set deletes all.
        """
        rows = [{**member, **parent} for member in members]
        return Record(self.name, "set", version_prefix(at, sequence, rank), parent, rows, complete)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A row-to-be, a tombstone, or a set.

    `op` is `row` (whole row), `gone` (tombstone, key columns only), `full_gone` (whole row, deleted) or `set`
    (`data` is the parent's key, `members` are whole rows). `version` lacks the arrival number, which the put
    script gives: see `full_version`.
    """

    table: str
    op: str
    version: str
    data: dict[str, Any]
    members: list[dict[str, Any]] | None = None
    complete: bool = True


class Request(msgspec.Struct, frozen=True):
    """One HTTP request as a vendor sent it; header names are lower case, the body is raw bytes.

    `url` is the address that the vendor was given, with the query; `secret` the number of that which fits, from 1.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = {}
    secret: int = 0


class Event(msgspec.Struct, frozen=True):
    """One verified delivery after its envelope is read.

    Args:
        type: the vendor's name of what happened.
        data: the decoded body, or one item of it where a delivery carries several.
        id: the vendor's delivery id, empty where it has none.
        at: nanoseconds of the vendor's time for the event, None where it says none.
        headers: request headers that say something of the data (never signatures), lower case.
        test: the vendor calls it a test.
        dedup: `id` (window in days), `content` (no id: by body, for minutes) or `never`.
    """

    type: str
    data: Any
    id: str = ""
    at: int | None = None
    headers: Mapping[str, str] = {}
    test: bool = False
    dedup: str = "id"


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of an event beside its raw bytes and its records."""

    source: str
    kind: str
    type: str
    delivery_id: str = ""
    at: int | None = None
    headers: dict[str, str] = {}
    test: bool = False
    schemas: dict[str, str] = {}  # table -> schema id
    fault: str = ""  # why it is quarantined
    to: tuple[str, ...] = ()  # destinations that its records were given to
    trace: str = ""  # the span in which it came, where anything is traced (`relay.tracing`)
    secret: int = 0  # which of the source's secrets it fitted, counted from 1; 0: not known


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """An event as it waits in Redis: meta, raw bytes, records as JSON."""

    meta: Meta
    raw: bytes
    rows: bytes


def version_prefix(at: int | None, sequence: int = 0, rank: int = 0) -> str:
    """The part of a version that the vendor decides: 41 characters.

    What lies outside its digits counts as their end, so that `9999-12-31` does not break the order.
    """
    time = BY_RECEIPT if at is None else f"{_within(at, TIME_DIGITS):020d}"
    return f"{time}{_within(sequence, SEQUENCE_DIGITS):019d}{_within(rank, RANK_DIGITS):02d}"


_LARGEST: Final = {digits: int("9" * digits) for digits in (TIME_DIGITS, SEQUENCE_DIGITS, RANK_DIGITS)}


def _within(number: int, digits: int) -> int:
    return min(max(number, 0), _LARGEST[digits])


def full_version(prefix: str, arrival: str) -> str:
    """The total order of a row's changes: 57 digits, compared bytewise.

    Args:
        prefix: of `version_prefix`.
        arrival: the event's arrival number, 16 digits, microseconds that only ever grow (see put.lua).
    """
    if prefix.startswith("-"):
        return f"{arrival:0>17}000{prefix[TIME_DIGITS:]}{arrival}"
    return prefix + arrival


def version_instant(version: str) -> dt.datetime:
    """The time part of a full version as a UTC moment; what `_relay_deleted_at` says."""
    return instant_of_ns(int(version[:TIME_DIGITS]))


def arrival_instant(arrival: str) -> dt.datetime:
    """The moment at which the put script took an event; what `_relay_received_at` says."""
    return instant_of_ns(int(arrival) * 1000)


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FIRST: Final = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
_LAST: Final = dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)


def instant_of_ns(ns: int) -> dt.datetime:
    """Nanoseconds since 1970 as a UTC moment, cut to microseconds; the calendar's ends where it is outside."""
    try:
        return _EPOCH + dt.timedelta(microseconds=ns // 1000)
    except OverflowError:
        return _LAST if ns > 0 else _FIRST


_FRACTION: Final = re.compile(r"\.(\d+)")
# Possessive: a long run of digits with something behind it would else be tried at every split.
_DIGITS: Final = re.compile(r"-?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)")


def instant_ns(value: Any) -> int | None:
    """A vendor's time as nanoseconds since 1970 UTC, or None where it cannot be read as one.

    Takes ISO 8601 (no offset means UTC), and epoch seconds, milliseconds, microseconds or nanoseconds as a
    number or a string of digits, told apart by size.
    """
    if isinstance(value, str):
        text = value.strip()
        if _DIGITS.fullmatch(text) and not text.startswith("00"):
            return _epoch_ns(Decimal(text))
        return _iso_ns(text)
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return None
    return _epoch_ns(Decimal(value))


def _epoch_ns(number: Decimal) -> int | None:
    size = number.copy_abs()  # abs() would round, and overflow for 1e9999999
    if not size.is_finite() or size >= Decimal(10) ** 20:
        return None
    for bound, scale in ((10**11, NS), (10**14, 1_000_000), (10**17, 1_000)):
        if size < bound:
            return int(number * scale)
    return int(number)


def _iso_ns(text: str) -> int | None:
    fraction = _FRACTION.search(text)
    extra = 0
    if fraction and len(fraction[1]) > 6:  # noqa: PLR2004 - datetime keeps six digits, vendors send nine
        extra = int(fraction[1][:9].ljust(9, "0")) % 1000
        text = f"{text[: fraction.start(1) + 6]}{text[fraction.end(1) :]}"
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    delta = moment - _EPOCH
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000 + extra


# --- JSON, lossless -----------------------------------------------------------------------------------

_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")
_records_decoder: Final = msgspec.json.Decoder(list[Record], float_hook=Decimal)


def decode_json(body: bytes) -> Any:
    """JSON bytes as Python values, without loss.

    Raises:
        MalformedPayload: not JSON, not UTF-8, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedPayload(f"the body is not JSON: {error}", reason="not_json") from None
    except ArithmeticError:
        raise MalformedPayload("the body has a number that no decimal can hold", reason="not_json") from None
    except RecursionError:
        raise MalformedPayload("the body is nested too deep", reason="too_deep") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
        raise MalformedPayload(f"the body is nested deeper than {MAX_DEPTH}", reason="too_deep")
    return value


def depth_of(value: Any) -> int:
    """How deep a decoded value is nested; a scalar is 0."""
    depth, level = 0, [value] if isinstance(value, (dict, list)) else []
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = [i for i in inner if isinstance(i, (dict, list))]
        depth += 1
    return depth


def encode_json(value: Any) -> bytes:
    """Python values as JSON bytes; a `Decimal` is written as the number that it was."""
    return _encoder.encode(value)


def key_text(record: Record, key: tuple[str, ...]) -> str:
    """A record's identity as text, see `key_of`."""
    return key_of(record.data, key)


def key_of(row: Mapping[str, Any], key: tuple[str, ...]) -> str:
    """A row's identity as text: JSON of its key values, numbers and strings of the same digits alike."""
    return _encoder.encode([_key_scalar(row.get(column)) for column in key]).decode()


def lane_columns(key: tuple[str, ...], parent: tuple[str, ...], columns: Container[str]) -> tuple[str, ...]:
    """The columns by which a table's records are shared out among lanes.

    Rows of a child table go with their parent, so that one lane decides on them and on its sets; and a table that
    comes in versions of the whole goes into one lane.
    """
    return () if WHOLE in columns else parent or key


def lane_key(declaration: bytes, record: Record) -> str:
    """What a record's lane is chosen by, from its table's declaration (`Table.declaration`)."""
    key, parent, columns = _decoder.decode(declaration)
    return key_of(record.data, lane_columns(tuple(key), tuple(parent), columns))


def partition_of(table: str, key: str, partitions: int) -> int:
    """Which of a destination's lanes serves a row; a set goes by its parent's key."""
    return zlib.crc32(f"{table}|{key}".encode()) % partitions


def _key_scalar(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return _encoder.encode(value).decode()


# --- the bytes in which an event waits ----------------------------------------------------------------

_pack: Final = msgspec.msgpack.Encoder()
_unpack: Final = msgspec.msgpack.Decoder(Packed)
_ZSTD_LEVEL: Final = 1
_MSGPACK_INT: Final = 2**63


class Codec:
    """Packs events; one instance a thread, since a zstd context must not be shared.

    Raw bytes and records are compressed together: records repeat what the body said (see `bench/accept`).
    """

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self._decompress = zstandard.ZstdDecompressor()

    def pack(self, meta: Meta, raw: bytes, records: list[Record]) -> bytes:
        """An event with its records as one blob; a time that msgpack cannot hold counts as its last."""
        if meta.at is not None and not -_MSGPACK_INT <= meta.at < _MSGPACK_INT:
            meta = msgspec.structs.replace(meta, at=max(-_MSGPACK_INT, min(meta.at, _MSGPACK_INT - 1)))
        return self._compress.compress(_pack.encode(Packed(meta, raw, _encoder.encode(records))))

    def unpack(self, blob: bytes) -> Packed:
        """The reverse of `pack`; the records stay JSON until `records_of`."""
        return _unpack.decode(self._decompress.decompress(blob))


def records_of(packed: Packed) -> list[Record]:
    """The records of a packed event."""
    return _records_decoder.decode(packed.rows)
