"""What becomes of a claim when records of it are refused: by properties, against a destination in memory."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.buffer.lanes import Claimed, Standing
from relay.errors import Permanent, Transient
from relay.records import full_version, version_prefix
from worker.delivery import ALIKE, STUBBORN, Courier
from worker.destination import STORED, Destination, Item, Limits, Settings, TableSpec
from worker.reading import Work

SPEC = TableSpec("shop_orders", ("id",), (), {})


class Picky(Destination):
    """Refuses whole batches over one record, and fails some calls."""

    Settings = Settings

    def __init__(
        self, poison: set[int], failing: set[int], limit: int, *, alike: bool, ceases: float = math.inf
    ) -> None:
        super().__init__("picky", Settings(kind="picky"), Path())
        self.limits = Limits(records=limit)
        self.poison, self.failing, self.alike, self.ceases = poison, failing, alike, ceases
        self.calls: list[list[int]] = []
        self.rows: set[int] = set()

    def deliver(self, batch):
        ids = [item.data["id"] for item in batch.items]
        self.calls.append(ids)
        if len(self.calls) in self.failing:
            raise Transient("no", reason="server")
        bad = ids if len(self.rows) >= self.ceases else [i for i in ids if i in self.poison]
        if bad:
            raise Permanent("no" if self.alike else f"{bad[0]} is not welcome", reason="refused")
        self.rows.update(ids)
        return [STORED] * len(ids)

    def ping(self):
        return


class Loading(Picky):
    """Fails over poison without a word of whether anything was stored."""

    unknown = True

    def deliver(self, batch):
        try:
            return super().deliver(batch)
        except Permanent as error:
            raise Transient(str(error), reason="load", unknown=self.unknown) from None


def delivered(count, poison, *, failing=frozenset(), limit=100, alike=False, ceases=math.inf, kind=Picky, tries=0):
    """One claim of so many events of a row each, delivered; the destination and the settlement."""
    here = kind(set(poison), set(failing), limit, alike=alike, ceases=ceases)
    claimed, items = [], []
    for n in range(count):
        arrival = f"{n + 1:016d}"
        version = full_version(version_prefix(None), arrival)
        claimed.append(Claimed("shop", arrival, None, b"x", tries=tries))
        items.append(
            Item(
                op="row",
                data={"id": n},
                members=None,
                complete=True,
                version=version,
                key=f'["{n}"]',
                event=arrival,
                position=0,
                source="shop",
                test=False,
                size=10,
            )
        )
    lane = SimpleNamespace(
        name="picky/0/1", destination="picky", partition=0, partitions=1, held=lambda: True, client=None
    )
    work = Work({SPEC.name: SPEC}, {SPEC.name: items}, claimed, set())
    return here, Courier(lane, here, chance=lambda: 0.5)(work, Standing())


def _fates(settlement):
    dead = {int(arrival) - 1 for arrival, _, _ in settlement.dead}
    done = {int(arrival) - 1 for arrivals in settlement.done.values() for arrival in arrivals}
    waits = {int(arrival) - 1 for _, arrival, _, _ in settlement.partly}
    return dead, done, waits


some = st.integers(1, 60).flatmap(
    lambda count: st.tuples(
        st.just(count), st.sets(st.integers(0, count - 1)), st.sets(st.integers(1, 40), max_size=6)
    )
)


@settings(deadline=None, max_examples=300)
@given(some, st.integers(1, 100), st.booleans())
def test_every_record_has_one_fate_and_nothing_good_is_ever_buried(case, limit, alike):
    count, poison, failing = case
    here, settlement = delivered(count, poison, failing=failing, limit=limit, alike=alike)
    dead, done, waits = _fates(settlement)
    assert done | waits == set(range(count))
    assert not done & waits
    assert dead <= poison & done
    assert done - dead == here.rows & done
    counts = settlement.counts
    at = "r|shop|picky|shop_orders|"
    assert counts.get(at + "stored", 0) == len(done - dead)
    assert counts.get(at + "dead", 0) == len(dead)
    assert counts.get(at + "pending", 0) == -len(done)


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_one_poison_record_costs_at_most_twice_the_logarithm_in_calls_and_only_it_is_buried(case):
    count, bad = case
    here, settlement = delivered(count, {bad})
    assert _fates(settlement) == ({bad}, set(range(count)), set())
    # One more where it is the last, to see that the destination takes anything still.
    assert len(here.calls) <= 1 + 2 * math.ceil(math.log2(count)) + (bad == count - 1)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 40), st.integers(1, 39), st.integers(1, 100))
def test_a_destination_that_ceases_to_take_anything_in_a_claim_buries_nothing_of_it(count, taken, limit):
    """Some of the claim was taken, and all behind it is refused: fewer than tell by themselves."""
    here, settlement = delivered(count, set(), limit=limit, ceases=min(taken, count - 1))
    dead, _, waits = _fates(settlement)
    assert not dead
    assert waits == set(range(count)) - here.rows


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.integers(1, 100), st.booleans())
def test_where_everything_is_refused_nothing_is_buried(count, limit, alike):
    here, settlement = delivered(count, range(count), limit=limit, alike=alike)
    dead, _, waits = _fates(settlement)
    assert not dead
    assert waits == set(range(count))
    assert (settlement.rest_ms > 0) == (count >= ALIKE)
    assert here.rows == set()


def test_a_load_of_unknown_outcome_that_fails_again_and_again_is_taken_apart_and_not_before():
    _, early = delivered(20, {7}, kind=Loading, tries=STUBBORN - 2)
    assert _fates(early) == (set(), set(), set(range(20)))
    here, settlement = delivered(20, {7}, kind=Loading, tries=STUBBORN - 1)
    assert here.rows == set(range(20)) - {7}
    others = set(range(20)) - {7}
    assert _fates(settlement) == (set(), others, {7}), "it may be there: given up, an older one would go over it"


def test_a_record_that_the_warehouse_refused_again_and_again_is_given_up(monkeypatch):
    monkeypatch.setattr(Loading, "unknown", False)
    here, settlement = delivered(20, {7}, kind=Loading, tries=STUBBORN - 1)
    assert _fates(settlement) == ({7}, set(range(20)), set())
    assert here.rows == set(range(20)) - {7}


def test_a_load_that_fails_over_every_record_again_and_again_buries_none():
    here, settlement = delivered(20, range(20), kind=Loading, tries=100)
    assert _fates(settlement) == (set(), set(), set(range(20)))
    assert settlement.rest_ms > 0
    assert here.rows == set()
