"""Twilio: messages that come in, statuses of messages and calls, recordings, and the events of Event Streams.

https://www.twilio.com/docs/usage/webhooks/webhooks-security
https://www.twilio.com/docs/messaging/guides/track-outbound-message-status
https://www.twilio.com/docs/voice/api/call-resource#statuscallback and https://www.twilio.com/docs/events

A form is signed by its fields, in the order of their names, behind the address; JSON by its hash, which stands in
the address as `bodySHA256`. The address is the one that Twilio was given, and Twilio itself is not of one mind on
whether the default port stands in it, so both are tried. What a message's status says carries no time and comes in
any order: the status that is further in a message's life wins. `RawDlrDoneDate` is local time of a carrier without
a zone, so it is text.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from relay.bodies import decode_body, is_form
from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import Event, Record, Request, Table, Type, instant_ns, instant_of_ns
from relay.signatures import ALGORITHMS, key_bytes, same, with_headers
from relay.source import Reply, Sample, Setting, Vendor, table

_GEO: Final = "FromCity FromState FromZip FromCountry ToCity ToState ToZip ToCountry"
_LIFE: Final = "how far the status is in a life, then the delivery's receipt"

# fmt: off
INBOUND_MESSAGES = table(
    "inbound_messages", "MessageSid", "the delivery's receipt: each comes once",
    int="NumMedia NumSegments", bool="Forwarded FrequentlyForwarded", number="Latitude Longitude",
    text="MessageSid SmsSid SmsMessageSid AccountSid MessagingServiceSid From To Body SmsStatus ApiVersion "
    f"MessageType ProfileName WaId ButtonText ButtonPayload OriginalRepliedMessageSid Address Label {_GEO}",
    json="Media ReferralBody AddOns",
)
MESSAGE_STATUSES = table(
    "message_statuses", "MessageSid", _LIFE,
    int="ErrorCode NumSegments",
    text="MessageSid SmsSid AccountSid MessagingServiceSid From To MessageStatus SmsStatus ErrorMessage "
    "ApiVersion RawDlrDoneDate ChannelPrefix ChannelInstallSid ChannelToAddress ChannelStatusMessage EventType",
)
CALLS = table(
    "calls", "CallSid", "Timestamp (seconds), else the delivery's receipt; then SequenceNumber and the status",
    int="CallDuration Duration RecordingDuration SequenceNumber SipResponseCode", instant="Timestamp",
    text="CallSid AccountSid ParentCallSid From To Caller Called CallerName Direction CallStatus ApiVersion "
    f"ForwardedFrom CallbackSource CallToken StirVerstat AnsweredBy RecordingSid RecordingUrl {_GEO}",
)
RECORDINGS = table(
    "recordings", "RecordingSid", _LIFE,
    int="RecordingDuration RecordingChannels ErrorCode", instant="RecordingStartTime",
    text="RecordingSid CallSid ConferenceSid AccountSid RecordingStatus RecordingUrl RecordingSource "
    "RecordingTrack",
)
EVENTS = table(
    "events", "id", "time",
    text="id specversion type source subject dataschema datacontenttype", instant="time", json="data",
)
# fmt: on


def _ranks(life: str) -> dict[str, int]:
    return {status: rank for rank, group in enumerate(life.split(",")) for status in group.split()}


_MESSAGE_RANKS: Final = _ranks(
    "accepted scheduled,queued,sending,sent,,undelivered failed canceled,delivered,read"
)
_UNKNOWN_RANK: Final = 4
_CALL_RANKS: Final = _ranks(
    "queued initiated,ringing,in-progress answered,busy no-answer canceled failed completed"
)
_RECORDING_RANKS: Final = _ranks("in-progress,stopped paused,completed absent failed,deleted")
_HEADER: Final = "x-twilio-signature"
_BODY_HASH: Final = "bodySHA256"
_URL: Final = re.compile(r"(https?)://([^/?#]*?)(:[0-9]*)?((?:[/?#].*)?)", re.DOTALL)
_PORTS: Final = {"https": ":443", "http": ":80"}


class TwilioSignature:
    """A keyed hash over the address and the form's fields, or over an address that holds the body's hash.

    Args:
        algorithm: `sha1` with the account's auth token, `sha256` with a shared key's secret. A header of Twilio's
            names it too, but a sender never chooses.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.scheme = (
            f"hmac-{algorithm} base64 of the url and the sorted form fields, or of the url with {_BODY_HASH}"
        )

    def verify(self, request: Request, secrets: tuple[str, ...], now: int) -> None:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        given = request.headers.get(_HEADER, "")
        if not given:
            raise Unauthenticated(f"no {_HEADER} header", reason="signature_missing")
        fields = _signed_fields(request)
        fits = False
        for secret in secrets:
            for url in _addresses(request.url):
                fits |= same(self._digest(secret, url + fields), given)
        if not fits:
            raise Unauthenticated("no secret fits the signature", reason="signature_wrong")

    def sign(self, request: Request, secret: str, now: int) -> Request:  # noqa: ARG002 - untimed
        """See `relay.signatures.Verifier`."""
        if not is_form(request):
            digest = hashlib.sha256(request.body).hexdigest()
            mark = "&" if "?" in request.url else "?"
            request = msgspec.structs.replace(
                request,
                query={**request.query, _BODY_HASH: digest},
                url=f"{request.url}{mark}{_BODY_HASH}={digest}",
            )
        return with_headers(request, {_HEADER: self._digest(secret, request.url + _signed_fields(request))})

    def _digest(self, secret: str, message: str) -> str:
        made = hmac.new(key_bytes(secret, "utf8"), message.encode("utf-8", "replace"), ALGORITHMS[self.algorithm])
        return base64.b64encode(made.digest()).decode()


