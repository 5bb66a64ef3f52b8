"""The back of the buffer: a drain's view of its lane, and the ticker's of all."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import attempts, keys
from relay.buffer.accept import RING_MS
from relay.buffer.attempts import Attempt
from relay.buffer.redis import connect, script
from relay.errors import StaleClaim

_encode: Final = msgspec.msgpack.Encoder().encode
#: How long a drain's hold lasts without a sign of life, and how often it gives one.
LEASE_MS: Final = 15_000
BEAT_S: Final = 3.0
#: What begin.lua says to the drain that finds out for all.
PROBE: Final = 2


class Claimed(msgspec.Struct, frozen=True):
    """One event in a drain's hands.

    Args:
        source: configured source. arrival: its number. left: positions of records still to settle, None for all.
        blob: packed event; empty where the archive has it, or it vanished (the audit will name it).
        tries: how often its batch failed. parked: the blob was fetched from the archive.
    """

    source: str
    arrival: str
    left: frozenset[int] | None
    blob: bytes
    tries: int = 0
    parked: bool = False


class Settlement(msgspec.Struct):
    """What became of claimed events, for settle.lua.

    Args:
        done: source -> arrivals of which nothing is left in this lane.
        partly: (source, arrival, `positions left;tries` or empty for all, ms until they go again).
        dead: (arrival, position, letter). counts: ledger field -> n.
        fences: table -> [(key, fence entry)].
        hold_ms: rest of the whole lane, since an outcome is unknown.
        rest_ms: rest of the destination, since nothing got through; of this lane alone the first few times.
        why: the destination's words, empty when all is well.
        passed: the destination took something. failed: it did not take something.
        opens: it is no use to try soon again. refused: records refused for good, while it took nothing.
        in_hand: events claimed beside these.
        restored: (source, arrival) -> blob of parked events that have a dead letter now.
        measured: field of `relay.buffer.measures` -> n.
        attempts, successes: of `relay.buffer.attempts`, oldest first.
    """

    done: dict[str, list[str]]
    partly: list[tuple[str, str, str, int]]
    dead: list[tuple[str, int, bytes]]
    counts: dict[str, int]
    fences: dict[str, list[tuple[str, bytes]]]
    hold_ms: int = 0
    rest_ms: int = 0
    why: str = ""
    passed: bool = False
    failed: bool = False
    opens: bool = False
    refused: int = 0
    in_hand: int = 0
    restored: dict[tuple[str, str], bytes] = {}
    measured: dict[str, int] = {}
    attempts: list[Attempt] = []
    successes: list[Attempt] = []


class Standing(msgspec.Struct):
    """How a destination has done lately.

    Args:
        failures: in a row, nothing having got through. refused: records refused since it last took one.
        probing: its breaker is open, and this drain is to find out whether it takes rows again.
    """

    failures: int = 0
    refused: int = 0
    probing: bool = False


class Lane:
    """One lane under one drain.

    Args:
        url: Redis. name: `<destination>/<partition>/<partitions>`. token: this drain's own.
    """

    def __init__(self, client: driver.Redis, name: str, token: str) -> None:
        self.name, self.token, self.client = name, token, client
        self.destination, partition, partitions = name.rsplit("/", 2)
        self.partition, self.partitions = int(partition), int(partitions)
        self._begin, self._claim = script(client, "begin"), script(client, "claim")
        self._settle, self._finish = script(client, "settle"), script(client, "finish")
        self._fence, self._release = script(client, "fence"), script(client, "release")
        self._renew = script(client, "renew")
        self._state, self._target = keys.lane(name), keys.destination(self.destination)
        self._seen = -LEASE_MS / 1000

    def begin(self) -> Standing | None:
        """Take the lane; None where another drain lives in it, or it rests."""
        asked = time.monotonic()
        taken: Any = self._begin([self._state, self._target], [self.token, LEASE_MS])
        if taken[0] < 1:
            return None
        self._seen = asked
        return Standing(taken[1], taken[2], probing=taken[0] == PROBE)

    def held(self) -> bool:
        """Whether the lane is surely still ours; not so after a process stood still for longer than its lease."""
        return time.monotonic() - self._seen < LEASE_MS / 1000

    def sources(self) -> list[str]:
        """Sources with a queue here."""
        found: Any = self.client.smembers(keys.lane_sources(self.name))
        return sorted(s.decode() for s in found)

    def claim(
        self,
        sources: Sequence[str],
        *,
        most: int,
        most_bytes: int,
        linger_ms: int,
        full: int,
        rest_ms: int,
        in_hand: Sequence[Claimed] = (),
    ) -> list[Claimed] | float | None:
        """The oldest due events, or seconds until something is due (-1 where nothing waits); None: it is paused.

        Those `in_hand`, claimed before and not settled yet, are passed over.

        Raises:
            StaleClaim: the lane is no longer ours.
        """
        held = Counter(one.source for one in in_hand)
        skips = [held[source] for source in sources]
        reply = self._claim(
            [self._state, keys.EVENTS, keys.left(self.name), self._target, *self._queues(sources)],
            [self.token, LEASE_MS, most, most_bytes, linger_ms, full, rest_ms, _encode(skips), len(in_hand)],
        )
        if reply[0] == b"lost":
            raise StaleClaim(f"lane {self.name} was given to another drain")
        if reply[0] == b"paused":
            return None
        if reply[0] == b"wait":
            return float(reply[1]) / 1000 if reply[1] >= 0 else -1.0
        rest = iter(reply[1:])
        return [
            Claimed(sources[q], arrival.decode(), *_positions(left, blob))
            for q, arrival, left, blob in zip(rest, rest, rest, rest, strict=True)
        ]

    def settle(self, settlement: Settlement) -> None:
        """Say what became of claimed events, in one step.

        Raises:
            StaleClaim: the lane is no longer ours; nothing was changed.
        """
        names = [
            self._state, keys.EVENTS, keys.REFS, keys.LEDGER, keys.BYTES, keys.left(self.name), keys.DEAD,
            keys.DEAD_COUNT, self._target, keys.PARKED, keys.METRICS,
            keys.attempts(self.destination, failed=True), keys.attempts(self.destination, failed=False),
        ]  # fmt: skip

        def index(key: str) -> int:
            names.append(key)
            return len(names)

        queues = {
            source: index(keys.queue(self.name, source))
            for source in {*settlement.done, *(p[0] for p in settlement.partly)}
        }
        fences = [
            (at, [text for key, entry in entries[i : i + 2000] for text in (key, entry.decode())])
            for table, entries in settlement.fences.items()
            for at in [index(keys.fence(self.destination, table))]
            for i in range(0, len(entries), 2000)
        ]
        plan = _encode(
            (
                [(queues[source], source, arrivals) for source, arrivals in settlement.done.items()],
                [(queues[s], arrival, left, due) for s, arrival, left, due in settlement.partly],
                [(f"{a}|{self.destination}|{p}", letter.decode(), a) for a, p, letter in settlement.dead],
                settlement.counts,
                fences,
                settlement.hold_ms,
                settlement.why[:500],
                settlement.in_hand,
                (
                    settlement.passed,
                    settlement.failed,
                    settlement.opens,
                    settlement.rest_ms,
                    settlement.refused,
                ),
                list(settlement.restored),
                settlement.measured,
                (
                    attempts.packed(settlement.attempts),
                    attempts.packed(settlement.successes),
                    attempts.KEPT,
                    attempts.KEPT_MS,
                ),
            )
        )
        if self._settle(names, [self.token, plan, *settlement.restored.values()]) != 1:
            raise StaleClaim(f"lane {self.name} was given to another drain; its settlement was refused")

    def finish(self, sources: Sequence[str], linger_ms: int, *, even_if_due: bool = False) -> bool:
        """Give the lane back; False where something is due, so that the drain must go on."""
        mode = "yield" if even_if_due else "idle"
        return bool(self._finish([self._state, *self._queues(sources)], [self.token, linger_ms, mode]) == 1)

    def renew(self) -> bool:
        """Say that this drain lives; False where the lane is no longer ours."""
        asked = time.monotonic()
        ours = bool(self._renew([self._state], [self.token, LEASE_MS]) == 1)
        self._seen = asked if ours else -math.inf
        return ours

    def release(self) -> None:
        """Give the lane back with events in hand of which nobody knows what was settled."""
        self._release([self._state], [self.token])

    def fence(self, table: str, row_keys: Sequence[str]) -> list[bytes | None]:
        """Fence entries of rows of one table, None where none was ever sent."""
        if not row_keys:
            return []
        found: Any = self.client.hmget(keys.fence(self.destination, table), list(row_keys))
        return list(found)

    def intend(self, table: str, entries: Sequence[tuple[str, bytes]]) -> None:
        """Write fence entries before their rows are sent.

        Raises:
            StaleClaim: the lane is no longer ours; nothing may be sent.
        """
        flat = [text for pair in entries for text in pair]
        if flat and self._fence([self._state, keys.fence(self.destination, table)], [self.token, *flat]) != 1:
            raise StaleClaim(f"lane {self.name} was given to another drain")

    def _queues(self, sources: Sequence[str]) -> list[str]:
        return [keys.queue(self.name, source) for source in sources]


def _positions(left: bytes, blob: bytes) -> tuple[frozenset[int] | None, bytes, int]:
    positions, _, tries = left.partition(b";")
    return frozenset(int(p) for p in positions.split(b",")) if positions else None, blob, int(tries or 0)


class Watch:
    """The ticker's view: every lane, and the bells that nobody heard."""

    def __init__(self, url: str) -> None:
        self.client = connect(url, timeout_s=10)
        self._ring, self._release = script(self.client, "ring"), script(self.client, "release")

    def lanes(self) -> list[str]:
        """Every lane that ever held something."""
        found: Any = self.client.smembers(keys.LANES)
        return sorted(name.decode() for name in found)

    def ring_due(self, linger_ms: int, ring: Callable[[str], None], known: Callable[[str], bool]) -> int:
        """Ask for a drain of each lane where something is due and nobody is there; returns how many.

        Args:
            linger_ms: how long a batch may wait to fill.
            ring: asks for a drain.
            known: whether a lane leads anywhere; others are left alone.
        """
        rung = 0
        for name in filter(known, self.lanes()):
            found: Any = self.client.smembers(keys.lane_sources(name))
            queues = [keys.queue(name, s.decode()) for s in found]
            target = keys.destination(name.rsplit("/", 2)[0])
            if self._ring([keys.lane(name), target, *queues], [RING_MS, linger_ms]) == 1:
                ring(name)
                rung += 1
        return rung

    def release(self, name: str, token: str) -> bool:
        """Free the lane of a drain that is known to be dead."""
        return bool(self._release([keys.lane(name)], [token]) == 1)


