"""Events read from the buffer, as many at once as fit into some bytes, however large each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import redis as driver

from relay.buffer import keys
from relay.buffer.redis import script

#: Bytes of packed events that are read at once.
AT_ONCE_BYTES: Final = 4 * 1024 * 1024


class Bodies:
    """Reads packed events.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self._read = script(client, "bodies")

    def first(self, arrivals: Sequence[str]) -> list[bytes | None]:
        """The first of some, one at least; None for what is gone.

        Raises:
            BufferUnavailable: Redis cannot be asked.
        """
        return list(self._read([keys.EVENTS], [AT_ONCE_BYTES, *arrivals])) if arrivals else []

    def every(self, arrivals: Sequence[str], together: int) -> Iterator[bytes | None]:
        """All of them, no more than so many at once."""
        at = 0
        while at < len(arrivals):
            blobs = self.first(arrivals[at : at + together])
            yield from blobs
            at += len(blobs)
