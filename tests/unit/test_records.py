"""The nouns: numbers that survive, times that compare, versions that order, blobs that come back."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.errors import MalformedPayload
from relay.records import (
    MAX_DEPTH,
    Codec,
    Meta,
    Record,
    Table,
    Type,
    arrival_instant,
    decode_json,
    depth_of,
    encode_json,
    full_version,
    instant_ns,
    instant_of_ns,
    key_text,
    records_of,
    version_instant,
    version_prefix,
)

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ORDERS = Table("orders", ("id",), columns={"id": Type.INT})
LINES = Table("order_lines", ("order_id", "id"), parent=("order_id",))
ARRIVAL = "1772600770123456"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = (
    st.integers()
    | st.integers(-(10**400), 10**400)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.builds("{}.{}e{}".format, st.integers(), st.integers(0), st.integers(-9999, 9999)).map(Decimal)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


def exactly(value: Any) -> str:
    """A value in which `1`, `1.0` and `true` differ; a decimal without a fraction may be a whole number."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{exactly(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(exactly, value)) + "]"
    return str(value) if isinstance(value, (int, Decimal)) else repr(value)


class TestJson:
    @given(value=values)
    @example(value={"a": [Decimal("1E+400"), 2**64, -(2**63) - 1, Decimal("-0.00"), "é\x00"]})
    def test_what_is_written_is_read_again_without_loss(self, value: Any) -> None:
        assert exactly(decode_json(encode_json(value))) == exactly(value)

    @pytest.mark.parametrize("text", ["19.99", "0.10", "18446744073709551616123", "-0.0", "1" * 400, "1.000"])
    def test_a_number_comes_out_as_it_went_in(self, text: str) -> None:
        assert encode_json(decode_json(text.encode())).decode() == text

    @pytest.mark.parametrize(("text", "value"), [("1e400", Decimal("1e400")), ("1E-400", Decimal("1e-400"))])
    def test_a_number_with_an_exponent_keeps_its_value(self, text: str, value: Decimal) -> None:
        found = decode_json(encode_json(decode_json(text.encode())))
        assert (found, type(found)) == (value, Decimal)

    @given(body=st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused_as_malformed(self, body: bytes) -> None:
        try:
            value = decode_json(body)
        except MalformedPayload:
            return
        assert exactly(decode_json(encode_json(value))) == exactly(value)

    @pytest.mark.parametrize(
        "body",
        [b"", b" ", b"{", b"[1,", b"nul", b"\xff", b'"\xc3"', b'"\\ud800"', b"\xef\xbb\xbf{}", b"NaN", b"Infinity",
         b"01", b"1.", b"{'a': 1}", b'{"a": 1} x', b"1e99999999999999999999", b"-0.1e-99999999999999999999",
         b"9" * 5000, b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000],
        ids=lambda body: repr(body[:12]) + str(len(body)),
    )  # fmt: skip
    def test_hostile_bytes_are_malformed_and_nothing_worse(self, body: bytes) -> None:
        with pytest.raises(MalformedPayload) as refused:
            decode_json(body)
        assert refused.value.reason in {"not_json", "too_deep"}


class TestDepth:
    @pytest.mark.parametrize(
        ("value", "depth"), [(1, 0), (None, 0), ([], 1), ({}, 1), ([1], 1), ([[1], {"a": [2]}], 3), ({"a": {}}, 2)]
    )
    def test_depth_counts_what_lies_inside_one_another(self, value: Any, depth: int) -> None:
        assert depth_of(value) == depth

    @pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    def test_a_body_is_refused_one_level_beyond_the_limit(self, start: str, end: str) -> None:
        levels = start.count("[") + start.count("{")
        fits, over = MAX_DEPTH // levels, MAX_DEPTH // levels + 1
        assert depth_of(decode_json((start * fits + "1" + end * fits).encode())) == MAX_DEPTH
        with pytest.raises(MalformedPayload, match="nested") as refused:
            decode_json((start * over + "1" + end * over).encode())
        assert refused.value.reason == "too_deep"

    def test_many_values_side_by_side_are_not_deep(self) -> None:
        assert len(decode_json(b"[" + b"[{}]," * 1000 + b"[]]")) == 1001


moments = st.datetimes(timezones=st.just(dt.UTC) | st.timedeltas(
    dt.timedelta(hours=-23), dt.timedelta(hours=23)
).map(lambda d: dt.timezone(dt.timedelta(minutes=d // dt.timedelta(minutes=1)))))  # fmt: skip


def in_ns(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1) * 1000


NO_TIMES = [
    *(
        None,
        True,
        False,
        "",
        " ",
        "soon",
        "0000-00-00 00:00:00",
        "2026-13-01",
        "2026-02-30",
        "²",
        "٣²",
        "--5",
        "-",
    ),
    *(".", "1.2.3", "0012", "1e9", "NaN", "T", [], {}, 1.5, 10**20, -(10**20), 10**5000, "9" * 5000, b"1"),
    *map(Decimal, ("1e9999999", "NaN", "Infinity", "sNaN")),
]


class TestInstants:
    @given(moment=moments)
    def test_an_iso_time_with_an_offset_is_that_moment(self, moment: dt.datetime) -> None:
        assert instant_ns(moment.isoformat()) == in_ns(moment)
        assert instant_ns(f" {moment.isoformat(' ')} ") == in_ns(moment)

    @given(left=moments, right=moments)
    def test_order_is_that_of_the_moments(self, left: dt.datetime, right: dt.datetime) -> None:
        first, second = instant_ns(left.isoformat()), instant_ns(right.isoformat())
        assert first is not None
        assert second is not None
        assert (first < second, first == second) == (left < right, left == right)

    @given(moment=st.datetimes(), digits=st.text("0123456789", min_size=7, max_size=12))
    def test_digits_finer_than_microseconds_count_down_to_nanoseconds(
        self, moment: dt.datetime, digits: str
    ) -> None:
        moment = moment.replace(microsecond=0, tzinfo=dt.UTC)
        text = f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0")
        assert instant_ns(f"{text}.{digits}+00:00") == in_ns(moment) + int(digits[:9].ljust(9, "0"))

    @pytest.mark.parametrize(
        ("value", "ns"),
        [
            ("2026-03-04T05:06:08Z", 1_772_600_768_000_000_000),
            ("2026-03-04T05:06:08", 1_772_600_768_000_000_000),
            ("2026-03-04 05:06:08", 1_772_600_768_000_000_000),
            ("2026-03-04T06:06:08.25+01:00", 1_772_600_768_250_000_000),
            ("2026-03-04T05:06:08.123456789Z", 1_772_600_768_123_456_789),
            ("2026-03-04", 1_772_582_400_000_000_000),
            ("1969-12-31T23:59:59Z", -1_000_000_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000_000),
            (1_772_600_768, 1_772_600_768_000_000_000),
            ("1772600768", 1_772_600_768_000_000_000),
            (Decimal("1772600768.123456"), 1_772_600_768_123_456_000),
            ("1772600768.5", 1_772_600_768_500_000_000),
            (1_772_600_768_123, 1_772_600_768_123_000_000),
            (1_772_600_768_123_456, 1_772_600_768_123_456_000),
            ("1772600768123456789", 1_772_600_768_123_456_789),
            (0, 0),
            ("0", 0),
            (-1, -1_000_000_000),
        ],
        ids=repr,
    )
    def test_a_time_is_read_in_the_forms_that_vendors_send(self, value: Any, ns: int) -> None:
        assert instant_ns(value) == ns

    @pytest.mark.parametrize("value", NO_TIMES, ids=range(len(NO_TIMES)))
    def test_what_is_no_time_is_none(self, value: Any) -> None:
        assert instant_ns(value) is None

    @given(value=values | st.text("0123456789-+:.TZ W²٣", max_size=30))
    def test_any_value_is_a_time_or_none(self, value: Any) -> None:
        found = instant_ns(value)
        assert found is None or isinstance(found, int)

    @given(moment=moments)
    def test_a_moment_comes_back_from_its_nanoseconds(self, moment: dt.datetime) -> None:
        assert instant_of_ns(in_ns(moment)) == moment

    def test_a_moment_after_the_calendar_is_its_end(self) -> None:
        assert instant_of_ns(10**25).year == 9999


times = st.none() | st.integers() | st.integers(0, 2**63)
counters = st.integers(0, 2**63 - 1)
ranks = st.integers(0, 99)
arrivals = st.integers(0, 10**16 - 1).map("{:016d}".format)


class TestVersions:
    @given(at=times, sequence=st.integers(), rank=st.integers(), arrival=arrivals)
    @example(at=253_402_300_799 * 10**9, sequence=10**30, rank=1000, arrival=ARRIVAL)
    def test_a_version_has_57_digits(self, at: int | None, sequence: int, rank: int, arrival: str) -> None:
        prefix = version_prefix(at, sequence, rank)
        assert len(prefix) == 41
        version = full_version(prefix, arrival)
        assert len(version) == 57
        assert version.isascii()
        assert version.isdigit()

    @given(
        left=st.tuples(st.integers(0, 10**20 - 1), counters, ranks, arrivals),
        right=st.tuples(st.integers(0, 10**20 - 1), counters, ranks, arrivals),
    )
    def test_order_is_by_time_then_sequence_then_rank_then_arrival(self, left: Any, right: Any) -> None:
        first, second = (full_version(version_prefix(*parts[:3]), parts[3]) for parts in (left, right))
        assert (first < second, first == second) == (left < right, left == right)

    def test_each_part_outweighs_all_that_follow(self) -> None:
        steps = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
        for first, second in itertools.pairwise([*steps, (0, 0, 0)]):
            newer = full_version(version_prefix(5 + first[0], 5 + first[1], 5 + first[2]), "0" * 16)
            older = full_version(version_prefix(5 + second[0], 5 + second[1], 5 + second[2]), "9" * 16)
            assert older < newer

    @given(left=arrivals, right=arrivals, sequence=counters)
    def test_without_a_time_the_arrival_decides(self, left: str, right: str, sequence: int) -> None:
        first, second = (
            full_version(version_prefix(None, sequence), left),
            full_version(version_prefix(None), right),
        )
        if left != right:
            assert (first < second) == (left < right)
        assert version_instant(first) == arrival_instant(left)

    def test_a_time_of_receipt_compares_with_a_time_of_the_vendor(self) -> None:
        received = full_version(version_prefix(None), ARRIVAL)
        told = [full_version(version_prefix(int(ARRIVAL) * 1000 + step), "0" * 16) for step in (-1, 1)]
        assert told[0] < received < told[1]
        assert version_instant(told[1]) == arrival_instant(ARRIVAL)

    def test_a_time_before_1970_counts_as_1970(self) -> None:
        assert version_prefix(-5) == version_prefix(0)
        assert version_instant(full_version(version_prefix(-5), ARRIVAL)) == EPOCH


class TestTables:
    def test_a_tombstone_of_the_same_moment_is_newer_than_the_row(self) -> None:
        assert ORDERS.gone({"id": 1}, at=5).version > ORDERS.row({"id": 1}, at=5, rank=98).version

    def test_members_repeat_their_parent(self) -> None:
        lines = LINES.children({"order_id": 1}, [{"id": 2}, {"id": 3}], at=5, complete=False)
        assert lines.members == [{"order_id": 1, "id": 2}, {"order_id": 1, "id": 3}]
        assert (lines.op, lines.data, lines.complete) == ("set", {"order_id": 1}, False)

    def test_a_whole_deleted_row_says_so(self) -> None:
        assert [ORDERS.row({"id": 1}, gone=gone).op for gone in (False, True)] == ["row", "full_gone"]

    def test_equal_declarations_share_an_id_and_changed_ones_do_not(self) -> None:
        again = Table("orders", ("id",), clock="another", columns={"id": Type.INT})
        assert again.schema_id == ORDERS.schema_id
        for changed in (Table("orders", ("id",), columns={"id": Type.ID}), Table("orders", ("uuid",)), LINES):
            assert changed.schema_id != ORDERS.schema_id


class TestKeys:
    @staticmethod
    def of(*values: Any) -> str:
        names = tuple("abcdef"[: len(values)])
        return key_text(Table("t", names).row(dict(zip(names, values, strict=True))), names)

    @given(number=st.integers(-(10**300), 10**300))
    def test_a_number_and_its_digits_are_one_key(self, number: int) -> None:
        assert self.of(number) == self.of(str(number))

    @given(left=st.tuples(texts, texts), right=st.tuples(texts, texts))
    def test_different_texts_are_different_keys(self, left: tuple[str, str], right: tuple[str, str]) -> None:
        assert (self.of(*left) == self.of(*right)) == (left == right)

    def test_a_missing_part_is_not_the_text_of_it(self) -> None:
        assert len({self.of(None), self.of("null"), self.of(""), self.of("None")}) >= 3
        assert key_text(Record("t", "row", "", {}), ("a",)) == self.of(None)


class TestCodec:
    records = st.lists(
        st.builds(
            Record,
            texts,
            st.sampled_from(["row", "gone", "full_gone", "set"]),
            st.just(version_prefix(5)),
            st.dictionaries(texts, values, max_size=4),
            st.none() | st.lists(st.dictionaries(texts, values, max_size=3), max_size=3),
            st.booleans(),
        ),
        max_size=5,
    )

    @given(raw=st.binary(), rows=records, at=st.none() | st.integers(-(2**63), 2**63 - 1), word=texts)
    def test_an_event_comes_back_as_it_was_packed(
        self, raw: bytes, rows: list[Record], at: int | None, word: str
    ) -> None:
        codec = Codec()
        meta = Meta("erp", "custom", word, "d-1", at, {"x-topic": word}, test=True, schemas={"t": "s"}, fault=word)
        packed = codec.unpack(codec.pack(meta, raw, rows))
        assert (packed.meta, packed.raw) == (meta, raw)
        assert exactly([encode_json(r).decode() for r in records_of(packed)]) == exactly(
            [encode_json(r).decode() for r in rows]
        )

    @pytest.mark.parametrize(("at", "kept"), [(253_402_300_799 * 10**9, 2**63 - 1), (-(10**20), -(2**63))])
    def test_a_time_far_off_is_kept_as_the_last_that_fits(self, at: int, kept: int) -> None:
        codec = Codec()
        packed = codec.unpack(codec.pack(Meta("erp", "custom", "t", at=at), b"", []))
        assert packed.meta.at == kept
