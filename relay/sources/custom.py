"""Any sender, described in `relay.yaml`: how it signs, how its envelope reads, which rows it becomes.

Expressions are JMESPath (https://jmespath.org/specification.html). `type`, `id`, `at`, `split` and `test` read
`{body, headers, query}`, with `split` also `item`; a table's `when` reads `{type, body, headers, query, item,
data}`; all else in a table reads the row's own object. Headers (lower case) and query values are there only by
name, as in `headers."x-topic"`, and never those that prove the sender; so are, for the `when` of a split
delivery, the plain fields of the body, since each of its events is stored as an item alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from relay.errors import ConfigInvalid, MalformedPayload
from relay.expressions import Expression, Path, Value, whole, yes
from relay.proofs import Proof
from relay.records import Event, Record, Request, Table, Type, decode_json, encode_json, instant_ns
from relay.source import Vendor

#: Rows, set members included, that one event may become; events that one delivery may hold.
MAX_ROWS: Final = 10_000
MAX_EVENTS: Final = 10_000
_DELETED_RANK: Final = 99
_LARGEST_SEQUENCE: Final = 10**19 - 1
_TABLE_NAME: Final = "[a-z][a-z0-9_]{0,49}"
#: Begins what is kept of a query or of a split body among an event's headers; no header's name can begin so.
_MARK: Final = "?"


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("say at least one")
    return value


_Column = Annotated[str, Field(min_length=1, max_length=200)]
_Key = Annotated[tuple[_Column, ...], BeforeValidator(_one_or_many), AfterValidator(_some)]
_TableName = Annotated[str, Field(pattern=f"^{_TABLE_NAME}$")]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Row(_Block):
    key: _Key
    columns: dict[_Column, Value] | None = None
    types: dict[_Column, Type] = {}

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        for name in (*self.key, *self.types, *(self.columns or ())):
            if self.columns is not None and name not in self.columns:
                raise ValueError(f"{name} is not among the columns")
            if name.startswith("_relay"):
                raise ValueError(f"{name} is a name of the relay's own")
        return self

    def declared(self) -> dict[str, Type]:
        casts = {n: Type(c.cast) for n, c in (self.columns or {}).items() if c.cast}
        return casts | self.types

    def read(self, row: Any, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The columns of a row's object, its key among them."""
        if not isinstance(row, dict):
            raise ValueError(f"a row is an object, not {type(row).__name__}")  # noqa: TRY004 - as others here
        if self.columns is None:
            found = {n: v for n, v in row.items() if n not in left_out and not n.startswith("_relay")}
        else:
            found = {name: column.read(name, row) for name, column in self.columns.items()}
        for name in self.key:
            if found.get(name) is None or isinstance(found[name], (dict, list)):
                raise ValueError(f"no value for the key column {name}")
        return found


class _Children(_Row):
    """A list that is a table of its own, as whole sets; `parent`: its column for each of the parent's keys."""

    table: _TableName | None = None
    parent: dict[_Column, _Column] = {}
    complete: Path | None = None


class _Entry(_Row):
    """One table: when an event has rows for it, where they are, and what they hold.

    `version` is the object's time, else the event's, else the receipt. A deleted row is a tombstone of rank 99
    (with its columns, if it has any beyond the key), and empties all child sets of its table. The parent's
    columns in a child table are `<table without its last s>_<key column>`, unless `parent` names them.
    """

    table: _TableName
    when: Path | None = None
    root: Path | None = None
    version: Path | None = None
    sequence: Path | None = None
    rank: int = Field(0, ge=0, le=99)
    deleted: Path | None = None
    children: dict[str, _Children] = {}


class Settings(_Block):
    """A custom source's own part of `relay.yaml`; `id` missing or empty: deduplicated by content."""

    verify: Proof
    type: Path = Expression("'event'")
    id: Path | None = None
    at: Path | None = None
    split: Path | None = None
    test: Path | None = None
    tables: Annotated[tuple[_Entry, ...], AfterValidator(_some)]


