"""Imports and exports: documents and what became of each, pushes by client, tables as files, saved queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from flask import Response, request
from werkzeug.exceptions import NotFound

from relay.buffer.documents import Documents
from relay.buffer.executions import CANCELED, FAILED, RUNNING, SUCCEEDED, Execution, Import
from relay.buffer.exports import COMPLETED, ERROR, Exports
from relay.buffer.registry import Registry
from relay.pushes import PREFIX
from relay.web.console.gate import acted, back, bp, here, page
from relay.web.console.overview import facts
from relay.web.state import state
from relay.words import plural

#: Shown of imports, of exports, of an error file, and of a saved query.
_IMPORTS, _EXPORTS, _LINES, _LINE_BYTES, _SQL = 100, 100, 200, 2_000, 500
_TONES: Final = {
    SUCCEEDED: "good", COMPLETED: "good", FAILED: "bad", ERROR: "bad", RUNNING: "warn", CANCELED: "idle",
}  # fmt: skip
_DIGITS: Final = 15


class Pushes(msgspec.Struct, frozen=True):
    """What a client pushed, by the ledger: events by state, and each table's records by state."""

    client: str
    events: Mapping[str, int]
    tables: Sequence[tuple[str, str, Mapping[str, int]]]


@bp.get("/transfers/")
def transfers_page() -> Response:
    """All of it."""
    registry, settings = Registry(here().client), state().config.settings
    every = registry.every()
    imports, whole = _imports(registry.document_clients(settings.clients))
    exports = Exports(here().client).every()[::-1]
    readers: dict[int, list[str]] = {}
    for key in every:
        if key.kind == "export":
            readers.setdefault(key.client, []).append(key.name or key.short)
    saved = [
        (kind, name, query, query.sql[:_SQL])
        for kind in ("figure", "chart")
        for name, query in sorted(settings.saved(kind).items())
    ]
    return page(
        "transfers.html", imports=imports, whole=whole, pushes=list(_pushes()), exports=exports[:_EXPORTS],
        found=len(exports), readers=readers, saved=saved, tones=_TONES, cut=_SQL,
        there=state().config.settings.destinations,
    )  # fmt: skip


def _imports(clients: list[int]) -> tuple[list[tuple[Import, Execution | None]], int]:
    """The newest document imports, each with its last execution; and how many there are."""
    store = _store()
    every = sorted((one for client in clients for one in store.imports(client)), key=lambda one: -one.id)
    shown = every[:_IMPORTS]
    return list(zip(shown, store.last([one.id for one in shown]), strict=True)), len(every)


def _pushes() -> Iterator[Pushes]:
    ledger = facts().ledger
    names = {*ledger.events, *(source for source, _, _ in ledger.records)}
    for name in sorted(name for name in names if name.startswith(PREFIX)):
        tables = [(table, to, states) for (of, to, table), states in sorted(ledger.records.items()) if of == name]
        yield Pushes(name.removeprefix(PREFIX), ledger.events.get(name, {}), tables)


@bp.get("/transfers/imports/<client>/<number>")
def document_import(client: str, number: str) -> Response:
    """One document import with its executions."""
    one = _import(client, number)
    return page("document.html", document=one, runs=_store().executions(one.id), tones=_TONES)


@bp.post("/transfers/cancel")
def cancel_execution() -> Any:
    """Ask whether it is meant, then cancel: at once where it waits, between two pieces where it runs."""
    run = _run(request.form.get("id", ""))
    if not run.open:
        raise NotFound("It is over already.")
    if request.form.get("sure") != "yes":
        return page("execution_confirm.html", run=run)
    after = _store().cancel(run)
    said = "is canceled" if after.status == CANCELED else "ends after the piece that is under way"
    put = f"; {plural(after.completed, 'command')} of it stay" if after.completed else ""
    acted("execution_cancel", f"Execution {run.id} {said}{put}.", execution=run.id, client=run.client)
    return back("document_import", client=run.client, number=run.import_id)


@bp.get("/transfers/errors/<number>")
def execution_errors(number: str) -> Response:
    """The first lines of an execution's error file, or all of it as a file."""
    run = _run(number)
    if not run.error_bytes:
        raise NotFound("This execution has no error file, or it is kept no longer.")
    store = _store()
    if "file" in request.args:
        headers = {"Content-Disposition": f"attachment; filename=errors-{run.id}.ndjson"}
        return Response(store.errors(run), 200, headers, content_type="application/x-ndjson")
    lines = [
        line[:_LINE_BYTES].decode("utf-8", "replace") for line in itertools.islice(_lines(store, run), _LINES)
    ]
    return page("errors.html", run=run, lines=lines)


def _lines(store: Documents, run: Execution) -> Iterator[bytes]:
    for part in store.errors(run):
        yield from part.splitlines()


def _store() -> Documents:
    return Documents(here().client)


def _import(client: str, number: str) -> Import:
    one = _store().find(_number(client), _number(number))
    if one is None:
        raise NotFound("There is no such document import.")
    return one


def _run(number: str) -> Execution:
    run = _store().execution(_number(number))
    if run is None:
        raise NotFound("There is no such execution any more.")
    return run


def _number(text: str) -> int:
    """A number of ours; 0, which nothing has, where it cannot be one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0
