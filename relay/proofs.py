"""What `verify:` of a described source may say, and the mechanism that it makes.

The settings are the knobs of `relay.signatures`, by the same names, checked before anything starts: a proof that
could never fit, or that would prove nothing, is refused.
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.signatures import AnyOf, Basic, Hmac, Timestamp, Token, Verifier


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Timestamp(_Settings):
    header: str = ""
    pair: str = "t"
    unit: Literal["s", "ms", "iso"] = "s"
    tolerance_s: int = Field(300, ge=1)


class _Hmac(_Settings):
    """The knobs of `relay.signatures.Hmac`, by the same names."""

    header: str = Field(min_length=1)
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    message: str = "{body}"
    prefix: str = ""
    pair: str = ""
    separator: str = Field(",", min_length=1)
    versions: str = ""
    key: Literal["utf8", "base64", "hex", "whsec"] = "utf8"
    timestamp: _Timestamp | None = None
    id_header: str = ""
    aliases: dict[str, str] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fields = set(re.findall(r"\{(\w+)\}", self.message))
        if not fields & {"body", "url", "id"} or not fields <= {"body", "timestamp", "id", "method", "url"}:
            raise ValueError("message signs {body}, {url} or {id}, and besides {timestamp} and {method}")
        if ("timestamp" in fields) != (self.timestamp is not None):
            raise ValueError("timestamp and {timestamp} in message go together: an unsigned time proves nothing")
        if self.timestamp and not self.timestamp.header and not self.pair:
            raise ValueError("timestamp needs its header, unless the time stands in a list (pair)")
        if ("id" in fields) != bool(self.id_header):
            raise ValueError("id_header and {id} in message go together")
        if bool(self.prefix) + bool(self.pair) + bool(self.versions) > 1:
            raise ValueError("prefix, pair and versions exclude each other")
        return self

    def mechanism(self) -> Verifier:
        knobs = {name: getattr(self, name) for name in type(self).model_fields}
        stamp = self.timestamp and Timestamp(**self.timestamp.model_dump())
        return Hmac(**{**knobs, "timestamp": stamp})

    def proofs(self) -> set[tuple[str, str]]:
        aliases = (alias for name, alias in self.aliases.items() if name.lower() == self.header.lower())
        return {("headers", name.lower()) for name in (self.header, *aliases)}


class _Token(_Settings):
    header: str = ""
    query: str = ""
    field: str = ""
    prefix: str = ""

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if bool(self.header) + bool(self.query) + bool(self.field) != 1:
            raise ValueError("say one of header, query and field")
        return self

    def mechanism(self) -> Verifier:
        return Token(**self.model_dump())

    def proofs(self) -> set[tuple[str, str]]:
        places = {("headers", self.header.lower()), ("query", self.query), ("body", self.field)}
        return {(place, name) for place, name in places if name}


class _Basic(_Settings):
    def mechanism(self) -> Verifier:
        return Basic()

    def proofs(self) -> set[tuple[str, str]]:
        return {("headers", "authorization")}


class Proof(_Settings):
    """One of `hmac`, `token`, `basic`, or `any` of several."""

    hmac: _Hmac | None = None
    token: _Token | None = None
    basic: _Basic | None = None
    any: tuple[Proof, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or not self.choices:
            raise ValueError("say one of hmac, token, basic and any")
        return self

    @property
    def choices(self) -> tuple[_Hmac | _Token | _Basic | Proof, ...]:
        """What is described, one or several."""
        one = self.hmac or self.token or self.basic
        return (one,) if one else self.any

    def mechanism(self) -> Verifier:
        """The mechanism that is described."""
        found = [choice.mechanism() for choice in self.choices]
        return AnyOf(*found) if self.any else found[0]

    def proofs(self) -> set[tuple[str, str]]:
        """What is secret in a request: (`headers`, `query` or `body`, its name)."""
        return {proof for choice in self.choices for proof in choice.proofs()}
