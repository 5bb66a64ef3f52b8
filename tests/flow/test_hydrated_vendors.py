"""The vendors that name objects and do not send them: what is asked of each, and what becomes of the answer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from relay import configured, fetching, intake
from relay.buffer import ledger
from relay.records import Event, Request, encode_json
from relay.source import FETCHED
from tests.flow.test_history import Here
from tests.flow.test_hydration import Graph

URL = "https://relay.example/hooks/shop"
SECRET = "a-secret-of-ours"
ORDER = {"orderId": 941, "orderNumber": "NL-1", "modifyDate": "2026-03-01T00:16:02.443", "orderTotal": 39.4}
LEAD = "urn:li:leadGenFormResponse:9f3a1c77-0b2e-4d55-8a61-71c0de5a10b2-5"


class Case(NamedTuple):
    """One thin delivery: what is asked for it, with which headers, and what is then in the warehouse."""

    kind: str
    settings: dict[str, Any]
    body: Any
    path: str
    headers: dict[str, str]
    answer: Any
    query: str
    rows: list[tuple[Any, ...]]
    token: str = "api_token"


CASES = (
    Case(
        "bigcommerce",
        {"api_token": "bc-token", "store_hash": "nord"},
        {
            "scope": "store/order/updated", "store_id": "1", "producer": "stores/nord", "hash": "abc",
            "created_at": 1_772_352_900, "data": {"type": "order", "id": 250},
        },
        "/stores/nord/v2/orders/250?include=consignments.line_items,fees&consignment_structure=object",
        {"X-Auth-Token": "bc-token", "Accept": "application/json"},
        {
            "id": 250, "status": "Shipped", "total_inc_tax": "19.9900",
            "date_modified": "Sun, 01 Mar 2026 08:15:01 +0000",
            "consignments": {"shipping": [{"line_items": [{"id": 7, "name": "Tea", "quantity": 2}]}]},
        },
        "SELECT o.id, o.status, o.total_inc_tax, l.name, l.quantity FROM shop_orders o, shop_order_lines l"
        " WHERE l.order_id = o.id",
        [("250", "Shipped", "19.9900", "Tea", 2)],
    ),
    Case(
        "square",
        {"api_token": "sq-token"},
        {
            "merchant_id": "ML1", "type": "order.updated", "event_id": "e-1", "created_at": "2026-03-01T08:15:01Z",
            "data": {"type": "order_updated", "id": "ord1", "object": {"order_updated": {
                "order_id": "ord1", "version": 3, "state": "OPEN", "location_id": "L1",
                "updated_at": "2026-03-01T08:15:00Z"}}},
        },
        "/v2/orders/ord1",
        {"Authorization": "Bearer sq-token", "Square-Version": "2026-01-22"},
        {"order": {
            "id": "ord1", "version": 4, "state": "COMPLETED", "updated_at": "2026-03-01T08:16:00Z",
            "line_items": [{"uid": "u1", "name": "Tea", "quantity": "2"}]}},
        "SELECT o.order_id, o.state, o.version, l.name FROM shop_orders o, shop_order_lines l"
        " WHERE l.order_id = o.order_id",
        [("ord1", "COMPLETED", 4, "Tea")],
    ),
    Case(
        "hubspot",
        {"api_token": "hs-token", "properties": {"company": ["hs_persona", "x&y=z"]}},
        [{
            "portalId": 6, "subscriptionId": 2, "eventId": 3, "objectId": 71, "occurredAt": 1_772_352_960_000,
            "subscriptionType": "company.creation",
        }],
        "/crm/v3/objects/0-2/71?properties=name,domain,phone,website,industry,annualrevenue,numberofemployees,"
        "address,city,state,zip,country,lifecyclestage,hubspot_owner_id,createdate,hs_persona",
        {"Authorization": "Bearer hs-token"},
        {
            "id": "71", "createdAt": "2026-03-01T08:16:00Z", "updatedAt": "2026-03-01T08:16:00.5Z",
            "properties": {"name": "Fjord AS", "domain": "fjord.example", "annualrevenue": "1200000.50"},
        },
        'SELECT "portalId", "objectId", name, annualrevenue FROM shop_companies',
        [("6", "71", "Fjord AS", "1200000.50")],
    ),
    Case(
        "stripe",
        {"api_key": "rk_live_1"},
        {
            "id": "evt_1", "object": "v2.core.event", "type": "v2.core.account.updated", "livemode": True,
            "created": "2026-03-01T08:15:00.250Z", "context": "acct_9",
            "related_object": {"id": "acct_1", "type": "v2.core.account", "url": "/v2/core/accounts/acct_1"},
        },
        "/v2/core/accounts/acct_1?include%5B0%5D=identity&include%5B1%5D=defaults&include%5B2%5D=requirements"
        "&include%5B3%5D=configuration.customer&include%5B4%5D=configuration.merchant",
        {"Authorization": "Bearer rk_live_1", "Stripe-Version": "2026-01-28.clover", "Stripe-Context": "acct_9"},
        {"id": "acct_1", "object": "v2.core.account", "display_name": "Nord", "closed": False},
        "SELECT id, display_name FROM shop_v2_accounts",
        [("acct_1", "Nord")],
        "api_key",
    ),
    Case(
        "linkedin",
        {"api_token": "li-token"},
        {
            "type": "LEAD_ACTION", "leadGenFormResponse": LEAD, "leadType": "SPONSORED", "leadAction": "CREATED",
            "occurredAt": 1_772_442_907_123,
        },
        f"/rest/leadFormResponses/{LEAD.rpartition(':')[2]}?fields=id,owner,submitter,submittedAt,testLead,leadType,"
        "versionedLeadGenFormUrn,associatedEntity,leadMetadata,formResponse,form:(id,name,hiddenFields,content)",
        {"Authorization": "Bearer li-token", "LinkedIn-Version": "202601", "X-Restli-Protocol-Version": "2.0.0"},
        {
            "id": LEAD.rpartition(":")[2], "submittedAt": 1_772_442_906_800,
            "formResponse": {"answers": [
                {"questionId": 8, "answerDetails": {"textQuestionAnswer": {"answer": "lena@mail.example"}}}]},
            "form": {"content": {"questions": [{"questionId": 8, "predefinedField": "EMAIL"}]}},
        },
        'SELECT "leadAction", "predefinedField", answer FROM shop_leads, shop_lead_answers',
        [("CREATED", "EMAIL", "lena@mail.example")],
    ),
    Case(
        "ecwid",
        {"api_token": "ec-token", "store_id": 1003},
        {
            "eventId": "80aece08", "eventCreated": 1_772_529_307, "storeId": 1003, "entityId": 66,
            "eventType": "order.updated", "data": {"orderId": "XJ12H"},
        },
        "/api/v3/1003/orders/XJ12H",
        {"Authorization": "Bearer ec-token"},
        {"id": "XJ12H", "total": 52.0, "updateTimestamp": 1_772_529_306, "items": [{"id": 5, "name": "Tea"}]},
        'SELECT o."orderId", o.total, i.name FROM shop_orders o, shop_order_items i',
        [("XJ12H", "52.0", "Tea")],
    ),
    Case(
        "shipstation",
        {"api": "v1", "api_key": "ss-key", "api_secret": "ss-secret"},
        {
            "resource_url": "https://evil.example/orders?storeID=7001&importBatch=1ab2-3c",
            "resource_type": "ORDER_NOTIFY",
        },
        "/orders?storeID=7001&importBatch=1ab2-3c&pageSize=500",
        {"Authorization": "Basic " + base64.b64encode(b"ss-key:ss-secret").decode()},
        {"orders": [{**ORDER, "items": [{"orderItemId": 1, "name": "Tea", "quantity": 2}]}], "pages": 1},
        'SELECT o."orderNumber", o."orderTotal", i.name FROM shop_orders o, shop_order_items i',
        [("NL-1", "39.4", "Tea")],
        "api_key",
    ),
)  # fmt: skip
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)


class Api(Graph):
    """A vendor's API that answers one thing at one path, and nothing elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.url = self.url.removesuffix("/v24.0")
        self.known: dict[str, Any] = {}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        found = self.known.get(path)
        return (404, {}, b"{}") if found is None else (200, {}, json.dumps(found).encode())


