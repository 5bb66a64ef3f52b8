"""Events of the buffer and of the archive, found by id, type, source, time, state and text; and one of them."""

from __future__ import annotations

import base64
import time
from typing import Any, Final

import msgspec
from flask import Response, request, url_for
from werkzeug.exceptions import NotFound

from relay.buffer import attempts, finding
from relay.buffer.failures import Failures
from relay.buffer.finding import Budget, Found, Sought, is_arrival
from relay.buffer.whereabouts import Place, whereabouts
from relay.dispatch import EVENT, SEARCH
from relay.errors import BufferUnavailable
from relay.records import Codec, Meta, Packed, Record, records_of
from relay.web.console import looking
from relay.web.console.gate import back, bp, here, page
from relay.web.console.looking import NotHere
from relay.web.console.words import SHOWN, body
from relay.web.state import state
from relay.words import sentence

#: Of one search in the buffer: events that are looked at and shown, bytes of bodies, and seconds.
_LOOKED_AT: Final = 3_000
_SHOWN: Final = 100
_BYTES: Final = 32 * 1024 * 1024
_SECONDS: Final = 0.5
_ROWS: Final = 50
_LONGEST: Final = 200
_SPANS: Final = {
    "15 minutes": 900,
    "1 hour": 3600,
    "6 hours": 21_600,
    "1 day": 86_400,
    "7 days": 604_800,
    "ever": 0,
}
_PLACES: Final = ("buffer", "archive")
#: Why a search ended early.
_STOPPED: Final = {
    "shown": "so many are shown at once",
    "looked": "so many are looked at at once",
    "bytes": "the bodies were large",
    "time": "its time was over",
}


class Asked(msgspec.Struct, frozen=True):
    """A search, as the form has it; empty fields fit all."""

    place: str
    id: str
    source: str
    type: str
    since: str
    state: str
    text: str
    before: str

    def sought(self) -> Sought:
        """The same for whoever searches; an event's own number is found however old it is."""
        since = "" if is_arrival(self.id) else since_of(self.since)
        return Sought(self.source, self.type, self.id, self.state, self.text, since, self.before)

    def fields(self) -> dict[str, str]:
        """The same as the query has it."""
        found = {"in" if name == "place" else name: value for name, value in msgspec.structs.asdict(self).items()}
        return {name: value for name, value in found.items() if value}


def since_of(span: str) -> str:
    """The least arrival number of a span that ends now."""
    seconds = _SPANS.get(span, 0)
    return f"{time.time_ns() // 1000 - seconds * 1_000_000:016d}" if seconds else ""


def _asked() -> Asked:
    given = {name: request.args.get(name, "").strip() for name in ("id", "source", "type", "text")}
    chosen = {name: request.args.get(name, "") for name in ("in", "since", "state", "before")}
    at = chosen["state"] if chosen["state"] in finding.STATES else ""
    # What was delivered is nowhere else.
    place = "archive" if chosen["in"] == "archive" or at == finding.DELIVERED else "buffer"
    goes_on = is_arrival if place == "archive" else finding.place_of
    return Asked(
        place,
        **given,
        since=chosen["since"] if chosen["since"] in _SPANS else "1 day",
        state=at,
        before=chosen["before"] if goes_on(chosen["before"]) else "",
    )


@bp.get("/events/")
def events_page() -> Any:
    """Search."""
    asked = _asked()
    if max(map(len, asked.fields().values())) > _LONGEST:
        return _results(asked, Found([]), wrong=f"Look for {_LONGEST} characters at most.")
    if asked.place == "buffer":
        # Where each event fits, no more need be looked at than are shown.
        most = _LOOKED_AT if asked.id or asked.type or asked.text else _SHOWN + 1
        budget = Budget(_SHOWN, _BYTES, _SECONDS)
        return _results(asked, finding.search(here().client, asked.sought(), budget, most))
    if state().config.settings.archive_days == 0:
        return _results(asked, Found([]), wrong="There is no archive (archive_days: 0).")
    try:
        return _archived(asked, request.args.get("look", ""))
    except (NotHere, BufferUnavailable) as error:
        return _results(asked, Found([]), wrong=sentence(str(error)))


