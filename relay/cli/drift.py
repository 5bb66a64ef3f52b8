"""`relay drift`: how what comes differs from what is declared, table by table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from relay import configured
from relay.buffer import ledger
from relay.buffer.drift import Account, Drift, Finding
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.configured import Source
from relay.drift import Report, named, report
from relay.errors import ConfigInvalid


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(drift)


def drift(
    config: ConfigFile = None,
    data: DataDir = DATA,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget what was noticed; it begins anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show fields that are new, vanished or of another type, and types of events that become no rows."""
    settings = opened(config, data)
    if source is not None and source not in settings.settings.sources:
        known = ", ".join(settings.settings.sources) or "none"
        raise ConfigInvalid(f"there is no source {source!r}; known: {known}")
    client = buffer(settings)
    kept = Drift(client)
    if clear:
        kept.clear(source)
        typer.echo("forgotten: what comes from now on is noticed anew")
        return
    accounts, events = kept.every(), ledger.read(client).events
    sources = [s for name, s in configured.sources_of(settings).items() if source in (None, name)]
    told = [_coverage(one, events.get(one.name, {}), accounts.get((one.name, ""))) for one in sources]
    reports = [
        report(one.name, table, account, one.declared[table], named(one).get(table, frozenset()))
        for one in sources
        for (name, table), account in accounts.items()
        if name == one.name and table in one.declared
    ]
    if as_json:
        show({"sources": told, "tables": [_as_data(found) for found in reports]})
        return
    for coverage in told:
        _say_source(coverage)
        for found in reports:
            if found.source == coverage["source"] and not found.fits:
                _say_table(found)
        fitting = [found.table for found in reports if found.source == coverage["source"] and found.fits]
        if fitting:
            typer.echo(f"  as declared: {', '.join(fitting)}")
    if not told:
        typer.echo("there is no source")


# --- what there is to say -----------------------------------------------------------------------------


def _coverage(source: Source, states: Mapping[str, int], account: Account | None) -> dict[str, Any]:
    """How many of a source's events become rows, by the ledger, and the types of those that do not."""
    whole = states.get("accepted", 0) - states.get("duplicate", 0)
    known = ["mapped", *sorted(states.keys() - {"accepted", "duplicate", "mapped"})]
    counts = {state: states[state] for state in known if states.get(state)}
    return {
        "source": source.name,
        "kind": source.kind,
        "events": whole,
        "states": counts,
        "mapped_share": round(counts.get("mapped", 0) / whole, 4) if whole else None,
        "ignored_types": [
            {
                "type": found.name,
                "mapped": source.vendor.mapper(found.name) is not None,
                "events": found.count,
                "first": _moment(found.first),
                "last": _moment(found.last),
            }
            for found in (account.unknown if account is not None else ())
        ],
    }


def _as_data(found: Report) -> dict[str, Any]:
    def fields(findings: list[Finding]) -> list[dict[str, Any]]:
        return [
            {
                "field": one.name, "declared": one.declared or None, "found": one.found, "rows": one.count,
                "first": _moment(one.first), "last": _moment(one.last),
            }
            for one in findings
        ]  # fmt: skip

    return {
        "source": found.source,
        "table": found.table,
        "rows": found.rows,
        "since": _moment(found.since),
        "last": _moment(found.last),
        "new": fields(found.new),
        "undeclared": fields(found.undeclared),
        "vanished": [
            {
                "field": one.name, "declared": one.declared or None, "last": _moment(one.last),
                "rows_since": one.rows_since,
            }
            for one in found.vanished
        ],
        "changed": fields(found.changed),
    }  # fmt: skip


# --- in words -----------------------------------------------------------------------------------------


def _say_source(told: dict[str, Any]) -> None:
    whole = told["events"]
    shares = [f"{100 * n / whole:.1f} % {state}" for state, n in told["states"].items()] if whole else []
    typer.echo(f"{told['source']} ({told['kind']}): {whole} events{', ' if shares else ''}{', '.join(shares)}")
    for one in told["ignored_types"]:
        why = "mapped, but to no row" if one["mapped"] else "not mapped"
        typer.echo(f"  ignored: {_plain(one['type'])} ({why}), {one['events']} events, the last {one['last']}")


def _say_table(found: Report) -> None:
    typer.echo(
        f"  {found.table}: {found.rows} rows looked at from {_moment(found.since)} to {_moment(found.last)}"
    )
    for one in found.new:
        typer.echo(f"    new: {_plain(one.name)}, {one.found}; {_times(one)}")
    for gone in found.vanished:
        type_ = f", {gone.declared}" if gone.declared else ""
        typer.echo(
            f"    vanished: {_plain(gone.name)}{type_}; the last {_moment(gone.last)}, "
            f"and in none of {gone.rows_since} rows since"
        )
    for one in found.changed:
        typer.echo(f"    changed: {_plain(one.name)}, {one.instead}; {_times(one)}")
    if found.undeclared:
        fields = ", ".join(f"{_plain(one.name)} ({one.found})" for one in found.undeclared)
        typer.echo(f"    undeclared since the first rows: {fields}")


def _times(one: Finding) -> str:
    return f"{one.count} rows, the first {_moment(one.first)}, the last {_moment(one.last)}"


def _plain(name: str) -> str:
    """A name that a sender chose, fit for a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name) or "(empty)"


def _moment(ms: int) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):
        return "unknown"
