"""The kind `custom`: a sender that is described in the configuration."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bodies import decode_body
from relay.errors import MalformedPayload, Unauthenticated
from relay.records import BY_RECEIPT, Event, Record, Request, decode_json, encode_json
from relay.source import Vendor
from relay.sources.custom import MAX_EVENTS, MAX_ROWS, build

NOW = 1_772_600_770_000_000_000
CASES = sorted(p for p in (Path(__file__).parents[1] / "payloads/custom").iterdir() if p.is_dir())
SECRET = "a secret of the erp"


def settings(**tables: Any) -> dict[str, Any]:
    """A source with one table, `rows` keyed by `id`, unless told otherwise."""
    return {
        "verify": {"hmac": {"header": "X-Signature"}},
        "tables": [{"table": "rows", "key": ["id"], **tables}],
    }


def request(body: bytes, **parts: Any) -> Request:
    return Request("POST", "https://relay.example/hooks/erp", parts.pop("headers", {}), body, **parts)


def mapped(vendor: Vendor, event: Event) -> list[Record]:
    mapper = vendor.mapper(event.type)
    assert mapper is not None
    return list(mapper(event))


def run(described: dict[str, Any], data: Any, **parts: Any) -> list[Record]:
    vendor = build(described)
    return [r for event in vendor.read(request(b"", **parts), data) for r in mapped(vendor, event)]


def row(data: Any, **tables: Any) -> Record:
    [record] = run(settings(**tables), data)
    return record


def wire(record: Record) -> dict[str, Any]:
    """A record in the words of a case's records.json."""
    time = record.version[:20]
    found: dict[str, Any] = {
        "table": record.table,
        "op": record.op,
        "at": None if time == BY_RECEIPT else int(time),
        "sequence": int(record.version[20:39]),
        "rank": int(record.version[39:]),
        "data": record.data,
    }
    return found if record.op != "set" else {**found, "members": record.members, "complete": record.complete}


def exactly(value: Any) -> str:
    """JSON with sorted keys, each number as it is written."""
    return json.dumps(json.loads(encode_json(value), parse_float=str), sort_keys=True, indent=1)


def decoded(vendor: Vendor, sent: Request) -> Any:
    data = decode_body(sent, forms=vendor.forms)
    return data if vendor.scrub is None else vendor.scrub(data)


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.name)
class TestCases:
    @staticmethod
    def sent(case: Path) -> tuple[Vendor, Request]:
        vendor = build(decode_json((case / "source.json").read_bytes()))
        told = json.loads((case / "request.json").read_text())
        headers = {"content-type": told.get("content_type", "application/json"), **told["headers"]}
        plain = request((case / "body").read_bytes(), headers=headers, query=told.get("query", {}))
        return vendor, vendor.verifier({}).sign(plain, SECRET, NOW)

    def test_a_delivery_becomes_the_written_records(self, case: Path) -> None:
        vendor, sent = self.sent(case)
        found = [
            {
                "type": event.type,
                "id": event.id,
                "at": event.at,
                "test": event.test,
                "records": [wire(record) for record in mapped(vendor, event)],
            }
            for event in vendor.read(sent, decoded(vendor, sent))
        ]
        assert exactly({"events": found}) == exactly(decode_json((case / "records.json").read_bytes()))

    def test_every_record_is_of_a_declared_table_and_has_its_key(self, case: Path) -> None:
        vendor, sent = self.sent(case)
        for event in vendor.read(sent, decoded(vendor, sent)):
            for record in mapped(vendor, event):
                table = vendor.tables[record.table]
                rows = [record.data] if record.members is None else record.members
                assert all(r.get(column) is not None for r in rows for column in table.key)
                assert (record.op == "set") == bool(table.parent)

    def test_the_sender_is_proved_and_its_proof_is_not_kept(self, case: Path) -> None:
        vendor, sent = self.sent(case)
        vendor.verifier({}).verify(sent, ("another", SECRET), NOW)
        with pytest.raises(Unauthenticated):
            vendor.verifier({}).verify(sent, ("another",), NOW)
        for event in vendor.read(sent, decoded(vendor, sent)):
            assert not any(SECRET in value for value in event.headers.values())

    def test_what_is_kept_of_a_delivery_maps_to_the_same_records_again(self, case: Path) -> None:
        """A replay has an event's own data and the kept headers, neither a query nor the rest of a batch."""
        vendor, sent = self.sent(case)
        for event in vendor.read(sent, decoded(vendor, sent)):
            kept = msgspec.json.decode(encode_json([event.type, event.headers, event.at]))
            again = Event(kept[0], decode_json(encode_json(event.data)), headers=kept[1], at=kept[2])
            assert mapped(vendor, again) == mapped(vendor, event)

    def test_reading_again_with_what_was_kept_gives_the_same_events(self, case: Path) -> None:
        vendor, sent = self.sent(case)
        first = vendor.read(sent, decoded(vendor, sent))
        assert vendor.read(request(sent.body, headers=first[0].headers), decoded(vendor, sent)) == first


