"""Handshakes, secrets and readers of the vendors that do more than sign a body and name a type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest

from relay.errors import MalformedPayload, Unauthenticated
from relay.records import NS, Event, Record, Request, encode_json
from relay.signatures import with_headers
from relay.source import Reply, Vendor
from relay.sources import google_ads, intercom, meta, zendesk

URL = "https://relay.example/hooks/source"
NOW = 1_772_442_907 * NS


def post(body: Any, **headers: str) -> Request:
    raw = body if isinstance(body, bytes) else encode_json(body)
    return Request("POST", URL, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def records(vendor: Vendor, body: Any) -> Iterator[list[Record]]:
    """The records of each event, lazily, so that one that cannot be mapped fails alone."""
    for event in vendor.read(post(body), body):
        mapper = vendor.mapper(event.type)
        yield list(mapper(event)) if mapper else []


# --- Meta: GET hub.challenge ------------------------------------------------------------------------------


def challenge(method: str = "GET", **query: str) -> Request:
    asked = {"mode": "subscribe", "verify_token": "opensesame", "challenge": "1158201444", **query}
    return Request(method, URL, {}, b"", {f"hub.{name}": value for name, value in asked.items() if value != "-"})


def shake(request: Request, settings: Mapping[str, Any]) -> Reply | None:
    return meta.handshake(request, ("app-secret",), settings)


def test_meta_gets_its_challenge_back_as_plain_text() -> None:
    reply = shake(challenge(), {"verify_token": "opensesame"})
    assert reply == Reply(200, b"1158201444", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    "query",
    [
        {"verify_token": "opensesamE"},
        {"verify_token": ""},
        {"verify_token": "-"},
        {"verify_token": "öffne dich"},
        {"mode": "unsubscribe"},
        {"mode": ""},
        {"challenge": "-"},
        {"challenge": ""},
    ],
)
def test_meta_is_refused_with_nothing_said_where_the_challenge_does_not_fit(query: dict[str, str]) -> None:
    assert shake(challenge(**query), {"verify_token": "opensesame"}) == Reply(403, b"")


@pytest.mark.parametrize("settings", [{}, {"verify_token": None}, {"verify_token": ""}])
@pytest.mark.parametrize("token", ["opensesame", "", "-", "None"])
def test_meta_is_refused_while_no_verify_token_is_set(settings: dict[str, Any], token: str) -> None:
    assert shake(challenge(verify_token=token), settings) == Reply(403, b"")


@pytest.mark.parametrize(
    "request_",
    [
        challenge("POST"),
        challenge("HEAD"),
        challenge(mode="-"),
        Request("GET", URL, {}, b""),
        post({"object": "page"}),
    ],
    ids=["POST", "HEAD", "no hub.mode", "plain GET", "an event"],
)
def test_meta_answers_only_requests_of_the_challenges_shape(request_: Request) -> None:
    assert shake(request_, {"verify_token": "opensesame"}) is None


def test_the_app_secret_is_not_a_verify_token() -> None:
    assert shake(challenge(verify_token="app-secret"), {"verify_token": "opensesame"}) == Reply(403, b"")


# --- Meta: changes of several pages in one delivery --------------------------------------------------------


def leadgen(**value: Any) -> dict[str, Any]:
    return {"field": "leadgen", "value": value}


@pytest.mark.parametrize(
    "bad",
    [{"field": "leadgen"}, {"field": "leadgen", "value": None}, leadgen(page_id="5501"), leadgen(leadgen_id="")],
)
def test_a_lead_without_value_or_id_fails_alone(bad: dict[str, Any]) -> None:
    good = leadgen(leadgen_id="7", created_time=1_772_442_907)
    body = {"object": "page", "entry": [{"id": "5501", "changes": [bad, good]}]}
    first, second = meta.vendor.read(post(body), body)
    mapper = meta.vendor.mappers["leadgen"]
    with pytest.raises((KeyError, TypeError)):
        list(mapper(first))
    assert (first.type, first.dedup, second.id, second.dedup) == ("leadgen", "content", "7", "id")
    assert [r.data["leadgen_id"] for r in mapper(second)] == ["7"]


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"value": 3}, {"field": 7}, {"field": ""}])
def test_a_change_that_is_none_is_an_unknown_event_and_its_siblings_stand(junk: Any) -> None:
    body = {"entry": [{"id": "5501", "changes": [junk, leadgen(leadgen_id=7)]}, junk]}
    assert [e.type for e in meta.vendor.read(post(body), body)] == ["unknown", "leadgen", "unknown"]


@pytest.mark.parametrize("body", [[], "page", 3, None, {"entry": {}}, {"entry": "x"}, {"entry": None}])
def test_a_body_that_is_not_metas_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedPayload):
        meta.vendor.read(post(body), body)


def test_other_fields_and_shapes_of_meta_are_named_and_make_no_rows() -> None:
    messages = {"id": "5501", "time": 1, "messaging": [{"message": {"text": "hi"}}]}
    body = {"entry": [{"id": "5501", "time": 1_772_442_907, "changes": [{"field": "feed", "value": 1}]}, messages]}
    events = meta.vendor.read(post(body), body)
    assert [(e.type, e.at) for e in events] == [("feed", NOW), ("unknown", None)]
    assert list(records(meta.vendor, body)) == [[], []]


def test_the_dashboards_test_lead_is_never_a_repetition() -> None:
    body = {"entry": [{"id": "0", "changes": [leadgen(leadgen_id="444444444444")]}]}
    (event,) = meta.vendor.read(post(body), body)
    assert (event.test, event.dedup) == (True, "never")


def test_a_hydrated_lead_wins_over_the_thin_one_of_the_same_second() -> None:
    thin = leadgen(leadgen_id="7", created_time=1_772_442_907)
    full = leadgen(leadgen_id="7", created_time=1_772_442_907, field_data=[])
    body = {"entry": [{"id": "5501", "changes": [thin, full]}]}
    first, second = records(meta.vendor, body)
    assert first[0].version < second[0].version
    assert [r.op for r in second] == ["row", "set"]


# --- Google Ads: the key in the body -------------------------------------------------------------------------


LEAD = {
    "lead_id": "a",
    "google_key": "k3y",
    "user_column_data": [{"column_id": "CITY", "string_value": "Potsdam"}],
}


def test_the_google_key_is_taken_out_and_the_argument_left_alone() -> None:
    before = deepcopy(LEAD)
    assert google_ads.scrub(LEAD) == {name: value for name, value in LEAD.items() if name != "google_key"}
    assert before == LEAD


@pytest.mark.parametrize("body", [[], "x", None, 3, {}])
def test_scrubbing_takes_any_body(body: Any) -> None:
    assert google_ads.scrub(body) == body


def test_the_google_key_is_in_no_row_even_of_a_body_that_was_not_scrubbed() -> None:
    (rows,) = records(google_ads.vendor, LEAD)
    assert b"k3y" not in encode_json(rows)


@pytest.mark.parametrize("key", ["", "K3Y", "k3y ", None, 3, ["k3y"]])
def test_a_wrong_google_key_is_refused(key: Any) -> None:
    verifier = google_ads.vendor.verifier({})
    verifier.verify(post(LEAD), ("other", "k3y"), NOW)
    with pytest.raises(Unauthenticated):
        verifier.verify(post({**LEAD, "google_key": key}), ("other", "k3y"), NOW)


def test_googles_test_leads_all_count_for_they_share_one_id() -> None:
    (test,) = google_ads.vendor.read(post(LEAD), {**LEAD, "is_test": True})
    (real,) = google_ads.vendor.read(post(LEAD), {**LEAD, "is_test": False})
    (bare,) = google_ads.vendor.read(post(LEAD), {"is_test": "true"})
    assert [(e.id, e.test, e.dedup) for e in (test, real, bare)] == [
        ("a", True, "never"),
        ("a", False, "id"),
        ("", False, "content"),
    ]


@pytest.mark.parametrize("body", [[], "x", None, 3])
def test_a_body_that_is_not_googles_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedPayload):
        google_ads.vendor.read(post(body), body)


# --- Zendesk: the secret that everyone knows -----------------------------------------------------------------


@pytest.mark.parametrize("secrets", [(zendesk.TEST_SECRET,), (zendesk.TEST_SECRET, "private"), ()])
@pytest.mark.parametrize("known", [zendesk.TEST_SECRET, f" {zendesk.TEST_SECRET}\n"])
def test_zendesks_published_secret_proves_nothing_even_where_it_is_configured(
    secrets: tuple[str, ...], known: str
) -> None:
    verifier = zendesk.vendor.verifier({})
    forged = verifier.sign(post({"type": "zen:event-type:ticket.created"}), known, NOW)
    with pytest.raises(Unauthenticated):
        verifier.verify(forged, tuple(known if s == zendesk.TEST_SECRET else s for s in secrets), NOW)


def test_a_private_secret_beside_the_published_one_still_proves() -> None:
    verifier = zendesk.vendor.verifier({})
    signed = verifier.sign(post({}), "private", NOW)
    verifier.verify(signed, (zendesk.TEST_SECRET, "private"), NOW)
    with pytest.raises(Unauthenticated, match="away"):
        verifier.verify(signed, ("private",), NOW + 301 * NS)


def test_a_trigger_made_id_is_a_tickets_and_never_a_delivery_id() -> None:
    """Two changes of one ticket carry the same `id`: taken for the delivery's, the second would be dropped."""
    body = {"id": "5158", "time": "now"}
    (bare,) = zendesk.vendor.read(post(body), body)
    (invoked,) = zendesk.vendor.read(post(body, x_zendesk_webhook_invocation_id="01J"), body)
    assert [(e.type, e.id, e.at, e.dedup) for e in (bare, invoked)] == [
        ("trigger", "", None, "content"),
        ("trigger", "01J", None, "id"),
    ]


