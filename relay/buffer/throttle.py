"""Attempts to log in, counted and bounded: by name and address, by address, and by name.

Names that there are not are counted alike. All counters go by themselves.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Final

import redis as driver

from relay.buffer import keys

#: Attempts within the window: of one user from one address, of one address, and of one user from anywhere.
MOST_PAIR: Final = 5
MOST_ADDRESS: Final = 30
MOST_USER: Final = 50
WINDOW_S: Final = 900
#: Tries are counted in so many buckets a sort (16 to the power of this), whatever names a caller invents.
_BUCKET_DIGITS: Final = 3
_SUBNET: Final = 64


class Throttled(Exception):
    """Too many attempts; ask again after `seconds`. `first` of those that were too many, which is worth a line."""

    def __init__(self, seconds: int, *, first: bool) -> None:
        super().__init__(f"too many attempts: ask again in {seconds} s")
        self.seconds, self.first = seconds, first


class Throttle:
    """The counters of a Redis.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client

    def count(self, name: str, address: str) -> None:
        """Count an attempt before it is looked at: those made at the same time count too.

        Raises:
            Throttled: they are too many.
        """
        limits = _limits(name, address)
        with self.client.pipeline() as pipe:
            for key in limits:
                pipe.incr(key)
                pipe.expire(key, WINDOW_S, nx=True)
                pipe.ttl(key)
            answers = pipe.execute()
        counts = zip(limits.values(), answers[::3], answers[2::3], strict=True)
        over = [(int(left), count - most) for most, count, left in counts if count > most]
        if over:
            raise Throttled(max(1, *(left for left, _ in over)), first=all(by == 1 for _, by in over))

    def forgive(self, name: str, address: str) -> None:
        """A good password does not count as an attempt."""
        with self.client.pipeline() as pipe:
            for key in _limits(name, address):
                pipe.decr(key)
                pipe.expire(key, WINDOW_S, nx=True)  # where it ended in between, it must not come back to stay
            pipe.execute()


def _limits(name: str, address: str) -> dict[str, int]:
    """Counters of an attempt, and how far each may go."""
    user, where = name.lower(), _network(address)
    return {
        _bucket("pair", f"{user}\0{where}"): MOST_PAIR,
        _bucket("address", where): MOST_ADDRESS,
        _bucket("user", user): MOST_USER,
    }


def _bucket(sort: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return keys.admin_tries(f"{sort}:{digest[:_BUCKET_DIGITS]}")


def _network(address: str) -> str:
    """Whoever has an IPv6 address has the 2^64 around it as well."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _SUBNET), strict=False))
    return str(found)
