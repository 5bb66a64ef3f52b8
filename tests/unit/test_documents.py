"""Commands out of documents, however they are cut; and what each of them becomes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.dialect import PushRefused
from relay.dialects import documents
from relay.values import LONGEST, CsvRows, Found, JsonValues, Reader, Unreadable

MESSY = (
    b'\xef\xbb\xbf{"a":1}\n{"a":2} {"a":3}{"a":4}\n{\n "a": {\n "b": [1,\n2]\n}\n}\nnope\n{"a": nope}\n'
    b'{"a": 1\n{"a":5}\n[1]\n{"a":6}\r\n\n{"a":"\xff"}\n{"a":' + b"[" * 3000 + b'\n{"a":7.10}\n{"a":'
)
TABLE = b'\xef\xbb\xbfa,b\r\n1,2\r\n"x\ny",3\n\n1\n"un"quoted,1\n\xff,1\n"never closed,1\n4,"a ""b"""\n5,\n'


def read(reader: Reader, document: bytes, cuts: list[int] = []) -> list[Found]:  # noqa: B006 - never changed
    at = [0, *sorted({min(c, len(document)) for c in cuts} - {0, len(document)}), len(document)]
    return [
        found for a, b in itertools.pairwise(at) for found in reader.feed(document[a:b], last=b == len(document))
    ]


def values(found: list[Found]) -> list[Any]:
    return [one.value for one in found if not one.fault]


def test_json_objects_are_read_one_a_line_printed_or_all_on_one_line():
    found = read(JsonValues(), MESSY)
    assert [one["a"] for one in values(found)] == [1, 2, 3, 4, {"b": [1, 2]}, 5, 6, documents.decode_json(b"7.10")]
    assert [one.line for one in found if one.fault] == [9, 10, 11, 13, 16, 17, 19]
    assert found[-1].fault == "it ends in the middle of a command"


def test_rows_of_a_csv_file_have_their_line_and_the_fault_of_one_is_not_the_next_ones():
    found = read(CsvRows(), TABLE)
    assert values(found) == [{"a": "1", "b": "2"}, {"a": "x\ny", "b": "3"}, {"a": "4", "b": 'a "b"'}, {"a": "5"}]
    assert [one.line for one in found if one.fault] == [6, 7, 8, 9]


@settings(deadline=None, max_examples=300)
@example(kind=(JsonValues, MESSY), cuts=[19])  # between two values on one line
@given(
    kind=st.sampled_from([(JsonValues, MESSY), (CsvRows, TABLE)]),
    cuts=st.lists(st.one_of(st.integers(3, 160), st.integers(3, 4000)), max_size=8),
)
def test_how_a_document_is_cut_changes_nothing(kind, cuts):
    cls, document = kind
    assert read(cls(), document, cuts) == read(cls(), document)


@pytest.mark.parametrize(("cls", "document"), [(JsonValues, MESSY), (CsvRows, TABLE)])
def test_a_reader_goes_on_anywhere_as_the_first_one_would_have(cls, document):
    whole = read(cls(), document)
    for n, one in enumerate(whole):
        header = ("a", "b") if cls is CsvRows else ()
        assert read(cls(one.end, one.next_line, header), document[one.end :]) == whole[n + 1 :]


def test_a_value_that_is_too_long_is_a_fault_and_the_next_one_is_read_in_bounded_memory():
    document = b'{"a":"' + b"x" * (LONGEST + 5) + b'"}\n{"a":2}\n' + b"y" * (2 * LONGEST) + b'\n{"a":3}\n'
    reader = JsonValues()
    found = []
    for at in range(0, len(document), 100_000):
        found += reader.feed(document[at : at + 100_000], last=at + 100_000 >= len(document))
        assert len(reader._held) <= LONGEST + 200_000
    assert [bool(one.fault) for one in found] == [True, False, True, False]
    assert [one.line for one in found] == [1, 2, 3, 4]
    assert found == read(JsonValues(), document)


def test_all_on_one_line_costs_no_more_than_a_line_each():
    found = read(JsonValues(), b'{"a":1}' * 50_000, list(range(65_536, 350_000, 65_536)))
    assert len(values(found)) == 50_000


@pytest.mark.parametrize(
    ("cls", "document"),
    [
        (JsonValues, b' [{"a":1}]'),
        (JsonValues, b"\xff\xfe{\x00"),
        (CsvRows, b"\x1f\x8b\x08"),
        (CsvRows, b"a;b\n1;2\n"),
        (CsvRows, b"a,a\n1,2\n"),
        (CsvRows, b"a,\n1,2\n"),
        (CsvRows, b'"a\n1,2\n'),
    ],
)
def test_what_is_no_document_of_that_kind_is_refused_as_a_whole(cls, document):
    with pytest.raises(Unreadable):
        read(cls(), document)


