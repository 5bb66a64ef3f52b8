"""Sources: what may post, how it is set up at the vendor, what came of it, and why deliveries were refused."""

from __future__ import annotations

from flask import Response, request
from werkzeug.exceptions import NotFound

from relay.buffer import causes, fitted
from relay.buffer.failures import Failures
from relay.buffer.waiting import Waiting
from relay.web.console.gate import bp, here, page, secure
from relay.web.console.overview import facts
from relay.web.state import state


@bp.get("/sources/")
def sources_page() -> Response:
    """All of them, those that need somebody first."""
    found = facts()
    return page("sources.html", sources=found.sources(), url_of=url_of)


@bp.get("/sources/<name>")
def source(name: str) -> Response:
    """One of them."""
    configured = state().sources.get(name)
    if configured is None:
        raise NotFound(f"No source {name[:64]} is configured.")
    found = facts()
    one = found.source(name)
    failures, _ = causes.looked_at(Failures(here().client))
    routes = [
        (table, destination, states)
        for (of, destination, table), states in sorted(found.ledger.records.items(), key=lambda item: item[0][2])
        if of == name
    ]
    return page(
        "source.html",
        source=configured,
        facts=one,
        url=url_of(name),
        guessed_url=not configured.public_url,
        routes=routes,
        waiting=Waiting(here().client).counts().get(name, 0),
        groups=[group for group in causes.groups(failures) if group.source == name],
        fitted=fitted.last(here().client, name, len(configured.secrets)),
        kept=state().config.settings.keep_refused,
        findings=sorted(one.account.findings, key=lambda f: -f.last) if one.account is not None else [],
    )


def url_of(name: str) -> str:
    """The address that is pasted at the vendor: the settings' own, else as this browser reached us."""
    configured = state().sources.get(name)
    if configured is not None and configured.public_url:
        return configured.public_url
    return f"{'https' if secure() else 'http'}://{request.host}/hooks/{name}"