def _archived(asked: Asked, token: str) -> Any:
    """A search that somebody else does: begun, or what came of it."""
    if not token:
        token = looking.ask(SEARCH, msgspec.structs.asdict(asked.sought()))
        return back("events_page", **asked.fields(), look=token)
    look = looking.found(SEARCH, token)
    if look is None:
        return _results(asked, Found([]), wrong="What was found is kept for a quarter of an hour: search again.")
    if not look.over:
        return looking.not_yet(look, "The archive is searched")
    if look.why:
        return _results(asked, Found([]), wrong=sentence(look.why))
    return _results(asked, msgspec.convert(look.value, Found))


def _results(asked: Asked, found: Found, wrong: str = "") -> Response:
    on, first = (msgspec.structs.replace(asked, before=at) for at in (found.at, ""))
    return page(
        "events.html", asked=asked, found=found, wrong=wrong, spans=list(_SPANS), states=finding.STATES,
        sources=sorted(state().sources), why=_STOPPED.get(found.stopped, ""), longest=_LONGEST,
        on=_url(on) if found.at else "", on_ms=_ms(found.at), before_ms=_ms(asked.before), beginning=_url(first),
    )  # fmt: skip


def _ms(at: str) -> int:
    """When the event was due or came, at which a search ended; 0 where it did not."""
    place = finding.place_of(at)
    return place[0] if place is not None else int(at or 0) // 1000


def _url(asked: Asked) -> str:
    fields: dict[str, Any] = dict(asked.fields())
    return url_for("console.events_page", **fields)


class Shown(msgspec.Struct, frozen=True):
    """One event as a page shows it.

    Args:
        size: bytes of its whole body. records: how many it became, of which some are shown. place: where it is.
    """

    packed: Packed
    size: int
    records: int
    place: str


@bp.get("/events/<arrival>")
def event(arrival: str) -> Any:
    """One event: headers, body as it is kept, how it was verified, its rows, and what was tried with them."""
    if not is_arrival(arrival):
        raise NotFound("That is no event's number.")
    packed = Failures(here().client).event(arrival)
    if packed is not None:
        records = 0 if packed.meta.fault else len(records_of(packed))
        at = "the buffer: something of it waits, failed, or is to be archived"
        return _shown(arrival, Shown(packed, len(packed.raw), records, at))
    if state().config.settings.archive_days == 0:
        raise NotFound("It is not in the buffer, and there is no archive (archive_days: 0).")
    token = request.args.get("look", "")
    try:
        look = looking.found(EVENT, token) if token else None
        if look is None or look.asked != {"arrival": arrival}:
            return back("event", arrival=arrival, look=looking.ask(EVENT, {"arrival": arrival}))
    except NotHere as error:
        raise NotFound(f"It is not in the buffer. {error}") from None
    if not look.over:
        return looking.not_yet(look, f"The archive is asked for event {arrival}")
    if look.why or look.value is None:
        raise NotFound(sentence(look.why or "it is neither in the buffer nor in the archive"))
    kept = Codec().unpack(base64.b64decode(look.value["blob"]))
    return _shown(arrival, Shown(kept, look.value["size"], look.value["records"], "the archive"))


def _shown(arrival: str, found: Shown) -> Response:
    meta, client = found.packed.meta, here().client
    text, cut = body(found.packed.raw)
    records = [] if meta.fault else records_of(found.packed)[:_ROWS]
    places = whereabouts(client, arrival, meta, records)
    tried = {name: attempts.of_event(client, name, arrival) for name in meta.to if not meta.fault}
    source = state().sources.get(meta.source)
    return page(
        "event.html", arrival=arrival, meta=meta, place=found.place, body=text, cut=cut, size=found.size,
        records=[(record, _row(record), at) for record, at in zip(records, places, strict=True)],
        count=found.records, states=finding.states(client, [(arrival, meta.source)])[arrival],
        tried={name: [(a, a.held(arrival)) for a in found] for name, found in tried.items() if found},
        settled=bool(records) and _settled(places), scheme=_scheme(meta), of=len(source.secrets) if source else 0,
    )  # fmt: skip


def _settled(places: list[list[Place]]) -> bool:
    return all(place.state == finding.DELIVERED for record in places for place in record)


def _scheme(meta: Meta) -> str:
    """What proves a delivery of its source, as that is configured now."""
    source = state().sources.get(meta.source)
    return source.verifier.scheme if source is not None else ""


def _row(record: Record) -> str:
    """A record's values as JSON, numbers as they came."""
    value = record.data if record.members is None else record.members
    return msgspec.json.format(_encode(value), indent=2)[:SHOWN].decode("utf-8", "replace")


_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
