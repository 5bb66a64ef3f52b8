"""Drift: how the rows of a table differ from its declaration, and events that no row came of.

Small accounts in one bounded hash. They hold names of fields and of types, counts and times; never a value.
Nothing hangs on them: they may be lost, cleared or damaged at any time, and fill again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import redis as driver
from redis.exceptions import RedisError, ResponseError

from relay.buffer import keys
from relay.buffer.redis import script, unavailable

#: Kept of a table: unknown fields, misfits, declared columns; those that were seen longest ago give way.
MOST_FINDINGS: Final = 100
MOST_COLUMNS: Final = 256
#: Accounts of one source, and of all; the one that was added to longest ago gives way.
MOST_TABLES: Final = 100
MOST_ACCOUNTS: Final = 500
#: A finding is forgotten once rows came for so long without it.
REMEMBERED_MS: Final = 90 * 24 * 3600 * 1000
#: Accounts added to in one call: nothing else is done by Redis meanwhile, and webhooks wait for it.
AT_ONCE: Final = 5
#: Characters kept of a name.
NAME: Final = 100

_encode: Final = msgspec.msgpack.Encoder().encode


class Finding(msgspec.Struct, array_like=True):
    """One field, or one type of events.

    Args:
        name: its name. declared: the type that it has by its table's declaration, empty where it has none.
        found: the type that came, empty where that does not matter.
        count: rows (or events) of it. first, last: when, ms since 1970.
        rows: how many rows the account had counted when it was last found.
    """

    name: str
    declared: str
    found: str
    count: int
    first: int
    last: int
    rows: int = 0

    @property
    def instead(self) -> str:
        """What came, and what its column takes, in words."""
        if self.found != self.declared:
            return f"{self.found} where {self.declared} is expected"
        return "int, larger than 64 bits" if self.found == "int" else f"{self.found} that its column cannot hold"


class Account(msgspec.Struct, array_like=True):
    """What is known of one table.

    Args:
        since, last: when its first and newest row came, ms since 1970. rows: that were looked at.
        unknown: fields that are not declared. misfits: values that do not fit. columns: declared ones that were
            filled.
    """

    since: int
    last: int
    rows: int
    unknown: list[Finding]
    misfits: list[Finding]
    columns: list[Finding]


class Seen(msgspec.Struct, array_like=True):
    """What was seen of one table lately; the fields are those of its account.

    The table is empty for the events of a source of which no row came: then `unknown` are their types.
    """

    source: str
    table: str
    first: int
    last: int
    rows: int
    unknown: list[Finding]
    misfits: list[Finding] = []
    columns: list[Finding] = []


_account: Final = msgspec.msgpack.Decoder(Account, strict=False).decode


class Drift:
    """The accounts of all tables."""

    def __init__(self, client: driver.Redis) -> None:
        self.client = client
        self._note = script(client, "drift_note")

    def note(self, seen: Iterable[Seen]) -> None:
        """Add what was seen.

        Raises:
            BufferUnavailable: not all of it is known to be noted.
        """
        bounds = _encode((MOST_FINDINGS, MOST_COLUMNS, MOST_TABLES, MOST_ACCOUNTS, REMEMBERED_MS))
        told = [_encode(one) for one in seen]
        for start in range(0, len(told), AT_ONCE):
            self._note([keys.DRIFT], [bounds, *told[start : start + AT_ONCE]])

    def every(self) -> dict[tuple[str, str], Account]:
        """By source and table; what cannot be read is left out.

        Raises:
            BufferUnavailable: Redis does not answer.
        """
        found = {}
        for field, value in sorted(self._hash().items()):
            source, _, table = field.decode("utf-8", "replace").partition("|")
            try:
                found[source, table] = _account(value)
            except (msgspec.MsgspecError, ValueError):
                continue
        return found

    def clear(self, source: str | None = None) -> None:
        """Forget all of it, or what is known of one source.

        Raises:
            BufferUnavailable: Redis does not answer.
        """
        try:
            if source is None:
                self.client.delete(keys.DRIFT)
                return
            own = [field for field in self._hash() if field.startswith(f"{source}|".encode())]
            if own:
                self.client.hdel(keys.DRIFT, *own)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error

    def _hash(self) -> dict[bytes, bytes]:
        try:
            found: Any = self.client.hgetall(keys.DRIFT)
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
                return {}  # the next note begins anew
            raise unavailable(error) from error
        return dict(found)
