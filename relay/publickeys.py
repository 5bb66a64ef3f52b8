"""How a delivery proves who sent it by a public key: a signature over parts of the request, or a signed token.

The rules are those of `relay.signatures`: whatever is missing, malformed or does not fit is `Unauthenticated`, the
sender never picks the algorithm or the key, and nothing reads a clock or does I/O. Keys are configured, as text:
PEM (public keys and X.509 certificates, any number), base64 of DER, or a JSON Web Key Set. A private key in PEM
verifies by its public half, and `sign` signs by it: tests, `relay send` and benches use keys of their own.

Vendors that sign for all their customers with the same keys say by a name for whom (PayPal by the webhook's id).
There a secret is that name, and the keys come from a setting, or stand behind the name in the secret.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from relay.errors import MalformedPayload, Unauthenticated
from relay.records import NS, Request, decode_json, encode_json, instant_ns
from relay.signatures import Timestamp, same, with_headers

#: RSA with PKCS #1 v1.5 and SHA-256, ECDSA over P-256 with SHA-256, Ed25519.
RSA, ECDSA, ED25519 = "rsa-sha256", "ecdsa-sha256", "ed25519"
_HOW: Final[dict[str, tuple[Any, ...]]] = {
    RSA: (padding.PKCS1v15(), hashes.SHA256()),
    ECDSA: (ec.ECDSA(hashes.SHA256()),),
    ED25519: (),
}
_LEAST_RSA_BITS: Final = 2048  # a shorter modulus can be factored by those who care to
_MOST_TOKEN, _CACHED = 16_384, 256
_ARMOUR: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_MATERIAL: Final = re.compile(r"-----BEGIN |\{")
_FIELD: Final = re.compile(r"\{(\w+)\}")
_BODY_FIELDS: Final = frozenset({"body", "body_base64", "crc32"})


class Key(msgspec.Struct, frozen=True):
    """One key.

    Args:
        public: verifies. private: signs; None as a rule.
        id: its `kid`, empty where it has none.
        begins, ends: ns since 1970 between which a certificate is valid; None for a bare key.
    """

    public: Any
    private: Any = None
    id: str = ""
    begins: int | None = None
    ends: int | None = None

    @property
    def algorithm(self) -> str:
        """The one algorithm that this key is for; empty where it is too weak, or of a kind not used here."""
        if isinstance(self.public, rsa.RSAPublicKey):
            return RSA if self.public.key_size >= _LEAST_RSA_BITS else ""
        if isinstance(self.public, ec.EllipticCurvePublicKey):
            return ECDSA if isinstance(self.public.curve, ec.SECP256R1) else ""
        return ED25519 if isinstance(self.public, ed25519.Ed25519PublicKey) else ""

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        try:
            self.public.verify(signature, message, *_HOW[self.algorithm])
        except (InvalidSignature, ValueError):
            return False
        return True

    def signs(self, message: bytes) -> bytes:
        """This key's signature over the message."""
        if self.private is None:
            raise Unauthenticated("only the sender can sign: there is no private key", reason="secret_malformed")
        return bytes(self.private.sign(message, *_HOW[self.algorithm]))


@functools.lru_cache(maxsize=_CACHED)
def keys_in(text: str) -> tuple[Key, ...]:
    """All keys that a text holds, parsed once; what cannot be read is no key."""
    if text.lstrip().startswith("{"):
        return _keys_of_set(text)
    text = text.replace("\\n", "\n")  # as PEM comes through environments of one line
    blocks = [inside for _, inside in _ARMOUR.findall(text)] or [text]
    keys = (_key_of_der(der) for block in blocks if (der := _decoded("".join(block.split()))))
    return tuple(key for key in keys if key is not None)


def parted(secret: str) -> tuple[str, str]:
    """A secret as the name that it begins with, and the keys behind that; each may be empty."""
    found = _MATERIAL.search(secret)
    at = len(secret) if found is None else found.start()
    return secret[:at].strip(), secret[at:].strip()


def texts_of(setting: Any) -> tuple[str, ...]:
    """A setting that holds keys: one text, a list of them, or a key set that was written as YAML."""
    if isinstance(setting, str):
        return (setting,) if setting.strip() else ()
    if isinstance(setting, Mapping):
        return (encode_json(dict(setting)).decode(),)
    return tuple(text for item in setting for text in texts_of(item)) if isinstance(setting, (list, tuple)) else ()


