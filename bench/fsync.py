"""Syncs of the embedded Valkey beside the groups that it acknowledged, counted by the kernel's own trace.

A SIGKILL leaves the kernel's page cache as it is, so no test that kills processes shows that a write was on the
disk when its 202 went out. This one counts: every group must have had an `fdatasync` (or `fsync`) of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError

from bench.report import Row, at_least
from bench.servers import Valkey, folder
from relay.buffer import keys
from relay.buffer.accept import Bounds, Delivery, Front, Offer, digest_of

SOURCE: Final = "bench"
_CALLS: Final = ("fdatasync", "fsync")
#: A line of `strace -c`: share, seconds, microseconds a call, calls, errors if any, name.
_LINE: Final = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(\d+)?\s*(\w+)$", re.MULTILINE)


class Traced(Valkey):
    """A Valkey exactly as `relay up` runs it, under strace."""

    def __init__(self, data: Path, name: str) -> None:
        super().__init__(data, name)
        self._summary = data / f"{name}.strace"
        strace = ["strace", "-f", "-c", "-e", f"trace={','.join(_CALLS)}", "-o", str(self._summary)]
        self._argv = [*strace, *self._argv]

    def syncs(self) -> int:
        """End the server; how many of its syncs succeeded, from its start to its end."""
        with contextlib.suppress(RedisConnectionError):  # it ends, which is its answer
            self.client.shutdown(nosave=True)
        self._child.wait(30)
        return successes(self._summary.read_text())


def successes(summary: str) -> int:
    """Syncs without an error in what `strace -c` wrote."""
    found: Iterable[tuple[str, str, str]] = _LINE.findall(summary)
    return sum(int(calls) - int(errors or 0) for calls, errors, name in found if name in _CALLS)


def run(*, quick: bool) -> list[Row]:
    """Count; raises where an acknowledged event is missing, or where there is no strace."""
    if shutil.which("strace") is None:
        raise SystemExit("this bench needs strace, which is not installed (Debian: apt-get install strace)")
    groups = 1_000 if quick else 10_000
    with folder() as data:
        # What a server syncs when it starts and ends is not for anybody's group.
        besides = _syncs(data, "idle", 0)
        syncs = _syncs(data, "busy", groups) - besides
    what = "syncs for each acknowledged group (one group at a time)"
    return [at_least("fsync", what, f"{groups:,} groups, {syncs:,} syncs", "", syncs / groups, 1)]


def _syncs(data: Path, name: str, groups: int) -> int:
    """Successful syncs of one server's life, in which one sender had so many groups acknowledged."""
    with Traced(data, name) as server:
        front = Front(server.url, Bounds(), lambda _lane: None, deadline_s=30)
        for number in range(groups):
            front.put(_delivery(number))
        front.client.close()
        held = server.client.hlen(keys.EVENTS)
        if held != groups:
            raise RuntimeError(f"{groups} groups were acknowledged, {held} events are held")
        return server.syncs()


def _delivery(number: int) -> Delivery:
    counts = {f"e|{SOURCE}|accepted": 1, f"e|{SOURCE}|mapped": 1}
    digest = digest_of(SOURCE, "thing", str(number).encode())
    offer = Offer(digest, "id", os.urandom(600), quarantined=False, lanes=("warehouse/0/1",), counts=counts)
    return Delivery(SOURCE, (offer,), {})
