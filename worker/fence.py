"""Newer-wins for destinations that replace rows without comparing: what may be sent, and what must be remembered.

A fence entry of a row is the newest version that was ever sent of it; where deleted rows are sent whole
(`deletes: mark`), the row's data stands behind it. Until that version is known to be stored the entry begins
with `?` and holds the one before: an older record then waits, for the newer one may yet be refused. An entry of
a set (under its parent's key, marked `*`) also keeps the keys of the members, so that a later set can delete
those it leaves out. What was sent long ago is forgotten (evict.lua), and the newest version among it is the
floor: of a row without an entry nothing older is sent, since nobody knows what was.

Pure: entries come in, entries go out; `worker.delivery` reads and writes them under the lane's lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.records import decode_json, encode_json, key_of
from worker.destination import Item, TableSpec

#: The field of a fence that holds its floor; keys are JSON lists, so that none is called so.
FLOOR: Final = "floor"
_SET: Final = "*"
_OPEN: Final = b"?"


class Marker(msgspec.Struct, array_like=True):
    """A parent's entry: the newest complete set that was sent, and the key values of its members."""

    version: str
    members: list[list[Any]]


class Passage(msgspec.Struct):
    """What a fence lets through.

    Args:
        sends: rows and tombstones to send, each with the index of the item that it belongs to.
        superseded: indexes of items that are older than what was stored.
        waits: indexes of items that are older than what was sent, of which nobody knows yet what became.
        under: indexes of items of which nothing is known, and which are older than what was forgotten.
        before: entries to write before sending.
        after: entries to write once all of a set was stored.
        stored: the entry of each row, to write once that row was stored.
        known: the entry of each row, to write where it was refused.
    """

    sends: list[tuple[Item, int]]
    superseded: list[int]
    waits: list[int]
    under: list[int]
    before: dict[str, bytes]
    after: dict[str, bytes]
    stored: dict[str, bytes]
    known: dict[str, bytes]


def marker_key(item: Item) -> str:
    """The fence key of a set's parent."""
    return _SET + item.key


def keys_of(items: Sequence[Item], table: TableSpec) -> list[str]:
    """Every fence key that a decision on these items may need, markers first read being enough for their rows."""
    keys: dict[str, None] = {}
    for item in items:
        if item.members is None:
            keys[item.key] = None
        else:
            keys[_SET + item.key] = None
            keys.update((key_of(member, table.key), None) for member in item.members)
    return list(keys)


def member_keys(items: Sequence[Item], entries: Mapping[str, bytes | None]) -> list[str]:
    """Keys of the members that markers remember: they may have to be deleted."""
    found: dict[str, None] = {}
    for item in items:
        if item.members is not None:
            for values in _marker(entries.get(_SET + item.key)).members:
                found[_text(values)] = None
    return list(found)


class _Sent:
    """What is known to have been sent, growing with each decision.

    Args:
        entries: as read. keep_rows: also keep what each row held, for its tombstone.
    """

    def __init__(self, entries: Mapping[str, bytes | None], *, keep_rows: bool) -> None:
        self.entries, self.keep_rows = entries, keep_rows
        self.floor = (entries.get(FLOOR) or b"").decode()
        self.versions: dict[str, str] = {}
        self.open: set[str] = set()
        self.before: dict[str, bytes] = {}  # what was last known to be stored
        self.rows: dict[str, Any] = {}
        for key, entry in entries.items():
            if entry and not key.startswith(_SET) and key != FLOOR:
                sent, before = _opened(entry)
                version, _, data = sent.partition(b"\n")
                self.versions[key] = version.decode()
                self.before[key] = sent if before is None else before
                if before is not None:
                    self.open.add(key)
                if data:
                    self.rows[key] = decode_json(data)

    def allows(self, key: str, version: str) -> bool:
        """Whether nothing newer was sent of a row; an equal version is the same delivery."""
        return self.versions.get(key, "") <= version

    def forgotten(self, key: str, version: str) -> bool:
        """Whether something newer may have been sent of a row, and was forgotten."""
        return version < self.floor and key not in self.versions

    def send(self, item: Item) -> Item:
        """The item as it is to be sent."""
        self.versions[item.key] = item.version
        if not self.keep_rows:
            return item
        if item.op != "row":  # a deletion often comes with little of the row: what it lacks is as it last was
            said = {name: value for name, value in item.data.items() if value is not None}
            item = msgspec.structs.replace(item, data={**item.data, **self.rows.get(item.key, {}), **said})
        self.rows[item.key] = item.data
        return item

    def entry(self, item: Item) -> bytes:
        """A sent row's entry."""
        return item.version.encode() + (b"\n" + encode_json(item.data) if self.keep_rows else b"")


