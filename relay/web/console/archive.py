"""The archive, asked of the half that has it: `python -m worker events`, as `relay replay` does.

A process of its own for each question, and one question at a time in each web process, for a few seconds at most:
no sqlite and no large answer ever stands in the way of a delivery.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from relay.config import Config
from relay.errors import BufferUnavailable

#: Where `worker.archive` keeps it in the data folder.
FILE: Final = "events.db"
_LONGEST_S: Final = 8.0
_WAIT_S: Final = 1.0
_CHUNK: Final = 64 * 1024
_seat: Final = threading.BoundedSemaphore(1)


class NotHere(Exception):
    """This machine has no archive; the text says what to do."""


def find(config: Config, wanted: dict[str, str], most: int) -> Iterator[tuple[str, bytes]]:
    """Arrival and blob of archived events, oldest first, up to so many, and no longer than some seconds.

    Raises:
        NotHere: the archive is elsewhere, or there is none.
        BufferUnavailable: somebody else is asking.
    """
    if not (config.data_dir / FILE).exists():
        if config.settings.archive_days == 0:
            raise NotHere("There is no archive (archive_days: 0).")
        raise NotHere(f"There is no {FILE} in this data folder yet, or it is on the worker's machine.")
    if not _seat.acquire(timeout=_WAIT_S):
        raise BufferUnavailable("somebody else reads the archive", reason="busy", retry_after_s=5)
    try:
        for number, line in enumerate(_lines(config, json.dumps(wanted))):
            if number >= most:
                return
            told = msgspec.json.decode(line)
            yield told["arrival"], base64.b64decode(told["blob"])
    finally:
        _seat.release()


def _lines(config: Config, wanted: str) -> Iterator[bytes]:
    """What the other half prints, until the time is up."""
    environment = {**os.environ, "RELAY_DATA": str(config.data_dir)}
    if config.path is not None:
        environment["RELAY_CONFIG"] = str(config.path)
    command = [sys.executable, "-m", "worker", "events", wanted]
    until, rest = time.monotonic() + _LONGEST_S, b""
    null, pipe_ = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=null, stdout=pipe_) as asked:  # noqa: S603 - ourselves
        try:
            pipe = asked.stdout.fileno() if asked.stdout is not None else -1
            while (left := until - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
                chunk = os.read(pipe, _CHUNK)
                if not chunk:
                    break
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
        finally:
            with contextlib.suppress(ProcessLookupError):
                asked.kill()
