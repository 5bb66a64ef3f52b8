"""`relay imports`: executions of document imports, listed and canceled."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from relay.buffer.documents import Documents
from relay.buffer.executions import CANCELED, Execution
from relay.buffer.registry import Registry
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.errors import ConfigInvalid

group = typer.Typer(no_args_is_help=True, help="Documents that clients sent, and what became of each.")
#: A worker's own, and of no use to others.
_INSIDE = ("token", "until", "header", "held", "at", "pieces", "base_us")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.add_typer(group, name="imports")


@group.command("list")
def list_(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List the executions that are kept, by client, newest first."""
    settings = opened(config, data)
    client = buffer(settings)
    store = Documents(client)
    runs: list[Execution] = []
    for number in Registry(client).document_clients(settings.settings.clients):
        runs += [run for one in store.imports(number) for run in store.executions(one.id)]
    if as_json:
        show([{k: v for k, v in msgspec.to_builtins(run).items() if k not in _INSIDE} for run in runs])
        return
    for run in runs:
        why = f": {run.why}" if run.why else ""
        typer.echo(
            f"{run.id}  client {run.client}, import {run.import_id}, {run.document_type} {run.file_name}: "
            f"{run.status}, {run.completed} taken, {run.erroneous} refused{why}"
        )
    if not runs:
        typer.echo("nothing was imported, or nothing of it is kept any more")


@group.command("cancel")
def cancel(
    execution: Annotated[int, typer.Argument(help="Its number, as `relay imports list` prints it.")],
    config: ConfigFile = None,
    data: DataDir = DATA,
) -> None:
    """Cancel an execution; what was taken of it stays."""
    store = Documents(buffer(opened(config, data)))
    run = store.execution(execution)
    if run is None or not run.open:
        raise ConfigInvalid(f"no execution {execution} waits or runs")
    after = store.cancel(run)
    ends = "is canceled" if after.status == CANCELED else "ends after the piece that is under way"
    typer.echo(f"{execution} {ends}; {after.completed} commands of it stay")
