"""Keyed hashes with every knob that a described sender may need, beside the plain ones of `relay.signatures`.

The signature, its time and its id may stand in a header, the query or a field of the body; what is signed may hold
the sorted fields of a form; and where a sender has nothing better, a plain hash over a text with the secret in it.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from relay.bodies import is_form
from relay.errors import Unauthenticated
from relay.records import NS, Request, decode_json
from relay.signatures import Hmac, Timestamp, Token, key_bytes, with_headers

_MAX_FIELDS: Final = 10_000
_MAX_SIGNATURES: Final = 16
_UNITS: Final = {"s": NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
_LONGEST_TIME: Final = 20
_SECRET: Final = "{secret}"  # noqa: S105 - a field of a template
_NUMBER: Final = re.compile(rb"-?[0-9]")
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class Place(msgspec.Struct, frozen=True):
    """Where a value stands in a request: in one of a header, a query field, or a body field (`data.sign`)."""

    header: str = ""
    query: str = ""
    field: str = ""

    def __bool__(self) -> bool:
        return bool(self.header or self.query or self.field)

    def __str__(self) -> str:
        if self.header:
            return f"header {self.header.lower()}"
        return f"query field {self.query}" if self.query else f"body field {self.field}"

    def read(self, request: Request) -> str:
        """The value as text, a number as it is written; empty where it is absent or neither."""
        if self.header:
            return request.headers.get(self.header.lower(), "")
        if self.query:
            return request.query.get(self.query, "")
        if is_form(request):
            return next((value for name, value in _form(request) if name == self.field), "")
        return _scalar(request.body, self.field.split("."))

    def write(self, request: Request, value: str) -> Request:
        """The request with this value in this place."""
        if self.header:
            return with_headers(request, {self.header: value})
        if self.query:
            mark = "&" if "?" in request.url else "?"
            return msgspec.structs.replace(
                request,
                query={**request.query, self.query: value},
                url=f"{request.url}{mark}{urlencode({self.query: value})}",
            )
        if is_form(request):
            kept = [pair for pair in _form(request) if pair[0] != self.field]
            return msgspec.structs.replace(request, body=urlencode([*kept, (self.field, value)]).encode())
        inner = data = decode_json(request.body)
        *way, last = self.field.split(".")
        for name in way:
            inner = inner.setdefault(name, {})
        inner[last] = value
        return msgspec.structs.replace(request, body=_encode(data))


def _scalar(body: bytes, way: list[str]) -> str:
    """A text or number of a JSON body; all else is stepped over, not built: nothing is proved yet."""
    try:
        for name in way:
            body = bytes(_one_field(name)(body).value)
        text = body.strip()
        if text.startswith(b'"'):
            return msgspec.json.decode(text, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return text.decode() if _NUMBER.match(text) else ""


@cache
def _one_field(name: str) -> Callable[[bytes], Any]:
    """Reads one field of an object; there is one for each name that is configured."""
    one = msgspec.defstruct("One", [("value", msgspec.Raw, msgspec.Raw())], rename={"value": name})
    return msgspec.json.Decoder(one).decode


def _form(request: Request) -> list[tuple[str, str]]:
    """The fields of a form body, read as `relay.bodies` reads them."""
    if not request.body:
        return []
    try:
        return parse_qsl(
            request.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except (UnicodeDecodeError, ValueError):
        raise Unauthenticated("the body is not a form", reason="signature_malformed") from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class Clock(Timestamp, frozen=True, kw_only=True):
    """A `Timestamp` that may also stand in the query or the body, in micro- or nanoseconds."""

    place: Place = Place()

    def text(self, now: int) -> str:
        """Now, as a sender would write it."""
        return super().text(now) if self.unit == "iso" else str(now // _UNITS[self.unit])

    def read(self, text: str) -> int | None:
        """The time in ns since 1970, None where the text is none."""
        if self.unit == "iso":
            return super().read(text)
        plain = text.isascii() and text.isdigit() and len(text) <= _LONGEST_TIME
        return int(text) * _UNITS[self.unit] if plain else None


class Params(msgspec.Struct, frozen=True):
    """What `{params_sorted}` stands for: the fields of a form, sorted by name and then by value.

    Args:
        of: `body`, `query` or `both`.
        equals: between a name and its value. join: between the fields.
        leave_out: names that are not signed.
        unique: a field that comes twice with the same value is signed once.
    """

    of: str = "body"
    equals: str = ""
    join: str = ""
    leave_out: tuple[str, ...] = ()
    unique: bool = False

    def text(self, request: Request, signature: Place) -> bytes:
        """The fields of a request; the signature is never among them."""
        pairs: list[tuple[str, str]] = []
        if self.of != "query":
            if request.body and not is_form(request):
                # Nothing of such a body would be signed.
                raise Unauthenticated("the body is not a form", reason="signature_malformed")
            pairs += [pair for pair in _form(request) if pair[0] != signature.field]
        if self.of != "body":
            given = parse_qsl(request.url.partition("?")[2], keep_blank_values=True)
            pairs += [pair for pair in given if pair[0] != signature.query]
        signed = [pair for pair in pairs if pair[0] not in self.leave_out]
        kept = sorted(set(signed) if self.unique else signed)
        return _bytes(self.join.join(f"{name}{self.equals}{value}" for name, value in kept))


class Keyed(Hmac):
    """An `Hmac` with the knobs that it lacks.

    Args:
        place: where the signature stands.
        plain_hash: a hash, not a keyed one, of a message that begins or ends with `{secret}`. Whoever has seen
            one delivery signed so, with the secret first, can make a longer one (length extension).
        several: the place holds several signatures, with `separator` between them.
        id_place: where `{id}` stands, if not in `id_header`.
        params: what `{params_sorted}` is.
        **knobs: those of `Hmac`. A `prefix` may stand before a list; the `key` may be `base64_of_text`: the
            text of the secret's base64; the `timestamp` is a `Clock`.
    """

    timestamp: Clock | None

    def __init__(
        self,
        place: Place,
        *,
        plain_hash: bool = False,
        several: bool = False,
        id_place: Place | None = None,
        params: Params | None = None,
        message: str = "{body}",
        **knobs: Any,
    ) -> None:
        self.secret_first = plain_hash and message.startswith(_SECRET)
        self.secret_last = plain_hash and message.endswith(_SECRET)
        hashed = message.removeprefix(_SECRET).removesuffix(_SECRET) if plain_hash else message
        super().__init__(place.header, message=hashed, **knobs)
        self.place, self.several, self.plain_hash = place, several, plain_hash
        self.id_place, self.params = id_place or Place(), params or Params()
        where = "" if place.header else f" in the {place}"
        self.scheme = f"{'' if plain_hash else 'hmac-'}{self.algorithm} {self.encoding} of {message}{where}"

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        if not self.header and not self.place.read(request):
            raise Unauthenticated(f"no {self.place}", reason="signature_missing")
        super().verify(request, secrets, now)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`."""
        stamp, timed = "", self.timestamp
        if timed is not None:
            stamp = timed.text(now)
            where = Place(header=timed.header) or timed.place
            request = where.write(request, stamp) if where else request
        id_place = Place(header=self.id_header) or self.id_place
        if id_place and not id_place.read(request):
            request = id_place.write(request, f"msg_{now}")
        value = self._digest(secret, self._message(request, stamp))
        if self.versions:
            value = f"{self.versions},{value}"
        elif self.pair:
            inside = timed is not None and not (timed.header or timed.place)
            first = f"{timed.pair}={stamp}{self.separator}" if timed and inside else ""
            value = f"{first}{self.pair}={value}"
        return (Place(header=self.header) or self.place).write(request, f"{self.prefix}{value}")

    def _read(self, request: Request, header: str) -> str:
        """`Hmac` asks for the header of the signature: it has none where that stands elsewhere."""
        return super()._read(request, header) if header else self.place.read(request)

    def _candidates(self, request: Request, value: str) -> tuple[list[str], str]:
        listed = bool(self.pair or self.versions)
        if listed and not value.startswith(self.prefix):
            return [], ""
        if listed:
            value = value[len(self.prefix) :]
        parts = value.split(self.separator)[:_MAX_SIGNATURES] if self.several and not listed else [value]
        found: list[str] = []
        stamp = ""
        for part in parts:
            more, stamp = super()._candidates(request, part.strip())
            found += [text.strip('"') for text in more]
        if self.timestamp is not None and self.timestamp.place:
            stamp = self.timestamp.place.read(request)
        return found, stamp.strip('"')

    def _message(self, request: Request, stamp: str) -> bytes:
        fields: Mapping[str, Callable[[], bytes]] = {
            "body": lambda: request.body,
            "timestamp": lambda: _bytes(stamp),
            "id": lambda: _bytes(self._id(request)),
            "method": lambda: _bytes(request.method),
            "url": lambda: _bytes(_without(request.url, self.place.query)),
            "params_sorted": lambda: self.params.text(request, self.place),
        }
        # A split by a capturing pattern alternates literal, name, literal, …
        return b"".join(fields[part]() if i % 2 else _bytes(part) for i, part in enumerate(self.parts))

    def _id(self, request: Request) -> str:
        return self._read(request, self.id_header) if self.id_header else self.id_place.read(request)

    def _digest(self, secret: str, message: bytes) -> str:
        encoded = self.key == "base64_of_text"
        key = key_bytes(secret, "utf8" if encoded else self.key)
        if encoded:
            key = base64.b64encode(key)
        if self.plain_hash:
            parts = (key if self.secret_first else b"", message, key if self.secret_last else b"")
            digest = self.hash(b"".join(parts)).digest()
        else:
            digest = hmac.new(key, message, self.hash).digest()
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()


def _without(url: str, field: str) -> str:
    """An address as it was signed: before the signature was added to its query."""
    if not field:
        return url
    address, _, query = url.partition("?")
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0] != field)
    return f"{address}?{kept}" if kept else address


class PlacedToken(Token):
    """A `Token` in a body field that may be deep in the JSON, or in a form."""

    def __init__(self, field: str, prefix: str = "") -> None:
        super().__init__(field=field, prefix=prefix)
        self.place = Place(field=field)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`."""
        if self.header or self.query:
            return super().sign(request, secret, now)
        return self.place.write(request, self.prefix + secret)

    def _read(self, request: Request) -> str:
        return super()._read(request) if self.header or self.query else self.place.read(request)
