"""Commands that look: sources, tables, stats, tail."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from relay import catalogue, recipes
from relay.buffer import destinations, keys, ledger, rates, samples
from relay.buffer.alarms import maxmemory, standing
from relay.buffer.bounds import bounds_of
from relay.buffer.lanes import lane_states
from relay.buffer.waiting import Waiting
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.configured import sources_of
from relay.kinds import SOURCES, kinds, vendor_of
from relay.otherhalf import ask_worker
from relay.records import arrival_instant
from relay.source import Vendor
from relay.words import span


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
        for s in sources_of(settings).values()
    ]
    known = [kind_of(name) for name in kinds()]
    if as_json:
        show({"sources": configured, "kinds": known})
        return
    for one in configured:
        state = "" if one["secrets"] else "  (no secret yet)"
        typer.echo(f"{one['name']}: {one['kind']} at {one['url']}{state}")
    files = [kind for kind in known if kind["support"] == "source"]
    groups = {
        "proved by what others signed": [kind for kind in files if kind["proved"]],
        "as the vendor documents it": [kind for kind in files if not kind["proved"]],
        "recipes": [kind for kind in known if kind["support"] == "recipe"],
        "described in relay.yaml": [kind for kind in known if kind["support"] == "custom"],
    }
    for title, found in groups.items():
        typer.echo(f"kinds, {title}: {', '.join(kind['kind'] for kind in found) or 'none'}")


def kind_of(name: str) -> dict[str, Any]:
    """What there is to know of one kind, `support` being `source` (a file), `recipe` or `custom`."""
    recipe = name in recipes.names()
    vendor = vendor_of(name, {}) if recipe else getattr(catalogue.load(SOURCES, name), "vendor", None)
    if not isinstance(vendor, Vendor):
        return {
            "kind": name, "support": "custom", "proved": False, "title": "declared in relay.yaml",
            "family": "generic", "docs": "", "scheme": "", "proof": "", "setup": [], "deletes": "", "limits": [],
            "settings": {}, "types": [], "tables": {},
        }  # fmt: skip
    return {
        "kind": name,
        "support": "recipe" if recipe else "source",
        "proved": vendor.proved,
        "title": vendor.title,
        "family": vendor.family,
        "docs": vendor.docs,
        "scheme": vendor.verifier({k: s.default for k, s in vendor.settings.items()}).scheme,
        "proof": vendor.proof,
        "setup": list(vendor.setup),
        "deletes": vendor.deletes,
        "limits": list(vendor.limits),
        "settings": {
            k: {"help": s.help, "default": s.default, "secret": s.secret} for k, s in vendor.settings.items()
        },
        "types": [*vendor.mappers, *(prefix for prefix, _ in vendor.families)],
        "tables": {
            t.name: {
                "key": list(t.key),
                "parent": list(t.parent),
                "clock": t.clock,
                "columns": {column: str(type_) for column, type_ in t.columns.items()},
            }
            for t in vendor.tables.values()
        },
    }


def tables(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List the tables at each destination: what they are called there, their rows, and when the newest came."""
    settings = opened(config, data)
    found: dict[str, Any] = ask_worker(settings, "tables")
    if as_json:
        show(found)
        return
    for destination, report in found.items():
        if "error" in report:
            typer.echo(f"{destination}: {report['error']}")
        for table in report.get("tables", ()):
            there = f" (there {table['at']})" if table["at"] != table["name"] else ""
            typer.echo(
                f"{destination}  {table['name']}{there}: {table['rows']} rows, {table['deleted']} deleted, "
                f"newest {table['last_received_at'] or '-'}"
            )


def stats(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """Show the ledger, the rates of the last minutes, the lanes and what waits in the buffer."""
    settings = opened(config, data)
    client = buffer(settings)
    account = ledger.read(client)
    alarms = [alarm.text for alarm in standing(client, bounds_of(settings.settings, maxmemory(client)))]
    held: Any = client.hgetall(keys.BYTES)
    waiting = Waiting(client)
    waits = waiting.counts()
    lanes, standings = lane_states(client), destinations.standings(client)
    routes = [
        {"source": s, "destination": d, "table": t, **states} for (s, d, t), states in account.records.items()
    ]
    rate = _rates(client)
    if as_json:
        sizes = {source.decode(): int(n) for source, n in held.items()}
        show({
            "events": account.events, "records": routes, "rates": rate, "lanes": lanes, "bytes": sizes,
            "alarms": alarms,
        })  # fmt: skip
        return
    for source, states in sorted(account.events.items()):
        typer.echo(f"events  {source}: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())))
    for route in routes:
        numbers = ", ".join(f"{n} {k}" for k, n in sorted(route.items()) if isinstance(n, int))
        typer.echo(f"records {route['table']} to {route['destination']}: {numbers}")
    if rate is not None:
        typer.echo(
            f"rates   {rate['events_in']:.1f} events in and {rate['records_out']:.1f} records out a minute, "
            f"over the last {span(rate['over_s'])}"
        )
    for name, state in standings.items():
        typer.echo(f"destination {name}: {destinations.in_words(state)}")
    for name, state in lanes.items():
        typer.echo(f"lane    {name}: {state['waiting']} events wait {state.get('why', '')}".rstrip())
    for source, count in waits.items():
        why = waiting.why(source)
        said = f": {why}" if why else ""
        typer.echo(f"waiting {source}: {count} events wait for what they name to be fetched{said}")
    for alarm in alarms:
        typer.echo(f"alarm   {alarm}")


def _rates(client: Any) -> dict[str, float] | None:
    """Events taken and records stored a minute; None where no worker took samples."""
    found = rates.lately(samples.read(client))
    if found is None or found.since is None or found.accepted is None or found.stored is None:
        return None
    over_s = (found.at - found.since) / 1000
    return {"events_in": found.accepted, "records_out": found.stored, "over_s": over_s}


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
