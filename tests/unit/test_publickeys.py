"""Proofs by public keys: published vectors, each form of a key, and text made to break them."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any, ClassVar

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from relay.errors import Unauthenticated
from relay.publickeys import ECDSA, ED25519, RSA, Ring, Signed, SignedToken, keys_in, new_key, parted, texts_of
from relay.records import NS, Request
from relay.signatures import Timestamp, Verifier, with_headers

NOW = 1_772_600_770 * NS
STAMP = Timestamp("X-Time", unit="iso")

#: github transferwise/digital-signatures-examples verify-webhook-signature/verify-signature.php
WISE_KEY = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwpb91cEYuyJNQepZAVfP
ZIlPZfNUefH+n6w9SW3fykqKu938cR7WadQv87oF2VuT+fDt7kqeRziTmPSUhqPU
ys/V2Q1rlfJuXbE+Gga37t7zwd0egQ+KyOEHQOpcTwKmtZ81ieGHynAQzsn1We3j
wt760MsCPJ7GMT141ByQM+yW1Bx+4SG3IGjXWyqOWrcXsxAvIXkpUD/jK/L958Cg
nZEgz0BSEh0QxYLITnW1lLokSx/dTianWPFEhMC9BgijempgNXHNfcVirg1lPSyg
z7KqoKUN0oHqWLr2U1A+7kqrl6O2nx3CKs1bj1hToT1+p4kcMoHXA7kA+VBLUpEs
VwIDAQAB
-----END PUBLIC KEY-----"""
WISE_BODY = (
    b'{"data":{"resource":{"id":49983981,"profile_id":16055450,"account_id":14124090,"type":"transfer"},'
    b'"current_state":"incoming_payment_waiting","previous_state":null,"occurred_at":"2021-08-23T10:12:50Z"},'
    b'"subscription_id":"90aa8e14-4ef1-4a56-861c-f3c9cde097ea","event_type":"transfers#state-change",'
    b'"schema_version":"2.0.0","sent_at":"2021-08-23T10:12:50Z"}'
)
WISE_SIGNATURE = (
    "wKcKCYXAzxNgiu7xmoDm943NUni7Rz33QN8JkEA9dWSGebgndonabgSj18Y4C08OrwVmueGsED2s00M7DtJVcYKOS1i3G4TMVx+mgM3aL9dj"
    "MBkQtiYNBFUd6wrPI7ZUNHv/TrlKSjTMc+6JFvUvJ7owY3z85e3I4jLRLJowMFvO8kvCJ60+1pY9wDwZvtZ//WS93LrwGjk9Dvwzpmu0w+P4"
    "J75tETT5qC3Uv0y5G2yO8SEoO3yNP/tg/BOli02niHb53vEOUWUb9bly6thnfMoXoiV/osoGxgF20R58RlvkAmezyyl1Sv542TfS2DpiwVnm"
    "jjjkCyXeSUcKookYLQ=="
)
#: RFC 8032, 7.1, test 3: the key as the DER in which keys of Ed25519 are passed on.
ED_KEY = base64.b64encode(
    bytes.fromhex("302a300506032b6570032100fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
).decode()
ED_SIGNATURE = base64.b64encode(
    bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
).decode()
#: RFC 7515, appendix A.2.
JOSE_KEYS = {
    "keys": [
        {
            "kty": "RSA",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4Q"
            "lL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBd"
            "QOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q"
            "2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            "e": "AQAB",
        }
    ]
}
JOSE_TOKEN = (
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0"
    "cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJ"
    "dbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcO"
    "Ln6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB"
    "p0igcN_IoypGlUPQGe77Rw"
)


def request(body: bytes = b'{"id": 1}', **headers: str) -> Request:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Request("POST", "https://relay.example/hooks/acme", named, body)


def reason(verifier: Verifier, sent: Request, *secrets: str, now: int = NOW) -> str:
    """Why a request is refused."""
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(sent, secrets, now)
    return refused.value.reason


def signed(ring: Ring, **knobs: Any) -> Signed:
    return Signed("X-Signature", ring=ring, **knobs)


def public(private: str) -> Any:
    return serialization.load_pem_private_key(private.encode(), None).public_key()


def spki(private: str, encoding: serialization.Encoding) -> bytes:
    return public(private).public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def jwk(private: str, kid: str) -> dict[str, str]:
    numbers = public(private).public_numbers()
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": number(numbers.n), "e": number(numbers.e)}


def certificate(private: str, *, begins: int = -86_400, ends: int = 86_400) -> str:
    """A certificate that a key makes for itself, valid for so many seconds around `NOW`."""
    key: Any = serialization.load_pem_private_key(private.encode(), None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sender.example")])
    moment = dt.datetime.fromtimestamp(NOW // NS, dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7)
    made = made.not_valid_before(moment + dt.timedelta(seconds=begins))
    made = made.not_valid_after(moment + dt.timedelta(seconds=ends))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class TestVectors:
    def test_an_rsa_signature_that_wise_published_is_accepted(self) -> None:
        sent = request(WISE_BODY, x_signature=WISE_SIGNATURE)
        signed(Ring(RSA)).verify(sent, (WISE_KEY,), NOW)
        longer = msgspec.structs.replace(sent, body=WISE_BODY + b" ")
        assert reason(signed(Ring(RSA)), longer, WISE_KEY) == "signature_wrong"

    def test_the_ed25519_signature_of_rfc_8032_is_accepted(self) -> None:
        sent = request(bytes.fromhex("af82"), x_signature=ED_SIGNATURE)
        signed(Ring(ED25519)).verify(sent, (ED_KEY,), NOW)
        assert reason(signed(Ring(ED25519)), request(b"\xaf\x83", x_signature=ED_SIGNATURE), ED_KEY)

    def test_the_token_of_rfc_7515_is_accepted_while_it_lasts(self) -> None:
        ring = Ring(RSA, setting="jwks", keys=JOSE_KEYS, named=("a name", "joe"))
        token = SignedToken("X-Token", claims=lambda name: {"iss": name}, ring=ring)
        sent = request(x_token=JOSE_TOKEN)
        token.verify(sent, ("joe",), 1_300_819_300 * NS)
        assert reason(token, sent, "ann", now=1_300_819_300 * NS) == "signature_wrong"
        assert reason(token, sent, "joe", now=1_300_819_680 * NS) == "timestamp_stale"


class TestKeys:
    @pytest.mark.parametrize("algorithm", [RSA, ECDSA, ED25519])
    def test_a_private_key_signs_and_its_public_half_verifies_in_each_form(self, algorithm: str) -> None:
        private = new_key(algorithm, 0)
        verifier = signed(Ring(algorithm), timestamp=STAMP, message="{timestamp}.{body}")
        sent = verifier.sign(request(), private, NOW)
        pem, der = (spki(private, form) for form in (serialization.Encoding.PEM, serialization.Encoding.DER))
        oneline = pem.decode().replace("\n", "\\n")
        flat = " ".join(pem.decode().split("\n"))
        for text in (private, pem.decode(), oneline, flat, base64.b64encode(der).decode()):
            verifier.verify(sent, (text,), NOW)
        others = [other for other in (RSA, ECDSA, ED25519) if other != algorithm]
        for other in (new_key(others[0], 0), new_key(others[1], 0)):
            assert reason(verifier, sent, other) == "secret_malformed"
        assert reason(verifier, sent, new_key(algorithm, 1)) == "signature_wrong"

    def test_a_certificate_is_a_key_for_as_long_as_it_is_valid(self) -> None:
        private, verifier = new_key(RSA, 0), signed(Ring(RSA))
        sent = verifier.sign(request(), private, NOW)
        verifier.verify(sent, (certificate(private),), NOW)
        for dates in ({"ends": -1}, {"begins": 1}):
            assert reason(verifier, sent, certificate(private, **dates)) == "secret_malformed"
        verifier.verify(sent, (certificate(private, ends=-1) + certificate(private),), NOW)

    def test_the_key_of_a_set_is_told_by_its_id_where_it_has_one(self) -> None:
        first, second = new_key(RSA, 0), new_key(RSA, 1)
        keys = {"keys": [jwk(first, "a"), jwk(second, "b"), {"kty": "oct", "k": "AAAA"}, 7]}
        ring = Ring(RSA, setting="jwks", keys=keys, named=("a name", "x"))
        verifier = signed(ring, key_id_header="X-Key-Id")
        sent = signed(Ring(RSA)).sign(request(), second, NOW)
        for key_id in ("b", ""):
            verifier.verify(with_headers(sent, {"x-key-id": key_id}), ("x",), NOW)
        for key_id in ("a", "c", "\x00", "x" * 100_000):
            assert reason(verifier, with_headers(sent, {"x-key-id": key_id}), "x") == "signature_wrong"

    def test_keys_of_a_set_may_be_of_each_algorithm(self) -> None:
        curve = public(new_key(ECDSA, 0)).public_numbers()
        raw = public(new_key(ED25519, 0)).public_bytes_raw()
        keys = [
            {"kty": "EC", "crv": "P-256", "x": number(curve.x), "y": number(curve.y)},
            {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()},
            jwk(new_key(RSA, 0), "r"),
        ]
        assert [key.algorithm for key in keys_in(json.dumps({"keys": keys}))] == [ECDSA, ED25519, RSA]
        assert [key.algorithm for key in keys_in(json.dumps(keys[0]))] == [ECDSA]

    def test_a_text_is_parsed_once(self) -> None:
        text = new_key(ECDSA, 0)
        assert keys_in(text) is keys_in(text)

    def test_weak_keys_and_other_curves_fit_nothing(self) -> None:
        weak: list[Any] = [rsa.generate_private_key(65_537, 1024), ec.generate_private_key(ec.SECP384R1())]
        for key, algorithm in zip(weak, (RSA, ECDSA), strict=True):
            how = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            text = key.private_bytes(serialization.Encoding.PEM, *how).decode()
            sent = request(x_signature="AAAA")
            assert reason(signed(Ring(algorithm)), sent, text) == "secret_malformed"

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "garbage", "é", "\udcff", "AAAA", "{", "{}", "[]", "null", '{"keys":7}', '{"keys":[null]}'),
            *("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----"),
            *("-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----", '{"kty":"RSA","n":"","e":""}'),
            *(
                '{"kty":"RSA","n":7,"e":null}',
                '{"kty":[],"crv":{}}',
                '{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}',
            ),
            *(
                '{"kty":"OKP","crv":"Ed25519","x":"AQ"}',
                "[" * 10_000,
                '{"kty":"RSA","n":"AQAB","e":"AQAB","kid":7}',
            ),
        ],
    )
    def test_what_is_no_key_fits_nothing_and_says_so(self, text: str) -> None:
        assert reason(signed(Ring(RSA)), request(x_signature=WISE_SIGNATURE), text) == "secret_malformed"
        assert not [key for key in keys_in(text) if key.algorithm]

    def test_a_malformed_secret_does_not_shut_out_the_other(self) -> None:
        sent = request(WISE_BODY, x_signature=WISE_SIGNATURE)
        signed(Ring(RSA)).verify(sent, ("garbage", WISE_KEY), NOW)

    def test_a_name_and_the_keys_behind_it_are_taken_apart(self) -> None:
        assert parted(" 4JH8 \n-----BEGIN X-----") == ("4JH8", "-----BEGIN X-----")
        assert parted('a/b {"keys":[]}') == ("a/b", '{"keys":[]}')
        assert parted("4JH8") == ("4JH8", "")
        assert parted(WISE_KEY) == ("", WISE_KEY)

    def test_a_setting_holds_one_text_or_several_or_a_key_set_as_yaml(self) -> None:
        assert texts_of(None) == texts_of("") == texts_of(7) == texts_of([]) == ()
        assert texts_of("a") == ("a",)
        assert texts_of(["a", ["b"], None]) == ("a", "b")
        assert texts_of({"keys": []}) == ('{"keys":[]}',)


