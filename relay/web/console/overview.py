"""The first page: what flows, what needs somebody, and why."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from flask import Response, url_for

from relay.buffer.alarms import standing
from relay.buffer.failures import Failures
from relay.web.console import failing, rates
from relay.web.console.facts import RECENT_MS, DestinationFacts, Facts, SourceFacts
from relay.web.console.gate import bp, here, page
from relay.web.console.words import ago, plural, sentence
from relay.web.state import state

#: Causes of failures that are named here; the rest is one line.
_CAUSES = 5


class Need(msgspec.Struct, frozen=True):
    """Something that needs a person: what it is, why, and where it is mended."""

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
    found = facts()
    events, records = found.totals()
    sources, targets = found.sources(), found.destinations()
    groups, more = _failures()
    faults = list(found.ledger.residuals())
    needs = [
        *_ledger(faults), *_alarms(), *_workers(found, targets), *_destinations(targets), *_failed(groups, more),
        *_sources(found, sources),
    ]  # fmt: skip
    return page(
        "overview.html",
        rates=rates.look(here().client, events, records),
        events=events,
        records=records,
        waits=sum(target.waits for target in targets),
        sources=[source for source in sources if source.busy or source.tone == "warn"],
        quiet=[source for source in sources if not source.busy and source.tone != "warn"],
        destinations=targets,
        needs=needs,
        faults=faults,
    )


def _failures() -> tuple[list[failing.Group], bool]:
    found, more = failing.looked_at(Failures(here().client))
    return failing.groups(found), more


def _ledger(faults: list[str]) -> Iterator[Need]:
    if faults:
        why = sentence(faults[0])
        yield Need("bad", "The ledger does not balance", why, url_for("console.audit"), "Audit")


def _alarms() -> Iterator[Need]:
    for alarm in standing(here().client, state().front.bounds):
        yield Need("bad", alarm.name.replace("_", " ").capitalize(), sentence(alarm.text), "", "")


def _workers(found: Facts, targets: list[DestinationFacts]) -> Iterator[Need]:
    waits = sum(target.waits for target in targets)
    if waits and not found.workers():
        why = f"{plural(waits, 'event')} wait, and nobody delivers: start `relay worker` (or `relay up`)."
        yield Need("bad", "No worker runs", why, "", "")


def _destinations(targets: list[DestinationFacts]) -> Iterator[Need]:
    link = url_for("console.destinations_page")
    for target in targets:
        if target.tone in {"bad", "warn"}:
            waits = f"{plural(target.waits, 'event')} wait."
            since = f" The oldest came {ago(target.oldest_ms)}." if target.oldest_ms else ""
            why = f"{sentence(target.says)} {waits}" if target.says else f"{waits}{since}"
            yield Need(target.tone, f"Destination {target.name}: {target.state}", why, link, "Look")


def _failed(groups: list[failing.Group], more: bool) -> Iterator[Need]:
    for group in groups[:_CAUSES]:
        where = f" at {group.destination}" if group.destination else ""
        what = f"{plural(group.count, group.what)} of {group.source}{where} failed"
        link = url_for("console.failure_group", group=group.id)
        why = sentence(f"{failing.BLAMES.get(group.blame, group.blame)}: {group.reason}")
        yield Need("bad", what, why, link, "Mend")
    if len(groups) > _CAUSES or more:
        rest = (
            f"{plural(len(groups) - _CAUSES, 'more cause')}." if len(groups) > _CAUSES else "More than is shown."
        )
        yield Need("bad", "Other failures", rest, url_for("console.failures_page"), "See all")


def _sources(found: Facts, sources: list[SourceFacts]) -> Iterator[Need]:
    for source in sources:
        link = url_for("console.source", name=source.name) if source.configured else ""
        account = source.account
        if account is not None and found.now_ms - account.last < RECENT_MS:
            newest = max(account.findings, key=lambda finding: finding.last, default=None)
            why = newest.hypothesis if newest is not None else "The signature did not fit."
            what = f"{plural(account.refused, 'delivery', 'deliveries')} of {source.name} refused (401)"
            yield Need("bad", what, f"{why} The last was {ago(account.last)}.", link, "Mend")
        if source.state == "no secret yet":
            why = "Its deliveries are answered 503 until its secret stands in relay.yaml."
            yield Need("warn", f"Source {source.name} has no secret", why, link, "Set up")
        if source.state == "not configured":
            why = "It is in the ledger, and no longer in relay.yaml."
            yield Need("warn", f"Source {source.name} is not configured", why, link, "")
