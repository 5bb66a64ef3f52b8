"""How a delivery proves who sent it, by mechanism; a vendor file picks one and fills its knobs.

Every verifier fails closed, compares in constant time and never lets the sender pick the algorithm. None reads
a clock: `now` is an argument, nanoseconds since 1970. `sign` makes what `verify` accepts, for `relay send`, the
contract tests and the benches.
"""

from __future__ import annotations

import base64
import binascii
import copy
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec

from relay.errors import Unauthenticated
from relay.records import NS, Request, decode_json, instant_ns

ALGORITHMS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha512": hashlib.sha512}
_Kind = TypeVar("_Kind")
_MAX_CANDIDATES: Final = 16  # signatures looked at in one header; rotation needs two


class Verifier(Protocol):
    """Proves a request, or raises; and makes the headers that prove one."""

    scheme: str

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """Return where one of the secrets fits.

        Raises:
            Unauthenticated: otherwise; `reason` says which check failed, for the operator.
        """

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """The request as its sender would have sent it."""


def same(left: str | bytes, right: str | bytes) -> bool:
    """Constant-time equality of two texts of any characters."""
    return hmac.compare_digest(_bytes(left), _bytes(right))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def with_headers(request: Request, headers: Mapping[str, str]) -> Request:
    """The request with more headers."""
    return msgspec.structs.replace(
        request, headers={**request.headers, **{k.lower(): v for k, v in headers.items()}}
    )


