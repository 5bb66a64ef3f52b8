"""Retry and discard of failures of one cause, or of one, as `relay dead` does them; and what mends which."""

from __future__ import annotations

import base64
import zlib
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


#: Bytes of ids that a form may name.
_MOST_BYTES: Final = 512 * 1024


def chosen(failures: Iterable[Failure], group: str, upto: str) -> list[Failure]:
    """The failures of a group, those that came before its count was shown."""
    return [f for f in failures if group_id(cause_of(f)) == group and f.arrival <= upto]


def named(failures: Iterable[Failure]) -> str:
    """Which failures are asked about, for the form that says yes: what fails meanwhile is not meant.

    Not by their arrival, since an older event may fail later; and not kept in Redis, which may be full.
    """
    return base64.b64encode(zlib.compress("\n".join(f.id for f in failures).encode())).decode()


def meant(text: str) -> list[str]:
    """The ids of such a form; none where it is damaged."""
    try:
        found = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
        return found.decode().split("\n") if found else []
    except (ValueError, zlib.error):
        return []


def retry(config: Config, failures: Failures, wanted: Iterable[Failure]) -> jobs.Again:
    """Map and send again, as `relay dead retry`."""
    return jobs.retry(failures, wanted, jobs.senders(config, failures.client))


def discard(failures: Failures, wanted: Iterable[Failure]) -> int:
    """Give up for good, as `relay dead discard`; returns how many."""
    return sum(failures.discard(failure) for failure in wanted)
