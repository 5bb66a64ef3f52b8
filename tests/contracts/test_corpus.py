"""Bodies that vendors publish or that their users captured: none may be too much for a mapper.

The collection lies beside the repository, not in it, as its texts are not ours: `../shared/corpus/<kind>/<file>`,
with ORIGINS.md that says of each what it is. Without it there is one check left, that there is nothing to check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from relay.records import Event, Record, Request, decode_json, encode_json
from relay.source import Vendor
from tests.contracts import sources

CORPUS = Path(__file__).parents[2] / "../shared/corpus"
KINDS = sources.kinds()
#: Headers that say what a body is, where neither the body nor ORIGINS.md does.
HEADERS = {
    "github/zulip.push__multiple_committers_with_others.json": {
        "x-github-event": "push",
        "x-github-delivery": "aa000000-0000-11f0-8000-000000000001",
    },
    "github/zulip.issues__demilestoned.json": {"x-github-event": "issues"},
    "github/zulip.check_run__completed.json": {"x-github-event": "check_run"},
    "github/zulip.ping__organization.json": {"x-github-event": "ping"},
    "shopify/triggerdev2023.Order.json": {"x-shopify-topic": "orders/cancelled"},
    "shopify/triggerdev2023.Refund.json": {"x-shopify-topic": "refunds/create"},
    "shopify/triggerdev2023.CompanyLocationsCreate.json": {"x-shopify-topic": "company_locations/create"},
    "shopify/rudder.CheckoutEventsTests.1.json": {"x-shopify-topic": "checkouts/update"},
    "woocommerce/pipedream.woocommerce.new-order-event.json": {"x-wc-webhook-topic": "order.created"},
}
#: Only the inner part was published: the type of the event that it was in.
UNWRAPPED = {"stripe/payrails.invoice.upcoming.json": "invoice.upcoming"}
#: Bodies that whoever published them cut down to less than what the vendor sends: quarantined, and why.
CUT_DOWN = {
    "github/webhookdb.github_issue_comment_v1.4.json": "comment",  # what the API answers, without its event
    "shopify/rudder.CheckoutEventsTests.1.json": "token",  # a checkout without its key
    "stripe/v2thin.v1Payload.json": "data",  # an event without its object
    "appsflyer/rudder.appsflyer.3.json": "event_name",  # taken out, to see what follows
    "unbounce/snowplow.Unbounce.4.form.txt": "data.json",  # without what was entered
    "unbounce/snowplow.Unbounce.5.form.txt": "data.json",
    "calendly/pipedream.calendly_v2.new-event-scheduled.json": "payload",  # the API's record, without its delivery
    "mailchimp/snowplow.Mailchimp.1.form.txt": "list_id",  # a name, without whose
    "mailchimp/snowplow.Mailchimp.2.form.txt": "list_id",
    "meta/rudder.facebook_lead_ads_native.1.json": "value",  # one of its changes is emptied, to see what follows
}
#: Where a kind's bodies lie under another name.
FOLDERS = {"mandrill": "mailchimp_mandrill"}
_LISTED = CORPUS / "ORIGINS.md"
ORIGINS = dict(re.findall(r"(?m)^- `([^`]+)`: (.*)$", _LISTED.read_text("utf-8") if _LISTED.exists() else ""))


def folder_of(kind: str) -> Path:
    return CORPUS / FOLDERS.get(kind, kind)


class Body(NamedTuple):
    """One file of the collection."""

    kind: str
    file: str

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.file}"

    @property
    def vendor(self) -> Vendor:
        return sources.vendor_of(self.kind)

    def request(self) -> Request:
        """The delivery, with what is known of its headers."""
        path = folder_of(self.kind) / self.file
        form = ".form." in self.file
        headers = {"content-type": "application/x-www-form-urlencoded" if form else "application/json"}
        beside = path.with_name(re.sub(r"\.(json|form\.txt)$", ".headers.json", self.file))
        if beside.exists():
            headers |= {name.lower(): value for name, value in json.loads(beside.read_bytes()).items()}
        topic = re.search(r"topic=(\S+)", ORIGINS.get(self.name, ""))
        if topic:
            headers["x-shopify-topic"] = topic[1]
        raw = path.read_bytes()
        if self.name in UNWRAPPED:
            raw = encode_json({"type": UNWRAPPED[self.name], "data": decode_json(raw)})
        return Request("POST", f"https://relay.example/{self.kind}", headers | HEADERS.get(self.name, {}), raw)


def bodies() -> list[Body]:
    found = [Body(kind, path.name) for kind in KINDS for path in sorted(folder_of(kind).glob("*"))]
    return [body for body in found if not body.file.endswith(".headers.json") and "query" not in body.file]


BODIES = bodies()


def as_types(vendor: Vendor, event: Event, file: str) -> Iterator[Event]:
    """The event under its own type; where that is not mapped, under each mapped type that the file's name fits."""
    if vendor.mapper(event.type) is not None:
        yield event
        return
    known = [*vendor.mappers, *(prefix[:-1] for prefix, _ in vendor.families)]
    for type_ in known:
        if type_ and f".{words(type_)}." in f".{words(file)}.":
            yield msgspec.structs.replace(event, type=type_)


def words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", ".", text.lower()).strip(".")


def records_of(body: Body) -> list[Record]:
    events = sources.read(body.vendor, body.request())
    typed = [one for event in events for one in as_types(body.vendor, event, body.file)]
    return [record for event in typed for record in sources.mapped(body.vendor, event)]


def of(found: list[Any]) -> pytest.MarkDecorator:
    """The parameters of a test; one that is None where there are none, so that something is checked even then."""
    return pytest.mark.parametrize("body", found or [None], ids=lambda body: body.name if body else "no corpus")


@of([body for body in BODIES if body.name not in CUT_DOWN])
def test_a_real_body_is_mapped_to_rows_with_keys(body: Body | None) -> None:
    if body is None:
        assert not CORPUS.exists()
        return
    for record in records_of(body):
        sources.check(record, body.vendor.tables[record.table])


@of([body for body in BODIES if body.name in CUT_DOWN])
def test_a_body_that_was_cut_down_is_quarantined_by_the_field_it_lacks(body: Body | None) -> None:
    if body is None:
        assert not CORPUS.exists()
        return
    with pytest.raises(KeyError, match=CUT_DOWN[body.name]):
        records_of(body)


@pytest.mark.parametrize("kind", KINDS)
def test_some_real_body_of_a_kind_becomes_rows(kind: str) -> None:
    """Else the check above says nothing of that kind."""
    real = [body for body in BODIES if body.kind == kind and body.name not in CUT_DOWN]
    assert not real or any(records_of(body) for body in real)
