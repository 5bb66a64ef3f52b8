"""A receiver of alerts on 127.0.0.1: remembers what it took, and answers as it is told.

::

    with Receiver() as server:
        server.answers(503, Answer(429, {"Retry-After": "7"}))   # the next two; then 200
        …
        server.requests
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec

from tests.servers.serving import Served


@dataclass(frozen=True)
class Answer:
    """How one request is answered; `gate` holds it until it is set."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    gate: threading.Event | None = None


@dataclass(frozen=True)
class Posted:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What it says."""
        return msgspec.json.decode(self.body)


class Receiver(Served):
    """The server; `url` says where."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.requests: list[Posted] = []
        self._queue: deque[Answer] = deque()

    @property
    def url(self) -> str:
        """Where it listens, with a path that is a secret."""
        return f"http://{self.host}/services/T0SECRET/B0SECRET/pathtoken"

    @property
    def texts(self) -> list[str]:
        """What Slack would show."""
        return [posted.json["text"] for posted in self.requests]

    def answers(self, *answers: Answer | int) -> None:
        """Queue answers, one for each of the next requests."""
        self._queue.extend(Answer(one) if isinstance(one, int) else one for one in answers)

    def took(self, posted: Posted) -> Answer:
        """Remember a request; says how it is answered."""
        self.requests.append(posted)
        return self._queue.popleft() if self._queue else Answer()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        api: Receiver = self.server.api  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = api.took(Posted(self.path, headers, body))
        if answer.gate is not None:
            answer.gate.wait(30)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""
