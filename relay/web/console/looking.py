"""What a page asks the other half for: a job is begun, waited for a moment, and looked at again until it is over.

No page waits for long, and what came of it is kept for minutes, so that loading a page again asks for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from flask import Response
from rq import Worker

from relay.buffer.looks import Look, Looks
from relay.dispatch import ask_to_look, waits_s
from relay.errors import BufferUnavailable
from relay.web.console.gate import here, page

#: For so long a page waits, how often it looks, and when it is to be loaded again.
_PATIENCE_S: Final = 1.5
_STEP_S: Final = 0.05
_AGAIN_S: Final = 2
#: What nobody has taken up for so long waits for a worker that is not there.
_TAKEN_UP_MS: Final = 10_000


class NotHere(Exception):
    """Nobody can look; the text says what to do."""


def ask(job: str, asked: Mapping[str, Any], *, after: str = "") -> str:
    """Have somebody look, and name what comes of it.

    Args:
        job: what is to be done.
        asked: of it.
        after: the name of what this goes on from; where something did before, nothing is asked for or named.

    Raises:
        NotHere: no worker runs.
        BufferUnavailable: too many ask.
    """
    client = here().client
    if not Worker.count(connection=client):
        raise NotHere("No worker runs, so nobody can look: start `relay worker` (or `relay up`).")
    looks = Looks(client)
    token = looks.create(job, asked, waits_s=waits_s(job))
    if after and not looks.follow(after, token):
        return ""
    if not ask_to_look(client, job, token):
        looks.fail(token, "too many others waited for the same, and nothing was done")
        raise BufferUnavailable("too many others wait for the same", reason="busy", retry_after_s=5)
    return token


def found(job: str, token: str) -> Look | None:
    """What came of it, once it is over or after a moment; None where it is no more, or was something else."""
    looks, until = Looks(here().client), time.monotonic() + _PATIENCE_S
    while True:
        look = looks.find(token)
        if look is None or look.kind != job:
            return None
        if look.over or time.monotonic() > until:
            return look
        time.sleep(_STEP_S)


def not_yet(look: Look, title: str, so_far: str = "") -> Response:
    """The page of what is not over; it loads itself again, without a script too."""
    waits = not look.beat_ms and time.time() * 1000 - look.asked_ms > _TAKEN_UP_MS
    response = page("looking.html", title=title, waits=waits, asked_ms=look.asked_ms, so_far=so_far)
    response.headers["Refresh"] = str(_AGAIN_S)
    return response
