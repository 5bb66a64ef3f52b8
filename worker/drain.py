"""The loop of one drain: claim, deliver, settle, until its lane is idle, its slice is over, or it must stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import msgspec
from redis.exceptions import RedisError

from relay.buffer.lanes import BEAT_S, Claimed, Lane, Settlement
from relay.errors import BufferUnavailable, StaleClaim
from relay.telemetry import logger

Deliver = Callable[[Sequence[Claimed], int], tuple[Settlement, int]]
log = logger("drain")
#: How long an idle drain keeps its lane warm, and how long a busy one keeps a worker.
IDLE_S, SLICE_S, SHARED_SLICE_S = 2.0, 30.0, 2.0
#: How often an idle drain looks, and how often it looks for new sources.
LOOK_S, SOURCES_S = 0.02, 0.5
#: For how long a drain waits for a Redis that went away, and how often it looks.
AWAY_S, AWAY_LOOK_S = 30.0, 0.25
#: Events and compressed bytes in one claim.
MOST_EVENTS, MOST_BYTES = 2_000, 4 * 1024 * 1024


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
    deliver: Deliver,
    *,
    pace: Pace,
    stopping: Callable[[], bool],
    others_wait: Callable[[], bool],
) -> bool:
    """Serve a lane; returns whether something may still be due in it, so that its bell must be rung again.

    Args:
        lane: with this drain's token.
        deliver: takes a claim and the failures in a row before it; says what became of it.
        pace: how long it may wait, and how much it takes.
        stopping: this process was told to end after the running batch.
        others_wait: jobs of other lanes wait for a worker.
    """
    try:
        if not lane.begin():
            return False
        with _Heartbeat(lane):
            return _serve(lane, deliver, pace, stopping, others_wait)
    except StaleClaim as error:
        # Another drain has the lane, and with it everything that this one left unsettled.
        log.warning("lane_lost", lane=lane.name, detail=str(error))
        return False
    except (BufferUnavailable, RedisError) as error:  # a script's, or a plain command's
        reason = error.reason if isinstance(error, BufferUnavailable) else "redis_away"
        log.warning("buffer_unavailable", lane=lane.name, reason=reason, detail=str(error))
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


def _serve(
    lane: Lane,
    deliver: Deliver,
    pace: Pace,
    stopping: Callable[[], bool],
    others_wait: Callable[[], bool],
) -> bool:
    failures, sources = lane.failures(), lane.sources()
    started = looked = busy = time.monotonic()
    while True:
        now = time.monotonic()
        if stopping() or now - started > SLICE_S or (now - started > SHARED_SLICE_S and others_wait()):
            lane.finish(sources, pace.linger_ms, even_if_due=True)
            return True
        if now - looked > SOURCES_S:
            sources, looked = lane.sources(), now
        found = lane.claim(
            sources,
            most=MOST_EVENTS,
            most_bytes=MOST_BYTES,
            linger_ms=pace.linger_ms,
            full=pace.full,
            rest_ms=pace.rest_ms,
        )
        if isinstance(found, list):
            settlement, failures = deliver(found, failures)
            lane.settle(settlement)
            busy = time.monotonic()
            if settlement.hold_ms:
                # The ticker rings when the rest is over; a worker is not kept waiting for it.
                lane.finish(sources, pace.linger_ms, even_if_due=True)
                return False
            continue
        if now - busy > IDLE_S and lane.finish(lane.sources(), pace.linger_ms):
            return False
        time.sleep(min(found, LOOK_S) if found > 0 else LOOK_S)
