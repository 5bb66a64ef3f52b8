"""Which archived deliveries touched a row, the newest looked at first, for as long as somebody waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from relay.buffer.failures import Failures
from relay.buffer.looking import RowOf
from relay.buffer.redis import connect
from relay.config import Config
from relay.errors import Permanent
from relay.lineage import Traced, lineage, sought
from relay.records import Codec, Packed, Table
from worker.jobs import open_archive

_TRACE_S: Final = 5.0
#: Deliveries that are told.
MOST: Final = 200
_REDIS_TIMEOUT_S: Final = 30.0


def traced(config: Config, table: str, row: RowOf) -> Traced:
    """The deliveries kept that touched a row, as `relay lineage` tells them.

    Raises:
        Permanent: of reason `no_archive`.
        Transient: the archive cannot be read now.
    """
    if config.settings.archive_days == 0:
        raise Permanent("nothing is archived (archive_days: 0), so no delivery can be told", reason="no_archive")
    wanted = sought(table, Table(table, row.key, parent=row.parent), row.values)
    looked = _Looked()
    with (
        contextlib.closing(open_archive(config)) as archive,
        contextlib.closing(connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)) as client,
    ):
        events = looked.until(archive.back(row.source), time.monotonic() + _TRACE_S)
        touches = lineage(events, wanted, Failures(client).every(), row.to)
    return Traced(touches[-MOST:], looked.since)


class _Looked:
    """How far it was looked back; nothing where it was to the end."""

    since = ""

    def until(self, events: Iterator[tuple[str, bytes]], end: float) -> Iterator[tuple[str, Packed]]:
        codec = Codec()
        for arrival, blob in events:
            if time.monotonic() > end:
                self.since = arrival
                return
            yield arrival, codec.unpack(blob)
