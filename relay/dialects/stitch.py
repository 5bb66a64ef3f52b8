"""The Stitch Import API: push, batch and validate.

Facts: https://www.stitchdata.com/docs/developers/import-api/api and what target-stitch sends besides
(`table_version`, `bookmark_names`, `time_extracted`, `activate_version`). Where these say nothing of an error's
words, the nearest that they have are used.

* A row's order is its `sequence`: of one key the greatest wins, whenever it comes.
* Rows carry `_sdc_sequence` and, of a versioned table, `_sdc_table_version`, which orders before the sequence.
  Once a version is activated, rows that only older ones had are deleted; which one is active stands in the table
  `_sdc_table_versions`, by `table_name`.
* A record that the API takes and no table can hold goes to `_sdc_rejected`.
* A table's name is made of letters, digits and underscores; what else a stream is called by becomes an underscore.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import msgspec

from relay.dialect import LONGEST_NAME, Pushed, PushRefused, Row
from relay.dialects import transit
from relay.dialects.schemas import Schema, SchemaInvalid, kind_of
from relay.errors import MalformedPayload
from relay.records import WHOLE, decode_json

KIND: Final = "stitch"
MOST_BYTES: Final = 20 * 1024 * 1024
MOST_RECORDS: Final = 20_000
MOST_SEQUENCE: Final = 2**63 - 1
#: Scalars in one record, and characters of a string in its key.
MOST_POINTS: Final = 10_000
MOST_KEY: Final = 1024
SEQUENCE: Final = "_sdc_sequence"
TABLE_VERSION: Final = WHOLE
#: Says which version of a table is the active one.
VERSIONS: Final = "_sdc_table_versions"
JSON: Final = "application/json"
TRANSIT: Final = "application/transit+json"
_OURS: Final = ("_relay_", SEQUENCE, TABLE_VERSION)
_MOST_FAULTS: Final = 10
_encode: Final = msgspec.json.Encoder().encode
_ODD: Final = re.compile(r"[^A-Za-z0-9_]")
_Faults = dict[str, list[str]]


class Refused(PushRefused):
    """A refusal in Stitch's own words.

    Args:
        status: of the answer. body: of the answer; text is sent as text. where: what is wrong, for the log.
    """

    def __init__(self, status: int, body: Mapping[str, Any] | str, where: str) -> None:
        super().__init__(where, status=status)
        self.body = body


# --- push ---------------------------------------------------------------------------------------------


def parse_push(body: bytes, kind: str, client: int) -> list[Pushed]:
    """Records of a push, one `Pushed` a table, in the order in which the tables come.

    Args:
        body: an array of 1 to 20,000 records.
        kind: the request's media type.
        client: whose key it came under; each record must say the same.

    Raises:
        Refused: as the documents say.
    """
    if kind not in (JSON, TRANSIT):
        text = f"Unsupported content-type {kind[:80]}. Please send {JSON} or {TRANSIT}"
        raise Refused(415, _error(text), "content type")
    try:
        data = decode_json(body) if kind == JSON else transit.decode(body)
    except MalformedPayload as error:
        told = {**_error("Malformed json in the body!"), "error": str(error), "input": None}
        raise Refused(400, told, "malformed") from None
    if not isinstance(data, list) or not data:
        raise Refused(400, _error("An array of records is expected"), "no array")
    if len(data) > MOST_RECORDS:
        raise Refused(400, _error(f"The batch contains more than {MOST_RECORDS} records"), "too many records")
    _check_clients(data, client)
    faults = [found for record in data if (found := _faults(record))]
    if faults:
        raise _unprocessable([{"reason": found} for found in faults[:_MOST_FAULTS]])
    parts: dict[str, Pushed] = {}
    for record in data:
        name, key = _table(record["table_name"]), tuple(record["key_names"])
        part = parts.setdefault(name, Pushed(name, key, []))
        if part.key != key:
            raise _unprocessable([{"reason": {"key_names": ["must be the same for all records of a table"]}}])
        part.rows.append(_row(record["data"], record["sequence"], record.get("table_version")))
    return [_with_columns(part) for part in parts.values()]


def _with_columns(part: Pushed) -> Pushed:
    """Rows of a versioned table, which is known by its column."""
    versioned = any(TABLE_VERSION in row.data for row in part.rows)
    return msgspec.structs.replace(part, columns={TABLE_VERSION: "int"}) if versioned else part


def _check_clients(data: list[Any], client: int) -> None:
    said = [record.get("client_id") if isinstance(record, dict) else client for record in data]
    if None in said:
        raise Refused(
            401, {"status": "ERROR", "error": "Not Authenticated.", "errors": None}, "a record without client_id"
        )
    if any(one != said[0] for one in said):
        text = "The batch contains data points for multiple clients. Only client_id {} is allowed"
        raise _unprocessable([{"reason": text.format(client)}])
    if type(said[0]) is not int or said[0] != client:
        raise forbidden()


def _faults(record: Any) -> _Faults:
    if not isinstance(record, dict):
        return {"record": ["a record must be an object"]}
    faults: _Faults = {}
    if not _named(record.get("table_name")):
        faults["table_name"] = ["can't be blank"]
    elif not _tableable(record["table_name"]):
        faults["table_name"] = [f"cannot begin with _sdc_, or have more than {LONGEST_NAME} characters"]
    if record.get("action") != "upsert":
        faults["action"] = ["should be upsert"]
    sequence = record.get("sequence")
    if type(sequence) is not int:
        faults["sequence"] = ["should be an integer", "should be a number"]
    elif not 0 <= sequence <= MOST_SEQUENCE:
        faults["sequence"] = [f"should be from 0 to {MOST_SEQUENCE}"]
    key = record.get("key_names")
    if not _keys(key) or not key:
        faults["key_names"] = ["can't be blank"]
    elif fault := _data_fault(record.get("data"), key):
        faults["data"] = [fault]
    if type(record.get("table_version", 0)) is not int:
        faults["table_version"] = ["should be an integer"]
    return faults


def _data_fault(data: Any, key: list[str]) -> str:
    if not isinstance(data, dict):
        return "data must be an object"
    values = [data.get(name) for name in key]
    if not all(name in data for name in key):
        return "data must include keys"
    if None in values:
        return "keys cannot not be null in data"
    if any(isinstance(value, (dict, list)) for value in values):
        return "keys must be top-level fields in data"
    if any(isinstance(value, str) and len(value) > MOST_KEY for value in values):
        return f"String keys cannot be longer than {MOST_KEY} characters"
    return ""


# --- batch --------------------------------------------------------------------------------------------

_ARGUMENTS: Final = {
    "table_name": (str, "String"),
    "schema": (dict, "JSONObject"),
    "messages": (list, "JSONArray"),
    "key_names": (list, "JSONArray"),
    "table_version": (int, "Integer"),
    "bookmark_names": (list, "JSONArray"),
}
_REQUIRED: Final = ("table_name", "schema", "messages")
_MESSAGE: Final = ("action", "sequence", "data", "time_extracted")


def parse_batch(body: bytes, kind: str) -> list[Pushed]:
    """Rows of a batch's one table and, where it activates a version of it, that.

    Args:
        body: an object with `table_name`, `schema`, `messages` and maybe `key_names`, `table_version`.
        kind: the request's media type.

    Raises:
        Refused: as the documents say; records that do not fit the schema among it.
    """
    if kind != JSON:
        raise Refused(415, f"Content-Type must be {JSON}", "content type")
    try:
        data = decode_json(body)
    except MalformedPayload as error:
        raise Refused(400, {"error": f"Malformed json in the body! {error}"}, "malformed") from None
    _check_batch(data)
    name, version = _table(data["table_name"]), data.get("table_version")
    key = tuple(data.get("key_names") or ())
    try:
        schema = Schema(data["schema"])
    except SchemaInvalid as error:
        raise _invalid(f"Invalid JSON schema: {error}") from None
    rows, active = [], -1
    for at, message in enumerate(data["messages"]):
        if message["action"] == "upsert":
            _check_record(schema, message["data"], key, at)
            rows.append(_row(message["data"], message["sequence"], version))
        else:
            active = max(active, message["sequence"])
    columns = schema.columns | {SEQUENCE: "int"} | ({TABLE_VERSION: "int"} if version is not None else {})
    ends = version if active >= 0 else None
    parts = [Pushed(name, key, rows, columns, active=ends)] if rows or ends is not None else []
    if active >= 0:
        said = Row({"table_name": name, "table_version": version}, active)
        parts.append(Pushed(VERSIONS, ("table_name",), [said], ours=True))
    return parts


def _check_batch(data: Any) -> None:
    if not isinstance(data, dict):
        raise _failed(f"#: expected type: JSONObject, found: {kind_of(data)}")
    _check_names(data, "#", _REQUIRED, _ARGUMENTS)
    for name, value in data.items():
        type_, word = _ARGUMENTS[name]
        if type(value) is not type_ and (value is not None or name in _REQUIRED):
            raise _failed(f"#/{name}: expected type: {word}, found: {kind_of(value)}")
    if not _keys(data.get("key_names") or []):
        raise _failed("#/key_names: expected type: String, found another")
    if not _tableable(data["table_name"]):
        raise _failed(f"#/table_name: cannot be blank, begin with _sdc_, or have over {LONGEST_NAME} characters")
    messages = data["messages"]
    if not 1 <= len(messages) <= MOST_RECORDS:
        raise _failed(f"#/messages: expected 1 to {MOST_RECORDS} items, found: {len(messages)}")
    for at, message in enumerate(messages):
        _check_message(message, f"#/messages/{at}", versioned=data.get("table_version") is not None)


def _check_names(data: dict[str, Any], where: str, required: Iterable[str], known: Container[str]) -> None:
    for name in required:
        if name not in data:
            raise _failed(f"{where}: required key [{name}] not found")
    for name in data:
        if name not in known:
            raise _failed(f"{where}: extraneous key [{name[:80]}] is not permitted")


def _check_message(message: Any, where: str, *, versioned: bool) -> None:
    if not isinstance(message, dict):
        raise _failed(f"{where}: expected type: JSONObject, found: {kind_of(message)}")
    action = message.get("action")
    _check_names(message, where, ("action", "sequence", *(["data"] if action == "upsert" else [])), _MESSAGE)
    if action not in ("upsert", "activate_version"):
        raise _failed(f"{where}/action: expected upsert or activate_version")
    if action == "activate_version" and not versioned:
        raise _failed("#: required key [table_version] not found")
    sequence = message["sequence"]
    if type(sequence) is not int:
        raise _failed(f"{where}/sequence: expected type: Integer, found: {kind_of(sequence)}")
    if not 0 <= sequence <= MOST_SEQUENCE:
        raise _failed(f"#: sequence can not be {'below 0' if sequence < 0 else f'above {MOST_SEQUENCE}'}")
    if action == "upsert" and not isinstance(message["data"], dict):
        raise _failed(f"{where}/data: expected type: JSONObject, found: {kind_of(message['data'])}")


def _check_record(schema: Schema, data: dict[str, Any], key: tuple[str, ...], at: int) -> None:
    for name in key:
        if data.get(name) is None:
            raise _invalid(f"Record is missing key property {name[:80]}")
    if key and (fault := _data_fault(data, list(key))):
        raise _invalid(f"Record {at}: {fault}")
    if fault := schema.fault(data):
        raise _invalid(f"Record {at} did not conform to schema: {fault}")


# --- both ---------------------------------------------------------------------------------------------


def _row(data: dict[str, Any], sequence: int, version: int | None) -> Row:
    reason = _unholdable(data)
    if reason:
        return Row(data, sequence, rejected=reason)
    row = {**data, SEQUENCE: sequence}
    if version is not None:
        row[TABLE_VERSION] = version
    return Row(row, sequence, version or 0)


def _unholdable(data: dict[str, Any]) -> str:
    """Why no table can hold a record; empty where one can."""
    for name in data:
        if not name or name.startswith(_OURS):
            return f"a field cannot be called {name[:80]!r}"
    points = 0
    level: list[Any] = [data]
    while level:
        nested = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in nested if isinstance(value, (dict, list))]
        points += len(nested) - len(level)
    return f"{points} data points, over the limit of {MOST_POINTS}" if points > MOST_POINTS else ""


def _table(name: str) -> str:
    return _ODD.sub("_", name)


def _named(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _tableable(name: str) -> bool:
    return _named(name) and len(name) <= LONGEST_NAME and not name.startswith("_sdc_")


def _keys(key: Any) -> bool:
    return isinstance(key, list) and all(map(_named, key)) and max(Counter(key).values(), default=1) == 1


def _error(message: str) -> dict[str, Any]:
    return {"status": "ERROR", "message": message}


def _unprocessable(errors: list[dict[str, Any]]) -> Refused:
    told = {"status": "ERROR", "error": "Request cannot be processed; see errors.", "errors": errors}
    return Refused(422, told, "a record cannot be processed")


def _failed(what: str) -> Refused:
    return _invalid(f"Request failed validation:{what}")


def _invalid(text: str) -> Refused:
    return Refused(400, {"error": text}, text[:200])


def forbidden() -> Refused:
    """The refusal of records that are another client's."""
    told = {"error": "Access token is not associated with this client."}
    return Refused(403, {"status": "ERROR", "error": "Forbidden", "errors": told}, "another client's records")


