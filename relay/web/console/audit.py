"""The audit: whether every event and record is accounted for."""

from __future__ import annotations

from flask import Response

from relay.buffer import ledger
from relay.web.console.gate import bp, here, page
from relay.web.console.overview import facts


@bp.get("/audit/")
def audit() -> Response:
    """Run the plain audit, and show each account with its residual."""
    faults = ledger.audit(here().client, deep=False)
    found = facts()
    events = [
        (source, states, states.get("accepted", 0) - sum(states.get(s, 0) for s in ledger.EVENT_STATES))
        for source, states in sorted(found.ledger.events.items())
    ]
    records = [
        (route, states, states.get("emitted", 0) - sum(states.get(s, 0) for s in ledger.RECORD_STATES))
        for route, states in sorted(found.ledger.records.items())
    ]
    return page(
        "audit.html", faults=faults, events=events, records=records,
        event_states=("accepted", *ledger.EVENT_STATES), record_states=("emitted", *ledger.RECORD_STATES),
    )  # fmt: skip
