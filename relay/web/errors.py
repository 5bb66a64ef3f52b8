"""Exceptions as answers, in one table; a refusal tells the caller nothing that helps it to forge."""

from __future__ import annotations

import secrets
import time
from typing import Final

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from relay import errors
from relay.dialect import PushRefused
from relay.dialects import documents, import_api, stitch
from relay.telemetry import logger
from relay.web.door import Guessed
from relay.web.requests import spent_ms

log = logger("web")
_encode = msgspec.json.Encoder().encode

_STITCH: Final = "/v2/import/"
_PIPELINE: Final = "/push"
_IMPORTS: Final = ("/v1/client", "/v2/client", "/sandbox")
_DOCUMENTS: Final = ("/v1/datamarts", "/v1/data_file")
_DOCUMENTS_SAY: Final = {
    401: "the token opens nothing here",
    503: "it cannot be stored now, send it again",
}
_STATUS: dict[type[errors.RelayError], tuple[int, str]] = {
    Guessed: (429, "too many wrong keys"),
    errors.UnknownSource: (404, "there is no such source"),
    errors.Unauthenticated: (401, "the request could not be authenticated"),
    errors.SecretMissing: (503, "this source is not ready yet"),
    errors.BodyBroken: (400, "the body did not come whole"),
    errors.TooLarge: (413, "the body is too large"),
    errors.UnsupportedMedia: (415, "the body's type or encoding is not supported"),
    errors.BufferUnavailable: (503, "the event could not be stored now, send it again"),
}


class _Seldom:
    """Lets one of many alike lines a second into the log, so that whoever floods us does not flood that."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], list[float]] = {}

    def due(self, what: tuple[str, str], now: float) -> int | None:
        """How many were left out since the last one, or None where this one is left out too."""
        seen = self._last.get(what)
        if seen is not None and now - seen[0] < _SELDOM_S:
            seen[1] += 1
            return None
        if len(self._last) >= _MOST_KINDS:  # paths are the caller's to invent
            self._last.clear()
        self._last[what] = [now, 0]
        return int(seen[1]) if seen is not None else 0


_UNAVAILABLE: Final = 503
_SELDOM_S: Final = 1.0
_MOST_KINDS: Final = 1_000
_seldom: Final = _Seldom()


def register(app: Flask) -> None:
    """Answer every error as JSON; nothing that a caller sends ends in a traceback."""
    app.register_error_handler(errors.RelayError, _ours)
    app.register_error_handler(HTTPException, _theirs)
    app.register_error_handler(Exception, _unforeseen)


def _ours(error: errors.RelayError) -> Response:
    status, text = next(
        (answer for kind, answer in _STATUS.items() if isinstance(error, kind)), (503, "try again later")
    )
    if isinstance(error, PushRefused):
        status = error.status
    said = _seldom.due((request.path, error.reason), time.monotonic())
    if said is not None:
        log.warning(
            "request_refused", path=request.path[:200], status=status, reason=error.reason, detail=str(error),
            ms=spent_ms(request.environ), alike_since=said,
        )  # fmt: skip
    response = _said(status, text, error)
    if isinstance(error, errors.BufferUnavailable):
        response.headers["Retry-After"] = str(error.retry_after_s)
    elif status == _UNAVAILABLE:  # somebody has to change the settings first
        response.headers["Retry-After"] = "60"
    return response


def _said(status: int, text: str, error: errors.RelayError | None = None) -> Response:
    """An error in the words of the API that was called."""
    if request.path.startswith(_IMPORTS) or request.host.startswith("sandbox-"):
        refusal = error if isinstance(error, PushRefused) else None
        body = import_api.refused(status, str(refusal) if refusal else "", refusal.reasons if refusal else ())
        return Response(body, status, content_type=import_api.CONTENT_TYPE)
    if request.path.startswith(_STITCH) or request.path == _PIPELINE:
        batch, refusal = request.path.endswith("/batch"), error if isinstance(error, stitch.Refused) else None
        said = stitch.refused(status, batch=batch, size=request.content_length or 0, error=refusal)
        kind = "text/plain; charset=utf-8" if isinstance(said, str) else import_api.CONTENT_TYPE
        return Response(said, status, content_type=kind)
    if request.path.startswith(_DOCUMENTS):
        words = str(error) if isinstance(error, errors.TooLarge) else _DOCUMENTS_SAY.get(status, text)
        if isinstance(error, PushRefused):
            words = "; ".join([str(error), *error.reasons])
        return Response(documents.refused(words, secrets.token_hex(8)), status, content_type="application/json")
    exports = request.path.startswith("/0.1/")
    told = {"code": status, "message": text, "reasons": []} if exports else {"error": text}
    return Response(_encode(told), status, content_type="application/json")


def _theirs(error: HTTPException) -> Response:
    status = error.code or 500
    headers = [(k, v) for k, v in error.get_headers() if k.lower() in {"allow", "retry-after", "location"}]
    response = _said(status, error.name.lower())
    response.headers.extend(headers)
    return response


def _unforeseen(error: Exception) -> Response:
    # Nothing was acknowledged, so a sender that asks again loses nothing.
    log.error("request_failed", path=request.path, error=repr(error), exc_info=error)
    response = _said(503, "try again later")
    response.headers["Retry-After"] = "5"
    return response
