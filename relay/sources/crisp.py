"""Crisp: messages of conversations, and what is set of a conversation.

https://docs.crisp.chat/references/web-hooks/v1/
https://docs.crisp.chat/guides/web-hooks/plugin-hooks/ and https://docs.crisp.chat/guides/web-hooks/website-hooks/

Hooks of a plugin are signed: `[`, the time in milliseconds, `;`, the body, `]`. Hooks of a website are not: a key
stands in their address instead. A plugin's hooks come from all websites that installed it, so the website is part
of each key. There is no delivery id, so a digest of the body is one. What is set of a conversation comes one value
at a time, and is kept so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid
from relay.records import NS, Event, Record, Request
from relay.signatures import Hmac, Timestamp, Token, Verifier
from relay.source import Reply, Sample, Setting, Vendor, field, table

_CLOCK: Final = "the event's timestamp (milliseconds)"
#: Retries are not said to be signed anew; a repetition is known by its digest for days.
_TOLERANCE_S: Final = 24 * 3600
_SESSION: Final = "website_id session_id"

# fmt: off
MESSAGES = table(
    "messages", f"{_SESSION} fingerprint", _CLOCK, _SESSION,
    text="website_id session_id from type origin content", int="fingerprint", instant="timestamp",
    bool="stamped automated", json="user mentions preview references original",
)
MESSAGE_UPDATES = table(
    "message_updates", f"{_SESSION} fingerprint", _CLOCK, _SESSION,
    text="website_id session_id content", int="fingerprint", instant="updated_at",
)
SESSIONS = table(
    "sessions", _SESSION, _CLOCK, text="website_id session_id", instant="initiated_at",
)
SESSION_VALUES = table(
    "session_values", f"{_SESSION} name", _CLOCK, _SESSION,
    text="website_id session_id name", json="value", instant="set_at",
)
# fmt: on


def _verifier(settings: Mapping[str, Any]) -> Verifier:
    proof, tolerance = settings["proof"], settings["tolerance_s"]
    if not isinstance(tolerance, int) or isinstance(tolerance, bool) or tolerance < 1:
        raise ConfigInvalid(f"tolerance_s is a number of seconds, not {tolerance!r}")
    if proof == "signature":
        stamp = Timestamp("X-Crisp-Request-Timestamp", unit="ms", tolerance_s=tolerance)
        return Hmac("X-Crisp-Signature", message="[{timestamp};{body}]", timestamp=stamp)
    if proof == "url":
        return Token(query="key")
    raise ConfigInvalid(f"proof is signature or url, not {proof!r}")


def _delivery(request: Request, data: Any) -> str:
    """A digest of the body, which says when it happened to the millisecond: a retry says the same."""
    timed = isinstance(data, dict) and data.get("timestamp") is not None
    return hashlib.blake2b(request.body, digest_size=16).hexdigest() if timed else ""


vendor = Vendor(
    title="Crisp",
    family="helpdesk",
    docs="https://docs.crisp.chat/references/web-hooks/v1/",
    verify=_verifier,
    type=field("event"),
    id=_delivery,
    at=field("timestamp"),
    tables=(MESSAGES, MESSAGE_UPDATES, SESSIONS, SESSION_VALUES),
    reply=Reply(),
    settings={
        "proof": Setting(
            help="`signature` for hooks of a plugin, `url` for a website's: then append `?key=…` to this URL.",
            default="signature",
        ),
        "tolerance_s": Setting(
            help="How old a signature may be, in seconds; too little may lose what is tried again.",
            default=_TOLERANCE_S,
        ),
    },
    setup=(
        "A plugin: Marketplace → the plugin → Settings → Events: this URL; the secret: its signing secret.",
        "A website: Settings → Advanced → Web Hooks: this URL with `?key=` and your own secret; `proof: url`.",
    ),
    deletes="A message or conversation that is removed is marked deleted, a conversation with all that is in it.",
    limits=(
        "under `proof: url` nothing is signed: whoever knows the address can send",
        "a message that is edited keeps its first text; its last is in `message_updates`",
        "a message that first arrives behind the removal of its conversation stays",
        "what people browse, type and read, contacts and campaigns are counted, not kept",
    ),
    proof="vector: crisp.oracle",
)


def _session(event: Event) -> dict[str, str]:
    """The website and the conversation; both must be there."""
    told = event.data["data"]
    found = {"website_id": event.data.get("website_id") or told["website_id"], "session_id": told["session_id"]}
    for name, value in found.items():
        if not isinstance(value, str) or not value:
            raise KeyError(name)
    return found


def _message(event: Event) -> dict[str, Any]:
    """The key of a message: its fingerprint is unique in its conversation."""
    fingerprint = event.data["data"]["fingerprint"]
    if not isinstance(fingerprint, int) or isinstance(fingerprint, bool):
        raise KeyError("fingerprint")
    return {**_session(event), "fingerprint": fingerprint}


@vendor.maps("message:send", "message:received")
def message(event: Event) -> Iterator[Record]:
    """A message of the visitor's, or of an operator's."""
    yield MESSAGES.row({**event.data["data"], **_message(event)}, at=event.at)


@vendor.maps("message:updated")
def message_update(event: Event) -> Iterator[Record]:
    """A message's new text, without the rest of it."""
    told = {"content": event.data["data"].get("content"), "updated_at": event.data.get("timestamp")}
    yield MESSAGE_UPDATES.row({**told, **_message(event)}, at=event.at)


