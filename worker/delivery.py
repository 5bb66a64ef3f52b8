"""One claim's way: events → items by table → newest of each key → batches → verdicts → settlement.

Nothing here waits: what must go again is said in the settlement, and the lane or the ticker brings it back.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
from rq.timeouts import BaseTimeoutException

from relay.buffer.failures import Letter
from relay.buffer.lanes import Claimed, Lane, Settlement, schemas
from relay.errors import Permanent, Refused, RelayError, StaleClaim, Transient
from relay.records import encode_json
from relay.telemetry import logger
from worker import fence
from worker.batching import collapse, split
from worker.destination import STORED, SUPERSEDED, Batch, Destination, Item, Rejected, TableSpec, Verdict
from worker.reading import Reader, Work
from worker.retry import delay_s

log = logger("delivery")
#: Single records refused with the same words, none stored: it is the destination, so nothing is buried.
ALIKE: Final = 8
#: How long a refused batch (credentials, a table that is not ours) rests before it is tried as a probe.
REFUSED_REST_S: Final = 30.0
#: How long an older record waits for a newer one of which nobody knows yet what became.
WAIT_S: Final = 2.0
#: So many failures in a row of one batch, while others pass, are the fault of a record in it; then it waits long.
STUBBORN: Final = 5
HELD_S: Final = 900.0
#: Reasons of `Transient` that may be a record's fault: the destination answered, and failed.
_OVER_THIS: Final = frozenset({"transient", "server"})
#: After so long no further batch of a claim is begun: what was done is settled first, and RQ has its own limit.
ENOUGH_S: Final = 30.0


class Round:
    """What one claim came to, counted while it is delivered."""

    def __init__(self, claimed: Sequence[Claimed]) -> None:
        self.counts: Counter[str] = Counter()
        self.again: dict[tuple[str, str], dict[int, float]] = {}  # (source, arrival) -> position -> seconds
        self.dead: list[tuple[str, int, bytes]] = []
        self.after: dict[str, dict[str, bytes]] = {}
        self.passed = self.failed = 0
        # (table, key) -> older records that a newer one hides
        self.shadows: dict[tuple[str, str], list[Item]] = {}
        self.stored: dict[str, dict[str, bytes]] = {}  # table -> fence entries of rows, for when they are stored
        self.newest: dict[tuple[str, str], Item] = {}
        self.known: dict[str, dict[str, bytes]] = {}  # table -> fence entries of rows, for where they are refused
        self.failing: set[str] = set()
        self.tries = {one.arrival: one.tries for one in claimed}
        self.why = ""
        self.wait_s = 0.0
        #: For how long the lane rests, whatever passed: newer rows must not go while older ones may still arrive.
        self.unknown_s = 0.0

    def settle(self, destination: str, table: str, items: Iterable[Item], verdict: Verdict) -> None:
        """Count records whose fate is known."""
        for item in items:
            state = "dead" if isinstance(verdict, Rejected) else verdict
            at = f"r|{item.source}|{destination}|{table}|"
            self.counts[at + state] += 1
            self.counts[at + "pending"] -= 1
            if isinstance(verdict, Rejected):
                letter = Letter(item.source, table, item.key, item.version, verdict.reason[:2000], "destination")
                self.dead.append((item.event, item.position, encode_json(letter)))
                log.warning(
                    "record_buried", destination=destination, table=table, key=item.key, event_id=item.event,
                    reason=verdict.reason[:500],
                )  # fmt: skip

    def repeat(self, items: Iterable[Item], after_s: float) -> None:
        """Let records go again later."""
        for item in items:
            self.again.setdefault((item.source, item.event), {})[item.position] = after_s

    def uncover(self, table: str, refused: Item) -> None:
        """Let the older records of a row go, since the newest was refused; and the fence let them."""
        self.repeat(self.shadows.pop((table, refused.key), ()), 0)
        known = self.known.get(table)
        if known is not None and refused.members is None:
            self.after.setdefault(table, {})[refused.key] = known.get(refused.key, b"")

    def settlement(self, work: Work, failures: int, rest_s: float) -> Settlement:
        """What the buffer is told."""
        done: dict[str, list[str]] = {}
        partly = []
        for one in work.claimed:
            waits = self.again.get((one.source, one.arrival))
            if one.arrival in work.unread:
                partly.append((one.source, one.arrival, "", int(HELD_S * 1000)))
            elif waits is None:
                done.setdefault(one.source, []).append(one.arrival)
            else:
                left = f"{','.join(str(p) for p in sorted(waits))};{one.tries + (one.arrival in self.failing)}"
                partly.append((one.source, one.arrival, left, int(max(waits.values()) * 1000)))
        fences = {table: list(entries.items()) for table, entries in self.after.items() if entries}
        # A lane rests as a whole where nothing got through or an outcome is unknown; else only what failed waits.
        hold_s = max(self.unknown_s, rest_s if self.failed and not self.passed else 0.0)
        counts = {field: n for field, n in self.counts.items() if n}
        failures = failures if self.failed else 0
        return Settlement(done, partly, self.dead, counts, fences, failures, int(hold_s * 1000), self.why, "")


class Job(msgspec.Struct):
    """One call of a destination, and what its items stand for where sets were taken apart."""

    spec: TableSpec
    batch: list[Item]
    owners: dict[int, Item]

    def owned(self) -> list[Item]:
        """The record behind each item."""
        return [self.owners.get(id(item), item) for item in self.batch]

    def part(self, start: int, end: int) -> Job:
        """Some of its items."""
        return Job(self.spec, self.batch[start:end], self.owners)


#: A verdict of None: the destination fails over this record alone, so it waits and holds nobody else up.
Verdicts = list[Verdict | None]
#: None of a whole batch: it was not tried.
Result = Verdicts | Transient | Refused | None
Place = tuple[str, int]


class Courier:
    """Delivers claims to one destination."""

    def __init__(self, lane: Lane, destination: Destination, chance: Callable[[], float] = random.random) -> None:
        self.lane, self.destination, self._chance = lane, destination, chance
        self._reader = Reader(lambda ids: schemas(lane.client, ids), lane.partition, lane.partitions)
        #: How long a destination may still apply a request whose connection was lost; nothing where it compares.
        self.hold_s = (
            0.0 if destination.conditional else float(getattr(destination.settings, "unknown_hold_s", 60))
        )
        self._enough, self._unknown = 0.0, False

    def read(self, claimed: Sequence[Claimed]) -> Work:
        """Take a claim apart; may run while another is delivered."""
        return self._reader.read(claimed)

    def __call__(self, work: Work, failures: int) -> tuple[Settlement, int]:
        """Deliver a claim; returns the settlement, and the failures in a row after it."""
        self._enough, self._unknown = time.monotonic() + ENOUGH_S, False
        turn = Round(work.claimed)
        jobs: list[Job] = []
        for name, items in work.items.items():
            jobs.extend(self._prepare(work.tables[name], items, turn))
        with ThreadPoolExecutor(self.destination.limits.concurrency) as pool:
            several = self.destination.limits.concurrency > 1 and len(jobs) > 1
            tried = [part for parts in (pool.map if several else map)(self._attempt, jobs) for part in parts]
        jobs, results = [job for job, _ in tried], [result for _, result in tried]
        self._isolate_stubborn(jobs, results, turn)
        turn.unknown_s = self.hold_s if self._unknown else 0.0
        self._judge(jobs, results, turn, failures)
        failures = failures + 1 if turn.failed else 0
        return turn.settlement(work, failures, turn.wait_s), failures

    def _prepare(self, spec: TableSpec, items: list[Item], turn: Round) -> list[Job]:
        """A table's batches; each with the owners of its items, where a set was taken apart."""
        name = self.destination.name
        kept, old = collapse(items, keep_deleted=self.destination.keeps_deleted or self.destination.marks)
        turn.newest.update(((spec.name, item.key), item) for item in kept)
        for item in old:
            turn.shadows.setdefault((spec.name, item.key), []).append(item)
        if self.destination.conditional:
            return [Job(spec, batch, {}) for batch in split(kept, self.destination.limits)]
        entries: dict[str, bytes | None] = {}
        for keys in (fence.keys_of(kept, spec), None):
            wanted = keys if keys is not None else fence.member_keys(kept, entries)
            fresh = [k for k in wanted if k not in entries]
            entries.update(zip(fresh, self.lane.fence(spec.name, fresh), strict=True))
        passage = fence.decide(kept, spec, entries, keep_rows=self.destination.marks)
        turn.settle(name, spec.name, [kept[i] for i in passage.superseded], SUPERSEDED)
        turn.repeat([kept[i] for i in passage.waits], WAIT_S)
        turn.stored[spec.name], turn.known[spec.name] = passage.stored, passage.known
        self.lane.intend(spec.name, list(passage.before.items()))
        turn.after[spec.name] = passage.after
        sent = {index for _, index in passage.sends}
        silent = [
            i for n, i in enumerate(kept) if n not in sent and n not in {*passage.superseded, *passage.waits}
        ]
        turn.settle(name, spec.name, silent, STORED)  # an empty set that deletes nothing
        owners = {id(send): kept[index] for send, index in passage.sends}
        batches = split([send for send, _ in passage.sends], self.destination.limits)
        return [Job(spec, batch, {id(i): owners[id(i)] for i in batch}) for batch in batches]

    def _attempt(self, job: Job) -> list[tuple[Job, Result]]:
        """One batch delivered: what was settled before a failure stays settled, the rest is a batch of its own."""
        known: list[Verdict] = []
        failed: Result = None
        if time.monotonic() <= self._enough:
            try:
                self._bisect(job.spec, job.batch, [], known)
            except (Transient, Refused) as error:
                failed = error
                # Refused records count only with a stored one behind them: it may be the destination.
                while known and known[-1] != STORED:
                    known.pop()
            else:
                return [(job, list(known))]
        parts: list[tuple[Job, Result]] = [(job.part(0, len(known)), list(known))] if known else []
        return [*parts, (job.part(len(known), len(job.batch)), failed)]

    def _isolate_stubborn(self, jobs: Sequence[Job], results: list[Result], turn: Round) -> None:
        """Find the records over which a destination fails again and again while others pass."""
        if not any(isinstance(result, list) for result in results):
            return
        for index, (job, result) in enumerate(zip(jobs, results, strict=False)):
            stubborn = isinstance(result, Transient) and result.reason in _OVER_THIS and not result.unknown
            if stubborn and min(turn.tries[i.event] for i in job.batch) >= STUBBORN - 1:
                found = self._isolate(job.spec, job.batch)
                sure = self._enough > 0  # else it went away meanwhile, and nobody is to blame
                if sure and (any(verdict is not None for verdict in found) or len(job.batch) == 1):
                    results[index] = found

    def _isolate(self, spec: TableSpec, batch: list[Item]) -> Verdicts:
        known: list[Verdict] = []
        try:
            self._bisect(spec, batch, [], known)
        except (Transient, Refused) as error:
            if len(batch) == 1 or self._enough == 0:
                log.warning("record_held", table=spec.name, key=batch[0].key, detail=str(error)[:500])
                return [None] * len(batch)
        else:
            return list(known)
        half = len(batch) // 2
        return self._isolate(spec, batch[:half]) + self._isolate(spec, batch[half:])

    def _deliver(self, batch: Batch) -> list[Verdict]:
        """One call, unless the lane may be another drain's by now and the destination would not notice."""
        if not self.destination.conditional and not self.lane.held():
            raise StaleClaim(f"lane {self.lane.name} was not kept in time")
        try:
            return self.destination.deliver(batch)
        except Transient as error:
            self._unknown |= error.unknown
            if error.unknown or error.reason == "away":
                self._enough = 0.0  # the rest of the claim would only wait for the same answer
            raise
        except (RelayError, BaseTimeoutException):
            raise
        except OSError as error:
            raise Transient(
                f"{type(error).__name__} on this machine: {error.strerror}", reason="machine"
            ) from error
        except Exception as error:  # a destination's bug must cost one record, not wedge the lane
            log.exception("destination_broke", destination=self.destination.name, table=batch.table.name)
            raise Permanent(f"a fault of ours, {type(error).__name__}: see the log", reason="ours") from error

    def _bisect(self, spec: TableSpec, batch: list[Item], alike: list[str], known: list[Verdict]) -> None:
        """Deliver, halving a batch that is refused until the refused stand alone; verdicts go to `known`."""
        try:
            known += (verdicts := self._deliver(Batch(spec, batch)))
            if STORED in verdicts:
                alike.clear()
        except Permanent as error:
            words = str(error)
            if error.reason == "foreign_table":
                raise Refused(words, reason=error.reason) from error
            if len(batch) > 1:
                half = len(batch) // 2
                self._bisect(spec, batch[:half], alike, known)
                self._bisect(spec, batch[half:], alike, known)
                return
            alike.append(words)
            if len(alike) >= ALIKE and len(set(alike)) == 1:
                raise Refused(f"{ALIKE} records in a row were refused alike: {words}") from error
            known.append(Rejected(words))

    def _judge(self, jobs: Sequence[Job], results: Sequence[Result], turn: Round, failures: int) -> None:
        """Settle what has its verdict; all else goes again."""
        fates: dict[str, dict[Place, tuple[Item, Verdict]]] = {}
        waiting: set[Place] = set()
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, list):
                turn.passed += 1
                held = [item for item, verdict in zip(job.owned(), result, strict=True) if verdict is None]
                turn.repeat(held, HELD_S)
                waiting.update((i.event, i.position) for i in held)
                self._close(job, result, turn)
                _note(fates.setdefault(job.spec.name, {}), job.owned(), result)
            else:
                waiting.update(self._failed(job, result, turn, failures))
        for table, fate in fates.items():
            for place, (item, verdict) in fate.items():
                if place not in waiting:
                    turn.settle(self.destination.name, table, [item], verdict)
                    if isinstance(verdict, Rejected):
                        turn.uncover(table, item)
        self._settle_shadows(turn)
        refused = {p for fate in fates.values() for p, (_, v) in fate.items() if isinstance(v, Rejected)}
        for job in jobs:
            for item in job.owned():
                if item.members is not None and (item.event, item.position) in waiting | refused:
                    # Its marker stays as it was: what it was to delete must be found again.
                    turn.after.get(job.spec.name, {}).pop(fence.marker_key(item), None)

    def _close(self, job: Job, result: Verdicts, turn: Round) -> None:
        """Note in the fence which rows are stored."""
        entries = turn.stored.get(job.spec.name, {})
        closed = {i.key: entries[i.key] for i, v in zip(job.batch, result, strict=True) if v == STORED and entries}
        if closed:
            turn.after.setdefault(job.spec.name, {}).update(closed)

    def _settle_shadows(self, turn: Round) -> None:
        """Older records of a row share the fate of the newest: they are superseded only once it is settled."""
        waits = turn.again
        for (table, key), items in turn.shadows.items():
            hidden_by = turn.newest.get((table, key))
            after_s = (
                waits.get((hidden_by.source, hidden_by.event), {}).get(hidden_by.position) if hidden_by else None
            )
            if after_s is None:
                turn.settle(self.destination.name, table, items, SUPERSEDED)
            else:
                turn.repeat(items, after_s)

    def _failed(self, job: Job, error: Transient | Refused | None, turn: Round, failures: int) -> set[Place]:
        places = {(i.event, i.position) for i in job.owned()}
        if error is None:
            turn.repeat(job.owned(), 0)
            return places
        turn.failing.update(event for event, _ in places)
        before = max(failures, *(turn.tries[item.event] for item in job.batch))
        if isinstance(error, Refused):
            wait = max(REFUSED_REST_S, delay_s(before + 1, self._chance()))
        else:
            wait = delay_s(before + 1, self._chance(), error.retry_after_s)
            if error.unknown:
                wait = max(wait, self.hold_s)
        turn.failed += 1
        turn.why, turn.wait_s = str(error), max(turn.wait_s, wait)
        turn.repeat(job.owned(), wait)
        log.warning(
            "delivery_failed", destination=self.destination.name, table=job.spec.name, records=len(job.batch),
            reason=error.reason, wait_s=round(wait, 2), detail=str(error)[:500],
        )  # fmt: skip
        return places


def _note(fate: dict[Place, tuple[Item, Verdict]], owned: list[Item], verdicts: Verdicts) -> None:
    """A record's verdict; a set that was taken apart is as good as its worst part."""
    for item, verdict in zip(owned, verdicts, strict=True):
        place = (item.event, item.position)
        if verdict is not None and (place not in fate or isinstance(verdict, Rejected)):
            fate[place] = (item, verdict)
