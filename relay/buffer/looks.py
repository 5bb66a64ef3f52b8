"""What the console has somebody else look for, or do: asked for by a page, worked on as a job, kept for minutes.

The archive and the destinations are the other half's, so a page asks for a job and shows what comes of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import redis as driver
from redis.exceptions import RedisError
from rq.timeouts import JobTimeoutException

from relay.buffer import keys
from relay.buffer.redis import unavailable
from relay.errors import BufferUnavailable, RelayError

#: What was asked for, and what came of it, is kept for so long.
KEPT_S: Final = 900
#: Without a sign of life for so long, whoever worked on it is gone.
SILENT_MS: Final = 90_000
ASKED: Final = "asked"
RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
_TOKEN_BYTES: Final = 18
_NOBODY: Final = (
    "nobody took it up in time, and nothing was done: see that `relay worker` runs and what else it was asked "
    "for, then ask again"
)


class Look(msgspec.Struct, frozen=True):
    """Something asked for.

    Args:
        kind: what. asked: of it, as JSON values. state: one of the words above. why: where it failed.
        value: what came of it. asked_ms, beat_ms: when it was asked for, and the last sign of life, since 1970.
        until_ms: when it is not begun any more. progress: how far it is, as JSON values.
        followed: the name of what went on from it.
    """

    kind: str
    asked: dict[str, Any]
    state: str
    why: str = ""
    value: Any = None
    asked_ms: int = 0
    beat_ms: int = 0
    until_ms: int = 0
    progress: Any = None
    followed: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in {DONE, FAILED}


class Looks:
    """All of a Redis."""

    def __init__(self, client: driver.Redis) -> None:
        self._client = client

    def create(self, kind: str, asked: Mapping[str, Any], *, waits_s: int = KEPT_S) -> str:
        """Note what is asked for, and for how long it may wait; its name is told to a job, and to nobody else."""
        token, now = secrets.token_hex(_TOKEN_BYTES), _now()
        until = now + waits_s * 1000
        self._note(token, kind=kind, asked=msgspec.json.encode(asked), state=ASKED, asked_ms=now, until_ms=until)
        return token

    def find(self, token: str) -> Look | None:
        """As it stands; None where there never was one, or there is no more."""
        raw: Any = self._client.hgetall(keys.look(token))
        if b"kind" not in raw:
            return None
        found = Look(
            raw[b"kind"].decode(),
            msgspec.json.decode(raw[b"asked"]),
            raw[b"state"].decode(),
            raw.get(b"why", b"").decode("utf-8", "replace"),
            msgspec.json.decode(raw.get(b"value", b"null")),
            int(raw.get(b"asked_ms", 0)),
            int(raw.get(b"beat_ms", 0)),
            int(raw.get(b"until_ms", 0)),
            msgspec.json.decode(raw.get(b"progress", b"null")),
            raw.get(b"followed", b"").decode(),
        )
        if found.state == ASKED and found.until_ms < _now():
            return msgspec.structs.replace(found, state=FAILED, why=_NOBODY)
        if found.state == RUNNING and found.beat_ms < _now() - SILENT_MS:
            return msgspec.structs.replace(found, state=FAILED, why="whoever worked on it is gone: ask again")
        return found

    def beat(self, token: str, progress: Any = None) -> None:
        """A sign of life, and how far it is where that is known."""
        told = {} if progress is None else {"progress": msgspec.json.encode(progress)}
        self._note(token, beat_ms=_now(), **told)

    def follow(self, token: str, by: str) -> bool:
        """Note what goes on from it; False where something does already."""
        with self._client.pipeline() as pipe:
            pipe.hsetnx(keys.look(token), "followed", by)
            pipe.expire(keys.look(token), KEPT_S)
            return bool(pipe.execute()[0])

    def fail(self, token: str, why: str) -> None:
        """Nothing becomes of it."""
        self._note(token, state=FAILED, why=why[:2000])

    def answer(self, token: str, work: Callable[[dict[str, Any]], Any]) -> None:
        """Do what was asked for, once, and keep what came of it; a fault is told to whoever asked.

        Args:
            token: of it.
            work: takes what was asked, and returns JSON values.
        """
        found = self.find(token)
        if found is None or found.state != ASKED:
            return
        self._note(token, state=RUNNING, beat_ms=_now())
        try:
            value = work(found.asked)
        except (BufferUnavailable, RedisError) as error:
            away = error if isinstance(error, BufferUnavailable) else unavailable(error)
            self.fail(token, f"{away}: try again once that is over")
        except (RelayError, OSError) as error:
            self.fail(token, str(error))
        except JobTimeoutException:
            self.fail(token, "it took too long and was broken off: ask for less")
            raise
        except BaseException as error:
            self.fail(token, f"it was broken off ({type(error).__name__}): the worker's log says why")
            raise
        else:
            self._note(token, state=DONE, value=msgspec.json.encode(value))

    def _note(self, token: str, **noted: Any) -> None:
        fields: Any = noted
        with self._client.pipeline() as pipe:
            pipe.hset(keys.look(token), mapping=fields)
            pipe.expire(keys.look(token), KEPT_S)
            pipe.execute()


def _now() -> int:
    return int(time.time() * 1000)
