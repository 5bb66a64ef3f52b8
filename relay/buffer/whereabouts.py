"""Where the rows of one event are: waiting in a lane, dead, or delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.failures import Letter
from relay.buffer.finding import DEAD, DELIVERED, WAITS
from relay.buffer.ledger import in_lane
from relay.records import Meta, Record


class Place(msgspec.Struct, frozen=True):
    """Where one record of an event is, for one destination.

    Args:
        state: `waits`, `dead` or `delivered`; then it was stored, or is older than the row that stands there.
        due_ms: when it is due, where it waits; tries: how often it was tried without success.
        why: the destination's words, where it refused it, or of the last fault of the lane in which it waits.
        letter: names the failure, where it is dead.
    """

    destination: str
    state: str
    due_ms: int = 0
    tries: int = 0
    why: str = ""
    letter: str = ""


def whereabouts(client: driver.Redis, arrival: str, meta: Meta, records: Sequence[Record]) -> list[list[Place]]:
    """Where each record is, for each destination that it was given to.

    Args:
        client: Redis.
        arrival: the event's number.
        meta: of the event.
        records: its first ones, or all.
    """
    waits = _waiting(client, arrival, meta, records)
    places = [(position, name) for position in range(len(records)) for name in meta.to]
    fields = [f"{arrival}|{name}|{position}" for position, name in places]
    letters: Any = client.hmget(keys.DEAD, fields) if fields else []
    found: list[list[Place]] = [[] for _ in records]
    for (position, name), field, text in zip(places, fields, letters, strict=True):
        if (position, name) in waits:
            place = waits[position, name]
        elif text is not None:
            place = Place(name, DEAD, why=msgspec.json.decode(text, type=Letter).reason, letter=field)
        else:
            place = Place(name, DELIVERED)
        found[position].append(place)
    return found


def _waiting(
    client: driver.Redis, arrival: str, meta: Meta, records: Sequence[Record]
) -> dict[tuple[int, str], Place]:
    found: dict[tuple[int, str], Place] = {}
    names: Any = client.smembers(keys.LANES)
    for lane in sorted(name.decode() for name in names):
        destination = lane.rsplit("/", 2)[0]
        due: Any = client.zscore(keys.queue(lane, meta.source), arrival) if destination in meta.to else None
        if due is None:
            continue
        left: Any = client.hget(keys.left(lane), arrival)
        why: Any = client.hget(keys.lane(lane), "why")
        positions, _, tries = (left or b"").partition(b";")
        only = frozenset(int(p) for p in positions.split(b",")) if positions else None
        place = Place(destination, WAITS, int(due), int(tries or 0), (why or b"").decode("utf-8", "replace"))
        for position, _ in in_lane(client, lane, only, meta, records):
            found[position, destination] = place
    return found
