"""The embedded Valkey of `relay up`: one server on one AOF, started, adopted, watched and stopped last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import redis
from redis.exceptions import BusyLoadingError, RedisError

from relay import telemetry
from relay.errors import RelayError
from relay.locks import Lock
from relay.supervisor import place
from relay.supervisor.parts import Backoff, ending

_log = telemetry.logger(__name__)
_ANSWER_S: Final = 15.0  # a server that neither answers nor says that it loads is not well
_HOLDER_S: Final = 5.0  # a server that is just ending lets go of the lock in less
_STOP_S: Final = 30.0
_LOOK_S: Final = 0.5


class Server:
    """The one server of a data folder.

    Args:
        data_dir: DIR. say: takes progress, one line a call.

    `start`, then `tick` now and then, and `stop` at the end. While the server is away the relay answers 503 and
    waits; `tick` starts it again on the same AOF. `answers` tells whether it can be asked.
    """

    def __init__(self, data_dir: Path, say: Callable[[str], None]) -> None:
        self.dir, self._say = data_dir.resolve(), say
        self.data, self._log_path = self.dir / "valkey", self.dir / "valkey.log"
        self.lock = Lock(self.dir / "lock")
        self.socket = place.socket_path(self.dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted: int | None = None
        self._client: redis.Redis | None = None
        self._backoff = Backoff()
        self.answers = self._ours = False
        self._since = self._due = self._looked = 0.0
        self._log_from = 0

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process, ours or adopted."""
        return self._process.pid if self._process else self._adopted

    def orphaned(self) -> bool:
        """Whether a server of an earlier start still runs here; only asked before `start`."""
        return not self.lock.take()

    def start(self, pause: Callable[[float], None]) -> None:
        """Start the server, or take over the one that outlived its supervisor, and wait until it answers.

        Args:
            pause: waits for so many seconds; may raise to break off.

        Raises:
            RelayError: it cannot run here; one sentence.
        """
        until = time.monotonic() + _HOLDER_S
        while not (self.lock.take() or self._adopt()):
            if time.monotonic() > until:
                raise RelayError(
                    f"a server that does not answer still holds {self.lock.path} "
                    f"(process {self._holder().get('pid', 'unknown')}): end it, then start again"
                )
            pause(0.2)
        if self._adopted is None:
            self._spawn()
        else:
            self._say(f"took over the server that an earlier `relay up` left running (process {self._adopted})")
        self._await(pause)
        place.write_private(self.dir / "redis.url", self.url + "\n")

    def tick(self) -> None:
        """Notice that it ended, start it again, and notice that it answers again."""
        if self.pid is not None and not self._ended():
            if not self.answers and self._look():
                self.answers = True
                _log.info("server_back", process=self.pid)
            return
        if time.monotonic() >= self._due and self.lock.take():
            try:
                self._spawn()
            except (RelayError, OSError) as error:
                self._again(str(error))

    def stop(self) -> None:
        """Ask it to end and wait until it has; every acknowledged write is on disk already."""
        if not self._ours:  # refused at the start: what runs there is not for us to stop
            self.lock.close()
            return
        if self._alive():
            self._kill(signal.SIGTERM)
            until = time.monotonic() + _STOP_S
            while self._alive() and time.monotonic() < until:
                time.sleep(0.05)
            if self._alive():
                _log.warning("server_killed", waited_s=_STOP_S)
                self._kill(signal.SIGKILL)
                while self._alive():
                    time.sleep(0.05)
        self._process = self._adopted = None
        (self.dir / "redis.url").unlink(missing_ok=True)
        self.lock.close()

    def _spawn(self) -> None:
        self.data.mkdir(exist_ok=True, mode=0o700)
        self.socket.parent.mkdir(exist_ok=True, mode=0o700)
        self._log_from = self._log_path.stat().st_size if self._log_path.exists() else 0
        self._since, self.answers, self._ours = time.monotonic(), False, True
        if self.lock.fd is None:
            raise RelayError("the server's lock is not ours")
        self.lock.say(json.dumps({"pid": None, "socket": str(self.socket)}))
        try:
            # What it says before it opens its log goes there too: our own output holds our lines alone.
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the packaged binary
                    place.command(self.data, self.socket, self._log_path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    # Not of our session: it must be the last to go, whatever ends us.
                    start_new_session=True,
                    pass_fds=(self.lock.fd,),
                )
        except OSError as error:
            raise RelayError(f"the embedded Valkey cannot be started ({error.strerror})") from None
        self.lock.say(json.dumps({"pid": self._process.pid, "socket": str(self.socket)}))

    def _adopt(self) -> bool:
        """Take over the lock's holder, if it answers as the server of this folder."""
        socket = self._holder().get("socket")
        if not isinstance(socket, str):
            return False
        client = place.client(Path(socket))
        try:
            pid = int(client.info("server")["process_id"])
            folder = str(client.config_get("dir")["dir"])
        except (RedisError, LookupError, ValueError):
            return False
        if Path(folder).resolve() != self.data:
            raise RelayError(
                f"the server that holds {self.lock.path} (process {pid}) keeps its data in {folder}, not in "
                f"{self.data}: end it, then start again"
            )
        self.socket, self._client, self._adopted, self._ours = Path(socket), client, pid, True
        return True

    def _holder(self) -> dict[str, Any]:
        try:
            found = json.loads(self.lock.said())
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _await(self, pause: Callable[[float], None]) -> None:
        until, told = time.monotonic() + _ANSWER_S, 0.0
        while True:
            if self._process is not None and (code := self._process.poll()) is not None:
                raise RelayError(f"the embedded Valkey did not start ({ending(code)}): {self._last_words()}")
            try:
                self._connection().ping()
            except BusyLoadingError:
                until = time.monotonic() + _ANSWER_S
                if time.monotonic() - told >= 1:
                    told = time.monotonic()
                    self._say(f"reading the stored data: {self._loaded()} %")
            except RedisError:
                if time.monotonic() > until:
                    raise RelayError(
                        f"the embedded Valkey (process {self.pid}) does not answer: see {self._log_path}"
                    ) from None
            else:
                break
            pause(0.05)
        self._check()
        self.answers = True

    def _check(self) -> None:
        """Check that it keeps what it acknowledges; an adopted one may have been set otherwise.

        Raises:
            RelayError: it does not.
        """
        for name, wanted in place.DURABLE.items():
            self._connection().config_set(name, wanted)
            found = self._connection().config_get(name).get(name)
            if found != wanted:
                raise RelayError(f"the embedded Valkey has {name} {found}, not {wanted}: end process {self.pid}")

    def _connection(self) -> redis.Redis:
        if self._client is None:
            self._client = place.client(self.socket)
        return self._client

    def _loaded(self) -> str:
        try:
            return str(self._connection().info("persistence").get("loading_loaded_perc", "?")).split(".", 1)[0]
        except RedisError:
            return "?"

    def _look(self) -> bool:
        """Whether it answers, asked every half second; a started one is durable by its command line."""
        if time.monotonic() - self._looked < _LOOK_S:
            return False
        self._looked = time.monotonic()
        try:
            return bool(self._connection().ping())
        except RedisError:
            return False

    def _alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        # Not our child: as long as it lives it holds the lock.
        return self._adopted is not None and not self.lock.take()

    def _ended(self) -> bool:
        if self._alive():
            return False
        code = self._process.returncode if self._process else None
        self._process = self._adopted = None
        self._again("gone" if code is None else ending(code))
        return True

    def _again(self, ended: str) -> None:
        now = time.monotonic()
        pause = self._backoff.after(now - self._since)
        self._due = now + pause
        _log.error("server_ended", ended=ended, last_words=self._last_words(), again_in_s=pause)

    def _last_words(self) -> str:
        return place.last_words(self._log_path, self._log_from)

    def _kill(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
        elif self._adopted is not None:
            os.kill(self._adopted, number)
