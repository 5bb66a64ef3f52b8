"""The first page: what flows, what needs somebody, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from flask import Response, url_for

from relay.buffer import causes, needs, rates, samples
from relay.buffer.failures import Failures
from relay.web.console import charts
from relay.web.console.facts import Facts
from relay.web.console.gate import bp, here, page
from relay.web.state import state
from relay.words import plural, sentence

#: Causes of failures that are named here; the rest is one line.
_CAUSES: Final = 5
_FAILED: Final = frozenset({"quarantine", "dead_letters"})
#: Where a kind of need is mended, and what the button there says.
_LINKS: Final = {
    "ledger_residual": ("console.audit", "Audit"),
    "destination_paused": ("console.destinations_page", "Look"),
    "destination_troubled": ("console.destinations_page", "Look"),
    "signatures_refused": ("console.source", "Mend"),
    "source_silent": ("console.source", "Look"),
    "secret_missing": ("console.source", "Set up"),
}


class Row(msgspec.Struct, frozen=True):
    """Something that needs a person, as it is shown: what it is, why, and where it is mended."""

    tone: str
    what: str
    why: str
    link: str
    act: str


def facts() -> Facts:
    """The facts for this request."""
    now = state()
    return Facts(here().client, now.config, now.sources)


@bp.get("/")
def overview() -> Response:
    """What flows, what fails, and why."""
    now = state()
    seen = needs.see(here().client, now.config, now.front.bounds)
    found = Facts(here().client, now.config, now.sources, seen)
    events, records = found.ledger.totals()
    sources, targets = found.sources(), found.destinations()
    sampled = samples.read(here().client)
    return page(
        "overview.html",
        lately=rates.lately(sampled),
        periods=charts.periods(sampled),
        events=events,
        records=records,
        waits=sum(target.waits for target in targets),
        sources=[source for source in sources if source.busy or source.tone == "warn"],
        quiet=[source for source in sources if not source.busy and source.tone != "warn"],
        destinations=targets,
        needs=[*_needs(seen)],
        faults=seen.faults,
    )


def _needs(seen: needs.Seen) -> Iterator[Row]:
    """What needs somebody; failures by their causes, each with a link of its own."""
    failed = False
    for need in needs.look(here().client, state().config, seen):
        if need.kind in _FAILED:
            if not failed:
                yield from _failed()
            failed = True
            continue
        endpoint, act = _LINKS.get(need.kind, ("", ""))
        if endpoint != "console.source":
            yield Row(need.tone, need.what, need.why, url_for(endpoint) if endpoint else "", act)
        elif need.about in state().sources:
            yield Row(need.tone, need.what, need.why, url_for(endpoint, name=need.about), act)
        else:
            yield Row(need.tone, need.what, need.why, "", "")


def _failed() -> Iterator[Row]:
    found, more = causes.looked_at(Failures(here().client))
    groups = causes.groups(found)
    for group in groups[:_CAUSES]:
        where = f" at {group.destination}" if group.destination else ""
        what = f"{plural(group.count, group.what)} of {group.source}{where} failed"
        link = url_for("console.failure_group", group=group.id)
        why = sentence(f"{causes.BLAMES.get(group.blame, group.blame)}: {group.reason}")
        yield Row("bad", what, why, link, "Mend")
    if len(groups) > _CAUSES or more:
        rest = (
            f"{plural(len(groups) - _CAUSES, 'more cause')}." if len(groups) > _CAUSES else "More than is shown."
        )
        yield Row("bad", "Other failures", rest, url_for("console.failures_page"), "See all")
