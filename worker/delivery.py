"""One claim's way: events → items by table → newest of each key → batches → verdicts → settlement.

Nothing here waits: what must go again is said in the settlement, and the lane or the ticker brings it back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Final

import msgspec
from rq.timeouts import BaseTimeoutException

from relay import tracing
from relay.buffer.lanes import Claimed, Lane, Settlement, Standing, schemas
from relay.errors import Permanent, Refused, RelayError, StaleClaim, Transient
from relay.telemetry import carrying, logger
from worker import fence
from worker.batching import collapse, split
from worker.destination import STORED, SUPERSEDED, Batch, Destination, Item, Rejected, TableSpec, Verdict
from worker.isolating import LOAD, Send, Verdicts, held, told_apart
from worker.measuring import Measuring
from worker.reading import Reader, Work
from worker.retry import delay_s
from worker.tally import HELD_S, Tally
from worker.telling import told

log = logger("delivery")
#: Single records refused with the same words, none stored: it is the destination, so nothing is buried.
ALIKE: Final = 8
#: How long a refused batch (credentials, a table that is not ours) rests before it is tried as a probe.
REFUSED_REST_S: Final = 30.0
#: What becomes of a record of which the fence has forgotten whether a newer one was sent.
UNDER: Final = Rejected(
    "older_than_fence: it is older than what was sent of this table long ago, and nobody knows any more whether a "
    "newer row was sent; `relay dead retry` cannot help, write it at the destination if it is right"
)
#: How long an older record waits for a newer one of which nobody knows yet what became.
WAIT_S: Final = 2.0
#: So many failures in a row of one batch, while others pass, are the fault of a record in it; then it waits long.
STUBBORN: Final = 5
#: Reasons of `Transient` that may be a record's fault: the destination answered, and failed.
_OVER_THIS: Final = frozenset({"transient", "server"})
#: After so long no further batch of a claim is begun: what was done is settled first, and RQ has its own limit.
ENOUGH_S: Final = 30.0


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


class Refusal(Rejected, frozen=True):
    """A destination's no to a single record, which may be a no to all."""


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
        self._traces: dict[str, str] = {}
        self._measuring = Measuring(lane.client, destination.name, lane.name)

    def read(self, claimed: Sequence[Claimed]) -> Work:
        """Take a claim apart; may run while another is delivered."""
        return self._reader.read(claimed)

    def __call__(self, work: Work, standing: Standing) -> Settlement:
        """Deliver a claim, and say what became of it.

        Args:
            work: what `read` returned.
            standing: how the destination has done before.
        """
        self._enough, self._unknown, self._traces = time.monotonic() + ENOUGH_S, False, work.traces
        turn = Tally(work.claimed)
        with told(self.lane, work, turn, self._measuring):
            self._try(work, turn, standing)
        settlement = turn.settlement(work)
        self._measuring.note(settlement, turn.committed)
        return settlement

    def _try(self, work: Work, turn: Tally, standing: Standing) -> None:
        jobs: list[Job] = []
        for name, items in work.items.items():
            jobs.extend(self._prepare(work.tables[name], items, turn))
        attempt = carrying(self._attempt)
        with ThreadPoolExecutor(self.destination.limits.concurrency) as pool:
            several = self.destination.limits.concurrency > 1 and len(jobs) > 1
            tried = [part for parts in (pool.map if several else map)(attempt, jobs) for part in parts]
        jobs, results = [job for job, _ in tried], [result for _, result in tried]
        self._isolate_stubborn(jobs, results, turn)
        turn.passed = sum(_took(result) for result in results)
        self._doubt(jobs, results, turn, standing)
        turn.unknown_s = self.hold_s if self._unknown else 0.0
        self._judge(jobs, results, turn, standing.failures)

    def _prepare(self, spec: TableSpec, items: list[Item], turn: Tally) -> list[Job]:
        """A table's batches; each with the owners of its items, where a set was taken apart."""
        name = self.destination.name
        kept, old = collapse(items, keep_deleted=self.destination.keeps_deleted or self.destination.marks)
        turn.newest.update(((spec.name, item.key), item) for item in kept)
        for item in old:
            turn.shadows.setdefault((spec.name, item.key), []).append(item)
        if self.destination.conditional:
            return [Job(spec, batch, {}) for batch in split(kept, self.destination.limits)]
        entries: dict[str, bytes | None] = {}
        for keys in ([fence.FLOOR, *fence.keys_of(kept, spec)], None):
            wanted = keys if keys is not None else fence.member_keys(kept, entries)
            fresh = [k for k in wanted if k not in entries]
            entries.update(zip(fresh, self.lane.fence(spec.name, fresh), strict=True))
        passage = fence.decide(kept, spec, entries, keep_rows=self.destination.marks)
        turn.settle(name, spec.name, [kept[i] for i in passage.superseded], SUPERSEDED)
        turn.settle(name, spec.name, [kept[i] for i in passage.under], UNDER)
        turn.repeat([kept[i] for i in passage.waits], WAIT_S)
        turn.stored[spec.name], turn.known[spec.name] = passage.stored, passage.known
        self.lane.intend(spec.name, list(passage.before.items()))
        turn.after[spec.name] = passage.after
        decided = {*(index for _, index in passage.sends), *passage.superseded, *passage.waits, *passage.under}
        silent = [item for n, item in enumerate(kept) if n not in decided]
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

    def _isolate_stubborn(self, jobs: Sequence[Job], results: list[Result], turn: Tally) -> None:
        """Find the records over which a destination fails again and again while others pass."""
        some = any(isinstance(result, list) for result in results)
        for index, (job, result) in enumerate(zip(jobs, results, strict=False)):
            if not isinstance(result, Transient):
                continue
            tries = [turn.tries[i.event] for i in job.batch]
            if result.reason == LOAD and max(tries) >= STUBBORN - 1:
                results[index] = self._tell_apart(job, result, turn, some=some)
            elif some and result.reason in _OVER_THIS and not result.unknown and min(tries) >= STUBBORN - 1:
                found = held(job.spec.name, job.batch, self._sender(job.spec), lambda: self._enough == 0)
                sure = self._enough > 0  # else it went away meanwhile, and nobody is to blame
                if sure and (any(verdict is not None for verdict in found) or len(job.batch) == 1):
                    results[index] = found

    def _tell_apart(self, job: Job, failed: Transient, turn: Tally, *, some: bool) -> Result:
        """What becomes of a batch whose load fails again and again; it fails as before where nothing is taken."""
        found = told_apart(job.batch, self._sender(job.spec), lambda item: turn.tries[item.event] >= STUBBORN - 1)
        alone = some and len(job.batch) == 1  # the others need not wait for it
        if not alone and not any(found):
            return failed
        turn.fails(job.spec.name, failed)
        for item, verdict in zip(job.owned(), found, strict=True):
            if verdict is None and not alone:
                turn.failing.add(item.event)
                turn.late[item.event, item.position] = delay_s(turn.tries[item.event] + 1, self._chance())
        return found

    def _sender(self, spec: TableSpec) -> Send:
        def send(part: list[Item]) -> Verdicts:
            known: list[Verdict] = []
            self._bisect(spec, part, [], known)
            return list(known)

        return send

    def _doubt(self, jobs: Sequence[Job], results: list[Result], turn: Tally, standing: Standing) -> None:
        """Put off records that were refused while nothing at all is taken: it may be the destination.

        One that is refused again and again meanwhile is buried after all; but once so many were refused with none
        taken between them, the destination rests, and nothing is buried.
        """
        refusals = [
            (result, i, job.owned()[i])
            for job, result in zip(jobs, results, strict=True)
            if isinstance(result, list)
            for i, verdict in enumerate(result)
            if isinstance(verdict, Refusal)
        ]
        if not refusals or (turn.passed and self._still_takes(jobs, results)):
            return
        alike = standing.refused + len(refusals) >= ALIKE
        for verdicts, i, item in refusals:
            turn.why, tries = str(getattr(verdicts[i], "reason", "")), turn.tries[item.event] + 1
            if not alike and tries >= STUBBORN:
                turn.refused += 1
                continue
            verdicts[i] = None
            turn.failing.add(item.event)
            turn.late[item.event, item.position] = delay_s(tries, self._chance())
        if alike:
            turn.rest(max(REFUSED_REST_S, delay_s(standing.failures + 1, self._chance())))

    def _still_takes(self, jobs: Sequence[Job], results: Sequence[Result]) -> bool:
        """Whether a destination that took some of a claim, and refused some, did not just cease to take anything.

        Where nothing was stored behind what it refused, a row that it stored is sent once more.
        """
        found = [
            (verdict, job.spec, item)
            for job, result in zip(jobs, results, strict=True)
            if isinstance(result, list)
            for item, verdict in zip(job.batch, result, strict=True)
            if verdict == STORED or isinstance(verdict, Refusal)
        ]
        stored = [(spec, item) for verdict, spec, item in found if verdict == STORED]
        in_order = self.destination.limits.concurrency == 1 or len(jobs) == 1
        if not stored or not self.destination.repeatable or (in_order and found[-1][0] == STORED):
            return True
        spec, item = stored[-1]
        try:
            self._deliver(Batch(spec, [item]))
        except (Transient, Refused, Permanent) as error:
            log.warning("destination_takes_nothing", destination=self.destination.name, detail=str(error)[:300])
            return False
        return True

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
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "new thread" not in str(error):
                raise self._broken(batch, error) from error
            raise Transient(f"{type(error).__name__} on this machine: {error}", reason="machine") from error
        except Exception as error:  # a destination's bug must cost one record, not wedge the lane
            raise self._broken(batch, error) from error

    def _broken(self, batch: Batch, error: Exception) -> Permanent:
        log.error("destination_broke", destination=self.destination.name, table=batch.table.name, exc_info=error)
        return Permanent(f"a fault of ours, {type(error).__name__}: see the log", reason="ours")

    def _bisect(self, spec: TableSpec, batch: list[Item], alike: list[str], known: list[Verdict]) -> None:
        """Deliver, halving a batch that is refused until the refused stand alone; verdicts go to `known`."""
        try:
            whole = Batch(spec, batch)
            with self._measuring.attempt(whole), self._span(spec, batch):
                verdicts = self._deliver(whole)
            known += verdicts
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
            known.append(Refusal(words))

    def _span(self, spec: TableSpec, batch: list[Item]) -> AbstractContextManager[tracing.Span]:
        found = [self._traces[item.event] for item in batch if item.event in self._traces] if self._traces else ()
        return tracing.span(
            "upsert", "CLIENT", links=found, destination=self.destination.name, table=spec.name, records=len(batch)
        )

    def _judge(self, jobs: Sequence[Job], results: Sequence[Result], turn: Tally, failures: int) -> None:
        """Settle what has its verdict; all else goes again."""
        fates: dict[str, dict[Place, tuple[Item, Verdict]]] = {}
        waiting: set[Place] = set()
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, list):
                waiting.update(_put_off(job, result, turn))
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

    def _close(self, job: Job, result: Verdicts, turn: Tally) -> None:
        """Note in the fence which rows are stored."""
        entries = turn.stored.get(job.spec.name, {})
        closed = {i.key: entries[i.key] for i, v in zip(job.batch, result, strict=True) if v == STORED and entries}
        if closed:
            turn.after.setdefault(job.spec.name, {}).update(closed)

    def _settle_shadows(self, turn: Tally) -> None:
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

    def _failed(self, job: Job, error: Transient | Refused | None, turn: Tally, failures: int) -> set[Place]:
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
        turn.fails(job.spec.name, error)
        if error.reason != "foreign_table":  # that is one table's matter
            turn.down += 1
            turn.wait_s = max(turn.wait_s, wait)
            turn.opens |= isinstance(error, Refused) or error.retry_after_s is not None
        turn.repeat(job.owned(), wait)
        return places


def _put_off(job: Job, result: Verdicts, turn: Tally) -> set[Place]:
    """Records without a verdict wait."""
    held = {(i.event, i.position): i for i, v in zip(job.owned(), result, strict=True) if v is None}
    for place, item in held.items():
        turn.repeat([item], turn.late.get(place, HELD_S))
    return set(held)


def _took(result: Result) -> bool:
    """Whether the destination took something of a batch."""
    return isinstance(result, list) and any(verdict in (STORED, SUPERSEDED) for verdict in result)


def _note(fate: dict[Place, tuple[Item, Verdict]], owned: list[Item], verdicts: Verdicts) -> None:
    """A record's verdict; a set that was taken apart is as good as its worst part."""
    for item, verdict in zip(owned, verdicts, strict=True):
        place = (item.event, item.position)
        if verdict is not None and (place not in fate or isinstance(verdict, Rejected)):
            fate[place] = (item, verdict)
