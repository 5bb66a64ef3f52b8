"""Tracing where it is off, not installed, set wrongly, or its collector hangs."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys

import pytest
from structlog.contextvars import get_contextvars

from relay import tracing
from relay.web.requests import Requests
from tests.servers.collector import Collector

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
#: A span in a process that ends as a work horse does.
ONE_SPAN = """
import os
from relay import telemetry, tracing
telemetry.setup("json")
tracing.prepare()
tracing.start()
with tracing.span("one"):
    assert tracing.current() or not tracing.on()
tracing.finish()
os._exit(0)
"""

#: How long it takes twice.
TWICE = """
import time
for _ in range(2):
    began = time.monotonic()
    tracing.finish()
    print(time.monotonic() - began, flush=True)
"""


def run(code: str, **env: str) -> str:
    """What a process with this environment wrote, which must end well."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_off_nothing_that_traces_is_imported():
    # The driver of Redis imports the part that counts, where that is installed.
    ask = "import sys; print([m for m in sys.modules if 'opentelemetry.sdk.trace' in m or 'otlp' in m])"
    code = f"import relay.app, worker.jobs, worker.__main__\nfrom relay import tracing\ntracing.start()\n{ask}"
    assert run(code).strip() == "[]"
    assert run(code, **{ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}).strip() == "[]"
    assert run(code, **{ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}).strip() == "[]"


def test_off_a_span_is_nothing_and_the_open_one_has_no_name():
    with tracing.span("x", "SERVER", parent="no matter", rows=1) as span:
        span.note(rows=2)
        span.answered(500)
        assert tracing.current() == ""
    assert not tracing.on()


def test_where_the_extra_is_not_installed_it_is_said_and_the_relay_runs():
    hidden = "import sys\nsys.modules['opentelemetry.sdk.trace'] = None\n"
    said = run(hidden + ONE_SPAN, **{ENDPOINT: "http://127.0.0.1:1"})
    assert "tracing_off" in said
    assert "rowhook[otel]" in said


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")]
)
def test_a_faulty_variable_is_said_and_the_relay_runs(name, value):
    assert value in run(ONE_SPAN, **{ENDPOINT: "http://127.0.0.1:1", name: value})


def test_the_last_spans_of_a_process_are_sent_before_it_ends_under_the_name_that_is_set():
    with Collector() as collector:
        run(ONE_SPAN, **{ENDPOINT: collector.url, "OTEL_SERVICE_NAME": "mine"})
        assert [(s.name, s.service) for s in collector.spans] == [("one", "mine")]


def test_a_collector_that_never_answers_holds_nobody_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        timed = ONE_SPAN.replace("tracing.finish()", TWICE)
        first, second = map(float, run(timed, **{ENDPOINT: url, "OTEL_EXPORTER_OTLP_TIMEOUT": "60"}).split())
    assert first < 30, "not for as long as the request may take"
    assert second < first, "and after that not at all for a while"


def test_a_request_leaves_nothing_bound_even_where_its_application_fails():
    seen = []

    def app(environ, start_response):
        seen.append(get_contextvars())
        raise ZeroDivisionError

    for given, kept in (("mine", True), ("not mine", False)):
        environ = {"HTTP_X_REQUEST_ID": given, "PATH_INFO": "/hooks/x", "REQUEST_METHOD": "POST"}
        environ["wsgi.input"] = io.BytesIO()
        with pytest.raises(ZeroDivisionError):
            Requests(app)(environ, lambda *_: None)
        assert (seen[-1]["request_id"] == given) is kept
        assert get_contextvars() == {}
