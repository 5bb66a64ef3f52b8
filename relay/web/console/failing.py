"""What failed, grouped by cause; and retry and discard of a group or of one, as `relay dead` does them."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from relay import jobs
from relay.buffer.failures import Failure, Failures
from relay.config import Config

#: Failures that are looked at, and worked on, in one request.
LOOKED_AT: Final = 2_000
_NUMBER: Final = re.compile(r"\d+")
_CAUSE: Final = 200
BLAMES: Final = {
    "vendor": "the sender's body could not be read",
    "mapping": "our mapping does not fit what came",
    "destination": "the destination refused the row",
}
#: What to do about each.
MENDS: Final = {
    "vendor": "Look at a body: where the sender made it, and it cannot be read, give it up; "
    "where relay.yaml reads it wrongly, mend that and retry.",
    "mapping": "Mend the source in relay.yaml (`relay map SOURCE FILE` prints what a body becomes), "
    "reload with SIGHUP, then retry.",
    "destination": "Mend what the destination says: a column, a limit, a right; then retry. Rows that moved on "
    "since do not go back.",
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
    found = list(itertools.islice(failures.every(), LOOKED_AT + 1))
    return found[:LOOKED_AT], len(found) > LOOKED_AT


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


def chosen(failures: Iterable[Failure], group: str, upto: str) -> list[Failure]:
    """The failures of a group that were there when its count was shown."""
    return [f for f in failures if group_id(cause_of(f)) == group and f.arrival <= upto]


def retry(config: Config, failures: Failures, wanted: Iterable[Failure]) -> jobs.Again:
    """Map and send again, as `relay dead retry`."""
    return jobs.retry(failures, wanted, jobs.senders(config, failures.client))


def discard(failures: Failures, wanted: Iterable[Failure]) -> int:
    """Give up for good, as `relay dead discard`; returns how many."""
    return sum(failures.discard(failure) for failure in wanted)
