"""What `relay up` and `relay web` put under the supervisor, in order."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from relay import telemetry
from relay.buffer.admins import Admins
from relay.buffer.redis import connect
from relay.config import Config
from relay.errors import RelayError
from relay.supervisor import demo
from relay.supervisor.active import Active
from relay.supervisor.address import Address
from relay.supervisor.embedded import Server
from relay.supervisor.locks import one_supervisor, prepare
from relay.supervisor.loop import Supervisor
from relay.supervisor.parts import Part, adopt_orphans
from relay.supervisor.place import write_private
from relay.supervisor.serving import APP, LISTEN_FD
from relay.supervisor.signals import Signals, Stopped

_log = telemetry.logger(__name__)
Say = Callable[[str], None]
#: Makes the parts from what is set for each, and the listening socket.
Parts = Callable[[Mapping[str, str], Address], Sequence[Part]]

#: Destinations are read by the half that has them.
_WORKER_CHECK: Final = """
import sys
from relay.errors import RelayError
from worker import __main__ as main, jobs
try:
    jobs.setup(main.load_from_environment())
except RelayError as error:
    sys.exit(str(error))
"""
#: gunicorn gives requests 30 s to finish, then it ends by itself.
_WEB_STOP_S: Final = 32.0
#: A running batch ends within its destination's own request limit.
_WORKER_STOP_S: Final = 90.0
#: For how long parts of a killed supervisor may still hold the port.
_HANDOVER_S: Final = 35.0


def web_part(env: Mapping[str, str], address: Address) -> Part:
    """Gunicorn on the supervisor's listening socket."""
    settings = str(Path(__file__).with_name("gunicorn_conf.py"))
    gunicorn = (sys.executable, "-m", "gunicorn", "--config", f"file:{settings}")
    return Part(
        "web",
        (*gunicorn, APP),
        {**env, LISTEN_FD: str(address.fd)},
        check=(*gunicorn, "--check-config", APP),
        stop_after_s=_WEB_STOP_S,
        pass_fds=(address.fd,),
    )


def worker_part(env: Mapping[str, str]) -> Part:
    """The RQ workers of this machine and their ticker."""
    return Part(
        "worker",
        (sys.executable, "-m", "worker"),
        env,
        check=(sys.executable, "-c", _WORKER_CHECK),
        stop_after_s=_WORKER_STOP_S,
        settle_s=2,
        faulty_code=2,
    )


def _all_parts(env: Mapping[str, str], address: Address) -> Sequence[Part]:
    return [web_part(env, address), worker_part(env)]


def _web_alone(env: Mapping[str, str], address: Address) -> Sequence[Part]:
    return [web_part(env, address)]


def up(  # noqa: PLR0913 - what the command line can say
    config: Config,
    *,
    config_path: Path | None,
    port: int | None,
    redis_url: str | None,
    workers: int | None,
    out: Say,
    parts: Parts = _all_parts,
    first: Callable[[str], None] | None = None,
) -> int:
    """Run everything on this machine until SIGINT or SIGTERM.

    Args:
        config: as loaded.
        config_path: the file it came from, None for the demo's.
        port: from the command line, as the next two; None where it says nothing.
        redis_url: another Redis than the embedded one.
        workers: how many RQ workers.
        out: takes progress and errors, one line a call.
        parts: what to run beside the server.
        first: called with the Redis's address before anything else runs.

    Returns:
        The exit code: 0 after an asked-for stop, 1 where it could not start.
    """
    options = {"RELAY_REDIS_URL": redis_url, "RELAY_WORKERS": workers}
    env = {name: str(value) for name, value in options.items() if value is not None}

    def serve(signals: Signals, say: Say) -> None:
        prepare(config.data_dir)
        lock = one_supervisor(config.data_dir)
        elsewhere = redis_url or config.settings.redis_url.get_secret_value()
        server = None if elsewhere else Server(config.data_dir, say)
        address = _listen(config, port, server, signals, say)
        # Where `relay send` finds the relay of this folder.
        write_private(config.data_dir / "port", str(address.port))
        source = config_path if config_path is not None and config_path.exists() else None
        if source is None:
            if demo.write(config.data_dir):
                say(f"wrote a demo source of each kind to {config.data_dir / 'demo.yaml'}")
            source = config.data_dir / "demo.yaml"
        active = Active(source, config.data_dir.resolve(), "up")
        with contextlib.closing(address), contextlib.closing(lock), _running(server, signals, say):
            if first is not None:
                first(server.url if server else elsewhere)
            if config.settings.console_password_login:
                _invite(server.url if server else elsewhere, address, say)
            shared = env | ({"RELAY_REDIS_URL": server.url} if server else {})
            _supervise(active, shared, address, server, signals, say, parts)

    return _run(config, out, serve)


