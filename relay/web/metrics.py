"""`GET /metrics` for Prometheus, and the counting of what is refused.

A refusal is counted in memory, and by one thread into Redis within a second: no answer waits for it, and a flood
of them costs Redis one write a second. What cannot be told while Redis is away is told when it is back.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import atexit
import re
import threading
import time
from collections import Counter
from typing import Final

import redis as driver
from flask import Blueprint, Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException

from relay.buffer import measures
from relay.errors import RelayError
from relay.signatures import same
from relay.telemetry import logger
from relay.web.declared import TEXT, Answer, Operation, declares
from relay.web.gauges import Collector
from relay.web.state import State, state

bp = Blueprint("metrics", __name__)
log = logger("metrics")
_TAKERS: Final = frozenset({"hooks", "imports", "stitch", "documents"})
_REASON: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_BEARER: Final = "bearer "
_CHALLENGE: Final = "WWW-Authenticate"
#: For so long the last text is good: however many ask, Redis is asked once.
_GOOD_S: Final = 1.0
_EVERY_S: Final = 1.0
_AWAY_S: Final = 5.0
_KEPT: Final = "rowhook_metrics"


class App(Flask):
    """Flask, with a look at each error on its way to the answer."""

    def handle_user_exception(self, e: Exception) -> HTTPException | ResponseReturnValue:
        """Count what is refused, then answer as ever."""
        board: Board | None = self.extensions.get(_KEPT)
        if board is not None and request.blueprint in _TAKERS and not isinstance(e, HTTPException):
            board.refusals.note(_source(), e.reason if isinstance(e, RelayError) else "failed")
        return super().handle_user_exception(e)


def _source() -> str:
    """The configured source that was called, if any."""
    name = (request.view_args or {}).get("name", "") if request.blueprint == "hooks" else ""
    return name if name in state().sources else ""


class Refusals:
    """Counts refusals of one process by source and reason, and tells Redis.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self._client = client
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock, self._some, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, source: str, reason: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[source, reason if _REASON.fullmatch(reason) else "other"] += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="refused", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        self._some.set()

    def tell(self) -> bool:
        """Tell Redis what was counted; False where it could not be told, so that it is kept."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        try:
            measures.add(self._client, measures.refusals(counts))
        except (RedisError, OSError):
            with self._lock:
                self._counts.update(counts)
            return False
        return True

    def close(self) -> None:
        """Tell what was counted last."""
        self._closing.set()
        self.tell()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._some.clear()
            while not self._closing.wait(_EVERY_S) and not self.tell():
                self._closing.wait(_AWAY_S)


class Board:
    """What a process shows at `/metrics`.

    Args:
        here: what the process holds.
    """

    def __init__(self, here: State) -> None:
        self.refusals = Refusals(here.front.client)
        self.token = here.config.settings.metrics_token.get_secret_value()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(here.config, here.front.bounds, here.front.client))
        self._lock = threading.Lock()
        self._at, self._text = float("-inf"), b""

    def text(self) -> bytes:
        """The exposition, a second old at most."""
        with self._lock:
            if time.monotonic() - self._at >= _GOOD_S:
                self.refusals.tell()
                self._text = generate_latest(self._registry)
                self._at = time.monotonic()
            return self._text


def attach(app: Flask, here: State) -> None:
    """Give an application what `/metrics` needs."""
    app.extensions[_KEPT] = Board(here)


@declares(
    Operation(
        "Operation",
        {
            200: Answer("The metrics, with `rowhook_redis_up 0` where Redis is away.", {TEXT: str}),
            401: Answer(
                "Neither the `metrics_token` that is set nor an admin key.", headers={_CHALLENGE: "Bearer."}
            ),
        },
    )
)
@bp.get("/metrics")
def metrics() -> Response:
    """All metrics, in the text format of Prometheus.

    Anybody may read them, unless there is a `metrics_token`: then whoever sends it, or an API key of kind `admin`,
    as bearer token.
    """
    board: Board = current_app.extensions[_KEPT]
    if board.token and not _admits(board.token):
        return Response(status=401, headers={_CHALLENGE: "Bearer"})
    return Response(board.text(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _admits(token: str) -> bool:
    """Whether the bearer token is the one of the settings, or an API key of kind `admin`."""
    header = request.headers.get("Authorization", "")
    given = header[len(_BEARER) :].strip()
    if header[: len(_BEARER)].lower() != _BEARER or not given:
        return False
    if same(given, token):
        return True
    try:
        state().door.open(given, "admin", None, state().caller(), fresh=True)
    except (RelayError, RedisError, OSError):  # no such key; or nobody can say, and then only the token is good
        return False
    return True
