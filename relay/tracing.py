"""Traces over OTLP/HTTP, where the environment names a collector; else nothing of OpenTelemetry is imported.

Spans hold names, numbers and reasons, never a word of a payload or of a destination's answer. They are sent by a
thread of each process, in the background: `prepare` before a process forks, `start` in the process that works,
`finish` before it ends. A collector that is away costs spans and nothing else.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from structlog.contextvars import bound_contextvars

from relay import __version__
from relay.telemetry import logger

log = logger("tracing")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_TIMEOUT_S: Final = 5.0
#: Less than a drain stays idle, so that usually nothing is left to be sent when it ends.
_EVERY_MS: Final = 500
#: For so long the end of a process may wait for its last spans, and not at all where a collector failed just now.
_LAST_S: Final = 0.5
_FAILED_S: Final = 30.0
_TOLD_S: Final = 60.0
#: Spans have no more links than that; what a caller gives beyond is left out.
MOST_LINKS: Final = 128


class Span:
    """One span, or none where nothing is traced."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **attributes: str | int) -> None:
        """Add attributes, under our own names."""
        if self._span is not None:
            self._span.set_attributes({f"rowhook.{name}": value for name, value in attributes.items()})

    def answered(self, status: int) -> None:
        """Say which HTTP status it ended in."""
        if self._span is not None:
            self._span.set_attribute("http.response.status_code", status)
            if status >= 500:  # noqa: PLR2004 - the server's faults
                self.failed(str(status))

    def failed(self, reason: str) -> None:
        """Say that it failed, by a word of ours."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", reason)
            self._span.set_status(StatusCode.ERROR)


class _Process:
    """What this process traces with; forked ones inherit all but the sending."""

    provider: Any = None
    tracer: Any = None
    exporter: Any = None
    pid = 0
    #: When the collector last failed, and when that was last said: shared with forked processes.
    failed: Any = None
    told: Any = None


_NOTHING: Final = nullcontext(Span())


def on() -> bool:
    """Whether anything is traced here."""
    return _Process.tracer is not None


def prepare() -> None:
    """Load what is needed, where the environment asks for it; nothing is sent yet, so a fork is safe."""
    if _Process.provider is not None or not _wanted():
        return
    try:
        _load()
    except ImportError:
        log.warning("tracing_off", why="OpenTelemetry is not installed: pip install 'rowhook[otel]'")
    except Exception as error:  # noqa: BLE001 - a faulty OTEL_ variable must not keep the relay from running
        log.warning("tracing_off", why=f"{type(error).__name__}: {error}")


def start() -> None:
    """Trace from now on in this process, where the environment asks for it."""
    prepare()
    if _Process.provider is None or _Process.pid == os.getpid():
        return
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # They say each try to reach a collector, and each span that finds no room; we say it once a minute.
    for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else _EVERY_MS
    _Process.provider.add_span_processor(BatchSpanProcessor(_Process.exporter, schedule_delay_millis=delay))
    _Process.tracer = _Process.provider.get_tracer("rowhook", __version__)
    _Process.pid = os.getpid()
    atexit.register(finish)


def finish() -> None:
    """Send what is left, for half a second at most; what is not sent by then is lost."""
    if _Process.tracer is None or time.monotonic() - _Process.failed.value < _FAILED_S:
        return
    thread = threading.Thread(target=_Process.provider.force_flush, name="last-spans", daemon=True)
    thread.start()
    thread.join(_LAST_S)
    if thread.is_alive():
        _Process.failed.value = time.monotonic()


def span(
    name: str,
    kind: str = "INTERNAL",
    *,
    parent: str = "",
    links: Iterable[str] = (),
    **attributes: str | int,
) -> AbstractContextManager[Span]:
    """A span for as long as the block runs.

    Args:
        name: few different ones.
        kind: of `opentelemetry.trace.SpanKind`.
        parent: a `traceparent`; where it is none, whatever span is open here.
        links: `traceparent`s of what caused it too.
        attributes: under our own names.
    """
    if _Process.tracer is None:
        return _NOTHING
    return _opened(name, kind, parent, links, attributes)


def current() -> str:
    """The open span as a `traceparent`, for whatever goes on from here; empty where it is not recorded."""
    if _Process.tracer is None:
        return ""
    from opentelemetry.trace import get_current_span

    here = get_current_span().get_span_context()
    if not here.is_valid or not here.trace_flags.sampled:
        return ""
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-01"


def note(**attributes: str | int) -> None:
    """Add attributes to the open span, if there is one."""
    if _Process.tracer is not None:
        from opentelemetry.trace import get_current_span

        Span(get_current_span()).note(**attributes)


@contextmanager
def _opened(
    name: str, kind: str, parent: str, links: Iterable[str], attributes: dict[str, str | int]
) -> Iterator[Span]:
    from opentelemetry.trace import Link, SpanKind, get_current_span

    context = _context(parent) if parent else None
    known = list(dict.fromkeys(links))[:MOST_LINKS]
    linked = [Link(get_current_span(_context(one)).get_span_context()) for one in known]
    # Neither the exception nor its words: they may quote a row.
    with _Process.tracer.start_as_current_span(
        name,
        context,
        SpanKind[kind],
        links=linked,
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        here = Span(opened)
        here.note(**attributes)
        with bound_contextvars(trace_id=f"{opened.get_span_context().trace_id:032x}"):
            try:
                yield here
            except BaseException as error:
                here.failed(str(getattr(error, "reason", type(error).__name__)))
                raise


def _context(traceparent: str) -> Any:
    """The context that a `traceparent` says; that of no trace where it says none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def _set(names: Iterable[str]) -> str:
    return next((os.environ[name].strip() for name in names if os.environ.get(name, "").strip()), "")


def _wanted() -> bool:
    """Whether the standard variables ask for traces over OTLP."""
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(_set(_ENDPOINTS)) and not disabled and "otlp" in exporters.split(",")


def _load() -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    protocol = _set(_PROTOCOLS)
    if protocol not in ("", "http/protobuf"):
        raise ValueError(f"OTLP is spoken over http/protobuf here, not {protocol}")
    environ = os.environ.get
    named = environ("OTEL_SERVICE_NAME") or "service.name=" in environ("OTEL_RESOURCE_ATTRIBUTES", "")
    service = {} if named else {"service.name": "rowhook"}
    exporter = OTLPSpanExporter(timeout=None if _set(_TIMEOUTS) else _TIMEOUT_S)
    resource = Resource.create({**service, "service.version": __version__})
    _Process.failed = multiprocessing.RawValue("d", float("-inf"))
    _Process.told = multiprocessing.RawValue("d", float("-inf"))
    _Process.exporter = _Exporter(exporter)
    _Process.provider = TracerProvider(resource=resource, shutdown_on_exit=False)


class _Exporter:
    """Sends spans, and remembers how that went; it is said once a minute that it went wrong."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def export(self, spans: Any) -> Any:
        """See `opentelemetry.sdk.trace.export.SpanExporter`."""
        result = self._exporter.export(spans)
        now = time.monotonic()
        if result.name == "SUCCESS":
            _Process.failed.value = float("-inf")
            return result
        _Process.failed.value = now
        if now - _Process.told.value > _TOLD_S:
            _Process.told.value = now
            log.warning("traces_not_sent", endpoint=_set(_ENDPOINTS), spans=len(spans))
        return result

    def shutdown(self) -> None:
        """See `opentelemetry.sdk.trace.export.SpanExporter`."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `opentelemetry.sdk.trace.export.SpanExporter`."""
        return bool(self._exporter.force_flush(timeout_millis))
