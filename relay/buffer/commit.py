"""Group commit: concurrent requests of one process share round trips to Redis, and so its fsyncs.

Whoever finds a free place leads: it sends its own item with everything that waits, then hands its place to the
next who waits. A leader sends once, and its own item first, so nobody ever leads for nothing. There is no thread
of its own, and a lone request pays nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

from relay.errors import BufferUnavailable, RelayError

In = TypeVar("In")
Out = TypeVar("Out")

#: Groups on their way at once. While one is on Redis's disk the next one fills; `bench/accept` compares.
IN_FLIGHT: Final = 1
MAX_GROUP_BYTES: Final = 1024 * 1024


class _Entry(Generic[In, Out]):
    """One request's item. `gate` opens when it has its answer, or when it is to lead."""

    __slots__ = ("answer", "done", "error", "gate", "item", "leads", "size")

    def __init__(self, item: In, size: int) -> None:
        self.item, self.size = item, size
        self.gate = threading.Lock()
        self.gate.acquire()
        self.leads = self.done = False
        self.answer: Out | None = None
        self.error: RelayError | None = None


class Committer(Generic[In, Out]):
    """Shares calls of `send` among threads.

    Args:
        send: stores a group, an answer for each item; raises where nothing is known to be stored.
        in_flight: groups on their way at once.
    """

    def __init__(self, send: Callable[[list[In]], list[Out]], in_flight: int = IN_FLIGHT) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[In, Out]] = deque()
        self._free = in_flight

    def put(self, item: In, size: int, deadline_s: float) -> Out:
        """Store one item with whatever else waits.

        Args:
            item: goes to `send`.
            size: its bytes.
            deadline_s: seconds from now.

        Raises:
            BufferUnavailable: not stored, or not known to be, within the deadline.
        """
        entry: _Entry[In, Out] = _Entry(item, size)
        give_up = time.monotonic() + deadline_s
        with self._lock:
            waits = not self._free
            if waits:
                self._waiting.append(entry)
            else:
                self._free -= 1
                entry.leads = True
        # Not by `entry.leads`: whoever hands on may have set that since, and then the gate is open already.
        if waits and not entry.gate.acquire(timeout=deadline_s):
            self._forget(entry)
        if entry.leads:
            try:
                if time.monotonic() < give_up:
                    self._lead(entry)
            finally:
                self._hand_over()
        if entry.error is not None:
            raise entry.error
        if not entry.done:
            raise BufferUnavailable("Redis did not answer in time", reason="redis_slow", retry_after_s=2)
        return cast("Out", entry.answer)

    def _lead(self, first: _Entry[In, Out]) -> None:
        group, size = [first], first.size
        with self._lock:
            while self._waiting and size + self._waiting[0].size <= MAX_GROUP_BYTES:
                entry = self._waiting.popleft()
                group.append(entry)
                size += entry.size
        try:
            answers = self._send([entry.item for entry in group])
            for entry, answer in zip(group, answers, strict=True):
                entry.answer = answer
        except RelayError as error:
            for entry in group:
                entry.error = error
        except Exception as error:  # whatever it is, nobody may be left waiting
            for entry in group:
                entry.error = BufferUnavailable(f"the put failed: {error!r}", reason="put_failed")
            raise
        finally:
            for entry in group:
                entry.done = True
                if entry is not first:  # a leader waits for nobody
                    entry.gate.release()

    def _hand_over(self) -> None:
        """Give the place to the next who waits; it is out of the queue from then on, so nobody sends it twice."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            heir = self._waiting.popleft()
            heir.leads = True
            heir.gate.release()

    def _forget(self, entry: _Entry[In, Out]) -> None:
        """The deadline passed: an item that nobody sends yet is taken back."""
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
