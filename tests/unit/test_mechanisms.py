"""Every knob of a described proof: against signatures that others published, and against what must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from pydantic import ValidationError
from twilio.request_validator import RequestValidator
from werkzeug.datastructures import MultiDict

from relay.errors import Unauthenticated
from relay.mechanisms import Keyed, PlacedToken
from relay.proofs import Proof
from relay.records import NS, Request, decode_json, encode_json
from relay.signatures import Hmac, Token, Verifier, with_headers
from tests.contracts.sources import HOSTILE_BODIES, HOSTILE_SIGNATURES

NOW = 1_772_352_960 * NS
SECRET = "a secret of the till"
FORM = "application/x-www-form-urlencoded"
URL = "https://relay.example/hooks/till?topic=sale"


def proof(**described: Any) -> Verifier:
    return Proof.model_validate(described).mechanism()


def request(body: bytes = b'{"id": 1}', url: str = URL, method: str = "POST", **headers: str) -> Request:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    query = dict(parse_qsl(url.partition("?")[2]))
    return Request(method, url, {"content-type": "application/json", **named}, body, query)


def refused(verifier: Verifier, sent: Request, secret: str = SECRET, now: int = NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(sent, (secret,), now)
    return caught.value.reason


# --- what others signed -------------------------------------------------------------------------------

HUBSPOT = {"header": "X-HubSpot-Signature"}
TWILIO = {
    "hmac": {
        "header": "X-Twilio-Signature", "algorithm": "sha1", "encoding": "base64",
        "message": "{url}{params_sorted}", "params": {"unique": True},
    }
}  # fmt: skip
CALL = "https://mycompany.com/myapp.php?foo=1&bar=2"
#: (where it is published, the proof as it would be described, secret, request)
PUBLISHED = [
    (
        "HubSpot's documentation, v1",
        {"hash": {**HUBSPOT, "message": "{secret}{body}"}},
        "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy",
        request(
            b'[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":'
            b'"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]',
            X_HubSpot_Signature="232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de",
        ),
    ),
    (
        "HubSpot's documentation, v2",
        {"hash": {**HUBSPOT, "message": "{secret}{method}{url}{body}"}},
        "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy",
        request(
            b'{"example_field":"example_value"}',
            "https://www.example.com/webhook_uri",
            X_HubSpot_Signature="9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900",
        ),
    ),
    (
        "HubSpot's SDK tests, v2 of a GET",
        {"hash": {**HUBSPOT, "message": "{secret}{method}{url}{body}"}},
        "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy",
        request(
            b"",
            "https://www.example.com/webhook_uri",
            "GET",
            X_HubSpot_Signature="eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e",
        ),
    ),
    (
        "Twilio's SDK tests",
        TWILIO,
        "12345",
        request(
            b"CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309",
            CALL,
            content_type=FORM,
            X_Twilio_Signature="RSOYDt4T1cUTdK1PDd93/VVr8B8=",
        ),
    ),
    (
        "Twilio's SDK tests, a field thrice",
        TWILIO,
        "12345",
        request(
            b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234",
            CALL,
            content_type=FORM,
            X_Twilio_Signature="IK+Dwps556ElfBT0I3Rgjkr1wJU=",
        ),
    ),
]


@pytest.mark.parametrize(("where", "described", "secret", "sent"), PUBLISHED, ids=[p[0] for p in PUBLISHED])
def test_a_published_signature_is_accepted_as_it_is_described(
    where: str, described: Any, secret: str, sent: Request
) -> None:
    verifier = proof(**described)
    verifier.verify(sent, ("another", secret), NOW)
    assert refused(verifier, sent, "another") == "signature_wrong"
    longer = sent.body + (b"&x=1" if sent.headers["content-type"] == FORM else b" ")
    assert refused(verifier, msgspec.structs.replace(sent, body=longer), secret) == "signature_wrong"


@pytest.mark.parametrize("body", [b"b=2&a=1&a=0", b"a=%C3%A9+&A=", b"", b"x=1&x=1"])
def test_sorted_fields_are_signed_as_the_library_of_a_sender_signs_them(body: bytes) -> None:
    verifier = proof(**TWILIO)
    sent = verifier.sign(request(body, CALL, content_type=FORM), SECRET, NOW)
    fields = MultiDict(parse_qsl(body.decode(), keep_blank_values=True))
    theirs = RequestValidator(SECRET).compute_signature(CALL, fields)
    assert sent.headers["x-twilio-signature"] == theirs


# --- each knob ----------------------------------------------------------------------------------------

LIST = {"header": "Authorization", "prefix": "Signed ", "pair": "v1", "message": "{timestamp}:{body}"}
KNOBS = [
    {"hmac": {"header": "X-S", "key": "base64_of_text"}},
    {"hmac": {"header": "X-S", "several": True}},
    {"hmac": {"header": "X-S", "prefix": "sha256=", "several": True, "separator": " "}},
    {"hmac": {**LIST, "timestamp": {}}},
    {"hmac": {**LIST, "timestamp": {"unit": "us"}}},
    {"hmac": {**LIST, "timestamp": {"header": "X-Time", "unit": "ns"}, "separator": ";"}},
    {"hmac": {"header": "Authorization", "prefix": "HMAC ", "versions": "v2", "key": "utf8"}},
    {"hmac": {"query": "sig", "message": "{url}|{body}"}},
    {"hmac": {"query": "sig", "message": "{url}{body}", "timestamp": {"query": "at"}}},
    {"hmac": {"header": "X-S", "timestamp": {"field": "at", "unit": "iso"}}},
    {"hmac": {"field": "sign", "message": "{timestamp}{id}", "timestamp": {"field": "at"}, "id": {"field": "id"}}},
    {"hmac": {"field": "a.b.sign", "message": "{id}", "id": {"query": "topic"}}},
    {"hmac": {"header": "X-S", "message": "{id}{body}", "id": {"header": "X-Id"}, "timestamp": {"field": "at"}}},
    {"hash": {"header": "X-S"}},
    {"hash": {"header": "X-S", "algorithm": "sha512", "encoding": "base64", "message": "{body}.{secret}"}},
    {"hash": {"query": "sig", "message": "{secret}{url}{body}{secret}"}},
    {"hash": {"header": "X-S", "message": "{secret}{timestamp}{body}", "timestamp": {"header": "X-Time"}}},
]
FORMS = [
    {"hmac": {"field": "sign", "message": "{params_sorted}", "params": {"equals": "=", "join": "&"}}},
    {"hmac": {"query": "sig", "message": "{params_sorted}", "params": {"of": "both", "leave_out": ["b"]}}},
    {"hash": {"field": "sign", "message": "{params_sorted}{secret}", "timestamp": {"field": "at"}}},
    {"token": {"field": "a.token"}},
]
CASES = [(described, request(b'{"id": 1}')) for described in KNOBS]
CASES += [(described, request(b"b=2&a=%C3%A9&a=1", content_type=FORM)) for described in FORMS]
CASES.append(({"token": {"field": "auth.key"}}, request(b'{"id": 1}')))


def of(cases: list[tuple[Any, Request]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("described", "plain"), [pytest.param(*case, id=encode_json(case[0]).decode()) for case in cases]
    )


each = of(CASES)


@each
def test_what_is_signed_is_accepted_by_any_of_the_secrets_and_by_no_other(described: Any, plain: Request) -> None:
    verifier = proof(**described)
    sent = verifier.sign(plain, SECRET, NOW)
    verifier.verify(sent, ("old", SECRET), NOW)
    assert refused(verifier, sent, "old") == "signature_wrong"
    assert refused(verifier, plain) == "signature_missing"
    with pytest.raises(Unauthenticated):
        verifier.verify(sent, (), NOW)
    with pytest.raises(Unauthenticated):
        verifier.verify(verifier.sign(plain, SECRET, NOW), ("",), NOW)


@each
def test_no_hostile_proof_or_body_is_accepted_or_crashes(described: Any, plain: Request) -> None:
    verifier = proof(**described)
    sent = verifier.sign(plain, SECRET, NOW)
    for value in HOSTILE_SIGNATURES:
        for changed in (
            with_headers(sent, {n: value for n, v in sent.headers.items() if plain.headers.get(n) != v}),
            msgspec.structs.replace(sent, query={**sent.query, "sig": value}),
        ):
            if changed != sent and (changed.headers != sent.headers or "sig" in sent.query):
                refused(verifier, changed)
    covers = isinstance(verifier, Hmac) and "body" in verifier.parts[1::2]
    for body in HOSTILE_BODIES:
        try:
            verifier.verify(msgspec.structs.replace(sent, body=body), (SECRET,), NOW)
        except Unauthenticated:
            continue
        assert not covers


TIMED = [case for case in CASES if case[0].get("hmac", case[0].get("hash", {})).get("timestamp") is not None]


@of(TIMED)
def test_a_time_that_is_far_away_is_refused_wherever_it_stands(described: Any, plain: Request) -> None:
    verifier = proof(**described)
    for away in (-301, 301):
        assert refused(verifier, verifier.sign(plain, SECRET, NOW + away * NS)) == "timestamp_stale"
        verifier.verify(verifier.sign(plain, SECRET, NOW + away * NS), (SECRET,), NOW + away * NS)


def test_one_of_several_signatures_is_enough() -> None:
    verifier = proof(hmac={"header": "X-S", "several": True, "prefix": "v="})
    mine = verifier.sign(request(), SECRET, NOW).headers["x-s"]
    for value in (f"v=00,{mine}", f"{mine}, v=00", f"junk,{mine}"):
        verifier.verify(request(X_S=value), (SECRET,), NOW)
    assert refused(verifier, request(X_S="v=00,v=11")) == "signature_wrong"
    assert refused(verifier, request(X_S=mine.removeprefix("v="))) == "signature_malformed"


def test_quoted_values_of_a_list_are_read() -> None:
    verifier = proof(hmac={"header": "Authorization", "prefix": "Signature ", "pair": "signature"})
    made = hmac.new(SECRET.encode(), b'{"id": 1}', hashlib.sha256).hexdigest()
    verifier.verify(request(Authorization=f'Signature keyId="till", signature="{made.upper()}"'), (SECRET,), NOW)


def test_the_base64_of_a_text_can_be_the_key() -> None:
    made = hmac.new(base64.b64encode(SECRET.encode()), b'{"id": 1}', hashlib.sha256).hexdigest()
    proof(hmac={"header": "X-S", "key": "base64_of_text"}).verify(request(X_S=made), (SECRET,), NOW)


def test_a_number_in_the_body_is_signed_as_it_is_written() -> None:
    verifier = proof(hmac={"header": "X-S", "message": "{timestamp}", "id": {"field": "n"}} | {"message": "{id}"})
    made = hmac.new(SECRET.encode(), b"1.50", hashlib.sha256).hexdigest()
    verifier.verify(request(b'{"a": [{"n": 2}], "n": 1.50}', X_S=made), (SECRET,), NOW)


def test_a_body_of_which_nothing_is_signed_is_refused() -> None:
    """Only the fields of a form are signed, so a JSON body under the same signature would be anybody's."""
    verifier = proof(**TWILIO)
    empty = verifier.sign(request(b"", content_type=FORM), SECRET, NOW)
    forged = msgspec.structs.replace(
        empty, body=b'{"id": 666}', headers={**empty.headers, "content-type": "application/json"}
    )
    assert refused(verifier, forged) == "signature_malformed"


