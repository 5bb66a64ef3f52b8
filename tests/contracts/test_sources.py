"""What every vendor must do, checked for each file in `relay/sources` and each folder in `tests/payloads`.

An author adds payloads, not tests: https://github.com/webhookdb/webhookdb does the same for its replicators.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from decimal import DecimalException
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay import recipes
from relay.errors import MalformedPayload, RelayError, Unauthenticated
from relay.records import (
    NS,
    RANK_DIGITS,
    SEQUENCE_DIGITS,
    TIME_DIGITS,
    Meta,
    Packed,
    Request,
    decode_json,
    encode_json,
    records_of,
)
from relay.signatures import Token, with_headers
from relay.source import Vendor, sample_request
from tests.contracts import sources
from tests.contracts.sources import NOW, Case

KINDS = sources.kinds()
FOLDERS = [case for case in sources.cases() if case.kind in sources.all_kinds()]
CASES = [case for case in FOLDERS if not case.is_challenge]
CHALLENGES = [case for case in FOLDERS if case.is_challenge]
SAMPLES = [(kind, type_) for kind in KINDS for type_ in sources.vendor_of(kind).samples]
#: What intake expects of a mapper that meets nonsense: it quarantines the event.
QUARANTINED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RelayError, DecimalException)

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_kind_of_case = pytest.mark.parametrize("kind", sorted(sources.all_kinds()))
each_sample = pytest.mark.parametrize(("kind", "type_"), SAMPLES, ids=lambda part: part)


def of(chosen: list[Case]) -> pytest.MarkDecorator:
    """Only the cases that have what a test is about."""
    return pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case.kind}-{case.name}")


def signed(case: Case, *, secret: int = 0, at: int = NOW) -> Request:
    return case.verifier.sign(case.request(), sources.secret_for(case.vendor, case.verifier, secret), at)


def secrets(case: Case, *numbers: int) -> tuple[str, ...]:
    return tuple(sources.secret_for(case.vendor, case.verifier, number) for number in numbers)


# --- proof --------------------------------------------------------------------------------------------


@each_case
def test_a_signed_delivery_is_accepted(case: Case) -> None:
    case.verifier.verify(signed(case), secrets(case, 0), NOW)


@each_case
def test_any_of_several_secrets_is_accepted(case: Case) -> None:
    """Rotation: the old and the new one are both live for a while, in any order."""
    for number in (0, 1, 2):
        case.verifier.verify(signed(case, secret=number), secrets(case, 2, 0, 1), NOW)


@each_case
def test_another_secret_is_refused(case: Case) -> None:
    with pytest.raises(Unauthenticated):
        case.verifier.verify(signed(case), secrets(case, 1, 2), NOW)


@each_case
def test_no_secret_accepts_nothing(case: Case) -> None:
    """Fail closed: a source without a secret has no valid delivery, signed with the empty one or not."""
    for request in (signed(case), case.request()):
        with pytest.raises(Unauthenticated):
            case.verifier.verify(request, (), NOW)


@each_case
def test_a_missing_signature_is_refused(case: Case) -> None:
    with pytest.raises(Unauthenticated) as caught:
        case.verifier.verify(unproved(case), secrets(case, 0), NOW)
    assert caught.value.reason == "signature_missing"


@of([case for case in CASES if sources.covers_body(case.verifier)])
def test_one_changed_byte_of_the_body_is_refused(case: Case) -> None:
    request = signed(case)
    for index in {0, len(request.body) // 2, len(request.body) - 1}:
        body = bytearray(request.body)
        body[index] ^= 1
        with pytest.raises(Unauthenticated):
            case.verifier.verify(msgspec.structs.replace(request, body=bytes(body)), secrets(case, 0), NOW)


@of([case for case in CASES if sources.covers_body(case.verifier)])
def test_a_body_that_is_cut_off_or_has_more_behind_it_is_refused(case: Case) -> None:
    request = signed(case)
    for body in (request.body[:-1], request.body + b"\n", b""):
        with pytest.raises(Unauthenticated):
            case.verifier.verify(msgspec.structs.replace(request, body=body), secrets(case, 0), NOW)


@of([case for case in CASES if sources.timestamp_of(case.verifier)])
def test_a_stale_or_future_time_is_refused(case: Case) -> None:
    stamp = sources.timestamp_of(case.verifier)
    assert stamp is not None
    for away in (-stamp.tolerance_s - 1, stamp.tolerance_s + 1):
        with pytest.raises(Unauthenticated) as caught:
            case.verifier.verify(signed(case, at=NOW + away * NS), secrets(case, 0), NOW)
        assert caught.value.reason == "timestamp_stale"
    for away in (-stamp.tolerance_s, stamp.tolerance_s):
        case.verifier.verify(signed(case, at=NOW + away * NS), secrets(case, 0), NOW)


@each_case
def test_hostile_signatures_are_refused_and_never_crash(case: Case) -> None:
    for request in hostile_requests(case):
        with pytest.raises(Unauthenticated):
            case.verifier.verify(request, secrets(case, 0), NOW)


@each_kind_of_case
def test_hostile_bodies_never_crash_the_proof(kind: str) -> None:
    """Some schemes look into the body for the signature or for what is signed."""
    for case in first_case_of_each_type(kind):
        for body in sources.HOSTILE_BODIES:
            request = msgspec.structs.replace(signed(case), body=body)
            try:
                case.verifier.verify(request, secrets(case, 0), NOW)
            except Unauthenticated:
                continue
            assert not sources.covers_body(case.verifier)


@each_case
def test_nothing_that_is_kept_holds_the_secret(case: Case) -> None:
    """Not the headers that stay with an event, not its data, not its rows: where the token is part of the body."""
    request, secret = signed(case), secrets(case, 0)[0]
    events = sources.read(case.vendor, request)
    kept = encode_json([[e.headers, e.data, e.id, sources.mapped(case.vendor, e)] for e in events])
    assert secret.encode() not in kept


def unproved(case: Case) -> Request:
    """The delivery as it would come without whatever proves it."""
    plain, request = case.request(), signed(case)
    headers, query = sources.added_by_signing(plain, request)
    return msgspec.structs.replace(
        request,
        headers={name: value for name, value in request.headers.items() if name not in headers},
        query={name: value for name, value in request.query.items() if name not in query},
        body=plain.body,
    )


def hostile_requests(case: Case) -> Iterator[Request]:
    request = signed(case)
    headers, query = sources.added_by_signing(case.request(), request)
    for value in sources.HOSTILE_SIGNATURES:
        yield with_headers(request, dict.fromkeys(headers, value)) if headers else unproved(case)
        for name in headers:
            yield with_headers(request, {name: value})
        for name in query:
            yield msgspec.structs.replace(request, query={**request.query, name: value})
    field = next((part.field for part in sources.mechanisms(case.verifier) if isinstance(part, Token)), "")
    for wrong in ("", "é", "\x00", "x" * 1_000_000, None, 1, True, [], {}) if field and not headers else ():
        body = encode_json({**decode_json(request.body), field: wrong})
        yield msgspec.structs.replace(request, body=body)


# --- reading and mapping ------------------------------------------------------------------------------


@each_case
def test_mapping_gives_the_rows_that_were_written_down(case: Case) -> None:
    found = sources.outcome(case.vendor, signed(case))
    assert [sources.exactly(event) for event in found] == [sources.exactly(event) for event in case.expected]


@each_case
def test_mapping_twice_gives_the_same_and_changes_nothing_it_was_given(case: Case) -> None:
    vendor = case.vendor
    for event in sources.read(vendor, signed(case)):
        before = copy.deepcopy(event)
        assert sources.mapped(vendor, event) == sources.mapped(vendor, event)
        assert event == before


@each_case
def test_scrubbing_changes_nothing_it_was_given(case: Case) -> None:
    vendor, request = case.vendor, signed(case)
    data = sources.intake.decode_body(request, forms=vendor.forms)
    before = copy.deepcopy(data)
    scrubbed = data if vendor.scrub is None else vendor.scrub(data)
    assert data == before
    assert (vendor.scrub is None) or vendor.scrub(scrubbed) == scrubbed


@each_case
def test_each_record_is_of_a_declared_table_and_has_its_key(case: Case) -> None:
    sources.check_all(case.vendor, signed(case))


@each_case
def test_records_survive_the_bytes_in_which_they_wait(case: Case) -> None:
    for event in sources.read(case.vendor, signed(case)):
        records = sources.mapped(case.vendor, event)
        back = records_of(Packed(Meta("source", case.kind, event.type), b"", encode_json(records)))
        assert sources.exactly(back) == sources.exactly(records)
        assert back == records


@of([case for case in CASES if any(event["records"] for event in case.expected)])
def test_a_delivery_that_becomes_rows_is_never_taken_for_a_handshake(case: Case) -> None:
    answer = case.vendor.handshake
    found = None if answer is None else answer(signed(case), secrets(case, 0), case.settings)
    assert found is None


@of(CHALLENGES)
def test_a_challenge_is_answered_as_written_down(case: Case) -> None:
    """And `null` in reply.json: this has the look of a challenge, and must not be answered."""
    answer = case.vendor.handshake
    assert answer is not None
    reply = case.reply
    found = answer(case.request(), tuple(case.head.get("secrets", ("a-secret",))), case.settings)
    if reply is None:
        assert found is None
    else:
        assert found is not None
        assert {"status": found.status, "body": found.body.decode()} == reply


@each_kind_of_case
def test_hostile_bodies_are_malformed_or_quarantined(kind: str) -> None:
    """Reading may only say `MalformedPayload`; a mapper may fail in the ways that intake knows."""
    for case in first_case_of_each_type(kind):
        for body in sources.HOSTILE_BODIES:
            survives(case.vendor, msgspec.structs.replace(case.request(), body=body))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(recipes.names())))
def test_a_body_that_is_no_object_is_malformed_and_never_a_fault_of_our_mapping(kind: str) -> None:
    """Of a recipe it may be: its expressions can read a list or a plain value."""
    for case in first_case_of_each_type(kind):
        for body in (b"null", b"[]", b'"x"', b"7", b"[null]", b'["x"]', b"[[]]"):
            request = msgspec.structs.replace(case.request(), body=body)
            try:
                events = sources.read(case.vendor, request)
            except MalformedPayload:
                continue
            assert [sources.mapped(case.vendor, event) for event in events] == [[]] * len(events)


@each_kind_of_case
def test_a_payload_with_one_field_dropped_or_of_another_type_is_mapped_or_quarantined(kind: str) -> None:
    bodies = [case for case in CASES if case.kind == kind]

    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.sampled_from(bodies), st.integers(0, 10_000), st.sampled_from(sources.WRONG))
    def one_field_wrong(case: Case, place: int, wrong: Any) -> None:
        request = case.request()
        data = sources.intake.decode_body(request, forms=case.vendor.forms)
        if isinstance(data, (dict, list)) and data and "json" in request.headers["content-type"]:
            sources.spoil(data, place, wrong)
            survives(case.vendor, msgspec.structs.replace(request, body=encode_json(data)))

    one_field_wrong()


def survives(vendor: Vendor, request: Request) -> None:
    try:
        events = sources.read(vendor, request)
    except MalformedPayload:
        return
    for event in events:
        try:
            records = sources.mapped(vendor, event)
        except QUARANTINED:
            continue
        for record in records:
            assert record.table in vendor.tables
            assert len(record.version) == TIME_DIGITS + SEQUENCE_DIGITS + RANK_DIGITS, record.version


def first_case_of_each_type(kind: str) -> list[Case]:
    """One case for each mapper of a kind, so that what is slow is not done for each case."""
    chosen: dict[Any, Case] = {}
    for case in CASES:
        if case.kind == kind:
            mappers = tuple(case.vendor.mapper(event["type"]) for event in case.expected)
            chosen.setdefault(mappers, case)
    return list(chosen.values())


# --- declarations and samples -------------------------------------------------------------------------


def test_every_kind_has_a_folder_and_every_folder_is_of_a_kind() -> None:
    assert {case.kind for case in sources.cases()} == sources.all_kinds()


@each_kind_of_case
def test_every_kind_has_at_least_three_cases(kind: str) -> None:
    assert len([case for case in CASES if case.kind == kind]) >= 3


@each_kind
def test_every_mapped_type_has_a_sample(kind: str) -> None:
    vendor = sources.vendor_of(kind)
    families = [prefix for prefix, _ in vendor.families]
    assert set(vendor.mappers) - set(vendor.samples) == set()
    assert [f for f in families if not any(type_.startswith(f[:-1]) for type_ in vendor.samples)] == []


@each_kind
def test_every_table_is_declared_with_its_key_and_a_use(kind: str) -> None:
    vendor = sources.vendor_of(kind)
    assert vendor.title
    assert vendor.family in {"helpdesk", "carts", "ads", "generic"}
    assert vendor.docs.startswith("https://")
    assert vendor.proof
    assert vendor.tables
    for name, table in vendor.tables.items():
        assert set(table.key) <= set(table.columns), name
        assert table.key[: len(table.parent)] == table.parent, name
        assert table.clock, name


@each_sample
def test_every_sample_is_accepted_and_becomes_rows(kind: str, type_: str) -> None:
    vendor = sources.vendor_of(kind)
    values = sources.defaults(vendor)
    verifier = vendor.verifier(values)
    url = values.get("public_url") or f"https://relay.example/hooks/{kind}"
    secret = sources.secret_for(vendor, verifier, 0)
    for n in (0, 1, 4_294_967_297):
        request = verifier.sign(sample_request(vendor.samples[type_](n, NOW), url), secret, NOW)
        verifier.verify(request, (secret,), NOW)
        events = sources.read(vendor, request)
        assert type_ in {event.type for event in events}
        assert any(sources.mapped(vendor, event) for event in events)
        sources.check_all(vendor, request)


@each_sample
def test_every_sample_is_told_by_its_number_and_time_alone(kind: str, type_: str) -> None:
    """The same number and time give the same bytes; another number gives another object."""
    make = sources.vendor_of(kind).samples[type_]
    first, again, other = (sample_request(make(n, NOW), "https://relay.example/") for n in (5, 5, 6))
    assert (first.headers, first.body) == (again.headers, again.body)
    assert first.body != other.body