def row(kind: str, **command: Any) -> Any:
    return documents.row(kind, command, "9-100", 5)


def test_each_identifier_is_a_user_of_its_own():
    profile = {"operation": "UPSERT"}
    ids = [
        row("USER_PROFILE", **profile, **known).data["user_id"]
        for known in (
            {"user_account_id": "1"}, {"user_account_id": "1", "compartment_id": "2"}, {"email_hash": "1"},
            {"user_agent_id": "vec:1"},
        )
    ]  # fmt: skip
    assert ids == ["account::1", "account:2:1", "email:1", "agent:vec:1"]


def test_segments_deletions_and_associations_have_tables_and_keys_of_their_own():
    segment = row(
        "USER_SEGMENT", operation="UPDATE", email_hash="e", segment_technical_name="t", data_bag='{"x":1.10}'
    )
    assert (segment.data["user_id"], segment.data["segment"], segment.sequence) == ("email:e", "name:t", 5)
    assert json.dumps(segment.data["data_bag"], default=str) == '{"x": "1.10"}'
    assert row("USER_IDENTIFIERS_DELETION", type="USER_EMAIL", email_hash="e").data["user_id"] == "email:e"
    kind = "USER_IDENTIFIERS_ASSOCIATION_DECLARATIONS"
    known = [{"type": "USER_EMAIL", "hash": "e"}, {"type": "USER_AGENT", "user_agent_id": "a"}]
    one, other = row(kind, identifiers=known), row(kind, identifiers=known[::-1])
    assert one.data["association_id"] == other.data["association_id"]
    assert one.data["user_ids"] == ["agent:a", "email:e"]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("USER_PROFILE", {"operation": "UPSERT"}),
    ("USER_PROFILE", {"operation": "UPDATE", "email_hash": "e"}),
    ("USER_PROFILE", {"operation": "UPSERT", "email_hash": "e", "user_agent_id": "a"}),
    ("USER_PROFILE", {"operation": "UPSERT", "email_hash": {"no": 1}}),
    ("USER_PROFILE", {"operation": "UPSERT", "email_hash": ""}),
    ("USER_PROFILE", {"operation": "UPSERT", "email_hash": "e", "update_strategy": "PARTIAL_DELETE"}),
    ("USER_PROFILE", {"operation": "UPSERT", "email_hash": "e", "merge_objects": True}),
    ("USER_PROFILE", {"operation": "UPSERT", "email_hash": "e", "_relay_version": "0"}),
    ("USER_SEGMENT", {"operation": "UPDATE", "email_hash": "e"}),
    ("USER_SEGMENT", {"operation": "UPDATE", "email_hash": "e", "segment_id": "1", "segment_technical_name": "t"}),
    ("USER_SEGMENT", {"operation": "UPDATE", "email_hash": "e", "segment_id": "1", "expiration_duration": -1}),
    ("USER_SEGMENT", {"operation": "UPDATE", "email_hash": "e", "segment_id": "1", "data_bag": "{"}),
    ("USER_ACTIVITY", {"$type": "TOUCH"}),
    ("USER_ACTIVITY", {"$type": "TOUCH", "type": "TOUCH", "$user_account_id": "1"}),
    ("USER_IDENTIFIERS_DELETION", {"type": "USER", "email_hash": "e"}),
    ("USER_IDENTIFIERS_DELETION", {"type": "USER_AGENT", "email_hash": "e"}),
    ("USER_IDENTIFIERS_ASSOCIATION_DECLARATIONS", {"identifiers": []}),
    ("USER_IDENTIFIERS_DISSOCIATION_DECLARATIONS", {"identifiers": [{}]}),
]


@pytest.mark.parametrize(("kind", "command"), REFUSED)
def test_a_command_that_cannot_be_followed_is_refused_with_words(kind, command):
    with pytest.raises(PushRefused) as refused:
        row(kind, **command)
    assert str(refused.value)


def test_an_activity_keeps_its_fields_without_the_dollar_and_is_known_by_its_place():
    found = row("USER_ACTIVITY", **{"$user_account_id": 7, "$ts": 1, "$events": [{"$event_name": "x"}]})
    assert found.data == {
        "user_account_id": 7, "ts": 1, "events": [{"$event_name": "x"}],
        "user_id": "account::7", "_row_id": "9-100",
    }  # fmt: skip
