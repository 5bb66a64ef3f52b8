"""The export API, served: `/0.1/…`, as RJMetrics' (Magento BI's) clients call it.

GET reads and POST creates, but figures are also exported and described with GET, as consumers do. All answers are
JSON objects, but for files. A refusal is 403, whatever it is for.

https://developer.adobe.com/commerce/services/reporting/export-api/
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from flask import Blueprint, Flask, Response, current_app, g, request, send_file
from redis.exceptions import RedisError
from werkzeug.exceptions import Forbidden, Gone, HTTPException, NotFound, ServiceUnavailable, TooManyRequests

from relay.buffer.exports import COMPLETED, KEPT_MS, Export, Question, file_of, last_update
from relay.buffer.redis import unavailable
from relay.buffer.registry import Key
from relay.config import Config
from relay.errors import BufferUnavailable, RelayError, Unauthenticated
from relay.exports import Desk, Failed
from relay.telemetry import logger
from relay.web.door import Guessed
from relay.web.state import state

bp = Blueprint("exports", __name__, url_prefix="/0.1")
log = logger("exports")
_encode = msgspec.json.Encoder().encode
#: A file that is asked for before it is finished is waited for, since some clients ask five times without a pause.
_HOLD_S, _LOOK_S = 2.0, 0.1
#: Exports of one client that are not finished.
_MOST_OPEN: Final = 5
_NAME_MOST: Final = 100
_DIGITS: Final = 12
_UNSAFE: Final = re.compile(r"[^\w .()-]", re.ASCII)
_REFUSED: Final = (
    "the API key is missing, unknown or expired, belongs to another client, or may not be used from this address"
)
Body = dict[str, Any]


class Counter:
    """What a web process holds for the export API.

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self.desk = Desk(config)
        # Who waits or downloads holds a thread; the other half of them is for those who deliver.
        self.seats = threading.BoundedSemaphore(max(1, config.settings.web_threads // 2))


def attach(app: Flask, config: Config) -> None:
    """Give an application what its `/0.1` needs."""
    app.extensions["rowhook_exports"] = Counter(config)


def _here() -> Counter:
    found: Counter = current_app.extensions["rowhook_exports"]
    return found


def _desk() -> Desk:
    return _here().desk


# --- who may -----------------------------------------------------------------------------------------------


@bp.before_request
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


@bp.after_request
def _leave(response: Response) -> Response:
    seat = g.pop("seat", None)
    if seat is not None:
        response.direct_passthrough = False  # else werkzeug never says that a file was sent
        response.call_on_close(seat.release)
    return response


def _key() -> Key:
    key: Key = g.key
    return key


# --- tables ------------------------------------------------------------------------------------------------


@bp.get("/client/<cid>/table")
def tables(cid: str) -> Response:  # noqa: ARG001 - checked at the door
    """The tables that a key may see, of all destinations that can be read."""
    found: dict[str, list[str]] = _desk().ask(Question("tables")) or {}
    seen = [(d, table) for d, names in found.items() for table in names if _sees(table)]
    numbers = _desk().numbers.of("table", [f"{d}|{table}" for d, table in seen])
    every = [table for _, table in seen]
    listed = [
        {"id": numbers[f"{d}|{table}"], "name": table if every.count(table) == 1 else f"{d}.{table}"}
        for d, table in seen
    ]
    return _json({"tables": listed})


@bp.get("/client/<cid>/table/<tid>")
def columns(cid: str, tid: str) -> Response:  # noqa: ARG001 - checked at the door
    """The columns of a table."""
    destination, table = _table(tid)
    found = _desk().ask(Question("columns", destination, table))
    if found is None:
        raise NotFound("there is no such table any more")
    return _json({"columns": [{"name": name} for name in found]})


@bp.post("/client/<cid>/table/<tid>/export")
def export_table(cid: str, tid: str) -> Response:  # noqa: ARG001 - checked at the door
    """Ask for a whole table as a file."""
    destination, table = _table(tid)
    export = _start(destination, table, int(tid), _given("name") or table)
    return _json({"export_id": export.id})


def _table(tid: str) -> tuple[str, str]:
    """Destination and table of a number."""
    number = _number(tid)
    name = _desk().numbers.name("table", number) if number else None
    destination, _, table = (name or "").partition("|")
    if destination not in _desk().config.settings.destinations or not _sees(table):
        raise NotFound("there is no such table")
    return destination, table


def _sees(table: str) -> bool:
    return not _key().tables or table in _key().tables


# --- raw exports -------------------------------------------------------------------------------------------


@bp.get("/export")
def exports() -> Response:
    """The exports of the last seven days."""
    found = _desk().exports.every(_key().client)
    return _json({"exports": [_told(export) for export in found if _sees(export.table)]})


@bp.get("/export/<eid>")
def download(eid: str) -> Response:
    """The file; 404 until it is finished."""
    export = _export(eid)
    until = time.monotonic() + _HOLD_S
    while export.open and time.monotonic() < until:
        time.sleep(_LOOK_S)
        export = _export(eid)
    if export.status != COMPLETED:
        raise NotFound(f"the export is not finished: {export.why or export.status}")
    path = _desk().folder / file_of(export.id)
    if not path.exists():
        raise _unshared()
    return send_file(
        path.absolute(), "application/zip", as_attachment=True, download_name=f"{export.name}.zip", max_age=0
    )


@bp.get("/export/<eid>/info")
def info(eid: str) -> Response:
    """How an export is doing."""
    return _json(_told(_export(eid)))


@bp.post("/export/<eid>/copy")
def copy(eid: str) -> Response:
    """The same export once more, under another name if one is given."""
    export = _export(eid)
    again = _start(export.destination, export.table, export.table_id, _given("name") or export.name)
    return _json({"export_id": again.id}, 201)


def _export(eid: str) -> Export:
    number = _number(eid)
    export = _desk().exports.find(number) if number else None
    if export is None and number and _desk().exports.expired(number):
        raise Gone("exports are kept for seven days: ask for it again")
    if export is None or export.client != _key().client or not _sees(export.table):
        raise NotFound("there is no such export")
    return export


def _start(destination: str, table: str, table_id: int, name: str) -> Export:
    desk, client = _desk(), _key().client
    if sum(export.open for export in desk.exports.every(client)) >= _MOST_OPEN:
        raise TooManyRequests(f"{_MOST_OPEN} exports of this client are not finished yet", retry_after=30)
    export = desk.exports.create(client, destination, table, table_id, safe(name))
    desk.write(export)
    return export


def safe(name: str) -> str:
    """A name as every file system takes it."""
    return _UNSAFE.sub("_", name)[:_NAME_MOST].strip(" .") or "export"


def _told(export: Export) -> Body:
    return {
        "id": export.id,
        "export_id": export.id,
        "name": export.name,
        "table": {"id": export.table_id, "name": export.table},
        "status": export.status,
        "rows": export.rows,
        "bytes": export.bytes,
        "truncated": export.truncated,
        "message": export.why,
        "created_at": _instant(export.created_ms),
        "started_at": _instant(export.started_ms),
        "completed_at": _instant(export.ended_ms),
        "expires_at": _instant(export.created_ms + KEPT_MS),
    }


# --- figures and charts ------------------------------------------------------------------------------------


def _list(kind: str) -> Response:
    saved = _saved(kind)
    numbers = _desk().numbers.of(kind, saved)
    found = {
        str(numbers[name]): {
            "id": numbers[name],
            "name": name,
            "presentationType": query.presentation,
            "ownerEmail": query.owner,
        }
        for name, query in saved.items()
    }
    return _json({f"{kind}Exports": found})


def _describe(kind: str, fid: str) -> Response:
    name = _name(kind, fid)
    query = _saved(kind)[name]
    told = {"id": int(fid), "name": name, "presentationType": query.presentation, "ownerEmail": query.owner}
    return _json(told)


def _export_figure(kind: str, fid: str) -> Response:
    """The data themselves, by `format` (csv or json) and `includeColumnHeaders`."""
    name, form = _name(kind, fid), (_given("format") or request.headers.get("format", "csv")).lower()
    if form not in {"csv", "json"}:
        return _json({"code": 400, "message": "bad request", "reasons": ["format is csv or json"]}, 400)
    headers = _given("includeColumnHeaders").lower() in {"1", "true", "yes"}
    file: str | None = _desk().ask(Question(kind, name=name, format=form, headers=headers))
    if file is None:
        raise NotFound(f"there is no such {kind}")
    path: Path = _desk().folder / file
    if not path.exists():
        raise _unshared()
    opened = path.open("rb")
    path.unlink(missing_ok=True)  # what is open is read to its end all the same
    kind_of_text = "application/json" if form == "json" else "text/csv"
    return send_file(opened, kind_of_text, as_attachment=form == "csv", download_name=f"{safe(name)}.{form}")


for _kind in ("figure", "chart"):
    _reading: dict[str, tuple[Callable[..., Response], str]] = {
        "": (_list, "list"), "/<fid>/export": (_export_figure, "export"), "/<fid>/info": (_describe, "info"),
    }  # fmt: skip
    for _path, (_view, _word) in _reading.items():
        bp.add_url_rule(
            f"/{_kind}{_path}", f"{_kind}_{_word}", _view, methods=["GET", "POST"] if _path else ["GET"],
            defaults={"kind": _kind},
        )  # fmt: skip


def _saved(kind: str) -> dict[str, Any]:
    """Saved queries; a key that is bound to tables sees none, since they may read any."""
    return {} if _key().tables else dict(_desk().config.settings.saved(kind))


def _name(kind: str, fid: str) -> str:
    number = _number(fid)
    name = _desk().numbers.name(kind, number) if number else None
    if name is None or name not in _saved(kind):
        raise NotFound(f"there is no such {kind}")
    return name


# --- the state of things -----------------------------------------------------------------------------------


@bp.get("/client/<cid>/fullupdatestatus")
def full_update_status(cid: str) -> Response:
    """The last drain that left nothing waiting in its lane, as the last full update."""
    found = last_update(_desk().client)
    job = found and {
        "id": found.id,
        "type": {"id": 2, "name": "Full Update"},
        "start": _clock(found.start_ms),
        "end": _clock(found.end_ms),
        "status": {"id": 4, "name": "Completed Successfully"},
    }
    return _json(
        {
            "clientId": int(cid),
            "lastCompletedUpdateJob": job,
            "lastCompletedUpdateJobWithDataSync": job,
            "timezoneAbbreviation": "UTC",
        }
    )


# --- answers -----------------------------------------------------------------------------------------------


def _json(body: Body, status: int = 200) -> Response:
    return Response(_encode(body), status, content_type="application/json")


def _refused(status: int, message: str, reason: str, retry_after: Any = None) -> Response:
    response = _json({"code": status, "message": message, "reasons": [reason] if reason else []}, status)
    if retry_after:
        response.headers["Retry-After"] = str(retry_after)
    return response


@bp.errorhandler(HTTPException)
def _http(error: HTTPException) -> Response:
    after = getattr(error, "retry_after", None) or (5 if error.code == ServiceUnavailable.code else None)
    return _refused(error.code or 500, error.name.lower(), error.description or "", after)


@bp.errorhandler(RelayError)
def _ours(error: RelayError) -> Response:
    if isinstance(error, Guessed):
        return _refused(429, "too many requests", "too many wrong keys came from this address", 60)
    if isinstance(error, Unauthenticated):
        log.warning("export_refused", path=request.path, reason=error.reason)
        return _refused(Forbidden.code, "forbidden", _REFUSED)
    log.warning("export_unanswered", path=request.path, reason=error.reason, detail=str(error))
    after = error.retry_after_s if isinstance(error, BufferUnavailable) else 5
    return _refused(503, "service unavailable", "it cannot be answered now: ask again", after)


@bp.errorhandler(RedisError)
def _away(error: RedisError) -> Response:
    return _ours(unavailable(error))


@bp.errorhandler(Failed)
def _failed(error: Failed) -> Response:
    return _refused(500, "internal server error", str(error))


def _given(name: str) -> str:
    return str(request.form.get(name) or request.args.get(name) or "")


def _unshared() -> HTTPException:
    log.error("export_file_missing", folder=str(_desk().folder))
    return ServiceUnavailable("the file cannot be found here: web and worker must share the folder of exports")


def _number(text: str) -> int:
    """A number of ours; 0 where it cannot be one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else 0


def _instant(ms: int) -> str | None:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}" if ms else None


def _clock(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}"