# --- answers ------------------------------------------------------------------------------------------


def status(version: str) -> bytes:
    """The answer to `GET /v2/import/status`; status 200."""
    return _encode(
        {"name": "pipeline.gate", "version": version, "revision": "rowhook", "status": "OK", "reason": None}
    )


def accepted() -> bytes:
    """The answer to a push or batch; status 201."""
    return _encode({"status": "OK", "message": "Batch Accepted!"})


def valid() -> bytes:
    """The answer to what would be taken; status 200."""
    return _encode({"status": "OK", "message": "Batch is valid!"})


def worded(error: PushRefused, *, batch: bool) -> Refused:
    """A refusal that is not Stitch's own, as it would have said it."""
    if isinstance(error, Refused):
        return error
    text = ": ".join((str(error), *error.reasons))
    return _invalid(text) if batch else _unprocessable([{"reason": text}])


def refused(status: int, *, batch: bool, size: int = 0, error: Refused | None = None) -> bytes | str:
    """The answer to what is refused: JSON, or text where the documents have text.

    Args:
        status: of the answer.
        batch: it was a batch.
        size: bytes of the body.
        error: why.
    """
    if error is not None:
        return error.body if isinstance(error.body, str) else _encode(error.body)
    if status == 401:  # noqa: PLR2004 - its HTTP name
        told = {"status": "ERROR", "error": "Not Authenticated.", "errors": None}
        return _encode({"message": "Not Authorized"} if batch else told)
    if status == 405:  # noqa: PLR2004
        return "Method not allowed."
    if status == 413:  # noqa: PLR2004
        return _encode(_error(f"Request rejected: request size ({size}s bytes) exceeds the maximum"))
    return _encode(_error({404: "Not Found", 429: "Too many wrong tokens"}.get(status, "Try again later")))
