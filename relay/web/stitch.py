"""The Stitch Import API, served: `/v2/import/push`, `/batch`, `/validate` and `/status`."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from relay import __version__, cards, pushes
from relay.buffer.registry import Key
from relay.dialect import Pushed, PushRefused
from relay.dialects import import_api, stitch
from relay.errors import Unauthenticated
from relay.pushes import Client
from relay.web.imports import same_key
from relay.web.reading import read_body
from relay.web.state import state

bp = Blueprint("stitch", __name__, url_prefix="/v2/import")


@bp.get("/status")
def status() -> Response:
    """That the service is there; needs no key."""
    return _answer(stitch.status(__version__), 200)


@bp.post("/push")
def push() -> Response:
    """Take records of any tables: 201 once they are durable."""
    key = _key(fresh=False)
    body = _body()
    return _taken(key, body, stitch.parse_push(body, request.mimetype, key.client), batch=False)


@bp.post("/validate")
def validate() -> Response:
    """Whether a push would be taken; nothing is stored."""
    key = _key(fresh=True)
    _allowed(key, stitch.parse_push(_body(), request.mimetype, key.client), batch=False)
    return _answer(stitch.valid(), 200)


@bp.post("/batch")
def batch() -> Response:
    """Take rows of one table that fit a schema: 201 once they are durable."""
    key = _key(fresh=False)
    body = _body()
    return _taken(key, body, stitch.parse_batch(body, request.mimetype), batch=True)


def _answer(body: bytes, code: int) -> Response:
    return Response(body, code, content_type=import_api.CONTENT_TYPE)


def _body() -> bytes:
    return read_body(request.environ, stitch.MOST_BYTES)


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
