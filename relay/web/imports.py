"""The Import API, served: `/v2/client/…`, `/v1/client/…`, the same under `/sandbox`, and `GET /`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from flask import Blueprint, Response, request
from msgspec import Meta

from relay import __version__, cards, pushes
from relay.buffer.registry import Key
from relay.dialect import LONGEST_NAME, Pushed, PushRefused
from relay.dialects import import_api
from relay.errors import Unauthenticated
from relay.pushes import Client
from relay.web.declared import JSON, Answer, ClientId, Operation, declares, later, told
from relay.web.reading import read_plain
from relay.web.state import state

bp = Blueprint("imports", __name__)
_BASES: Final = ("", "/sandbox")
_CID_DIGITS: Final = 9
_TAG: Final = "Import API"
_TableName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_]+$", max_length=LONGEST_NAME, description="The table.", examples=["kiosks"]),
]
_KEY_REFUSALS: Final[Mapping[int, Answer]] = {
    400: told("Something of it is wrong.", import_api.ImportRefusal),
    401: told("The API key opens nothing here.", import_api.ImportRefusal),
    404: told("There is nothing at this address.", import_api.ImportRefusal),
    429: told("Too many wrong keys came from there.", import_api.ImportRefusal),
    503: later("It cannot be answered or stored now.", import_api.ImportRefusal),
}
_PUSHED: Final[Mapping[int, Answer]] = {
    **_KEY_REFUSALS,
    201: told("All rows are durable; in the sandbox, all are good.", import_api.Said),
    413: told("The body is larger than 5 MB.", import_api.ImportRefusal),
    415: told("The body is compressed otherwise than with gzip, or broken.", import_api.ImportRefusal),
}


def _push(points: Any) -> Operation:
    return Operation(_TAG, _PUSHED, "importKey", {JSON: points})


def _answer(body: bytes, status: int) -> Response:
    return Response(body, status, content_type=import_api.CONTENT_TYPE)


@declares(Operation(_TAG, {200: told("It is there.", import_api.Service)}))
@bp.get("/")
def status() -> Response:
    """That the service is there; needs no key."""
    return _answer(import_api.status(__version__), 200)


@declares(Operation(_TAG, {200: told("The key is good.", import_api.Said), **_KEY_REFUSALS}, "importKey"))
def authenticate(cid: ClientId) -> Response:
    """Whether a key is good; nothing is stored."""
    _key(cid, fresh=True)
    return _answer(import_api.authenticated(), 200)


@declares(_push(import_api.Points))
def push(cid: ClientId, table: _TableName) -> Response:
    """Take rows: 201 once they are durable; in the sandbox once they are found good."""
    return _taken(cid, table, keyless=False)


@declares(_push(import_api.KeylessPoints))
def push_keyless(cid: ClientId, table: _TableName) -> Response:
    """Take rows, as version 1 had it: those without `keys` are new ones."""
    return _taken(cid, table, keyless=True)


def _taken(cid: str, table: str, *, keyless: bool) -> Response:
    sandbox = _sandbox()
    key = _key(cid, fresh=sandbox)
    body = read_plain(request.environ, import_api.MOST_BYTES)
    here = state()
    part = import_api.parse(body, table, keyless=keyless)
    if key.tables and table not in key.tables:
        raise Unauthenticated("the API key may not write this table", reason="key_refused")
    client = here.clients.of(key.client)
    client.table(part.table)
    if sandbox:
        return _answer(import_api.created(), 201)
    same_key(client, part)
    with here.codec() as codec:
        delivery = pushes.delivery(
            client, [part], key.id, codec, kind=import_api.KIND, cards_in=cards.suspected(body)
        )
    here.front.put(delivery)
    return _answer(import_api.created(), 201)


for _base in _BASES:
    for _version, _push_view in (("v1", push_keyless), ("v2", push)):
        _at = f"{_base}/{_version}/client/<cid>"
        bp.add_url_rule(f"{_at}/authenticate", view_func=authenticate, methods=["GET"])
        bp.add_url_rule(f"{_at}/table/<table>/data", view_func=_push_view, methods=["POST"])


def _sandbox() -> bool:
    return request.path.startswith("/sandbox/") or request.host.startswith("sandbox-")


def _key(cid: str, *, fresh: bool) -> Key:
    if not (cid.isascii() and cid.isdigit() and 0 < len(cid) <= _CID_DIGITS) or int(cid) < 1:
        raise PushRefused("invalid client id", "a client id is a number from 1")
    given = request.args.get("apikey", "")
    return state().door.open(given, "import", int(cid), state().caller(), fresh=fresh)


def same_key(client: Client, part: Pushed) -> None:
    """A table's rows have one key; another would make two rows of one.

    Raises:
        PushRefused: its rows are known by another.
    """
    key = part.key or (pushes.ROW_ID,)
    known = state().clients.key_of(client.table(part.table), client.number, key)
    if known != key:
        raise PushRefused(
            "different keys",
            f"the rows of {part.table!r} are known by {', '.join(known)}, not by {', '.join(key)}",
        )
