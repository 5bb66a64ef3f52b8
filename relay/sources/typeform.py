"""Typeform: responses, their answers and the forms.

https://www.typeform.com/developers/webhooks/secure-your-webhooks/
https://www.typeform.com/developers/webhooks/example-payload/

A webhook without a secret of its own is not signed at all, so it is refused. An answer holds its value under the
name of its type; questions that were skipped have none. `form_response_partial`, of a form that was left, is not
mapped: what it holds is not documented, and it must not overwrite a response.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from relay.records import NS, Event, Record, Request, instant_of_ns
from relay.signatures import Hmac
from relay.source import Sample, Vendor, field, table

_CLOCK: Final = "submitted_at (seconds)"

# fmt: off
RESPONSES = table(
    "responses", "token", _CLOCK,
    text="token form_id event_id response_id response_url",
    instant="landed_at submitted_at", json="calculated ending hidden variables",
)
ANSWERS = table(
    "answers", "token field_id", _CLOCK, "token",
    # `date` is a day without a time, as it was picked.
    text="token field_id field_ref field_type title type text email phone_number date url file_url signature "
    "answer_url",
    number="number", bool="boolean", json="choice choices payment multi_format",
)
#: As it was for the latest response.
FORMS = table(
    "forms", "id", _CLOCK, text="id title", json="fields endings settings", instant="submitted_at",
)
# fmt: on


def _submitted(_request: Request, data: Any) -> Any:
    response = data.get("form_response") if isinstance(data, dict) else None
    return response.get("submitted_at") if isinstance(response, dict) else None


vendor = Vendor(
    title="Typeform",
    family="ads",
    docs="https://www.typeform.com/developers/webhooks/",
    verify=Hmac("Typeform-Signature", encoding="base64", prefix="sha256="),
    type=field("event_type"),
    id=field("event_id"),
    at=_submitted,
    tables=(RESPONSES, ANSWERS, FORMS),
    setup=(
        "The form → Connect → Webhooks → Add a webhook: this URL; switch it on.",
        "Edit → Secret: a long text of your own, which is the secret here too. Without one nothing is signed.",
        "Only form_response; partial responses are ignored.",
    ),
    deletes="There are none: what is deleted at Typeform is not told.",
    limits=(
        "questions that were skipped have no row in `answers`",
        "links to uploaded files need a token of Typeform's, and die with the response",
    ),
    proof="vector: typeform.oracle",
    # Five attempts within hours, ten hours for a 503, and 404 or 410 switch it off: the page in `docs`.
    fragile=True,
)


@vendor.maps("form_response")
def response(event: Event) -> Iterator[Record]:
    """A response, its answers and its form.

    Raises:
        KeyError: there is no response, or it has no token.
    """
    data = event.data["form_response"]
    token = data["token"]
    if not token:
        raise KeyError("token")
    form = data.get("definition") or {}
    row = {name: value for name, value in data.items() if name not in {"answers", "definition"}}
    yield RESPONSES.row({**row, "event_id": event.data.get("event_id")}, at=event.at)
    if data.get("answers") is not None:
        titles = {question["id"]: question.get("title") for question in form.get("fields") or ()}
        # One answer a question: a set names each of its keys once.
        members = {answer["field"]["id"]: _answer(answer, titles) for answer in data["answers"]}
        yield ANSWERS.children({"token": token}, members.values(), at=event.at)
    if form.get("id"):
        yield FORMS.row({**form, "submitted_at": data.get("submitted_at")}, at=event.at)


def _answer(answer: dict[str, Any], titles: dict[str, Any]) -> dict[str, Any]:
    asked = answer["field"]
    if not asked["id"]:
        raise KeyError("id")
    value = {name: part for name, part in answer.items() if name != "field"}
    named = {"field_id": asked["id"], "field_ref": asked.get("ref"), "field_type": asked.get("type")}
    return {**value, **named, "title": titles.get(asked["id"])}


@vendor.sample("form_response")
def response_sample(n: int, now: int) -> Sample:
    """A filled-in form with an answer of each common type."""
    asked: dict[str, tuple[str, str, dict[str, Any]]] = {
        "Sd4kFz9QwLm1": ("short_text", "Wie heißen Sie?", {"type": "text", "text": f"Ida Brandt {n}"}),
        "aK27hVbX0pTe": ("email", "Ihre E-Mail?", {"type": "email", "email": f"lead{n}@mail.example"}),
        "Zq81LrMn5UcY": ("phone_number", "Telefon?", {"type": "phone_number", "phone_number": f"+4930{n:08d}"}),
        "wB60tGeJ3xDs": ("number", "Wie viele Zimmer?", {"type": "number", "number": 1 + n % 6}),
        "Xn95oRiC7vHk": ("yes_no", "Jetzt Mieter?", {"type": "boolean", "boolean": n % 2 == 0}),
        "Ty38uWfA4jPb": ("date", "Ab wann?", {"type": "date", "date": f"2026-05-{1 + n % 28:02d}"}),
        "Ev72cSlO6mGz": (
            "multiple_choice",
            "Was ist Ihnen wichtig?",
            {"type": "choices", "choices": {"ids": ["1", "2"], "labels": ["Balkon", "Garten"]}},
        ),
    }
    fields = [
        {"id": id_, "ref": id_.lower(), "type": kind, "title": title} for id_, (kind, title, _) in asked.items()
    ]
    answers = [
        {**answer, "field": {"id": id_, "ref": id_.lower(), "type": kind}}
        for id_, (kind, _, answer) in asked.items()
    ]
    made = {
        "form_id": f"fm{n % 4:04d}",
        "token": f"{n:032x}",
        "landed_at": f"{instant_of_ns(now - 90 * NS):%Y-%m-%dT%H:%M:%SZ}",
        "submitted_at": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}",
        "definition": {"id": f"fm{n % 4:04d}", "title": "Wohnungssuche", "fields": fields, "endings": []},
        "answers": answers,
        "hidden": {"utm_source": "newsletter"},
        "calculated": {"score": n % 10},
        "ending": {"id": "dN5FLyFpCMFo", "ref": "danke"},
    }
    return Sample({"event_id": f"01J{n:023d}", "event_type": "form_response", "form_response": made})