class Shop(Here):
    """A relay with one source of the case's vendor."""

    def __init__(self, url: str, folder: Path, api: Api, case: Case, **more: Any) -> None:
        own = {"api_url": api.url, "api_per_second": 1000, "public_url": URL, **case.settings, **more}
        block = {"kind": case.kind, "secrets": [SECRET], **own}
        super().__init__(url, folder, sources={"shop": {k: v for k, v in block.items() if v is not None}})
        self.case = case

    def deliver(self) -> None:
        source = configured.sources_of(self.config)["shop"]
        plain = Request("POST", URL, {"content-type": "application/json"}, encode_json(self.case.body))
        signed = source.verifier.sign(plain, SECRET, time.time_ns())
        answer = self.web.post(
            "/hooks/shop", data=signed.body, headers=dict(signed.headers), query_string=dict(signed.query)
        )
        assert answer.status_code in {200, 202}, answer.text

    def states(self) -> dict[str, int]:
        assert ledger.audit(self.client, deep=True) == []
        return {state: n for state, n in ledger.read(self.client).events["shop"].items() if n}


@pytest.fixture
def api() -> Iterator[Api]:
    found = Api()
    yield found
    found.close()


@each
def test_a_thin_delivery_is_fetched_with_the_token_and_becomes_whole_rows(
    redis_url: str, tmp_path: Path, api: Api, case: Case
) -> None:
    here = Shop(redis_url, tmp_path, api, case)
    api.known[case.path] = case.answer
    here.deliver()
    assert here.states() == {"accepted": 1, "waiting": 1}
    fetching.work(here.config, "shop")
    ((path, headers),) = api.asked
    assert path == case.path
    assert case.headers.items() <= headers.items()
    assert here.states() == {"accepted": 1, "mapped": 1}
    here.drain()
    assert here.sql(case.query) == case.rows
    dry = here.rehearse("shop")
    assert (dry["inserted"], dry["changed"]) == (0, 0)
    assert len(api.asked) == 1, "a replay asks nobody"