def test_every_knob_of_a_keyed_hash_can_be_set() -> None:
    described = settings()
    described["verify"] = {
        "hmac": {
            "header": "X-Sign",
            "algorithm": "sha512",
            "encoding": "base64",
            "message": "{method}:{url}:{id}:{timestamp}:{body}",
            "pair": "v2",
            "separator": ";",
            "key": "hex",
            "id_header": "X-Id",
            "timestamp": {"pair": "ts", "unit": "ms", "tolerance_s": 10},
            "aliases": {"X-Sign": "X-Old-Sign"},
        }
    }
    described["id"] = 'headers."x-old-sign"'
    vendor = build(described)
    sent = vendor.verifier({}).sign(request(b"{}"), "00ff", NOW)
    assert sent.headers["x-sign"].startswith(f"ts={NOW // 1_000_000};v2=")
    renamed = request(b"{}", headers={"x-old-sign": sent.headers["x-sign"], "x-id": sent.headers["x-id"]})
    vendor.verifier({}).verify(renamed, ("00ff",), NOW)
    [event] = vendor.read(renamed, {})
    assert event.id == ""
    with pytest.raises(Unauthenticated, match="away from this machine's clock"):
        vendor.verifier({}).verify(renamed, ("00ff",), NOW + 11 * 10**9)


def test_a_token_in_the_body_is_taken_out_of_the_row() -> None:
    described = settings()
    described["verify"] = {"token": {"field": "key"}}
    vendor = build(described)
    assert vendor.scrub is not None
    assert vendor.scrub({"id": 1, "key": "secret"}) == {"id": 1}
    [record] = run(described, {"id": 1, "key": "secret"})
    assert record.data == {"id": 1}


def test_columns_of_the_relay_itself_cannot_be_sent() -> None:
    assert row({"id": 1, "_relay_version": "9"}).data == {"id": 1}


def test_a_body_without_a_token_is_read_as_it_is() -> None:
    """Its raw bytes can then be stored as they came."""
    data = {"id": 1}
    vendor = build(settings())
    assert vendor.scrub is None
    assert vendor.read(request(b""), data)[0].data is data


def test_an_event_that_no_table_is_meant_for_yields_nothing() -> None:
    assert run(settings(when="type == 'other'"), {"id": 1}) == []


def test_a_root_that_finds_nothing_yields_nothing() -> None:
    assert run(settings(root="absent"), {"id": 1}) == []


def test_a_child_list_that_is_absent_says_nothing_and_an_empty_one_empties() -> None:
    described = settings(children={"lines": {"key": "n"}})
    assert [r.op for r in run(described, {"id": 1})] == ["row"]
    [_, emptied] = run(described, {"id": 1, "lines": []})
    assert (emptied.op, emptied.members, emptied.complete, emptied.data) == ("set", [], True, {"row_id": 1})


def test_a_deleted_row_keeps_what_it_said_and_a_bare_id_is_only_a_tombstone() -> None:
    assert row({"id": 1, "gone": True, "a": None}, deleted="gone").op == "full_gone"
    assert row({"id": 1, "gone": "true"}, deleted="gone", columns={"id": "id", "a": "a"}).op == "gone"
    assert row({"id": 1, "gone": "false"}, deleted="gone").op == "row"


def test_a_row_without_a_version_has_the_time_of_the_event_or_else_the_receipt() -> None:
    described = {**settings(version="changed"), "at": "body.at"}
    at = 1_772_600_768_000_000_000
    assert wire(run(described, {"id": 1, "at": 1_772_600_768})[0])["at"] == at
    assert wire(run(described, {"id": 1, "at": 5, "changed": "2026-03-04T05:06:08Z"})[0])["at"] == at
    assert wire(run(described, {"id": 1})[0])["at"] is None


WRONG_ROWS = [
    ({}, {"a": 1}, "rows: no value for the key column id"),
    ({}, {"id": None}, "rows: no value for the key column id"),
    ({}, {"id": [1]}, "rows: no value for the key column id"),
    ({}, [1], "rows[0]: a row is an object, not int"),
    ({"root": "id"}, {"id": 5}, "rows: a row is an object, not int"),
    ({"version": "v"}, {"id": 1, "v": "yesterday"}, "rows: its version is not a time"),
    ({"version": "v"}, {"id": 1, "v": [1]}, "rows: its version is not a time"),
    ({"sequence": "s"}, {"id": 1, "s": -1}, "rows: its sequence has more than 19 digits, or is negative"),
    ({"sequence": "s"}, {"id": 1, "s": 10**19}, "rows: its sequence has more than 19 digits"),
    ({"sequence": "s"}, {"id": 1, "s": "x"}, "not a number"),
    ({"when": "body.a > body.id"}, {"id": 1, "a": "x"}, "body.a > body.id: cannot be worked out"),
    ({"when": "sum(body.a)"}, {"id": 1, "a": ["4111"]}, "given a value of type str"),
    ({"columns": {"id": {"path": "id", "cast": "int"}}}, {"id": "4111-x"}, "rows: column id: not a number"),
    ({"children": {"l": {"key": "n"}}}, {"id": 1, "l": {}}, "rows_l: its rows are a list"),
    ({"children": {"l": {"key": "n"}}}, {"id": 1, "l": ["x"]}, "a row is an object, not str"),
    ({"children": {"l": {"key": "n"}}}, {"id": 1, "l": [{"n": 1}, {"n": "1"}]}, "rows_l: two rows of one list"),
]


