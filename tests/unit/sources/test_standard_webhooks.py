"""Where senders differ from the recommendation, settings say so."""

from __future__ import annotations

import base64
import datetime as dt
import time

import pytest
import standardwebhooks

from relay.errors import ConfigInvalid, MalformedPayload, Unauthenticated
from relay.records import Request
from relay.sources import standard_webhooks


def read(headers, data, **settings):
    vendor = standard_webhooks.build(settings)
    [event] = vendor.read(Request("POST", "https://relay.example/", headers, b""), data)
    return event, list(vendor.mapper(event.type)(event)) if event.id else []


def test_a_path_that_is_not_text_is_refused_with_the_settings_name():
    with pytest.raises(ConfigInvalid, match="time_field"):
        standard_webhooks.build({"time_field": 7})


def test_a_form_of_secrets_that_nobody_knows_is_refused():
    with pytest.raises(ConfigInvalid, match="secret_form"):
        standard_webhooks.build({"secret_form": "hex"})


def test_a_secret_that_is_text_is_the_key_as_it_stands():
    """Such senders give base64 of their text to the library, which takes it off again."""
    text = "polar_whs_not-base64"
    signer = standardwebhooks.Webhook(base64.b64encode(text.encode()).decode())
    now = dt.datetime.now(dt.UTC)
    headers = {
        "webhook-id": "m",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signer.sign("m", now, "{}"),
    }
    request = Request("POST", "https://relay.example/", headers, b"{}")
    verifier = standard_webhooks.build({"secret_form": "text"}).verifier({})
    verifier.verify(request, (text,), time.time_ns())
    with pytest.raises(Unauthenticated):
        standard_webhooks.vendor.verifier({}).verify(request, (text,), time.time_ns())


def test_a_body_without_a_type_says_which_setting_to_change():
    with pytest.raises(MalformedPayload, match="type_field"):
        read({"webhook-id": "m"}, {"event": "x"})


def test_without_a_type_field_all_events_are_of_one_type():
    event, _ = read({"webhook-id": "m"}, {"event": "x"}, type_field="")
    assert event.type == "event"


def test_the_id_is_that_which_is_signed_where_both_names_are_there():
    event, _ = read({"webhook-id": "signed", "svix-id": "not signed"}, {"type": "x"})
    assert event.id == "signed"


def test_an_event_without_a_delivery_id_is_quarantined():
    event, _ = read({}, {"type": "x"})
    mapper = standard_webhooks.vendor.mapper("x")
    assert mapper is not None
    with pytest.raises(KeyError, match="webhook-id"):
        list(mapper(event))


def test_columns_of_the_relays_own_are_never_taken_from_a_body():
    _, [record] = read({"webhook-id": "m"}, {"type": "x", "_relay_version": "9", "more": 1})
    assert record.data == {"id": "m", "body_id": None, "type": "x", "timestamp": None, "data": None, "more": 1}
