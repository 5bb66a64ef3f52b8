"""A load generator: keep-alive connections in one epoll loop, requests as bytes made beforehand."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from relay.records import Request

CONNECTIONS: Final = 32
_TIMEOUT_S: Final = 30.0


class Result(msgspec.Struct):
    """A round's outcome: wall seconds, and the seconds that each answer took, in the order of the answers."""

    wall_s: float
    waits_s: list[float]


def wire(request: Request) -> bytes:
    """A request as bytes for a kept connection."""
    path = "/" + request.url.split("/", 3)[3]
    head = [f"{request.method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(request.body)}"]
    head += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + request.body


def run(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS, answer: bytes = b"202") -> Result:
    """Send all requests, each connection its next as soon as it has its answer.

    Raises:
        RuntimeError: an answer had another status, or the server closed a connection.
    """
    waiting, waits = iter(requests), []
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    started = time.perf_counter()
    try:
        for request in _first(waiting, connections):
            made = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[made.fileno()] = made
            epoll.register(made, select.EPOLLIN)
            made.sendall(request)
            sent[made.fileno()] = time.perf_counter()
        while sent:
            ready = epoll.poll(_TIMEOUT_S)
            if not ready:
                raise RuntimeError("no answer for 30 s")
            for number, _ in ready:
                got = parts.pop(number, b"") + sockets[number].recv(65_536)
                if not _whole(got, answer):
                    parts[number] = got
                    continue
                waits.append(time.perf_counter() - sent.pop(number))
                request = next(waiting, b"")
                if request:
                    sockets[number].sendall(request)
                    sent[number] = time.perf_counter()
    finally:
        epoll.close()
        for connection in sockets.values():
            connection.close()
    return Result(time.perf_counter() - started, waits)


def _first(waiting: object, most: int) -> list[bytes]:
    return [request for _, request in zip(range(most), waiting, strict=False)]  # type: ignore[call-overload]


def _whole(answer: bytes, status: bytes) -> bool:
    """Whether it is a whole answer; one of another status ends the bench."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not answer:
        raise RuntimeError("the server closed a connection")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 " + status):
        raise RuntimeError(f"not {status.decode()}: {answer[:500]!r}")
    lower = head.lower()
    at = lower.index(b"content-length:") + 15
    return len(body) >= int(lower[at:].split(b"\r\n", 1)[0])
