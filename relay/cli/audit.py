"""`relay audit`: the ledger, and with `--deep` everything that it speaks of, at the destinations too."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import redis as driver
import typer

from relay.buffer import keys, ledger, parking
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.config import Config
from relay.otherhalf import archived_blobs, stream_worker
from relay.records import Codec


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    config: ConfigFile = None,
    data: DataDir = DATA,
    as_json: AsJson = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Count again what waits, and compare the archive with the destinations.")
    ] = False,
) -> None:
    """Check that every event and record is accounted for; exit 1 where the ledger does not balance."""
    settings = opened(config, data)
    client = buffer(settings)
    faults = ledger.audit(
        client, deep=deep, bodies=lambda since, until: archived_blobs(settings, {"since": since, "until": until})
    )
    unseen: dict[str, str] = {}
    if deep:
        for destination in settings.settings.destinations:
            faults += _rows(settings, client, destination, unseen)
    if as_json:
        show({"balanced": not faults, "faults": faults, **({"unseen": unseen} if unseen else {})})
    else:
        for name, why in unseen.items():
            typer.echo(f"rows at {name} were not judged: {why}", err=True)
        for fault in faults:
            typer.echo(fault)
        typer.echo("the ledger does not balance" if faults else "the ledger balances")
    raise typer.Exit(1 if faults else 0)


def _rows(config: Config, client: driver.Redis, destination: str, unseen: dict[str, str]) -> Iterator[str]:
    """Rows at a destination that are not as the archived events that were delivered there left them.

    What was given up of a table, or sent again, is on the ledger without its keys: of such a table it is only said
    how many rows differ.
    """
    if config.settings.archive_days == 0:
        return
    given_up, differ = Counter[str](), Counter[str]()
    for (_, of, table), states in ledger.read(client).records.items():
        if of == destination:
            given_up[table] += states.get("discarded", 0)
    for line in stream_worker(config, "preview", told=_told(config, client, destination)):
        if "unseen" in line:
            unseen[line["destination"]] = line["unseen"]
        elif line.get("op") in {"inserted", "changed"}:
            table = line["table"]
            differ[table] += 1
            key = ", ".join(f"{name}={value}" for name, value in line["key"].items())
            state = "is missing" if line["op"] == "inserted" else "is not as it was delivered"
            if not given_up[table]:
                yield f"row {key} of {table} at {destination} {state}"
    for table, count in differ.items():
        if given_up[table]:
            unseen[f"{destination}, table {table}"] = (
                f"{count} differ, and {given_up[table]} records were given up or sent again there (`relay dead`), "
                "whose keys nobody remembers"
            )


def _told(config: Config, client: driver.Redis, destination: str) -> Iterator[bytes]:
    declared: Any = client.hgetall(keys.SCHEMAS)
    schemas = {id_.decode(): text.decode() for id_, text in declared.items()}
    yield msgspec.json.encode({"destinations": [destination], "schemas": schemas})
    codec = Codec()
    for arrival, blob in archived_blobs(config, {}):
        meta = codec.unpack(blob).meta
        # What is still held for a lane, a person or as a dead letter is not yet, or not all, in the tables.
        if destination in meta.to and not meta.fault and not parking.held(client, [arrival]):
            told = {"arrival": arrival, "source": meta.source, "blob": base64.b64encode(blob).decode()}
            yield msgspec.json.encode(told)
