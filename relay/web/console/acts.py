"""The act log: who did what here, when, from where and on how many; and who was refused at the door."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from relay.buffer.acts import MOST_ACTS, MOST_REFUSALS
from relay.web.console.gate import bp, here, page

_SHOWN: Final = 100
_REFUSALS: Final = 50
#: The acts in words; another one is shown as it is.
WORDS: Final = {
    "login": "logged in",
    "logout": "logged out",
    "logout_everywhere": "ended all own sessions",
    "password_set": "set a password",
    "session_moved": "came from another address",
    "pause": "paused",
    "resume": "resumed",
    "sample": "sent a sample",
    "replay": "replayed",
    "retry": "sent again",
    "discard": "gave up",
    "key_create": "made an API key",
    "key_revoke": "revoked an API key",
    "login_refused": "wrong name or password",
    "login_throttled": "too many attempts",
    "proxy_user_refused": "the proxy's header names nobody",
    "form_refused": "a form of another page",
}


@bp.get("/acts/")
def acts_page() -> Response:
    """The newest acts, a page of them at a time, and the newest refusals."""
    asked = request.args.get("from", "")
    start = min(int(asked), MOST_ACTS) if asked.isascii() and asked.isdigit() and len(asked) < 5 else 0  # noqa: PLR2004
    found = here().acts.acts(start, _SHOWN + 1)
    return page(
        "acts.html", acts=found[:_SHOWN], older=start + _SHOWN if len(found) > _SHOWN else 0, start=start,
        refusals=here().acts.refusals(_REFUSALS), words=WORDS, most=MOST_ACTS, most_refusals=MOST_REFUSALS,
    )  # fmt: skip
