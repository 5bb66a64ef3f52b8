"""The library that BigCommerce's page names signs and verifies, with the client secret as the page makes it a key.

`pip install standardwebhooks`; https://developer.bigcommerce.com/docs/integrations/webhooks, "Webhook signature".
"""

from __future__ import annotations

import base64
import datetime as dt
import time

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.signatures import with_headers
from relay.sources.bigcommerce import vendor
from tests.contracts import sources

SECRET = "9f1c2d3e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
BODY = '{"scope":"store/order/updated","data":{"note":"Grüße \\u00e9"}}'.encode()
VERIFIER = vendor.verifier(sources.defaults(vendor))
PLAIN = Request("POST", "https://relay.example/hooks/bigcommerce", {"webhook-id": "msg_nord_1"}, BODY)


def library(secret: str = SECRET) -> Webhook:
    return Webhook(base64.b64encode(secret.encode()).decode())


def now() -> int:
    """The library reads this machine's clock, so what it verifies is signed now."""
    return int(time.time())


def signed(ago: int = 0) -> Request:
    return VERIFIER.sign(PLAIN, SECRET, (now() - ago) * NS)


def test_the_library_accepts_what_we_sign() -> None:
    request = signed()
    library().verify(request.body, dict(request.headers))


def test_what_the_library_signs_is_accepted() -> None:
    stamp = now()
    signature = library().sign("msg_nord_1", dt.datetime.fromtimestamp(stamp, dt.UTC), BODY.decode())
    headers = {"webhook-timestamp": str(stamp), "webhook-signature": f"v1a,other {signature}"}
    VERIFIER.verify(with_headers(PLAIN, headers), (SECRET,), now() * NS)


def changes() -> dict[str, Request]:
    request = signed()
    return {
        "body": msgspec.structs.replace(request, body=BODY + b"\n"),
        "id": with_headers(request, {"webhook-id": "msg_nord_2"}),
        "time": with_headers(request, {"webhook-timestamp": str(now() - 9)}),
        "stale": signed(ago=400),
        "version": with_headers(request, {"webhook-signature": "v2" + request.headers["webhook-signature"][2:]}),
    }


@pytest.mark.parametrize("name", list(changes()))
def test_what_is_changed_is_refused_by_both(name: str) -> None:
    request = changes()[name]
    with pytest.raises(WebhookVerificationError):
        library().verify(request.body, dict(request.headers))
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(request, (SECRET,), now() * NS)


def test_another_secret_is_refused_by_both() -> None:
    with pytest.raises(WebhookVerificationError):
        library("another").verify(BODY, dict(signed().headers))
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(signed(), ("another",), now() * NS)
