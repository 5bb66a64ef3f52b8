"""The web half as it runs: a real gunicorn, raw sockets, a Redis that is stopped and comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

from relay import config as configuration
from relay.configured import sources_of
from relay.source import sample_request
from relay.web.console.gate import FORM_COOKIE

ROOT = Path(__file__).parents[2]
LIMIT = 100_000


@pytest.fixture(scope="module")
def relay(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Gunicorn with the relay's own settings; its port, and the settings file."""
    folder = tmp_path_factory.mktemp("web")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "relay.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "redis_url": valkey_url,
                "host": "127.0.0.1",
                "port": port,
                "max_body_bytes": LIMIT,
                "accept_deadline_s": 1.0,
                "web_workers": 1,
                "sources": {"shop": {"kind": "shopify", "secrets": ["s"]}},
            }
        )
    )
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    conf = str(ROOT / "deploy/gunicorn.conf.py")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", conf, "relay.app:create_app()"],
            env={**os.environ, "RELAY_CONFIG": str(settings), "RELAY_DATA": str(folder)},
            cwd=ROOT,
            stderr=log,
        )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield port, settings
    server.terminate()
    server.wait(40)


def ask(port: int, raw: bytes, *, end: bool = False) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own, with `end` all that it will ever send; status, headers, body."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(raw)
        if end:
            connection.shutdown(socket.SHUT_WR)
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65_536)
            if not more:
                break
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", 0)) and not lines[0].startswith("HEAD"):
            more = connection.recv(65_536)
            if not more:
                break
            body += more
        return int(lines[0].split()[1]), headers, body


def post(relay: tuple[int, Path], n: int, *, chunk: int = 0, pad: int = 0) -> tuple[int, dict[str, str], bytes]:
    port, settings = relay
    source = sources_of(configuration.load(settings, settings.parent))["shop"]
    request = sample_request(source.vendor.samples["orders/create"](n, time.time_ns()), "http://x/hooks/shop")
    body = request.body[:-1] + b" " * pad + request.body[-1:]
    request = type(request)("POST", request.url, request.headers, body, {})
    done = source.verifier.sign(request, "s", time.time_ns())
    head = "POST /hooks/shop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in done.headers.items())
    if not chunk:
        return ask(port, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    chunks = (body[i : i + chunk] for i in range(0, len(body), chunk))
    coded = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    return ask(port, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + coded)


def test_a_chunked_delivery_is_taken_like_any_other(relay):
    status, headers, body = post(relay, 1, chunk=700)
    assert status == 202
    assert json.loads(body)["rows"] > 1
    assert headers["content-type"] == "application/json"


def test_a_chunked_body_over_the_limit_is_413(relay):
    assert post(relay, 2, chunk=5_000, pad=LIMIT)[0] == 413
    assert post(relay, 3, pad=LIMIT)[0] == 413


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/hooks/shop", b"zz\r\n{}\r\n0\r\n\r\n", id="a size that is none"),
        pytest.param("/hooks/shop", b"2\r\n{}xx0\r\n\r\n", id="no line end behind a chunk"),
        pytest.param("/hooks/shop", b"2;\x01\r\n{}\r\n0\r\n\r\n", id="an extension that is none"),
        pytest.param("/hooks/shop", b"5\r\n{}", id="an end within a chunk"),
        pytest.param("/hooks/shop", b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n", id="a trailer that is none"),
        pytest.param("/console/login", b"zz\r\na=b\r\n0\r\n\r\n", id="a form of the console"),
    ],
)
def test_chunks_that_cannot_be_read_are_400_and_no_error_of_ours(relay, path, body):
    """Nobody has to sign for this: a traceback for each would let a stranger fill the log."""
    log = relay[1].with_name("log")
    before = log.read_text()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nCookie: {FORM_COOKIE}=1\r\n"
    form = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    status, headers, _ = ask(relay[0], f"{head}{form}".encode() + body, end=True)
    assert (status, "retry-after" in headers) == (400, False)
    assert '"level": "error"' not in log.read_text().removeprefix(before)


def test_a_body_that_ends_early_is_400_and_not_a_wrong_signature(relay):
    head = b"POST /hooks/shop HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
    status, _, body = ask(relay[0], head + b'{"id":', end=True)
    assert (status, json.loads(body)) == (400, {"error": "the body did not come whole"})


def test_probes_are_answered(relay):
    for method in ("HEAD", "GET"):
        request = f"{method} /hooks/shop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        assert ask(relay[0], request)[0] == 200


def test_a_signature_as_long_as_gunicorn_lets_through_is_401_and_a_longer_one_400(relay):
    for length, status in ((8000, 401), (70_000, 400)):
        raw = "POST /hooks/shop HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        signed = f"{raw}X-Shopify-Hmac-Sha256: {'a' * length}\r\n\r\n{{}}"
        assert ask(relay[0], signed.encode())[0] in {status, 431}


def test_a_stalled_redis_costs_a_request_its_deadline_and_a_503_and_nothing_after_it(relay, valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        pid = client.info()["process_id"]
    assert post(relay, 10)[0] == 202
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        status, headers, _ = post(relay, 11)
        took = time.monotonic() - started
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert took < 5
    status, _, body = post(relay, 11)
    for _ in range(20):
        if status == 202:
            break
        time.sleep(0.1)
        status, _, body = post(relay, 11)
    assert status == 202
    assert json.loads(body)["id"]
