"""The console: pages for the people who run a relay, made on the server, readable without a script.

Each module named in `PAGES` is a page or a few, with its routes on `gate.bp`; an act calls what its command calls
(`relay dead retry`, `relay pause`, …) and is logged with its user. A new page is a module there, a template, and a
line of the navigation in `base.html`.
"""

from __future__ import annotations

import importlib
from typing import Final

from relay.web.console.gate import attach, bp

__all__ = ["PAGES", "attach", "bp"]

PAGES: Final = (
    "entry", "overview", "sources", "samples", "failures", "destinations", "events", "rehearsals", "tables",
    "rows", "transfers", "keys", "audit", "acts",
)  # fmt: skip
for _page in PAGES:
    importlib.import_module(f"{__name__}.{_page}")
