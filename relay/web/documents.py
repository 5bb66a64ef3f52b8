"""mediarithmics document imports, served: `/v1/datamarts/…/document_imports…`, and `/v1/data_file/data`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from flask import Blueprint, Response, request

from relay.buffer.documents import CHUNK, Documents
from relay.buffer.executions import CANCELED, FAILED, PENDING, Execution, Import
from relay.buffer.registry import Key, Registry
from relay.dialect import Pushed, PushRefused
from relay.dialects import documents as dialect
from relay.dispatch import ask_to_expand
from relay.errors import ConfigInvalid, Unauthenticated
from relay.web.imports import same_key
from relay.web.reading import read_body
from relay.web.state import state
from relay.web.uploads import Upload

bp = Blueprint("documents", __name__)
_BODY_BYTES: Final = 65_536
_MOST_RESULTS: Final = 500
_MOST_DIGITS: Final = 15
_FILE: Final = re.compile(r"mics://data_file/datamarts/(\d{1,9})/executions/(\d{1,15})/errors")


def _answer(data: Any) -> Response:
    return Response(dialect.answered(data), 200, content_type="application/json")


# --- imports ------------------------------------------------------------------------------------------


def create(dm: str) -> Response:
    """Make an import."""
    key, store = _entered(dm), _store()
    told = dialect.definition(read_body(request.environ, _BODY_BYTES))
    _may_write(key, told.document_type)
    fields = msgspec.structs.asdict(told)
    made = store.create(lambda number: Import(id=number, client=key.client, **fields))
    return _answer(_import(made))


def list_imports(dm: str) -> Response:
    """A page of a datamart's imports, newest first."""
    key = _entered(dm)
    wanted = request.args.get("keywords", "").lower()
    every = [one for one in _store().imports(key.client) if wanted in one.name.lower()]
    return _page(every, _import)


def read(dm: str, iid: str) -> Response:
    """One import."""
    return _answer(_import(_found(_entered(dm), iid)))


def update(dm: str, iid: str) -> Response:
    """Change some of an import; executions that are there stay as they are."""
    key = _entered(dm)
    one = _found(key, iid)
    fields = {name: getattr(one, name) for name in dialect.Definition.__struct_fields__}
    told = dialect.definition(read_body(request.environ, _BODY_BYTES), dialect.Definition(**fields))
    _may_write(key, told.document_type)
    changed = msgspec.structs.replace(one, **msgspec.structs.asdict(told))
    _store().save(changed)
    return _answer(_import(changed))


def delete(dm: str, iid: str) -> Response:
    """Delete an import and its executions; what runs is ended, rows that were put stay."""
    _store().remove(_found(_entered(dm), iid))
    return Response(b'{"status":"ok"}', 200, content_type="application/json")


# --- executions ---------------------------------------------------------------------------------------


def execute(dm: str, iid: str) -> Response:
    """Take a document; answered once all of it is durable."""
    key = _entered(dm)
    one = _found(key, iid)
    _may_write(key, one.document_type)
    target = dialect.TARGETS[one.document_type]
    client = state().clients.of(key.client)
    same_key(client, Pushed(target.table, target.key, []))
    if client.redaction is not None and state().seal is None:
        raise ConfigInvalid("documents wait before rules of redaction can hold: set redaction_key to seal them")
    upload = Upload(request.environ, dialect.MOST_BYTES)
    if upload.settled:
        dialect.check_type(upload.content_type, one.mime_type)
    store = _store()
    run = _taken(store, one, upload)
    ask_to_expand(store.client, run.id)
    return _answer(_execution(run))


def _taken(store: Documents, one: Import, upload: Upload) -> Execution:
    run = store.upload(one)
    taken = False
    try:
        size, lines = _stored(store, run, upload)
        dialect.check_type(upload.content_type, one.mime_type)
        if upload.name:
            store.rename(run, upload.name[:255])
        key = _entered(str(run.client))  # it may have been revoked since
        Registry(store.client).used(key)
        taken = store.commit(run, size, lines)
    finally:
        if not taken:
            store.give_up(run)
    if not taken:
        raise PushRefused("the document import is gone, or the upload took too long", status=404)
    return store.execution(run.id) or msgspec.structs.replace(run, status=PENDING)


def _stored(store: Documents, run: Execution, upload: Upload) -> tuple[int, int]:
    """Bytes and lines of a document, of which all chunks are stored."""
    bounds, held, size, lines, index, end = state().front.bounds, bytearray(), 0, 0, 0, b"\n"
    for piece in upload.pieces():
        held += piece
        lines += piece.count(b"\n")
        size, end = size + len(piece), piece[-1:] or end
        while len(held) >= CHUNK:
            store.store(run, index, bytes(held[:CHUNK]), bounds)
            del held[:CHUNK]
            index += 1
    if held or index == 0:
        store.store(run, index, bytes(held), bounds)
    header = 1 if run.mime_type == dialect.CSV else 0
    return size, max(lines + (end != b"\n") - header, 0)


def list_executions(dm: str, iid: str) -> Response:
    """A page of an import's executions, newest first."""
    return _page(_store().executions(_found(_entered(dm), iid).id), _execution)


def read_execution(dm: str, iid: str, eid: str) -> Response:
    """One execution."""
    return _answer(_execution(_run(dm, iid, eid)))


def act(dm: str, iid: str, eid: str) -> Response:
    """Cancel an execution: at once where it waits, between two pieces where it runs."""
    run = _run(dm, iid, eid)
    dialect.action(read_body(request.environ, _BODY_BYTES))
    store = _store()
    store.end(run, "free", CANCELED)
    return _answer(_execution(store.execution(run.id) or run))


