"""What failed and is kept: events in quarantine and dead letters, shown, sent again, or given up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.bodies import Bodies
from relay.buffer.redis import script
from relay.records import Codec, Meta, Packed

_encode: Final = msgspec.msgpack.Encoder().encode
#: Events that are read at once.
_TOGETHER: Final = 1_000
#: Dead letters as they are kept, each with its field.
Letters = Sequence[tuple[str, bytes]]


class Letter(msgspec.Struct, array_like=True):
    """A dead letter: one record that a destination will never take.

    Args:
        source, table, key, version: of the row.
        reason: the destination's own words.
        blame: `destination`, `mapping` or `vendor`.
    """

    source: str
    table: str
    key: str
    version: str
    reason: str
    blame: str


class Failure(msgspec.Struct):
    """One failure, of either sort.

    Args:
        id: `<arrival>` of an event in quarantine, `<arrival>|<destination>|<position>` of a dead letter.
        blame: whose it is: `vendor` (its body), `mapping` (ours) or `destination` (it refused).
        letter: of a dead letter.
    """

    id: str
    arrival: str
    source: str
    type: str
    blame: str
    reason: str
    destination: str = ""
    table: str = ""
    key: str = ""

    @property
    def account(self) -> str:
        """Where the ledger counts a dead letter."""
        return f"r|{self.source}|{self.destination}|{self.table}|"


def _quarantined(arrival: str, meta: Meta) -> Failure:
    blame = "mapping" if meta.fault.startswith(("mapping", "key_missing")) else "vendor"
    return Failure(arrival, arrival, meta.source, meta.type, blame, meta.fault)


def _dead(field: str, text: bytes, packed: Packed | None) -> Failure:
    arrival, destination, _ = field.split("|")
    letter = msgspec.json.decode(text, type=Letter)
    return Failure(
        field, arrival, letter.source, packed.meta.type if packed is not None else "", letter.blame, letter.reason,
        destination, letter.table, letter.key,
    )  # fmt: skip


def _event_of(field: str) -> str:
    return field.partition("|")[0]


def _events_of(quarantined: Sequence[str], letters: Letters) -> list[str]:
    return list(dict.fromkeys([*quarantined, *(_event_of(field) for field, _ in letters)]))


class Failures:
    """Failures of one buffer."""

    def __init__(self, client: driver.Redis) -> None:
        self.client = client
        self._codec = Codec()
        self._requeue, self._discard = script(client, "requeue"), script(client, "discard")
        self._bodies = Bodies(client)

    def every(self) -> Iterator[Failure]:
        """All failures, quarantine first, oldest first."""
        quarantined: Any = self.client.zrange(keys.QUARANTINE, 0, -1)
        for arrival in quarantined:
            packed = self.event(arrival.decode())
            if packed is not None:
                yield _quarantined(arrival.decode(), packed.meta)
        letters: Any = self.client.hgetall(keys.DEAD)
        for field, text in sorted(letters.items()):
            yield _dead(field.decode(), text, self.event(_event_of(field.decode())))

    def first(self, most: int) -> tuple[list[Failure], bool]:
        """As many failures, read in a few round trips however many there are: quarantine first, oldest first.

        Of more dead letters than that it is any of them. Also whether events in quarantine were left out, since
        their bodies found no room in the bytes that are read at once; of a dead letter, its type is left out then.
        """
        raw: Any = self.client.zrange(keys.QUARANTINE, 0, most - 1)
        quarantined = [arrival.decode() for arrival in raw]
        letters = self._letters(most - len(quarantined))
        wanted = _events_of(quarantined, letters)
        blobs = self._bodies.first(wanted)
        return self._told(quarantined, letters, zip(wanted, blobs, strict=False)), len(blobs) < len(quarantined)

    def some(self, ids: Iterable[str]) -> list[Failure]:
        """Those of failures that are still there."""
        wanted = list(dict.fromkeys(ids))
        fields, arrivals = [i for i in wanted if "|" in i], [i for i in wanted if "|" not in i]
        texts: Any = self.client.hmget(keys.DEAD, fields) if fields else []
        scores: Any = self.client.zmscore(keys.QUARANTINE, arrivals) if arrivals else []
        quarantined = [one for one, score in zip(arrivals, scores, strict=True) if score is not None]
        letters = [(field, text) for field, text in zip(fields, texts, strict=True) if text is not None]
        events = _events_of(quarantined, letters)
        blobs = self._bodies.every(events, _TOGETHER)
        return self._told(quarantined, letters, zip(events, blobs, strict=True))

    def _told(
        self, quarantined: Sequence[str], letters: Letters, blobs: Iterable[tuple[str, bytes | None]]
    ) -> list[Failure]:
        known = {arrival: self._codec.unpack(blob) for arrival, blob in blobs if blob is not None}
        return [
            *(_quarantined(arrival, known[arrival].meta) for arrival in quarantined if arrival in known),
            *(_dead(field, text, known.get(_event_of(field))) for field, text in letters),
        ]

    def _letters(self, most: int) -> list[tuple[str, bytes]]:
        if most <= 0:
            return []
        held: Any = self.client.hlen(keys.DEAD)
        pages: Any = self.client.hgetall(keys.DEAD).items() if held <= most else self.client.hscan_iter(
            keys.DEAD, count=most
        )  # fmt: skip
        found = dict(itertools.islice(pages, most))
        return sorted((field.decode(), text) for field, text in found.items())

    def event(self, arrival: str) -> Packed | None:
        """A kept event, None where it is gone."""
        blob: Any = self.client.hget(keys.EVENTS, arrival)
        return None if blob is None else self._codec.unpack(blob)

    def requeue(  # noqa: PLR0913 - each is one side of an event
        self,
        source: str,
        arrival: str,
        blob: bytes,
        lanes: Sequence[str],
        counts: Mapping[str, int],
        letters: Mapping[str, str],
        schemas: Mapping[str, bytes],
        *,
        quarantined: bool = False,
        waiting: bool = False,
    ) -> bool:
        """Send an event through lanes again; False where it still waits in one, or nothing of it failed any more.

        Args:
            source: whose it is.
            arrival: its number, which it keeps, and with it its versions.
            blob: packed, with its records mapped anew.
            lanes: where its records go.
            counts: ledger fields to add.
            letters: dead letters of it that this replaces, each with its prefix in the ledger.
            schemas: declarations of its tables.
            quarantined: it is to leave quarantine, and is left alone where it is no longer there.
            waiting: the same of what waits to be fetched.
        """
        names = [
            keys.EVENTS, keys.REFS, keys.LEDGER, keys.BYTES, keys.LANES, keys.QUARANTINE, keys.DEAD,
            keys.DEAD_COUNT,
        ]  # fmt: skip
        routes = []
        for lane in lanes:
            names += [keys.queue(lane, source), keys.lane(lane), keys.lane_sources(lane)]
            routes.append((len(names) - 2, len(names) - 1, len(names), lane))
        lanes_known: Any = self.client.smembers(keys.LANES)
        held = [keys.queue(lane.decode(), source) for lane in lanes_known if not keys.archives(lane.decode())]
        places = range(len(names) + 1, len(names) + len(held) + 1)
        names += held
        if waiting:
            names.append(keys.waiting(source))
        waits = len(names) if waiting else 0
        if schemas:
            fresh: Any = dict(schemas)
            self.client.hset(keys.SCHEMAS, mapping=fresh)
        plan = _encode(
            (source, arrival, routes, dict(counts), list(letters.items()), list(places), quarantined, waits)
        )
        return bool(self._requeue(names, [plan, blob]) == 1)

    def discard(self, failure: Failure) -> bool:
        """Give one up; False where it was no longer there."""
        names = [
            keys.EVENTS, keys.REFS, keys.LEDGER, keys.BYTES, keys.QUARANTINE, keys.DEAD, keys.DEAD_COUNT,
        ]  # fmt: skip
        letter = failure.id if failure.destination else ""
        prefix = failure.account if letter else ""
        return bool(self._discard(names, [failure.source, failure.arrival, letter, prefix]) == 1)