def _signed_fields(request: Request) -> str:
    """What stands behind the address in the signed text; of JSON nothing, once its hash is checked."""
    if not is_form(request):
        given = request.query.get(_BODY_HASH, "")
        if not same(hashlib.sha256(request.body).hexdigest(), given.lower()):
            raise Unauthenticated(f"the body is not the one of {_BODY_HASH}", reason="body_hash_wrong")
        return ""
    try:
        fields: dict[str, list[str]] = decode_body(request, forms=True)
    except MalformedPayload as error:
        raise Unauthenticated(str(error), reason="body_malformed") from None
    if not fields:  # else an address that was signed for a JSON body would do
        raise Unauthenticated("the form is empty, so that nothing of it is signed", reason="body_malformed")
    return "".join(f"{name}{value}" for name in sorted(fields) for value in sorted(set(fields[name])))


def _addresses(url: str) -> list[str]:
    """The address as it is, without its port, and with the default one."""
    found = _URL.fullmatch(url)
    if found is None:
        return [url]
    scheme, host, port, rest = found.groups()
    return list(
        dict.fromkeys((url, f"{scheme}://{host}{rest}", f"{scheme}://{host}{port or _PORTS[scheme]}{rest}"))
    )


def _verifier(settings: Mapping[str, Any]) -> TwilioSignature:
    algorithm = settings["algorithm"]
    if algorithm not in ("sha1", "sha256"):
        raise ConfigInvalid(f"algorithm is sha1 or sha256, not {algorithm!r}")
    return TwilioSignature(algorithm)


# --- reading ------------------------------------------------------------------------------------------


def read(request: Request, data: Any) -> Iterator[Event]:
    """One event of a form; each of a batch of Event Streams, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: the body is neither.
    """
    if isinstance(data, list):
        yield from map(_streamed, data)
    elif not isinstance(data, dict):
        raise MalformedPayload("the body is neither a form nor a list of events", reason="not_an_object")
    elif "specversion" in data:
        yield _streamed(data)
    else:
        # Once kept, a form is read again as the object that was made of it.
        fields = {n: v[0] if isinstance(v, list) and len(v) == 1 else v for n, v in data.items()}
        token = request.headers.get("i-twilio-idempotency-token", "")
        yield Event(
            type=_type_of(fields),
            data=fields,
            id=token,
            at=_moment(fields.get("Timestamp")),
            dedup="id" if token else "content",
        )


def _streamed(item: Any) -> Event:
    known: dict[str, Any] = item if isinstance(item, dict) else {}
    type_, id_ = known.get("type"), known.get("id")
    told = isinstance(id_, str) and id_ != ""
    return Event(
        type=type_ if isinstance(type_, str) and type_ else "unknown",
        data=item,
        id=str(id_) if told else "",
        at=instant_ns(known.get("time")),
        dedup="id" if told else "content",
    )


