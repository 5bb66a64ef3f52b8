"""The connection, the scripts by file name, and what a Redis must be for the promise to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from relay.errors import BufferUnavailable, ConfigInvalid

_OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
_ADDRESSES: Final = "write redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH"
Call = Callable[[Sequence[str], Sequence[Any]], Any]
#: Read once, with the code that calls them: a worker forks for days, and the files beneath it may be upgraded.
_SCRIPTS: Final = {
    file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
    for file in resources.files("relay.buffer").joinpath("scripts").iterdir()
    if file.name.endswith(".lua")
}


def connect(url: str, *, timeout_s: float = 2.0, most: int = 64) -> redis.Redis:
    """A client that fails fast: no retries of its own, since a repeated put would be counted twice.

    Raises:
        ConfigInvalid: that is no address.
    """
    try:
        client: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=most,
            health_check_interval=0,
            protocol=2,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # which knows the options that an address may have
    except (ValueError, TypeError):  # whose words may hold the password
        raise ConfigInvalid(f"no address of a Redis (redis_url): {_ADDRESSES}") from None
    return client


def script(client: redis.Redis, name: str, *, wait_ms: int = 0) -> Call:
    """One operation, loaded by its file name; errors of the driver become `BufferUnavailable`.

    Args:
        client: Redis.
        name: of the file.
        wait_ms: for so long the call waits for Redis's disk, and fails where it is not told in time that all is on
            it; 0: not at all.
    """
    run = client.register_script(_SCRIPTS[name])

    def call_and_wait(keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            # On one connection: WAITAOF speaks of what that connection wrote.
            with client.pipeline(transaction=False) as pipe:
                run(keys=keys, args=args, client=pipe)
                pipe.waitaof(1, 0, wait_ms)
                answer, synced = pipe.execute()
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if synced[0] < 1:
            raise BufferUnavailable("Redis's disk did not take it in time", reason="redis_slow", retry_after_s=2)
        return answer

    def call(keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return run(keys=keys, args=args)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error

    return call_and_wait if wait_ms else call


def unavailable(error: Exception) -> BufferUnavailable:
    """A driver's error by consequence."""
    text = str(error)
    if isinstance(error, RedisTimeoutError):
        return BufferUnavailable("Redis did not answer in time", reason="redis_slow", retry_after_s=2)
    if isinstance(error, OutOfMemoryError) or "OOM" in text or "maxmemory" in text or "MISCONF" in text:
        return BufferUnavailable("Redis is full or cannot write its disk", reason="redis_full", retry_after_s=10)
    if isinstance(error, (RedisConnectionError, OSError)):
        return BufferUnavailable("Redis cannot be reached", reason="redis_away")
    return BufferUnavailable(f"Redis refused: {text[:200]}", reason="redis_error")


class ServerReport(dict[str, str]):
    """What was found of a server; `faults` forbid a start, `warnings` are said in plain words.

    `waits` says that it does not sync every write before it answers, so that a put must ask for it (`WAITAOF`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.waits = False


def inspect(client: redis.Redis, durability: str = "disk") -> ServerReport:
    """Look at a server: version, eviction, persistence, cluster mode; "unknown" where it hides something.

    Args:
        client: Redis.
        durability: what an acknowledgement must mean, `disk` or `process` (the setting).
    """
    report = ServerReport()
    info: Any = client.info()
    name = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "unknown")
    report["server"], report["version"] = name, version
    if version != "unknown" and tuple(int(p) for p in version.split(".")[:2]) < _OLDEST[name]:
        report.faults.append(f"{name} {version} is too old: Redis 7.0 or Valkey 7.2 at least")
    if str(info.get("redis_mode", "standalone")) == "cluster" or info.get("cluster_enabled") == 1:
        report.faults.append("cluster mode: the relay's scripts need all keys on one node; use one primary")
    report["mode"] = str(info.get("redis_mode") or info.get("server_mode") or "unknown")
    policy = str(info.get("maxmemory_policy") or _config(client, "maxmemory-policy"))
    report["maxmemory_policy"] = policy
    if policy not in {"noeviction", "unknown"}:
        report.faults.append(
            f"maxmemory-policy is {policy}, so Redis may drop acknowledged events: set it to noeviction"
        )
    report["maxmemory"] = str(info.get("maxmemory", "unknown"))
    report["durability"] = durability
    _persistence(client, info, report)
    return report


def _persistence(client: redis.Redis, info: Any, report: ServerReport) -> None:
    aof, fsync = info.get("aof_enabled"), _config(client, "appendfsync")
    report["appendonly"] = {1: "yes", 0: "no"}.get(aof, "unknown")
    report["appendfsync"] = fsync
    if aof == 1 and fsync == "always":
        return
    if report["durability"] == "process":
        if aof == 0:
            report.warnings.append(
                "append-only file is off: what was acknowledged since the last snapshot is lost when Redis dies"
            )
        else:
            report.warnings.append(
                f"appendfsync is {fsync}: what was acknowledged lately is lost when Redis's machine dies"
            )
        return
    fault = _cannot_wait(client, aof, fsync)
    if fault:
        report.faults.append(f"{fault}, or accept it with `durability: process` in relay.yaml")
        return
    report.waits = True
    report.warnings.append(
        f"appendfsync is {fsync}: each webhook waits for the disk, up to a second; set it to always to be quicker"
    )


def _cannot_wait(client: redis.Redis, aof: Any, fsync: str) -> str:
    """Why nobody can say when a write is on the server's disk; empty where it can be waited for."""
    off = "append-only file is off, so what is acknowledged is lost when Redis dies: set appendonly yes"
    if aof == 0:
        return off
    if fsync == "no":
        return "appendfsync is no, so nobody knows when a webhook is on the disk: set appendfsync always"
    try:
        client.waitaof(1, 0, 1)  # nothing was written here, so it answers at once
    except ResponseError as error:
        if "appendonly" in str(error):
            return off
        return f"appendfsync is {fsync}, and WAITAOF is refused ({str(error)[:100]}): set appendfsync always"
    return ""


def _config(client: redis.Redis, name: str) -> str:
    try:
        found: Any = client.config_get(name)
    except ResponseError:  # managed servers hide CONFIG
        return "unknown"
    return str(found.get(name, "unknown"))


def require(client: redis.Redis, durability: str = "disk") -> ServerReport:
    """`inspect`, and refuse a server that would break the promise.

    Raises:
        ConfigInvalid: with one line a fault.
        BufferUnavailable: it cannot be reached.
    """
    try:
        report = inspect(client, durability)
    except (RedisError, OSError) as error:
        raise unavailable(error) from error
    if report.faults:
        raise ConfigInvalid("\n".join(f"Redis: {fault}" for fault in report.faults))
    return report