class Timestamp(msgspec.Struct, frozen=True):
    """When a signature says it was made.

    Args:
        header: the header that holds it, empty where the signature header itself does (see `Hmac.pair`).
        pair: its name in a `t=…,v1=…` header.
        unit: `s`, `ms` or `iso`.
        tolerance_s: refused when further than this from now, in either direction.
    """

    header: str = ""
    pair: str = "t"
    unit: str = "s"
    tolerance_s: int = 300

    def text(self, now: int) -> str:
        """Now, as a sender would write it."""
        if self.unit == "iso":
            seconds, rest = divmod(now, NS)
            moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
            return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"
        return str(now // (NS if self.unit == "s" else 1_000_000))

    def check(self, text: str, now: int) -> None:
        """Refuse what is not a time, stale, or from the future."""
        at = self.read(text)
        if at is None:
            raise Unauthenticated("the timestamp is not one", reason="timestamp_malformed")
        if abs(now - at) > self.tolerance_s * NS:
            raise Unauthenticated(
                f"the timestamp is {abs(now - at) // NS} s away from this machine's clock "
                f"(at most {self.tolerance_s} s)",
                reason="timestamp_stale",
            )

    def read(self, text: str) -> int | None:
        """The time in ns since 1970, None where the text is none."""
        if self.unit == "iso":
            return instant_ns(text) if "T" in text else None
        plain = text.isascii() and text.isdigit() and len(text) <= 17  # noqa: PLR2004 - no clock is longer
        return int(text) * (NS if self.unit == "s" else 1_000_000) if plain else None


_FIELD: Final = re.compile(r"\{(\w+)\}")


class Hmac:
    """A keyed hash over a template of the request.

    Args:
        header: where the signature stands.
        algorithm: `sha1`, `sha256`, `sha512`.
        encoding: `hex` or `base64`.
        message: what is signed, over `{body}`, `{timestamp}`, `{id}`, `{method}`, `{url}`.
        prefix: constant text before the digest, such as `sha256=`.
        pair: the digest's name in a list such as `t=1,v1=abc` (any number of them may fit).
        separator: between the items of such a list.
        versions: instead of `pair`: a space-separated list of `<version>,<digest>` with this version.
        key: how a secret becomes the key: `utf8`, `base64`, `hex`, or `whsec` (base64 after that prefix).
        timestamp: where the time stands, None where nothing is timed.
        id_header: where `{id}` stands.
        aliases: other names under which senders write the same headers, tried when the first is absent.
    """

    def __init__(  # noqa: PLR0913 - each is one property of a scheme
        self,
        header: str,
        *,
        algorithm: str = "sha256",
        encoding: str = "hex",
        message: str = "{body}",
        prefix: str = "",
        pair: str = "",
        separator: str = ",",
        versions: str = "",
        key: str = "utf8",
        timestamp: Timestamp | None = None,
        id_header: str = "",
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.header, self.prefix, self.pair = header.lower(), prefix, pair
        self.separator, self.versions, self.encoding, self.key = separator, versions, encoding, key
        self.hash = ALGORITHMS[algorithm]
        self.algorithm = algorithm
        self.timestamp, self.id_header = timestamp, id_header.lower()
        self.aliases = {k.lower(): v.lower() for k, v in (aliases or {}).items()}
        self.parts = _FIELD.split(message)
        self.plain = message == "{body}"
        self.scheme = f"hmac-{algorithm} {encoding} of {message}"

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `Verifier`."""
        value = self._read(request, self.header)
        if not value:
            raise Unauthenticated(f"no {self.header} header", reason="signature_missing")
        candidates, stamp = self._candidates(request, value)
        if not candidates:
            raise Unauthenticated(f"no signature of ours in {self.header}", reason="signature_malformed")
        if self.timestamp is not None:
            self.timestamp.check(stamp, now)
        message = request.body if self.plain else self._message(request, stamp)
        fits = False
        malformed: Unauthenticated | None = None
        for secret in secrets:
            try:
                expected = self._digest(secret, message)
            except Unauthenticated as error:  # one secret written wrongly does not shut out the others
                malformed = error
                continue
            for candidate in candidates:
                fits |= same(expected, candidate)
        if not fits:
            raise malformed or Unauthenticated("no secret fits the signature", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `Verifier`."""
        headers = {}
        stamp = self.timestamp.text(now) if self.timestamp is not None else ""
        if self.timestamp is not None and self.timestamp.header:
            headers[self.timestamp.header] = stamp
        if self.id_header and self.id_header not in request.headers:
            headers[self.id_header] = f"msg_{now}"
        request = with_headers(request, headers)
        digest = self._digest(secret, self._message(request, stamp))
        if self.versions:
            value = f"{self.versions},{digest}"
        elif self.pair:
            inside = self.timestamp is not None and not self.timestamp.header
            first = f"{self.timestamp.pair}={stamp}{self.separator}" if inside and self.timestamp else ""
            value = f"{first}{self.pair}={digest}"
        else:
            value = f"{self.prefix}{digest}"
        return with_headers(request, {self.header: value})

    def varied(self, **knobs: Any) -> Self:
        """The same mechanism with another `header`, `algorithm`, `prefix` and so on (`relay.doctor`)."""
        other = _varied(self, knobs)
        other.hash = ALGORITHMS[other.algorithm]
        return other

    def signed_at(self, request: Request) -> int | None:
        """When the request says that it was signed, ns since 1970; nothing of it is proved."""
        if self.timestamp is None:
            return None
        return self.timestamp.read(self._candidates(request, self._read(request, self.header))[1])

    def _read(self, request: Request, header: str) -> str:
        value = request.headers.get(header, "")
        return value or request.headers.get(self.aliases.get(header, ""), "")

    def _candidates(self, request: Request, value: str) -> tuple[list[str], str]:
        stamp = ""
        if self.timestamp is not None and self.timestamp.header:
            stamp = self._read(request, self.timestamp.header.lower())
        if self.versions:
            items = [item.split(",", 1) for item in value.split(" ")[:_MAX_CANDIDATES]]
            found = [i[1] for i in items if len(i) == 2 and i[0] == self.versions]  # noqa: PLR2004
        elif self.pair:
            pairs = [item.strip().partition("=") for item in value.split(self.separator)[:_MAX_CANDIDATES]]
            found = [v for k, _, v in pairs if k == self.pair]
            if self.timestamp is not None and not self.timestamp.header:
                stamp = next((v for k, _, v in pairs if k == self.timestamp.pair), "")
        else:
            starts = value.startswith(self.prefix)
            found = [value[len(self.prefix) :].strip()] if starts else []
        if self.encoding == "hex":
            found = [f.lower() for f in found]
        return [f for f in found if f], stamp

    def _message(self, request: Request, stamp: str) -> bytes:
        fields = {
            "body": request.body,
            "timestamp": _bytes(stamp),
            "id": _bytes(self._read(request, self.id_header)) if self.id_header else b"",
            "method": _bytes(request.method),
            "url": _bytes(request.url),
        }
        # A split by a capturing pattern alternates literal, name, literal, …
        return b"".join(fields[p] if i % 2 else _bytes(p) for i, p in enumerate(self.parts))

    def _digest(self, secret: str, message: bytes) -> str:
        digest = hmac.new(key_bytes(secret, self.key), message, self.hash).digest()
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()


def _varied(verifier: _Kind, knobs: dict[str, Any]) -> _Kind:
    other = copy.copy(verifier)
    vars(other).update(knobs)
    return other


def key_bytes(secret: str, form: str) -> bytes:
    """A configured secret as the key of a keyed hash; one that is empty or not of its form fits nothing."""
    key = _key_bytes(secret, form)
    if not key:
        raise Unauthenticated("the configured secret is empty", reason="secret_malformed")
    return key


def _key_bytes(secret: str, form: str) -> bytes:
    try:
        if form == "whsec":
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        if form == "base64":
            return base64.b64decode(secret, validate=True)
        if form == "hex":
            return bytes.fromhex(secret)
    except (binascii.Error, ValueError):
        raise Unauthenticated(f"the configured secret is not {form}", reason="secret_malformed") from None
    return _bytes(secret)


class Token:
    """A shared secret sent as it is: in a header, the query, or a field of a JSON body.

    Such a sender does not sign what it says: keep TLS, and treat every field as its own claim.
    """

    def __init__(self, *, header: str = "", query: str = "", field: str = "", prefix: str = "") -> None:
        self.header, self.query, self.field, self.prefix = header.lower(), query, field, prefix
        # Reads one field and steps over the rest: whoever has no token must not make us build the whole body.
        body = msgspec.defstruct("Body", [("token", str, "")], rename={"token": field or "token"})
        self._only: Callable[[bytes], Any] = msgspec.json.Decoder(body).decode
        place = f"header {header}" if header else f"query {query}" if query else f"body field {field}"
        self.scheme = f"shared token in {place}"

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:  # noqa: ARG002 - untimed
        """See `Verifier`."""
        value = self._read(request)
        if not value:
            raise Unauthenticated(f"no {self.scheme}", reason="signature_missing")
        fits = False
        for secret in secrets:
            fits |= secret != "" and same(self.prefix + secret, value)
        if not fits:
            raise Unauthenticated("no secret fits the token", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:  # noqa: ARG002 - untimed
        """See `Verifier`; a body field is written into the JSON body."""
        if self.header:
            return with_headers(request, {self.header: self.prefix + secret})
        if self.query:
            mark = "&" if "?" in request.url else "?"
            return msgspec.structs.replace(
                request,
                query={**request.query, self.query: self.prefix + secret},
                url=f"{request.url}{mark}{self.query}={self.prefix}{secret}",
            )
        body = {**decode_json(request.body), self.field: self.prefix + secret}
        return msgspec.structs.replace(request, body=msgspec.json.Encoder(decimal_format="number").encode(body))

    def varied(self, **knobs: Any) -> Self:
        """The same mechanism with another header, query or prefix (`relay.doctor`)."""
        return _varied(self, knobs)

    def _read(self, request: Request) -> str:
        if self.header:
            return request.headers.get(self.header, "")
        if self.query:
            return request.query.get(self.query, "")
        try:
            token: str = self._only(request.body).token
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        return token


class Basic:
    """HTTP Basic; the secret is `user:password` as one text."""

    scheme = "http basic"

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:  # noqa: ARG002 - untimed
        """See `Verifier`."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic" or not value:
            raise Unauthenticated("no basic credentials", reason="signature_missing")
        try:
            given = base64.b64decode(_bytes(value.strip()), validate=True)
        except (binascii.Error, ValueError):
            raise Unauthenticated("the basic credentials are not base64", reason="signature_malformed") from None
        fits = False
        for secret in secrets:
            fits |= secret != "" and same(given, secret)
        if not fits:
            raise Unauthenticated("no secret fits the credentials", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:  # noqa: ARG002 - untimed
        """See `Verifier`."""
        value = base64.b64encode(_bytes(secret)).decode()
        return with_headers(request, {"authorization": f"Basic {value}"})


class AnyOf:
    """Several schemes of one vendor: the first whose header is there decides, and only that one."""

    def __init__(self, *choices: Verifier) -> None:
        self.choices = choices
        self.scheme = " or ".join(c.scheme for c in choices)

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `Verifier`."""
        missing: Unauthenticated | None = None
        for choice in self.choices:
            try:
                choice.verify(request, secrets, now)
            except Unauthenticated as error:
                if error.reason != "signature_missing":
                    raise
                missing = error
            else:
                return
        raise missing or Unauthenticated("no scheme", reason="signature_missing")

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `Verifier`; by the first scheme."""
        return self.choices[0].sign(request, secret, now)


def strip_secrets(headers: Mapping[str, str], keep: Iterable[str]) -> dict[str, str]:
    """Only the headers that say something of the data; whatever proves the sender is never stored."""
    return {name: headers[name] for name in keep if name in headers}