@pytest.mark.parametrize("body", [{}, {"id": ""}, {"id": True}, {"ticket": "5158"}, {"ticket": {}, "id": None}])
def test_a_trigger_that_names_no_ticket_cannot_be_mapped(body: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        list(records(zendesk.vendor, body))


@pytest.mark.parametrize("body", [[], "x", None, 3])
def test_a_body_that_is_not_zendesks_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedPayload):
        zendesk.vendor.read(post(body), body)


def ticket_event(what: str, detail: Any) -> list[Record]:
    body = {"type": f"zen:event-type:ticket.{what}", "subject": "zen:ticket:9", "detail": detail}
    (rows,) = records(zendesk.vendor, {**body, "time": "2026-03-02T09:15:07Z", "event": {}})
    return rows


def test_at_one_time_a_deleted_ticket_wins_over_a_changed_and_that_over_a_new_one() -> None:
    whole = {"id": "9", "status": "OPEN"}
    versions = [ticket_event(what, whole)[0].version for what in ("created", "tags_changed", "soft_deleted")]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("detail", [{}, None, {"id": "9"}])
def test_a_ticket_event_without_a_snapshot_blanks_no_row(detail: Any) -> None:
    assert ticket_event("tags_changed", detail) == []
    assert ticket_event("permanently_deleted", detail)[0].data == {"id": "9"}


