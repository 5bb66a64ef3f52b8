"""Which records are blamed for loads that fail: by properties, against a warehouse that is away at times."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import Permanent, Transient
from tests.contracts.destinations import row
from worker.destination import STORED, Item, Rejected
from worker.isolating import LOAD, MOST_FAILED, Verdicts, held, told_apart


class Warehouse:
    """Fails over a batch with poison in it, and over everything in certain calls."""

    def __init__(self, poison: set[int], away: range = range(0), reason: str = LOAD) -> None:
        self.poison, self.away, self.reason, self.calls = poison, away, reason, 0
        self.rows: set[int] = set()

    def send(self, part: list[Item]) -> Verdicts:
        self.calls += 1
        ids = {item.data["id"] for item in part}
        if self.calls in self.away:
            raise Transient("the warehouse is away", reason=self.reason)
        if ids & self.poison:
            raise Transient(f"{min(ids & self.poison)} is no number", reason=LOAD)
        self.rows |= ids
        return [STORED] * len(part)


def batch(count: int) -> list[Item]:
    return [row(1, id=n) for n in range(count)]


def blamed(verdicts: Verdicts) -> set[int]:
    return {n for n, verdict in enumerate(verdicts) if isinstance(verdict, Rejected)}


some = st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))


@settings(deadline=None, max_examples=200)
@given(some)
def test_one_poison_record_is_found_alone_and_all_others_are_stored(case):
    count, bad = case
    warehouse = Warehouse({bad})
    verdicts = told_apart(batch(count), warehouse.send, lambda _: True)
    assert blamed(verdicts) == {bad}
    assert warehouse.rows == set(range(count)) - {bad}
    assert f"{bad} is no number" in verdicts[bad].reason
    assert "this record alone" in verdicts[bad].reason
    assert warehouse.calls <= 2 * math.ceil(math.log2(count)) + 3


@settings(deadline=None, max_examples=400)
@given(
    st.integers(2, 30),
    st.sets(st.integers(0, 29), max_size=4),
    st.integers(1, 60),
    st.integers(1, 80),
    st.sampled_from([LOAD, "away"]),
)
def test_an_outage_of_any_length_at_any_moment_has_no_good_record_blamed(count, poison, began, lasted, reason):
    warehouse = Warehouse(poison, range(began, began + lasted), reason)
    verdicts = told_apart(batch(count), warehouse.send, lambda _: True)
    assert blamed(verdicts) <= poison
    assert {n for n, verdict in enumerate(verdicts) if verdict == STORED} <= warehouse.rows


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 1000), st.sampled_from([LOAD, "away"]))
def test_where_nothing_is_taken_nobody_is_blamed_and_few_calls_are_made(count, reason):
    warehouse = Warehouse(set(), range(10**6), reason)
    assert told_apart(batch(count), warehouse.send, lambda _: True) == [None] * count
    assert warehouse.calls <= MOST_FAILED


def test_a_record_that_has_not_failed_often_waits():
    verdicts = told_apart(batch(4), Warehouse({2}).send, lambda _: False)
    assert verdicts == [STORED, STORED, None, STORED]


def test_a_refusal_met_on_the_way_stays_a_refusal():
    def send(part: list[Item]) -> Verdicts:
        if any(item.data["id"] == 1 for item in part):
            raise Permanent("no")
        return [STORED] * len(part)

    with pytest.raises(Permanent, match="no"):
        told_apart(batch(2), send, lambda _: True)


def test_over_a_server_that_fails_a_record_is_held_and_never_blamed():
    warehouse = Warehouse({3})
    assert held("t", batch(5), warehouse.send, lambda: False) == [STORED, STORED, STORED, None, STORED]
    assert held("t", batch(5), Warehouse({3}).send, lambda: True) == [None] * 5
