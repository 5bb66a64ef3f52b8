"""TikTok: leads of lead generation ads, and the events of an app.

https://developers.tiktok.com/doc/webhooks-verification and https://developers.tiktok.com/doc/webhooks-events
https://business-api.tiktok.com/portal/docs (Subscription API, entity LEAD)

There are two senders with two schemes, and the setting `signature` says which one a source is of. Apps of the
developer portal are told in an envelope whose `content` is JSON in a text, signed with a time. Leads come from the
Business API, several in one delivery and with their answers; what is signed there is the body with each character
beyond ASCII written as a JSON escape, and no time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import NS, Event, Record, Request, decode_json, encode_json, instant_ns
from relay.signatures import Hmac, Timestamp, Verifier
from relay.source import Reply, Sample, Setting, Vendor, table

_PORTAL, _LEADS = "TikTok-Signature", "X-Open-Signature"
#: `object` of a delivery that holds leads; the same address gets reviews of ads and reports of incidents too.
_LEAD_OBJECT: Final = 1
_BEYOND: Final = re.compile("[^\x00-\x7f]")
_ONE_UNIT: Final = 0xFFFF
_CLOCK: Final = "create_time (seconds)"

# fmt: off
LEADS = table(
    "leads", "id", _CLOCK,
    # Numbers of 19 digits in deliveries, texts everywhere else.
    id="id page_id advertiser_id campaign_id adgroup_id ad_id creative_id library_id",
    text="lead_source page_name campaign_name adgroup_name ad_name request_id",
    instant="create_time",
)
LEAD_FIELDS = table("lead_fields", "lead_id field", _CLOCK, "lead_id", id="lead_id", text="field value")
EVENTS = table(
    "events", "digest", _CLOCK,
    text="digest client_key event user_openid", json="content", instant="create_time",
)
# fmt: on


def escaped(body: bytes) -> bytes:
    r"""The body with each character beyond ASCII as `\uXXXX`, in two of them beyond the first 65,536.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    return _BEYOND.sub(_escape, body.decode()).encode()


