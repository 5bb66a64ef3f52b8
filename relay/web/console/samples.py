"""A sample of a vendor's delivery, sent from its source's page: signed with its secret, taken as any other is."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final

import msgspec
from flask import Response, request
from werkzeug.exceptions import BadRequest, NotFound

from relay import intake
from relay.buffer import keys
from relay.configured import Source, signed_sample
from relay.errors import IntakeError
from relay.records import Request
from relay.web import hooks
from relay.web.console.gate import acted, back, bp, here, page
from relay.web.console.sources import url_of
from relay.web.state import state
from relay.words import plural, sentence

#: Each sample is of this object: another one of its type writes the same rows again.
_NUMBER: Final = 0


class Promise(msgspec.Struct):
    """What a sample would become: rows by table, or why it becomes none."""

    rows: Counter[str]
    fault: str = ""
    fetched: bool = False


@bp.post("/sources/<name>/sample")
def send_sample(name: str) -> Any:
    """Say what it would become and ask whether it is meant; then send it."""
    source = state().sources.get(name)
    if source is None:
        raise NotFound(f"No source {name[:64]} is configured.")
    type_ = request.form.get("type", "")
    if type_ not in source.vendor.samples:
        raise BadRequest(f"Kind {source.kind} has no sample {type_[:80]!r}.")
    signed = signed_sample(source, type_, url_of(name), _NUMBER, time.time_ns())
    if request.form.get("sure") != "yes":
        return _asked(source, type_, _promise(source, signed))
    try:
        taken = hooks.take(source, signed, ours=True)
    except IntakeError as error:
        raise BadRequest(sentence(f"the sample was refused: {error}")) from None
    rows, id_ = taken["rows"], taken["id"]
    said = "It was taken before, as a duplicate." if taken["duplicate"] else f"It became {plural(rows, 'row')}."
    acted("sample", f"A sample of {type_} was sent. {said}", source=name, type=type_, event_id=id_, rows=rows)
    # Of a type without rows nothing is kept; nor, without an archive, what is delivered already.
    kept = id_ is not None and (source.archive or here().client.hexists(keys.EVENTS, id_))
    if kept and (rows or taken["duplicate"] or here().client.hexists(keys.EVENTS, str(id_))):
        return back("event", arrival=id_)
    return back("source", name=name)


def _asked(source: Source, type_: str, promise: Promise) -> Response:
    return page("sample_confirm.html", source=source, type=type_, promise=promise)


def _promise(source: Source, signed: Request) -> Promise:
    """What intake makes of it; nothing is stored.

    Raises:
        BadRequest: it would be refused.
    """
    limit, found = state().config.settings.max_body_bytes, Promise(Counter())
    try:
        with state().codec() as codec:
            accepted = intake.webhook(source, signed, time.time_ns(), codec, limit=limit)
        found.fault = next(iter(accepted.faults), "")
        for event in accepted.events if not found.fault else ():
            found.fetched |= intake.waits(source, event)
            for record in intake.records_of(source, event):
                found.rows[record.table] += 1 if record.members is None else len(record.members)
    except IntakeError as error:
        raise BadRequest(sentence(f"the sample would be refused: {error}")) from None
    return found
