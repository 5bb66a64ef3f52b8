"""What `verify:` of a described source may say, and the mechanism that it makes.

The settings are the knobs of `relay.signatures`, `relay.mechanisms` and `relay.publickeys`, by the same names,
checked before anything starts: a proof that could never fit, or that would prove nothing, is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from relay.mechanisms import Clock, Keyed, Params, Place, PlacedToken
from relay.publickeys import ECDSA, ED25519, RSA, Ring, Signed, SignedToken
from relay.signatures import AnyOf, Basic, Hmac, Timestamp, Token, Verifier

#: Of a message: what says something of the delivery, and what may stand beside it.
_SIGNED: Final = frozenset({"body", "url", "id", "params_sorted"})
_BESIDE: Final = frozenset({"timestamp", "method"})
_SIGNED_BY_KEY: Final = frozenset({"body", "body_base64", "crc32", "id"})
_Name = Annotated[str, Field(min_length=1)]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Place(_Settings):
    """Where a value stands: in a header, a query field, or a field of the body (`data.sign`)."""

    header: _Name | None = None
    query: _Name | None = None
    field: _Name | None = None

    @property
    def place(self) -> Place:
        return Place(self.header or "", self.query or "", self.field or "")

    @property
    def said(self) -> int:
        """In how many places it stands."""
        return sum(part is not None for part in (self.header, self.query, self.field))

    def proofs(self) -> set[tuple[str, str]]:
        """What is secret in a request: (`headers`, `query` or `body`, its name)."""
        found = {("headers", (self.header or "").lower()), ("query", self.query), ("body", self.field)}
        return {(place, name) for place, name in found if name}


class _Id(_Place):
    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if self.said != 1:
            raise ValueError("say one of header, query and field")
        return self


class _Timestamp(_Place):
    pair: str = "t"
    unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    tolerance_s: int = Field(300, ge=1)

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if self.said > 1:
            raise ValueError("say one of header, query and field, or none where it stands beside the signature")
        return self


class _Params(_Settings):
    of: Literal["body", "query", "both"] = "body"
    equals: str = ""
    join: str = ""
    leave_out: tuple[str, ...] = ()
    unique: bool = False


class _Hmac(_Place):
    """The knobs of `relay.mechanisms.Keyed`, by the same names."""

    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    message: str = "{body}"
    prefix: str = ""
    pair: str = ""
    separator: str = Field(",", min_length=1)
    versions: str = ""
    several: bool = False
    key: Literal["utf8", "base64", "hex", "whsec", "base64_of_text"] = "utf8"
    timestamp: _Timestamp | None = None
    id_header: str = ""
    id: _Id | None = None
    params: _Params | None = None
    aliases: dict[str, str] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fields = self._fields()
        if self.said != 1:
            raise ValueError("say one of header, query and field: where the signature stands")
        if not fields & _SIGNED or not fields <= _SIGNED | _BESIDE:
            raise ValueError(
                "message signs {body}, {url}, {id} or {params_sorted}, and besides {timestamp} and {method}"
            )
        if self.field and "body" in fields:
            raise ValueError("a body that holds its own signature cannot be signed as {body}: say what is")
        self._check_time(fields)
        if self.id and self.id_header:
            raise ValueError("say one of id and id_header")
        if ("id" in fields) != bool(self.id or self.id_header):
            raise ValueError("id_header (or id) and {id} in message go together")
        if self.params and "params_sorted" not in fields:
            raise ValueError("params is for {params_sorted} in message")
        if bool(self.several) + bool(self.pair) + bool(self.versions) > 1:
            raise ValueError("several, pair and versions exclude each other")
        return self

    def _fields(self) -> set[str]:
        return set(re.findall(r"\{(\w+)\}", self.message))

    def _check_time(self, fields: set[str]) -> None:
        time = self.timestamp
        within = time is not None and (
            (time.field is not None and bool(fields & {"body", "params_sorted"}))
            or (time.query is not None and "url" in fields)
        )
        if ("timestamp" in fields) != (time is not None) and not within:
            raise ValueError("timestamp and {timestamp} in message go together: an unsigned time proves nothing")
        if time is not None and not time.said and not self.pair:
            raise ValueError("timestamp needs its header, query or field, unless it stands in a list (pair)")

    def mechanism(self) -> Verifier:
        """`Hmac` where that has all the knobs, so that `relay doctor` can try them."""
        if self._plain():
            time = self.timestamp
            stamp = Timestamp(time.header or "", time.pair, time.unit, time.tolerance_s) if time else None
            return Hmac(self.header or "", id_header=self._id_header, timestamp=stamp, **self._common())
        return self._keyed(plain_hash=False)

    def _plain(self) -> bool:
        time = self.timestamp
        elsewhere = self.header is None or (time is not None and (time.query or time.field))
        more = self.several or "params_sorted" in self._fields() or self.key == "base64_of_text"
        listed = bool(self.prefix and (self.pair or self.versions))
        small = time is not None and time.unit in {"us", "ns"}
        return not (elsewhere or more or listed or small or (self.id and not self.id.header))

    def _keyed(self, *, plain_hash: bool) -> Keyed:
        time, params = self.timestamp, self.params
        clock = None
        if time is not None:
            place = Place(query=time.query or "", field=time.field or "")
            clock = Clock(time.header or "", time.pair, time.unit, time.tolerance_s, place=place)
        return Keyed(
            self.place,
            plain_hash=plain_hash,
            several=self.several,
            id_place=self.id.place if self.id else None,
            id_header=self._id_header,
            params=Params(**params.model_dump()) if params else None,
            timestamp=clock,
            **self._common(),
        )

    @property
    def _id_header(self) -> str:
        return (self.id.header or "") if self.id else self.id_header

    def _common(self) -> dict[str, Any]:
        knobs = ("algorithm", "encoding", "message", "prefix", "pair", "separator", "versions", "key", "aliases")
        return {name: getattr(self, name) for name in knobs}

    def proofs(self) -> set[tuple[str, str]]:
        header = (self.header or "").lower()
        aliases = (alias for name, alias in self.aliases.items() if name.lower() == header)
        return super().proofs() | {("headers", name.lower()) for name in aliases}


class _Hash(_Hmac):
    """A plain hash of a text with the secret in it; only a described source may be proved by one."""

    message: str = "{secret}{body}"

    def _fields(self) -> set[str]:
        return super()._fields() - {"secret"}

    @model_validator(mode="after")
    def _has_the_secret(self) -> Self:
        ends = self.message.startswith("{secret}") + self.message.endswith("{secret}")
        if not ends or self.message.count("{secret}") != ends:
            raise ValueError("the message of a hash begins or ends with {secret}")
        return self

    def mechanism(self) -> Verifier:
        return self._keyed(plain_hash=True)


class _Signed(_Settings):
    """The knobs of `relay.publickeys.Signed`; the secrets are the sender's public keys."""

    header: Annotated[tuple[_Name, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
    message: str = "{body}"
    timestamp: _Timestamp | None = None
    id_header: str = ""
    key_id_header: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fields, time = set(re.findall(r"\{(\w+)\}", self.message)), self.timestamp
        if not fields & _SIGNED_BY_KEY or not fields <= _SIGNED_BY_KEY | {"timestamp"}:
            raise ValueError("message signs {body}, {body_base64}, {crc32} or {id}, and besides {timestamp}")
        if ("timestamp" in fields) != (time is not None):
            raise ValueError("timestamp and {timestamp} in message go together: an unsigned time proves nothing")
        if time is not None and (not time.header or time.unit in {"us", "ns"}):
            raise ValueError("timestamp stands in a header, and its unit is s, ms or iso")
        if ("id" in fields) != bool(self.id_header):
            raise ValueError("id_header and {id} in message go together")
        return self

    def mechanism(self, algorithm: str) -> Verifier:
        time = self.timestamp
        return Signed(
            *self.header,
            ring=Ring(algorithm),
            message=self.message,
            timestamp=Timestamp(time.header or "", time.pair, time.unit, time.tolerance_s) if time else None,
            id_header=self.id_header,
            key_id_header=self.key_id_header,
        )

    def proofs(self) -> set[tuple[str, str]]:
        return {("headers", name.lower()) for name in self.header}


class _Jwt(_Settings):
    """The knobs of `relay.publickeys.SignedToken`: a token of RS256 says who sent, not what was sent."""

    header: _Name
    claims: Annotated[dict[_Name, _Name], Field(min_length=1)]
    leeway_s: int = Field(300, ge=0)

    def mechanism(self) -> Verifier:
        claims = dict(self.claims)
        return SignedToken(self.header, claims=lambda _name: claims, ring=Ring(RSA), leeway_s=self.leeway_s)

    def proofs(self) -> set[tuple[str, str]]:
        return {("headers", self.header.lower())}


class _Token(_Place):
    prefix: str = ""

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if self.said != 1:
            raise ValueError("say one of header, query and field")
        return self

    def mechanism(self) -> Verifier:
        if self.field:
            return PlacedToken(self.field, self.prefix)
        return Token(header=self.header or "", query=self.query or "", prefix=self.prefix)


class _Basic(_Settings):
    def mechanism(self) -> Verifier:
        return Basic()

    def proofs(self) -> set[tuple[str, str]]:
        return {("headers", "authorization")}


class Proof(_Settings):
    """One of `hmac`, `hash`, `token`, `basic`, `rsa`, `ecdsa`, `ed25519`, `jwt`, or `any` of several."""

    hmac: _Hmac | None = None
    hash: _Hash | None = None
    token: _Token | None = None
    basic: _Basic | None = None
    rsa: _Signed | None = None
    ecdsa: _Signed | None = None
    ed25519: _Signed | None = None
    jwt: _Jwt | None = None
    any: tuple[Proof, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or not (self._said or self.any):
            raise ValueError(f"say one of {', '.join(n for n in type(self).model_fields if n != 'any')} and any")
        return self

    @property
    def _said(self) -> _Hmac | _Token | _Basic | _Signed | _Jwt | None:
        by_key = self.rsa or self.ecdsa or self.ed25519 or self.jwt
        return self.hmac or self.hash or self.token or self.basic or by_key

    def mechanism(self) -> Verifier:
        """The mechanism that is described."""
        said = self._said
        if isinstance(said, _Signed):
            return said.mechanism(RSA if self.rsa else ECDSA if self.ecdsa else ED25519)
        return AnyOf(*(choice.mechanism() for choice in self.any)) if said is None else said.mechanism()

    def proofs(self) -> set[tuple[str, str]]:
        """What is secret in a request: (`headers`, `query` or `body`, its name)."""
        if self._said is not None:
            return self._said.proofs()
        return {proof for choice in self.any for proof in choice.proofs()}
