"""An Import API that listens on 127.0.0.1, remembers what it took, and fails as it is told.

::

    with ImportServer() as server:
        server.faults(refuse(429, retry_after="7"), half_answer())   # the next two POSTs, then all is well
        server.objects_to = lambda point: "id 7 is bad" if point["id"] == 7 else None
        server.choose = lambda post: silence() if post.number % 10 == 0 else None
        …
        server.rows("shop_orders"), server.log, server.regressions()

Rows are replaced whole by their `keys`, as the vendor documents it. Times are of `time.monotonic`.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from relay.errors import MalformedPayload
from relay.records import decode_json, encode_json
from tests.servers.serving import Served, Server

MAX_POINTS: Final = 100
MAX_BYTES: Final = 5_000_000
_DATA: Final = re.compile(r"/v2/client/([^/]+)/table/([^/]+)/data")
_KEY_CHECK: Final = re.compile(r"/v2/client/([^/]+)/authenticate")
#: Lower-case `application/json` is what one official client cannot take, so the live server cannot send it.
_JSON: Final = "Application/json"


@dataclass(frozen=True)
class Fault:
    """How one POST goes wrong.

    Args:
        commit: `before` the answer, `never`, or `late`: `late_s` seconds after the answer (or the lack of one).
        delay_s: wait so long before anything is done.
        answer: `whole`, `half` of it and then the end of the connection, `none` and the end of the connection,
            or `silence`, which lasts until the server closes.
        status, headers, body, content_type: of the answer; a body of None is the API's own JSON for the status.
    """

    commit: str = "before"
    delay_s: float = 0.0
    late_s: float = 0.0
    answer: str = "whole"
    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = _JSON


def refuse(status: int, *reasons: str, retry_after: str | None = None, body: bytes | None = None) -> Fault:
    """Stores nothing and says so. `retry_after` is seconds or an HTTP date, as text."""
    said = body if body is not None else encode_json({"code": status, "message": "no", "reasons": list(reasons)})
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Fault(commit="never", status=status, headers=headers, body=said)


def page(status: int = 200, *, commit: str = "never") -> Fault:
    """A proxy's HTML page instead of the API's answer."""
    body = b"<html><head><title>Sign in</title></head><body><p>Please sign in</p></body></html>"
    return Fault(commit=commit, status=status, body=body, content_type="text/html")


def wrong_json(body: bytes = b'["created"]', status: int = 201) -> Fault:
    """Stores, and answers with JSON that is not the API's."""
    return Fault(status=status, body=body)


def redirect(location: str, status: int = 302) -> Fault:
    """Sends the client elsewhere."""
    return Fault(commit="never", status=status, headers={"Location": location}, body=b"{}")


def slow(seconds: float) -> Fault:
    """Does everything right, later."""
    return Fault(delay_s=seconds)


def silence(*, commit: str = "never") -> Fault:
    """Never answers; with `commit="before"` it has stored all the same."""
    return Fault(commit=commit, answer="silence")


def half_answer(status: int = 201) -> Fault:
    """Stores, begins to answer, and ends the connection."""
    return Fault(answer="half", status=status)


def drop(*, commit: str = "before") -> Fault:
    """Ends the connection without an answer, having stored or not."""
    return Fault(commit=commit, answer="none")


def late(seconds: float) -> Fault:
    """Ends the connection at once, and stores after so many seconds: what makes blind retries wrong."""
    return Fault(commit="late", late_s=seconds, answer="none")


@dataclass(frozen=True)
class Taken:
    """One accepted point: its place in the order of all, the moment, and what it said."""

    order: int
    at: float
    table: str
    key: str
    point: dict[str, Any]


@dataclass(frozen=True)
class Post:
    """One POST as it came: its number from 0, the moment, the table and the body's points."""

    number: int
    at: float
    table: str
    body: bytes
    points: list[dict[str, Any]]


