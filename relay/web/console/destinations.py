"""Destinations: how each is doing, what waits for it; held back, and let go on."""

from __future__ import annotations

from typing import Any, Final

from flask import Response, request
from werkzeug.exceptions import BadRequest, NotFound

from relay.buffer import destinations
from relay.web.console.gate import acted, back, bp, here, page
from relay.web.console.overview import facts
from relay.web.state import state

_ACTS: Final = ("pause", "resume")


@bp.get("/destinations/")
def destinations_page() -> Response:
    """All of them, with their lanes."""
    found = facts()
    return page("destinations.html", destinations=found.destinations(), archive=found.archive())


@bp.post("/destinations/<name>")
def destination_act(name: str) -> Any:
    """Ask whether it is meant, then pause or resume."""
    if name not in state().config.settings.destinations:
        raise NotFound(f"No destination {name[:64]} is configured.")
    act, why = request.form.get("act", ""), request.form.get("why", "").strip()
    if act not in _ACTS:
        raise BadRequest("There is no such act.")
    if request.form.get("sure") != "yes":
        one = next(d for d in facts().destinations() if d.name == name)
        return page("destination_confirm.html", act=act, destination=one)
    if act == "pause":
        destinations.pause(here().client, name, why)
        acted("pause", f"{name} is paused: deliveries are taken, and wait.", destination=name, why=why[:500])
    else:
        held = destinations.resume(here().client, name)
        said = f"{name} goes on." if held else f"Nothing held {name} back."
        acted("resume", said, destination=name, held=held)
    return back("destinations_page")
