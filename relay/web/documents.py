"""mediarithmics document imports, served: `/v1/datamarts/…/document_imports…`, and `/v1/data_file/data`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from flask import Blueprint, Response, request

from relay.buffer.documents import CHUNK, Documents
from relay.buffer.executions import PENDING, Execution, Import
from relay.buffer.registry import Key, Registry
from relay.dialect import Pushed, PushRefused
from relay.dialects import documents as dialect
from relay.dispatch import ask_to_expand
from relay.errors import ConfigInvalid, Unauthenticated
from relay.web import executions
from relay.web.declared import declares
from relay.web.executions import (
    Datamart,
    ExecutionAnswer,
    ExecutionPage,
    Id,
    ImportAnswer,
    ImportPage,
    execution_told,
    import_told,
    operation,
    taking,
)
from relay.web.imports import same_key
from relay.web.reading import read_plain
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


@declares(taking(ImportAnswer, "It is made.", executions.DEFINED))
def create(dm: Datamart) -> Response:
    """Make an import."""
    key, store = _entered(dm), _store()
    told = dialect.definition(read_plain(request.environ, _BODY_BYTES))
    _may_write(key, told.document_type)
    fields = msgspec.structs.asdict(told)
    made = store.create(lambda number: Import(id=number, client=key.client, **fields))
    return _answer(import_told(made))


@declares(operation(ImportPage, "Some of them.", query=executions.ImportsWanted))
def list_imports(dm: Datamart) -> Response:
    """A page of a datamart's imports, newest first."""
    key = _entered(dm)
    wanted = request.args.get("keywords", "").lower()
    every = [one for one in _store().imports(key.client) if wanted in one.name.lower()]
    return _page(every, import_told)


@declares(operation(ImportAnswer, "The import."))
def read(dm: Datamart, iid: Id) -> Response:
    """One import."""
    return _answer(import_told(_found(_entered(dm), iid)))


@declares(taking(ImportAnswer, "It is changed.", executions.CHANGED))
def update(dm: Datamart, iid: Id) -> Response:
    """Change some of an import; executions that are there stay as they are."""
    key = _entered(dm)
    one = _found(key, iid)
    _within(key, one.document_type)
    fields = {name: getattr(one, name) for name in dialect.Definition.__struct_fields__}
    told = dialect.definition(read_plain(request.environ, _BODY_BYTES), dialect.Definition(**fields))
    _may_write(key, told.document_type)
    changed = msgspec.structs.replace(one, **msgspec.structs.asdict(told))
    _store().save(changed)
    return _answer(import_told(changed))


@declares(operation(executions.Done, "It is gone."))
def delete(dm: Datamart, iid: Id) -> Response:
    """Delete an import and its executions; what runs is ended, rows that were put stay."""
    key = _entered(dm)
    one = _found(key, iid)
    _within(key, one.document_type)
    _store().remove(one)
    return Response(b'{"status":"ok"}', 200, content_type="application/json")


# --- executions ---------------------------------------------------------------------------------------


@declares(taking(ExecutionAnswer, "It is durable.", executions.DOCUMENT))
def execute(dm: Datamart, iid: Id) -> Response:
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
    return _answer(execution_told(run))


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


@declares(operation(ExecutionPage, "Some of them.", query=executions.PageWanted))
def list_executions(dm: Datamart, iid: Id) -> Response:
    """A page of an import's executions, newest first."""
    return _page(_store().executions(_found(_entered(dm), iid).id), execution_told)


@declares(operation(ExecutionAnswer, "The execution."))
def read_execution(dm: Datamart, iid: Id, eid: Id) -> Response:
    """One execution."""
    return _answer(execution_told(_run(_found(_entered(dm), iid), eid)))


@declares(taking(ExecutionAnswer, "The execution.", executions.ACTION))
def act(dm: Datamart, iid: Id, eid: Id) -> Response:
    """Cancel an execution: at once where it waits, between two pieces where it runs."""
    key = _entered(dm)
    one = _found(key, iid)
    run = _run(one, eid)
    _within(key, one.document_type)
    dialect.action(read_plain(request.environ, _BODY_BYTES))
    return _answer(execution_told(_store().cancel(run)))


@declares(executions.ERROR_FILE)
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
    _within(key, run.document_type)
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


def _run(one: Import, eid: str) -> Execution:
    run = _store().execution(_number(eid, "execution"))
    if run is None or run.import_id != one.id or run.client != one.client:
        raise PushRefused(f"there is no execution {eid[:40]}", status=404)
    return run


def _within(key: Key, document_type: str) -> str:
    """The table of a type, which is one that the key is for."""
    table = dialect.TARGETS[document_type].table
    if key.tables and table not in key.tables:
        raise Unauthenticated("the API key may not write this table", reason="key_refused")
    return table


def _may_write(key: Key, document_type: str) -> None:
    """See that a type's table is one that the key may write, and that its client can."""
    state().clients.of(key.client).table(_within(key, document_type))


def _page(every: list[Any], told: Callable[[Any], Any]) -> Response:
    first, most = _count("first_result", 0, 10**9), _count("max_results", 10, _MOST_RESULTS)
    data = [told(one) for one in every[first : first + most]]
    return Response(dialect.page(data, len(every), first, most), 200, content_type="application/json")


def _count(name: str, usual: int, most: int) -> int:
    text = request.args.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise PushRefused(f"{name} must be a whole number from 0")
    return min(int(text), most)
