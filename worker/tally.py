"""What one claim comes to, counted while it is delivered, and the settlement that it ends in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from relay.buffer.failures import Letter
from relay.buffer.lanes import Claimed, Settlement
from relay.errors import Refused, RelayError
from relay.records import encode_json
from relay.telemetry import logger
from worker.destination import STORED, Item, Rejected, Verdict
from worker.reading import Work

log = logger("delivery")
#: How long a record waits over which alone a destination fails, or an event that cannot be read.
HELD_S: Final = 900.0
#: How long an event waits whose body was parked and cannot be fetched just now.
MISSED_S: Final = 60.0
#: Where the destination rests, records of a claim are due again so soon: behind those that were not tried yet.
SPREAD_MS: Final = 1


class Tally:
    """What one claim came to, counted while it is delivered."""

    def __init__(self, claimed: Sequence[Claimed]) -> None:
        self.counts: Counter[str] = Counter()
        self.again: dict[tuple[str, str], dict[int, float]] = {}  # (source, arrival) -> position -> seconds
        self.dead: list[tuple[str, int, bytes]] = []
        self.committed: list[str] = []  # the event of each record that is stored
        self.after: dict[str, dict[str, bytes]] = {}
        #: Batches of which something was taken, and failures that are not one table's alone.
        self.passed = self.down = 0
        self.opens, self.refused = False, 0
        # (table, key) -> older records that a newer one hides
        self.shadows: dict[tuple[str, str], list[Item]] = {}
        self.stored: dict[str, dict[str, bytes]] = {}  # table -> fence entries of rows, for when they are stored
        self.newest: dict[tuple[str, str], Item] = {}
        self.known: dict[str, dict[str, bytes]] = {}  # table -> fence entries of rows, for where they are refused
        self.failing: set[str] = set()
        self.tries = {one.arrival: one.tries for one in claimed}
        #: (arrival, position) -> seconds, of records that are put off for other than `HELD_S`
        self.late: dict[tuple[str, int], float] = {}
        self.why = ""
        #: Of what failed: its kind, and the destination's words by table.
        self.reason, self.causes, self.denied = "", list[str](), False
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
            if state == STORED:
                self.committed.append(item.event)
            if isinstance(verdict, Rejected):
                letter = Letter(item.source, table, item.key, item.version, verdict.reason[:2000], "destination")
                self.dead.append((item.event, item.position, encode_json(letter)))
                log.warning(
                    "record_buried", destination=destination, table=table, key=item.key, event_id=item.event,
                    reason=verdict.reason[:500],
                )  # fmt: skip

    def fails(self, table: str, error: RelayError) -> None:
        """Note why a table's batch was not taken; equal causes once."""
        self.why, self.reason = str(error), error.reason
        self.denied |= isinstance(error, Refused)
        cause = f"{table}: {self.why[:300]}"
        if cause not in self.causes:
            self.causes.append(cause)

    def rest(self, seconds: float) -> None:
        """Let the destination rest as a whole, unless it took something."""
        self.down += 1
        self.opens, self.wait_s = True, max(self.wait_s, seconds)

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

    def settlement(self, work: Work) -> Settlement:
        """What the buffer is told."""
        done: dict[str, list[str]] = {}
        partly = []
        for one in work.claimed:
            waits = self.again.get((one.source, one.arrival))
            if one.arrival in work.unread:
                partly.append((one.source, one.arrival, "", int((HELD_S if one.blob else MISSED_S) * 1000)))
            elif waits is None:
                done.setdefault(one.source, []).append(one.arrival)
            else:
                left = f"{','.join(str(p) for p in sorted(waits))};{one.tries + (one.arrival in self.failing)}"
                partly.append((one.source, one.arrival, left, int(max(waits.values()) * 1000)))
        fences = {table: list(entries.items()) for table, entries in self.after.items() if entries}
        # The destination rests where nothing got through; else only what failed waits.
        rests = self.down > 0 and not self.passed
        if rests:  # whoever ends the rest wants all of it to go at once
            partly = [(source, arrival, left, min(ms, SPREAD_MS)) for source, arrival, left, ms in partly]
        dead = {event for event, _, _ in self.dead}
        return Settlement(
            done,
            partly,
            self.dead,
            {field: n for field, n in self.counts.items() if n},
            fences,
            hold_ms=int(self.unknown_s * 1000),
            rest_ms=int(self.wait_s * 1000) if rests else 0,
            why=self.why,
            passed=self.passed > 0,
            failed=self.down > 0,
            opens=self.opens,
            refused=self.refused,
            restored={
                (one.source, one.arrival): one.blob for one in work.claimed if one.parked and one.arrival in dead
            },
        )
