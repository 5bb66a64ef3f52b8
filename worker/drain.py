"""The loop of one drain: claim, deliver, settle, until its lane is idle, its slice is over, or it must stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import msgspec
from redis.exceptions import RedisError

from relay.buffer.lanes import BEAT_S, Claimed, Lane, Settlement, Standing
from relay.errors import BufferUnavailable, StaleClaim
from relay.telemetry import logger

Read = Callable[[Sequence[Claimed]], Any]
Deliver = Callable[[Any, Standing], Settlement]
log = logger("drain")
#: How long an idle drain keeps its lane warm, and how long a busy one keeps a worker.
IDLE_S, SLICE_S = 2.0, 30.0
#: The same where jobs of other lanes wait; beginning a job costs some hundredths of a second, so not at once.
SHARED_IDLE_S, SHARED_SLICE_S = 0.3, 2.0
#: How often an idle drain looks, and how often it looks for new sources.
LOOK_S, SOURCES_S = 0.02, 0.5
#: For how long a drain waits for a Redis that went away, and how often it looks.
AWAY_S, AWAY_LOOK_S = 30.0, 0.25
#: For how long a drain leaves a Redis alone that refuses what it is asked.
REFUSED_S = 5.0
#: Events and compressed bytes in one claim.
MOST_EVENTS, MOST_BYTES = 2_000, 4 * 1024 * 1024
#: Events with which a drain finds out whether a destination takes rows again.
PROBE_EVENTS = 16
#: From so many events in a claim on, the next is taken ahead: there is a backlog.
AHEAD_FROM = 200


class Taken(msgspec.Struct):
    """A claim, and what was read of it."""

    claimed: Sequence[Claimed]
    work: Any


class Pace(msgspec.Struct, frozen=True):
    """How a lane is served.

    Args:
        linger_ms: how long a batch may wait to fill.
        full: so many events do not wait.
        rest_ms: how long the lane rests where a drain vanishes with records in flight.
    """

    linger_ms: int
    full: int
    rest_ms: int = 0


def drain(
    lane: Lane,
    read: Read,
    deliver: Deliver,
    *,
    pace: Pace,
    stopping: Callable[[], bool],
    others_wait: Callable[[], bool],
) -> bool:
    """Serve a lane; returns whether something may still be due in it, so that its bell must be rung again.

    Args:
        lane: with this drain's token.
        read: takes a claim apart; done for the next claim while this one is delivered.
        deliver: takes what was read, and how the destination did before; says what became of it.
        pace: how long it may wait, and how much it takes.
        stopping: this process was told to end after the running batch.
        others_wait: jobs of other lanes wait for a worker.
    """
    try:
        standing = lane.begin()
        if standing is None:
            return False
        with _Heartbeat(lane):
            return _serve(Ahead(lane, read, pace), standing, deliver, stopping, others_wait)
    except StaleClaim as error:
        # Another drain has the lane, and with it everything that this one left unsettled.
        log.warning("lane_lost", lane=lane.name, detail=str(error))
        return False
    except (BufferUnavailable, RedisError) as error:  # a script's, or a plain command's
        reason = error.reason if isinstance(error, BufferUnavailable) else "redis_away"
        log.warning("buffer_unavailable", lane=lane.name, reason=reason, detail=str(error))
        if reason == "redis_error":
            time.sleep(REFUSED_S)  # it answers and refuses: asking again at once would only deliver again
        return _given_back(lane)


class _Heartbeat(threading.Thread):
    """Renews the lane's lease while a batch is under way, so that the lease can be short.

    Where the whole machine dies, the lane is free again after one lease; nobody has to notice it.
    """

    def __init__(self, lane: Lane) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._lane, self._over = lane, threading.Event()

    def run(self) -> None:
        """Until the drain is over, or the lane is another's."""
        while not self._over.wait(BEAT_S):
            try:
                if not self._lane.renew():
                    return
            except BufferUnavailable:
                continue  # the drain itself meets it, and says so

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _given_back(lane: Lane) -> bool:
    """Give the lane back once Redis answers again, lest it waits for the end of a lease that nobody holds.

    A settlement is not tried twice: the first may have been taken, and would be counted again.
    """
    until = time.monotonic() + AWAY_S
    while time.monotonic() < until:
        try:
            lane.release()
        except BufferUnavailable:
            time.sleep(AWAY_LOOK_S)
        else:
            return True
    return False