@functools.lru_cache(maxsize=_CACHED)
def new_key(algorithm: str, _number: int) -> str:
    """A new private key in PEM: the same one for the same number within a process, another in the next."""
    makers: dict[str, Callable[[], Any]] = {
        RSA: lambda: rsa.generate_private_key(65_537, _LEAST_RSA_BITS),
        ECDSA: lambda: ec.generate_private_key(ec.SECP256R1()),
        ED25519: ed25519.Ed25519PrivateKey.generate,
    }
    how = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(makers[algorithm]().private_bytes(*how).decode())


def _decoded(text: str, altchars: bytes | None = None) -> bytes:
    """Base64 as bytes; empty where it is not base64."""
    try:
        return base64.b64decode(text.encode("ascii"), altchars, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _decoded_url(text: Any) -> bytes:
    """Base64 with `-` and `_`, without padding, as tokens and key sets have it; empty where it is not that."""
    return _decoded(text + "=" * (-len(text) % 4), b"-_") if isinstance(text, str) else b""


def _key_of_der(der: bytes) -> Key | None:
    for read in (lambda der: Key(serialization.load_der_public_key(der)), _certificate, _private):
        try:
            return read(der)
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
            continue
    return None


def _certificate(der: bytes) -> Key:
    found = x509.load_der_x509_certificate(der)
    begins, ends = (int(at.timestamp()) * NS for at in (found.not_valid_before_utc, found.not_valid_after_utc))
    return Key(found.public_key(), begins=begins, ends=ends)


def _private(der: bytes) -> Key:
    private: Any = serialization.load_der_private_key(der, None)
    return Key(private.public_key(), private)


def _keys_of_set(text: str) -> tuple[Key, ...]:
    data = None
    with contextlib.suppress(MalformedPayload, UnicodeEncodeError):
        data = decode_json(text.encode())
    items = data.get("keys", [data]) if isinstance(data, dict) else []
    found = [_key_of_jwk(item) for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return tuple(key for key in found if key is not None)


def _key_of_jwk(item: dict[str, Any]) -> Key | None:
    named, kind = item.get("kid"), (item.get("kty"), item.get("crv"))
    first, second = (_decoded_url(item.get(name)) for name in (("n", "e") if kind[0] == "RSA" else ("x", "y")))
    x, y = int.from_bytes(first), int.from_bytes(second)
    makers: dict[Any, Callable[[], Any]] = {
        ("RSA", None): lambda: rsa.RSAPublicNumbers(y, x).public_key(),
        ("EC", "P-256"): lambda: ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key(),
        ("OKP", "Ed25519"): lambda: ed25519.Ed25519PublicKey.from_public_bytes(first),
    }
    try:
        return Key(makers[kind](), id=named if isinstance(named, str) else "")
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm):
        return None


class Ring:
    """The keys of a scheme: each secret holds its own, or begins with a name; then a setting may hold them.

    Args:
        algorithm: `RSA`, `ECDSA` or `ED25519`; keys for another are passed over.
        setting: the setting that holds keys. keys: what it holds.
        named: the name that secrets begin with, in words, and one for tests; empty where they hold keys alone.
    """

    def __init__(
        self, algorithm: str, *, setting: str = "secrets", keys: Any = None, named: tuple[str, str] = ("", "")
    ) -> None:
        self.algorithm, self.setting, self.texts, self.named = algorithm, setting, texts_of(keys), named

    def each(self, secrets: tuple[str, ...], now: int, key_id: str = "") -> Iterator[tuple[str, list[Key]]]:
        """Each secret's name and keys, for whoever stops at the one that fits.

        Raises:
            Unauthenticated: none did. One secret written wrongly does not shut out the others.
        """
        malformed: Unauthenticated | None = None
        for secret in secrets:
            try:
                opened = self.opened(secret, now)
            except Unauthenticated as error:
                malformed = error
                continue
            # A key without an id may be any; one with an id is only meant by that.
            yield opened[0], [key for key in opened[1] if not key_id or key.id in {"", key_id}]
        raise malformed or Unauthenticated("no key fits the signature", reason="signature_wrong")

    def opened(self, secret: str, now: int) -> tuple[str, list[Key]]:
        """A secret's name and the keys that are valid now.

        Raises:
            Unauthenticated: there is no name where there must be one, or no key; says what to do.
        """
        name, material = parted(secret) if self.named[0] else ("", secret)
        texts = (material,) if material else self.texts
        keys = [key for text in texts for key in keys_in(text) if key.algorithm == self.algorithm]
        valid = [key for key in keys if (key.begins or now) <= now <= (key.ends or now)]
        fault = ""
        if self.named[0] and not name:
            fault = f"the secret does not begin with {self.named[0]}"
        elif not texts:
            fault = f"no key is configured: put the sender's into the source's `{self.setting}`"
        elif not keys:
            fault = f"{'the secret' if material else f'`{self.setting}`'} holds no key for {self.algorithm}"
        elif not valid:
            fault = "the configured certificate is not valid at this time: put the sender's new one beside it"
        if fault:
            raise Unauthenticated(fault, reason="secret_malformed")
        return name, valid

    def private(self, secret: str, now: int) -> tuple[str, Key]:
        """A secret's name, and the key that signs."""
        name, keys = self.opened(secret, now)
        return name, max(keys, key=lambda key: key.private is not None)

    def test_secret(self, number: int) -> str:
        """A secret with a key of its own for each number."""
        return f"{self.named[1]}\n{new_key(self.algorithm, number)}".lstrip()


class Signed:
    """A signature, as base64 in a header, over a template of the request.

    Args:
        header: where the signature stands; several names where senders sign with an old and a new key.
        ring: the keys.
        message: what is signed, over `{body}`, `{body_base64}` (of its bytes), `{crc32}` (of it, in decimal
            digits), `{timestamp}`, `{id}` and `{name}` (of the secret).
        timestamp: where the time stands, None where nothing is timed.
        id_header: where `{id}` stands. key_id_header: where the id of the signing key stands.
    """

    def __init__(
        self,
        *header: str,
        ring: Ring,
        message: str = "{body}",
        timestamp: Timestamp | None = None,
        id_header: str = "",
        key_id_header: str = "",
    ) -> None:
        self.headers, self.ring = tuple(name.lower() for name in header), ring
        self.header, self.timestamp = self.headers[0], timestamp
        self.id_header, self.key_id_header = id_header.lower(), key_id_header.lower()
        self.parts = _FIELD.split(message)
        self.covers_body = not _BODY_FIELDS.isdisjoint(self.parts[1::2])
        self.scheme = f"{ring.algorithm} base64 of {message}, keys in `{ring.setting}`"
        self.test_secret = ring.test_secret

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        values = [value for name in self.headers if (value := request.headers.get(name, "").strip())]
        if not values:
            raise Unauthenticated(f"no {self.header} header", reason="signature_missing")
        signatures = [signature for value in values if (signature := _decoded(value))]
        if not signatures:
            raise Unauthenticated(f"no base64 in {self.header}", reason="signature_malformed")
        stamp = request.headers.get(self.timestamp.header.lower(), "") if self.timestamp else ""
        if self.timestamp is not None:
            self.timestamp.check(stamp, now)
        key_id = request.headers.get(self.key_id_header, "") if self.key_id_header else ""
        for name, keys in self.ring.each(secrets, now, key_id):
            message = self.message(request, stamp, name)
            if any(key.verifies(signature, message) for key in keys for signature in signatures):
                return

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`; needs a private key in the secret."""
        name, key = self.ring.private(secret, now)
        stamp = self.timestamp.text(now) if self.timestamp is not None else ""
        headers = {} if self.timestamp is None else {self.timestamp.header: stamp}
        if self.id_header and self.id_header not in request.headers:
            headers[self.id_header] = f"msg_{now}"
        request = with_headers(request, headers)
        signature = key.signs(self.message(request, stamp, name))
        return with_headers(request, {self.header: base64.b64encode(signature).decode()})

    def signed_at(self, request: Request) -> int | None:
        """When the request says that it was signed, ns since 1970; nothing of it is proved."""
        stamp = self.timestamp
        return stamp.read(request.headers.get(stamp.header.lower(), "")) if stamp else None

    def message(self, request: Request, stamp: str, name: str) -> bytes:
        """What is signed."""
        fields = {
            "body": request.body,
            "body_base64": base64.b64encode(request.body) if "body_base64" in self.parts else b"",
            "crc32": str(zlib.crc32(request.body)).encode(),
            "timestamp": _utf8(stamp),
            "id": _utf8(request.headers.get(self.id_header, "")),
            "name": _utf8(name),
        }
        # A split by a capturing pattern alternates literal, name, literal, …
        return b"".join(fields[part] if i % 2 else _utf8(part) for i, part in enumerate(self.parts))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class SignedToken:
    """A JSON Web Token in a header, signed with RS256. It says who sent, and nothing of what was sent.

    Args:
        header: where it stands.
        claims: what the token must say (`iss`, `aud`) for the source whose secret begins with this name.
        ring: the keys.
        leeway_s: how far the sender's clock may be off.
    """

    covers_body = False

    def __init__(
        self, header: str, *, claims: Callable[[str], Mapping[str, str]], ring: Ring, leeway_s: int = 300
    ) -> None:
        self.header, self.claims, self.leeway, self.ring = header.lower(), claims, leeway_s * NS, ring
        self.scheme = f"JWT with RS256 in {header}, keys in `{ring.setting}`"
        self.test_secret = ring.test_secret

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        token = request.headers.get(self.header, "").strip()
        if not token:
            raise Unauthenticated(f"no {self.header} header", reason="signature_missing")
        head, said, signed, signature = _taken_apart(token)
        # The algorithm is ours to choose; `crit` names extensions that must be understood, and none is.
        if head.get("alg") != "RS256" or "crit" in head or not signature:
            raise Unauthenticated("the token is not one with RS256", reason="signature_malformed")
        kid = head.get("kid")
        for name, keys in self.ring.each(secrets, now, kid if isinstance(kid, str) else ""):
            fits = any(key.verifies(signature, signed) for key in keys)
            if fits and all(_says(said.get(claim), value) for claim, value in self.claims(name).items()):
                self._check_times(said, now)
                return

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`; needs a private key in the secret."""
        name, key = self.ring.private(secret, now)
        head = {"alg": "RS256", "typ": "JWT", **({"kid": key.id} if key.id else {})}
        said = {**self.claims(name), "iat": now // NS, "exp": now // NS + self.leeway // NS}
        signed = b".".join(_encoded_url(encode_json(part)) for part in (head, said))
        token = signed + b"." + _encoded_url(key.signs(signed))
        return with_headers(request, {self.header: token.decode()})

    def _check_times(self, said: dict[str, Any], now: int) -> None:
        """Refuse a token that is over, or from the future. Times are seconds or milliseconds, told by size."""
        ends = instant_ns(said.get("exp"))
        begins = [instant_ns(said[name]) for name in ("iat", "nbf") if name in said]
        if ends is None or None in begins:
            raise Unauthenticated("the token's times are none", reason="timestamp_malformed")
        if ends <= now - self.leeway or any((at or 0) > now + self.leeway for at in begins):
            raise Unauthenticated("the token is over, or from the future", reason="timestamp_stale")


def _taken_apart(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """A token's head, what it says, the bytes that are signed, and the signature."""
    head = said = None
    parts = token.split(".") if len(token) <= _MOST_TOKEN and token.isascii() else []
    if len(parts) == 3:  # noqa: PLR2004 - head, claims, signature
        with contextlib.suppress(MalformedPayload):
            head, said = (decode_json(_decoded_url(part)) for part in parts[:2])
    if not isinstance(head, dict) or not isinstance(said, dict):
        raise Unauthenticated("the token is not one", reason="signature_malformed")
    return head, said, f"{parts[0]}.{parts[1]}".encode(), _decoded_url(parts[2])


def _encoded_url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _says(claim: Any, expected: str) -> bool:
    """Whether a claim is this text, or a list with it in it (as `aud` may be)."""
    said = claim if isinstance(claim, list) else [claim]
    return any(isinstance(one, str) and same(one, expected) for one in said)
