"""Commands that look: sources, tables, stats, tail."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from relay import catalogue, intake
from relay.buffer import destinations, keys, ledger
from relay.buffer.alarms import maxmemory, standing
from relay.buffer.bounds import bounds_of
from relay.buffer.lanes import lane_states
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, ask_worker, buffer, opened, show
from relay.intake import SOURCES
from relay.records import arrival_instant


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (sources, tables, stats, tail):
        app.command()(command)


def sources(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List the configured sources, and every kind that there is."""
    settings = opened(config, data)
    configured = [
        {
            "name": s.name,
            "kind": s.kind,
            "url": s.public_url or f"/hooks/{s.name}",
            "secrets": len(s.secrets),
            "to": list(s.to),
            "tables": [full for full, _ in s.tables.values()],
        }
        for s in intake.sources_of(settings).values()
    ]
    kinds = [_kind(name) for name in catalogue.names(SOURCES)]
    if as_json:
        show({"sources": configured, "kinds": kinds})
        return
    for one in configured:
        state = "" if one["secrets"] else "  (no secret yet)"
        typer.echo(f"{one['name']}: {one['kind']} at {one['url']}{state}")
    typer.echo(f"kinds: {', '.join(k['kind'] for k in kinds)}")


def _kind(name: str) -> dict[str, Any]:
    vendor = getattr(catalogue.load(SOURCES, name), "vendor", None)
    if vendor is None:
        return {"kind": name, "title": "declared in relay.yaml", "family": "generic", "scheme": "", "proof": ""}
    return {
        "kind": name,
        "title": vendor.title,
        "family": vendor.family,
        "docs": vendor.docs,
        "scheme": vendor.verifier({k: s.default for k, s in vendor.settings.items()}).scheme,
        "proof": vendor.proof,
        "types": [*vendor.mappers, *(prefix for prefix, _ in vendor.families)],
        "tables": {t.name: {"key": list(t.key), "clock": t.clock} for t in vendor.tables.values()},
    }


def tables(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List the tables at each destination, with their rows and how long ago the newest came."""
    settings = opened(config, data)
    found: dict[str, Any] = ask_worker(settings, "tables")
    if as_json:
        show(found)
        return
    for destination, report in found.items():
        if "error" in report:
            typer.echo(f"{destination}: {report['error']}")
        for table in report.get("tables", ()):
            typer.echo(
                f"{destination}  {table['name']}: {table['rows']} rows, {table['deleted']} deleted, "
                f"newest {table['last_received_at'] or '-'}"
            )


def stats(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """Show the ledger, the lanes and what waits in the buffer."""
    settings = opened(config, data)
    client = buffer(settings)
    account = ledger.read(client)
    alarms = [alarm.text for alarm in standing(client, bounds_of(settings.settings, maxmemory(client)))]
    held: Any = client.hgetall(keys.BYTES)
    lanes, standings = lane_states(client), destinations.standings(client)
    routes = [
        {"source": s, "destination": d, "table": t, **states} for (s, d, t), states in account.records.items()
    ]
    if as_json:
        sizes = {source.decode(): int(n) for source, n in held.items()}
        show({"events": account.events, "records": routes, "lanes": lanes, "bytes": sizes, "alarms": alarms})
        return
    for source, states in sorted(account.events.items()):
        typer.echo(f"events  {source}: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())))
    for route in routes:
        numbers = ", ".join(f"{n} {k}" for k, n in sorted(route.items()) if isinstance(n, int))
        typer.echo(f"records {route['table']} to {route['destination']}: {numbers}")
    for name, state in standings.items():
        typer.echo(f"destination {name}: {destinations.in_words(state)}")
    for name, state in lanes.items():
        typer.echo(f"lane    {name}: {state['waiting']} events wait {state.get('why', '')}".rstrip())
    for alarm in alarms:
        typer.echo(f"alarm   {alarm}")


def tail(
    config: ConfigFile = None,
    data: DataDir = DATA,
    as_json: AsJson = False,
    seconds: Annotated[float, typer.Option(help="Stop after so long; 0: never.")] = 0,
) -> None:
    """Show events as they are taken."""
    client: Any = buffer(opened(config, data))
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(keys.TAIL)
    until = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < until:
        message = channel.get_message(timeout=0.5)
        if message is None:
            continue
        for arrival, source, type_, state in msgspec.msgpack.decode(message["data"]):
            at = f"{arrival_instant(arrival):%H:%M:%S.%f}"[:-3]
            line = {"event": arrival, "source": source, "type": type_, "state": state}
            typer.echo(
                msgspec.json.encode(line).decode() if as_json else f"{at} {arrival} {source} {type_} {state}"
            )