def test_an_address_that_is_none_is_refused_and_never_crashes() -> None:
    verifier = proof(hmac={"query": "sig", "message": "{url}{body}"})
    for url in ("http://[::1/hooks/till?sig=00", "//?sig=00", "?sig=00&sig=11"):
        assert refused(verifier, request(url=url)) in {"signature_wrong", "signature_missing"}


def test_plain_knobs_make_the_plain_mechanism_that_the_doctor_knows() -> None:
    for described in ({"header": "X-S"}, {"header": "X-S", "message": "{id}{body}", "id": {"header": "X-Id"}}):
        assert type(proof(hmac=described)) is Hmac
    assert type(proof(hash={"header": "X-S"})) is Keyed
    assert type(proof(token={"header": "X-S"})) is Token
    assert type(proof(token={"field": "key"})) is PlacedToken


def test_the_scheme_says_what_is_hashed_and_where_it_stands() -> None:
    assert proof(hash={"header": "X-S"}).scheme == "sha256 hex of {secret}{body}"
    found = proof(hmac={"field": "sign", "message": "{id}", "id": {"field": "id"}}).scheme
    assert found == "hmac-sha256 hex of {id} in the body field sign"


def test_only_a_hash_has_the_secret_in_its_message() -> None:
    with pytest.raises(ValidationError, match="message signs"):
        proof(hmac={"header": "X-S", "message": "{secret}{body}"})


