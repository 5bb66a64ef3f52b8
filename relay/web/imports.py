"""The Import API, served: `/v2/client/…`, `/v1/client/…`, the same under `/sandbox`, and `GET /`."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request

from relay import __version__, cards, pushes
from relay.buffer.registry import Key
from relay.dialect import Pushed, PushRefused
from relay.dialects import import_api
from relay.errors import Unauthenticated
from relay.pushes import Client
from relay.web.reading import read_body
from relay.web.state import state

bp = Blueprint("imports", __name__)
_BASES: Final = ("", "/sandbox")
_VERSIONS: Final = ("v1", "v2")
_CID_DIGITS: Final = 9


def _answer(body: bytes, status: int) -> Response:
    return Response(body, status, content_type=import_api.CONTENT_TYPE)


@bp.get("/")
def status() -> Response:
    """That the service is there; needs no key."""
    return _answer(import_api.status(__version__), 200)


def authenticate(cid: str) -> Response:
    """Whether a key is good; nothing is stored."""
    _key(cid, fresh=True)
    return _answer(import_api.authenticated(), 200)


def push(cid: str, table: str) -> Response:
    """Take rows: 201 once they are durable; in the sandbox once they are found good."""
    sandbox = _sandbox()
    key = _key(cid, fresh=sandbox)
    body = read_body(request.environ, import_api.MOST_BYTES)
    here = state()
    keyless = request.path.removeprefix("/sandbox").startswith("/v1/")
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
    for _version in _VERSIONS:
        _at = f"{_base}/{_version}/client/<cid>"
        bp.add_url_rule(f"{_at}/authenticate", view_func=authenticate, methods=["GET"])
        bp.add_url_rule(f"{_at}/table/<table>/data", view_func=push, methods=["POST"])


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
