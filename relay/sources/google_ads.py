"""Google Ads: leads of lead form assets.

Nothing is signed: the key that the advertiser chose stands in the body as `google_key`. Whoever saw one delivery
can make another, so the address is best kept secret too.
https://developers.google.com/google-ads/webhook/docs/implementation
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.records import Event, Record, Request, Table, Type, instant_ns, instant_of_ns
from relay.signatures import Token
from relay.source import Sample, Vendor

_KEY: Final = "google_key"
_ANSWERS: Final = "user_column_data"
_CLOCK: Final = "lead_submit_time, else the delivery's receipt"

LEADS: Final = Table(
    "leads",
    key=("lead_id",),
    clock=_CLOCK,
    columns={
        **dict.fromkeys(("lead_id", "api_version", "gcl_id", "lead_source"), Type.TEXT),
        # int64, and larger than 2^31 as a rule.
        **dict.fromkeys(("form_id", "campaign_id", "adgroup_id", "creative_id", "asset_group_id"), Type.INT),
        "lead_submit_time": Type.INSTANT,
        "is_test": Type.BOOL,
    },
)
FIELDS: Final = Table(
    "lead_fields",
    key=("lead_id", "column_id"),
    parent=("lead_id",),
    clock=_CLOCK,
    columns=dict.fromkeys(("lead_id", "column_id", "column_name", "string_value"), Type.TEXT),
)


def read(_request: Request, data: Any) -> Iterator[Event]:
    """One lead. Test leads all carry the same `lead_id`, so they are never taken for repetitions."""
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    lead_id, test = data.get("lead_id"), data.get("is_test") is True
    yield Event(
        type="lead",
        data=data,
        id="" if lead_id is None else str(lead_id),
        at=instant_ns(data.get("lead_submit_time")),
        test=test,
        dedup="never" if test else "id" if lead_id else "content",
    )


def scrub(data: Any) -> Any:
    """The body without the advertiser's key; the argument stays as it is."""
    if not isinstance(data, dict):
        return data
    return {name: value for name, value in data.items() if name != _KEY}


vendor = Vendor(
    title="Google Ads lead forms",
    family="ads",
    docs="https://developers.google.com/google-ads/webhook/docs/implementation",
    verify=Token(field=_KEY),
    events=read,
    tables=(LEADS, FIELDS),
    scrub=scrub,
    setup=(
        "The lead form asset → Export leads → Other data integration options: this URL, a key of your own.",
        "The secret: that key.",
    ),
    deletes="There are none.",
    limits=("nothing is signed: whoever knows the key can send a lead",),
    proof="documented: a shared key in the body, by Google's description of google_key",
)


@vendor.maps("lead")
def lead(event: Event) -> Iterator[Record]:
    """A lead and its answers. A custom question's `column_id` is the question's own text.

    Raises:
        KeyError: there is no `lead_id`, or an answer names neither column.
    """
    row = {name: value for name, value in event.data.items() if name not in {_KEY, _ANSWERS}}
    lead_id = row["lead_id"]
    if not lead_id:
        raise KeyError("lead_id")
    yield LEADS.row(row, at=event.at)
    answers = event.data.get(_ANSWERS)
    if answers is not None:
        # One answer a column: a set names each of its keys once.
        members = {_column(answer): {**answer, "column_id": _column(answer)} for answer in answers}
        yield FIELDS.children({"lead_id": lead_id}, members.values(), at=event.at)


def _column(answer: dict[str, Any]) -> str:
    column: str = answer.get("column_id") or answer["column_name"]
    if not column:
        raise KeyError("column_id")
    return column


@vendor.sample("lead")
def lead_sample(n: int, now: int) -> Sample:
    """A lead from a search campaign; its key is written by whoever signs the sample."""
    answers = {
        "FULL_NAME": ("Full Name", f"Ida Brandt {n}"),
        "EMAIL": ("User Email", f"lead{n}@mail.example"),
        "PHONE_NUMBER": ("User Phone", f"+4930{n:08d}"),
        "POSTAL_CODE": ("Postal Code", f"{10_000 + n % 90_000}"),
        "how_many_rooms_do_you_have?": ("How many rooms do you have?", str(1 + n % 6)),
    }
    body = {
        "lead_id": f"CjwKsample{n:010d}-leadform-AbCdEfGhIjKlMnOpQrStUvWxYz",
        "user_column_data": [
            {"column_name": name, "string_value": value, "column_id": column}
            for column, (name, value) in answers.items()
        ],
        "api_version": "1.0",
        "form_id": 40_000_000_000 + n % 5,
        "campaign_id": 10_000_000_000 + n % 20,
        "is_test": False,
        "gcl_id": f"EAIaIQsample{n:010d}",
        "adgroup_id": 20_000_000_000 + n % 40,
        "creative_id": 30_000_000_000 + n % 80,
        "asset_group_id": 0,
        "lead_submit_time": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}",
        "lead_source": "LANDING_PAGE",
    }
    return Sample(body)
