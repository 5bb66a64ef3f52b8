"""A running `relay up`, seen from outside: its processes, its claims in Redis, its commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import redis

T = TypeVar("T")


def eventually(ask: Callable[[], T], what: str, seconds: float = 30) -> T:
    """What `ask` finds, once it finds anything; servers may be away meanwhile."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, OSError, psutil.NoSuchProcess):
            if found := ask():
                return found
        assert time.monotonic() < until, f"never happened within {seconds} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Claim(NamedTuple):
    """A drain that has events in its hands: its RQ job, the worker that forked it, and its own process."""

    job: str
    worker: int
    horse: int


class Machine:
    """One `relay up` in a folder of its own.

    Args:
        config: the text of relay.yaml, or None for none. env: its whole environment, but for what Python needs.
    """

    #: For how long a command is waited for.
    patience_s = 60.0

    def __init__(self, config: str | None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="e2e"))  # short: a socket's path has some hundred bytes
        self.data, self.port = self.home / "d", free_port()
        self.out, self.err = self.home / "out", self.home / "err"
        self.file = self.home / "relay.yaml"
        if config is not None:
            self.file.write_text(config)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relay", "up", "--port", str(self.port), "--data", str(self.data)],
                cwd=self.home, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={},
            )  # fmt: skip
        self._client: redis.Redis | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> Machine:
        """Wait for the line that says so."""

        def look() -> bool:
            assert self.process.poll() is None, f"it ended: {self.words()}"
            return "rowhook is ready" in self.out.read_text()

        eventually(look, "ready", 60)
        return self

    def words(self, last: int = 4000) -> str:
        """The end of what it said, for a failure's message."""
        return (self.out.read_text() + self.err.read_text())[-last:]

    def supervisor_said(self, event: str) -> int:
        """How often the supervisor itself has logged this."""
        lines = [json.loads(line) for line in self.err.read_text().splitlines() if line.startswith("{")]
        return sum(
            line["event"] == event and line.get("logger_name", "").startswith("relay.supervisor") for line in lines
        )

    def children(self, word: str) -> set[int]:
        """The processes under a part, by a word of the part's command line."""
        return {child.pid for child in psutil.Process(self.part(word)).children()}

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user does, in the same folder."""
        whole = [sys.executable, "-m", "relay", *args, "--data", str(self.data)]
        return subprocess.run(
            whole, cwd=self.home, env={}, capture_output=True, text=True, timeout=self.patience_s, check=False
        )

    @property
    def redis(self) -> Any:
        """A client of the embedded server."""
        if self._client is None:
            url = (self.data / "redis.url").read_text().strip()
            self._client = redis.Redis.from_url(url, decode_responses=True)
        return self._client

    def server(self) -> int:
        """The embedded server's process."""
        return int(self.redis.info("server")["process_id"])

    def claim(self, lane: str) -> Claim | None:
        """Who has events of a lane in hand, if anybody has."""
        holder, in_flight = self.redis.hmget(f"rh:lane:{lane}", "holder", "in_flight")
        if not holder or not int(in_flight or 0):
            return None
        name = self.redis.hget(f"rq:job:{holder}", "worker_name")
        worker = self.redis.hget(f"rq:worker:{name}", "pid")
        if worker is None:
            return None
        horses = psutil.Process(int(worker)).children()
        return Claim(holder, int(worker), horses[0].pid) if horses else None

    def waiting(self, lane: str = "*") -> set[str]:
        """Events that wait in lanes, unsettled ones included."""
        found: set[str] = set()
        for key in self.redis.scan_iter(f"rh:queue:{lane}|*"):
            found.update(self.redis.zrange(key, 0, -1))
        return found

    def part(self, word: str) -> int:
        """The process of a part, by a word of its command line; 0 while there is none."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if word in child.cmdline():
                    return child.pid
        return 0

    def ours(self) -> Iterator[psutil.Process]:
        """Live processes of this folder."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if str(self.home) in " ".join([*process.cmdline(), *process.environ().values()]):
                    yield process

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def clean(self) -> None:
        """Leave nothing behind."""
        if self._client is not None:
            self._client.close()
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in list(self.ours()):
            process.kill()
        shutil.rmtree(self.home)


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(pid: int) -> None:
    """SIGKILL, and wait until it has worked."""
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(pid), f"process {pid} ends")
