"""mediarithmics document imports, as they are served: commands of a document as rows of tables.

https://developer.mediarithmics.io/data-ingestion/bulk-processing

Each document type has a table (`TABLES`). A user is known by exactly one identifier, which becomes the text column
`user_id`: `account:<compartment>:<account>`, `email:<hash>` or `agent:<id>`. Other columns are the command's own
top-level fields, activities' without the `$`; nested values stay JSON.

A row is replaced as a whole, so a command that would change a part of one (`update_strategy` PARTIAL_UPDATE or
PARTIAL_DELETE, `merge_objects`) is refused; one that says no strategy replaces. Deletions and associations of
identifiers are recorded in tables of their own: rows of other tables stay as they are.

What the vendor's documents leave open: the text of errors, status codes, and the error file, which is NDJSON of
`{"line", "error", "input"}` here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.dialect import PushRefused, Row, check_row
from relay.errors import MalformedPayload
from relay.records import decode_json, encode_json

KIND: Final = "document_imports"
#: "ensure a maximum size for each file of 100M"
MOST_BYTES: Final = 100 * 1024 * 1024
NDJSON, CSV = "APPLICATION_X_NDJSON", "TEXT_CSV"
PRIORITIES: Final = ("LOW", "MEDIUM", "HIGH")
CONTENT_TYPES: Final = {"application/x-ndjson": NDJSON, "text/csv": CSV}
MOST_NAME: Final = 255
_LONGEST_ID: Final = 400
_ENCODINGS: Final = frozenset({"utf-8", "utf8"})
_SHOWN: Final = 1000
_DIGITS: Final = re.compile(r"-?[0-9]{1,18}")
_ROW: Final = "_row_id"


class Definition(msgspec.Struct, frozen=True):
    """A document import as its client defines it."""

    document_type: str
    mime_type: str
    encoding: str
    name: str
    priority: str = "MEDIUM"


class Target(msgspec.Struct, frozen=True):
    """Where commands of a type go.

    Args:
        table: as the client's own. key: its columns. columns: declared ones.
        read: a command's fields, and what it is known by where it has no key, as a row; raises `PushRefused`.
    """

    table: str
    key: tuple[str, ...]
    columns: Mapping[str, str]
    read: Callable[[dict[str, Any], str], Row]


def definition(body: bytes, old: Definition | None = None) -> Definition:
    """A document import from a request's body.

    Args:
        body: JSON.
        old: as it was, where only some of it is to be changed.

    Raises:
        PushRefused: 400, with what is wrong with it.
    """
    told = _object(body)
    given: dict[str, Any] = {**(msgspec.structs.asdict(old) if old else {}), **told}
    _one_of(given, "document_type", tuple(TARGETS))
    _one_of(given, "mime_type", (NDJSON, CSV))
    if given["mime_type"] == CSV and given["document_type"] != "USER_SEGMENT":
        raise PushRefused(f"mime_type: TEXT_CSV is for USER_SEGMENT, not for {given['document_type']}")
    encoding = given.get("encoding", "utf-8")
    if not isinstance(encoding, str) or encoding.lower() not in _ENCODINGS:
        raise PushRefused(f"encoding: only utf-8 is taken, not {str(encoding)[:40]!r}")
    name = given.get("name")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= MOST_NAME:
        raise PushRefused(f"name: a text of 1 to {MOST_NAME} characters is required")
    given.setdefault("priority", "MEDIUM")
    _one_of(given, "priority", PRIORITIES)
    return Definition(given["document_type"], given["mime_type"], "utf-8", name, given["priority"])


def action(body: bytes) -> None:
    """See that an action is one that there is.

    Raises:
        PushRefused: 400; it is not CANCEL.
    """
    _one_of(_object(body), "action", ("CANCEL",))


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = decode_json(body)
    except MalformedPayload as error:
        raise PushRefused(str(error)) from None
    if not isinstance(told, dict):
        raise PushRefused("the body is not a JSON object")
    return told


def _one_of(given: Mapping[str, Any], field: str, known: Sequence[str]) -> None:
    if given.get(field) not in known:
        raise PushRefused(f"{field}: one of {', '.join(known)} is required, not {str(given.get(field))[:40]!r}")


def check_type(content_type: str, mime_type: str) -> None:
    """Refuse a document whose `Content-Type` is not its import's.

    Raises:
        PushRefused: 400.
    """
    kind, _, parameters = content_type.partition(";")
    found = CONTENT_TYPES.get(kind.strip().lower())
    if found != mime_type:
        wanted = next(name for name, mime in CONTENT_TYPES.items() if mime == mime_type)
        raise PushRefused(f"Content-Type must match the import's mime_type {mime_type}: send {wanted}")
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in _ENCODINGS:
        raise PushRefused(f"Content-Type: only utf-8 is taken, not {charset[1][:40]}")


# --- commands -----------------------------------------------------------------------------------------


def row(document_type: str, command: dict[str, Any], place: str, sequence: int) -> Row:
    """A command as a row.

    Args:
        document_type: of the import.
        command: its fields.
        place: execution and place in it; what a command is known by that has no key of its own.
        sequence: orders it among all commands.

    Raises:
        PushRefused: the line is refused, and why.
    """
    target = TARGETS[document_type]
    found = target.read(command, place)
    check_row(found.data, target.key, "the command")
    return msgspec.structs.replace(found, sequence=sequence)


def _user_id(command: Mapping[str, Any]) -> str:
    """The one identifier of a command."""
    found = []
    if command.get("user_account_id") is not None:
        compartment = _id(command, "compartment_id") if command.get("compartment_id") is not None else ""
        found.append(f"account:{compartment}:{_id(command, 'user_account_id')}")
    if command.get("email_hash") is not None:
        found.append(f"email:{_id(command, 'email_hash')}")
    if command.get("user_agent_id") is not None:
        found.append(f"agent:{_id(command, 'user_agent_id')}")
    if len(found) != 1:
        raise PushRefused(
            "exactly one user identifier is required (user_account_id, email_hash or user_agent_id), "
            f"not {len(found) or 'none'}"
        )
    return found[0]


def _id(command: Mapping[str, Any], field: str) -> str:
    value = command[field]
    text = str(value) if type(value) in {str, int} else ""
    if not 0 < len(text) <= _LONGEST_ID:
        raise PushRefused(f"{field} must be a text of 1 to {_LONGEST_ID} characters")
    return text


def _operation(command: Mapping[str, Any], *known: str) -> str:
    operation = command.get("operation")
    if operation not in known:
        raise PushRefused(f"operation must be {' or '.join(known)}, not {str(operation)[:40]!r}")
    return str(operation)


def _profile(command: dict[str, Any], _place: str) -> Row:
    gone = _operation(command, "UPSERT", "DELETE") == "DELETE"
    user = _user_id(command)
    if gone:
        return Row({"user_id": user}, gone=True)
    strategy = command.get("update_strategy")
    if strategy not in {None, "FORCE_REPLACE"}:
        raise PushRefused(f"update_strategy {str(strategy)[:40]!r} changes a part of a profile: send it whole")
    if command.get("merge_objects") is True or command.get("force_replace") is False:
        raise PushRefused("merge_objects, or force_replace false, changes a part of a profile: send it whole")
    left_out = {"operation", "update_strategy", "merge_objects", "force_replace"}
    return Row({"user_id": user, **{k: v for k, v in command.items() if k not in left_out | {"user_id"}}})


def _segment(command: dict[str, Any], _place: str) -> Row:
    gone = _operation(command, "UPDATE", "DELETE") == "DELETE"
    user = _user_id(command)
    given = [f for f in ("segment_id", "segment_technical_name") if command.get(f) is not None]
    if len(given) != 1:
        raise PushRefused("either segment_id or segment_technical_name is required")
    segment = f"{'id' if given == ['segment_id'] else 'name'}:{_id(command, given[0])}"
    key = {"user_id": user, "segment": segment}
    if gone:
        return Row(key, gone=True)
    data = {**{k: v for k, v in command.items() if k != "operation"}, **key}
    for field in ("expiration_duration", "expiration_ts"):
        if data.get(field) is not None:
            data[field] = _whole(field, data[field])
    if isinstance(data.get("data_bag"), str):  # "Escaped JSON String"
        try:
            data["data_bag"] = decode_json(data["data_bag"].encode())
        except MalformedPayload:
            raise PushRefused("data_bag is not JSON") from None
    return Row(data)


def _whole(field: str, value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    if not isinstance(value, str) or not _DIGITS.fullmatch(value) or int(value) < 0:
        raise PushRefused(f"{field} must be a whole number from 0")
    return int(value)


def _activity(command: dict[str, Any], place: str) -> Row:
    plain = {name.removeprefix("$"): value for name, value in command.items()}
    if len(plain) < len(command):
        raise PushRefused("two fields have the same name but for the $")
    email = plain.get("email_hash")
    if isinstance(email, dict):
        hash_ = email.get("$hash") or email.get("$email")
        plain_user = {**plain, "email_hash": hash_}
    else:
        plain_user = plain
    try:
        user = _user_id(plain_user)
    except PushRefused:
        known = ("user_account_id", "email_hash", "user_agent_id", "user_identifiers")
        if not any(plain_user.get(name) for name in known):
            raise
        user = None  # several: the columns say which
    return Row({**plain, "user_id": user, _ROW: place})


_DELETED: Final = {
    "USER_ACCOUNT": "user_account_id",
    "USER_EMAIL": "email_hash",
    "USER_AGENT": "user_agent_id",
}


def _deletion(command: dict[str, Any], _place: str) -> Row:
    kind = command.get("type")
    if kind not in _DELETED:
        raise PushRefused(f"type must be {', '.join(_DELETED)}, not {str(kind)[:40]!r}")
    if command.get(_DELETED[kind]) is None:
        raise PushRefused(f"{_DELETED[kind]} is required for {kind}")
    return Row({**command, "user_id": _user_id(command)})


def _association(command: dict[str, Any], _place: str) -> Row:
    identifiers = command.get("identifiers")
    if not isinstance(identifiers, list) or not identifiers or not all(isinstance(i, dict) for i in identifiers):
        raise PushRefused("identifiers must be an array of objects")
    users = sorted({_user_id({"email_hash": one.get("hash"), **one}) for one in identifiers})
    digest = hashlib.sha256("\0".join(users).encode()).hexdigest()[:32]
    return Row({**command, "association_id": digest, "user_ids": users})


_IDS: Final = {
    "user_id": "id", "compartment_id": "id", "user_account_id": "id", "email_hash": "id", "user_agent_id": "id",
}  # fmt: skip
_SEGMENT: Final = {
    **_IDS, "segment": "id", "segment_id": "id", "segment_technical_name": "id", "expiration_duration": "int",
    "expiration_ts": "int", "data_bag": "json",
}  # fmt: skip
#: What becomes of each type's commands.
TARGETS: Final[Mapping[str, Target]] = {
    "USER_ACTIVITY": Target("user_activities", (_ROW,), {_ROW: "id", "user_id": "id"}, _activity),
    "USER_SEGMENT": Target("user_segments", ("user_id", "segment"), _SEGMENT, _segment),
    "USER_PROFILE": Target("user_profiles", ("user_id",), {**_IDS, "user_profile": "json"}, _profile),
    "USER_IDENTIFIERS_ASSOCIATION_DECLARATIONS": Target(
        "user_identifier_associations", ("association_id",), {"association_id": "id"}, _association
    ),
    "USER_IDENTIFIERS_DISSOCIATION_DECLARATIONS": Target(
        "user_identifier_dissociations", ("association_id",), {"association_id": "id"}, _association
    ),
    "USER_IDENTIFIERS_DELETION": Target("user_identifier_deletions", ("user_id",), _IDS, _deletion),
}


# --- answers ------------------------------------------------------------------------------------------


def answered(data: Any) -> bytes:
    """One resource."""
    return encode_json({"status": "ok", "data": data})


def page(data: Sequence[Any], total: int, first: int, most: int) -> bytes:
    """Some of a list."""
    head = {"status": "ok", "count": len(data), "total": total, "first_result": first, "max_results": most}
    return encode_json({**head, "data": list(data)})


def refused(text: str, error_id: str) -> bytes:
    """An error."""
    return encode_json({"status": "error", "error": text, "error_id": error_id})


def error_line(line: int, why: str, text: str | None) -> bytes:
    """A line of the error file.

    Args:
        line: of the document, from 1.
        why: it was refused.
        text: its bytes' beginning; None where it may not be kept.
    """
    return encode_json({"line": line, "error": why, "input": text if text is None else text[:_SHOWN]}) + b"\n"
