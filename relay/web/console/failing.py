"""Retry and discard of failures of one cause, or of one, as `relay dead` does them; and what mends which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from relay import jobs
from relay.buffer.causes import cause_of, group_id
from relay.buffer.failures import Failure, Failures
from relay.config import Config

#: What to do about each.
MENDS: Final = {
    "vendor": "Look at a body: where the sender made it, and it cannot be read, give it up; "
    "where relay.yaml reads it wrongly, mend that and retry.",
    "mapping": "Mend the source in relay.yaml (`relay map SOURCE FILE` prints what a body becomes), "
    "reload with SIGHUP, then retry.",
    "destination": "Mend what the destination says: a column, a limit, a right; then retry. Rows that moved on "
    "since do not go back.",
}


def chosen(failures: Iterable[Failure], group: str, upto: str) -> list[Failure]:
    """The failures of a group that were there when its count was shown."""
    return [f for f in failures if group_id(cause_of(f)) == group and f.arrival <= upto]


def retry(config: Config, failures: Failures, wanted: Iterable[Failure]) -> jobs.Again:
    """Map and send again, as `relay dead retry`."""
    return jobs.retry(failures, wanted, jobs.senders(config, failures.client))


def discard(failures: Failures, wanted: Iterable[Failure]) -> int:
    """Give up for good, as `relay dead discard`; returns how many."""
    return sum(failures.discard(failure) for failure in wanted)
