"""What failed, grouped by cause: what one mend would cure is one group."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from relay.buffer.failures import Failure, Failures

#: Failures that are looked at, and worked on, at once.
LOOKED_AT: Final = 2_000
_NUMBER: Final = re.compile(r"\d+")
_CAUSE: Final = 200
BLAMES: Final = {
    "vendor": "the sender's body could not be read",
    "mapping": "our mapping does not fit what came",
    "destination": "the destination refused the row",
}


class Group(msgspec.Struct):
    """Failures of one cause.

    Args:
        id: names the group in a URL. cause: the reason, numbers left out.
        newest: the id of its newest event; an act on the group goes no further.
        sample: one of them. reason: of that one.
    """

    id: str
    source: str
    destination: str
    table: str
    blame: str
    cause: str
    reason: str
    count: int
    oldest: str
    newest: str
    sample: list[Failure]

    @property
    def what(self) -> str:
        """`events` in quarantine, `rows` among the dead letters."""
        return "row" if self.destination else "event"


_SAMPLE: Final = 50


def cause_of(failure: Failure) -> tuple[str, ...]:
    """What failures have in common that one mend would cure."""
    reason = _NUMBER.sub("…", failure.reason)[:_CAUSE]
    return failure.blame, failure.source, failure.destination, failure.table, reason


def group_id(cause: Iterable[str]) -> str:
    """A cause's name in a URL."""
    return hashlib.blake2b("\0".join(cause).encode("utf-8", "replace"), digest_size=9).hexdigest()


def looked_at(failures: Failures) -> tuple[list[Failure], bool]:
    """The first failures, and whether there are more than are looked at."""
    found, left_out = failures.first(LOOKED_AT + 1)
    return found[:LOOKED_AT], left_out or len(found) > LOOKED_AT


def groups(failures: Iterable[Failure]) -> list[Group]:
    """Failures by cause, the largest group first."""
    found: dict[tuple[str, ...], Group] = {}
    for failure in failures:
        cause = cause_of(failure)
        group = found.get(cause)
        if group is None:
            group = found[cause] = Group(
                group_id(cause), failure.source, failure.destination, failure.table, failure.blame, cause[-1],
                failure.reason, 0, failure.arrival, failure.arrival, [],
            )  # fmt: skip
        group.count += 1
        group.oldest, group.newest = min(group.oldest, failure.arrival), max(group.newest, failure.arrival)
        if len(group.sample) < _SAMPLE:
            group.sample.append(failure)
    return sorted(found.values(), key=lambda group: (-group.count, group.id))
