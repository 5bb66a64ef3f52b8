"""Proofs of senders: published vectors, round trips of every knob, and text made to break them."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.signatures import AnyOf, Basic, Hmac, Timestamp, Token, Verifier, key_bytes, same, strip_secrets

#: Published test vectors and signatures accepted by other libraries; each says in `source` whose.
VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
NOW = 1_772_600_770_123_000_000
URL = "https://relay.example/hooks/acme?a=1"


def request(body: bytes = b'{"id": 1}', **parts: Any) -> Request:
    return Request(parts.pop("method", "POST"), parts.pop("url", URL), parts.pop("headers", {}), body, **parts)


def reason(verifier: Verifier, sent: Request, *secrets: str, now: int = NOW) -> str:
    """Why a request is refused."""
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(sent, secrets, now)
    return refused.value.reason


def with_header(sent: Request, name: str, value: str) -> Request:
    return msgspec.structs.replace(sent, headers={**sent.headers, name: value})


class TestVectors:
    @staticmethod
    def of(vector: dict[str, Any]) -> tuple[Hmac, Request, int]:
        knobs = dict(vector["scheme"])
        stamp = Timestamp(**knobs.pop("timestamp")) if "timestamp" in knobs else None
        headers = {name.lower(): value for name, value in vector["headers"].items()}
        sent = Request(vector["method"], vector["url"], headers, vector["body"].encode())
        return Hmac(timestamp=stamp, **knobs), sent, vector["now"] * NS

    @pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
    def test_a_published_signature_is_accepted(self, vector: dict[str, Any]) -> None:
        verifier, sent, now = self.of(vector)
        verifier.verify(sent, tuple(vector["secrets"]), now)

    @pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
    def test_no_other_secret_is_accepted(self, vector: dict[str, Any]) -> None:
        verifier, sent, now = self.of(vector)
        other = "whsec_" + base64.b64encode(b"another").decode()
        assert reason(verifier, sent, other, now=now) == "signature_wrong"

    @pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
    def test_one_changed_byte_of_what_is_signed_is_refused(self, vector: dict[str, Any]) -> None:
        verifier, sent, now = self.of(vector)
        secrets = tuple(vector["secrets"])
        if "body" in verifier.parts[1::2]:
            for place in {0, len(sent.body) // 2, len(sent.body) - 1}:
                body = bytearray(sent.body)
                body[place] ^= 1
                changed = msgspec.structs.replace(sent, body=bytes(body))
                assert reason(verifier, changed, *secrets, now=now) == "signature_wrong"
        if "url" in verifier.parts[1::2]:
            changed = msgspec.structs.replace(sent, url=sent.url[:-1])
            assert reason(verifier, changed, *secrets, now=now) == "signature_wrong"
        if verifier.id_header:
            changed = with_header(sent, verifier.id_header, "another")
            assert reason(verifier, changed, *secrets, now=now) == "signature_wrong"

    @pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
    def test_one_changed_character_of_the_signature_is_refused(self, vector: dict[str, Any]) -> None:
        verifier, sent, now = self.of(vector)
        signed = sent.headers[verifier.header]
        digest = max(verifier._candidates(sent, signed)[0], key=len)
        place = signed.lower().index(digest.lower()) + len(digest) // 2
        changed = signed[:place] + ("0" if signed[place] != "0" else "1") + signed[place + 1 :]
        broken = with_header(sent, verifier.header, changed)
        assert reason(verifier, broken, *vector["secrets"], now=now) == "signature_wrong"

    @pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
    def test_without_its_header_a_request_is_unsigned(self, vector: dict[str, Any]) -> None:
        verifier, sent, now = self.of(vector)
        assert reason(verifier, request(sent.body), *vector["secrets"], now=now) == "signature_missing"


class TestTimestamp:
    @pytest.mark.parametrize(
        ("unit", "text"), [("s", "1772600770"), ("ms", "1772600770123"), ("iso", "2026-03-04T05:06:10.123Z")]
    )
    def test_now_is_written_in_the_unit_of_the_sender_and_read_again(self, unit: str, text: str) -> None:
        assert Timestamp(unit=unit).text(NOW) == text
        Timestamp(unit=unit, tolerance_s=1).check(text, NOW)

    @pytest.mark.parametrize("unit", ["s", "ms", "iso"])
    def test_a_time_is_refused_beyond_the_tolerance_on_either_side(self, unit: str) -> None:
        stamp, at = Timestamp(unit=unit), NOW - NOW % NS
        for distance in (-300, 300):
            stamp.check(stamp.text(at + distance * NS), at)
        for distance in (-301, 301):
            with pytest.raises(Unauthenticated) as refused:
                stamp.check(stamp.text(at + distance * NS), at)
            assert refused.value.reason == "timestamp_stale"

    @pytest.mark.parametrize("unit", ["s", "ms", "iso"])
    @pytest.mark.parametrize(
        "text",
        ["", " ", "now", "-1772600770", "+1772600770", "1772600770.0", "1e9", "0x69", "٣", "²", "9" * 18, "T",
         "é", "1772600770 ", "2026-13-04T05:06:10Z", "2026-03-04T05:06:10+99:00", "null", "\x00", "T" * 9999],
    )  # fmt: skip
    def test_what_is_no_time_is_refused_as_malformed(self, unit: str, text: str) -> None:
        with pytest.raises(Unauthenticated) as refused:
            Timestamp(unit=unit).check(text, NOW)
        assert refused.value.reason == "timestamp_malformed"

    def test_an_offset_of_an_iso_time_counts(self) -> None:
        Timestamp(unit="iso", tolerance_s=1).check("2026-03-04T06:06:10+01:00", NOW)

    @given(text=st.text(), unit=st.sampled_from(["s", "ms", "iso"]))
    def test_any_text_that_is_not_now_is_refused(self, text: str, unit: str) -> None:
        with pytest.raises(Unauthenticated) as refused:
            Timestamp(unit=unit, tolerance_s=0).check(text, NOW + 1)
        assert refused.value.reason in {"timestamp_malformed", "timestamp_stale"}


KEYS = {"utf8": "sécret", "base64": "AAEC/w==", "hex": "000102ff", "whsec": "whsec_AAEC/w=="}
FORMS = [
    {},
    {"prefix": "sha256="},
    {"versions": "v1"},
    {"pair": "v1"},
    {"pair": "h1", "separator": ";", "timestamp": Timestamp(pair="ts", unit="ms")},
    {"pair": "v1", "timestamp": Timestamp()},
    {"timestamp": Timestamp(header="X-Time")},
    {"timestamp": Timestamp(header="X-Time", unit="iso"), "versions": "v2", "id_header": "X-Id"},
]
KNOBS = [
    {"algorithm": algorithm, "encoding": encoding, "key": key, **form}
    for algorithm, encoding, key, form in itertools.product(
        ["sha1", "sha256", "sha512"], ["hex", "base64"], KEYS, FORMS
    )
]


@pytest.mark.parametrize("message", ["{body}", "{method}{url}", "{id}.{timestamp}.{body}", "[{timestamp};{body}]"])
def test_what_is_signed_is_accepted_with_every_knob(message: str) -> None:
    for knobs in KNOBS:
        verifier, secret = Hmac("X-Sign", message=message, **knobs), KEYS[knobs["key"]]
        plain = request()
        sent = verifier.sign(plain, secret, NOW)
        assert sent.body == plain.body
        verifier.verify(sent, ("", "another", secret), NOW)
        verifier.verify(sent, (secret, secret), NOW)
        assert reason(verifier, plain, secret) == "signature_missing"
        assert reason(verifier, sent) == "signature_wrong"
        if knobs.get("timestamp"):
            assert reason(verifier, sent, secret, now=NOW + 400 * NS) == "timestamp_stale"
        if "body" in message:
            changed = msgspec.structs.replace(sent, body=sent.body + b" ")
            assert reason(verifier, changed, secret) == "signature_wrong"


def test_headers_are_found_under_any_case_and_alias() -> None:
    verifier = Hmac("Webhook-Signature", aliases={"Webhook-Signature": "Svix-Signature"})
    sent = verifier.sign(request(), "s", NOW)
    signature = sent.headers["webhook-signature"]
    verifier.verify(request(headers={"svix-signature": signature.upper()}), ("s",), NOW)


def test_a_base64_signature_is_case_sensitive() -> None:
    verifier = Hmac("X-Sign", encoding="base64")
    sent = verifier.sign(request(), "s", NOW)
    assert (
        reason(verifier, with_header(sent, "x-sign", sent.headers["x-sign"].swapcase()), "s") == "signature_wrong"
    )


def test_a_header_that_holds_no_signature_of_ours_is_malformed() -> None:
    for knobs, value in [
        ({"prefix": "sha256="}, "sha1=ab"),
        ({"pair": "v1"}, "v0=ab"),
        ({"versions": "v1"}, "v2,ab"),
    ]:
        assert reason(Hmac("X-Sign", **knobs), request(headers={"x-sign": value}), "s") == "signature_malformed"


def test_any_of_several_signatures_in_a_header_may_fit_but_not_the_hundredth() -> None:
    """A header cannot make the relay compare without end."""
    verifier = Hmac("X-Sign", pair="v1")
    good = verifier.sign(request(), "s", NOW).headers["x-sign"]
    verifier.verify(request(headers={"x-sign": f"v1=00,{good}"}), ("s",), NOW)
    assert reason(verifier, request(headers={"x-sign": "v1=00," * 100 + good}), "s") == "signature_wrong"


@pytest.mark.parametrize(
    ("form", "secret"), [("hex", "xyz"), ("base64", "é"), ("base64", "a"), ("whsec", "whsec_!"), ("utf8", ""),
                         ("hex", ""), ("whsec", "whsec_")]
)  # fmt: skip
def test_a_secret_that_is_no_key_fits_nothing_and_shuts_out_no_other(form: str, secret: str) -> None:
    with pytest.raises(Unauthenticated, match="configured secret"):
        key_bytes(secret, form)
    verifier = Hmac("X-Sign", key=form)
    sent = verifier.sign(request(), KEYS[form], NOW)
    assert reason(verifier, sent, secret) == "secret_malformed"
    verifier.verify(sent, (secret, KEYS[form]), NOW)


TOKENS = [
    Token(header="X-Key"),
    Token(header="Authorization", prefix="Bearer "),
    Token(query="key"),
    Token(query="key", prefix="k-"),
    Token(field="google_key"),
    Basic(),
]


@pytest.mark.parametrize("verifier", TOKENS, ids=lambda v: f"{v.scheme} {getattr(v, 'prefix', '')}")
def test_a_shared_secret_is_accepted_where_it_belongs(verifier: Verifier) -> None:
    sent = verifier.sign(request(), "us:er:pa:ss é", NOW)
    verifier.verify(sent, ("old", "us:er:pa:ss é"), NOW)
    assert reason(verifier, sent, "us:er:pa:ss") == "signature_wrong"
    assert reason(verifier, sent) == "signature_wrong"
    assert reason(verifier, request(), "us:er:pa:ss é") == "signature_missing"


@pytest.mark.parametrize("verifier", TOKENS, ids=lambda v: f"{v.scheme} {getattr(v, 'prefix', '')}")
def test_an_empty_secret_lets_nobody_in(verifier: Verifier) -> None:
    sent = verifier.sign(request(), "", NOW)
    assert reason(verifier, sent, "") in {"signature_missing", "signature_wrong"}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"google_key": 1}', b'{"google_key": null}', b"[" * 9999]
)
def test_a_body_without_its_token_is_unsigned(body: bytes) -> None:
    assert reason(Token(field="google_key"), request(body), "1") == "signature_missing"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("Basic", "signature_missing"),
        ("Basic ", "signature_missing"),
        ("Bearer dTpw", "signature_missing"),
        ("Basic !", "signature_malformed"),
        ("Basic é", "signature_malformed"),
        ("Basic dTp", "signature_malformed"),
        ("Basic dTpx", "signature_wrong"),
    ],
)
def test_basic_credentials_of_another_form_are_refused(value: str, why: str) -> None:
    assert reason(Basic(), request(headers={"authorization": value}), "u:p") == why


def test_the_name_of_the_basic_scheme_has_any_case() -> None:
    Basic().verify(request(headers={"authorization": "bAsIc dTpw"}), ("u:p",), NOW)


class TestAnyOf:
    new, old = Hmac("X-New"), Hmac("X-Old", algorithm="sha1")
    either = AnyOf(new, old)

    def test_each_scheme_alone_is_enough(self) -> None:
        for one in (self.new, self.old):
            self.either.verify(one.sign(request(), "s", NOW), ("s",), NOW)
        assert self.either.sign(request(), "s", NOW) == self.new.sign(request(), "s", NOW)

    def test_a_wrong_signature_of_the_first_is_not_saved_by_a_right_one_of_the_next(self) -> None:
        sent = with_header(self.old.sign(request(), "s", NOW), "x-new", "00")
        assert reason(self.either, sent, "s") == "signature_wrong"

    def test_without_any_header_a_request_is_unsigned(self) -> None:
        assert reason(self.either, request(), "s") == "signature_missing"
        assert reason(AnyOf(), request(), "s") == "signature_missing"


def test_only_named_headers_are_kept() -> None:
    assert strip_secrets({"x-topic": "a", "x-sign": "b"}, ["x-topic", "x-absent"]) == {"x-topic": "a"}


def test_texts_of_any_characters_are_compared() -> None:
    assert same("é", "é".encode())
    assert not same("é", "e")
    assert not same("a", "\udcff")


header_text = (
    st.text(max_size=60)
    | st.sampled_from(["v1=", "t=1,v1=", "sha256=", "v1,", "Basic ", "Bearer "]).flatmap(
        lambda start: st.text(max_size=40).map(lambda rest: start + rest)
    )
    | st.text("0123456789abcdefTZ:=,;.- v", max_size=60)
)
VERIFIERS = [
    *(Hmac("x-sign", message="{id}{timestamp}{method}{url}{body}", **knobs) for knobs in KNOBS[:: len(FORMS) + 1]),
    *(Hmac("x-sign", message="{timestamp}{body}", **form) for form in FORMS),
    *TOKENS,
    AnyOf(Hmac("x-sign"), Token(header="x-time"), Token(field="a")),
]


@given(
    verifier=st.sampled_from(VERIFIERS),
    headers=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("x-sign", "x-time", "x-id", "x-key", "authorization"), header_text)
    ),
    query=st.fixed_dictionaries({}, optional={"key": st.text()}),
    body=st.binary(max_size=60) | st.sampled_from([b'{"a": 1e99999999999999999999}', b'{"a": "b"}']),
    url=st.text(max_size=10),
)
def test_any_request_that_nobody_signed_is_refused_and_nothing_else_is_raised(
    verifier: Verifier, headers: dict[str, str], query: dict[str, str], body: bytes, url: str
) -> None:
    sent = request(body, url=url, headers=headers, query=query)
    with pytest.raises(Unauthenticated):
        verifier.verify(sent, ("a secret that is in no request", "00" * 16), NOW)