def web(config: Config, *, config_path: Path | None, port: int | None, out: Say, parts: Parts = _web_alone) -> int:
    """Run gunicorn alone, for a container, until SIGINT or SIGTERM; arguments and exit code as for `up`."""

    def serve(signals: Signals, say: Say) -> None:
        config.redis_url()
        prepare(config.data_dir)
        address = _listen(config, port, None, signals, say)
        active = Active(config_path or config.path, config.data_dir.resolve(), f"web-{address.port}")
        with contextlib.closing(address):
            _supervise(active, {}, address, None, signals, say, parts)

    # In a container nobody sits before it: what it says are lines as all others.
    return _run(config, out, serve, lines=telemetry.as_json(config.settings.log_format))


def _invite(url: str, address: Address, say: Say) -> None:
    """Say where the first admin sets a password, as long as nobody has one."""
    try:
        with connect(url) as client:
            token = Admins(client).invite_first("admin")
    except (RelayError, RedisError, OSError) as error:
        say(f"no link for the console's first admin ({error}): `relay admin add NAME` makes one")
        return
    if token is not None:
        where = f"{address.url}/console/welcome?token={token}"
        say(f"first admin of the console: set a password at {where} (good once, for an hour)")


def _run(config: Config, out: Say, serve: Callable[[Signals, Say], None], *, lines: bool = False) -> int:
    telemetry.setup(config.settings.log_format, config.settings.log_level)

    def say(line: str, *, fault: bool = False) -> None:
        if lines:
            _log.log(logging.ERROR if fault else logging.INFO, "progress", text=line)
            return
        # Whoever reads may be gone, with the terminal or the pipe; the work is not.
        with contextlib.suppress(OSError):
            out(line)

    try:
        with Signals() as signals:
            adopt_orphans()
            serve(signals, say)
    except Stopped:
        return 0
    except RelayError as error:
        say(str(error), fault=True)
        return 1
    except OSError as error:
        where = error.filename or config.data_dir
        say(f"{where}: {error.strerror}: look at the disk and the rights of this user", fault=True)
        return 1
    return 0


def _listen(config: Config, asked: int | None, server: Server | None, signals: Signals, say: Say) -> Address:
    """The listening socket; a killed supervisor's parts, which are just stopping, may hold it for a moment."""
    host, port = config.settings.host, config.settings.port if asked is None else asked
    until = time.monotonic() + (_HANDOVER_S if server is not None and server.orphaned() else 0)
    told = False
    while True:
        try:
            return Address(host, port)
        except RelayError:
            if time.monotonic() >= until:
                raise
        if not told:
            told = True
            say(f"waiting for port {port}, which an earlier `relay up` may still be leaving")
        signals.pause(0.25)


@contextlib.contextmanager
def _running(server: Server | None, signals: Signals, say: Say) -> Iterator[None]:
    """The embedded server, from before the parts start until after they have stopped."""
    if server is None:
        yield
        return
    try:
        say(f"starting the embedded Valkey in {server.dir}")
        server.start(signals.pause)
        yield
    finally:
        server.stop()


def _supervise(
    active: Active,
    env: Mapping[str, str],
    address: Address,
    server: Server | None,
    signals: Signals,
    say: Say,
    parts: Parts,
) -> None:
    config = active.accept()
    known = {**env, **active.env, "RELAY_DATA": str(active.data_dir), "RELAY_PORT": str(address.port)}
    where = f"{address.url}/console/ (data in {active.data_dir})"
    made = parts(known, address)
    Supervisor(made, server, address, active, config, signals, say).run(f"rowhook is ready: {where}")
