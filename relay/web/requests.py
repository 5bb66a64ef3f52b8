"""Around each request: an id that its lines and its answer bear, and a span where anything is traced."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from structlog.contextvars import bind_contextvars, clear_contextvars

from relay import tracing
from relay.web.reading import Body

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
#: Where the environment of a request says when it began, by the monotonic clock.
_BEGAN: Final = "rowhook.began"
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What puts something into the buffer.
_TAKERS: Final = ("/hooks/", "/v1/", "/v2/", "/sandbox/", "/push")
#: Others are anybody's invention, and the names of spans are to be few.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})


class Requests:
    """A WSGI application, with an id for each request.

    Args:
        app: it.
    """

    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        clear_contextvars()  # whatever the last request of this thread left
        given = environ.get("HTTP_X_REQUEST_ID")
        id_ = given if given and _PLAIN.fullmatch(given) else f"{random.getrandbits(64):016x}"
        environ[_BEGAN] = time.monotonic()
        environ["wsgi.input"] = Body(environ["wsgi.input"])
        bind_contextvars(request_id=id_)
        try:
            if tracing.on() and environ["PATH_INFO"].startswith(_TAKERS):
                return self._traced(environ, start_response, id_)
            return self._app(environ, _bearing(id_, start_response))
        finally:
            clear_contextvars()

    def _traced(self, environ: dict[str, Any], start_response: Callable[..., Any], id_: str) -> Iterable[bytes]:
        taker = next(taker for taker in _TAKERS if environ["PATH_INFO"].startswith(taker)).strip("/")
        method = environ["REQUEST_METHOD"] if environ["REQUEST_METHOD"] in _METHODS else "OTHER"
        parent = environ.get("HTTP_TRACEPARENT", "")
        with tracing.span(f"{method} /{taker}", "SERVER", parent=parent, request_id=id_) as span:

            def started(status: str, *args: Any) -> Any:
                span.answered(int(status[:3]))
                return start_response(status, *args)

            return self._app(environ, _bearing(id_, started))


def spent_ms(environ: Mapping[str, Any]) -> float:
    """For how long a request has been worked on."""
    began: float = environ.get(_BEGAN, time.monotonic())
    return round((time.monotonic() - began) * 1000, 2)


def _bearing(id_: str, start_response: Callable[..., Any]) -> Callable[..., Any]:
    def started(status: str, headers: list[tuple[str, str]], *args: Any) -> Any:
        headers.append(("X-Request-ID", id_))
        return start_response(status, headers, *args)

    return started