class ImportServer(Served):
    """The server; `url` says where. Everything that it remembers may be read at any time."""

    def __init__(self, *, client_id: int = 12, api_key: str = "goodkey", port: int = 0) -> None:
        super().__init__(_Handler, port)
        self.client_id, self.api_key = client_id, api_key
        self.log: list[Taken] = []
        self.posts: list[Post] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}
        self.latency_s = 0.0
        #: Says why a point makes its whole request a 400, or None.
        self.objects_to: Callable[[dict[str, Any]], str | None] = lambda _point: None
        #: Says how a POST goes wrong where no fault is queued, or None.
        self.choose: Callable[[Post], Fault | None] = lambda _post: None
        #: What the key check is answered instead, where not None.
        self.key_check: Fault | None = None
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._queue: deque[Fault] = deque()
        self._late: list[threading.Thread] = []

    def close(self) -> None:
        """Listen no more, and apply what is late."""
        self.closing.set()
        super().close()
        for thread in self._late:
            thread.join()

    def faults(self, *faults: Fault) -> None:
        """Queue faults, one for each of the next POSTs."""
        with self.lock:
            self._queue.extend(faults)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's rows as they are now."""
        with self.lock:
            return list(self.tables.get(table, {}).values())

    def regressions(self) -> list[tuple[Taken, Taken]]:
        """Pairs of accepted points of one key of which the later has the older `_relay_version`."""
        newest: dict[tuple[str, str], Taken] = {}
        found = []
        with self.lock:
            for taken in self.log:
                before = newest.get((taken.table, taken.key))
                if before and before.point["_relay_version"] > taken.point["_relay_version"]:
                    found.append((before, taken))
                else:
                    newest[taken.table, taken.key] = taken
        return found

    def receive(self, table: str, body: bytes, points: list[dict[str, Any]]) -> Fault | None:
        """Note a POST; returns what is to go wrong with it."""
        with self.lock:
            post = Post(len(self.posts), time.monotonic(), table, body, points)
            self.posts.append(post)
            return self._queue.popleft() if self._queue else self.choose(post)

    def commit(self, table: str, points: list[dict[str, Any]]) -> None:
        """Replace rows, in the order of the points."""
        with self.lock:
            for point in points:
                key = encode_json([point[name] for name in point["keys"]]).decode()
                self.log.append(Taken(len(self.log), time.monotonic(), table, key, point))
                self.tables.setdefault(table, {})[key] = point

    def commit_later(self, table: str, points: list[dict[str, Any]], seconds: float) -> None:
        """The same after some seconds, unless the server closes first."""

        def wait() -> None:
            if not self.closing.wait(seconds):
                self.commit(table, points)

        thread = threading.Thread(target=wait, name="late-commit")
        self._late.append(thread)
        thread.start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: Server

    def do_GET(self) -> None:
        url = self._note()
        if url.path == "/":
            return self._say(200, {"code": 200, "message": "operational"})
        found = _KEY_CHECK.fullmatch(url.path)
        if found is None:
            return self._say(404, "no such resource")
        fault = self.server.api.key_check
        if fault is not None:
            return self._misbehave(fault, "", [])
        return self._say(200, {"code": 200}) if self._knows(found[1], url.query) else self._say(401, "bad key")

    def do_POST(self) -> None:
        url = self._note()
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_BYTES:
            self.close_connection = True
            return self._say(413, "too large")
        body = self.rfile.read(length)
        found = _DATA.fullmatch(url.path)
        if found is None:
            return self._say(404, "no such resource")
        points = _points(body)
        fault = self.server.api.receive(found[2], body, points)
        if fault is not None:
            return self._misbehave(fault, found[2], points)
        if not self._knows(found[1], url.query):
            return self._say(401, "Authorization failed. Double check your API key.")
        if not re.fullmatch(r"[A-Za-z0-9_]+", found[2]):
            return self._say(400, "bad table name")
        bad = _why_not(points) or next(filter(None, map(self.server.api.objects_to, points)), None)
        if bad:
            return self._say(400, bad)
        self.server.api.closing.wait(self.server.api.latency_s)
        self.server.api.commit(found[2], points)
        return self._say(201, {"code": 201, "message": "created"})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Quiet."""

    def _note(self) -> Any:
        api = self.server.api
        with api.lock:
            api.requests.append((f"{self.command} {self.path}", {k.lower(): v for k, v in self.headers.items()}))
        return urlsplit(self.path)

    def _knows(self, client: str, query: str) -> bool:
        api = self.server.api
        return client == str(api.client_id) and parse_qs(query).get("apikey") == [api.api_key]

    def _misbehave(self, fault: Fault, table: str, points: list[dict[str, Any]]) -> None:
        api = self.server.api
        api.closing.wait(fault.delay_s)
        if fault.commit == "before" and table:
            api.commit(table, points)
        elif fault.commit == "late":
            api.commit_later(table, points, fault.late_s)
        if fault.answer == "silence":
            api.closing.wait()
        if fault.answer in {"silence", "none"}:
            self.close_connection = True
            return
        body = fault.body
        if body is None:
            body = encode_json({"code": fault.status, "message": "created" if fault.status < 300 else "no"})
        self._send(fault.status, body, fault.content_type, fault.headers, half=fault.answer == "half")

    def _say(self, status: int, said: dict[str, Any] | str) -> None:
        error = {"code": status, "message": "error", "reasons": [said]}
        self._send(status, encode_json(said if isinstance(said, dict) else error), _JSON, {})

    def _send(
        self, status: int, body: bytes, content_type: str, headers: dict[str, str], *, half: bool = False
    ) -> None:
        self.send_response(status)
        asked = self.headers.get("Connection", "").lower() == "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if asked or half or self.close_connection:
            self.close_connection = True
        if asked:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.wfile.flush()


def _points(body: bytes) -> list[Any]:
    try:
        value = decode_json(body)
    except MalformedPayload:
        return []
    return value if isinstance(value, list) else [value]


def _why_not(points: list[Any]) -> str | None:
    """Why the API takes none of these points, or None."""
    if not 0 < len(points) <= MAX_POINTS:
        return f"between 1 and {MAX_POINTS} data points are needed"
    for point in points:
        keys = point.get("keys") if isinstance(point, dict) else None
        if not isinstance(keys, list) or not keys:
            return "a data point must contain a keys field"
        if any(point.get(name) is None for name in keys):
            return "a key field is missing"
    return None
