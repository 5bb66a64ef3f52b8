"""Calendly: invitees with their answers, the events they booked, routing forms.

https://developer.calendly.com/api-docs/overview/webhooks/webhook-signatures
https://developer.calendly.com/docs/api-guides/see-how-webhook-payloads-change-when-invitees-reschedule-events

An invitee's delivery carries the whole invitee, and in it the event as it was then. Every object is named by its
URI. A rescheduling is two deliveries: the old invitee is cancelled (`rescheduled` is true), a new one made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid
from relay.records import Event, Record, Request, instant_ns, instant_of_ns
from relay.signatures import Hmac, Timestamp, Verifier
from relay.source import Sample, Setting, Vendor, field, table

_CLOCK: Final = "updated_at (microseconds), then the delivery's created_at"
_EVENT_CLOCK: Final = "the event's updated_at (microseconds), then the delivery's created_at"
_CREATED, _CANCELED = 0, 2

# fmt: off
INVITEES = table(
    "invitees", "uri", _CLOCK,
    text="uri event email first_name last_name name status text_reminder_number timezone cancel_url old_invitee "
    "reschedule_url new_invitee routing_form_submission scheduling_method invitee_scheduled_by created_by",
    bool="rescheduled", instant="created_at updated_at",
    json="cancellation no_show payment reconfirmation tracking",
)
INVITEE_ANSWERS = table(
    "invitee_answers", "invitee position", _CLOCK, "invitee", text="invitee question answer", int="position",
)
SCHEDULED_EVENTS = table(
    "scheduled_events", "uri", _EVENT_CLOCK,
    text="uri name status event_type meeting_notes_plain meeting_notes_html",
    instant="created_at updated_at start_time end_time",
    json="calendar_event cancellation event_guests invitees_counter location",
)
EVENT_MEMBERSHIPS = table(
    "event_memberships", "event user", _EVENT_CLOCK, "event",
    text="event user user_email user_name", instant="buffered_start_time buffered_end_time",
)
NO_SHOWS = table(
    "invitee_no_shows", "uri", "the delivery's created_at", text="uri invitee", instant="created_at",
)
ROUTING_FORM_SUBMISSIONS = table(
    "routing_form_submissions", "uri", _CLOCK,
    text="uri routing_form submitter submitter_type", instant="created_at updated_at",
    json="questions_and_answers result tracking",
)
# fmt: on


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The signature, with the window that the operator chose."""
    tolerance = settings["tolerance_s"]
    if not isinstance(tolerance, int) or isinstance(tolerance, bool) or tolerance <= 0:
        raise ConfigInvalid(f"tolerance_s is a number of seconds, not {tolerance!r}")
    stamp = Timestamp(tolerance_s=tolerance)
    return Hmac("Calendly-Webhook-Signature", pair="v1", message="{timestamp}.{body}", timestamp=stamp)


def _name(_request: Request, data: Any) -> Any:
    """The event's name; a body that has none is read as an invitee's, so that it is quarantined, not ignored."""
    return data.get("event", "invitee") if isinstance(data, dict) else ""


def _delivery(_request: Request, data: Any) -> str:
    """What happened to which object, and when: no delivery has an id of its own."""
    payload = data.get("payload") if isinstance(data, dict) else None
    if not isinstance(payload, dict):
        return ""
    parts = (data.get("event"), data.get("created_at"), payload.get("uri"))
    return "|".join(map(str, parts)) if all(isinstance(part, str) and part for part in parts) else ""


