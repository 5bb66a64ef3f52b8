"""Refused deliveries: what they lacked, and, where that is wished, the requests themselves for a day.

A kept request was proved by nobody, so nothing of it stands here in the clear: it is sealed (AES-256-GCM) under a
key that only the settings hold, in memory, in the append-only file and in a backup of it. No rule of redaction can
be applied to a body that may not even be of the vendor's shape; the seal and the short life stand in for it until
the body passes the ordinary intake, where all rules hold.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import redis as driver
from redis.exceptions import RedisError

from relay.buffer import keys
from relay.buffer.redis import script, unavailable
from relay.buffer.seal import Seal
from relay.records import Request

#: How long a refused request is kept, and an account remembered since its last refusal.
KEPT_MS: Final = 24 * 3600 * 1000
REMEMBERED_MS: Final = 7 * KEPT_MS
#: Findings kept of a source; one of each reason and kind, and more than rubbish can have.
FINDINGS: Final = 12
#: What one kept request takes beside its sealed bytes, rounded up: two keys' names and their places.
OVERHEAD: Final = 512

_encode: Final = msgspec.msgpack.Encoder().encode


class Found(msgspec.Struct, array_like=True):
    """The newest finding of its reason and kind about a source's refused deliveries.

    Args:
        reason: `Unauthenticated.reason`. kind, hypothesis: of `relay.doctor.Finding`.
        times: how many of the deliveries looked at had it. last: when last, ms since 1970.
    """

    reason: str
    kind: str
    hypothesis: str
    times: int
    last: int


class Account(msgspec.Struct, array_like=True):
    """A source's refused deliveries of the last days: how many, first and last (ms), and what they lacked."""

    refused: int
    first: int
    last: int
    findings: list[Found]


_account: Final = msgspec.msgpack.Decoder(Account, strict=False).decode


class Accounts:
    """The accounts of all sources."""

    def __init__(self, client: driver.Redis) -> None:
        self.client = client
        self._note = script(client, "refused_note")

    def note(self, source: str, refused: int, reason: str = "", kind: str = "", hypothesis: str = "") -> None:
        """Count refusals; with a hypothesis, also what one of them lacked.

        Raises:
            BufferUnavailable: nothing was noted.
        """
        self._note([keys.REFUSALS], [source, refused, reason, kind, hypothesis, FINDINGS, REMEMBERED_MS])

    def every(self) -> dict[str, Account]:
        """By source.

        Raises:
            BufferUnavailable: Redis does not answer.
        """
        try:
            found: Any = self.client.hgetall(keys.REFUSALS)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        return {name.decode(): _account(value) for name, value in sorted(found.items())}


class Room(msgspec.Struct, frozen=True):
    """Bytes that kept requests may take: all of them, those of one source, and a single one."""

    total: int
    source: int
    request: int


class Entry(msgspec.Struct, frozen=True):
    """One kept request as its index names it; `at` in ms since 1970, `size` in bytes."""

    id: str
    source: str
    size: int
    reason: str
    at: int


class Kept(msgspec.Struct, array_like=True):
    """A kept request, opened; `now`: its receipt, ns since 1970."""

    now: int
    request: Request


_kept: Final = msgspec.msgpack.Decoder(Kept).decode


class Refused:
    """The requests that are kept.

    Args:
        client: of the buffer. seal: None where nothing is to be kept or opened, only listed.
    """

    def __init__(self, client: driver.Redis, seal: Seal | None = None) -> None:
        self.client, self._seal = client, seal
        self._keep, self._drop = script(client, "refused_keep"), script(client, "refused_drop")

    def keep(self, source: str, request: Request, now: int, reason: str, room: Room) -> bool:
        """Keep a request; False where it is too large, or there is no room left.

        Raises:
            BufferUnavailable: nothing is known to be kept.
        """
        query = dict(request.query.items())
        plain = _encode(Kept(now, msgspec.structs.replace(request, query=query)))
        if self._seal is None or len(plain) > room.request:
            return False
        id_ = secrets.token_hex(8)
        sealed = self._seal.close(plain, f"{id_}|{source}")
        args = [id_, source, reason, sealed, KEPT_MS, OVERHEAD, room.total, room.source]
        return bool(self._keep([keys.REFUSED, keys.REFUSED_BYTES, keys.refused(id_)], args) == 1)

    def every(self, source: str | None = None) -> Iterator[Entry]:
        """What is kept, oldest first.

        Raises:
            BufferUnavailable: Redis does not answer.
        """
        try:
            seconds, micros = self.client.time()
            oldest = seconds * 1000 + micros // 1000 - KEPT_MS
            rows: Any = self.client.zrangebyscore(keys.REFUSED, f"({oldest}", "+inf", withscores=True)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        for member, at in rows:
            id_, name, size, reason = member.decode().split("|")
            if source in (None, name):
                yield Entry(id_, name, int(size), reason, int(at))

    def read(self, entry: Entry) -> Kept | None:
        """One of them, opened; None where it has expired.

        Raises:
            SealBroken: it cannot be opened.
            BufferUnavailable: Redis does not answer.
        """
        try:
            sealed: Any = self.client.get(keys.refused(entry.id))
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if sealed is None or self._seal is None:
            return None
        return _kept(self._seal.open(sealed, f"{entry.id}|{entry.source}"))

    def drop(self, entry: Entry) -> bool:
        """Let go of one; False where it was no longer there."""
        member = f"{entry.id}|{entry.source}|{entry.size}|{entry.reason}"
        named = [keys.REFUSED, keys.REFUSED_BYTES, keys.refused(entry.id)]
        return bool(self._drop(named, [member, entry.source, entry.size]) == 1)
