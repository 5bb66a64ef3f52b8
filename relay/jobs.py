"""What maps later: kept events through the mapping as it is now."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import redis as driver

from relay import configured, intake
from relay.buffer.failures import Failure, Failures
from relay.buffer.keys import ARCHIVE, SCHEMAS, lane_name
from relay.buffer.lanes import lane_states
from relay.buffer.registry import Registry
from relay.config import Config
from relay.configured import Source
from relay.errors import ConfigInvalid, IntakeError, MappingFailed
from relay.pushes import PREFIX, Client, client_of
from relay.records import Codec, Event, Packed, Request, Table, lane_key, partition_of, records_of
from relay.telemetry import logger

Sender = Source | Client
log = logger("jobs")


def senders(config: Config, client: driver.Redis) -> dict[str, Sender]:
    """All configured sources, and all clients that ever pushed something, by their names in the ledger.

    A client of which the settings no longer say where it writes is left out: the others can be sent again.
    """
    sources = configured.sources_of(config)
    registry = Registry(client)
    found: dict[str, Sender] = {**sources}
    declared: Any = client.hgetall(SCHEMAS)
    for number in {*config.settings.clients, *registry.clients()}:
        try:
            one = client_of(config, sources.values(), number, registry.prefix)
        except ConfigInvalid as error:
            log.warning("client_left_out", client=number, detail=str(error))
            continue
        one.declared = {id_.decode(): text for id_, text in declared.items()}
        found[one.name] = one
    return found


def owned(config: Config, client: driver.Redis, table: str, key: list[str]) -> tuple[Sender, Table]:
    """Whose a table is, and what is declared of it, for a key of as many values as it has columns."""
    source, declared = _owner(config, client, table, key)
    if len(key) != len(declared.key):
        columns = ", ".join(declared.key)
        raise ConfigInvalid(f"the key of {table} is {columns}: give as many values, {len(key)} were given")
    return source, declared


def _owner(config: Config, client: driver.Redis, table: str, key: list[str]) -> tuple[Sender, Table]:
    ours = [source for source in configured.sources_of(config).values() if table in source.declared]
    if ours:
        # Of those that share a table, whose row it is stands first in the key.
        named = [source for source in ours if source.shares and source.name == key[0]]
        return (named or ours)[0], ours[0].declared[table]
    pushed = Registry(client).table(table)
    if pushed is None:
        raise ConfigInvalid(f"no configured source and no client writes a table {table!r}")
    number, columns = pushed
    return senders(config, client)[f"{PREFIX}{number}"], Table(table, key=columns)


class Again(msgspec.Struct):
    """What a retry came to: ids by outcome, and why some could not be mapped still."""

    queued: list[str]
    waiting: list[str]
    failed: dict[str, str]


def retry(failures: Failures, chosen: Iterable[Failure], sources: Mapping[str, Sender]) -> Again:
    """Send failed events through the mapping and their lanes again.

    A dead letter's event is mapped anew for that destination alone: the letter counts as discarded, its records as
    emitted again. An event keeps its arrival number, so a row that has moved on since does not go back.
    """
    again = Again([], [], {})
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in chosen:
        groups.setdefault((failure.arrival, failure.destination), []).append(failure)
    codec = Codec()
    for (arrival, destination), group in groups.items():
        ids = [failure.id for failure in group]
        packed = failures.event(arrival)
        source = sources.get(group[0].source)
        if packed is None or source is None:
            what = (
                "its event is no longer there" if packed is None else f"{group[0].source} is no longer configured"
            )
            again.failed.update(dict.fromkeys(ids, what))
            continue
        try:
            mapped = remapped(source, packed, codec, only=destination)
        except IntakeError as error:
            again.failed.update((i, str(error)) for i in ids)
            continue
        letters = {failure.id: failure.account for failure in group if destination}
        queued = failures.requeue(
            source.name,
            arrival,
            mapped.blob,
            mapped.lanes,
            mapped.counts,
            letters,
            source.schemas,
            quarantined=not destination,
        )
        (again.queued if queued else again.waiting).extend(ids)
    return again


#: Events sent again before the lanes are looked at, and how many may wait in them before a replay goes on.
_STEP, BACKLOG = 200, 1_000


def replay(
    failures: Failures,
    events: Iterable[tuple[str, Packed]],
    sources: Mapping[str, Sender],
    *,
    breathe: Callable[[Again], bool],
) -> Again:
    """Send archived events through the mapping as it is now, slower than live traffic.

    Args:
        failures: the buffer's.
        events: arrival numbers and events, oldest first.
        sources: as configured now.
        breathe: called after every few events with what it came to so far; returns when there is room, or False
            where the replay is to end there.
    """
    again = Again([], [], {})
    for done, (source, arrival, mapped) in enumerate(_each(events, sources, again.failed)):
        if done % _STEP == 0 and not breathe(again):
            break
        queued = failures.requeue(
            source.name, arrival, mapped.blob, mapped.lanes, mapped.counts, {}, source.schemas
        )
        (again.queued if queued else again.waiting).append(arrival)
    return again


def rehearsal(
    events: Iterable[tuple[str, Packed]], source: Sender, failed: dict[str, str], *, only: str = ""
) -> Iterator[dict[str, Any]]:
    """What `python -m worker preview` is told of a replay: where it goes, then each event as it maps now.

    Args:
        events: as for `replay`, of one source.
        source: theirs.
        failed: takes the events that cannot be mapped, and why.
        only: one destination; empty for all of the source.
    """
    declared = source.declared if isinstance(source, Client) else source.schemas
    schemas = {id_: text.decode() for id_, text in declared.items()}
    yield {"destinations": [name for name in source.to if name == only or not only], "schemas": schemas}
    for _, arrival, mapped in _each(events, {source.name: source}, failed):
        yield {"arrival": arrival, "source": source.name, "blob": base64.b64encode(mapped.blob).decode()}


def _each(
    events: Iterable[tuple[str, Packed]], sources: Mapping[str, Sender], failed: dict[str, str]
) -> Iterator[tuple[Sender, str, Remapped]]:
    codec = Codec()
    for arrival, packed in events:
        source = sources.get(packed.meta.source)
        if source is None:
            failed[arrival] = f"there is no source {packed.meta.source} any more"
            continue
        try:
            yield source, arrival, remapped(source, packed, codec)
        except IntakeError as error:
            failed[arrival] = str(error)


def room(failures: Failures, source: Sender) -> bool:
    """Whether the lanes that a source's events go to are short enough for a replay to go on."""
    return sum(backlog(failures, source).values()) < BACKLOG


