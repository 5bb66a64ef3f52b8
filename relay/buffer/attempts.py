"""The last attempts at each destination: when, what was in them, how they ended, and the destination's own words.

Settling writes them, in its own step. Two short lists a destination, so that a flood of what goes well does not
push out what failed; nothing hangs on them, and they go by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec
import redis as driver

from relay.buffer import keys

#: Attempts kept of a destination: failed ones, and claims of which something was taken.
KEPT: Final = 200
#: For so long after the last one; they may quote a row.
KEPT_MS: Final = 7 * 86_400_000
#: Of one settlement so many failed attempts are noted: the first and the last, where a batch was halved often.
MOST: Final = 8
#: Events that an attempt names; of a larger one only the first and the last are known.
NAMED: Final = 16
#: Characters of a destination's words.
WORDS: Final = 300
_Any = TypeVar("_Any")


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that failed; or all of one claim that went well, together.

    Args:
        at: when it ended, ms since 1970. lane: whose. table: empty where it is of several.
        rows: in it. outcome: of `relay.buffer.measures.OUTCOMES`. words: the destination's, where it failed.
        events: how many, by their arrival numbers. first, last: of these. named: all of them, where they are few.
        took: ms.
    """

    at: int
    lane: str
    table: str
    rows: int
    outcome: str
    words: str
    events: int
    first: str
    last: str
    named: tuple[str, ...]
    took: int

    def held(self, arrival: str) -> bool | None:
        """Whether an event was in it; None where it lies among many that are not named."""
        if self.named:
            return arrival in self.named
        return None if self.first <= arrival <= self.last else False


def of_events(arrivals: Iterable[str]) -> tuple[int, str, str, tuple[str, ...]]:
    """What an attempt says of its events: how many, the first, the last, and which, where they are few."""
    found = set(arrivals)
    named = tuple(sorted(found)) if len(found) <= NAMED else ()
    return len(found), min(found, default=""), max(found, default=""), named


def chosen(failed: list[_Any]) -> list[_Any]:
    """Those of one settlement that are kept, oldest first."""
    return failed if len(failed) <= MOST else [*failed[: MOST // 2], *failed[-MOST // 2 :]]


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Attempt).decode


def packed(found: Iterable[Attempt]) -> list[str]:
    """As settle.lua takes them."""
    return [_encode(attempt).decode() for attempt in found]


def read(client: driver.Redis, destination: str, *, failed: bool, most: int = KEPT) -> list[Attempt]:
    """The last attempts at a destination, newest first."""
    raw: Any = client.lrange(keys.attempts(destination, failed=failed), 0, most - 1)
    return [_decode(text) for text in raw]


def of_event(client: driver.Redis, destination: str, arrival: str) -> list[Attempt]:
    """Those in which an event was, or may have been, oldest first."""
    both = [*read(client, destination, failed=True), *read(client, destination, failed=False)]
    # Read newest first: those of one moment keep their order too.
    return sorted((a for a in reversed(both) if a.held(arrival) is not False), key=lambda attempt: attempt.at)


def forget(client: driver.Redis, destinations: Iterable[str]) -> None:
    """Drop what is kept of these destinations: a destination's words may quote a row."""
    for name in destinations:
        client.delete(keys.attempts(name, failed=True), keys.attempts(name, failed=False))
