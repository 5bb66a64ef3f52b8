"""`/hooks/<source>`: deliveries, handshakes and probes."""

from __future__ import annotations

import time

import msgspec
from flask import Blueprint, Response, request

from relay import intake
from relay.errors import Unauthenticated
from relay.intake import Source
from relay.records import Request
from relay.telemetry import logger
from relay.web.reading import read_body
from relay.web.state import state

bp = Blueprint("hooks", __name__)
log = logger("hooks")
_encode = msgspec.json.Encoder().encode


@bp.post("/hooks/<name>")
def deliver(name: str) -> Response:
    """Take one delivery: 202 once it is durable."""
    here = state()
    source = intake.find(here.sources, name)
    incoming = _request(source)
    reply = intake.handshake(source, incoming)
    if reply is not None:
        return Response(reply.body, reply.status, content_type=reply.content_type)
    limit = here.config.settings.max_body_bytes
    now = time.time_ns()
    try:
        with here.codec() as codec:
            accepted = intake.webhook(source, incoming, now, codec, limit=limit)
    except Unauthenticated as refusal:
        here.refusals.took(source, incoming, now, refusal.reason)
        raise
    if not accepted.delivery.offers:  # a batch of nothing
        return _answer(source, {"id": None, "rows": 0, "duplicate": False})
    taken = here.front.put(accepted.delivery)
    duplicate = all(t.duplicate for t in taken)
    for fault in accepted.faults:
        log.warning("event_quarantined", source=name, event_id=taken[0].arrival, fault=fault)
    return _answer(
        source, {"id": taken[0].arrival, "rows": 0 if duplicate else accepted.rows, "duplicate": duplicate}
    )


@bp.get("/hooks/<name>")
def probe(name: str) -> Response:
    """A handshake, or a person or vendor that looks whether somebody is there (HEAD too)."""
    source = intake.find(state().sources, name)
    reply = intake.handshake(source, _request(source))
    if reply is not None:
        return Response(reply.body, reply.status, content_type=reply.content_type)
    return Response(
        _encode({"source": name, "kind": source.kind, "send": "POST"}), content_type="application/json"
    )


def _answer(source: Source, body: dict[str, object]) -> Response:
    special = source.vendor.reply
    if special is not None:
        return Response(special.body, special.status, content_type=special.content_type)
    return Response(_encode(body), 202, content_type="application/json")


def _request(source: Source) -> Request:
    """The request as the vendor signed it: raw bytes, lower-case header names, the address it was given."""
    environ = request.environ
    headers = {
        key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")
    }
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    query = environ.get("QUERY_STRING", "")
    url = source.public_url
    if not url:
        url = f"{environ['wsgi.url_scheme']}://{environ.get('HTTP_HOST', '')}{environ['PATH_INFO']}"
    return Request(
        request.method,
        f"{url}?{query}" if query else url,
        headers,
        read_body(environ, state().config.settings.max_body_bytes),
        request.args if query else {},
    )
