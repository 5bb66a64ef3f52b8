"""Standard Webhooks: any sender of that specification, Svix's customers among them; one table of events.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
https://docs.svix.com/receiving/verifying-payloads/how

The specification fixes how a delivery is signed and named, and only recommends `type`, `timestamp` and `data` in
the body; where a sender has other names, settings say so. What `data` holds differs from sender to sender, so that
an event is a row, and no row of another object is made of it: whoever wants those describes a `custom` source.
A retry keeps the id and is signed anew, so that the time which is signed is the attempt's, not the event's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload
from relay.records import Event, Record, Request, instant_ns, instant_of_ns
from relay.signatures import Hmac, Timestamp
from relay.source import Sample, Setting, Vendor, table

_ID, _TIMESTAMP, _SIGNATURE = (f"webhook-{part}" for part in ("id", "timestamp", "signature"))
_SVIX: Final = {name: name.replace("webhook", "svix") for name in (_ID, _TIMESTAMP, _SIGNATURE)}

# The key is the delivery's id, which the specification demands; an id inside the body is optional, see `body_id`.
EVENTS: Final = table(
    "events",
    "id",
    "the event's own timestamp, else the delivery's receipt",
    id="id body_id account_id instance_id organization_id",
    text="type object api_version environment",
    instant="timestamp created_at",
    bool="livemode",
    json="data",
)
#: What each setting is called, and where the specification recommends it.
SETTINGS: Final = {
    "type_field": Setting(
        help="Where the body names the event's type, a path with dots; empty: all events are of type `event`.",
        default="type",
    ),
    "time_field": Setting(
        help="Where the body says when it happened (ISO 8601 or epoch), a path with dots.", default="timestamp"
    ),
    "data_field": Setting(
        help="Where the body has what it is about, a path with dots; empty: the whole body is `data`.",
        default="data",
    ),
    "secret_form": Setting(
        help="`base64`: the secret is as the specification has it. `text`: its characters are the key (Polar).",
        default="base64",
    ),
}
_KEYS: Final = {"base64": "whsec", "text": "utf8"}


def _find(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data.get(name) if isinstance(data, dict) else None
    return data


class _Envelope:
    """Reads deliveries by a source's settings."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        said = {name: settings.get(name, setting.default) for name, setting in SETTINGS.items()}
        for name, value in said.items():
            if not isinstance(value, str):
                raise ConfigInvalid(f"{name}: expected text, not {type(value).__name__}")
        self.type, self.time, self.data, form = said.values()
        if form not in _KEYS:
            raise ConfigInvalid(f"secret_form: one of {', '.join(_KEYS)}")
        self.key = _KEYS[form]

    def events(self, request: Request, data: Any) -> Iterator[Event]:
        """The one event of a delivery.

        Raises:
            MalformedPayload: the body is not an object, or has no type where the settings say.
        """
        if not isinstance(data, dict):
            raise MalformedPayload("the body is not an object", reason="not_an_object")
        type_ = _find(data, self.type) if self.type else "event"
        if not isinstance(type_, str) or not type_:
            raise MalformedPayload(f"there is no type at {self.type!r}: see type_field", reason="no_type")
        # In the same order as the signature's check, so that the id is the one that was signed.
        id_ = request.headers.get(_ID) or request.headers.get(_SVIX[_ID], "")
        at = instant_ns(_find(data, self.time)) if self.time else None
        yield Event(type=type_, data=data, id=id_, at=at, dedup="id" if id_ else "content")

    def records(self, event: Event) -> Iterator[Record]:
        """One row an event; the body's own `id` is `body_id`.

        Raises:
            KeyError: the delivery has no id, which its signature would cover.
        """
        if not event.id:
            raise KeyError(_ID)
        inner = _find(event.data, self.data) if self.data else event.data
        left_out = {"id", self.data}
        rest = {n: v for n, v in event.data.items() if n not in left_out and not n.startswith("_relay")}
        row = {
            **(rest if self.data else {}),
            "id": event.id,
            "body_id": event.data.get("id"),
            "type": event.type,
            "timestamp": _find(event.data, self.time) if self.time else None,
            "data": inner,
        }
        yield EVENTS.row(row, at=event.at)


def build(settings: Mapping[str, Any]) -> Vendor:
    """The vendor under a source's settings.

    Raises:
        ConfigInvalid: a setting is not of its form.
    """
    envelope = _Envelope(settings)
    made = Vendor(
        title="Standard Webhooks",
        family="generic",
        docs="https://www.standardwebhooks.com/",
        verify=Hmac(
            _SIGNATURE,
            encoding="base64",
            message="{id}.{timestamp}.{body}",
            versions="v1",
            key=envelope.key,
            timestamp=Timestamp(_TIMESTAMP),
            id_header=_ID,
            aliases=_SVIX,
        ),
        events=envelope.events,
        tables=(EVENTS,),
        settings=SETTINGS,
        setup=(
            "At the sender: a webhook endpoint with this URL.",
            "The secret: the text that begins with `whsec_`; what stands before that (`v1,`) is not part of it.",
            "If the sender's bodies have no `type`, `timestamp` and `data`: type_field, time_field, data_field.",
        ),
        deletes="A deletion is an event like all others: a row of `events`.",
        limits=(
            "a row is an event, not the object that it is about",
            "signatures by public key (`v1a`, keys that begin with `whpk_`) are not looked at",
        ),
        proof="library: standardwebhooks, svix",
        secret_like="whsec_",  # noqa: S106 - what secrets look like
    )
    made.maps("*")(envelope.records)
    made.sample("contact.created")(contact_created)
    return made


def contact_created(n: int, now: int) -> Sample:
    """A new contact, in the form that the specification recommends."""
    body = {
        "type": "contact.created",
        "timestamp": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%fZ}",
        "data": {
            "id": f"1f81eb52-5198-4599-803e-{n % 16**12:012x}",
            "type": "contact",
            "email": f"ida.{n}@mail.example",
            "first_name": "Ida",
            "last_name": f"Brandt {n}",
            "tags": ["newsletter", "berlin"],
            "balance": "12.50",
        },
    }
    return Sample(body, {_ID: f"msg_{now:020d}{n:012d}"})


vendor = build({})
