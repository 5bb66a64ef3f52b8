"""Unbounce: submissions of a landing page's form.

https://documentation.unbounce.com/hc/en-us/articles/203510044-Using-a-Webhook

Nothing is signed and there is no secret of Unbounce's: the URL that is entered there carries one of your own, or a
custom header does. A delivery is a form whose `data.json` holds what was entered, a list for each field, and among
it the page's own fields. A submission has no id, and its time is a minute.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from relay.errors import ConfigInvalid, MalformedPayload
from relay.records import Event, Record, Request, decode_json, encode_json, instant_ns, instant_of_ns
from relay.signatures import Token, Verifier
from relay.source import Reply, Sample, Setting, Vendor, table

_CLOCK: Final = "date_submitted and time_submitted (minutes, UTC), else the delivery's receipt"
_DATA: Final = "data.json"
_PAGE: Final = ("page_id", "page_name", "page_url", "variant")
_FORM: Final = "application/x-www-form-urlencoded"
#: What Unbounce adds to what was entered.
_OWN: Final = ("date_submitted", "ip_address", "page_name", "page_url", "page_uuid", "time_submitted", "variant")
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{2}) (AM|PM) UTC")
_NOON: Final = 12

# fmt: off
FORM_SUBMISSIONS = table(
    "form_submissions", "digest", _CLOCK,
    text="digest page_id page_uuid page_name page_url variant ip_address date_submitted time_submitted",
    instant="submitted_at", json="data",
)
FORM_FIELDS = table("form_fields", "digest name", _CLOCK, "digest", text="digest name value", json="values")
# fmt: on


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The secret in the URL, or in a header where the operator has one sent."""
    name = settings["token_header"]
    if not isinstance(name, str):
        raise ConfigInvalid(f"token_header is the name of a header, not {name!r}")
    return Token(header=name) if name else Token(query="token")


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One submission, told by all that it says, since it has no id.

    Raises:
        MalformedPayload: the body is neither a form nor an object.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is neither a form nor an object", reason="not_form")
    plain = {name: _first(value) for name, value in data.items() if name != "data.xml"}
    entered = plain.get(_DATA)
    if isinstance(entered, str) and entered:
        entered = plain[_DATA] = decode_json(entered.encode())
    known: dict[str, Any] = entered if isinstance(entered, dict) else {}
    at = _submitted(_first(known.get("date_submitted")), _first(known.get("time_submitted")))
    yield Event(
        type="form_submission",
        data=plain,
        # What was sent as a form and as JSON is one submission: the order and the spelling of fields say nothing.
        id=hashlib.blake2b(encode_json(_sorted(plain)), digest_size=16).hexdigest(),
        at=at,
        # The same entries without a time are a repetition for minutes only.
        dedup="content" if at is None else "id",
    )


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _submitted(date: Any, time: Any) -> int | None:
    """`2026-03-02` and `9:15 AM UTC` as a moment; None where one is missing or looks otherwise."""
    found = _TIME.fullmatch(time) if isinstance(time, str) else None
    if found is None or not isinstance(date, str):
        return None
    hour = int(found[1]) % _NOON + (_NOON if found[3] == "PM" else 0)
    return instant_ns(f"{date}T{hour:02d}:{found[2]}:00Z")


vendor = Vendor(
    title="Unbounce",
    family="ads",
    docs="https://documentation.unbounce.com/hc/en-us/articles/203510044-Using-a-Webhook",
    verify=verifier,
    events=read,
    forms=True,
    tables=(FORM_SUBMISSIONS, FORM_FIELDS),
    # Only a 200 is promised to count.
    reply=Reply(),
    settings={
        "token_header": Setting(
            help="The custom header in which the webhook sends the secret; empty: it is `?token=…` in the URL.",
            default="",
        )
    },
    setup=(
        "The page → Integrations → Webhooks → Add Webhook: this URL with `?token=` and the secret behind it.",
        "Better where your plan has custom headers: one of them holds the secret, and `token_header` its name.",
        "The secret: a long text of your own, of letters and digits.",
        "Content type: form or JSON.",
    ),
    deletes="There are none.",
    limits=(
        "nothing is signed: whoever knows the URL can send a submission",
        "the same entries from one address within one minute are one row; ever, if date_submitted is not sent",
        "XML is not read",
    ),
    proof="documented: Unbounce signs nothing; a text of your own in the URL or in a custom header",
    # No second attempt is promised: the page in `docs`.
    fragile=True,
)


@vendor.maps("form_submission")
def form_submission(event: Event) -> Iterator[Record]:
    """A submission and its fields, one a name.

    Raises:
        KeyError: nothing was entered.
    """
    entered = event.data.get(_DATA)
    if not entered:
        raise KeyError(_DATA)
    own = {name: _first(entered[name]) for name in _OWN if name in entered}
    page = {name: event.data[name] for name in _PAGE if event.data.get(name) is not None}
    data = {name: values for name, values in entered.items() if name not in _OWN}
    at = None if event.at is None else f"{instant_of_ns(event.at):%Y-%m-%dT%H:%M:%SZ}"
    row = {**own, **page, "data": data, "submitted_at": at, "digest": event.id}
    yield FORM_SUBMISSIONS.row(row, at=event.at)
    fields = [{"name": name, "value": _text(values), "values": values} for name, values in data.items()]
    yield FORM_FIELDS.children({"digest": event.id}, fields, at=event.at)


def _text(values: Any) -> Any:
    """The value of a field that has one, as text; several, as of boxes that are ticked, stay in `values`."""
    single = values[0] if isinstance(values, list) and len(values) == 1 else values
    return single if isinstance(single, str) else None


@vendor.sample("form_submission")
def submission_sample(n: int, now: int) -> Sample:
    """A form with a few fields, as Unbounce sends it by default."""
    moment, page = instant_of_ns(now), f"7648177d-7323-4330-b4f9-{n % 7:012d}"
    shown = {"page_name": "Badsanierung", "page_url": "https://bad.example/angebot", "variant": "ab"[n % 2]}
    entered = {
        "name": [f"Ida Brandt {n}"],
        "email": [f"lead{n}@mail.example"],
        "interesse": ["Dusche", "Wanne"],
        "ip_address": ["203.0.113.7"],
        "page_uuid": [page],
        "time_submitted": [f"{moment:%I:%M %p} UTC"],
        "date_submitted": [f"{moment:%Y-%m-%d}"],
        **{name: [value] for name, value in shown.items()},
    }
    fields = {"page_id": page, **shown, _DATA: encode_json(entered).decode()}
    return Sample(urlencode(fields).encode(), content_type=_FORM)
