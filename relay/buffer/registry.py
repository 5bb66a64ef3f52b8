"""API keys: made once, kept as a hash, checked by the put script itself, gone at once when revoked.

`rh:keys` holds for each key's SHA-256 a text `<kind>|<client>|<tables>|<expires ms>|<more as JSON>`; tables are
empty for all, else `,a,b,`. put.lua reads it without decoding JSON.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.errors import ConfigInvalid

KINDS: Final = ("import", "export", "admin")
#: Of a key whose entry a hand damaged: it opens nothing, and can be revoked.
DAMAGED: Final = "damaged"
MOST_DAYS: Final = 3650
_SHOWN: Final = 12
#: A name that a table can have, at whatever API; `|` and `,` divide the parts of an entry.
_TABLE: Final = re.compile(r"[A-Za-z0-9_]{1,255}")


class Key(msgspec.Struct, frozen=True):
    """One API key; the key itself is nowhere.

    Args:
        id: SHA-256 of the key, in hex. kind: `import`, `export`, `admin` or `damaged`.
        client: whose it is, 0 for nobody's.
        tables: which it may write, all where empty. networks: from where it may come (CIDR), anywhere where empty.
        name: for people. created_s, expires_s, used_s: seconds since 1970; 0 for never.
    """

    id: str
    kind: str
    client: int
    tables: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    name: str = ""
    created_s: int = 0
    expires_s: int = 0
    used_s: int = 0

    @property
    def short(self) -> str:
        """Enough of the id to name it."""
        return self.id[:_SHOWN]

    def lives(self, now_s: float) -> bool:
        """Whether it has not expired."""
        return not self.expires_s or now_s < self.expires_s

    def admits(self, address: str) -> bool:
        """Whether it may come from an address."""
        if not self.networks:
            return True
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in ipaddress.ip_network(network) for network in self.networks)


class _More(msgspec.Struct, frozen=True):
    name: str
    networks: tuple[str, ...]
    created_s: int


def id_of(key: str) -> str:
    """What a key is known by."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class Registry:
    """All keys of a Redis.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client

    def create(
        self,
        kind: str,
        client: int,
        *,
        name: str = "",
        tables: Sequence[str] = (),
        networks: Sequence[str] = (),
        days: int = 0,
    ) -> str:
        """A new key: 32 hexadecimal digits, which nobody can be told again.

        Raises:
            ConfigInvalid: what it is to be bound to is not what it must be.
        """
        if kind not in KINDS:
            raise ConfigInvalid(f"there is no kind of key {kind!r}; known: {', '.join(KINDS)}")
        if kind != "admin" and client < 1:
            raise ConfigInvalid(f"an {kind} key is a client's: it needs a client id, a number from 1")
        if not 0 <= days <= MOST_DAYS:
            raise ConfigInvalid(f"a key holds for {MOST_DAYS} days at most, or with 0 until it is revoked")
        for table in tables:
            if not _TABLE.fullmatch(table):
                raise ConfigInvalid(f"{table[:64]!r} is not a table's name: letters, digits and _ make one")
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigInvalid(
                    f"{network!r} is not an address or a network such as 10.0.0.0/8: {error}"
                ) from None
        key, now_s = secrets.token_hex(16), int(time.time())
        more = msgspec.json.encode(_More(name, tuple(networks), now_s)).decode()
        scope = f",{','.join(tables)}," if tables else ""
        expires_ms = (now_s + days * 86_400) * 1000 if days else 0
        self.client.hset(keys.API_KEYS, id_of(key), f"{kind}|{client}|{scope}|{expires_ms}|{more}")
        return key

    def find(self, key: str) -> Key | None:
        """A key by itself; None where there is none, or it has expired."""
        id_ = id_of(key)
        raw: Any = self.client.hget(keys.API_KEYS, id_)
        if raw is None:
            return None
        found = _read(id_, raw)
        return found if found.kind != DAMAGED and found.lives(time.time()) else None

    def every(self) -> list[Key]:
        """All keys, oldest first, the expired too."""
        raw: Any = self.client.hgetall(keys.API_KEYS)
        used: Any = self.client.hgetall(keys.API_KEYS_USED)
        found = [
            msgspec.structs.replace(_read(id_.decode(), text), used_s=int(used.get(id_, 0)) // 1000)
            for id_, text in raw.items()
        ]
        return sorted(found, key=lambda key: (key.created_s, key.id))

    def used(self, key: Key) -> None:
        """Note that a key was used just now."""
        self.client.hset(keys.API_KEYS_USED, key.id, int(time.time() * 1000))

    def revoke(self, start: str) -> Key:
        """Revoke the key of which the id begins so; it opens nothing from now on.

        Raises:
            ConfigInvalid: none begins so, or several do.
        """
        fits = [key for key in self.every() if key.id.startswith(start.lower())] if start else []
        if len(fits) != 1:
            raise ConfigInvalid(
                f"{len(fits)} keys have an id that begins with {start[:64]!r}: see `relay keys list`"
            )
        self.client.hdel(keys.API_KEYS, fits[0].id)
        self.client.hdel(keys.API_KEYS_USED, fits[0].id)
        return fits[0]

    def clients(self) -> list[int]:
        """Every client that ever had a table's name made."""
        found: Any = self.client.hkeys(keys.CLIENTS)
        return sorted(int(name) for name in found if name.isdigit())

    def document_clients(self, configured: Iterable[int]) -> list[int]:
        """Every client that may have document imports: one that has a key, or had, or is configured."""
        keyed = {key.client for key in self.every() if key.client}
        return sorted({*self.clients(), *configured, *keyed})

    def table_key(self, full: str, client: int, key: Sequence[str]) -> tuple[str, ...]:
        """The key columns of a client's table: those of its first push, whatever later ones say."""
        self.client.hsetnx(keys.CLIENTS, f"table:{full}", msgspec.json.encode((client, list(key))))
        found = self.table(full)
        return found[1] if found is not None else tuple(key)

    def tables(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """`table` of all that clients pushed."""
        found: Any = self.client.hgetall(keys.CLIENTS)
        pushed = {name.decode(): text for name, text in found.items() if name.startswith(b"table:")}
        return {
            name.removeprefix("table:"): msgspec.json.decode(text, type=tuple[int, tuple[str, ...]])
            for name, text in pushed.items()
        }

    def table(self, full: str) -> tuple[int, tuple[str, ...]] | None:
        """Whose a table is that a client pushed, and its key columns; None where no client pushed one."""
        found: Any = self.client.hget(keys.CLIENTS, f"table:{full}")
        return None if found is None else msgspec.json.decode(found, type=tuple[int, tuple[str, ...]])

    def prefix(self, client: int, destinations: Iterable[str]) -> str:
        """What a client's tables begin with: nothing for the first of a destination, `c<client>_` for later ones.

        Once given it stays, or rows of one table would end up in two.
        """
        given: Any = self.client.hget(keys.CLIENTS, str(client))
        if given is not None:
            return str(given.decode())
        first = all(
            self.client.hsetnx(keys.CLIENTS, f"first:{name}", str(client)) for name in sorted(destinations)
        )
        self.client.hsetnx(keys.CLIENTS, str(client), "" if first else f"c{client}_")
        return self.prefix(client, destinations)


def _read(id_: str, raw: bytes) -> Key:
    try:
        kind, client, tables, expires_ms, more = raw.decode().split("|", 4)
        told = msgspec.json.decode(more, type=_More)
        scope = tuple(table for table in tables.split(",") if table)
        expires_s = int(expires_ms) // 1000
        return Key(id_, kind, int(client), scope, told.networks, told.name, told.created_s, expires_s)
    except (ValueError, msgspec.MsgspecError):
        return Key(id_, DAMAGED, 0, name="its entry cannot be read: revoke it")