def waits_elsewhere(client: driver.Redis, destination: str, partitions: int) -> bool:
    """Whether lanes of another partition count still hold events of a destination: a row may stand in both."""
    found: Any = client.smembers(keys.LANES)
    for name in (n.decode() for n in found):
        of, _, count = name.rsplit("/", 2)
        if of == destination and int(count) != partitions:
            sources: Any = client.smembers(keys.lane_sources(name))
            if any(client.zcard(keys.queue(name, s.decode())) for s in sources):
                return True
    return False


def schemas(client: driver.Redis, ids: Sequence[str]) -> dict[str, bytes]:
    """Declarations of tables by schema id; an id that is not there is left out."""
    if not ids:
        return {}
    found: Any = client.hmget(keys.SCHEMAS, list(ids))
    return {i: text for i, text in zip(ids, found, strict=True) if text is not None}


def lane_sources(client: driver.Redis) -> dict[str, list[str]]:
    """The sources that have a queue in each lane: in two round trips, however many lanes there are."""
    found: Any = client.smembers(keys.LANES)
    names = sorted(name.decode() for name in found)
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.smembers(keys.lane_sources(name))
        return {n: sorted(s.decode() for s in of_it) for n, of_it in zip(names, pipe.execute(), strict=True)}


def lane_states(client: driver.Redis) -> dict[str, dict[str, str]]:
    """Every lane's state: with how many events wait in it, and when the oldest of them came (ms; 0 for none)."""
    sources = lane_sources(client)
    with client.pipeline(transaction=False) as pipe:
        for name, of_it in sources.items():
            pipe.hgetall(keys.lane(name))
            for source in of_it:
                pipe.zcard(keys.queue(name, source))
                pipe.zrange(keys.queue(name, source), 0, 0)
        answers = iter(pipe.execute())
    states: dict[str, dict[str, str]] = {}
    for name, of_it in sources.items():
        state = {k.decode(): v.decode("utf-8", "replace") for k, v in next(answers).items()}
        queues = [(next(answers), next(answers)) for _ in of_it]
        firsts = [int(head[0]) // 1000 for _, head in queues if head]  # arrival numbers are microseconds
        state["waiting"] = str(sum(count for count, _ in queues))
        state["oldest"] = str(min(firsts, default=0))
        states[name] = state
    return states
