"""CallRail: calls, text messages, submitted forms.

https://apidocs.callrail.com/#webhooks

A body does not say which webhook it is of: that is told by what it holds. All webhooks of one call (before, during
and after it, and whenever it is modified) carry the time at which it began, and nothing else to order them by.
Newer bodies name a record by `resource_id` (`CAL…`) and no longer by the number `id`; older ones have both, or the
number alone, which is the key then. The same fields were once sent as a form, under older names; some of them are
repeated in the URL still, where nothing is signed and nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from relay.records import Event, Record, Request, instant_of_ns
from relay.signatures import Hmac
from relay.source import Sample, Vendor, table

_CALL, _MODIFIED, _TEXT, _FORM = "call", "call_modified", "text_message", "form_submission"
_LONGEST: Final = 10

# fmt: off
CALLS = table(
    "calls", "resource_id", "start_time; then the call's duration, whether it was modified, the order of arrival",
    # Digits in text at times: `duration` is "13" where `recording_duration` is 8.
    int="duration recording_duration prior_calls total_calls", money="value",
    id="resource_id id company_id tracker_id person_id good_lead_call_id company_resource_id tracker_resource_id "
    "person_resource_id",
    instant="created_at start_time timestamp good_lead_call_time datetime",
    bool="answered first_call voicemail",
    text="agent_email business_phone_number call_summary call_type campaign company_name company_time_zone "
    "customer_city customer_country customer_name customer_phone_number customer_state device_type direction "
    "gclid keywords landing_page_url last_requested_url lead_status medium note recording recording_player "
    "referrer_domain referring_url source_name tracking_phone_number transcription utm_campaign utm_content "
    "utm_medium utm_source utm_term",
    json="call_highlights changes conversational_transcript integration_data keywords_spotted milestones "
    "speaker_percent tags",
)
TEXT_MESSAGES = table(
    "text_messages", "resource_id", "timestamp",
    id="resource_id id company_resource_id conversation_id person_resource_id thread_resource_id",
    text="agent content destination_number lead_status message_type source_number",
    instant="timestamp", json="media_urls",
)
FORM_SUBMISSIONS = table(
    "form_submissions", "resource_id", "submitted_at",
    id="resource_id id company_id company_resource_id person_resource_id",
    text="campaign form_url keywords landing_page_url medium referrer referring_url source utm_campaign "
    "utm_medium utm_source",
    bool="first_form", instant="submitted_at timestamp", json="form_data",
)
# fmt: on
_TABLES: Final = {_CALL: CALLS, _MODIFIED: CALLS, _TEXT: TEXT_MESSAGES, _FORM: FORM_SUBMISSIONS}


def _kind(_request: Request, data: Any) -> str:
    """Which webhook it is, by what it holds; what is neither a message nor a form is read as a call."""
    if not isinstance(data, dict):
        return ""
    if "form_data" in data:
        return _FORM
    if "message_type" in data or ("content" in data and "conversation_id" in data):
        return _TEXT
    return _MODIFIED if "changes" in data else _CALL


def _began(_request: Request, data: Any) -> Any:
    names = ("start_time", "submitted_at", "timestamp", "datetime")
    return next((data[name] for name in names if data.get(name)), None) if isinstance(data, dict) else None


vendor = Vendor(
    title="CallRail",
    family="ads",
    docs="https://apidocs.callrail.com/#webhooks",
    verify=Hmac("Signature", algorithm="sha1", encoding="base64"),
    type=_kind,
    at=_began,
    tables=(CALLS, TEXT_MESSAGES, FORM_SUBMISSIONS),
    setup=(
        "Settings → Integrations → Webhooks, of each company: this URL for all webhooks but those before a call.",
        "The secret: the signing key on that page. Each company has one of its own: several may be given.",
    ),
    deletes="There are none.",
    limits=(
        "deliveries bear no time of their own: two modifications of one call are ordered by arrival",
        "Pre-Call and Call Routing Complete know less than Post-Call, and until that comes the row holds less",
    ),
    proof="vector: callrail.docs",
    # Nothing is ever sent again, and a webhook that fails often is disabled: “Webhooks” on the page in `docs`.
    fragile=True,
)


def _identity(data: dict[str, Any]) -> Any:
    identity = data.get("resource_id") or data["id"]
    if not identity:
        raise KeyError("resource_id")
    return identity


def _seconds(data: dict[str, Any]) -> int:
    """How long a call was; a number in text as a rule, and 0 while it lasts."""
    text = str(data.get("duration") or "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else 0


@vendor.maps(_CALL, _MODIFIED)
def call(event: Event) -> Iterator[Record]:
    """A call as it is known now.

    Raises:
        KeyError: it is not named.
    """
    rank = int(event.type == _MODIFIED)
    row = {**event.data, "resource_id": _identity(event.data)}
    yield CALLS.row(row, at=event.at, sequence=_seconds(event.data), rank=rank)


@vendor.maps(_TEXT, _FORM)
def message_or_form(event: Event) -> Iterator[Record]:
    """A text message, sent or received, or a submitted form: neither ever changes.

    Raises:
        KeyError: it is not named.
    """
    yield _TABLES[event.type].row({**event.data, "resource_id": _identity(event.data)}, at=event.at)


# --- samples ------------------------------------------------------------------------------------------


def _time(now: int) -> str:
    return f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "+00:00"


def _call(n: int, now: int) -> dict[str, Any]:
    began = _time(now)
    return {
        "resource_id": f"CAL{n:032x}", "company_resource_id": f"COM{n % 3:032x}", "company_name": "Ofenbau Lang",
        "company_time_zone": "Europe/Berlin", "created_at": began, "start_time": began, "timestamp": began,
        "customer_name": f"Ida Brandt {n}", "customer_phone_number": f"+4930{n:08d}", "customer_city": "Potsdam",
        "customer_state": "BB", "customer_country": "DE", "direction": "inbound", "answered": True,
        "voicemail": False, "call_type": "first_call", "first_call": n % 2 == 0, "prior_calls": n % 4,
        "total_calls": 1 + n % 4, "duration": str(30 + n % 600), "recording_duration": 28 + n % 600,
        "tracking_phone_number": "+493055550100", "business_phone_number": "+493055550199",
        "source_name": "Google Ads", "lead_status": "good_lead", "value": "250.00", "note": "", "tags": ["Ofen"],
        "utm_source": "google", "utm_medium": "cpc", "gclid": f"Cj0sample{n}", "transcription": None,
        "recording": f"https://app.callrail.com/calls/CAL{n:032x}/recording",
    }  # fmt: skip


@vendor.sample(_CALL)
def call_sample(n: int, now: int) -> Sample:
    """A call that was answered."""
    return Sample(_call(n, now))


@vendor.sample(_MODIFIED)
def modified_sample(n: int, now: int) -> Sample:
    """Somebody wrote a note on it."""
    return Sample({**_call(n, now), "note": "ruft zurück", "changes": ["note"]})


@vendor.sample(_TEXT)
def text_sample(n: int, now: int) -> Sample:
    """A text message that came in."""
    body: dict[str, Any] = {
        "resource_id": f"MSG{n:032x}",
        "source_number": f"+4930{n:08d}",
        "destination_number": "+493055550100",
        "content": "Haben Sie am Samstag offen?",
        "message_type": "sms",
        "media_urls": [],
        "timestamp": _time(now),
        "lead_status": None,
        "conversation_id": f"k{n:05d}",
        "company_resource_id": f"COM{n % 3:032x}",
        "person_resource_id": f"PER{n:032x}",
    }
    return Sample(body)


@vendor.sample(_FORM)
def form_sample(n: int, now: int) -> Sample:
    """A form of the website."""
    body = {
        "resource_id": f"FRM{n:032x}",
        "company_resource_id": f"COM{n % 3:032x}",
        "person_resource_id": f"PER{n:032x}",
        "form_data": {
            "name": f"Ida Brandt {n}",
            "email": f"lead{n}@mail.example",
            "nachricht": "Bitte um Angebot",
        },
        "form_url": "https://ofenbau.example/kontakt",
        "landing_page_url": "https://ofenbau.example/?utm_source=google",
        "referrer": "https://www.google.com/",
        "submitted_at": _time(now),
        "first_form": True,
        "source": "Google Ads",
        "utm_source": "google",
        "utm_medium": "cpc",
    }
    return Sample(body)