class TestNames:
    RING = Ring(RSA, setting="certificates", keys=WISE_KEY, named=("the webhook's id", "hook-1"))

    def test_what_a_secret_begins_with_is_part_of_what_is_signed(self) -> None:
        verifier = signed(self.RING, message="{id}|{timestamp}|{name}|{crc32}", timestamp=STAMP, id_header="X-Id")
        secret = verifier.test_secret(0)
        sent = verifier.sign(request(), secret, NOW)
        assert sent.headers["x-id"]
        verifier.verify(sent, (secret,), NOW)
        assert reason(verifier, sent, secret.replace("hook-1", "hook-2")) == "signature_wrong"

    def test_without_a_name_or_without_keys_all_is_refused_with_a_word_on_what_to_do(self) -> None:
        sent = request(x_signature="AAAA")
        bare = Ring(RSA, setting="certificates", named=("the webhook's id", "hook-1"))
        for ring, secret, said in (
            (self.RING, new_key(RSA, 0), "the secret does not begin with the webhook's id"),
            (bare, "hook-1", "put the sender's into the source's `certificates`"),
            (
                Ring(RSA, setting="certificates", keys="x", named=("it", "y")),
                "hook-1",
                "`certificates` holds no key",
            ),
        ):
            with pytest.raises(Unauthenticated, match=said) as refused:
                signed(ring).verify(sent, (secret,), NOW)
            assert refused.value.reason == "secret_malformed"

    def test_who_has_only_public_keys_cannot_sign(self) -> None:
        with pytest.raises(Unauthenticated, match="no private key"):
            signed(Ring(RSA)).sign(request(), WISE_KEY, NOW)


