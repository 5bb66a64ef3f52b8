"""Events: what is in the buffer and in the archive, found by id, type, source and time; one of them, opened."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from flask import Response, request
from werkzeug.exceptions import NotFound

from relay.buffer import keys
from relay.buffer.failures import Failures
from relay.errors import BufferUnavailable
from relay.records import Codec, Meta, Packed, Record, records_of
from relay.web.console import archive
from relay.web.console.archive import NotHere
from relay.web.console.gate import bp, here, page
from relay.web.console.words import SHOWN, body
from relay.web.state import state
from relay.words import sentence

#: Events that are looked through in the buffer, and shown of a search.
_LOOKED_AT: Final = 3_000
_SHOWN: Final = 100
_ROWS: Final = 50
_SPANS: Final = {
    "15 minutes": 900,
    "1 hour": 3600,
    "6 hours": 21_600,
    "1 day": 86_400,
    "7 days": 604_800,
    "ever": 0,
}
_ARRIVAL_DIGITS: Final = 16


class Asked(msgspec.Struct, frozen=True):
    """What is looked for; empty fields fit all."""

    place: str
    id: str
    source: str
    type: str
    since: str

    def arrival(self) -> str:
        """The least arrival number that is meant."""
        span = _SPANS[self.since]
        return f"{time.time_ns() // 1000 - span * 1_000_000:016d}" if span else ""

    def fits(self, arrival: str, meta: Meta, since: str) -> bool:
        """Whether an event is meant."""
        return (
            arrival >= since
            and self.id in {"", arrival, meta.delivery_id}
            and self.source in {"", meta.source}
            and self.type in {"", meta.type}
        )


@bp.get("/events/")
def events_page() -> Response:
    """Search."""
    given = request.args
    since = given.get("since", "1 day")
    asked = Asked(
        "archive" if given.get("in") == "archive" else "buffer",
        given.get("id", "").strip(),
        given.get("source", ""),
        given.get("type", "").strip(),
        since if since in _SPANS else "1 day",
    )
    wrong = ""
    found: list[tuple[str, Meta]] = []
    more = False
    try:
        found, more = _archived(asked) if asked.place == "archive" else _buffered(asked)
    except (NotHere, BufferUnavailable) as error:
        wrong = sentence(str(error))
    return page(
        "events.html", asked=asked, found=found, more=more, wrong=wrong, spans=list(_SPANS), sources=_names()
    )


def _names() -> list[str]:
    return sorted(state().sources)


def _buffered(asked: Asked) -> tuple[list[tuple[str, Meta]], bool]:
    """The newest that fit, of those that are looked through."""
    codec, since = Codec(), asked.arrival()
    found, looked = [], 0
    if _is_arrival(asked.id):
        packed = Failures(here().client).event(asked.id)
        return ([(asked.id, packed.meta)] if packed is not None else []), False
    for arrival, blob in _every():
        looked += 1
        meta = codec.unpack(blob).meta
        if asked.fits(arrival, meta, since):
            found.append((arrival, meta))
        if looked >= _LOOKED_AT:
            break
    found.sort(key=lambda pair: pair[0], reverse=True)
    return found[:_SHOWN], len(found) > _SHOWN or looked >= _LOOKED_AT


def _every() -> Iterable[tuple[str, bytes]]:
    raw: Any = here().client.hscan_iter(keys.EVENTS, count=200)
    return ((arrival.decode(), blob) for arrival, blob in raw)


def _archived(asked: Asked) -> tuple[list[tuple[str, Meta]], bool]:
    """The oldest since then that fit."""
    wanted = {"source": asked.source, "type": asked.type, "since": asked.arrival()}
    wanted["arrival" if _is_arrival(asked.id) else "delivery_id"] = asked.id
    codec = Codec()
    read = archive.find(state().config, {k: v for k, v in wanted.items() if v}, _SHOWN + 1)
    found = [(arrival, codec.unpack(blob).meta) for arrival, blob in read]
    return found[:_SHOWN], len(found) > _SHOWN


@bp.get("/events/<arrival>")
def event(arrival: str) -> Response:
    """One event: headers, body as it is kept, and the rows that it became."""
    packed, place = _packed(arrival)
    text, cut = body(packed.raw)
    records = [] if packed.meta.fault else records_of(packed)
    return page(
        "event.html", arrival=arrival, meta=packed.meta, place=place, body=text, cut=cut, size=len(packed.raw),
        records=[(record, _row(record)) for record in records[:_ROWS]],
    )  # fmt: skip


def _packed(arrival: str) -> tuple[Packed, str]:
    if not _is_arrival(arrival):
        raise NotFound("That is no event's number.")
    packed = Failures(here().client).event(arrival)
    if packed is not None:
        return packed, "the buffer: something of it waits, or failed"
    try:
        for _, blob in archive.find(state().config, {"arrival": arrival}, 1):
            return Codec().unpack(blob), "the archive"
    except NotHere as error:
        raise NotFound(f"It is not in the buffer. {error}") from None
    raise NotFound("It is neither in the buffer nor in the archive.")


def _is_arrival(text: str) -> bool:
    return len(text) == _ARRIVAL_DIGITS and text.isascii() and text.isdigit()


def _row(record: Record) -> str:
    """A record's values as JSON, numbers as they came."""
    value = record.data if record.members is None else record.members
    return msgspec.json.format(_encode(value), indent=2)[:SHOWN].decode("utf-8", "replace")


_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
