"""When a failed batch goes again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.retry import FIRST_S, LONGEST_S, delay_s

failures = st.integers(1, 10_000)
chances = st.floats(0, 1, exclude_max=True)


@given(failures=failures, chance=chances)
def test_a_wait_is_never_nothing_and_never_above_the_longest(failures: int, chance: float) -> None:
    assert FIRST_S * 0.1 <= delay_s(failures, chance) <= LONGEST_S


@given(failures=failures, chance=chances)
def test_one_more_failure_never_shortens_the_wait_of_the_same_chance(failures: int, chance: float) -> None:
    assert delay_s(failures, chance) <= delay_s(failures + 1, chance)


@given(failures=failures, left=chances, right=chances)
def test_a_greater_chance_never_shortens_the_wait(failures: int, left: float, right: float) -> None:
    assert (delay_s(failures, left) <= delay_s(failures, right)) or left > right


def test_the_ceiling_doubles_until_the_longest() -> None:
    almost = 1 - 2**-53
    ceilings = [round(delay_s(n, almost), 6) for n in range(1, 13)]
    assert ceilings[:4] == [FIRST_S, FIRST_S * 2, FIRST_S * 4, FIRST_S * 8]
    assert ceilings[-1] == LONGEST_S


def test_jitter_spreads_a_wait_over_nine_tenths_of_its_ceiling() -> None:
    """So that a thousand lanes that failed together do not come back together."""
    waits = [delay_s(8, step / 1000) for step in range(1000)]
    assert len(set(waits)) == 1000
    assert max(waits) - min(waits) > 0.89 * max(waits)


@given(failures=failures, chance=chances, asked=st.floats(0, 1e6))
def test_what_the_destination_asked_for_is_the_least_wait(failures: int, chance: float, asked: float) -> None:
    wait = delay_s(failures, chance, asked)
    assert wait == max(asked, delay_s(failures, chance))


@given(failures=failures, chance=chances)
def test_a_destination_that_asks_for_nothing_changes_nothing(failures: int, chance: float) -> None:
    assert delay_s(failures, chance, None) == delay_s(failures, chance, 0.0) == delay_s(failures, chance)