# --- tables -------------------------------------------------------------------------------------------


class _Set(NamedTuple):
    name: str
    members: Expression
    settings: _Children
    parent: Mapping[str, str]

    def of(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """The parent's columns, from the parent row."""
        return {column: key[name] for column, name in self.parent.items()}

    def rows(self, row: dict[str, Any], parent: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The members of one parent, None where nothing is said of them."""
        members = self.members(row)
        if members is None:
            return None
        if not isinstance(members, list) or len(members) > MAX_ROWS:
            raise ValueError(f"{self.name}: its rows are a list of at most {MAX_ROWS}")
        rows = [self.settings.read(member) | parent for member in members]
        if len({tuple(str(r[c]) for c in self.settings.key) for r in rows}) < len(rows):
            raise ValueError(f"{self.name}: two rows of one list have the same key; it needs another column")
        return rows


class _Tables:
    """The tables of all entries, joined: one may be written by several, and has child sets once any has."""

    def __init__(self, entries: tuple[_Entry, ...]) -> None:
        self.tables: dict[str, Table] = {}
        self.sets: list[list[_Set]] = []
        self.below: dict[str, dict[str, _Set]] = {}
        for number, entry in enumerate(entries):
            at, clock = f"tables.{number}", entry.version.text if entry.version else "the event's time"
            self._declare(at, Table(entry.table, entry.key, clock, entry.declared()))
            found = [self._set(f"{at}.children.{f}", entry, f, child) for f, child in entry.children.items()]
            if len({child.name for child in found}) < len(found):
                raise ConfigInvalid(f"{at}.children: each list needs a table of its own")
            self.sets.append(found)
            self.below.setdefault(entry.table, {}).update({child.name: child for child in found})

    def _set(self, at: str, entry: _Entry, field: str, child: _Children) -> _Set:
        try:
            members = Expression(field)
        except ValueError as error:
            raise ConfigInvalid(f"{at}: {error}") from None
        name = child.table or f"{entry.table}_{field}"
        if not re.fullmatch(_TABLE_NAME, name):
            raise ConfigInvalid(f"{at}.table: say one; {name!r} cannot be a table's name")
        parent = child.parent or {f"{entry.table.removesuffix('s')}_{key}": key for key in entry.key}
        if sorted(parent.values()) != sorted(entry.key):
            raise ConfigInvalid(f"{at}.parent: name a column for each of {', '.join(entry.key)}")
        if parent.keys() & {*child.key, *(child.columns or ())}:
            raise ConfigInvalid(f"{at}.parent: a column of the rows has the same name")
        types = {c: t for c, k in parent.items() if (t := self.tables[entry.table].columns.get(k))}
        clock = self.tables[entry.table].clock
        self._declare(at, Table(name, (*parent, *child.key), clock, types | child.declared(), tuple(parent)))
        return _Set(name, members, child, parent)

    def _declare(self, at: str, table: Table) -> None:
        known = self.tables.setdefault(table.name, table)
        if (known.key, known.parent) != (table.key, table.parent):
            raise ConfigInvalid(f"{at}.key: {table.name} is declared before with the key {', '.join(known.key)}")
        for name, type_ in table.columns.items():
            if known.columns.get(name, type_) != type_:
                raise ConfigInvalid(f"{at}.types.{name}: declared before as {known.columns[name]}")
        columns = {**known.columns, **table.columns}
        self.tables[table.name] = Table(table.name, table.key, known.clock, columns, table.parent)


class _Rule:
    """One entry at work."""

    def __init__(self, entry: _Entry, sets: list[_Set], joined: _Tables) -> None:
        self.entry, self.sets = entry, sets
        self.emptied = joined.below[entry.table].values()
        self.tables = joined.tables
        fields = entry.children if entry.columns is None else ()
        self.left_out = frozenset(fields)

    def records(self, scope: dict[str, Any], event: Event) -> Iterator[Record]:
        """The records that this entry makes of an event; none where it is not meant."""
        if self.entry.when is not None and not yes(self.entry.when(scope)):
            return
        found = event.data if self.entry.root is None else self.entry.root(event.data)
        for row in found if isinstance(found, list) else [] if found is None else [found]:
            yield from self._row(row, event)

    def _row(self, row: Any, event: Event) -> Iterator[Record]:
        entry, table = self.entry, self.tables[self.entry.table]
        try:
            data = entry.read(row, self.left_out)
        except ValueError as error:
            raise ValueError(f"{table.name}: {error}") from None
        key = {name: data[name] for name in entry.key}
        gone = entry.deleted is not None and yes(entry.deleted(row))
        version = self._version(row, event, gone=gone)
        if gone and all(value is None for name, value in data.items() if name not in key):
            yield table.gone(key, **version)
        else:
            yield table.row(data, gone=gone, **version)
        for child in self.emptied if gone else self.sets:
            parent = child.of(key)
            members = [] if gone else child.rows(row, parent)
            if members is not None:
                complete = gone or child.settings.complete is None or yes(child.settings.complete(row))
                yield self.tables[child.name].children(parent, members, complete=complete, **version)

    def _version(self, row: Any, event: Event, *, gone: bool) -> dict[str, Any]:
        at, sequence = event.at, 0
        said = self.entry.version(row) if self.entry.version else None
        if said is not None and said != "":
            at = instant_ns(said)
            if at is None:
                raise ValueError(f"{self.entry.table}: its version is not a time")
        if self.entry.sequence is not None:
            sequence = whole(self.entry.sequence(row) or 0)
        if not 0 <= sequence <= _LARGEST_SEQUENCE:
            raise ValueError(f"{self.entry.table}: its sequence has more than 19 digits, or is negative")
        return {"at": at, "sequence": sequence, "rank": _DELETED_RANK if gone else self.entry.rank}


# --- the envelope -------------------------------------------------------------------------------------


class _Envelope:
    """Reads deliveries into events, and events into records."""

    def __init__(self, settings: Settings) -> None:
        self.settings, joined = settings, _Tables(settings.tables)
        self.tables = joined.tables
        self.rules = [_Rule(e, s, joined) for e, s in zip(settings.tables, joined.sets, strict=True)]
        readers = (settings.type, settings.id, settings.at, settings.split, settings.test)
        paths = [p for p in (*readers, *(e.when for e in settings.tables)) if p is not None]
        self.proofs = settings.verify.proofs() | {("headers", "authorization"), ("headers", "cookie")}
        named = {(root, n) for p in paths for root in ("headers", "query") for n in p.named(root)} - self.proofs
        if settings.split is not None:  # what is stored of such an event is its item
            named |= {("body", n) for e in settings.tables if e.when for n in e.when.named("body")}
        self.named = sorted(named)

    def scrub(self, data: Any) -> Any:
        """The body without the field that is its token."""
        if not isinstance(data, dict) or not any(place == "body" for place, _ in self.proofs):
            return data
        return {name: value for name, value in data.items() if ("body", name) not in self.proofs}

    def events(self, request: Request, data: Any) -> list[Event]:
        """See `Vendor.events`."""
        try:
            return self._events(request, self.scrub(data))
        except ValueError as error:
            raise MalformedPayload(f"the envelope cannot be read: {error}") from None

    def _events(self, request: Request, body: Any) -> list[Event]:
        kept = self._kept(request, body)
        scope = {**_context(kept), "body": body}
        if self.settings.split is None:
            return [self._event(scope, body, kept, {})]
        items = self.settings.split(scope)
        if items is not None and (not isinstance(items, list) or len(items) > MAX_EVENTS):
            raise ValueError(f"split finds no list of at most {MAX_EVENTS}")
        seen: dict[tuple[str, str], int] = {}
        return [self._event({**scope, "item": item}, item, kept, seen) for item in items or ()]

    def _kept(self, request: Request, body: Any) -> dict[str, str]:
        """What expressions name beside the data: headers as they are, the rest behind a mark."""
        kept = {n: request.headers[n] for place, n in self.named if place == "headers" and n in request.headers}
        for place, name in (named for named in self.named if named[0] != "headers"):
            values = request.query if place == "query" else body if isinstance(body, dict) else {}
            mark = f"{_MARK}{place}.{name}"
            if isinstance(values.get(name), (str, int, Decimal)):
                kept[mark] = encode_json(values[name]).decode()
            elif mark in request.headers:
                kept[mark] = request.headers[mark]
        return kept

    def _event(
        self, scope: dict[str, Any], data: Any, kept: dict[str, str], seen: dict[tuple[str, str], int]
    ) -> Event:
        settings = self.settings
        type_, id_ = _word("type", settings.type(scope)), ""
        if not type_:
            raise MalformedPayload("the event has no type", reason="no_type")
        if settings.id is not None:
            id_ = _word("id", settings.id(scope))
            # An id of the whole delivery would make duplicates of all its events but the first.
            number = seen[type_, id_] = seen.get((type_, id_), 0) + 1
            id_ = f"{id_}#{number}" if id_ and number > 1 else id_
        at = settings.at(scope) if settings.at else None
        event = Event(
            type=type_,
            data=data,
            id=id_,
            at=instant_ns(at),
            headers=kept,
            test=settings.test is not None and yes(settings.test(scope)),
            dedup="id" if id_ else "content",
        )
        if at is not None and at != "" and event.at is None:
            raise ValueError("at is not a time")
        return event

    def records(self, event: Event) -> Iterator[Record]:
        """The one mapper; nothing comes of an event that no table is meant for."""
        scope = {**_context(event.headers), "type": event.type, "data": event.data}
        scope |= {"body": event.data} if self.settings.split is None else {"item": event.data}
        rows = 0
        for rule in self.rules:
            for record in rule.records(scope, event):
                rows += 1 if record.members is None else max(1, len(record.members))
                if rows > MAX_ROWS:
                    raise ValueError(f"one event becomes more than {MAX_ROWS} rows")
                yield record


def _context(kept: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of `_Envelope._kept`: `headers`, `query` and `body` as expressions see them."""
    scope: dict[str, dict[str, Any]] = {"headers": {}, "query": {}, "body": {}}
    for name, value in kept.items():
        place, dot, rest = name.removeprefix(_MARK).partition(".")
        if name.startswith(_MARK) and dot and place in scope:
            scope[place][rest] = decode_json(value.encode())
        else:
            scope["headers"][name] = value
    return dict(scope)


def _word(setting: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{setting} is neither text nor a whole number but {type(value).__name__}")


def build(settings: Mapping[str, Any]) -> Vendor:
    """The vendor that a source's own settings describe.

    Args:
        settings: its block in `relay.yaml` without `kind`, `secrets`, `to` and `public_url`.

    Raises:
        ConfigInvalid: one line for each fault, `tables.0.columns.total: what is wrong`.
    """
    try:
        checked = Settings.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigInvalid("\n".join(_faults(error))) from None
    envelope = _Envelope(checked)
    vendor = Vendor(
        title="Custom",
        family="generic",
        docs="https://jmespath.org/specification.html",
        verify=checked.verify.mechanism(),
        tables=tuple(envelope.tables.values()),
        events=envelope.events,
        keep_headers=tuple(name for place, name in envelope.named if place == "headers"),
        scrub=envelope.scrub if any(place == "body" for place, _ in envelope.proofs) else None,
    )
    vendor.maps("*")(envelope.records)
    return vendor


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False):
        said = "unknown setting" if fault["type"] == "extra_forbidden" else fault["msg"]
        yield f"{'.'.join(str(part) for part in fault['loc'])}: {said.removeprefix('Value error, ')}"