class TestSigned:
    def test_one_of_two_headers_suffices(self) -> None:
        verifier = Signed("X-One", "X-Two", ring=Ring(ECDSA))
        secret = verifier.test_secret(0)
        value = verifier.sign(request(), secret, NOW).headers["x-one"]
        verifier.verify(request(x_one="garbage", x_two=value), (secret,), NOW)
        assert reason(verifier, request(x_one="AAAA", x_two="AAAA"), secret) == "signature_wrong"
        assert reason(verifier, request(x_one="é", x_two=" "), secret) == "signature_malformed"
        assert reason(verifier, request(x_two=" "), secret) == "signature_missing"

    def test_it_knows_whether_the_body_is_signed(self) -> None:
        for message, covered in (("{body}", True), ("{body_base64}", True), ("{crc32}", True), ("{id}", False)):
            assert signed(Ring(ECDSA), message=message).covers_body is covered

    def test_the_body_may_be_signed_as_base64(self) -> None:
        verifier, private = signed(Ring(ECDSA), message="{body_base64}"), new_key(ECDSA, 0)
        sent = verifier.sign(request(b'{"a":1}'), private, NOW)
        plain = msgspec.structs.replace(sent, body=b"eyJhIjoxfQ==")
        signed(Ring(ECDSA)).verify(plain, (private,), NOW)

    def test_times_are_checked_and_part_of_what_is_signed(self) -> None:
        verifier = signed(Ring(ECDSA), timestamp=STAMP, message="{timestamp}{body}")
        secret = verifier.test_secret(0)
        sent = verifier.sign(request(), secret, NOW)
        assert verifier.signed_at(sent) == NOW
        assert signed(Ring(ECDSA)).signed_at(sent) is None
        assert reason(verifier, sent, secret, now=NOW + 301 * NS) == "timestamp_stale"
        assert reason(verifier, with_headers(sent, {"X-Time": "soon"}), secret) == "timestamp_malformed"
        later = STAMP.text(NOW + NS)
        assert reason(verifier, with_headers(sent, {"X-Time": later}), secret) == "signature_wrong"


