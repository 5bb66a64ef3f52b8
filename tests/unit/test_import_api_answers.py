"""The Import API destination against a real HTTP server: what its answers, and the lack of them, mean."""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path

import pytest

from relay.errors import Permanent, Refused, Transient
from tests.servers.import_case import KEY, ONE, Make, everything_of, failure, free_port, item, maker, orders
from tests.servers.import_server import (
    Fault,
    ImportServer,
    drop,
    half_answer,
    late,
    page,
    redirect,
    refuse,
    silence,
    slow,
    wrong_json,
)
from worker.destination import STORED
from worker.wire import retry_after_s


@pytest.fixture
def server() -> Iterator[ImportServer]:
    with ImportServer(api_key=KEY) as running:
        yield running


@pytest.fixture
def make(server: ImportServer, tmp_path: Path) -> Iterator[Make]:
    with maker(server, tmp_path) as build:
        yield build


# --- what the answers mean ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_2xx_of_the_api_itself_is_stored(server: ImportServer, make: Make, status: int) -> None:
    server.faults(Fault(status=status))
    assert make().deliver(ONE) == [STORED]


def test_no_content_is_a_2xx_without_a_body(server: ImportServer, make: Make) -> None:
    server.faults(Fault(status=204, body=b""))
    assert make().deliver(ONE) == [STORED]


@pytest.mark.parametrize(
    "fault",
    [
        half_answer(),
        page(),
        page(201, commit="before"),
        wrong_json(),
        wrong_json(b'"created"'),
        wrong_json(b"{"),
        wrong_json(b" "),
        Fault(body=b"", status=200),
        wrong_json(b"\xff\xfe"),
        wrong_json(b'{"code": 500, "message": "oops"}'),
        wrong_json(b'{"x": "' + b"x" * 400_000 + b'"}'),
        drop(),
        drop(commit="never"),
        late(0.05),
        silence(),
        silence(commit="before"),
        slow(0.5),
    ],
    ids=lambda f: f"{f.commit}-{f.answer}-{f.status}-{(f.body or b'')[:8]!r}-{f.delay_s}",
)
def test_an_answer_that_does_not_tell_leaves_the_outcome_unknown(
    server: ImportServer, make: Make, fault: Fault
) -> None:
    server.faults(fault)
    error = failure(make(timeout_s=0.3))
    assert isinstance(error, Transient)
    assert error.unknown
    assert error.retry_after_s is None


def test_a_garbled_2xx_is_told_with_the_page_s_own_words(server: ImportServer, make: Make) -> None:
    server.faults(page(200))
    assert str(failure(make())).endswith("200 is no answer of its own: Sign in Please sign in")


def test_a_drop_after_the_commit_is_repeated_without_harm(server: ImportServer, make: Make) -> None:
    server.faults(drop())
    api = make()
    failure(api)
    assert api.deliver(ONE) == [STORED]
    assert len(server.log) == 2
    assert len(server.rows("shop_orders")) == 1