class Ahead:
    """Claims of one drain; the next is taken and read while the last is delivered.

    Taking moves nothing in the buffer, so what was taken ahead and is not delivered after all is simply let go.
    """

    def __init__(self, lane: Lane, read: Read, pace: Pace) -> None:
        self.lane, self.pace, self._read = lane, pace, read
        self.sources, self._looked = lane.sources(), time.monotonic()
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._next: Future[Taken | float | None] | None = None

    def take(self, most: int) -> Taken | float | None:
        """The next claim, read; or seconds until something is due; or None: the destination is paused."""
        if self._next is not None:
            taken, self._next = self._next.result(), None
            return taken
        return self._take((), most)

    def go_on(self, taken: Taken) -> None:
        """Take the claim after this one meanwhile, where there seems to be one."""
        if len(taken.claimed) >= AHEAD_FROM:
            self._next = self._thread.submit(self._take, taken.claimed, MOST_EVENTS)

    def settle(self, settlement: Settlement) -> None:
        """Settle the claim in hand. The next is waited for, since it was told which events to pass over."""
        if self._next is not None and self._next.exception() is None:  # a fault of its own is met by `take`
            ahead = self._next.result()
            settlement.in_hand = len(ahead.claimed) if isinstance(ahead, Taken) else 0
        self.lane.settle(settlement)

    def finish(self, *, even_if_due: bool = False) -> bool:
        """Give the lane back, see `Lane.finish`."""
        return self.lane.finish(self.lane.sources(), self.pace.linger_ms, even_if_due=even_if_due)

    def give_way(self) -> bool:
        """Give the lane back; whether something is due in it.

        Where nothing is, whoever puts something there rings. A job for nothing would only hold up the others, and
        bring forth the next one.
        """
        return not self.finish() and self.finish(even_if_due=True)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _take(self, in_hand: Sequence[Claimed], most: int) -> Taken | float | None:
        now = time.monotonic()
        if now - self._looked > SOURCES_S:
            self.sources, self._looked = self.lane.sources(), now
        found = self.lane.claim(
            self.sources,
            most=most,
            most_bytes=MOST_BYTES,
            linger_ms=self.pace.linger_ms,
            full=self.pace.full,
            rest_ms=self.pace.rest_ms,
            in_hand=in_hand,
        )
        if not isinstance(found, list):
            return found
        known = {(one.source, one.arrival) for one in in_hand}
        claimed = [one for one in found if (one.source, one.arrival) not in known]
        return Taken(claimed, self._read(claimed)) if claimed else 0.0


def _serve(
    ahead: Ahead,
    standing: Standing,
    deliver: Deliver,
    stopping: Callable[[], bool],
    others_wait: Callable[[], bool],
) -> bool:
    started = busy = time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if stopping() or now - started > SLICE_S or (now - started > SHARED_SLICE_S and others_wait()):
                return ahead.give_way()
            found = ahead.take(PROBE_EVENTS if standing.probing else MOST_EVENTS)
            if found is None:  # the ticker rings once it is resumed
                ahead.finish(even_if_due=True)
                return False
            if isinstance(found, Taken):
                ahead.go_on(found)
                settlement = deliver(found.work, standing)
                ahead.settle(settlement)
                standing = after(standing, settlement)
                busy = time.monotonic()
                if settlement.hold_ms or settlement.rest_ms:
                    # The ticker rings when the rest is over; a worker is not kept waiting for it.
                    ahead.finish(even_if_due=True)
                    return False
                continue
            idle = now - busy > IDLE_S or (now - started > SHARED_IDLE_S and others_wait())
            if idle and ahead.finish():
                return False
            time.sleep(min(found, LOOK_S) if found > 0 else LOOK_S)
    finally:
        ahead.close()


def after(standing: Standing, settlement: Settlement) -> Standing:
    """How a destination stands after a settlement; settle.lua keeps the same account for all lanes."""
    if settlement.passed:
        return Standing()
    return Standing(
        standing.failures + settlement.failed, standing.refused + settlement.refused, probing=standing.probing
    )