@bp.get("/v1/data_file/data")
def data_file() -> Response:
    """An execution's error file."""
    found = _FILE.fullmatch(request.args.get("uri", ""))
    if found is None:
        raise PushRefused("no such file", status=404)
    key = _key(request.args.get("access_token", ""), int(found[1]))
    store = _store()
    run = store.execution(int(found[2]))
    if run is None or run.client != key.client or not run.error_bytes:
        raise PushRefused("no such file", status=404)
    return Response(store.errors(run), 200, content_type="application/x-ndjson")


for _at in ("/v1/datamarts/<dm>/document_imports", "/v1/datamarts/<dm>/documents_imports"):
    _one, _runs = f"{_at}/<iid>", f"{_at}/<iid>/executions"
    for _rule, _method, _view in (
        (_at, "POST", create),
        (_at, "GET", list_imports),
        (_one, "GET", read),
        (_one, "PUT", update),
        (_one, "DELETE", delete),
        (_runs, "POST", execute),
        (_runs, "GET", list_executions),
        (f"{_runs}/<eid>", "GET", read_execution),
        (f"{_runs}/<eid>/action", "POST", act),
    ):
        bp.add_url_rule(_rule, view_func=_view, methods=[_method])


# --- who, what, and how it is told --------------------------------------------------------------------


def _store() -> Documents:
    front = state().front
    return Documents(front.client, front.wait_ms, state().seal)


def _entered(dm: str) -> Key:
    """The key that a request brings: the bare token, or behind `api:`."""
    number = _number(dm, "datamart")
    return _key(request.headers.get("Authorization", "").strip().removeprefix("api:"), number)


def _key(token: str, client: int) -> Key:
    return state().door.open(token, "import", client, state().caller(), fresh=True)


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS) or int(text) < 1:
        raise PushRefused(f"there is no {what} {text[:40]!r}", status=404)
    return int(text)


def _found(key: Key, iid: str) -> Import:
    one = _store().find(key.client, _number(iid, "document import"))
    if one is None:
        raise PushRefused(f"there is no document import {iid[:40]}", status=404)
    return one


def _run(dm: str, iid: str, eid: str) -> Execution:
    one = _found(_entered(dm), iid)
    run = _store().execution(_number(eid, "execution"))
    if run is None or run.import_id != one.id or run.client != one.client:
        raise PushRefused(f"there is no execution {eid[:40]}", status=404)
    return run


def _may_write(key: Key, document_type: str) -> None:
    """See that a type's table is one that the key may write."""
    table = dialect.TARGETS[document_type].table
    if key.tables and table not in key.tables:
        raise Unauthenticated("the API key may not write this table", reason="key_refused")
    state().clients.of(key.client).table(table)


def _page(every: list[Any], told: Callable[[Any], Any]) -> Response:
    first, most = _count("first_result", 0, 10**9), _count("max_results", 10, _MOST_RESULTS)
    data = [told(one) for one in every[first : first + most]]
    return Response(dialect.page(data, len(every), first, most), 200, content_type="application/json")


def _count(name: str, usual: int, most: int) -> int:
    text = request.args.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise PushRefused(f"{name} must be a whole number from 0")
    return min(int(text), most)


def _import(one: Import) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "datafarm_key": "DF_RELAY",
        "datamart_id": str(one.client),
        "document_type": one.document_type,
        "mime_type": one.mime_type,
        "encoding": one.encoding,
        "name": one.name,
        "priority": one.priority,
    }


def _execution(run: Execution) -> dict[str, Any]:
    done = run.completed + run.erroneous
    over = not run.open
    started = run.started_ms or None
    ended = run.ended_ms or None
    told: dict[str, Any] = {
        "parameters": None if run.status == PENDING else _parameters(run),
        "result": _result(run) if over else None,
        "error": {"message": run.why} if run.status == FAILED else None,
        "id": str(run.id),
        "status": run.status,
        "creation_date": run.created_ms,
        "start_date": started,
        "duration": ended - started if ended and started else None,
        "organisation_id": str(run.client),
        "user_id": None,
        "cancel_status": run.cancel or None,
        "debug": None,
        "is_retryable": False,
        "permalink_uri": f"datamarts/{run.client}/document_imports/{run.import_id}/executions/{run.id}",
        "num_tasks": None if run.status == PENDING else done if over else max(run.lines, done),
        "completed_tasks": None if run.status == PENDING else run.completed,
        "erroneous_tasks": None if run.status == PENDING else run.erroneous,
        "retry_count": 0,
        "job_type": "DOCUMENT_IMPORT",
        "import_mode": "MANUAL_FILE",
        "import_type": None,
    }
    return {**told, "end_date": ended} if over else told


def _parameters(run: Execution) -> dict[str, Any]:
    done = run.completed + run.erroneous
    return {
        "datamart_id": run.client,
        "document_import_id": run.import_id,
        "mime_type": run.mime_type,
        "document_type": run.document_type,
        "input_file_name": run.file_name,
        "file_uri": None,  # a document is not kept once its rows are out
        "number_of_lines": max(run.lines, done) if run.open else done,
        "segment_id": None,
    }


def _result(run: Execution) -> dict[str, Any]:
    errors = f"mics://data_file/datamarts/{run.client}/executions/{run.id}/errors"
    return {
        "total_success": run.completed,
        "total_failure": run.erroneous,
        "input_file_name": run.file_name,
        "input_file_uri": None,
        "error_file_uri": errors if run.error_bytes else None,
        "possible_issue_on_identifiers": False,
        "top_identifiers": {},
    }