def test_a_body_that_trickles_ends_with_the_time_limit(server: ImportServer, make: Make) -> None:
    """Each byte comes in time; only the whole does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n")
                try:
                    for _ in range(100):
                        connection.sendall(b" ")
                        time.sleep(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        error = failure(make(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.4))
        assert isinstance(error, Transient)
        assert error.unknown
        assert time.monotonic() - began < 3
        thread.join()


@pytest.mark.parametrize(
    ("status", "unknown"),
    [(408, False), (425, False), (429, False), (500, False), (502, True), (503, False), (504, True), (599, False)],
)
def test_later_statuses_are_transient_and_a_gateway_s_are_unknown(
    server: ImportServer, make: Make, status: int, *, unknown: bool
) -> None:
    server.faults(refuse(status, "busy"))
    error = failure(make())
    assert isinstance(error, Transient)
    assert (error.unknown, error.retry_after_s) == (unknown, None)
    assert "busy" in str(error)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_passed_on(server: ImportServer, make: Make, status: int) -> None:
    server.faults(refuse(status, retry_after="17"))
    error = failure(make())
    assert isinstance(error, Transient)
    assert error.retry_after_s == 17


def test_retry_after_as_a_date_is_passed_on_as_seconds(server: ImportServer, make: Make) -> None:
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    server.faults(refuse(503, retry_after=format_datetime(until, usegmt=True)))
    error = failure(make())
    assert isinstance(error, Transient)
    assert error.retry_after_s is not None
    assert 80 <= error.retry_after_s <= 92


NINE = "Wed, 04 Mar 2026 09:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "999999999"}, 86_400.0),
        ({"Retry-After": "Wed, 04 Mar 2026 09:02:00 GMT", "Date": NINE}, 120.0),
        ({"Retry-After": "Wed, 04 Mar 2026 08:59:00 GMT", "Date": NINE}, 0.0),
        ({"Retry-After": "Wed, 04 Mar 2026 09:02:00 -0000", "Date": NINE}, 120.0),
        ({"Retry-After": "Wed, 04 Mar 2076 09:00:00 GMT", "Date": NINE}, 86_400.0),
    ],
)
def test_retry_after_is_read_or_left(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize("status", [401, 403, 407])
def test_refused_access_pauses(server: ImportServer, make: Make, status: int) -> None:
    server.faults(refuse(status, "no such key"))
    error = failure(make())
    assert isinstance(error, Refused)
    assert "no such key" in str(error)


def test_the_wrong_key_is_refused_by_the_server_itself(server: ImportServer, make: Make) -> None:
    assert isinstance(failure(make(api_key="other")), Refused)
    assert server.log == []


def test_a_redirect_is_a_wrong_url_and_is_not_followed(server: ImportServer, make: Make) -> None:
    with ImportServer(api_key=KEY) as elsewhere:
        server.faults(*[redirect(f"{elsewhere.url}/v2?apikey={KEY}", status) for status in (301, 302, 307, 308)])
        api = make()
        for _ in range(4):
            error = failure(api)
            assert isinstance(error, Refused)
            assert elsewhere.url.removeprefix("http://") in str(error)
        assert elsewhere.requests == []


@pytest.mark.parametrize("location", ["", "/login", "http://[::bad", f"https://u:{KEY}@h.example/", f"//{KEY}/"])
def test_a_strange_location_is_a_refusal_too(server: ImportServer, make: Make, location: str) -> None:
    server.faults(redirect(location))
    assert isinstance(failure(make()), Refused)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 422])
def test_other_4xx_are_permanent_with_the_api_s_own_words(server: ImportServer, make: Make, status: int) -> None:
    body = json.dumps({"code": status, "message": "Bad data", "reasons": ["id is missing", {"at": 3}]}).encode()
    server.faults(refuse(status, body=body))
    error = failure(make())
    assert isinstance(error, Permanent)
    assert str(error) == f'the Import API said {status}: Bad data; id is missing; {{"at":3}}'


def test_a_record_that_the_api_objects_to_makes_its_batch_permanent_and_stores_nothing(
    server: ImportServer, make: Make
) -> None:
    server.objects_to = lambda point: "id 2 is cursed" if point["id"] == "2" else None
    api = make()
    error = failure(api, orders(item({"id": "1"}), item({"id": "2"})))
    assert isinstance(error, Permanent)
    assert "id 2 is cursed" in str(error)
    assert server.log == []
    assert api.deliver(ONE) == [STORED]


def test_a_status_of_refusal_stands_though_its_body_breaks_off(server: ImportServer, make: Make) -> None:
    server.faults(half_answer(400), half_answer(500))
    api = make()
    assert isinstance(failure(api), Permanent)
    error = failure(api)
    assert isinstance(error, Transient)
    assert not error.unknown


@pytest.mark.parametrize(
    "body",
    [
        f'{{"code":400,"message":"bad request /v2/client/12/table/t/data?apikey={KEY}","reasons":[]}}',
        f'{{"code":400,"message":"bad","reasons":["key {KEY} sent {KEY.upper()}"]}}',
        f'{{"code":400,"request":{{"url":"/data?apikey={KEY}&x=1"}}}}',
        f"<html><a href='/data?apikey={KEY}'>{KEY}</a></html>",
        "x" * 490 + KEY,
        "long words " * 1000,
        f"\x00{KEY}\r\n",
    ],
)
def test_the_key_is_scrubbed_from_echoed_words_and_the_rest_is_bounded(
    server: ImportServer, make: Make, body: str
) -> None:
    server.faults(refuse(400, body=body.encode()))
    text = str(failure(make()))
    assert KEY.lower() not in text.lower()
    assert KEY[:8] not in text
    assert len(text) <= 500 + len("the Import API said 400: ")
    assert text.isprintable()


# --- the network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://nowhere.invalid"])
def test_a_server_that_cannot_be_reached_was_sent_nothing(make: Make, url: str) -> None:
    error = failure(make(url=url.format(port=free_port()), timeout_s=5))
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("away", False)


def test_a_refused_proxy_was_sent_nothing_and_its_password_is_not_told(make: Make) -> None:
    api = make(proxy=f"http://user:pr0xypass@127.0.0.1:{free_port()}")
    error = failure(api)
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("away", False)
    assert "pr0xypass" not in everything_of(error) + repr(api.settings)


def test_a_reset_after_sending_leaves_the_outcome_unknown(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        error = failure(make(url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert isinstance(error, Transient)
    assert error.unknown


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 2x1 Created\r\n\r\n",
    ],
)
def test_what_is_not_http_leaves_the_outcome_unknown(make: Make, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        error = failure(make(url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert isinstance(error, Transient)
    assert error.unknown


def test_a_chunked_answer_is_an_answer(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
                )

        thread = threading.Thread(target=speak)
        thread.start()
        assert make(url=f"http://127.0.0.1:{listener.getsockname()[1]}").deliver(ONE) == [STORED]
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-subj", "/CN=127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(made, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "cert").read_text())
    return both


def test_a_certificate_that_nobody_vouches_for_is_not_sent_the_key(make: Make, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    heard.append(secured.recv(65536))
            except OSError:
                connection.close()

        thread = threading.Thread(target=speak)
        thread.start()
        error = failure(make(url=f"https://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert isinstance(error, Transient)
    assert (error.reason, error.unknown) == ("away", False)
    assert not any(heard)
