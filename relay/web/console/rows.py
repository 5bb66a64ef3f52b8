"""Rows of a table at its destination, looked at page by page; one of them, found by its key; and its lineage."""

from __future__ import annotations

from typing import Final

import msgspec
from flask import Response, request, url_for

from relay import jobs
from relay.buffer.exports import TOO_SLOW, Question
from relay.buffer.looking import NEWEST, ORDERS, Look, Row, RowOf, Seen
from relay.errors import ConfigInvalid
from relay.lineage import Touch, Traced
from relay.records import arrival_instant, version_instant
from relay.web.console import asking
from relay.web.console.asking import NoAnswer
from relay.web.console.gate import bp, here, page
from relay.web.console.overview import facts
from relay.web.console.tables import Known, known
from relay.web.console.words import SHOWN
from relay.web.state import state
from relay.words import sentence

_NOT_THERE: Final = "It is not there: nothing was delivered to it yet, or somebody dropped it, or the column."
#: A link of more characters is not made: proxies refuse long ones.
_LONGEST_LINK: Final = 4_000
#: A key has no more columns, and no longer values, than this.
_MOST_KEYS, _KEY_CHARS = 16, 2_000
#: Of a row that is shown whole: characters of a cell, and of all.
_WHOLE: Final = Look(rows=1, columns=400, chars=16_384, budget=200_000)
_MOST_START: Final = 2_000_000_000


@bp.get("/tables/rows")
def rows() -> Response:
    """A page of rows, the newest first or by key."""
    one = known(facts())
    order = request.args.get("order", NEWEST)
    order = order if order in ORDERS else NEWEST
    seen, wrong, later = _looked(one, Look(order=order, after=_given("after")))
    behind = seen.rows[-1].place(order) if seen is not None and seen.more else []
    following = url_for("console.rows", table=one.name, destination=one.destination, order=order, after=behind)
    shown = None if seen is None else [(row, _link(one, row)) for row in seen.rows]
    return page(
        "rows.html", table=one, seen=seen, rows=shown, order=order, wrong=wrong, later=later,
        first=not _given("after"), following=following if behind and len(following) <= _LONGEST_LINK else "",
        too_slow=wrong == sentence(TOO_SLOW),
    )  # fmt: skip


@bp.get("/tables/row")
def row() -> Response:
    """One row whole, or a part of one of its cells."""
    one, key = known(facts()), _given("key")
    column, start = request.args.get("column", ""), _start(request.args.get("start", ""))
    wanted = msgspec.structs.replace(_WHOLE, key=key, column=column, start=start)
    if column:
        wanted = msgspec.structs.replace(wanted, chars=SHOWN, budget=SHOWN)
    seen, wrong, later = (None, "Say which: one value for each column of the key.", False)
    if key and all(key):
        seen, wrong, later = _looked(one, wanted)
    found = seen.rows[0] if seen is not None and seen.rows else None
    status = 200 if found is not None or later else 404
    return page(
        "row.html", status, table=one, key=key, seen=seen, row=found, wrong=wrong, column=column, start=start,
        step=SHOWN, cut_at=_WHOLE.chars,
    )  # fmt: skip


@bp.get("/tables/lineage")
def lineage() -> Response:
    """The deliveries kept that touched a row, and why each won or lost."""
    one, key = known(facts()), _given("key")
    traced: Traced | None = None
    wrong = ""
    try:
        source, declared = jobs.owned(state().config, here().client, one.name, list(key) or [""])
        asked = RowOf(source.name, declared.key, declared.parent, key, tuple(source.to))
        answer = asking.ask(Question("lineage", table=one.name, row=asked))
        traced = msgspec.convert(answer, Traced)
    except (ConfigInvalid, NoAnswer) as error:
        wrong = sentence(str(error))
    touches = traced.touches[::-1] if traced is not None else []
    shown = [(touch, *why(touch, touches), _clock(touch)) for touch in touches]
    since = arrival_instant(traced.since) if traced is not None and traced.since else None
    return page("lineage.html", table=one, key=key, traced=traced, touches=shown, wrong=wrong, since=since)


def why(touch: Touch, every: list[Touch]) -> tuple[str, str]:
    """A touch's colour, and in words why it won or lost."""
    won = next((other for other in every if other.state == "won"), None)
    by = f" {', '.join(touch.refused_by)} refused it." if touch.refused_by else ""
    if touch.state == "won":
        return "good", f"The newest version that was taken: the row holds it.{by}"
    if touch.state == "refused":
        return "bad", f"No destination took it: {', '.join(touch.refused_by)} refused it for good."
    if won is not None and won.version == touch.version:
        return "idle", f"Of the same version as the one that won, which says more.{by}"
    return "idle", f"Older than the one that won, so it changed nothing that lasts.{by}"


def _clock(touch: Touch) -> str:
    """The time by which its version is ordered."""
    return f"{version_instant(touch.version):%Y-%m-%d %H:%M:%S} UTC"


def _looked(one: Known, look: Look) -> tuple[Seen | None, str, bool]:
    """What is there; else why not, and whether it may be asked again."""
    try:
        answer = asking.ask(Question("look", one.destination, one.name, look=look))
    except NoAnswer as error:
        return None, str(error), error.later
    if answer is None:
        return None, _NOT_THERE, False
    return msgspec.convert(answer, Seen), "", False


def _link(one: Known, found: Row) -> str:
    """Where a row is shown whole; empty where its key is too long for that."""
    link = url_for("console.row", table=one.name, destination=one.destination, key=found.key)
    return link if found.key and len(link) <= _LONGEST_LINK else ""


def _given(name: str) -> tuple[str, ...]:
    """A key, or the place of one: one value a column."""
    values = request.args.getlist(name)[:_MOST_KEYS]
    return tuple(value[:_KEY_CHARS] for value in values)


def _start(text: str) -> int:
    return min(int(text), _MOST_START) if text.isascii() and text.isdigit() and len(text) <= 10 else 0  # noqa: PLR2004