vendor = Vendor(
    title="Calendly",
    family="ads",
    docs="https://developer.calendly.com/api-docs/overview/webhooks/webhook-signatures",
    verify=verifier,
    type=_name,
    id=_delivery,
    at=field("created_at"),
    tables=(INVITEES, INVITEE_ANSWERS, SCHEDULED_EVENTS, EVENT_MEMBERSHIPS, NO_SHOWS, ROUTING_FORM_SUBMISSIONS),
    settings={
        "tolerance_s": Setting(
            help="Seconds that a signature may be old; larger, if repeated deliveries bear the first one's time.",
            default=300,
        )
    },
    setup=(
        "POST /webhook_subscriptions: this URL, the events, scope `organization`, a `signing_key` of your own.",
        "The secret: that signing key. Without one nothing is signed.",
    ),
    deletes="There are none: who cancels keeps the row, with status `canceled`.",
    limits=("an event that changes without a booking or a cancellation is not told",),
    proof="vector: calendly.oracle",
    # Tried for a day, then the subscription is disabled: the page “Webhook Errors” beside the one in `docs`.
    fragile=True,
)


def _version(event: Event, data: dict[str, Any], *, canceled: bool) -> dict[str, Any]:
    """An object's own time, then the delivery's, which orders two snapshots of one update."""
    updated = instant_ns(data.get("updated_at"))
    sent = event.at or 0
    rank = _CANCELED if canceled else _CREATED
    return {"at": event.at if updated is None else updated, "sequence": sent, "rank": rank}


def _uri(data: dict[str, Any]) -> Any:
    if not data["uri"]:
        raise KeyError("uri")
    return data["uri"]


@vendor.maps("invitee*")
def invitee(event: Event) -> Iterator[Record]:
    """An invitee as it is now, with its answers and its event.

    Raises:
        KeyError: the delivery has no payload, or it names no invitee.
    """
    data = event.data["payload"]
    uri, canceled = _uri(data), data.get("status") == "canceled"
    version = _version(event, data, canceled=canceled)
    row = {name: value for name, value in data.items() if name not in {"questions_and_answers", "scheduled_event"}}
    yield INVITEES.row({**row, "created_by": event.data.get("created_by")}, **version)
    answers = data.get("questions_and_answers")
    if answers is not None:
        # One answer a position, which very old deliveries lack: a set names each of its keys once.
        placed = [{**answer, "position": answer.get("position", place)} for place, answer in enumerate(answers)]
        members = {answer["position"]: answer for answer in placed}
        yield INVITEE_ANSWERS.children({"invitee": uri}, members.values(), **version)
    booked = data.get("scheduled_event")
    if booked is not None:
        yield from _scheduled(event, booked)


def _scheduled(event: Event, data: dict[str, Any]) -> Iterator[Record]:
    uri = _uri(data)
    version = _version(event, data, canceled=data.get("status") == "canceled")
    yield SCHEDULED_EVENTS.row({name: v for name, v in data.items() if name != "event_memberships"}, **version)
    if data.get("event_memberships") is not None:
        # One membership a user: a set names each of its keys once.
        hosts = {host["user"]: host for host in data["event_memberships"] if host["user"]}
        yield EVENT_MEMBERSHIPS.children({"event": uri}, hosts.values(), **version)


@vendor.maps("invitee_no_show.created", "invitee_no_show.deleted")
def no_show(event: Event) -> Iterator[Record]:
    """A mark that somebody did not come, or its removal; some deliveries carry the whole invitee instead."""
    data = event.data["payload"]
    if "email" in data:
        yield from invitee(event)
    elif event.type.endswith(".deleted"):
        yield NO_SHOWS.gone({"uri": _uri(data)}, at=event.at)
    else:
        yield NO_SHOWS.row({**data, "uri": _uri(data)}, at=event.at)


@vendor.maps("routing_form_submission.created")
def routing_form_submission(event: Event) -> Iterator[Record]:
    """What somebody entered before booking, whether or not a booking followed."""
    data = event.data["payload"]
    yield ROUTING_FORM_SUBMISSIONS.row({**data, "uri": _uri(data)}, **_version(event, data, canceled=False))


# --- samples ------------------------------------------------------------------------------------------

_API: Final = "https://api.calendly.com"


def _time(ns: int) -> str:
    return f"{instant_of_ns(ns):%Y-%m-%dT%H:%M:%S.%fZ}"