def made(head: Any, said: Any, private: str = "") -> str:
    """A token of any content, signed with RS256 whatever its head says."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, said)]
    (key,) = keys_in(private or new_key(RSA, 0))
    signature = base64.urlsafe_b64encode(key.signs(".".join(parts).encode())).rstrip(b"=").decode()
    return ".".join([*parts, signature])


class TestTokens:
    HEAD: ClassVar = {"alg": "RS256", "kid": "k"}
    SAID: ClassVar = {"iss": "org:1", "aud": "hook:2", "iat": NOW // NS, "exp": NOW // NS + 60}
    TOKEN = SignedToken(
        "X-Token",
        claims=lambda name: dict(zip(("iss", "aud"), name.split("/"), strict=False)),
        ring=Ring(RSA, setting="jwks", named=("it", "org:1/hook:2")),
    )

    def refused(self, head: Any, said: Any, *, now: int = NOW, private: str = "") -> str:
        return reason(self.TOKEN, request(x_token=made(head, said, private)), self.TOKEN.test_secret(0), now=now)

    def test_what_it_signs_it_accepts(self) -> None:
        sent = self.TOKEN.sign(request(), self.TOKEN.test_secret(0), NOW)
        self.TOKEN.verify(sent, (self.TOKEN.test_secret(1), self.TOKEN.test_secret(0)), NOW)
        assert reason(self.TOKEN, sent, self.TOKEN.test_secret(1)) == "signature_wrong"

    @pytest.mark.parametrize("scale", [1, 1000])
    def test_times_are_seconds_or_milliseconds(self, scale: int) -> None:
        said = {**self.SAID, "iat": NOW // NS * scale, "exp": (NOW // NS + 60) * scale}
        sent = request(x_token=made(self.HEAD, said))
        self.TOKEN.verify(sent, (self.TOKEN.test_secret(0),), NOW)
        assert self.refused(self.HEAD, said, now=NOW + 361 * NS) == "timestamp_stale"
        assert self.refused(self.HEAD, said, now=NOW - 301 * NS) == "timestamp_stale"

    def test_the_audience_may_be_one_of_a_list(self) -> None:
        sent = request(x_token=made(self.HEAD, {**self.SAID, "aud": ["other", "hook:2"]}))
        self.TOKEN.verify(sent, (self.TOKEN.test_secret(0),), NOW)

    @pytest.mark.parametrize("changed", [{"aud": "hook:3"}, {"iss": None}, {"aud": []}, {"aud": [1]}, {"iss": {}}])
    def test_a_token_for_another_receiver_is_refused(self, changed: dict[str, Any]) -> None:
        assert self.refused(self.HEAD, {**self.SAID, **changed}) == "signature_wrong"

    @pytest.mark.parametrize("changed", [{"exp": None}, {"exp": "soon"}, {"exp": True}, {"iat": {}}, {"nbf": []}])
    def test_times_that_are_none_are_refused(self, changed: dict[str, Any]) -> None:
        assert self.refused(self.HEAD, {**self.SAID, **changed}) == "timestamp_malformed"

    @pytest.mark.parametrize("head", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "rs256"}, {}, {"alg": ["RS256"]}])
    def test_the_sender_does_not_pick_the_algorithm(self, head: dict[str, Any]) -> None:
        assert self.refused(head, self.SAID) == "signature_malformed"

    def test_extensions_that_must_be_understood_are_refused(self) -> None:
        assert self.refused({**self.HEAD, "crit": ["b64"], "b64": False}, self.SAID) == "signature_malformed"

    def test_a_key_that_comes_with_the_token_is_not_looked_at(self) -> None:
        other = new_key(RSA, 1)
        assert self.refused({**self.HEAD, "jwk": jwk(other, "k")}, self.SAID, private=other) == "signature_wrong"

    @pytest.mark.parametrize(
        "text", ["a", "a.b", "a.b.c.d", "..", "é.é.é", "W10.W10.AA", "bnVsbA.bnVsbA.AA", "." * 99]
    )
    def test_what_is_no_token_is_refused(self, text: str) -> None:
        assert reason(self.TOKEN, request(x_token=text), self.TOKEN.test_secret(0)) == "signature_malformed"

    def test_a_token_without_its_signature_is_refused(self) -> None:
        cut = made(self.HEAD, self.SAID).rpartition(".")[0]
        for text in (cut + ".", cut + ".AAAA", cut):
            assert reason(self.TOKEN, request(x_token=text), self.TOKEN.test_secret(0)).startswith("signature_")
