"""Tables: what became of the rows of each, by the ledger."""

from __future__ import annotations

from flask import Response

from relay.web.console.gate import bp, page
from relay.web.console.overview import facts
from relay.web.state import state


@bp.get("/tables/")
def tables_page() -> Response:
    """All tables that ever had a row, and the key and clock that their source declares."""
    found = facts()
    declared = {full: table for source in state().sources.values() for full, table in source.declared.items()}
    routes = [
        (table, destination, source, states, declared.get(table))
        for (source, destination, table), states in sorted(
            found.ledger.records.items(), key=lambda item: (item[0][1], item[0][2], item[0][0])
        )
    ]
    return page("tables.html", routes=routes)
