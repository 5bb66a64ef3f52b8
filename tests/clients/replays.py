"""What clients that are not packaged here send, byte for byte, and what each demands of an answer.

Written down from runs of RJMetrics-js 0.2.0 (Node 20), RJMetrics-ruby 0.6.0, RJMetrics-php 0.2.0 (PHP 8.2),
RJMetrics-clj 0.2.0 (Java 17), curl 7.88 and the Google Sheets scripts; `Content-Length` is of the run, so that a
body that is not as it was is seen.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

CID = 12


class Answer(msgspec.Struct):
    """One answer, and whether the server closed the connection behind it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def kind(self) -> str:
        """The media type as it is spelled."""
        return self.headers.get("content-type", "").split(";")[0]

    def json(self) -> Any:
        return json.loads(self.body)


def exchange(port: int, requests: Iterable[bytes]) -> list[Answer]:
    """Requests one after the other on one connection, as long as the server keeps it."""
    answers: list[Answer] = []
    with socket.create_connection(("127.0.0.1", port), 30) as connection, connection.makefile("rb") as stream:
        for request in requests:
            connection.sendall(request)
            status = int(stream.readline().split()[1])
            headers = {}
            while line := stream.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            body = stream.read(int(headers["content-length"]))
            closed = headers.get("connection", "").lower() == "close"
            if closed:
                assert stream.read() == b"", "the server said close, and went on"
            answers.append(Answer(status, headers, body, closed))
    return answers


def rows(first: int, last: int) -> list[dict[str, Any]]:
    """The rows of the runs."""
    return [{"keys": ["id"], "id": n, "email": f"u{n}@example.com", "note": "héllo ☃"} for n in range(first, last)]


