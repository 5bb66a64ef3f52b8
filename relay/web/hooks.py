"""`/hooks/<source>`: deliveries, handshakes and probes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypedDict

import msgspec
from flask import Blueprint, Response, request
from msgspec import Meta

from relay import configured, intake, tracing
from relay.buffer import accept
from relay.configured import Source
from relay.errors import Unauthenticated
from relay.records import Request
from relay.telemetry import logger
from relay.web.declared import FORM, JSON, TEXT, Answer, Operation, declares, later, told
from relay.web.reading import read_body
from relay.web.requests import spent_ms
from relay.web.state import state

bp = Blueprint("hooks", __name__)
log = logger("hooks")
_encode = msgspec.json.Encoder().encode
_TAG: Final = "Webhooks"
#: Ids and faults of one delivery that its line names.
_MOST_NAMED: Final = 20
_Source = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$", description="The source's name.", examples=["shop"])]


class Taken(TypedDict):
    """What became of a delivery."""

    id: Annotated[str | None, Meta(description="The event's, or the first one's; null for a batch of none.")]
    rows: Annotated[int, Meta(ge=0, description="Rows that it became; none where it was a duplicate.")]
    duplicate: Annotated[bool, Meta(description="All of it was taken before.")]


class Probe(TypedDict):
    """Who is there."""

    source: str
    kind: str
    send: str


class Refusal(TypedDict):
    """Why it was not taken; it helps nobody to forge."""

    error: str


_REFUSALS: Final[Mapping[int, Answer]] = {
    400: told("The body did not come whole, or its chunks cannot be read.", Refusal),
    404: told("There is no such source.", Refusal),
    413: told("The body is too large, as it is or inflated.", Refusal),
    503: later("It cannot be stored now, or the source has no secret yet. Nothing was stored.", Refusal),
}


@declares(
    Operation(
        _TAG,
        {
            **_REFUSALS,
            200: Answer("What the vendor demands instead of a 202, or for its challenge.", {TEXT: str, JSON: Any}),
            202: told("It is durable.", Taken),
            401: told("It could not be authenticated.", Refusal),
            415: told("The body's type or encoding is not supported.", Refusal),
        },
        takes={JSON: Any, FORM: dict[str, Any]},
        needs_body=False,
    )
)
@bp.post("/hooks/<name>")
def deliver(name: _Source) -> Response:
    """Take one delivery: 202 once it is durable.

    Headers, query and body are those that the source's vendor sends and signs.
    """
    source = configured.find(state().sources, name)
    incoming = _request(source)
    reply = intake.handshake(source, incoming)
    if reply is not None:
        return Response(reply.body, reply.status, content_type=reply.content_type)
    return _answer(source, take(source, incoming))


@declares(
    Operation(
        _TAG,
        {
            **_REFUSALS,
            200: Answer("Somebody is there, or the vendor's challenge answered.", {JSON: Probe, TEXT: str}),
            403: Answer("A challenge that is not our vendor's.", {TEXT: str}),
        },
    )
)
@bp.get("/hooks/<name>")
def probe(name: _Source) -> Response:
    """A handshake, or a person or vendor that looks whether somebody is there (HEAD too)."""
    source = configured.find(state().sources, name)
    reply = intake.handshake(source, _request(source))
    if reply is not None:
        return Response(reply.body, reply.status, content_type=reply.content_type)
    return Response(_encode(Probe(source=name, kind=source.kind, send="POST")), content_type=JSON)


def take(source: Source, incoming: Request, *, ours: bool = False) -> Taken:
    """Take one delivery; it is durable then.

    Args:
        source: whose it is.
        incoming: as it came.
        ours: it is a sample, which says nothing of the secret that the vendor has.

    Raises:
        IntakeError: it is refused.
        BufferUnavailable: it cannot be stored now.
    """
    here, now = state(), time.time_ns()
    try:
        with here.codec() as codec:
            accepted = intake.webhook(source, incoming, now, codec, limit=here.config.settings.max_body_bytes)
    except Unauthenticated as refusal:
        here.refusals.took(source, incoming, now, refusal.reason)
        raise
    if not accepted.delivery.offers:  # a batch of nothing
        return Taken(id=None, rows=0, duplicate=False)
    with tracing.span("put", events=len(accepted.delivery.offers)):
        taken = here.front.put(accepted.delivery)
    here.unmapped.took(source, accepted, taken)
    if not ours:
        here.fitted.took(source.name, accepted.secret, len(source.secrets))
    duplicate = all(t.duplicate for t in taken)
    if not duplicate and any(offer.waits for offer in accepted.delivery.offers):
        here.fetches.ring(source.name)
    if accepted.faults or logging.getLogger().isEnabledFor(logging.DEBUG) or tracing.on():
        _tell(source.name, accepted, taken)
    return Taken(id=taken[0].arrival, rows=0 if duplicate else accepted.rows, duplicate=duplicate)


def _tell(source: str, accepted: intake.Accepted, taken: list[accept.Taken]) -> None:
    """What became of a delivery, in one line: a warning where something of it is quarantined."""
    outcome = "quarantined" if accepted.faults else "accepted"
    if all(one.duplicate for one in taken):
        outcome = "duplicate"
    tracing.note(source=source, outcome=outcome, events=len(taken), rows=accepted.rows)
    log.log(
        logging.WARNING if accepted.faults else logging.DEBUG,
        "delivery_taken",
        source=source,
        outcome=outcome,
        event_ids=[one.arrival for one in taken[:_MOST_NAMED]],
        delivery_ids=[event.id[:200] for event in accepted.events[:_MOST_NAMED] if event.id],
        events=len(taken),
        rows=accepted.rows,
        ms=spent_ms(request.environ),
        faults=accepted.faults[:_MOST_NAMED],
    )


def _answer(source: Source, body: Taken) -> Response:
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
