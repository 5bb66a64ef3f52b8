"""What flowed lately: the counters as they were, left by the ticker for the charts of the console.

Two rings, hashes whose fields are places: one sample each ten seconds of the last hour, and one each five minutes
of the last day. A sample's place follows from Redis's clock, so of several workers the last one to look fills it,
and nothing has to be trimmed or agreed on. Nothing hangs on it: it may be lost at any time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
import redis as driver

from relay.buffer import keys, measures
from relay.buffer.ledger import ledger_of

#: How often the ticker looks.
LOOK_S: Final = 10
HOUR_S: Final = 3600
DAY_S: Final = 86_400
#: Of how long a time a place of the day's ring is.
SLOT_S: Final = 300
_MS: Final = 1000


class Sample(msgspec.Struct, array_like=True):
    """Counters at one moment.

    Args:
        at: by Redis's clock, ms since 1970. accepted: events. stored: records, those older than their row too.
        pending: records on their way, and events still to be fetched. failed: what is in quarantine or dead.
        lag: rows committed so soon after their receipt, by the bounds of `measures.LAG_S` and beyond.
    """

    at: int
    accepted: int
    stored: int
    pending: int
    failed: int
    lag: list[int]


class Samples(msgspec.Struct):
    """What is kept, oldest first; `now_ms` by Redis's clock."""

    now_ms: int
    hour: list[Sample]
    day: list[Sample]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Sample).decode


class Sampler:
    """What the ticker does for it.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client, self._turn = client, -1

    def look(self) -> None:
        """Leave a sample, where it is time to: two round trips, and one write.

        Raises:
            RedisError, OSError: Redis cannot be asked.
        """
        turn = int(time.monotonic() // LOOK_S)
        if turn == self._turn:
            return
        self._turn = turn
        with self.client.pipeline() as pipe:  # a transaction, so that all is of one moment
            pipe.time()
            pipe.hgetall(keys.LEDGER)
            pipe.hgetall(keys.METRICS)
            told, ledger, measured = pipe.execute()
        hour, day = places(int(told[0]))
        text = _encode(_sample(_ms(told), ledger, measured))
        with self.client.pipeline() as pipe:
            pipe.hset(keys.SAMPLES_HOUR, hour, text)
            pipe.hset(keys.SAMPLES_DAY, day, text)
            pipe.execute()


def places(at_s: int) -> tuple[str, str]:
    """A moment's place in the ring of the hour, and in that of the day."""
    return str(at_s // LOOK_S % (HOUR_S // LOOK_S)), str(at_s // SLOT_S % (DAY_S // SLOT_S))


def _ms(told: tuple[int, int]) -> int:
    return int(told[0]) * _MS + int(told[1]) // _MS


def _sample(at_ms: int, ledger: Mapping[bytes, bytes], measured: Mapping[bytes, bytes]) -> Sample:
    events, records = ledger_of(ledger).totals()
    lag = Counter(dict.fromkeys(measures.names("lag"), 0))
    for histogram in measures.read(measured).lag.values():
        lag.update(histogram.counts)
    return Sample(
        at_ms,
        events["accepted"],
        records["stored"] + records["superseded"],
        records["pending"] + events["waiting"],
        events["quarantined"] + records["dead"],
        list(lag.values()),
    )


def read(client: driver.Redis) -> Samples:
    """What is kept; what is damaged, of another release, or older than its ring is left out.

    Raises:
        RedisError, OSError: Redis cannot be asked.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hvals(keys.SAMPLES_HOUR)
        pipe.hvals(keys.SAMPLES_DAY)
        told, hour, day = pipe.execute()
    now_ms = _ms(told)
    return Samples(now_ms, _kept(hour, now_ms, HOUR_S), _kept(day, now_ms, DAY_S))


def _kept(raw: list[bytes], now_ms: int, length_s: int) -> list[Sample]:
    # Those of a time to come are from before the clock was set back.
    first, last = now_ms - length_s * _MS, now_ms + LOOK_S * _MS
    found = []
    for text in raw:
        try:
            sample = _decode(text)
        except (msgspec.MsgspecError, EOFError):
            continue
        if first <= sample.at <= last and len(sample.lag) == len(measures.LAG_S) + 1:
            found.append(sample)
    return sorted(found, key=lambda sample: sample.at)