def decide(
    items: Sequence[Item], table: TableSpec, entries: Mapping[str, bytes | None], *, keep_rows: bool = False
) -> Passage:
    """What of a table's items may be sent, in order of version.

    Args:
        items: in order of version.
        table: theirs.
        entries: of `keys_of` and `member_keys`.
        keep_rows: tombstones carry what the row last held.
    """
    passage = Passage([], [], [], [], {}, {}, {}, {})
    sent = _Sent(entries, keep_rows=keep_rows)
    sends: dict[str, tuple[Item, int]] = {}
    for index, item in enumerate(items):
        if item.members is None:
            if sent.forgotten(item.key, item.version):
                passage.under.append(index)
            elif sent.allows(item.key, item.version):
                sends[item.key] = (sent.send(item), index)
            else:
                (passage.waits if item.key in sent.open else passage.superseded).append(index)
        else:
            _decide_set(item, index, table, passage, sent, sends)
    passage.sends = list(sends.values())
    passage.stored = {send.key: sent.entry(send) for send, _ in passage.sends}
    passage.known = {key: sent.before.get(key, b"") for key in passage.stored}
    passage.before.update((key, _open(entry, passage.known[key])) for key, entry in passage.stored.items())
    return passage


def _decide_set(
    item: Item,
    index: int,
    table: TableSpec,
    passage: Passage,
    sent: _Sent,
    sends: dict[str, tuple[Item, int]],
) -> None:
    place = _SET + item.key
    marker = _marker(passage.after.get(place) or sent.entries.get(place))
    if marker.version > item.version:
        passage.superseded.append(index)
        return
    members = [key_of(member, table.key) for member in item.members or ()]
    if any(sent.forgotten(key, item.version) for key in members) or (
        not marker.version and item.version < sent.floor
    ):
        passage.under.append(index)
        return
    old = {_text(values): values for values in marker.members}
    new = {}
    for key, member in zip(members, item.members or (), strict=True):
        new[key] = [member.get(column) for column in table.key]
        if sent.allows(key, item.version):
            sends[key] = (sent.send(_part(item, key, "row", member)), index)
    # Until all is stored, those to be deleted stay remembered: a second try must find them again.
    pending = {_text(values): values for values in _marker(passage.before.get(place)).members}
    remembered = [*(pending | old | new).values()]
    if not item.complete:
        passage.before[place] = encode_json(Marker(marker.version, remembered))
        passage.after[place] = encode_json(Marker(marker.version, [*(old | new).values()]))
        return
    for key, values in old.items():
        if key in new:
            continue
        if sent.allows(key, item.version):
            data = dict(zip(table.key, values, strict=True))
            sends[key] = (sent.send(_part(item, key, "gone", data)), index)
        else:  # a newer incomplete set wrote it: the next complete one must know of it
            new[key] = values
    passage.before[place] = encode_json(Marker(item.version, remembered))
    passage.after[place] = encode_json(Marker(item.version, list(new.values())))


def _part(item: Item, key: str, op: str, data: dict[str, Any]) -> Item:
    return msgspec.structs.replace(item, op=op, data=data, members=None, complete=True, key=key)


def _open(entry: bytes, before: bytes) -> bytes:
    return _OPEN + encode_json([entry.decode(), before.decode()])


def _opened(entry: bytes) -> tuple[bytes, bytes | None]:
    """What was sent, and what was known to be stored before it; None where the entry is not open."""
    if not entry.startswith(_OPEN):
        return entry, None
    sent, before = decode_json(entry.removeprefix(_OPEN))
    return sent.encode(), before.encode()


def _marker(entry: bytes | None) -> Marker:
    return Marker("", []) if entry is None else msgspec.convert(decode_json(entry), Marker)


def _text(values: list[Any]) -> str:
    columns = tuple(str(i) for i in range(len(values)))
    return key_of(dict(zip(columns, values, strict=True)), columns)