# --- Intercom ------------------------------------------------------------------------------------------------


def test_intercoms_signature_is_hmac_sha1_of_the_body() -> None:
    """RFC 2202, HMAC-SHA-1 test case 2."""
    request = post(b"what do ya want for nothing?")
    signed = with_headers(request, {"X-Hub-Signature": "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"})
    intercom.vendor.verifier({}).verify(signed, ("Jefe",), NOW)
    other = with_headers(request, {"X-Hub-Signature": "sha256=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"})
    with pytest.raises(Unauthenticated):
        intercom.vendor.verifier({}).verify(other, ("Jefe",), NOW)


def notice(topic: str, item: dict[str, Any]) -> dict[str, Any]:
    return {"topic": topic, "id": None, "created_at": 1_772_442_907, "data": {"item": item}}


def test_intercoms_ping_is_an_event_without_rows() -> None:
    body = notice("ping", {"type": "ping", "message": "hello"})
    (event,) = intercom.vendor.read(post(body), body)
    assert isinstance(event, Event)
    assert (event.type, event.id, event.dedup, intercom.vendor.mapper("ping")) == ("ping", "", "content", None)


def test_within_one_second_intercoms_newest_state_wins_and_a_delete_is_last() -> None:
    bodies = [
        notice("contact.user.created", {"id": "c", "updated_at": "2026-03-02T09:15:07.100Z"}),
        notice("contact.user.updated", {"id": "c", "updated_at": "2026-03-02T09:15:07.100Z"}),
        notice("contact.user.updated", {"id": "c", "updated_at": "2026-03-02T09:15:07.988Z"}),
        notice("contact.deleted", {"id": "c"}),
    ]
    versions = [rows[0].version for body in bodies for rows in records(intercom.vendor, body)]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("topic", ["contact.archived", "contact.unarchived", "conversation.admin.closed"])
def test_an_intercom_object_without_id_cannot_be_mapped(topic: str) -> None:
    for item in ({"created_at": 1, "id": None}, {"created_at": 1}):
        with pytest.raises(KeyError):
            list(records(intercom.vendor, notice(topic, item)))


def test_a_contacts_identity_alone_blanks_no_row() -> None:
    assert list(records(intercom.vendor, notice("contact.user.updated", {"type": "contact", "id": "c"}))) == [[]]