def backlog(failures: Failures, source: Sender) -> dict[str, int]:
    """How many events wait for each destination of a source, and for the archive, where any do."""
    found: dict[str, int] = dict.fromkeys([*source.to, *([ARCHIVE] if source.archive else [])], 0)
    for lane, state in lane_states(failures.client).items():
        if (name := lane.split("/")[0]) in found:
            found[name] += int(state["waiting"])
    return {name: count for name, count in found.items() if count}


class Remapped(msgspec.Struct):
    """A kept event with its records mapped anew."""

    blob: bytes
    lanes: tuple[str, ...]
    counts: dict[str, int]


def remapped(source: Sender, packed: Packed, codec: Codec, *, only: str = "") -> Remapped:
    """Map a kept event as it would be mapped now.

    Args:
        source: whose it is, as configured now.
        packed: as kept.
        codec: of this thread.
        only: one destination; empty for all of the source.

    Raises:
        IntakeError: it cannot be read or mapped still.
    """
    if isinstance(source, Client):
        return _pushed_again(source, packed, codec, only)
    event = event_of(source, packed)
    records = intake.records_of(source, event)
    if not records:
        raise MappingFailed(f"{source.kind} has no mapping for {event.type or 'an event without a type'}")
    meta = msgspec.structs.replace(
        packed.meta,
        type=event.type,
        fault="",
        schemas=intake.schemas_of(source, records),
        to=tuple(source.to),
    )
    destinations = [d for d in source.to if d == only or not only]
    counts = intake.emitted(source, records, destinations)
    lanes = intake.lanes_of(source, records, destinations)
    return Remapped(codec.pack(meta, packed.raw, records), lanes, counts)


def _pushed_again(client: Client, packed: Packed, codec: Codec, only: str) -> Remapped:
    """What an API's client pushed: its rows are what it said, and stay so."""
    records = records_of(packed)
    destinations = {d: n for d, n in client.to.items() if d == only or not only}
    lanes = dict.fromkeys(client.archive)
    for destination, partitions in destinations.items():
        for record in records:
            key = lane_key(client.declared[packed.meta.schemas[record.table]], record)
            lanes[lane_name(destination, partition_of(record.table, key, partitions), partitions)] = None
    meta = msgspec.structs.replace(packed.meta, to=tuple(client.to))
    counts = intake.emitted(client, records, destinations)
    return Remapped(codec.pack(meta, packed.raw, records), tuple(lanes), counts)


def event_of(source: Source, packed: Packed) -> Event:
    """A kept event as a mapper takes it.

    Raises:
        MalformedPayload: its bytes cannot be read still.
    """
    meta = packed.meta
    request = Request("POST", source.public_url, meta.headers, packed.raw)
    data: Any = intake.decode_body(request, forms=source.vendor.forms)
    if not meta.fault.startswith(("mapping", "key_missing")) and meta.fault:
        # It could not even be read when it came, so its envelope is read only now.
        events = source.vendor.live(request, data)
        if len(events) == 1:
            event = events[0]
            return msgspec.structs.replace(event, type=event.type or meta.type, id=event.id or meta.delivery_id)
    return Event(meta.type, data, meta.delivery_id, meta.at, meta.headers, meta.test)
