"""Rows erased at a destination: emptied where it can be done there, else replaced by blank ones through the fence.

A blank row goes where the fence knows of a row, or may have forgotten it, under the lane's lease. The fence says
so first: whatever becomes of the request, nothing that was received before is sent after it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.buffer import keys
from relay.buffer.forget import key_pattern, version_in
from relay.buffer.lanes import Lane
from relay.errors import Permanent, Transient
from relay.records import WHOLE, decode_json, encode_json, full_version, key_of, version_prefix
from worker.columns.erasing import above
from worker.destination import Batch, Destination, Item, Rejected, TableSpec
from worker.fence import FLOOR, Marker

#: How long a drain may hold a lane before we give up, and how often we ask.
_LANE_S: Final = 30.0
_LOOK_S: Final = 0.1
_RANK: Final = 99
LaneOf = Callable[[str, str], Lane]


class Wanted(msgspec.Struct, frozen=True):
    """Rows of one table: one by its key, or all of one parent.

    Args:
        table: full name. declared: its declaration. named: the key's columns, or the parent's.
        whole: these are the whole key. members: keys of rows of the parent, as far as they are known.
    """

    table: str
    declared: str
    named: dict[str, Any]
    whole: bool
    members: list[dict[str, Any]] = []


class Told(msgspec.Struct, frozen=True):
    """What `relay` asks to be erased."""

    source: str
    rows: list[Wanted]


def told(line: bytes) -> Told:
    """`Told` of its JSON; a number stays as it was written."""
    return msgspec.convert(decode_json(line), Told)


def batches(asked: Told, now: int) -> list[Batch]:
    """What destinations are given: tombstones without data, and sets without members; `now` in ns since 1970."""
    event = f"{now // 1000:016d}"
    version = full_version(version_prefix(now, rank=_RANK), event)
    found = []
    for row in asked.rows:
        key, parent, columns = decode_json(row.declared.encode())
        item = Item(
            op="full_gone" if row.whole else "set",
            data=row.named,
            members=None if row.whole else [],
            complete=True,
            version=version,
            key=key_of(row.named, tuple(key if row.whole else parent)),
            event=event,
            position=0,
            source=asked.source,
            test=False,
            size=len(encode_json(row.named)),
        )
        found.append(Batch(TableSpec(row.table, tuple(key), tuple(parent), columns), [item]))
    return found


def forget(destination: Destination, asked: Told, wanted: Sequence[Batch], lane_of: LaneOf) -> int:
    """Erase rows at one destination; returns how many.

    Args:
        destination: opened.
        asked: what is to be erased.
        wanted: the same as `batches`.
        lane_of: the lane of a table's key (or parent's key), under a token of ours.

    Raises:
        DeliveryError: some or all of it was not done.
    """
    if destination.conditional:
        return destination.forget(wanted)
    pairs = zip(wanted, asked.rows, strict=True)
    return sum(_blank(destination, batch, row.members, lane_of) for batch, row in pairs)


def token() -> str:
    """Ours, for a lane."""
    return f"forget-{secrets.token_hex(6)}"


def _blank(destination: Destination, batch: Batch, members: list[dict[str, Any]], lane_of: LaneOf) -> int:
    spec, (item, *_) = batch.table, batch.items
    lane = lane_of(spec.name, "[]" if WHOLE in spec.columns else item.key)
    until = time.monotonic() + _LANE_S
    while not lane.begin():
        if time.monotonic() > until:
            raise Transient(f"lane {lane.name} is busy or rests: try again later", reason="lane")
        time.sleep(_LOOK_S)
    try:
        return _replace(destination, lane, spec, item, members)
    finally:
        lane.finish(lane.sources(), 0, even_if_due=True)


def _replace(
    destination: Destination, lane: Lane, spec: TableSpec, item: Item, members: list[dict[str, Any]]
) -> int:
    (floor,) = lane.fence(spec.name, [FLOOR])
    held = dict(_entries(lane, spec, item))
    if floor is not None:  # the fence knew more once
        known = [item.key] if item.members is None else [key_of(row, spec.key) for row in members]
        held = dict.fromkeys(known, b"") | held
    marker_key = f"*{item.key}"
    marker = _marker(lane, spec, marker_key) if item.members is not None else None
    versions = [version_in(entry).decode() for entry in held.values()]
    version = above(item.version, [*versions, *([marker.version] if marker else [])])
    if marker is not None:
        members = [*members, *(dict(zip(spec.key, values, strict=True)) for values in marker.members)]
    rows = [
        msgspec.structs.replace(item, data=data, key=key, members=None, version=version)
        for key, data in _named(item, spec, held, members).items()
    ]
    suffix = [b"\n" + encode_json(row.data) if destination.marks else b"" for row in rows]
    entries = [(row.key, version.encode() + end) for row, end in zip(rows, suffix, strict=True)]
    if marker is not None:
        entries.append((marker_key, encode_json(Marker(version, []))))
    lane.intend(spec.name, entries)
    for start in range(0, len(rows), destination.limits.records):
        some = rows[start : start + destination.limits.records]
        # One that does not show deletes is given the blank rows all the same.
        for op in ("row", "full_gone"):
            if not lane.renew():
                raise Transient(f"lane {lane.name} was given to a drain meanwhile: try again", reason="lane")
            sent = [msgspec.structs.replace(row, op=op) for row in some]
            for verdict in destination.deliver(Batch(spec, sent)):
                if isinstance(verdict, Rejected):
                    raise Permanent(f"a blank row of {spec.name} was refused: {verdict.reason}")
    return len(rows)


def _named(
    item: Item, spec: TableSpec, held: Mapping[str, bytes], members: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The key columns of each row, as the vendor sent them: at some places a number and its digits are two keys.

    The fence has them as text; events and markers have them as they were.
    """
    if item.members is None:
        return dict.fromkeys(held, item.data)
    sent = {key_of(row, spec.key): row for row in members}
    return {
        key: sent.get(key) or dict(zip(spec.key, decode_json(key.encode()), strict=True)) | item.data
        for key in held
    }


def _entries(lane: Lane, spec: TableSpec, item: Item) -> Iterator[tuple[str, bytes]]:
    """Fence entries of the row, or of all rows of the parent."""
    if item.members is None:
        (entry,) = lane.fence(spec.name, [item.key])
        if entry is not None:
            yield item.key, entry
        return
    parent = decode_json(item.key.encode())
    pattern = key_pattern(item.key, parent=True)
    found: Any = lane.client.hscan_iter(keys.fence(lane.destination, spec.name), match=pattern, count=1000)
    for key, entry in found:
        if decode_json(key)[: len(parent)] == parent:
            yield key.decode(), entry


def _marker(lane: Lane, spec: TableSpec, key: str) -> Marker | None:
    (entry,) = lane.fence(spec.name, [key])
    return None if entry is None else msgspec.convert(decode_json(entry), Marker)
