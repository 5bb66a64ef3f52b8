"""A relay as it runs, gunicorn and all, that clients push to; what came of it is read here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import redis

from tests.flow.test_history import Here

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


class Serving(Here):
    """The web half of it is a process of its own; its drains run here.

    Args:
        url: a Redis. folder: for its settings and its warehouse.
    """

    def __init__(self, url: str, folder: Path, **settings: Any) -> None:
        with redis.Redis.from_url(url) as client:
            client.flushall()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        super().__init__(url, folder, host="127.0.0.1", port=self.port, web_workers=1, **settings)
        self.host = f"127.0.0.1:{self.port}"
        self.base = f"http://{self.host}"
        command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "deploy/gunicorn.conf.py")]
        env = {**os.environ, "RELAY_CONFIG": str(self.path), "RELAY_DATA": str(folder)}
        self.server = subprocess.Popen([*command, "relay.app:create_app()"], env=env, cwd=ROOT)
        give_up = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert self.server.poll() is None, "gunicorn ended"
                assert time.monotonic() < give_up
                time.sleep(0.05)
        self.key = self.created(12)

    def created(self, number: int) -> str:
        """A new key of a client."""
        return str(self.run("keys", "create", "--kind", "import", "--client", str(number)).stdout.splitlines()[0])

    def stop(self) -> None:
        """End the web half."""
        self.server.terminate()
        self.server.wait(40)
        self.client.close()

    def rows(self, table: str, columns: str) -> list[tuple[Any, ...]]:
        """What a table holds once all is delivered."""
        self.drain()
        return self.sql(f"SELECT {columns} FROM {table} ORDER BY 1")


def client(program: str, *args: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run a client as its authors published it: its own command, or a driver of this folder that calls it."""
    assert PYTHON.exists(), "the clients that these tests run are not installed: run `make install-test`"
    script = PYTHON.parent / program if "-" in program else ROOT / "tests" / "clients" / f"{program}.py"
    command = [str(PYTHON), "-W", "ignore", str(script), *args]
    return subprocess.run(command, input=told, capture_output=True, text=True, timeout=120, check=False)