def _escape(found: re.Match[str]) -> str:
    point = ord(found[0])
    if point <= _ONE_UNIT:
        return f"\\u{point:04x}"
    high, low = divmod(point - _ONE_UNIT - 1, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


class SignedLeads:
    """`X-Open-Signature`: the hash of the escaped body."""

    scheme = "hmac-sha256 hex of the body in ASCII"

    def __init__(self) -> None:
        self._plain = Hmac(_LEADS)

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:
        """See `relay.signatures.Verifier`."""
        try:
            body = escaped(request.body)
        except UnicodeDecodeError:
            raise Unauthenticated("the body is no text", reason="signature_wrong") from None
        self._plain.verify(msgspec.structs.replace(request, body=body), secrets, now)

    def sign(self, request: Request, secret: str, now: int) -> Request:
        """See `relay.signatures.Verifier`."""
        signed = self._plain.sign(msgspec.structs.replace(request, body=escaped(request.body)), secret, now)
        return msgspec.structs.replace(signed, body=request.body)


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The one scheme that the operator chose; a sender cannot choose the one without a time."""
    if settings["signature"] == _PORTAL:
        return Hmac(_PORTAL, pair="s", message="{timestamp}.{body}", timestamp=Timestamp())
    if settings["signature"] == _LEADS:
        return SignedLeads()
    raise ConfigInvalid(f"signature is {_PORTAL} or {_LEADS}, not {settings['signature']!r}")


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each lead of a delivery for itself, so that a bad one never fails the others; or one event of an app.

    Raises:
        MalformedPayload: the body is not an object, or its entries are not a list.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    if "entry" not in data:
        name = data.get("event")
        # No delivery has an id: it is told by its content, which a repetition does not change.
        named = name if isinstance(name, str) else ""
        yield Event(named, data, _digest(data), instant_ns(data.get("create_time")), dedup="id")
        return
    entries, kind = data["entry"], data.get("object")
    if not isinstance(entries, list):
        raise MalformedPayload("`entry` is not a list", reason="no_entries")
    for entry in entries:
        yield (
            _lead(entry, data.get("request_id"))
            if kind == _LEAD_OBJECT
            else Event("notice", entry, dedup="content")
        )


def _lead(entry: Any, request_id: Any) -> Event:
    if not isinstance(entry, dict):
        return Event("lead", entry, dedup="content")
    id_ = entry.get("id")
    return Event(
        type="lead",
        data={**entry, "request_id": request_id},
        id="" if id_ is None else str(id_),
        at=instant_ns(entry.get("create_time")),
        dedup="id" if id_ is not None else "content",
    )


def _digest(data: dict[str, Any]) -> str:
    return hashlib.blake2b(encode_json(sorted(data.items())), digest_size=16).hexdigest()


vendor = Vendor(
    title="TikTok",
    family="ads",
    docs="https://developers.tiktok.com/doc/webhooks-verification",
    verify=verifier,
    events=read,
    tables=(LEADS, LEAD_FIELDS, EVENTS),
    # Any answer but 200 counts as a failure; it is tried for 72 hours.
    reply=Reply(),
    settings={
        "signature": Setting(
            help=f"The header that proves a delivery: {_PORTAL} of the developer portal, {_LEADS} of leads.",
            default=_PORTAL,
        )
    },
    setup=(
        f"Leads: POST /open_api/v1.3/subscription/subscribe/, this URL, entity LEAD; `signature` is {_LEADS}.",
        "Events of an app: the developer portal → your app → Webhooks: this URL.",
        "The secret: the app's secret, which the developer portal calls client secret.",
    ),
    deletes="There are none.",
    limits=(
        "leads are signed without a time: an old delivery can be sent again, and is known by its lead's id",
        "the signature and the body of leads are known from those who receive them, not from an open page",
    ),
    proof="vector: stripe.dotnet, github.octokit, of the same schemes",
)


@vendor.maps("lead")
def lead(event: Event) -> Iterator[Record]:
    """A lead and its answers, one a question.

    Raises:
        KeyError: the lead has no id.
    """
    lead_id = event.data["id"]
    if not lead_id:
        raise KeyError("id")
    yield LEADS.row({name: value for name, value in event.data.items() if name != "changes"}, at=event.at)
    answers = event.data.get("changes")
    if answers is not None:
        members = {answer["field"]: answer for answer in answers if answer["field"]}
        yield LEAD_FIELDS.children({"lead_id": lead_id}, members.values(), at=event.at)


@vendor.maps("authorization.*", "post.*", "portability.*", "tiktok.*", "video.*")
def app_event(event: Event) -> Iterator[Record]:
    """An event of an app, its `content` decoded.

    Raises:
        MalformedPayload: the content is no JSON.
    """
    content = event.data["content"]
    row = {**event.data, "digest": event.id, "content": decode_json(content.encode())}
    yield EVENTS.row(row, at=event.at)


@vendor.sample("lead")
def lead_sample(n: int, now: int) -> Sample:
    """A lead of an instant form."""
    answers = {
        "name": f"Ida Brandt {n}",
        "email": f"lead{n}@mail.example",
        "phone_number": f"+4930{n:08d}",
        "Wie viele Zimmer?": str(1 + n % 6),
    }
    entry = {
        "id": 7_400_000_000_000_000_000 + n,
        "lead_source": "INSTANT_FORM",
        "page_id": 7_300_000_000_000_000_000 + n % 9,
        "page_name": "Wohnungssuche",
        "advertiser_id": 7_200_000_000_000_000_000 + n % 3,
        "campaign_id": 1_780_000_000_000_000 + n % 20,
        "adgroup_id": 1_790_000_000_000_000 + n % 40,
        "ad_id": 1_800_000_000_000_000 + n % 80,
        "create_time": now // NS,
        "changes": [{"field": name, "value": value} for name, value in answers.items()],
    }
    return Sample({"object": _LEAD_OBJECT, "entry": [entry], "time": now // NS, "request_id": f"2026{n:016d}"})


def _app_sample(name: str, content: dict[str, Any]) -> None:
    @vendor.sample(name)
    def sample(n: int, now: int) -> Sample:
        """An event of an app."""
        body = {
            "client_key": "awsample",
            "event": name,
            "create_time": now // NS,
            "user_openid": f"act.sample{n:012d}",
            "content": encode_json({**content, "n": n}).decode(),
        }
        return Sample(body)


_app_sample("authorization.removed", {"reason": 1})
_app_sample("post.publish.complete", {"publish_id": "v_pub_url~v2", "publish_type": "DIRECT_PUBLISH"})
_app_sample("portability.download.ready", {"request_id": 7})
_app_sample("tiktok.ping", {"reason": "testing Webhook"})
_app_sample("video.publish.completed", {"share_id": "video.6974245311675353080"})
