"""Any sender, described in `relay.yaml`: how it signs, how its envelope reads, which rows it becomes.

Expressions are JMESPath (https://jmespath.org/specification.html). `type`, `id`, `at`, `split` and `test` read
`{body, headers, query}`, with `split` also `item`; a table's `when` reads `{type, body, headers, query, item,
data}`; all else in a table reads the row's own object. Headers (lower case) and query values are there only by
name, as in `headers."x-topic"`, and never those that prove the sender; so are, for the `when` of a split
delivery, the plain fields of the body, since each of its events is stored as an item alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from relay.described import TABLE_NAME, Children, Entry, Misdescribed, Settings
from relay.errors import MalformedPayload
from relay.expressions import Expression, whole, yes
from relay.recipes import Recipe, Sampled
from relay.records import Event, Record, Request, Table, decode_json, encode_json
from relay.source import Reply, Sample, Vendor
from relay.written import worded

#: Rows, set members included, that one event may become; events that one delivery may hold.
MAX_ROWS: Final = 10_000
MAX_EVENTS: Final = 10_000
_DELETED_RANK: Final = 99
_LARGEST_SEQUENCE: Final = 10**19 - 1
#: Begins what is kept of a query or of a split body among an event's headers; no header's name can begin so.
_MARK: Final = "?"


# --- tables -------------------------------------------------------------------------------------------


class _Set(NamedTuple):
    name: str
    members: Expression
    settings: Children
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
        rows = [self._row(number, member) | parent for number, member in enumerate(members)]
        if len({tuple(str(r[c]) for c in self.settings.key) for r in rows}) < len(rows):
            raise ValueError(f"{self.name}: two rows of one list have the same key; it needs another column")
        return rows

    def _row(self, number: int, member: Any) -> dict[str, Any]:
        try:
            return self.settings.read(member)
        except ValueError as error:
            raise ValueError(f"{self.name}[{number}]: {error}") from None


class _Tables:
    """The tables of all entries, joined: one may be written by several, and has child sets once any has."""

    def __init__(self, entries: tuple[Entry, ...], clock: str) -> None:
        self.tables: dict[str, Table] = {}
        self.sets: list[list[_Set]] = []
        self.below: dict[str, dict[str, _Set]] = {}
        for number, entry in enumerate(entries):
            at, own = f"tables.{number}", entry.version.text if entry.version else clock
            own = f"{own}, then {entry.sequence.text}" if entry.sequence else own
            self._declare(at, Table(entry.table, entry.key, own, entry.declared()))
            found = [self._set(f"{at}.children.{f}", entry, f, child) for f, child in entry.children.items()]
            if len({child.name for child in found}) < len(found):
                raise Misdescribed((f"{at}.children", "each list needs a table of its own"))
            self.sets.append(found)
            self.below.setdefault(entry.table, {}).update({child.name: child for child in found})

    def _set(self, at: str, entry: Entry, field: str, child: Children) -> _Set:
        try:
            members = Expression(field)
        except ValueError as error:
            raise Misdescribed((at, str(error))) from None
        name = child.table or f"{entry.table}_{field}"
        if not re.fullmatch(TABLE_NAME, name):
            raise Misdescribed((f"{at}.table", f"say one; {name!r} cannot be a table's name"))
        parent = child.parent or {f"{entry.table.removesuffix('s')}_{key}": key for key in entry.key}
        if sorted(parent.values()) != sorted(entry.key):
            raise Misdescribed((f"{at}.parent", f"name a column for each of {', '.join(entry.key)}"))
        if parent.keys() & {*child.key, *(child.columns or ())}:
            raise Misdescribed((f"{at}.parent", "a column of the rows has the same name"))
        types = {c: t for c, k in parent.items() if (t := self.tables[entry.table].columns.get(k))}
        clock = self.tables[entry.table].clock
        self._declare(at, Table(name, (*parent, *child.key), clock, types | child.declared(), tuple(parent)))
        return _Set(name, members, child, parent)

    def _declare(self, at: str, table: Table) -> None:
        known = self.tables.setdefault(table.name, table)
        if (known.key, known.parent) != (table.key, table.parent):
            raise Misdescribed(
                (f"{at}.key", f"{table.name} is declared before with the key {', '.join(known.key)}")
            )
        for name, type_ in table.columns.items():
            if known.columns.get(name, type_) != type_:
                raise Misdescribed((f"{at}.types.{name}", f"declared before as {known.columns[name]}"))
        columns = {**known.columns, **table.columns}
        self.tables[table.name] = Table(table.name, table.key, known.clock, columns, table.parent)


class _Rule:
    """One entry at work."""

    def __init__(self, entry: Entry, sets: list[_Set], joined: _Tables) -> None:
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
        if not isinstance(found, list):
            yield from () if found is None else self._row(self.entry.table, found, event)
            return
        for number, row in enumerate(found):
            yield from self._row(f"{self.entry.table}[{number}]", row, event)

    def _row(self, name: str, row: Any, event: Event) -> Iterator[Record]:
        entry, table = self.entry, self.tables[self.entry.table]
        try:
            data = entry.read(row, self.left_out)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        key = {name: data[name] for name in entry.key}
        gone = entry.deleted is not None and yes(entry.deleted(row))
        version = self._version(name, row, event, gone=gone)
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

    def _version(self, name: str, row: Any, event: Event, *, gone: bool) -> dict[str, Any]:
        at, sequence = event.at, 0
        try:
            said = self.entry.version(row) if self.entry.version else None
        except ValueError as error:
            raise ValueError(f"{name}: its version is {error}") from None
        if self.entry.sequence is not None:
            sequence = whole(self.entry.sequence(row) or 0)
        if not 0 <= sequence <= _LARGEST_SEQUENCE:
            raise ValueError(f"{name}: its sequence has more than 19 digits, or is negative")
        rank = _DELETED_RANK if gone else self.entry.rank
        return {"at": at if said is None else said, "sequence": sequence, "rank": rank}


# --- the envelope -------------------------------------------------------------------------------------


class _Envelope:
    """Reads deliveries into events, and events into records."""

    def __init__(self, settings: Settings) -> None:
        clock = f"the event's time ({settings.at.text})" if settings.at else "the delivery's receipt"
        self.settings, joined = settings, _Tables(settings.tables, clock)
        self.tables = joined.tables
        self.rules = [_Rule(e, s, joined) for e, s in zip(settings.tables, joined.sets, strict=True)]
        at = settings.at.path if settings.at else None
        readers = (settings.type, settings.id, at, settings.split, settings.test)
        paths = [p for p in (*readers, *(e.when for e in settings.tables)) if p is not None]
        self.proofs = settings.verify.proofs() | {("headers", "authorization"), ("headers", "cookie")}
        named = {(root, n) for p in paths for root in ("headers", "query") for n in p.named(root)} - self.proofs
        if settings.split is not None:  # what is stored of such an event is its item
            named |= {("body", n) for e in settings.tables if e.when for n in e.when.named("body")}
        self.named = sorted(named)

    def scrub(self, data: Any) -> Any:
        """The body without the fields that prove it."""
        for place, name in self.proofs:
            data = _without(data, [name], name.split(".")) if place == "body" else data
        return data

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
        try:
            at = settings.at(scope) if settings.at else None
        except ValueError as error:
            raise ValueError(f"at is {error}") from None
        return Event(
            type=type_,
            data=data,
            id=id_,
            at=at,
            headers=kept,
            test=settings.test is not None and yes(settings.test(scope)),
            dedup="id" if id_ else "content",
        )

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


def _without(data: Any, *ways: list[str]) -> Any:
    """Data without what lies at the end of these ways; the argument is left as it is."""
    for first, *rest in ways:
        if not isinstance(data, dict) or first not in data:
            continue
        data = dict(data)
        if rest:
            data[first] = _without(data[first], rest)
        else:
            del data[first]
    return data


def build(settings: Mapping[str, Any], recipe: Recipe | None = None) -> Vendor:
    """The vendor that a source's own settings describe, over those of a recipe.

    Args:
        settings: its block in `relay.yaml` without `kind`, `secrets`, `to` and `public_url`.
        recipe: what the settings lie over; it says besides whose they are.

    Raises:
        Misdescribed: one line for each fault, `tables.0.columns.total: what is wrong`.
    """
    try:
        checked = Settings.model_validate(dict(settings) if recipe is None else recipe.under(settings))
    except ValidationError as error:
        raise Misdescribed(*worded(error)) from None
    envelope, reply = _Envelope(checked), checked.reply
    vendor = Vendor(
        title=recipe.title if recipe else "Custom",
        family=recipe.family if recipe else "generic",
        docs=recipe.docs if recipe else "https://jmespath.org/specification.html",
        verify=checked.verify.mechanism(),
        tables=tuple(envelope.tables.values()),
        events=envelope.events,
        keep_headers=tuple(name for place, name in envelope.named if place == "headers"),
        scrub=envelope.scrub if any(place == "body" for place, _ in envelope.proofs) else None,
        reply=Reply(reply.status, reply.body.encode(), reply.content_type) if reply else None,
        fragile=checked.fragile,
        setup=recipe.setup if recipe else (),
        deletes=recipe.deletes if recipe else "",
        limits=recipe.limits if recipe else (),
        proof="documented: a recipe, checked against cases of its own" if recipe else "",
    )
    vendor.maps("*")(envelope.records)
    for type_, sampled in recipe.samples.items() if recipe else ():
        vendor.sample(type_)(_maker(sampled))
    return vendor


def _maker(sampled: Sampled) -> Callable[[int, int], Sample]:
    return lambda n, now: Sample(sampled.made(n, now), sampled.headers, sampled.content_type)
