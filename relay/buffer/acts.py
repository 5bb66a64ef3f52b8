"""Who did what in the console: the last acts of its users, and the last refused logins apart from them.

Apart, since anybody can be refused, and must not push out what users did. Both are bounded by count, and each
text in them by its length. What callers hand over is shown to every user: no secret, no token, no key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys

MOST_ACTS: Final = 1_000
MOST_REFUSALS: Final = 200
_LONGEST: Final = 200
_MOST_DETAILS: Final = 12


class Act(msgspec.Struct, frozen=True):
    """One act.

    Args:
        at: ms since 1970. admin: who; empty where that is not known. caller: from which address.
        act: a constant word. about: what it was done to, and how many of them.
    """

    at: int
    admin: str
    caller: str
    act: str
    about: dict[str, str | int]


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Act).decode


class Acts:
    """The acts of all users.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client

    def note(self, act: str, admin: str, caller: str, about: Mapping[str, object]) -> None:
        """Keep an act of a user.

        Raises:
            RedisError, OSError: it is not known to be kept.
        """
        self._note(keys.ACTS, MOST_ACTS, act, admin, caller, about)

    def refuse(self, act: str, admin: str, caller: str) -> None:
        """Keep a refused login.

        Raises:
            RedisError, OSError: it is not known to be kept.
        """
        self._note(keys.LOGINS_REFUSED, MOST_REFUSALS, act, admin, caller, {})

    def _note(self, key: str, most: int, act: str, admin: str, caller: str, about: Mapping[str, object]) -> None:
        kept = {name: _short(value) for name, value in list(about.items())[:_MOST_DETAILS]}
        line = Act(int(time.time() * 1000), admin[:_LONGEST], caller[:_LONGEST], act, kept)
        with self.client.pipeline() as pipe:
            pipe.lpush(key, _encode(line))
            pipe.ltrim(key, 0, most - 1)
            pipe.execute()

    def acts(self, start: int, count: int) -> list[Act]:
        """Acts of users, the newest first."""
        return self._read(keys.ACTS, start, count)

    def refusals(self, count: int) -> list[Act]:
        """Refused logins, the newest first."""
        return self._read(keys.LOGINS_REFUSED, 0, count)

    def _read(self, key: str, start: int, count: int) -> list[Act]:
        raw: Any = self.client.lrange(key, start, start + count - 1)
        return [_decode(text) for text in raw]


def _short(value: object) -> str | int:
    return value if isinstance(value, int) else str(value)[:_LONGEST]
