"""The export API, served: tables as files, and whether updates are through.

It is `/0.1/…`, as RJMetrics' (Magento BI's) clients call it. GET reads and POST creates. All answers are JSON
objects, but for files.

https://developer.adobe.com/commerce/services/reporting/export-api/
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Annotated, Final, TypedDict

from flask import Response, send_file
from msgspec import Meta
from werkzeug.exceptions import Gone, NotFound, TooManyRequests

from relay.buffer.exports import (
    COMPLETED,
    ERROR,
    KEPT_MS,
    PENDING,
    RUNNING,
    Export,
    Question,
    file_of,
    last_update,
)
from relay.web import counter
from relay.web.counter import NOT_FOUND, ExportRefusal, Number, answer, desk, given, key, operation
from relay.web.declared import FORM, Answer, ClientId, declares, told

bp = counter.blueprint("exports")
#: A file that is asked for before it is finished is waited for, since some clients ask five times without a pause.
_HOLD_S, _LOOK_S = 2.0, 0.1
#: Exports of one client that are not finished.
_MOST_OPEN: Final = 5


class TableName(TypedDict):
    """A table by its number."""

    id: int
    name: str


class Tables(TypedDict):
    """The tables that a key may see."""

    tables: list[TableName]


class ColumnName(TypedDict):
    """A column."""

    name: str


class Columns(TypedDict):
    """The columns of a table."""

    columns: list[ColumnName]


class Begun(TypedDict):
    """The number under which an export is asked for."""

    export_id: int


class ExportTold(TypedDict):
    """How an export is doing."""

    id: int
    export_id: int
    name: str
    table: TableName
    status: Annotated[str, Meta(extra_json_schema={"enum": [PENDING, RUNNING, COMPLETED, ERROR]})]
    rows: int
    bytes: int
    truncated: Annotated[bool, Meta(description="Rows over `export_max_rows` were left out.")]
    message: Annotated[str, Meta(description="Why it ended in an error.")]
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    expires_at: str | None


class ExportList(TypedDict):
    """Exports, oldest first."""

    exports: list[ExportTold]


class ExportForm(TypedDict, total=False):
    """What a new export is called."""

    name: Annotated[str, Meta(description="Of the file; the table's, or the first one's, where none is given.")]


class Named(TypedDict):
    """A number with what it means."""

    id: int
    name: str


class Job(TypedDict):
    """An update that is through."""

    id: int
    type: Named
    start: str
    end: str
    status: Named


class UpdateStatus(TypedDict):
    """Whether updates are through; times are UTC."""

    clientId: int
    lastCompletedUpdateJob: Job | None
    lastCompletedUpdateJobWithDataSync: Job | None
    timezoneAbbreviation: str


_GONE: Final = {410: told("It is no more: exports are kept for seven days.", ExportRefusal)}


# --- tables ------------------------------------------------------------------------------------------------


@declares(operation({200: told("The tables.", Tables), **counter.FAILED}))
@bp.get("/client/<cid>/table")
def tables(cid: ClientId) -> Response:  # noqa: ARG001 - checked at the door
    """The tables that a key may see, of all destinations that can be read."""
    found: dict[str, list[str]] = desk().ask(Question("tables")) or {}
    seen = [(d, table) for d, names in found.items() for table in names if _sees(table)]
    numbers = desk().numbers.of("table", [f"{d}|{table}" for d, table in seen])
    every = [table for _, table in seen]
    listed = [
        TableName(id=numbers[f"{d}|{table}"], name=table if every.count(table) == 1 else f"{d}.{table}")
        for d, table in seen
    ]
    return answer(Tables(tables=listed))


@declares(operation({200: told("The columns.", Columns), **NOT_FOUND, **counter.FAILED}))
@bp.get("/client/<cid>/table/<tid>")
def columns(cid: ClientId, tid: Number) -> Response:  # noqa: ARG001 - checked at the door
    """The columns of a table."""
    destination, table = _table(tid)
    found: list[str] | None = desk().ask(Question("columns", destination, table))
    if found is None:
        raise NotFound("there is no such table any more")
    return answer(Columns(columns=[ColumnName(name=name) for name in found]))


@declares(
    operation(
        {200: told("It is asked for.", Begun), **NOT_FOUND}, takes={FORM: ExportForm}, needs_body=False,
        query=ExportForm,
    )
)  # fmt: skip
@bp.post("/client/<cid>/table/<tid>/export")
def export_table(cid: ClientId, tid: Number) -> Response:  # noqa: ARG001 - checked at the door
    """Ask for a whole table as a file."""
    destination, table = _table(tid)
    export = _start(destination, table, int(tid), given("name") or table)
    return answer(Begun(export_id=export.id))


def _table(tid: str) -> tuple[str, str]:
    """Destination and table of a number."""
    number = counter.number(tid)
    name = desk().numbers.name("table", number) if number else None
    destination, _, table = (name or "").partition("|")
    if destination not in desk().config.settings.destinations or not _sees(table):
        raise NotFound("there is no such table")
    return destination, table


def _sees(table: str) -> bool:
    return not key().tables or table in key().tables


# --- raw exports -------------------------------------------------------------------------------------------


@declares(operation({200: told("The exports.", ExportList)}))
@bp.get("/export")
def exports() -> Response:
    """The exports of the last seven days."""
    found = desk().exports.every(key().client)
    return answer(ExportList(exports=[_told(export) for export in found if _sees(export.table)]))


@declares(
    operation(
        {
            200: Answer("The file: one CSV in a zip.", {"application/zip": bytes}),
            404: told("There is no such export, or it is not finished.", ExportRefusal),
            **_GONE,
        }
    )
)
@bp.get("/export/<eid>")
def download(eid: Number) -> Response:
    """The file; 404 until it is finished."""
    export = _export(eid)
    until = time.monotonic() + _HOLD_S
    while export.open and time.monotonic() < until:
        time.sleep(_LOOK_S)
        export = _export(eid)
    if export.status != COMPLETED:
        raise NotFound(f"the export is not finished: {export.why or export.status}")
    path = desk().folder / file_of(export.id)
    if not path.exists():
        raise counter.unshared()
    return send_file(
        path.absolute(), "application/zip", as_attachment=True, download_name=f"{export.name}.zip", max_age=0
    )


@declares(operation({200: told("How far it is.", ExportTold), **NOT_FOUND, **_GONE}))
@bp.get("/export/<eid>/info")
def info(eid: Number) -> Response:
    """How an export is doing."""
    return answer(_told(_export(eid)))


@declares(
    operation(
        {201: told("It is asked for.", Begun), **NOT_FOUND, **_GONE}, takes={FORM: ExportForm}, needs_body=False,
        query=ExportForm,
    )
)  # fmt: skip
@bp.post("/export/<eid>/copy")
def copy(eid: Number) -> Response:
    """The same export once more, under another name if one is given."""
    export = _export(eid)
    again = _start(export.destination, export.table, export.table_id, given("name") or export.name)
    return answer(Begun(export_id=again.id), 201)


def _export(eid: str) -> Export:
    number = counter.number(eid)
    export = desk().exports.find(number) if number else None
    if export is None and number and desk().exports.expired(number):
        raise Gone("exports are kept for seven days: ask for it again")
    if export is None or export.client != key().client or not _sees(export.table):
        raise NotFound("there is no such export")
    return export


def _start(destination: str, table: str, table_id: int, name: str) -> Export:
    here, client = desk(), key().client
    if sum(export.open for export in here.exports.every(client)) >= _MOST_OPEN:
        raise TooManyRequests(f"{_MOST_OPEN} exports of this client are not finished yet", retry_after=30)
    export = here.exports.create(client, destination, table, table_id, counter.safe(name))
    here.write(export)
    return export


def _told(export: Export) -> ExportTold:
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


# --- the state of things -----------------------------------------------------------------------------------


@declares(operation({200: told("The last update.", UpdateStatus)}))
@bp.get("/client/<cid>/fullupdatestatus")
def full_update_status(cid: ClientId) -> Response:
    """The last drain that left nothing waiting in its lane, as the last full update."""
    found = last_update(desk().client)
    job: Job | None = None
    if found is not None:
        job = {
            "id": found.id,
            "type": {"id": 2, "name": "Full Update"},
            "start": _clock(found.start_ms),
            "end": _clock(found.end_ms),
            "status": {"id": 4, "name": "Completed Successfully"},
        }
    return answer(
        UpdateStatus(
            clientId=int(cid),
            lastCompletedUpdateJob=job,
            lastCompletedUpdateJobWithDataSync=job,
            timezoneAbbreviation="UTC",
        )
    )


def _instant(ms: int) -> str | None:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}" if ms else None


def _clock(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}"
