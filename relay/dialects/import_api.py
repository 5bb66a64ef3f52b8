"""The RJMetrics (CloudBI, Magento BI) Data Import API.

Facts: https://developer.adobe.com/commerce/services/reporting/import-api/ and what the vendor's clients for
Python, Ruby, PHP, JavaScript and Clojure demand of an answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from relay.dialect import Pushed, PushRefused, Row, check_row, check_table
from relay.errors import MalformedPayload
from relay.records import decode_json

KIND: Final = "import_api"
#: Rows in one push, and bytes of its body ("hard 5MB cap").
MOST_POINTS: Final = 100
MOST_BYTES: Final = 5 * 1024 * 1024
#: The JavaScript client takes an answer for text, as it must, only where its type is not spelled in lower case.
CONTENT_TYPE: Final = "Application/json"
_KEYS: Final = "keys"
_encode: Final = msgspec.json.Encoder().encode
_MESSAGES: Final = {
    401: ("the API key opens nothing here", "Double check your API key"),
    404: ("there is nothing at this address", "Double check the URL"),
    405: ("this method is not allowed here", "A push is a POST, the rest is GET"),
    413: ("the body is too large", f"A push has at most {MOST_BYTES} bytes"),
    415: ("the body's encoding is not supported", "Send the body as it is, or compressed with gzip"),
    429: ("too many wrong keys", "Try again in a minute"),
}


class Said(TypedDict):
    """That it went well."""

    code: Annotated[int, Meta(description="The status once more.")]
    message: str


class Service(Said):
    """Who is there."""

    name: str
    version: str


class ImportRefusal(Said):
    """What is wrong."""

    reasons: Annotated[list[str], Meta(min_length=1)]


_Names = Annotated[
    list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, extra_json_schema={"uniqueItems": True})
]


class Point(TypedDict):
    """A row: `keys` names the fields that identify it, all others are its columns."""

    keys: _Names


class KeylessPoint(TypedDict):
    """The same in version 1, where a row without `keys` is a new one."""

    keys: NotRequired[_Names | None]


Points = Annotated[list[Point], Meta(min_length=1, max_length=MOST_POINTS)] | Point
KeylessPoints = Annotated[list[KeylessPoint], Meta(min_length=1, max_length=MOST_POINTS)] | KeylessPoint


def parse(body: bytes, table: str, *, keyless: bool = False) -> Pushed:
    """A push's body as rows.

    Args:
        body: a JSON object, or an array of 1 to 100 of them, each with the names of its key fields in `keys`.
        table: from the URL.
        keyless: version 1, where `keys` may be absent and every row is a new one.

    Raises:
        PushRefused: as the vendor's documents say, 400.
    """
    check_table(table)
    try:
        data = decode_json(body)
    except MalformedPayload as error:
        raise PushRefused("invalid JSON", str(error)) from None
    points = data if isinstance(data, list) else [data]
    if not 1 <= len(points) <= MOST_POINTS:
        raise PushRefused(
            "wrong number of data points", f"a push has 1 to {MOST_POINTS} of them, not {len(points)}"
        )
    keys = {_keys(point, f"data point {at}", keyless=keyless) for at, point in enumerate(points)}
    if len(keys) > 1:
        raise PushRefused("different keys", "all data points of a push must name the same `keys`")
    (key,) = keys
    rows = [Row({name: value for name, value in point.items() if name != _KEYS}) for point in points]
    for at, row in enumerate(rows):
        check_row(row.data, key, f"data point {at}")
    return Pushed(table, key, rows)


def _keys(point: Any, where: str, *, keyless: bool) -> tuple[str, ...]:
    if not isinstance(point, dict):
        raise PushRefused("invalid data point", f"{where} is not a JSON object")
    keys = point.get(_KEYS)
    if keys is None and keyless:
        return ()
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key for key in keys):
        raise PushRefused(
            "missing a required parameter", f"{where}: `keys` must be an array with the names of its key fields"
        )
    if len(set(keys)) != len(keys):
        raise PushRefused("invalid keys", f"{where}: `keys` names a field twice")
    return tuple(keys)


def status(version: str) -> bytes:
    """The answer to `GET /`; status 200."""
    return _encode(Service(code=200, message="ok", name="rowhook", version=version))


def authenticated() -> bytes:
    """The answer to a key that is good; status 200."""
    return _encode(Said(code=200, message="authenticated"))


def created() -> bytes:
    """The answer to a push; status 201."""
    return _encode(Said(code=201, message="created"))


def refused(status: int, message: str = "", reasons: tuple[str, ...] = ()) -> bytes:
    """The answer to what is refused; never empty, and `reasons` always an array, as the clients demand."""
    usual, reason = _MESSAGES.get(status, ("try again later", "The request can be sent again"))
    return _encode(ImportRefusal(code=status, message=message or usual, reasons=list(reasons) or [reason]))