def _type_of(fields: Mapping[str, Any]) -> str:
    """What a callback is about and its status; Twilio itself has no name for it."""
    kinds = (
        ("recording", ("RecordingSid",), ("RecordingStatus",)),
        ("message", ("MessageSid", "SmsSid"), ("MessageStatus", "SmsStatus")),
        ("call", ("CallSid",), ("CallStatus",)),
    )
    for kind, ids, statuses in kinds:
        status = next((fields[name] for name in statuses if fields.get(name)), None)
        if any(fields.get(name) for name in ids) and isinstance(status, str):
            return f"{kind}.{status}"
    return "unknown"


def _moment(value: Any) -> int | None:
    """A time as Twilio writes it in forms: `Tue, 03 Mar 2026 09:15:00 +0000`."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return instant_ns(parsedate_to_datetime(value).isoformat())
    except (ValueError, TypeError, IndexError, OverflowError):
        return instant_ns(value)


vendor = Vendor(
    title="Twilio",
    family="generic",
    docs="https://www.twilio.com/docs/usage/webhooks",
    verify=_verifier,
    events=read,
    tables=(INBOUND_MESSAGES, MESSAGE_STATUSES, CALLS, RECORDINGS, EVENTS),
    forms=True,
    # Empty TwiML: "do nothing more", where a message or a call waits for an answer; callbacks do not mind it.
    reply=Reply(200, b'<?xml version="1.0" encoding="UTF-8"?><Response/>', "text/xml; charset=utf-8"),
    settings={
        "algorithm": Setting(
            help="`sha1` with the account's auth token, `sha256` with the secret of a shared key.",
            default="sha1",
        )
    },
    setup=(
        "This URL by POST as the status callback of messages, calls and recordings, and for incoming messages.",
        "Or this URL as a webhook sink of Event Streams.",
        "`public_url`: that URL exactly as Twilio has it, without what stands behind a `#`.",
        "The secret: the account's auth token.",
        "Append `#rc=5&rp=all` to the URL at Twilio, so that it tries again.",
    ),
    deletes="There are none.",
    limits=(
        "the address of incoming calls wants instructions for the call: set this one as its status callback alone",
        "a message's status says neither its text nor when it changed",
        "what is pointed here besides (gathered digits, conversations, machine detection) is counted, not kept",
    ),
    proof="vector: twilio.form, twilio.dup_params, twilio.port443, twilio.json",
    # One try again, and only where no connection came about: the page on connection overrides.
    # https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
    fragile=True,
)

_BLANKABLE: Final = {Type.INT, Type.NUMBER, Type.BOOL, Type.INSTANT, Type.JSON}


def _row(table: Table, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A form's fields as columns: an empty number is none, and a time is one that can be read."""
    row = {**fields}
    for name, kind in table.columns.items():
        value = row.get(name)
        if value == "" and kind in _BLANKABLE:
            row[name] = None
        elif kind == Type.INSTANT and (at := _moment(value)) is not None:
            row[name] = f"{instant_of_ns(at):%Y-%m-%dT%H:%M:%SZ}"
    return row


def _sid(fields: Mapping[str, Any], *names: str) -> str:
    """The first of these ids; it must be there, once."""
    value = next((fields[name] for name in names if fields.get(name)), None)
    if not isinstance(value, str):
        raise KeyError(names[0])
    return value


_MEDIA: Final = re.compile(r"Media(Url|ContentType)([0-9]{1,3})")
_COUNT: Final = re.compile(r"[0-9]{1,18}")


@vendor.maps("message.received")
def inbound(event: Event) -> Iterator[Record]:
    """A message that came in; its numbered media fields become one list."""
    fields = {name: value for name, value in event.data.items() if not _MEDIA.fullmatch(name)}
    media: dict[int, dict[str, Any]] = {}
    for name, value in event.data.items():
        if found := _MEDIA.fullmatch(name):
            media.setdefault(int(found[2]), {})[found[1]] = value
    row = _row(INBOUND_MESSAGES, {**fields, "MessageSid": _sid(fields, "MessageSid", "SmsSid")})
    yield INBOUND_MESSAGES.row({**row, "Media": [media[n] for n in sorted(media)]})


@vendor.maps("message.*")
def message_status(event: Event) -> Iterator[Record]:
    """How far a message is. All its rows are of one time, so that their ranks alone decide."""
    fields = {**event.data, "MessageSid": _sid(event.data, "MessageSid", "SmsSid")}
    rank = _MESSAGE_RANKS.get(event.type.partition(".")[2], _UNKNOWN_RANK)
    yield MESSAGE_STATUSES.row(_row(MESSAGE_STATUSES, fields), at=0, rank=rank)