@each
def test_without_a_token_nobody_is_asked_and_the_thin_rows_are_there_at_once(
    redis_url: str, tmp_path: Path, api: Api, case: Case
) -> None:
    here = Shop(redis_url, tmp_path, api, case, **{case.token: None})
    here.deliver()
    assert here.states() == {"accepted": 1, "mapped": 1}
    fetching.work(here.config, "shop")
    assert api.asked == []


@each
def test_what_the_vendor_has_no_more_is_mapped_as_it_came(
    redis_url: str, tmp_path: Path, api: Api, case: Case
) -> None:
    here = Shop(redis_url, tmp_path, api, case)
    here.deliver()
    fetching.work(here.config, "shop")
    assert len(api.asked) == 1
    assert here.states() == {"accepted": 1, "mapped": 1}


# --- what is never asked ------------------------------------------------------------------------------

#: Texts that must not get into a URL where an id stands.
HOSTILE = (
    *(
        "../../admin",
        "1/../2",
        "1?x=1",
        "1#x",
        "1%2f..",
        "1 2",
        "1\n",
        "1@evil.example",
        "//evil.example",
        "é",
        "٣",
    ),
    *("", ".", "..", "x" * 300, None, True, 1.5, {}, [], ["1"]),
)
#: Where a case's body says the id.
PLACES = {
    "bigcommerce": ("data", "id"),
    "square": ("data", "id"),
    "hubspot": (0, "objectId"),
    "stripe": ("related_object", "url"),
    "linkedin": ("leadGenFormResponse",),
    "ecwid": ("data", "orderId"),
    "shipstation": ("resource_url",),
}
AROUND = {"linkedin": "urn:li:leadGenFormResponse:{}", "shipstation": "https://ssapi.shipstation.com/orders/{}",
          "stripe": "/v2/core/accounts/{}"}  # fmt: skip


def asked(case: Case, body: Any, headers: dict[str, str] | None = None, **settings: Any) -> Any:
    """What would be fetched for a body."""
    vendor = intake.vendor_of(case.kind, {})
    known = {name: setting.default for name, setting in vendor.settings.items()}
    (event,) = vendor.read(Request("POST", URL, headers or {}, encode_json(body)), body)
    hydration = vendor.hydration(event.type)
    if hydration is None:
        return None
    try:
        return hydration.fetch(event, {**known, **case.settings, **settings})
    except (LookupError, TypeError, ValueError, AttributeError):  # as the job takes it: there is nothing to fetch
        return None


def changed(body: Any, way: tuple[Any, ...], value: Any) -> Any:
    """The body with another value at one place."""
    if not way:
        return value
    copy = list(body) if isinstance(body, list) else dict(body)
    copy[way[0]] = changed(copy[way[0]], way[1:], value)
    return copy