def test_signing_writes_into_the_body_what_is_there_besides() -> None:
    verifier = proof(hmac={"field": "a.sign", "message": "{id}", "id": {"field": "id"}})
    sent = verifier.sign(request(b'{"id": 1.50, "a": {"b": 2}}'), SECRET, NOW)
    assert set(decode_json(sent.body)["a"]) == {"b", "sign"}
    assert b"1.50" in sent.body


# --- public keys --------------------------------------------------------------------------------------

KEYED = [
    {"rsa": {"header": "X-Sign"}},
    {"rsa": {"header": ["X-Sign", "X-Sign-2"], "message": "{id}|{timestamp}|{crc32}", "id_header": "X-Id",
             "timestamp": {"header": "X-Time", "unit": "iso"}}},
    {"ecdsa": {"header": "X-Sign", "message": "{timestamp}{body}", "timestamp": {"header": "X-Time"}}},
    {"ed25519": {"header": "X-Sign", "message": "{body_base64}", "key_id_header": "X-Key"}},
    {"jwt": {"header": "X-Token", "claims": {"iss": "till", "aud": "relay"}}},
]  # fmt: skip


@pytest.mark.parametrize("described", [pytest.param(k, id=encode_json(k).decode()) for k in KEYED])
def test_a_senders_public_key_proves_it(described: Any) -> None:
    verifier: Any = proof(**described)
    mine, other = verifier.test_secret(1), verifier.test_secret(2)
    sent = verifier.sign(request(), mine, NOW)
    verifier.verify(sent, (other, mine), NOW)
    assert refused(verifier, sent, other) == "signature_wrong"
    assert refused(verifier, request(), mine) == "signature_missing"
    changed = msgspec.structs.replace(sent, body=b'{"id": 2}')
    if verifier.covers_body:
        assert refused(verifier, changed, mine) == "signature_wrong"
    else:
        verifier.verify(changed, (mine,), NOW)  # a token says who sent, and nothing of what was sent


def test_a_token_for_somebody_else_is_refused() -> None:
    mine: Any = proof(jwt={"header": "X-Token", "claims": {"aud": "relay"}})
    theirs: Any = proof(jwt={"header": "X-Token", "claims": {"aud": "another"}})
    secret = mine.test_secret(1)
    assert refused(mine, theirs.sign(request(), secret, NOW), secret) == "signature_wrong"


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"rsa": {"header": "X-S", "message": "{url}"}}, "message signs"),
        ({"rsa": {"header": []}}, "header"),
        ({"ecdsa": {"header": "X-S", "message": "{timestamp}{body}"}}, "go together"),
        (
            {"ecdsa": {"header": "X-S", "message": "{timestamp}{body}", "timestamp": {"field": "at"}}},
            "in a header",
        ),
        ({"ed25519": {"header": "X-S", "message": "{id}{body}"}}, "id_header"),
        ({"jwt": {"header": "X-S", "claims": {}}}, "claims"),
    ],
)
def test_a_public_key_that_would_prove_nothing_is_refused(described: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        proof(**described)
