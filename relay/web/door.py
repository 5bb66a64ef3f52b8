"""API keys at the door: found, noted as good for a moment, and guessed at slowly."""

from __future__ import annotations

import threading
import time
from typing import Final

from relay.buffer.registry import Key, Registry, id_of
from relay.errors import Unauthenticated

#: For so long a key that was good is not looked up again; the put script looks at it all the same.
_GOOD_S: Final = 30.0
#: Wrong keys from one address within a minute, from which on none of its keys is looked at.
_MOST_WRONG: Final = 30
_MINUTE_S: Final = 60.0
_MOST_KNOWN: Final = 10_000


class Guessed(Unauthenticated):
    """Too many wrong keys came from there."""

    reason = "keys_guessed"


class Door:
    """Looks keys up for one process.

    Args:
        registry: where they are kept.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._good: dict[str, tuple[float, Key]] = {}
        self._wrong: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def open(self, key: str, kind: str, client: int | None, address: str, *, fresh: bool) -> Key:
        """The key, where it is of that kind and client and may come from there.

        Args:
            key: as it was sent.
            kind: that it must be of.
            client: whose it must be; None where the key itself says it.
            address: it comes from.
            fresh: look it up in any case; else the put script's look is enough.

        Raises:
            Unauthenticated: it opens nothing here. Guessed: it was not even looked at.
        """
        now = time.monotonic()
        began, wrong = self._wrong.get(address, (now, 0))
        if wrong >= _MOST_WRONG and now - began < _MINUTE_S:
            raise Guessed("too many wrong keys came from there")
        found = self._find(key, now, fresh=fresh)
        mine = found is not None and found.kind == kind and client in (None, found.client)
        if found is None or not mine or not found.admits(address):
            self._note(address, now)
            raise Unauthenticated("the API key opens nothing here", reason="key_refused")
        return found

    def _find(self, key: str, now: float, *, fresh: bool) -> Key | None:
        id_ = id_of(key)
        since, known = self._good.get(id_, (0.0, None))
        if known is not None and not fresh and now - since < _GOOD_S and known.lives(time.time()):
            return known
        found = self._registry.find(key)
        with self._lock:
            if len(self._good) > _MOST_KNOWN:
                self._good.clear()
            if found is None:
                self._good.pop(id_, None)
            else:
                self._good[id_] = (now, found)
        return found

    def _note(self, address: str, now: float) -> None:
        with self._lock:
            if len(self._wrong) > _MOST_KNOWN:
                self._wrong.clear()
            began, wrong = self._wrong.get(address, (now, 0))
            if now - began >= _MINUTE_S:
                began, wrong = now, 0
            self._wrong[address] = (began, wrong + 1)