@each
def test_only_the_vendors_own_host_is_asked(case: Case) -> None:
    wanted = asked(case, case.body)
    hydration = intake.vendor_of(case.kind, {}).hydrations[0][1]
    assert wanted is not None
    assert fetching.permitted(wanted.url, hydration.hosts, "")
    assert wanted.url.endswith(case.path)


@each
@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_an_id_of_another_form_is_never_part_of_a_url(case: Case, text: Any) -> None:
    value = AROUND[case.kind].format(text) if case.kind in AROUND and isinstance(text, str) else text
    body = changed(case.body, PLACES[case.kind], value)
    if case.kind == "ecwid" and text in ("", None):
        body["entityId"] = text  # it would stand in
    assert asked(case, body) is None


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bigcommerce", {"store_hash": "another"}),
        ("square", {"merchant_id": "another"}),
        ("hubspot", {"portal_id": 7}),
        ("stripe", {"api_key": "rk_test_1"}),
        ("ecwid", {"store_id": 1004}),
        ("ecwid", {"store_id": None}),
        ("shipstation", {"api": "v2"}),
        ("shipstation", {"api_secret": None}),
    ],
)
def test_what_is_not_of_the_tokens_account_is_not_asked_for(kind: str, settings: dict[str, Any]) -> None:
    (case,) = [case for case in CASES if case.kind == kind]
    assert asked(case, case.body) is not None
    assert asked(case, case.body, **settings) is None


@pytest.mark.parametrize(
    ("kind", "way", "value"),
    [
        ("bigcommerce", ("scope",), "store/order/deleted"),
        ("bigcommerce", ("scope",), "store/order/message/created"),
        ("bigcommerce", ("producer",), "stores/nord/../evil"),
        ("hubspot", (0, "subscriptionType"), "company.deletion"),
        ("hubspot", (0, "subscriptionType"), "company.privacyDeletion"),
        ("stripe", ("type",), "v2.core.account_person.deleted"),
        ("stripe", ("type",), "v2.core.event_destination.ping"),
        ("linkedin", ("leadAction",), "DELETED"),
        ("ecwid", ("eventType",), "order.deleted"),
        ("ecwid", ("storeId",), 1004),
        ("shipstation", ("resource_url",), "https://ssapi.shipstation.com/orders"),
        ("shipstation", ("resource_url",), "https://ssapi.shipstation.com/orders?storeID=7001"),
        ("shipstation", ("resource_url",), "https://ssapi.shipstation.com/accounts?importBatch=1"),
        ("shipstation", ("resource_url",), "https://ssapi.shipstation.com/orders?importBatch=1&page=2"),
        ("shipstation", ("resource_url",), "https://[ssapi/orders?importBatch=1"),
    ],
)
def test_nothing_is_asked_of_deletions_and_of_what_no_table_is_for(
    kind: str, way: tuple[Any, ...], value: Any
) -> None:
    (case,) = [case for case in CASES if case.kind == kind]
    assert asked(case, changed(case.body, way, value)) is None


@pytest.mark.parametrize(
    ("environment", "url", "is_asked"),
    [
        ("Production", "https://connect.squareup.com", True),
        ("Sandbox", "https://connect.squareup.com", False),
        ("Sandbox", "https://connect.squareupsandbox.com", True),
    ],
)
def test_an_order_of_squares_sandbox_is_asked_for_in_the_sandbox_alone(
    environment: str, url: str, is_asked: bool
) -> None:
    (case,) = [case for case in CASES if case.kind == "square"]
    wanted = asked(case, case.body, {"square-environment": environment}, api_url=url)
    assert (wanted is not None) is is_asked


@each
def test_an_answer_of_another_object_is_not_taken_for_the_one_that_was_named(case: Case) -> None:
    if case.kind == "shipstation":  # a list: it names a batch, and what is in that
        return
    vendor = intake.vendor_of(case.kind, {})
    (event,) = vendor.read(Request("POST", URL, {}, encode_json(case.body)), case.body)
    mapper = vendor.mapper(event.type)
    assert mapper is not None
    thin = list(mapper(event))
    answer = changed(case.answer, ("order", "id") if case.kind == "square" else ("id",), "another")
    other = Event(event.type, {**event.data, FETCHED: answer}, event.id, event.at)
    assert list(mapper(other)) == thin