@pytest.mark.parametrize(("tables", "data", "said"), WRONG_ROWS)
def test_a_row_that_cannot_be_mapped_says_why_and_not_what(tables: Any, data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as fault:
        run(settings(**tables), data)
    assert "4111" not in str(fault.value)


def test_one_event_becomes_ten_thousand_rows_and_no_more() -> None:
    many = [{"id": n} for n in range(MAX_ROWS)]
    assert len(run(settings(), many)) == MAX_ROWS
    with pytest.raises(ValueError, match="more than 10000 rows"):
        run(settings(), [*many, {"id": -1}])
    described = settings(children={"l": {"key": "id"}})
    with pytest.raises(ValueError, match="more than 10000 rows"):
        run(described, {"id": 1, "l": many})
    with pytest.raises(ValueError, match="at most 10000"):
        run(described, {"id": 1, "l": [*many, {"id": -1}]})


WRONG_ENVELOPES = [
    ({"type": "body.type"}, {"id": 1}, "the event has no type"),
    ({"type": "body.type"}, {"type": {"a": 1}}, "type is neither text nor a whole number but dict"),
    ({"type": "body.type"}, {"type": True}, "type is neither"),
    ({"id": "body.id"}, {"id": Decimal("1.5")}, "id is neither"),
    ({"at": "body.at"}, {"at": "soon"}, "at is not a time"),
    ({"at": "body.at"}, {"at": {}}, "at is not a time"),
    ({"split": "body.all"}, {"all": {}}, "split finds no list"),
    ({"split": "body"}, [1] * (MAX_EVENTS + 1), "split finds no list of at most 10000"),
    ({"type": "to_string(length(body.n))"}, {"n": 1}, "given a value of type number"),
]


@pytest.mark.parametrize(("envelope", "data", "said"), WRONG_ENVELOPES)
def test_an_envelope_that_cannot_be_read_is_a_malformed_payload(envelope: Any, data: Any, said: str) -> None:
    with pytest.raises(MalformedPayload) as fault:
        run({**settings(), **envelope}, data)
    assert said in str(fault.value)


def test_a_split_that_finds_nothing_is_no_event() -> None:
    assert build({**settings(), "split": "body.all"}).read(request(b""), {}) == []


def test_without_an_id_a_delivery_is_known_by_its_content() -> None:
    for described, data in [(settings(), {}), ({**settings(), "id": "body.id"}, {"id": ""})]:
        [event] = build(described).read(request(b""), data)
        assert (event.id, event.dedup, event.type) == ("", "content", "event")
    [event] = build({**settings(), "id": "body.id"}).read(request(b""), {"id": 10**30})
    assert (event.id, event.dedup) == (str(10**30), "id")


def test_only_the_headers_and_query_values_that_are_named_are_kept() -> None:
    described = {**settings(), "type": 'headers."x-topic"', "id": "query.delivery", "at": "headers.authorization"}
    sent = request(b"", headers={"x-topic": "a", "x-more": "b", "authorization": "c"}, query={"delivery": "7"})
    [event] = build(described).read(sent, {})
    assert event.headers == {"x-topic": "a", "?query.delivery": '"7"'}
    assert (event.type, event.id, event.at) == ("a", "7", None)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "items", "type", "sku", "order", "updated_at"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)
VENDORS = [build(decode_json((case / "source.json").read_bytes())) for case in CASES]


@given(data=json_values, vendor=st.sampled_from(VENDORS))
def test_any_json_is_mapped_or_refused_by_an_error_that_intake_knows(data: Any, vendor: Vendor) -> None:
    with contextlib.suppress(MalformedPayload, ValueError):
        for event in vendor.read(request(b"", headers={"x-delivery": "1", "x-region": "eu"}), data):
            list(mapped(vendor, event))


@given(data=json_values)
def test_mapping_leaves_the_data_as_it_was(data: Any) -> None:
    before = copy.deepcopy(data)
    with contextlib.suppress(ValueError):
        run(settings(children={"items": {"key": "sku"}}), data)
    assert encode_json(data) == encode_json(before)
