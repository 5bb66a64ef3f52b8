"""The senders: each vendor's signature, retries as vendors make them, and a log of every answer."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.oracle.model import Fact

Headers = dict[str, str]


@dataclass(frozen=True, eq=False)
class Delivery:
    """One webhook before it is signed.

    Args:
        source: whose URL. kind: who signs. body: its bytes. headers: the vendor's, but for the signature.
        facts: what it says. events: how many it carries. ignored: how many of them say nothing of any table.
        test: the vendor calls it a test. repeats: no repetition of it is a duplicate.
    """

    source: str
    kind: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    events: int = 1
    ignored: int = 0
    test: bool = False
    repeats: bool = False


def _mac(secret: str, message: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(secret.encode(), message, algorithm).digest()


def _base64(header: str) -> Callable[[str, bytes], Headers]:
    return lambda secret, body: {header: base64.b64encode(_mac(secret, body)).decode()}


def _stripe(secret: str, body: bytes) -> Headers:
    """https://docs.stripe.com/webhooks#verify-manually."""
    now = str(int(time.time()))
    return {"Stripe-Signature": f"t={now},v1={_mac(secret, f'{now}.'.encode() + body).hex()}"}


def _zendesk(secret: str, body: bytes) -> Headers:
    """https://developer.zendesk.com/documentation/webhooks/verifying/."""
    now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    digest = base64.b64encode(_mac(secret, now.encode() + body)).decode()
    return {"X-Zendesk-Webhook-Signature": digest, "X-Zendesk-Webhook-Signature-Timestamp": now}


#: Kind -> headers that prove the sender. Google Ads proves itself by a key in the body.
SIGN: Mapping[str, Callable[[str, bytes], Headers]] = {
    "shopify": _base64("X-Shopify-Hmac-Sha256"),
    "woocommerce": _base64("X-WC-Webhook-Signature"),
    "stripe": _stripe,
    "zendesk": _zendesk,
    "intercom": lambda secret, body: {"X-Hub-Signature": "sha1=" + _mac(secret, body, "sha1").hex()},
    "meta": lambda secret, body: {"X-Hub-Signature-256": "sha256=" + _mac(secret, body).hex()},
    "custom": lambda secret, body: {"X-Signature": _mac(secret, body).hex()},
    "google_ads": lambda _secret, _body: {},
}


def secret_of(source: str) -> str:
    """The secret that a source is configured with."""
    return hashlib.sha256(f"secret of {source}".encode()).hexdigest()


@dataclass
class Answers:
    """What one delivery was answered, over all its posts.

    Args:
        ids: the distinct ids. fresh: 202s that were no duplicate. posts: 202s in all. unsure: posts answered
        503 or not at all, which may have been taken nonetheless.
    """

    ids: set[str] = field(default_factory=set)
    fresh: int = 0
    posts: int = 0
    unsure: int = 0


class Sender:
    """Posts from several threads, each on a connection that it keeps.

    What is refused for a while (503) or breaks is sent again, as vendors do; any other answer is an error.
    """

    def __init__(self, port: int, *, threads: int = 4, patience_s: float = 60) -> None:
        self.port, self.threads, self.patience_s = port, threads, patience_s
        self.log: dict[Delivery, Answers] = {}
        self.refusals: list[str] = []
        self.repeats = 0
        self._lock = threading.Lock()

    def post(self, deliveries: Iterable[Delivery], while_: Callable[[], object] | None = None) -> None:
        """Send all of them; `while_` runs beside, from when the first are under way."""
        waiting = iter(deliveries)
        hands = [threading.Thread(target=self._work, args=(waiting,)) for _ in range(self.threads)]
        for hand in hands:
            hand.start()
        try:
            if while_ is not None:
                while_()
        except BaseException:
            self.refusals.append("given up")
            raise
        finally:
            for hand in hands:
                hand.join(self.patience_s + 30)
        assert self.refusals == []

    def _work(self, waiting: Iterator[Delivery]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.refusals:
            with self._lock:
                delivery = next(waiting, None)
            if delivery is None:
                break
            try:
                self._deliver(connection, delivery)
            except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
                self.refusals.append(f"{delivery.source}: {error!r}")
        connection.close()

    def _deliver(self, connection: http.client.HTTPConnection, delivery: Delivery) -> None:
        until = time.monotonic() + self.patience_s
        while True:
            status, text = self._once(connection, delivery)
            if status == 202:
                self._note(delivery, json.loads(text))
                return
            assert status in (0, 503), f"answered {status}: {text[:200]}"
            assert time.monotonic() < until, f"not taken within {self.patience_s} s: {status} {text[:200]}"
            with self._lock:
                self.repeats += 1
                self.log.setdefault(delivery, Answers()).unsure += 1
            time.sleep(0.1)

    def _once(self, connection: http.client.HTTPConnection, delivery: Delivery) -> tuple[int, str]:
        proof = SIGN[delivery.kind](secret_of(delivery.source), delivery.body)
        headers = {"Content-Type": "application/json", **delivery.headers, **proof}
        try:
            connection.request("POST", f"/hooks/{delivery.source}", delivery.body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return 0, repr(error)

    def _note(self, delivery: Delivery, answer: dict[str, object]) -> None:
        with self._lock:
            answers = self.log.setdefault(delivery, Answers())
            answers.ids.add(str(answer["id"]))
            answers.posts += 1
            answers.fresh += answer["duplicate"] is False
