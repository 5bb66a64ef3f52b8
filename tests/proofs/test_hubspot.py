"""HubSpot's own client library signs and verifies: what one side makes, the other takes, and nothing changed."""

from __future__ import annotations

import time
import warnings
from typing import Any

import msgspec
import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources import hubspot

SECRET = "5e1f0a77-1111-4c22-9333-abcdefabcdef"
URL = "https://hooks.shop.example/hooks/crm?tenant=a&b=c%20d"
BODY = '[{"eventId":1,"subscriptionType":"contact.creation","propertyValue":"Åsen"}]'


@pytest.fixture(scope="module")
def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hubspot.utils.signature import Signature  # it warns on import
    return Signature


def unsigned() -> Request:
    return Request("POST", URL, {"content-type": "application/json"}, BODY.encode())


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_what_the_library_signs_is_accepted_and_refused_when_changed(library: Any, version: str) -> None:
    now = time.time_ns()
    stamp = str(now // 1_000_000)
    made = library.get_signature(SECRET, BODY, version, URL, "POST", stamp)
    headers = {"x-hubspot-signature-v3": made, "x-hubspot-request-timestamp": stamp}
    if version != "v3":
        headers = {"x-hubspot-signature": made, "x-hubspot-signature-version": version}
    request = msgspec.structs.replace(unsigned(), headers=headers)
    ours = hubspot.verifier({"signature": version})
    ours.verify(request, (SECRET,), now)
    for changed in (
        msgspec.structs.replace(request, body=request.body + b" "),
        *((msgspec.structs.replace(request, url=URL + "1"),) if version != "v1" else ()),
    ):
        with pytest.raises(Unauthenticated):
            ours.verify(changed, (SECRET,), now)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_what_we_sign_is_accepted_by_the_library_and_refused_when_changed(library: Any, version: str) -> None:
    ours = hubspot.verifier({"signature": version})
    request = ours.sign(unsigned(), SECRET, time.time_ns())
    name = "x-hubspot-signature-v3" if version == "v3" else "x-hubspot-signature"
    rest = (URL, "POST", version, request.headers.get("x-hubspot-request-timestamp"))
    assert library.is_valid(request.headers[name], SECRET, BODY, *rest)
    assert not library.is_valid(request.headers[name], SECRET, BODY + " ", *rest)
    assert not library.is_valid(request.headers[name], "another", BODY, *rest)