def _envelope(name: str, now: int, payload: dict[str, Any]) -> Sample:
    user = f"{_API}/users/HOST0000000000001"
    return Sample({"event": name, "created_at": _time(now), "created_by": user, "payload": payload})


def _booking(n: int, now: int, status: str) -> dict[str, Any]:
    event = f"{_API}/scheduled_events/{n:08d}-24f0-4c11-9c52-1d2e3f4a5b6c"
    host = {"user": f"{_API}/users/HOST0000000000001", "user_email": "host@studio.example", "user_name": "Jo Lang"}
    hour = 3_600_000_000_000
    return {
        "uri": f"{event}/invitees/{n:08d}-0000-4000-8000-000000000001",
        "email": f"lead{n}@mail.example", "name": f"Ida Brandt {n}", "first_name": None, "last_name": None,
        "status": status, "timezone": "Europe/Berlin", "event": event, "rescheduled": False, "old_invitee": None,
        "new_invitee": None, "cancel_url": f"https://calendly.com/cancellations/{n}", "payment": None,
        "reschedule_url": f"https://calendly.com/reschedulings/{n}", "text_reminder_number": None, "no_show": None,
        "questions_and_answers": [{"question": "Worum geht es?", "answer": "Küche", "position": 0}],
        "tracking": {"utm_campaign": "fruehling", "utm_source": "newsletter", "salesforce_uuid": None},
        "created_at": _time(now - hour), "updated_at": _time(now),
        "scheduled_event": {
            "uri": event, "name": "Erstgespräch", "status": status, "event_type": f"{_API}/event_types/ERST",
            "start_time": _time(now + 24 * hour), "end_time": _time(now + 25 * hour), "event_guests": [],
            "location": {"type": "physical", "location": "Mühlenweg 3"}, "event_memberships": [host],
            "invitees_counter": {"total": 1, "active": int(status == "active"), "limit": 1},
            "created_at": _time(now - hour), "updated_at": _time(now),
        },
    }  # fmt: skip


@vendor.sample("invitee.created")
def created_sample(n: int, now: int) -> Sample:
    """Somebody books."""
    return _envelope("invitee.created", now, _booking(n, now, "active"))


@vendor.sample("invitee.canceled")
def canceled_sample(n: int, now: int) -> Sample:
    """The same one cancels."""
    reason = {"canceled_by": f"Ida Brandt {n}", "reason": "krank", "canceler_type": "invitee"}
    return _envelope("invitee.canceled", now, {**_booking(n, now, "canceled"), "cancellation": reason})


def _no_show(n: int, now: int) -> dict[str, Any]:
    whom = _booking(n, now, "active")["uri"]
    return {"uri": f"{_API}/invitee_no_shows/{n:08d}", "invitee": whom, "created_at": _time(now)}


@vendor.sample("invitee_no_show.created")
def no_show_sample(n: int, now: int) -> Sample:
    """Somebody did not come."""
    return _envelope("invitee_no_show.created", now, _no_show(n, now))


@vendor.sample("invitee_no_show.deleted")
def no_show_removed_sample(n: int, now: int) -> Sample:
    """Somebody had come after all."""
    return _envelope("invitee_no_show.deleted", now, _no_show(n, now))


@vendor.sample("routing_form_submission.created")
def routing_sample(n: int, now: int) -> Sample:
    """Somebody fills in a routing form."""
    payload = {
        "uri": f"{_API}/routing_form_submissions/{n:08d}",
        "routing_form": f"{_API}/routing_forms/R1",
        "questions_and_answers": [
            {"question_uuid": "q1", "question": "Wie viele Leute?", "answer": str(1 + n % 9)}
        ],
        "tracking": {"utm_source": "newsletter"},
        "result": {"type": "event_type", "value": f"{_API}/event_types/ERST"},
        "submitter": None,
        "submitter_type": None,
        "created_at": _time(now),
        "updated_at": _time(now),
    }
    return _envelope("routing_form_submission.created", now, payload)
