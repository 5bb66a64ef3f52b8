"""What a row says to mediarithmics: one line of a document, and the rules in `relay.yaml` that shape it.

https://developer.mediarithmics.io/data-ingestion/bulk-processing/imports

Each line names exactly one user identifier. A row that names nobody, or has no time where one is needed, can never
be taken; a tombstone of a document type without deletes is nothing to send.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.errors import Permanent
from relay.records import encode_json, instant_ns
from worker.destination import Item, Rejected

_LOOKS_HASHED: Final = re.compile(r"[0-9A-Fa-f]{32,128}")


class Identifier(BaseModel):
    """Whose a row is: the column that holds one identifier."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, coerce_numbers_to_str=True)

    user_account_id: str | None = Field(None, description="Column of the account's id.")
    compartment_id: str | None = Field(None, description="The compartment that the account's id belongs to.")
    email_hash: str | None = Field(None, description="Column of the address (with hash: sha256), or of its hash.")
    hash: Literal["sha256"] | None = Field(
        None, description="Hash the address here: trimmed, in lower case, SHA-256 as hex."
    )
    user_agent_id: str | None = Field(None, description="Column of the device's id.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Identifier:
        if sum(map(bool, (self.user_account_id, self.email_hash, self.user_agent_id))) != 1:
            raise ValueError("needs exactly one of user_account_id, email_hash and user_agent_id")
        if self.compartment_id is not None and not self.user_account_id:
            raise ValueError("compartment_id goes with user_account_id only")
        if self.hash is not None and not self.email_hash:
            raise ValueError("hash goes with email_hash only")
        return self

    @property
    def column(self) -> str:
        """The column that holds it."""
        return self.user_account_id or self.email_hash or self.user_agent_id or ""

    @property
    def field(self) -> str:
        """The vendor's name for it."""
        if self.email_hash:
            return "email_hash"
        return "user_account_id" if self.user_account_id else "user_agent_id"

    def named(self, data: dict[str, Any]) -> dict[str, str] | Rejected:
        """The identifier's fields of a command, or why a row names nobody."""
        value = data.get(self.column)
        text = value.strip() if isinstance(value, str) else "" if value is None else encode_json(value).decode()
        if not text or isinstance(value, (bool, dict, list)):
            return Rejected(f"column {self.column} holds no {self.field}, so that the row names nobody")
        if self.hash:
            text = hashlib.sha256(text.lower().encode()).hexdigest()
        elif self.email_hash and not _LOOKS_HASHED.fullmatch(text):
            return Rejected(f"column {self.column} holds no hash: write `hash: sha256` where it holds addresses")
        return {self.field: text} | ({"compartment_id": self.compartment_id} if self.compartment_id else {})


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, coerce_numbers_to_str=True)

    #: A tombstone is something to send.
    deletes: ClassVar[bool] = True
    #: The same line twice is two things there.
    appends: ClassVar[bool] = False

    identifier: Identifier = Field(description="Whose a row is.")

    def command(self, item: Item) -> dict[str, Any] | Rejected | None:
        """The line of a record; None where it says nothing, `Rejected` where it never can be one."""
        if item.op not in {"row", "gone", "full_gone"}:
            raise Permanent(f"a document has no line for a {item.op!r} record")
        if item.op != "row" and not self.deletes:
            return None
        named = self.identifier.named(item.data)
        if isinstance(named, Rejected):
            return named
        return self._row(named, item.data) if item.op == "row" else self._gone(named)

    @abstractmethod
    def _row(self, named: dict[str, str], data: dict[str, Any]) -> dict[str, Any] | Rejected:
        """The line of a row that is there."""

    def _gone(self, named: dict[str, str]) -> dict[str, Any]:
        return {"operation": "DELETE", **named}


class ProfileRule(_Rule):
    """Rows are user profiles."""

    document_type: Literal["USER_PROFILE"]
    columns: tuple[str, ...] | None = Field(None, description="Only these columns are sent; all where absent.")
    update_strategy: Literal["FORCE_REPLACE", "PARTIAL_UPDATE"] = Field(
        "FORCE_REPLACE", description="PARTIAL_UPDATE leaves alone what a row does not name."
    )

    def _row(self, named: dict[str, str], data: dict[str, Any]) -> dict[str, Any]:
        strategy, profile = self.update_strategy, _columns(data, self.columns)
        return {"operation": "UPSERT", **named, "update_strategy": strategy, "user_profile": profile}


class SegmentRule(_Rule):
    """Rows are members of one segment."""

    document_type: Literal["USER_SEGMENT"]
    segment_id: str | None = Field(None, description="The segment.")
    segment_technical_name: str | None = Field(None, description="The segment, by name.")
    expiration_duration: int = Field(0, ge=0, description="Minutes until a member leaves it; 0: never.")

    @model_validator(mode="after")
    def _one_segment(self) -> SegmentRule:
        if bool(self.segment_id) == bool(self.segment_technical_name):
            raise ValueError("needs segment_id or segment_technical_name")
        return self

    def _row(self, named: dict[str, str], data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - it is all said
        return self._member("UPDATE", named)

    def _gone(self, named: dict[str, str]) -> dict[str, Any]:
        return self._member("DELETE", named)

    def _member(self, operation: str, named: dict[str, str]) -> dict[str, Any]:
        place = "segment_id" if self.segment_id else "segment_technical_name"
        segment = {place: self.segment_id or self.segment_technical_name}
        # Mandatory, by the vendor's word, whatever the operation.
        return {"operation": operation, **named, **segment, "expiration_duration": self.expiration_duration}


class ActivityRule(_Rule):
    """Rows are activities of one event each: whatever is sent is added, so nothing should be sent twice."""

    deletes: ClassVar[bool] = False
    appends: ClassVar[bool] = True

    document_type: Literal["USER_ACTIVITY"]
    columns: tuple[str, ...] | None = Field(None, description="Only these columns are sent; all where absent.")
    event: str = Field(min_length=1, description="The event's name.")
    time: str = Field(min_length=1, description="Column of the moment at which it happened.")
    type: str = Field("TOUCH", description="The activity's type.")

    def _row(self, named: dict[str, str], data: dict[str, Any]) -> dict[str, Any] | Rejected:
        at = instant_ns(data.get(self.time))
        if at is None:
            return Rejected(f"column {self.time} holds no time, and an activity needs one")
        identifier = {
            f"${name}": {"$hash": value} if name == "email_hash" else value for name, value in named.items()
        }
        ts, properties = at // 1_000_000, _columns(data, self.columns)
        event = {"$event_name": self.event, "$ts": ts, "$properties": properties}
        return {**identifier, "$type": self.type, "$session_status": "NO_SESSION", "$ts": ts, "$events": [event]}


Rule = Annotated[ProfileRule | SegmentRule | ActivityRule, Field(discriminator="document_type")]


def _columns(data: dict[str, Any], wanted: tuple[str, ...] | None) -> dict[str, Any]:
    """A row's own columns."""
    return {
        name: value
        for name, value in data.items()
        if not name.startswith("_relay_") and (wanted is None or name in wanted)
    }
