"""Which records travel together: nothing is lost, nothing is sent twice, and the newest stays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batching import collapse, split
from worker.destination import Item, Limits

_number = itertools.count()


def item(
    key: str = "a",
    version: int = 1,
    *,
    op: str = "row",
    members: int | None = None,
    complete: bool = True,
    size: int = 1,
) -> Item:
    """One record; each is told from all others by its position."""
    rows = None if members is None else [{"id": n} for n in range(members)]
    return Item(
        op="set" if members is not None else op,
        data={"id": key},
        members=rows,
        complete=complete,
        version=f"{version:057d}",
        key=key,
        event="0" * 16,
        position=next(_number),
        source="erp",
        test=False,
        size=size,
    )


rows = st.builds(
    item,
    st.sampled_from("abc"),
    st.integers(1, 6),
    op=st.sampled_from(["row", "row", "full_gone", "gone"]),
    size=st.integers(0, 50),
)
sets = st.builds(
    item,
    st.sampled_from("abc"),
    st.integers(1, 6),
    members=st.integers(0, 4),
    complete=st.booleans(),
    size=st.integers(0, 50),
)
tables = st.lists(rows, max_size=25) | st.lists(sets, max_size=25)


def positions(items: Iterable[Item]) -> Counter[int]:
    return Counter(i.position for i in items)


class TestCollapse:
    @given(items=tables, keep=st.booleans())
    def test_every_record_is_kept_or_superseded_and_none_twice(self, items: list[Item], keep: bool) -> None:
        kept, superseded = collapse(items, keep_deleted=keep)
        assert positions([*kept, *superseded]) == positions(items)
        assert set(positions(items).values()) <= {1}

    @given(items=tables, keep=st.booleans())
    def test_the_newest_of_each_key_stays(self, items: list[Item], keep: bool) -> None:
        kept, _ = collapse(items, keep_deleted=keep)
        for key in {i.key for i in items}:
            newest = max((i for i in items if i.key == key), key=lambda i: (i.version, items.index(i)))
            assert newest in kept

    @given(items=tables, keep=st.booleans())
    def test_what_is_superseded_has_something_newer_that_says_all_it_said(
        self, items: list[Item], keep: bool
    ) -> None:
        kept, superseded = collapse(items, keep_deleted=keep)
        for old in superseded:
            newer = [
                i
                for i in kept
                if i.key == old.key
                and i.version >= old.version
                and i.complete
                and (not keep or (i.op == "gone") == (old.op == "gone"))
            ]
            assert newer

    @given(items=tables, keep=st.booleans())
    def test_what_is_kept_goes_oldest_first(self, items: list[Item], keep: bool) -> None:
        kept, _ = collapse(items, keep_deleted=keep)
        assert [i.version for i in kept] == sorted(i.version for i in kept)

    @given(items=st.lists(rows, max_size=25), keep=st.booleans())
    def test_a_key_occurs_once_and_with_its_tombstone_twice(self, items: list[Item], keep: bool) -> None:
        kept, _ = collapse(items, keep_deleted=keep)
        assert len({(i.key, keep and i.op == "gone") for i in kept}) == len(kept)

    @given(items=tables, keep=st.booleans())
    def test_to_collapse_again_changes_nothing(self, items: list[Item], keep: bool) -> None:
        once, _ = collapse(items, keep_deleted=keep)
        twice, superseded = collapse(once, keep_deleted=keep)
        assert positions(twice) == positions(once)
        assert superseded == []

    @given(items=st.lists(rows, max_size=8, unique_by=lambda i: (i.key, i.version)), data=st.data())
    def test_the_order_of_arrival_says_nothing(self, items: list[Item], data: st.DataObject) -> None:
        other = data.draw(st.permutations(items))
        first, second = (collapse(each, keep_deleted=True)[0] for each in (items, other))
        assert positions(first) == positions(second)

    def test_of_equal_versions_the_later_delivery_stays(self) -> None:
        first, second = item(version=3), item(version=3)
        assert collapse([first, second], keep_deleted=False) == ([second], [first])

    def test_a_tombstone_makes_the_row_superfluous_only_where_rows_are_not_kept(self) -> None:
        row, gone = item(version=1), item(version=2, op="gone")
        assert collapse([gone, row], keep_deleted=False) == ([gone], [row])
        assert collapse([gone, row], keep_deleted=True) == ([row, gone], [])

    def test_a_late_row_beneath_a_tombstone_is_kept_and_only_the_newest_of_them(self) -> None:
        old, late, gone = item(version=1), item(version=2), item(version=3, op="gone")
        assert collapse([gone, old, late], keep_deleted=True) == ([late, gone], [old])

    def test_a_row_after_a_tombstone_does_not_hide_it_where_rows_are_kept(self) -> None:
        gone, row = item(version=1, op="gone"), item(version=2)
        assert collapse([row, gone], keep_deleted=True) == ([gone, row], [])
        assert collapse([row, gone], keep_deleted=False) == ([row], [gone])

    def test_a_whole_deleted_row_takes_the_place_of_the_row(self) -> None:
        row, deleted = item(version=1), item(version=2, op="full_gone")
        assert collapse([row, deleted], keep_deleted=True) == ([deleted], [row])

    def test_an_incomplete_set_supersedes_nothing(self) -> None:
        whole, part = item(version=1, members=3), item(version=2, members=1, complete=False)
        assert collapse([part, whole], keep_deleted=True) == ([whole, part], [])

    def test_a_complete_set_supersedes_an_incomplete_one(self) -> None:
        part, whole = item(version=1, members=1, complete=False), item(version=2, members=3)
        assert collapse([part, whole], keep_deleted=True) == ([whole], [part])

    def test_a_complete_set_supersedes_all_sets_before_it(self) -> None:
        parts = [item(version=n, members=1, complete=False) for n in (1, 2, 3)]
        whole, after = item(version=4, members=3), item(version=5, members=1, complete=False)
        assert collapse([*parts, after, whole], keep_deleted=True) == ([whole, after], parts)

    def test_an_empty_complete_set_supersedes_the_one_before(self) -> None:
        full, empty = item(version=1, members=3), item(version=2, members=0)
        assert collapse([full, empty], keep_deleted=True) == ([empty], [full])

    def test_nothing_collapses_to_nothing(self) -> None:
        assert collapse([], keep_deleted=True) == ([], [])


limits = st.builds(Limits, st.integers(1, 12), st.none() | st.integers(1, 80))


class TestSplit:
    @given(items=tables, limits=limits)
    def test_every_record_is_in_one_batch_in_order(self, items: list[Item], limits: Limits) -> None:
        assert [i for batch in split(items, limits) for i in batch] == items

    @given(items=tables, limits=limits)
    def test_a_batch_is_within_the_limits_or_one_record(self, items: list[Item], limits: Limits) -> None:
        for batch in split(items, limits):
            assert batch
            if len(batch) > 1:
                assert sum(i.rows for i in batch) <= limits.records
                assert limits.body_bytes is None or sum(i.size for i in batch) <= limits.body_bytes

    @given(items=tables, limits=limits)
    def test_no_batch_could_have_taken_the_first_record_of_the_next(
        self, items: list[Item], limits: Limits
    ) -> None:
        for batch, after in itertools.pairwise(split(items, limits)):
            larger = [*batch, after[0]]
            over_bytes = limits.body_bytes is not None and sum(i.size for i in larger) > limits.body_bytes
            assert sum(i.rows for i in larger) > limits.records or over_bytes

    @pytest.mark.parametrize(
        ("members", "batches"),
        [([1, 1, 1, 1], [2, 2]), ([0, 0, 0], [2, 1]), ([1, 5, 1, 1], [1, 1, 2]), ([9], [1])],
    )
    def test_the_members_of_a_set_count_each_and_a_larger_set_goes_alone(
        self, members: list[int], batches: list[int]
    ) -> None:
        items = [item(key=str(n), members=count) for n, count in enumerate(members)]
        assert [len(batch) for batch in split(items, Limits(2))] == batches

    def test_nothing_is_no_batch(self) -> None:
        assert list(split([], Limits(1))) == []
