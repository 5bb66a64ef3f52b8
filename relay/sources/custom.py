"""Any sender, described in `relay.yaml`: how it signs, how its envelope reads, which rows it becomes.

Expressions are JMESPath (https://jmespath.org/specification.html). `type`, `id`, `at`, `split` and `test` read
`{body, headers, query}`, with `split` also `item`; a table's `when` reads `{type, body, headers, query, item,
data}`; all else in a table reads the row's own object. Headers (lower case) and query values are there only by
name, as in `headers."x-topic"`, and never those that prove the sender.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from relay.errors import ConfigInvalid, MalformedPayload
from relay.expressions import Expression, cast, exact, whole, yes
from relay.records import Event, Record, Request, Table, Type, instant_ns
from relay.signatures import AnyOf, Basic, Hmac, Timestamp, Token, Verifier
from relay.source import Vendor

#: Rows, set members included, that one event may become; events that one delivery may hold.
MAX_ROWS: Final = 10_000
MAX_EVENTS: Final = 10_000
_DELETED_RANK: Final = 99
_LARGEST_SEQUENCE: Final = 10**19 - 1
_TABLE_NAME: Final = "[a-z][a-z0-9_]{0,49}"
#: Marks a query value among the headers kept with an event; no header's name can begin so.
_QUERY: Final = "?"


def _compile(value: Any) -> Expression:
    value = f"`{str(value).lower()}`" if isinstance(value, bool) else value
    if not isinstance(value, str):
        raise ValueError("a JMESPath expression is text")  # noqa: TRY004 - the error that pydantic reports
    return Expression(value)


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _constant(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError("a constant is text, a number, true, false or null; quote a date")
    return exact(value)


_Path = Annotated[Expression, PlainValidator(_compile)]
_Column = Annotated[str, Field(min_length=1, max_length=200)]
_Key = Annotated[tuple[_Column, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
_TableName = Annotated[str, Field(pattern=f"^{_TABLE_NAME}$")]


# --- settings -----------------------------------------------------------------------------------------


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Timestamp(_Block):
    header: str = ""
    pair: str = "t"
    unit: Literal["s", "ms", "iso"] = "s"
    tolerance_s: int = Field(300, ge=1)


class _Hmac(_Block):
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


class _Token(_Block):
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


class _Basic(_Block):
    def mechanism(self) -> Verifier:
        return Basic()

    def proofs(self) -> set[tuple[str, str]]:
        return {("headers", "authorization")}


class _Verify(_Block):
    hmac: _Hmac | None = None
    token: _Token | None = None
    basic: _Basic | None = None
    any: tuple[_Verify, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or not self.choices:
            raise ValueError("say one of hmac, token, basic and any")
        return self

    @property
    def choices(self) -> tuple[_Hmac | _Token | _Basic | _Verify, ...]:
        one = self.hmac or self.token or self.basic
        return (one,) if one else self.any

    def mechanism(self) -> Verifier:
        found = [choice.mechanism() for choice in self.choices]
        return AnyOf(*found) if self.any else found[0]

    def proofs(self) -> set[tuple[str, str]]:
        """What is secret in a request: (`headers`, `query` or `body`, its name)."""
        return {proof for choice in self.choices for proof in choice.proofs()}


class _ColumnValue(_Block):
    path: _Path | None = None
    const: Annotated[Any, BeforeValidator(_constant)] = None
    cast: Literal["text", "int", "number", "bool", "instant"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": _compile(value)} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if ("const" in self.model_fields_set) == (self.path is not None):
            raise ValueError("say one of path and const")
        return self

    def read(self, name: str, row: Any) -> Any:
        if self.path is None:
            return self.const
        value = self.path(row)
        try:
            return value if self.cast is None else cast(value, self.cast)
        except ValueError as error:
            raise ValueError(f"column {name}: {error}") from None


class _Row(_Block):
    key: _Key
    columns: dict[_Column, _ColumnValue] | None = None
    types: dict[_Column, Type] = {}

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        if self.columns is not None:
            for name in (*self.key, *self.types):
                if name not in self.columns:
                    raise ValueError(f"{name} is not among the columns")
        return self

    def declared(self) -> dict[str, Type]:
        casts = {n: Type(c.cast) for n, c in (self.columns or {}).items() if c.cast}
        return casts | self.types

    def read(self, row: Any, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The columns of a row's object, its key among them."""
        if not isinstance(row, dict):
            raise ValueError(f"a row is an object, not {type(row).__name__}")  # noqa: TRY004 - as others here
        if self.columns is None:
            found = {name: value for name, value in row.items() if name not in left_out}
        else:
            found = {name: column.read(name, row) for name, column in self.columns.items()}
        for name in self.key:
            if found.get(name) is None or isinstance(found[name], (dict, list)):
                raise ValueError(f"no value for the key column {name}")
        return found


class _Children(_Row):
    """A list that is a table of its own, as whole sets; `parent`: its column for each of the parent's keys."""

    table: _TableName | None = None
    parent: dict[_Column, _Column] = {}
    complete: _Path | None = None


class _Entry(_Row):
    """One table: when an event has rows for it, where they are, and what they hold.

    `version` is the object's time, else the event's, else the receipt. A deleted row is a tombstone of rank 99
    (with its columns, if it has any beyond the key), and empties all child sets of its table. The parent's
    columns in a child table are `<table without its last s>_<key column>`, unless `parent` names them.
    """

    table: _TableName
    when: _Path | None = None
    root: _Path | None = None
    version: _Path | None = None
    sequence: _Path | None = None
    rank: int = Field(0, ge=0, le=99)
    deleted: _Path | None = None
    children: dict[str, _Children] = {}


class Settings(_Block):
    """A custom source's own part of `relay.yaml`; `id` missing or empty: deduplicated by content."""

    verify: _Verify
    type: _Path = Expression("'event'")
    id: _Path | None = None
    at: _Path | None = None
    split: _Path | None = None
    test: _Path | None = None
    tables: tuple[_Entry, ...] = Field(min_length=1)
