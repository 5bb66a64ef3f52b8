"""The Stitch Import API, served: `/v2/import/push`, `/batch`, `/validate` and `/status`.

`/push` alone is where RJMetrics Pipeline, as Stitch was first called, had the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from flask import Blueprint, Response, request
from msgspec import Meta

from relay import __version__, cards, pushes
from relay.buffer.registry import Key
from relay.dialect import LONGEST_NAME, Pushed, PushRefused
from relay.dialects import import_api, stitch
from relay.errors import Unauthenticated, UnsupportedMedia
from relay.pushes import Client
from relay.web.declared import JSON, TEXT, Answer, Operation, declares, later, told
from relay.web.imports import same_key
from relay.web.reading import read_plain
from relay.web.state import state

bp = Blueprint("stitch", __name__)
_AT: Final = "/v2/import"
_TAG: Final = "Stitch"

_Sequence = Annotated[int, Meta(ge=0, le=stitch.MOST_SEQUENCE, description="Orders the changes of a row.")]
_Names = list[Annotated[str, Meta(min_length=1)]]
_Table = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]


class StitchRecord(TypedDict):
    """A row of a table."""

    client_id: int
    table_name: _Table
    sequence: _Sequence
    action: Literal["upsert"]
    key_names: Annotated[_Names, Meta(min_length=1)]
    data: dict[str, Any]
    table_version: NotRequired[int]


class StitchMessage(TypedDict):
    """A row, or that a version of the table is the active one from now on."""

    action: Literal["upsert", "activate_version"]
    sequence: _Sequence
    data: NotRequired[dict[str, Any]]
    time_extracted: NotRequired[Any]


class StitchBatch(TypedDict):
    """Rows of one table that fit a schema."""

    table_name: _Table
    schema: Annotated[dict[str, Any], Meta(description="A JSON schema, of draft 4, 6 or 7.")]
    messages: Annotated[list[StitchMessage], Meta(min_length=1, max_length=stitch.MOST_RECORDS)]
    key_names: NotRequired[_Names | None]
    table_version: NotRequired[int | None]
    bookmark_names: NotRequired[list[Any] | None]


class StitchStatus(TypedDict):
    """Who is there."""

    name: str
    version: str
    revision: str
    status: str
    reason: str | None


class StitchSaid(TypedDict):
    """That it went well."""

    status: Literal["OK"]
    message: str


class StitchRefusal(TypedDict, total=False):
    """What is wrong; where it is said depends on what it is."""

    status: Literal["ERROR"]
    message: str
    error: str
    errors: Any
    input: None


_Records = Annotated[list[StitchRecord], Meta(min_length=1, max_length=stitch.MOST_RECORDS)]
_REFUSALS: Final[Mapping[int, Answer]] = {
    400: told("It cannot be read, or does not fit.", StitchRefusal),
    401: told("The token opens nothing here, or a record says no client.", StitchRefusal),
    413: told("The body is larger than 20 MB.", StitchRefusal),
    415: Answer("Its type or encoding is not supported.", {JSON: StitchRefusal, TEXT: str}),
    429: told("Too many wrong tokens came from there.", StitchRefusal),
    503: later("It cannot be answered or stored now.", StitchRefusal),
}
_REFUSED_PUSH: Final[Mapping[int, Answer]] = {
    **_REFUSALS,
    403: told("A record is another client's.", StitchRefusal),
    422: told("A record cannot be taken.", StitchRefusal),
}
_TAKEN: Final[Mapping[int, Answer]] = {201: told("All of it is durable.", StitchSaid)}
_PUSH: Final[Mapping[str, Any]] = {stitch.JSON: _Records, stitch.TRANSIT: list[Any]}


@declares(Operation(_TAG, {200: told("It is there.", StitchStatus)}))
@bp.get(f"{_AT}/status")
def status() -> Response:
    """That the service is there; needs no key."""
    return _answer(stitch.status(__version__), 200)


@declares(Operation(_TAG, {**_REFUSED_PUSH, **_TAKEN}, "bearer", _PUSH))
@bp.post("/push")
@bp.post(f"{_AT}/push")
def push() -> Response:
    """Take records of any tables: 201 once they are durable."""
    key = _key(fresh=False)
    body = _body()
    return _taken(key, body, stitch.parse_push(body, request.mimetype, key.client), batch=False)


@declares(Operation(_TAG, {**_REFUSED_PUSH, 200: told("It would be taken.", StitchSaid)}, "bearer", _PUSH))
@bp.post(f"{_AT}/validate")
def validate() -> Response:
    """Whether a push would be taken; nothing is stored."""
    key = _key(fresh=True)
    _allowed(key, stitch.parse_push(_body(), request.mimetype, key.client), batch=False)
    return _answer(stitch.valid(), 200)


@declares(Operation(_TAG, {**_REFUSALS, **_TAKEN}, "bearer", {JSON: StitchBatch}))
@bp.post(f"{_AT}/batch")
def batch() -> Response:
    """Take rows of one table that fit a schema: 201 once they are durable."""
    key = _key(fresh=False)
    body = _body()
    return _taken(key, body, stitch.parse_batch(body, request.mimetype), batch=True)


def _answer(body: bytes, code: int) -> Response:
    return Response(body, code, content_type=import_api.CONTENT_TYPE)


def _body() -> bytes:
    try:
        return read_plain(request.environ, stitch.MOST_BYTES)
    except UnsupportedMedia as error:
        text = "Unsupported content-encoding. Please send the body as it is, or compressed with gzip"
        raise stitch.Refused(415, {"status": "ERROR", "message": text}, str(error)) from None


def _key(*, fresh: bool) -> Key:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.rstrip(":").lower() != "bearer":
        raise Unauthenticated("there is no bearer token", reason="key_missing")
    return state().door.open(token.strip(), "import", None, state().caller(), fresh=fresh)


def _allowed(key: Key, parts: list[Pushed], *, batch: bool) -> Client:
    client = state().clients.of(key.client)
    for part in parts:
        if key.tables and not part.ours and part.table not in key.tables:
            raise Unauthenticated("the API key may not write this table", reason="key_refused")
        try:
            client.table(part.table)
        except PushRefused as error:
            raise stitch.worded(error, batch=batch) from None
    return client


def _taken(key: Key, body: bytes, parts: list[Pushed], *, batch: bool) -> Response:
    here = state()
    client = _allowed(key, parts, batch=batch)
    try:
        for part in parts:
            same_key(client, part)
    except PushRefused as error:
        raise stitch.worded(error, batch=batch) from None
    with here.codec() as codec:
        delivery = pushes.delivery(
            client, parts, key.id, codec, kind=stitch.KIND, cards_in=cards.suspected(body), now=time.time_ns()
        )
    here.front.put(delivery)
    return _answer(stitch.accepted(), 201)