@vendor.maps("call.*")
def call(event: Event) -> Iterator[Record]:
    """How far a call is."""
    fields = {**event.data, "CallSid": _sid(event.data, "CallSid")}
    number = _COUNT.fullmatch(str(fields.get("SequenceNumber")))
    rank = _CALL_RANKS.get(event.type.partition(".")[2], 0)
    yield CALLS.row(_row(CALLS, fields), at=event.at, sequence=int(number[0]) if number else 0, rank=rank)


@vendor.maps("recording.*")
def recording(event: Event) -> Iterator[Record]:
    """How far a recording is."""
    fields = {**event.data, "RecordingSid": _sid(event.data, "RecordingSid")}
    rank = _RECORDING_RANKS.get(event.type.partition(".")[2], 0)
    yield RECORDINGS.row(_row(RECORDINGS, fields), at=0, rank=rank)


@vendor.maps("com.twilio.*")
def streamed(event: Event) -> Iterator[Record]:
    """An event of Event Streams, as it is."""
    if not isinstance(event.data["id"], str) or not event.data["id"]:
        raise KeyError("id")
    yield EVENTS.row({**event.data}, at=event.at)


# --- samples ------------------------------------------------------------------------------------------
# fmt: off
def _inbound(n: int) -> dict[str, str]:
    sid = f"SM{n:032x}"
    return {
        "MessageSid": sid, "SmsSid": sid, "SmsMessageSid": sid, "SmsStatus": "received", "FromCity": "",
        "Body": f"Ist Tisch {n} noch frei? Grüße", "NumMedia": "1", "NumSegments": "1",
        "MediaUrl0": f"https://api.twilio.example/media/ME{n:032x}", "MediaContentType0": "image/jpeg",
    }


def _message(n: int, status: str) -> dict[str, str]:
    sid = f"SM{n:032x}"
    return {"MessageSid": sid, "SmsSid": sid, "MessageStatus": status, "SmsStatus": status}


def _call(n: int) -> dict[str, str]:
    told = {"Direction": "outbound-api", "SequenceNumber": "3", "CallDuration": str(1 + n % 600)}
    return {"CallSid": f"CA{n:032x}", "CallStatus": "completed", "CallbackSource": "call-progress-events", **told}


def _recording(n: int) -> dict[str, str]:
    told = {"RecordingDuration": "61", "RecordingChannels": "1", "RecordingSource": "OutboundAPI"}
    return {"RecordingSid": f"RE{n:032x}", "CallSid": f"CA{n:032x}", "RecordingStatus": "completed", **told}


_FORMS: Final[Mapping[str, Callable[[int], dict[str, str]]]] = {
    "message.received": _inbound,
    "message.sent": lambda n: _message(n, "sent"),
    "message.delivered": lambda n: {**_message(n, "delivered"), "RawDlrDoneDate": "2603030915"},
    "message.undelivered": lambda n: {**_message(n, "undelivered"), "ErrorCode": "30003"},
    "call.completed": _call,
    "recording.completed": _recording,
}
# fmt: on


def _sample_of(type_: str) -> Callable[[int, int], Sample]:
    def sample(n: int, now: int) -> Sample:
        fields = {"AccountSid": "AC" + "5a" * 16, "From": "+4930901820", **_FORMS[type_](n)}
        if type_.startswith("call."):
            fields["Timestamp"] = format_datetime(instant_of_ns(now))
        token = {"I-Twilio-Idempotency-Token": f"{type_}-{n:032x}"}
        return Sample(urlencode(fields).encode(), token, "application/x-www-form-urlencoded")

    return sample


for _type in _FORMS:
    vendor.sample(_type)(_sample_of(_type))


@vendor.sample("com.twilio.messaging.message.delivered")
def streamed_sample(n: int, now: int) -> Sample:
    """A batch of one, as Event Streams posts it."""
    at = f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
    event = {
        "specversion": "1.0", "type": "com.twilio.messaging.message.delivered", "id": f"EZ{n:032x}", "time": at,
        "source": f"/2010-04-01/Accounts/AC{'5a' * 16}/Messages/SM{n:032x}.json",
        "dataschema": "https://events-schemas.twilio.com/Messaging.MessageStatus/4",
        "datacontenttype": "application/json",
        "data": {"messageSid": f"SM{n:032x}", "messageStatus": "DELIVERED", "timestamp": at},
    }  # fmt: skip
    return Sample([event])
