"""What `relay.yaml` may say of a described source: its proof, its envelope, its tables.

`relay.sources.custom` says what the expressions read, and puts it to work.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from relay.errors import ConfigInvalid
from relay.expressions import Expression, Moment, Path, Value
from relay.proofs import Proof
from relay.records import Type

TABLE_NAME: Final = "[a-z][a-z0-9_]{0,49}"


class Misdescribed(ConfigInvalid):
    """Settings of a described source that cannot hold.

    Args:
        faults: for each its path within the source's block (`tables.0.columns.total`), and what is wrong.
    """

    def __init__(self, *faults: tuple[str, str]) -> None:
        super().__init__("\n".join(f"{path}: {said}" if path else said for path, said in faults))
        self.faults = faults


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("say at least one")
    return value


_Column = Annotated[str, Field(min_length=1, max_length=200)]
_Key = Annotated[tuple[_Column, ...], BeforeValidator(_one_or_many), AfterValidator(_some)]
_TableName = Annotated[str, Field(pattern=f"^{TABLE_NAME}$")]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Block):
    """What identifies a row, and its columns: all fields of its object, unless they are named."""

    key: _Key
    columns: dict[_Column, Value] | None = None
    types: dict[_Column, Type] = {}

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        for name in (*self.key, *self.types, *(self.columns or ())):
            if self.columns is not None and name not in self.columns:
                raise ValueError(f"{name} is not among the columns")
            if name.startswith("_relay"):
                raise ValueError(f"{name} is a name of the relay's own")
        return self

    def declared(self) -> dict[str, Type]:
        """Its columns that have a type."""
        casts = {n: Type(c.cast) for n, c in (self.columns or {}).items() if c.cast}
        return casts | self.types

    def read(self, row: Any, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The columns of a row's object, its key among them."""
        if not isinstance(row, dict):
            raise ValueError(f"a row is an object, not {type(row).__name__}")  # noqa: TRY004 - as others here
        if self.columns is None:
            found = {n: v for n, v in row.items() if n not in left_out and not n.startswith("_relay")}
        else:
            found = {name: column.read(name, row) for name, column in self.columns.items()}
        for name in self.key:
            if found.get(name) is None or isinstance(found[name], (dict, list)):
                raise ValueError(f"no value for the key column {name}")
        return found


class Children(Row):
    """A list that is a table of its own, as whole sets; `parent`: its column for each of the parent's keys."""

    table: _TableName | None = None
    parent: dict[_Column, _Column] = {}
    complete: Path | None = None


class Entry(Row):
    """One table: when an event has rows for it, where they are, and what they hold.

    `version` is the object's time, else the event's, else the receipt. A deleted row is a tombstone of rank 99
    (with its columns, if it has any beyond the key), and empties all child sets of its table. The parent's
    columns in a child table are `<table without its last s>_<key column>`, unless `parent` names them.
    """

    table: _TableName
    when: Path | None = None
    root: Path | None = None
    version: Moment | None = None
    sequence: Path | None = None
    rank: int = Field(0, ge=0, le=99)
    deleted: Path | None = None
    children: dict[str, Children] = {}


class Answer(_Block):
    """What an accepted delivery is answered, for senders that want another answer than the plain 202."""

    status: int = Field(200, ge=200, le=299)
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"


class Settings(_Block):
    """A described source's own part of `relay.yaml`; `id` missing or empty: deduplicated by content.

    `fragile`: the sender soon gives up what is refused, so that a share of the buffer is kept for it.
    """

    verify: Proof
    type: Path = Expression("'event'")
    id: Path | None = None
    at: Moment | None = None
    split: Path | None = None
    test: Path | None = None
    fragile: bool = False
    reply: Answer | None = None
    tables: Annotated[tuple[Entry, ...], AfterValidator(_some)]