@vendor.maps("message:removed")
def message_removed(event: Event) -> Iterator[Record]:
    """A message that is gone."""
    for rows in (MESSAGES, MESSAGE_UPDATES):
        yield rows.gone(_message(event), at=event.at)


@vendor.maps("session:request:initiated")
def session(event: Event) -> Iterator[Record]:
    """A conversation that begins."""
    yield SESSIONS.row({**_session(event), "initiated_at": event.data.get("timestamp")}, at=event.at)


@vendor.maps("session:set_*", "session:sync:*")
def session_value(event: Event) -> Iterator[Record]:
    """One thing that is known of a conversation: its state, an address, tags, a rating."""
    key = _session(event)
    value = {name: part for name, part in event.data["data"].items() if name not in key}
    about = {"name": event.type.removeprefix("session:"), "value": value, "set_at": event.data.get("timestamp")}
    yield SESSION_VALUES.row({**key, **about}, at=event.at)


@vendor.maps("session:removed")
def session_removed(event: Event) -> Iterator[Record]:
    """A conversation that is gone, with all that is in it."""
    key = _session(event)
    yield SESSIONS.gone(key, at=event.at)
    for rows in (MESSAGES, MESSAGE_UPDATES, SESSION_VALUES):
        yield rows.children(key, (), at=event.at, rank=99)


# --- samples ------------------------------------------------------------------------------------------


def _text(n: int, at: int) -> dict[str, Any]:
    user = {"nickname": f"Lena {n}", "user_id": f"session_{n:032x}"}
    about = {"type": "text", "from": "user", "origin": "chat", "content": f"Ist Kurs {n} noch frei?", "user": user}
    return {**about, "fingerprint": 163_408_000_000_000 + n, "stamped": True, "mentions": [], "timestamp": at - 40}


_DATA: Final[Mapping[str, Callable[[int, int], dict[str, Any]]]] = {
    "message:send": _text,
    "message:received": lambda n, at: {**_text(n, at), "from": "operator"},
    "message:updated": lambda n, _at: {"fingerprint": 163_408_000_000_000 + n, "content": "Ist er noch frei?"},
    "message:removed": lambda n, _at: {"fingerprint": 163_408_000_000_000 + n},
    "session:request:initiated": lambda _n, _at: {},
    "session:set_state": lambda n, _at: {"state": ("pending", "unresolved", "resolved")[n % 3]},
    "session:set_email": lambda n, _at: {"email": f"lena{n}@mail.example"},
    "session:sync:rating": lambda n, _at: {"rating": {"stars": 1 + n % 5, "comment": "Danke"}},
    "session:removed": lambda _n, _at: {},
}


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        at, website = now * 1000 // NS, f"42286ab3-b29a-4fde-8538-{n % 7:012x}"
        told = {**_DATA[type_](n, at), "website_id": website, "session_id": f"session_{n:032x}"}
        return Sample({"website_id": website, "event": type_, "data": told, "timestamp": at})

    return sample


for _type in _DATA:
    vendor.sample(_type)(_sample_of(_type))