def compact(data: Any, *, escaped: bool = False) -> bytes:
    """JSON as JavaScript, Ruby, PHP and Clojure write it."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=escaped).encode()


def _needle(answer: Answer) -> None:
    # needle 0.6.3 parses what is called application/json itself, and the client then cannot.
    assert answer.kind != "application/json"
    assert answer.status == 201
    assert answer.json() is not None


def _ruby(answer: Answer) -> None:
    assert 200 <= answer.status <= 207
    assert b"code" in answer.body
    assert isinstance(answer.json(), dict)


def _php(answer: Answer) -> None:
    assert answer.status == 201
    assert isinstance(answer.json()["code"], int)


def _clojure(answer: Answer) -> None:
    assert answer.status == 201
    assert answer.json()


class Client(msgspec.Struct, frozen=True):
    """One of them.

    Args:
        asks: head of its `authenticate` request, or empty; `{host}` and `{key}` are to be filled in.
        pushes: head of a push, with `{table}` and `{length}` besides.
        bodies: of one row and of 250, with the lengths that were seen.
        demands: of the answer to a push.
        closes: it wants the connection closed.
    """

    asks: str
    pushes: str
    bodies: list[tuple[int, bytes]]
    demands: Callable[[Answer], None]
    closes: bool = False

    def ask(self, host: str, key: str) -> bytes:
        return self.asks.format(host=host, key=key).replace("\n", "\r\n").encode()

    def push(self, host: str, key: str, table: str, body: bytes) -> bytes:
        head = self.pushes.format(host=host, key=key, table=table, length=len(body))
        return head.replace("\n", "\r\n").encode() + body


def _many(*lengths: int, escaped: bool = False) -> list[tuple[int, bytes]]:
    parts = (rows(1, 101), rows(101, 201), rows(201, 251))
    return [(seen, compact(part, escaped=escaped)) for seen, part in zip(lengths, parts, strict=True)]


_ASK = f"GET /v2/client/{CID}/authenticate?apikey={{key}} HTTP/1.1\n"
_PUSH = f"POST /v2/client/{CID}/table/{{table}}/data?apikey={{key}} HTTP/1.1\n"
_NEEDLE = "Accept: */*\nConnection: close\nUser-Agent: Needle/0.6.3 (Node.js v20.20.2; linux x64)\n"
_RUBY = "User-Agent: rest-client/2.1.0 (linux-gnu x86_64) ruby/3.1.2p20\n"
_RUBY_TAKES = "Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3\nHost: {host}\n\n"
_PHP = (
    "Host: {host}\nUser-Agent: Httpful/0.2.10 (cURL/7.88.1 PHP/8.2.35 (Linux))\nContent-Type: application/json\n"
    "Accept: */*; q=0.5, text/plain; q=0.8, text/html;level=3;q=0.9, application/json\n"
)
_CLOJURE = "Connection: close\ncontent-type: application/json\naccept-encoding: gzip, deflate\n"
_JAVA = "Host: {host}\nUser-Agent: Apache-HttpClient/4.5.14 (Java/17.0.15)\n\n"

CLIENTS = {
    "js": Client(
        f"{_ASK}{_NEEDLE}Host: {{host}}\n\n",
        f"{_PUSH}{_NEEDLE}Content-Type: application/json\nContent-Length: {{length}}\nHost: {{host}}\n\n",
        [(69, compact(rows(1, 2))), *_many(6985, 7201, 3601)],
        _needle,
        closes=True,
    ),
    "ruby": Client(
        f"{_ASK}Accept: */*\n{_RUBY}{_RUBY_TAKES}",
        f"{_PUSH}Accept: application/json\n{_RUBY}Content-Type: application/json\nTimeout: 10\n"
        f"Content-Length: {{length}}\n{_RUBY_TAKES}",
        [(69, compact(rows(1, 2))), *_many(6985, 7201, 3601)],
        _ruby,
    ),
    "php": Client(
        f"{_ASK}{_PHP}Content-Length: 0\n\n",
        f"{_PUSH}{_PHP}Content-Length: {{length}}\n\n",
        [(76, compact(rows(1, 2), escaped=True)), *_many(7685, 7901, 3951, escaped=True)],
        _php,
    ),
    "clojure": Client(
        f"{_ASK}{_CLOJURE}{_JAVA}",
        f"{_PUSH}{_CLOJURE}Content-Length: {{length}}\n{_JAVA}",
        [(67, compact(rows(1, 2)[0])), *_many(6985, 7201, 3601)],
        _clojure,
        closes=True,
    ),
}

#: Version 1 has left but one trace: rows without `keys`, a hundred at a time.
SHEETS = (
    f"POST /v1/client/{CID}/table/{{table}}/data?apikey={{key}} HTTP/1.1\nHost: {{host}}\n"
    "Content-Type: application/json\nConnection: keep-alive\nAccept-Encoding: gzip,deflate,br\n"
    "User-Agent: Mozilla/5.0 (compatible; Google-Apps-Script; beanserver; +https://script.google.com; id: x)\n"
    "Content-Length: {length}\n\n"
)

#: The lines of the vendor's documents; what `-d @file` sends lacks the file's newlines.
_CURL = "Host: {host}\nUser-Agent: curl/7.88.1\nAccept: */*\n"
CURL = {
    "status": ("GET / HTTP/1.1\n" + _CURL + "\n", b"", 200),
    "authenticate": (_ASK + _CURL + "\n", b"", 200),
    "sandbox": (_ASK.replace("/v2/", "/sandbox/v2/") + _CURL + "\n", b"", 200),
    "upsert": (
        _PUSH + _CURL + "Content-type: application/json\nContent-Length: {length}\n\n",
        b'{  "keys": ["id"],  "id": 1,  "email": "joe@schmo.com",  "created_at": "2012-08-01 14:22:32"}',
        201,
    ),
    "upsert of two": (
        _PUSH + _CURL + "Content-type: application/json\nContent-Length: {length}\n\n",
        b'[{ "keys": ["id"], "id": 1, "status": "pending"},{ "keys": ["id"], "id": 1, "status": "complete"}]',
        201,
    ),
}
