"""The specification's own library and Svix's sign and verify what our file does."""

from __future__ import annotations

import base64
import datetime as dt
import json
import time
import warnings

import pytest

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.source import Vendor
from relay.sources import standard_webhooks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import standardwebhooks
    import svix.webhooks

SECRET = "whsec_" + base64.b64encode(b"twenty-four bytes, all!!").decode()
OTHER = "whsec_" + base64.b64encode(b"twenty-four other bytes!").decode()
BODY = '{"type":"contact.created","timestamp":"2026-03-01T08:15:58Z","data":{"name":"Jürgen"}}'
VENDOR: Vendor = standard_webhooks.vendor
VERIFIER = VENDOR.verifier({})
LIBRARIES = (
    pytest.param(standardwebhooks.Webhook, "webhook", standardwebhooks.WebhookVerificationError, id="standard"),
    pytest.param(svix.webhooks.Webhook, "svix", svix.webhooks.WebhookVerificationError, id="svix"),
)
libraries = pytest.mark.parametrize(("library", "prefix", "refusal"), LIBRARIES)


def signed_by(library, prefix: str, secret: str = SECRET, body: str = BODY) -> Request:
    now = dt.datetime.now(dt.UTC)
    headers = {
        f"{prefix}-id": "msg_1",
        f"{prefix}-timestamp": str(int(now.timestamp())),
        f"{prefix}-signature": library(secret).sign("msg_1", now, body),
    }
    return Request("POST", "https://relay.example/", headers, body.encode())


@libraries
def test_what_a_library_signs_is_accepted_under_its_own_headers(library, prefix, refusal):
    request = signed_by(library, prefix)
    VERIFIER.verify(request, (SECRET,), time.time_ns())
    assert [event.id for event in VENDOR.read(request, json.loads(BODY))] == ["msg_1"]


@libraries
def test_what_we_sign_is_accepted_by_a_library(library, prefix, refusal):
    request = VERIFIER.sign(Request("POST", "https://relay.example/", {}, BODY.encode()), SECRET, time.time_ns())
    library(SECRET).verify(request.body, dict(request.headers))


@libraries
@pytest.mark.parametrize("change", ["body", "id", "time", "secret", "version"])
def test_what_is_changed_is_refused_by_both(library, prefix, refusal, change):
    request = signed_by(library, prefix)
    headers, body, secret = dict(request.headers), request.body, OTHER if change == "secret" else SECRET
    if change == "body":
        body += b" "
    elif change == "id":
        headers[f"{prefix}-id"] = "msg_2"
    elif change == "time":
        headers[f"{prefix}-timestamp"] = str(int(headers[f"{prefix}-timestamp"]) - 1)
    elif change == "version":
        headers[f"{prefix}-signature"] = headers[f"{prefix}-signature"].replace("v1,", "v1a,")
    with pytest.raises(refusal):
        library(secret).verify(body, headers)
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(Request("POST", request.url, headers, body), (secret,), time.time_ns())


@libraries
def test_of_several_signatures_one_that_fits_is_enough_for_both(library, prefix, refusal):
    """Rotation: the sender signs with the old and the new key for a while."""
    request, other = signed_by(library, prefix), signed_by(library, prefix, OTHER)
    name = f"{prefix}-signature"
    headers = {**request.headers, name: f"v1a,Zm9v {other.headers[name]} {request.headers[name]}"}
    library(SECRET).verify(request.body, headers)
    VERIFIER.verify(Request("POST", request.url, headers, request.body), (SECRET,), time.time_ns())


@libraries
@pytest.mark.parametrize("away", [-310, 310])
def test_a_time_too_far_away_is_refused_by_both(library, prefix, refusal, away):
    then = time.time_ns() + away * NS
    request = VERIFIER.sign(Request("POST", "https://relay.example/", {}, BODY.encode()), SECRET, then)
    with pytest.raises(refusal):
        library(SECRET).verify(request.body, dict(request.headers))
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(request, (SECRET,), time.time_ns())
