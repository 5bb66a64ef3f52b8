"""The export API's counter: who may ask, what a process holds for it, and how it answers.

All answers are JSON objects, but for files. A refusal is 403, whatever it is for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypedDict

import msgspec
from flask import Blueprint, Flask, Response, current_app, g, request
from msgspec import Meta
from redis.exceptions import RedisError
from werkzeug.exceptions import Forbidden, HTTPException, ServiceUnavailable, TooManyRequests

from relay.buffer.redis import unavailable
from relay.buffer.registry import Key
from relay.config import Config
from relay.errors import BufferUnavailable, RelayError, Unauthenticated
from relay.exports import Desk, Failed
from relay.telemetry import logger
from relay.web.declared import Answer, Operation, later, told
from relay.web.door import Guessed
from relay.web.state import state

log = logger("exports")
TAG: Final = "Export API"
_encode = msgspec.json.Encoder().encode
_DIGITS: Final = 12
_NAME_MOST: Final = 100
_UNSAFE: Final = re.compile(r"[^\w .()-]", re.ASCII)
_REFUSED: Final = (
    "the API key is missing, unknown or expired, belongs to another client, or may not be used from this address"
)
Number = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,11}$", description="A number that the relay gave.")]


class ExportRefusal(TypedDict):
    """Why there is no answer."""

    code: Annotated[int, Meta(description="The status once more.")]
    message: str
    reasons: list[str]


REFUSALS: Final[Mapping[int, Answer]] = {
    403: told("The key opens nothing here: whatever it is for.", ExportRefusal),
    429: later("Too much at once, or too many wrong keys.", ExportRefusal),
    503: later("It cannot be answered now: no worker answered, or a server is away.", ExportRefusal),
}
NOT_FOUND: Final[Mapping[int, Answer]] = {404: told("There is no such thing.", ExportRefusal)}
FAILED: Final[Mapping[int, Answer]] = {
    500: told("The destination cannot be read so, now or later.", ExportRefusal)
}


def operation(answers: Mapping[int, Answer], **more: Any) -> Operation:
    """What a handler of this API declares, refusals included."""
    return Operation(TAG, {**REFUSALS, **answers}, "exportKey", **more)


class Counter:
    """What a web process holds for the export API.

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self.desk = Desk(config)
        # Who waits or downloads holds a thread; the other half of them is for those who deliver.
        self.seats = threading.BoundedSemaphore(max(1, config.settings.web_threads // 2))


def blueprint(name: str) -> Blueprint:
    """Routes that are behind this counter."""
    made = Blueprint(name, __name__, url_prefix="/0.1")
    made.before_request(_enter)
    made.after_request(_leave)
    made.register_error_handler(HTTPException, _http)
    made.register_error_handler(RelayError, _ours)
    made.register_error_handler(RedisError, _away)
    made.register_error_handler(Failed, _failed)
    return made


def attach(app: Flask, config: Config) -> None:
    """Give an application what its `/0.1` needs."""
    app.extensions["rowhook_exports"] = Counter(config)


def _here() -> Counter:
    found: Counter = current_app.extensions["rowhook_exports"]
    return found


def desk() -> Desk:
    """Where to ask."""
    return _here().desk


# --- who may -----------------------------------------------------------------------------------------------


def _enter() -> None:
    here = _here()
    if not here.seats.acquire(blocking=False):
        raise TooManyRequests("too many requests are under way", retry_after=2)
    g.seat = here.seats
    address = state().caller()
    text = request.headers.get("X-RJM-API-Key", "")
    key = state().door.open(text, "export", None, address, fresh=True)
    cid = (request.view_args or {}).get("cid")
    if cid is not None and cid != str(key.client):
        raise Unauthenticated("the key is another client's", reason="key_of_another_client")
    g.key = key
    here.desk.registry.used(key)


def _leave(response: Response) -> Response:
    seat = g.pop("seat", None)
    if seat is not None:
        response.direct_passthrough = False  # else werkzeug never says that a file was sent
        response.call_on_close(seat.release)
    return response


def key() -> Key:
    """The key that opened the door."""
    found: Key = g.key
    return found


# --- what was given, and answers ---------------------------------------------------------------------------


def given(name: str) -> str:
    """A field of the form or of the query; empty where it is missing."""
    return str(request.form.get(name) or request.args.get(name) or "")


def number(text: str) -> int:
    """A number of ours; 0 where it cannot be one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else 0


def safe(name: str) -> str:
    """A name as every file system takes it."""
    return _UNSAFE.sub("_", name)[:_NAME_MOST].strip(" .") or "export"


def answer(body: Mapping[str, object], status: int = 200) -> Response:
    """A JSON object."""
    return Response(_encode(body), status, content_type="application/json")


def refusal(status: int, message: str, reason: str, retry_after: Any = None) -> Response:
    """A refusal in the API's words."""
    body = ExportRefusal(code=status, message=message, reasons=[reason] if reason else [])
    response = answer(body, status)
    if retry_after:
        response.headers["Retry-After"] = str(retry_after)
    return response


def unshared() -> HTTPException:
    """What follows where a file is not in the folder that it was written to."""
    log.error("export_file_missing", folder=str(desk().folder))
    return ServiceUnavailable("the file cannot be found here: web and worker must share the folder of exports")


def _http(error: HTTPException) -> Response:
    after = getattr(error, "retry_after", None) or (5 if error.code == ServiceUnavailable.code else None)
    return refusal(error.code or 500, error.name.lower(), error.description or "", after)


def _ours(error: RelayError) -> Response:
    if isinstance(error, Guessed):
        return refusal(429, "too many requests", "too many wrong keys came from this address", 60)
    if isinstance(error, Unauthenticated):
        log.warning("export_refused", path=request.path, reason=error.reason)
        return refusal(Forbidden.code, "forbidden", _REFUSED)
    log.warning("export_unanswered", path=request.path, reason=error.reason, detail=str(error))
    after = error.retry_after_s if isinstance(error, BufferUnavailable) else 5
    return refusal(503, "service unavailable", "it cannot be answered now: ask again", after)


def _away(error: RedisError) -> Response:
    return _ours(unavailable(error))


def _failed(error: Failed) -> Response:
    return refusal(500, "internal server error", str(error))
