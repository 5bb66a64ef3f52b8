"""The audit: whether every event and record is accounted for."""

from __future__ import annotations

from flask import Response

from relay.buffer import ledger
from relay.web.console.gate import bp, here, page


@bp.get("/audit/")
def audit() -> Response:
    """Run the plain audit, and show each account with its residual."""
    faults = ledger.audit(here().client, deep=False)
    found = ledger.read(here().client)
    events = [
        (source, states, ledger.rest_of(states, "accepted", ledger.EVENT_STATES))
        for source, states in sorted(found.events.items())
    ]
    records = [
        (route, states, ledger.rest_of(states, "emitted", ledger.RECORD_STATES))
        for route, states in sorted(found.records.items())
    ]
    return page(
        "audit.html", faults=faults, events=events, records=records,
        event_states=_named("accepted", *ledger.EVENT_STATES),
        record_states=_named("emitted", *ledger.RECORD_STATES),
    )  # fmt: skip


def _named(*states: str) -> list[tuple[str, str]]:
    """States, with what a column of them is called."""
    return [(state, state.capitalize()) for state in states]
