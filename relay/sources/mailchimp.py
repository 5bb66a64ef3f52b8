"""Mailchimp: who joins, leaves and changes in an audience, addresses that are given up, and campaigns.

https://mailchimp.com/developer/marketing/guides/sync-audience-data-webhooks/
https://mailchimp.com/developer/marketing/docs/webhooks/

A delivery is a form whose names are nested in brackets, `data[merges][FNAME]`. Webhooks that were made before
Mailchimp signed them are not signed: a secret stands in their address instead. There is no delivery id, so a
digest of the whole form is one. `fired_at` has no zone and is taken as UTC. No event carries all that is known
of a member: its profile, whether it is subscribed, and where it moved to are tables of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from relay.errors import ConfigInvalid, MalformedPayload
from relay.records import Event, Record, Request, encode_json, instant_ns, instant_of_ns
from relay.signatures import Hmac, Timestamp, Token, Verifier
from relay.source import Reply, Sample, Setting, Vendor, table

_CLOCK: Final = "fired_at, in seconds"

# fmt: off
MEMBERS = table(
    "members", "list_id id", _CLOCK,
    text="list_id id web_id email email_type ip_opt", instant="fired_at", json="merges",
)
SUBSCRIPTIONS = table(
    "subscriptions", "list_id id", _CLOCK + ", then what happened",
    text="list_id id email type action reason campaign_id ip_signup", instant="fired_at",
)
EMAIL_CHANGES = table(
    "email_changes", "list_id new_id", _CLOCK,
    text="list_id new_id new_email old_email", instant="fired_at",
)
CLEANED_EMAILS = table(
    "cleaned_emails", "list_id email", _CLOCK,
    text="list_id email campaign_id reason", instant="fired_at",
)
CAMPAIGNS = table(
    "campaigns", "list_id id", _CLOCK,
    text="list_id id subject status reason", instant="fired_at",
)
# fmt: on
_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\]){0,6})")
_INNER: Final = re.compile(r"\[([^\[\]]*)\]")
_SIGNATURE: Final = "X-Mailchimp-Signature"


def _verifier(settings: Mapping[str, Any]) -> Verifier:
    proof = settings["proof"]
    if proof == "signature":
        return Hmac(_SIGNATURE, pair="v1", message="{timestamp}.{body}", timestamp=Timestamp())
    if proof == "url":
        return Token(query="secret")
    raise ConfigInvalid(f"proof is signature or url, not {proof!r}")


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One event of a form, its brackets taken apart.

    Raises:
        MalformedPayload: the body is not a form of Mailchimp's.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not a form", reason="not_form")
    whole = _nested(data)
    type_ = whole.get("type")
    yield Event(
        type=type_ if isinstance(type_, str) and type_ else "unknown",
        data=whole,
        id=hashlib.blake2b(encode_json(whole), digest_size=16).hexdigest() if whole.get("fired_at") else "",
        at=instant_ns(whole.get("fired_at")),
        dedup="id" if whole.get("fired_at") else "content",
    )


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A form's fields by their names' brackets; what was taken apart already stays as it is."""
    whole: dict[str, Any] = {}
    for name, values in fields.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise MalformedPayload(f"a field is named {name[:40]!r}", reason="not_form")
        path = [found[1], *_INNER.findall(found[2])]
        inside = whole
        for step in path[:-1]:
            inside = inside.setdefault(step, {})
            if not isinstance(inside, dict):
                raise MalformedPayload(f"{step[:40]!r} is a value and a group of them", reason="not_form")
        if path[-1] in inside:
            raise MalformedPayload(f"{path[-1][:40]!r} is a value and a group of them", reason="not_form")
        inside[path[-1]] = values[0] if isinstance(values, list) and len(values) == 1 else values
    return whole


vendor = Vendor(
    title="Mailchimp",
    family="generic",
    docs="https://mailchimp.com/developer/marketing/guides/sync-audience-data-webhooks/",
    verify=_verifier,
    events=read,
    tables=(MEMBERS, SUBSCRIPTIONS, EMAIL_CHANGES, CLEANED_EMAILS, CAMPAIGNS),
    forms=True,
    # Its first look at the address is a GET, which is answered 200 like any.
    reply=Reply(),
    settings={
        "proof": Setting(
            help="`signature`, or `url` for webhooks that are not signed: then append `?secret=…` to this URL.",
            default="signature",
        )
    },
    setup=(
        "Audience → Settings → Webhooks, or POST /3.0/lists/{list_id}/webhooks: this URL and the events you want.",
        "The secret: `signing_secret`, which Mailchimp says once, when the webhook is made.",
        "For a webhook that is not signed: `proof: url`, and a secret of your own behind `?secret=` in the URL.",
    ),
    deletes="A member that is deleted (`unsubscribe` with the action `delete`) is marked deleted.",
    limits=(
        "times are whole seconds: two changes within one are ordered by arrival",
        "under `proof: url` nothing is signed: whoever knows the address can send",
        "`cleaned` and `campaign` do not name a member",
    ),
    proof="documented: t=,v1= over the time, a dot and the raw form, by Mailchimp's description of webhooks",
    # It tries again for 75 minutes, and may then disable what does not answer: the page in `docs`.
    fragile=True,
)

