"""Group commit: concurrent requests of one process share round trips to Redis, and so its fsyncs.

Whoever comes first leads: it sends everything that waits in one call, then hands the lead to the next who waits.
There is no thread of its own, and a lone request pays nothing.
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

#: Groups on their way at once: one is on Redis's disk while the next is being filled.
IN_FLIGHT: Final = 2
MAX_GROUP_BYTES: Final = 1024 * 1024


class _Entry(Generic[In, Out]):
    __slots__ = ("answer", "done", "error", "item", "leads", "size", "wake")

    def __init__(self, item: In, size: int) -> None:
        self.item, self.size = item, size
        self.wake = threading.Event()
        self.leads = self.done = False
        self.answer: Out | None = None
        self.error: RelayError | None = None


class Committer(Generic[In, Out]):
    """Shares calls of `send` among threads.

    Args:
        send: stores a group, an answer for each item; raises where nothing is known to be stored.
    """

    def __init__(self, send: Callable[[list[In]], list[Out]]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[In, Out]] = deque()
        self._leaders = 0

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
            self._waiting.append(entry)
            if self._leaders < IN_FLIGHT:
                self._leaders += 1
                entry.leads = True
        try:
            if not entry.leads:
                entry.wake.wait(deadline_s)
            while not entry.done and self._still(entry, give_up):
                self._lead_one()
        finally:  # a lead that is not handed over would be lost to all that come later
            self._hand_over(entry)
        # Another leader may have taken it along: then its answer is on the way. (Set by whoever made it an heir.)
        entry.wake.clear()
        if not entry.done:
            entry.wake.wait(max(0.0, give_up - time.monotonic()))
        if entry.error is not None:
            raise entry.error
        if not entry.done:
            raise BufferUnavailable("Redis did not answer in time", reason="redis_slow", retry_after_s=2)
        return cast("Out", entry.answer)

    def _still(self, entry: _Entry[In, Out], give_up: float) -> bool:
        """Whether an entry that leads is still to be sent."""
        with self._lock:
            return entry.leads and entry in self._waiting and time.monotonic() <= give_up

    def _lead_one(self) -> None:
        with self._lock:
            group: list[_Entry[In, Out]] = []
            size = 0
            while self._waiting and (not group or size + self._waiting[0].size <= MAX_GROUP_BYTES):
                entry = self._waiting.popleft()
                group.append(entry)
                size += entry.size
        if not group:
            return
        try:
            answers = self._send([entry.item for entry in group])
        except RelayError as error:
            for entry in group:
                entry.error = error
        except Exception as error:  # whatever it is, nobody may be left waiting
            for entry in group:
                entry.error = BufferUnavailable(f"the put failed: {error!r}", reason="put_failed")
            raise
        else:
            for entry, answer in zip(group, answers, strict=True):
                entry.answer = answer
        finally:
            for entry in group:
                entry.done = True
                entry.wake.set()

    def _hand_over(self, entry: _Entry[In, Out]) -> None:
        with self._lock:
            if entry in self._waiting:  # the deadline passed: an entry that nobody waits for must not be an heir
                self._waiting.remove(entry)
            if not entry.leads:
                return
            entry.leads = False
            # The heir stays in the queue and sends itself with the rest; nobody is made leader twice.
            heir = next((e for e in self._waiting if not e.leads), None)
            if heir is None:
                self._leaders -= 1
            else:
                heir.leads = True
                heir.wake.set()
