"""Meta: leads of Facebook and Instagram lead ads.

One address serves every page of an app, and one delivery may hold changes of several pages and fields. A leadgen
change is thin: it names the lead, and only a hydrated one carries `field_data`.
https://developers.facebook.com/docs/marketing-api/guides/lead-ads/retrieving
https://developers.facebook.com/docs/graph-api/webhooks/getting-started
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import MalformedPayload
from relay.records import NS, Event, Record, Request, Table, Type, instant_ns
from relay.signatures import Hmac, same
from relay.source import FETCHED, Fetch, Reply, Sample, Setting, Vendor, api

_CLOCK: Final = "created_time (seconds)"
#: What the "Test" button of an app's dashboard sends, always the same.
_TEST_LEAD: Final = "444444444444"
#: At one created_time a hydrated lead says more than a thin one.
_THIN, _HYDRATED = 0, 10

LEADS: Final = Table(
    "leads",
    key=("leadgen_id",),
    clock=_CLOCK,
    columns={
        # Strings in webhooks, numbers in some exports.
        **dict.fromkeys(("leadgen_id", "page_id", "form_id", "ad_id", "adgroup_id", "entry_id"), Type.ID),
        **dict.fromkeys(("adset_id", "campaign_id"), Type.ID),
        **dict.fromkeys(("ad_name", "adset_name", "campaign_name", "platform", "partner_name"), Type.TEXT),
        **dict.fromkeys(("custom_disclaimer_responses", "home_listing"), Type.JSON),
        "created_time": Type.INSTANT,
        "is_organic": Type.BOOL,
    },
)
FIELDS: Final = Table(
    "lead_fields",
    key=("leadgen_id", "name"),
    parent=("leadgen_id",),
    clock=_CLOCK,
    columns={"leadgen_id": Type.ID, "name": Type.TEXT, "values": Type.JSON},
)


def handshake(request: Request, _secrets: tuple[str, ...], settings: Mapping[str, Any]) -> Reply | None:
    """Answers `GET ?hub.mode=subscribe&hub.verify_token=…&hub.challenge=…`; without our token it is refused."""
    if request.method != "GET" or "hub.mode" not in request.query:
        return None
    expected = settings.get("verify_token")
    given, challenge = request.query.get("hub.verify_token", ""), request.query.get("hub.challenge", "")
    fits = bool(expected) and same(str(expected), given)
    if fits and request.query["hub.mode"] == "subscribe" and challenge:
        return Reply(200, challenge.encode())
    return Reply(403)


def read(_request: Request, data: Any) -> Iterator[Event]:
    """Each change of each entry is an event of its own, so that a bad one never fails its siblings.

    Raises:
        MalformedPayload: the body is not an object, or its entries are not a list.
    """
    if not isinstance(data, dict):
        raise MalformedPayload("the body is not an object", reason="not_an_object")
    entries = data.get("entry", [data])
    if not isinstance(entries, list):
        raise MalformedPayload("`entry` is not a list", reason="no_entries")
    for entry in entries:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if not isinstance(changes, list):  # a message, or no entry at all
            yield Event(type="unknown", data=entry, dedup="content")
            continue
        for change in changes:
            yield _event(entry, change)


def _event(entry: dict[str, Any], change: Any) -> Event:
    data = {"entry_id": entry.get("id"), "entry_time": entry.get("time")}
    if not isinstance(change, dict):
        return Event(type="unknown", data={**data, "change": change}, dedup="content")
    field, value = change.get("field"), change.get("value")
    known: dict[str, Any] = value if isinstance(value, dict) else {}
    leadgen = field == "leadgen"
    id_ = known.get("leadgen_id") if leadgen else None
    test = leadgen and str(id_) == _TEST_LEAD
    return Event(
        type=field if isinstance(field, str) and field else "unknown",
        data={**change, **data},
        id="" if id_ is None else str(id_),
        at=instant_ns(known.get("created_time") if leadgen else entry.get("time")),
        test=test,
        dedup="never" if test else "id" if id_ else "content",
    )


vendor = Vendor(
    title="Meta lead ads",
    family="ads",
    docs="https://developers.facebook.com/docs/marketing-api/guides/lead-ads/retrieving",
    verify=Hmac("X-Hub-Signature-256", prefix="sha256="),
    events=read,
    tables=(LEADS, FIELDS),
    handshake=handshake,
    settings={
        **api("https://graph.facebook.com/v24.0"),
        "page_token": Setting(
            help="A page access token with `leads_retrieval`; with it a lead's answers are fetched.", secret=True
        ),
        "verify_token": Setting(
            help="The token that you type into the app's webhook form; without it no subscription is confirmed.",
            secret=True,
        ),
    },
    setup=(
        "App dashboard → Webhooks → Page: this URL and the source's verify token; subscribe to `leadgen`.",
        "Subscribe the app to each page.",
        "The secret: the app secret, under App settings → Basic.",
    ),
    deletes="There are none.",
    limits=("a delivery names the lead alone: its answers are fetched where `page_token` is set",),
    proof="vector: github.octokit, of the same scheme",
)


#: https://developers.facebook.com/docs/marketing-api/reference/user-lead-gen-info/
_ASKED: Final = (
    "id,created_time,ad_id,ad_name,adset_id,adset_name,campaign_id,campaign_name,form_id,platform,is_organic,"
    "partner_name,home_listing,custom_disclaimer_responses,field_data"
)


@vendor.hydrates("leadgen", token="page_token", hosts=("graph.facebook.com",))  # noqa: S106 - a setting's name
def answers(event: Event, settings: Mapping[str, Any]) -> Fetch | None:
    """The whole lead, where the change does not carry its answers."""
    value = event.data["value"]
    lead_id = str(value["leadgen_id"])
    if "field_data" in value or not lead_id.isdigit() or event.test:
        return None
    headers = {"Authorization": f"Bearer {settings['page_token']}"}
    return Fetch(f"{settings['api_url']}/{lead_id}?fields={_ASKED}", headers)


@vendor.maps("leadgen")
def lead(event: Event) -> Iterator[Record]:
    """A lead, and its answers where the change carries them.

    Raises:
        KeyError: the change has no value, or the value no `leadgen_id`.
    """
    value = event.data["value"]
    lead_id = value["leadgen_id"]
    if not lead_id:
        raise KeyError("leadgen_id")
    fetched = event.data.get(FETCHED)
    if isinstance(fetched, dict):
        value = {**fetched, **value}
        del value["id"]
    answers = value.get("field_data")
    rank = _THIN if answers is None else _HYDRATED
    row = {name: part for name, part in value.items() if name != "field_data"}
    yield LEADS.row({**row, "entry_id": event.data["entry_id"]}, at=event.at, rank=rank)
    if answers is not None:
        # One answer a name: a set names each of its keys once.
        members = {answer["name"]: answer for answer in answers if answer["name"]}
        yield FIELDS.children({"leadgen_id": lead_id}, members.values(), at=event.at, rank=rank)


@vendor.sample("leadgen")
def lead_sample(n: int, now: int) -> Sample:
    """A new lead of one page, with its answers, as a hydrated change has them."""
    page = str(112_464_600_187_000 + n % 7)
    answers = {
        "full_name": f"Ida Brandt {n}",
        "email": f"lead{n}@mail.example",
        "phone_number": f"+4930{n:08d}",
        "street_address": f"Mühlenweg {1 + n % 90}",
        "city": "Potsdam",
        "how_soon_do_you_want_to_move?": ("this_month", "this_year", "not_sure")[n % 3],
    }
    value = {
        "created_time": now // NS,
        "leadgen_id": str(1_459_076_748_000_000 + n),
        "page_id": page,
        "form_id": str(1_616_801_872_291_000 + n % 9),
        "ad_id": str(120_210_000_000_000_000 + n % 50),
        "adgroup_id": str(120_210_000_000_100_000 + n % 20),
        "platform": ("fb", "ig")[n % 2],
        "is_organic": False,
        "field_data": [{"name": name, "values": [answer]} for name, answer in answers.items()],
    }
    entry = {"id": page, "time": now // NS + 2, "changes": [{"field": "leadgen", "value": value}]}
    return Sample({"object": "page", "entry": [entry]})
