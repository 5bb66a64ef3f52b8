"""`relay keys`: API keys of those who push to the relay, and of those who read from it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
import typer

from relay import configured
from relay.buffer.registry import MOST_DAYS, Registry
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.pushes import client_of

group = typer.Typer(no_args_is_help=True, help="API keys: made once, kept as a hash, gone at once when revoked.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="keys")


@group.command("create")
def create(  # noqa: PLR0913, PLR0917 - options of a command
    kind: Annotated[str, typer.Option(help="import (it pushes), export (it reads) or admin (it reads /metrics).")],
    client: Annotated[int, typer.Option(help="The client id that it is used with.")] = 0,
    name: Annotated[str, typer.Option(help="For people.")] = "",
    table: Annotated[
        list[str] | None, typer.Option(help="Only this table may be written; again for more.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Only from this address or network (CIDR); again for more.")
    ] = None,
    days: Annotated[int, typer.Option(min=0, max=MOST_DAYS, help="For so long; 0: until it is revoked.")] = 0,
    config: ConfigFile = None,
    data: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once."""
    settings = opened(config, data)
    registry = Registry(buffer(settings))
    if kind == "import" and client:  # a key with which nothing could be pushed is better not handed out
        client_of(settings, configured.sources_of(settings).values(), client, registry.prefix)
    key = registry.create(kind, client, name=name, tables=table or (), networks=network or (), days=days)
    if as_json:
        found = registry.find(key)
        show({"key": key, "id": found.short if found else ""})
        return
    typer.echo(key)
    typer.echo("it is not shown again", err=True)


@group.command("list")
def list_(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List the keys, without themselves."""
    found = Registry(buffer(opened(config, data))).every()
    if as_json:
        show([{**msgspec.to_builtins(key), "id": key.short} for key in found])
        return
    for key in found:
        bound = [f"tables {', '.join(key.tables)}"] if key.tables else []
        bound += [f"from {', '.join(key.networks)}"] if key.networks else []
        bound += [f"until {_day(key.expires_s)}"] if key.expires_s else []
        used = f"used {_day(key.used_s)}" if key.used_s else "never used"
        whose = f" of client {key.client}" if key.client else ""
        typer.echo(", ".join([f"{key.short}  {key.kind}{whose} {key.name}".rstrip(), *bound, used]))


@group.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, or how that begins, as `relay keys list` prints it.")],
    config: ConfigFile = None,
    data: DataDir = DATA,
) -> None:
    """Revoke a key; what is on its way with it is refused from now on."""
    gone = Registry(buffer(opened(config, data))).revoke(key)
    typer.echo(f"{gone.short} opens nothing any more")


def _day(seconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M} UTC"