_RANKS: Final = {"subscribe": 0, "unsubscribe": 1}


def _row(event: Event, *key: str) -> dict[str, Any]:
    """What happened to what, with the parts of its key, which must be there."""
    row = {**event.data["data"], "fired_at": event.data.get("fired_at")}
    for name in key:
        if not isinstance(row[name], str) or not row[name]:
            raise KeyError(name)
    return row


@vendor.maps("subscribe", "unsubscribe", "profile")
def member(event: Event) -> Iterator[Record]:
    """A member's profile, and whether it is subscribed, of which a change of the profile says nothing."""
    row = _row(event, "list_id", "id")
    # What not every event says of a member would be wiped out by those that do not.
    said = {name: row.pop(name, None) for name in ("action", "reason", "campaign_id", "ip_signup")}
    rank, gone = _RANKS.get(event.type, 0), said["action"] == "delete"
    yield MEMBERS.row(row, at=event.at, rank=rank, gone=gone)
    if event.type != "profile":
        about = {name: row.get(name) for name in ("list_id", "id", "email", "fired_at")}
        yield SUBSCRIPTIONS.row({**about, **said, "type": event.type}, at=event.at, rank=rank, gone=gone)


@vendor.maps("upemail")
def email_change(event: Event) -> Iterator[Record]:
    """A member's new address, under which it has a new id too."""
    yield EMAIL_CHANGES.row(_row(event, "list_id", "new_id"), at=event.at)


@vendor.maps("cleaned")
def cleaned(event: Event) -> Iterator[Record]:
    """An address that is given up, since it bounces or complained."""
    yield CLEANED_EMAILS.row(_row(event, "list_id", "email"), at=event.at)


@vendor.maps("campaign")
def campaign(event: Event) -> Iterator[Record]:
    """A campaign that was sent, or not."""
    yield CAMPAIGNS.row(_row(event, "list_id", "id"), at=event.at)


# --- samples ------------------------------------------------------------------------------------------


def _member(n: int) -> dict[str, str]:
    merges = {
        "EMAIL": f"lena{n}@mail.example",
        "FNAME": "Lena",
        "LNAME": f"Ott {n}",
        "PHONE": "",
        "INTERESTS": "Ton",
    }
    about = {"id": f"{n:010x}", "email": merges["EMAIL"], "email_type": "html", "web_id": str(200_000_000 + n)}
    whole = {**about, "ip_opt": "192.0.2.7", "ip_signup": "192.0.2.7", "list_id": "a6b5da1054"}
    return {**whole, **{f"merges][{name}": value for name, value in merges.items()}}


# fmt: off
_DATA: Final[Mapping[str, Callable[[int], dict[str, str]]]] = {
    "subscribe": _member,
    "unsubscribe": lambda n: {**_member(n), "action": "unsub", "reason": "manual"},
    "profile": _member,
    "upemail": lambda n: {
        "list_id": "a6b5da1054", "new_id": f"{n + 1:010x}", "new_email": f"ott{n}@mail.example",
        "old_email": f"lena{n}@mail.example",
    },
    "cleaned": lambda n: {"list_id": "a6b5da1054", "reason": "hard", "email": f"weg{n}@mail.example"},
    "campaign": lambda n: {"list_id": "a6b5da1054", "id": f"{n:010x}", "subject": "Kurse", "status": "sent"},
}
# fmt: on


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        fired = f"{instant_of_ns(now):%Y-%m-%d %H:%M:%S}"
        data = {f"data[{name}]": value for name, value in _DATA[type_](n).items()}
        body = urlencode({"type": type_, "fired_at": fired, **data}).encode()
        return Sample(body, content_type="application/x-www-form-urlencoded")

    return sample


for _type in _DATA:
    vendor.sample(_type)(_sample_of(_type))
