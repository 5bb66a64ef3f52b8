"""The fence before destinations that replace rows blindly: whatever fails, no row goes back in time."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.records import full_version, key_of, version_prefix
from worker import fence
from worker.batching import collapse
from worker.destination import Item, TableSpec

TABLE = TableSpec("shop_lines", ("order_id", "id"), ("order_id",), {})


def item(op, data, at, arrival, members=None, *, complete=True):
    key = key_of(data, TABLE.parent if members is not None else TABLE.key)
    version = full_version(version_prefix(at), f"{arrival:016d}")
    return Item(op, data, members, complete, version, key, f"{arrival:016d}", 0, "shop", test=False, size=10)


class Blind:
    """A destination that replaces what it is sent, and a log that would show a row going back."""

    def __init__(self):
        self.rows: dict[str, tuple[str, str, str]] = {}
        self.fences: dict[str, bytes] = {}

    def send(self, part: Item):
        before = self.rows.get(part.key)
        assert before is None or before[0] <= part.version, "a row went back in time"
        self.rows[part.key] = (part.version, part.op, json.dumps(part.data, sort_keys=True))

    def deliver(self, items, outcome):
        """One round; `outcome` says of each send whether it is applied, and whether that is known."""
        kept, _ = collapse(items, keep_deleted=False)
        entries = {k: self.fences.get(k) for k in [fence.FLOOR, *fence.keys_of(kept, TABLE)]}
        entries |= {k: self.fences.get(k) for k in fence.member_keys(kept, entries)}
        passage = fence.decide(kept, TABLE, entries)
        self.fences.update(passage.before)
        again = set()
        for part, owner in passage.sends:
            applied, known = outcome()
            if applied:
                self.send(part)
            if applied and known:
                self.fences[part.key] = passage.stored[part.key]
            else:
                again.add(owner)
        again.update(passage.waits)
        if not again:
            self.fences.update(passage.after)
        return [kept[i] for i in sorted(again)]

    def forget(self, chance):
        """As evict.lua does: entries of rows that are not open, and the floor over them."""
        for key in [k for k in self.fences if not k.startswith("*") and k != fence.FLOOR]:
            version = self.fences[key]
            if not version.startswith(b"?") and chance():
                del self.fences[key]
                self.fences[fence.FLOOR] = max(self.fences.get(fence.FLOOR, b""), version)


lines = st.lists(st.integers(1, 4), unique=True, max_size=4)
change = st.tuples(st.integers(1, 6), lines, st.booleans())


def newest_set(changes):
    return max((c for c in changes if c.complete), key=lambda c: c.version, default=None)


@settings(deadline=None, max_examples=300)
@given(st.lists(change, min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_sets_end_as_the_newest_complete_one_says_in_any_order_and_with_any_failures(changes, random):
    items = [
        item("set", {"order_id": 7}, at, n, [{"order_id": 7, "id": i, "v": at} for i in ids], complete=complete)
        for n, (at, ids, complete) in enumerate(changes)
    ]
    waiting, here = list(items), Blind()
    random.shuffle(waiting)
    rounds = 0
    while waiting:
        rounds += 1
        some, waiting = waiting[:3], waiting[3:]
        again = here.deliver(
            some, _well if rounds > 20 else lambda: (random.random() < 0.7, random.random() < 0.7)
        )
        random.shuffle(again)
        waiting += again
    newest = newest_set(items)
    live = {key for key, (_, op, _) in here.rows.items() if op == "row"}
    later = [i for i in items if newest is None or i.version >= newest.version]
    expected = {key_of(m, TABLE.key) for i in later for m in i.members}
    assert live == expected


def test_a_complete_set_that_comes_after_a_newer_incomplete_one_forgets_none_of_its_members():
    """Else the next complete one would leave them alive."""
    here = Blind()
    for at, ids, complete in ((2, [1], False), (1, [], True), (3, [], True)):
        members = [{"order_id": 7, "id": i, "v": at} for i in ids]
        assert here.deliver([item("set", {"order_id": 7}, at, at, members, complete=complete)], _well) == []
    assert [op for _, op, _ in here.rows.values()] == ["gone"]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_a_row_ends_at_its_newest_version_with_any_failures(changes, random):
    items = [
        item("gone" if gone else "row", {"order_id": 1, "id": 1, "v": at}, at, n)
        for n, (at, gone) in enumerate(changes)
    ]
    waiting, here, rounds = list(items), Blind(), 0
    random.shuffle(waiting)
    while waiting:
        rounds += 1
        some, waiting = waiting[:2], waiting[2:]
        waiting += here.deliver(some, _well if rounds > 20 else lambda: (random.random() < 0.5, False))
    newest = max(items, key=lambda i: i.version)
    assert here.rows[newest.key][:2] == (newest.version, newest.op)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_no_row_goes_back_whatever_the_fence_forgets_and_nothing_above_its_floor_is_withheld(changes, random):
    items = [item("row", {"order_id": 1, "id": row, "v": at}, at, n) for n, (at, row) in enumerate(changes)]
    waiting, here = list(items), Blind()
    random.shuffle(waiting)
    while waiting:
        some, waiting = waiting[:2], waiting[2:]
        waiting += here.deliver(some, _well)
        here.forget(lambda: random.random() < 0.5)
    floor = here.fences.get(fence.FLOOR, b"").decode()
    for newest in {i.key: i for i in sorted(items, key=lambda i: i.version)}.values():
        stored = here.rows.get(newest.key, ("", "", ""))[0]
        assert stored == newest.version or newest.version < floor


def test_a_set_that_was_half_sent_still_deletes_when_it_goes_again():
    here = Blind()
    here.deliver([item("set", {"order_id": 7}, 1, 1, [{"order_id": 7, "id": 1}, {"order_id": 7, "id": 2}])], _well)
    later = item("set", {"order_id": 7}, 2, 2, [{"order_id": 7, "id": 1}])
    assert here.deliver([later], lambda: (False, False)) == [later]
    assert here.deliver([later], _well) == []
    assert here.rows['["7","2"]'][1] == "gone"


def _well():
    return True, True


def test_an_incomplete_set_behind_a_complete_one_does_not_forget_what_is_still_to_be_deleted():
    here = Blind()
    here.deliver([item("set", {"order_id": 7}, 1, 1, [{"order_id": 7, "id": 4}])], _well)
    both = [
        item("set", {"order_id": 7}, 2, 2, []),
        item("set", {"order_id": 7}, 2, 3, [], complete=False),
    ]
    again = here.deliver(both, lambda: (False, False))
    here.deliver(again, _well)
    assert here.rows['["7","4"]'][1] == "gone"
