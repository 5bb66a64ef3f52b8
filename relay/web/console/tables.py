"""Tables: what became of the rows of each, how late they come, and how they differ from what is declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from flask import Response, request
from werkzeug.exceptions import NotFound

from relay import drift
from relay.buffer import keys, measures
from relay.buffer.drift import Drift
from relay.buffer.exports import Question
from relay.buffer.looking import Column, Shape
from relay.buffer.registry import Registry
from relay.records import Table
from relay.web.console import asking
from relay.web.console.asking import NoAnswer
from relay.web.console.facts import DestinationFacts, Facts
from relay.web.console.gate import bp, here, page
from relay.web.console.overview import facts
from relay.web.state import state

#: Tables that are listed; one looks for others by name.
_SHOWN: Final = 300
_NAME_CHARS: Final = 200
_SHARES: Final = (0.5, 0.99)
#: What drift calls a value, as the type that a column of such values is declared with.
_TYPES: Final = {"empty text": "text", "object": "json", "list": "json"}


class Known(msgspec.Struct, frozen=True):
    """A table at a destination, as this half knows it.

    Args:
        name: full. destination: where. routes: source -> what became of its records, by state.
        declared: None where nobody declares it any more. client: whose it is, 0 where it is a source's.
    """

    name: str
    destination: str
    routes: dict[str, Mapping[str, int]]
    declared: Table | None
    client: int

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that identify a row; empty where it is not known."""
        return self.declared.key if self.declared is not None else ()


class Lag(msgspec.Struct, frozen=True):
    """How late rows come to a destination: within how many seconds half of them, and 99 of 100, ever since."""

    destination: DestinationFacts
    half: float | None
    most: float | None


@bp.get("/tables/")
def tables_page() -> Response:
    """All tables that ever had a row, and those that are declared."""
    found, named = facts(), request.args.get("name", "").strip()[:_NAME_CHARS]
    reports = {(one.source, one.table): one for one in _reports()}
    every = [one for one in _every(found).values() if named.lower() in one.name.lower()]
    shown = [
        (one, source, one.routes[source], reports.get((source, one.name)))
        for one in every
        for source in sorted(one.routes)
    ]
    idle = [one for one in every if not one.routes]
    return page(
        "tables.html", shown=shown[:_SHOWN], more=max(0, len(shown) - _SHOWN), idle=idle[:_SHOWN], named=named,
        lags=lags(found), there=state().config.settings.destinations,
    )  # fmt: skip


@bp.get("/tables/one")
def table() -> Response:
    """One table: its columns as they are declared and as they are, its rows, and its drift."""
    found = facts()
    one = known(found)
    shape: Shape | None = None
    wrong = ""
    try:
        answer = asking.ask(Question("shape", one.destination, one.name))
        shape = None if answer is None else msgspec.convert(answer, Shape)
    except NoAnswer as error:
        wrong = str(error)
    lag = next((lag for lag in lags(found) if lag.destination.name == one.destination), None)
    return page(
        "table.html",
        table=one,
        shape=shape,
        wrong=wrong,
        lag=lag,
        columns=_columns(one, shape),
        reports=[report for report in _reports() if report.table == one.name and report.source in one.routes],
        mend=_mend,
    )


def known(found: Facts) -> Known:
    """The table that a request is about.

    Raises:
        NotFound: there is none.
    """
    destination, name = request.args.get("destination", ""), request.args.get("table", "")
    one = _every(found).get((destination, name))
    if one is None or destination not in state().config.settings.destinations:
        raise NotFound(f"No table {name[:100]} of a destination {destination[:64]} is known.")
    return one


def lags(found: Facts) -> list[Lag]:
    """Of each destination."""
    raw: Any = found.client.hgetall(keys.METRICS)
    measured = measures.read(raw).lag
    shown = []
    for one in found.destinations():
        counts = list(measured.get(one.name, measures.empty("lag")).counts.values())
        shown.append(Lag(one, *(measures.quantile(counts, share) for share in _SHARES)))
    return shown


def _every(found: Facts) -> dict[tuple[str, str], Known]:
    """By destination and name: what the ledger counts, and what sources declare."""
    declared: dict[str, Table] = {}
    whole: dict[tuple[str, str], dict[str, Mapping[str, int]]] = {}
    for source in state().sources.values():
        declared |= source.declared
        whole |= {(to, name): {} for to in source.to for name in source.declared}
    for (of, destination, name), states in found.ledger.records.items():
        whole.setdefault((destination, name), {})[of] = states
    clients = dict[str, int]()
    for name, (number, key) in Registry(here().client).tables().items():
        if name not in declared:
            clients[name], declared[name] = number, Table(name, key, clock="each push")
    return {
        (to, name): Known(name, to, routes, declared.get(name), clients.get(name, 0))
        for (to, name), routes in sorted(whole.items())
    }


def _reports() -> list[drift.Report]:
    """What `relay drift` says of the tables that are declared."""
    found = []
    own: dict[str, dict[str, frozenset[str]]] = {}
    for (name, table_), account in Drift(here().client).every().items():
        source = state().sources.get(name)
        if source is None or table_ not in source.declared:
            continue
        if name not in own:
            own[name] = drift.named(source)
        named = own[name].get(table_, frozenset())
        found.append(drift.report(name, table_, account, source.declared[table_], named))
    return found


def _columns(one: Known, shape: Shape | None) -> list[tuple[str, str, Column | None]]:
    """Each column with its declared type, and as it is at the destination."""
    types = {str(name): str(type_) for name, type_ in one.declared.columns.items()} if one.declared else {}
    there = {column.source: column for column in shape.columns if column.kind != "misfit"} if shape else {}
    named = dict.fromkeys([*one.key, *types, *there])
    rows = [(name, types.get(name, ""), there.get(name)) for name in named]
    misfits = [column for column in shape.columns if column.kind == "misfit"] if shape else []
    return rows + [(column.source, types.get(column.source, ""), column) for column in misfits]


def _mend(source: str, table_: str, field: str, found: str) -> str:
    """The setting of relay.yaml that declares a field, or, where its source has none such, leaves it out."""
    configured = state().sources[source]
    if configured.kind != "custom":
        return f"tables: {{{table_}: {{drop: [{_quoted(field)}]}}}}"
    short = next((short for short, (full, _) in configured.tables.items() if full == table_), table_)
    type_ = _TYPES.get(found, found)
    return f"sources.{source}.tables, of `{short}`: types: {{{_quoted(field)}: {type_}}}"


def _quoted(name: str) -> str:
    return name if name.isidentifier() else msgspec.json.encode(name).decode()
