"""Looks into the archive for the console. What RQ calls, by name.

A search goes from the newest event back, and ends early rather than late: whoever asked may go on from there.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from redis import Redis

from relay.buffer.finding import Budget, Found, Hit, Sought, Text, fits, hit_of, is_arrival, with_states
from relay.buffer.looks import Looks
from relay.buffer.redis import connect
from relay.config import Config
from relay.errors import Permanent
from relay.records import Codec, encode_json, records_of
from worker import jobs
from worker.archive import Archive, Wanted

#: Of one search: events that are shown, bytes of bodies that are read, and seconds.
HITS, BYTES, SECONDS = 100, 256 * 1024 * 1024, 5.0
#: Events of the archive that are read in one step.
_WINDOW: Final = 500
_PAGE: Final = 20
#: Of one event: bytes of its body, records, and bytes of these, that are shown.
BODY, RECORDS, RECORD_BYTES = 64 * 1024, 50, 512 * 1024
_REDIS_TIMEOUT_S: Final = 30.0


def search(token: str) -> None:
    """Look for events; the RQ job."""
    config = jobs.configured()
    client = connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)

    def work(asked: dict[str, Any]) -> Any:
        with _archive(config) as archive:
            return msgspec.to_builtins(_Search(client, archive, msgspec.convert(asked, Sought)).found())

    Looks(client).answer(token, work)


def event(token: str) -> None:
    """Fetch one event, as much of it as is shown; the RQ job."""
    config = jobs.configured()
    client = connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)

    def work(asked: dict[str, Any]) -> Any:
        with _archive(config) as archive:
            blob = archive.blobs([asked["arrival"]]).get(asked["arrival"])
        if blob is None:
            return None
        packed = Codec().unpack(blob)
        records = records_of(packed)
        few = records[:RECORDS]
        while len(encode_json(few)) > RECORD_BYTES:
            few = few[: len(few) // 2]
        # One byte more than is shown, so that it is seen that there is more.
        less = Codec().pack(packed.meta, packed.raw[: BODY + 1], few)
        return {"blob": base64.b64encode(less).decode(), "size": len(packed.raw), "records": len(records)}

    Looks(client).answer(token, work)


@contextlib.contextmanager
def _archive(config: Config) -> Iterator[Archive]:
    if not (config.data_dir / "events.db").exists():
        raise Permanent(f"there is no archive on the worker's machine yet ({config.data_dir}/events.db)")
    with contextlib.closing(jobs.open_archive(config)) as archive:
        yield archive


class _Search:
    """One search, from the newest event back."""

    def __init__(self, client: Redis, archive: Archive, sought: Sought) -> None:
        self._client, self._archive, self._sought = client, archive, sought
        self._text, self._budget = Text(sought.text), Budget(HITS, BYTES, SECONDS)
        self._hits: list[Hit] = []
        self._codec = Codec()

    def found(self) -> Found:
        """What it comes to."""
        sought, at = self._sought, self._sought.before
        if is_arrival(sought.id):
            self._look([sought.id])
            return Found(self._hits)
        while True:
            wanted = Wanted(sought.source, sought.type, sought.id, since=sought.since, until=at)
            arrivals, oldest = self._archive.window(wanted, _WINDOW)
            for start in range(0, len(arrivals), _PAGE):
                page = arrivals[start : start + _PAGE]
                self._look(page)
                if self._budget.over():
                    return Found(self._hits, page[-1], self._budget.over())
            if not oldest:
                return Found(self._hits)
            at = oldest
            if self._budget.over():
                return Found(self._hits, at, self._budget.over())

    def _look(self, page: list[str]) -> None:
        blobs, fitting = self._archive.blobs(page), []
        for arrival in page:
            if arrival in blobs:
                packed = self._codec.unpack(blobs[arrival])
                self._budget.spend(len(packed.raw), hit=False)
                if fits(self._sought, self._text, arrival, packed):
                    fitting.append(hit_of(arrival, packed))
        found = [hit for hit in with_states(self._client, fitting) if hit.is_in(self._sought.state)]
        for hit in found:
            self._budget.spend(0, hit=True)
            self._hits.append(hit)
