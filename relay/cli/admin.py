"""`relay admin`: the users of the console."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
import typer

from relay.buffer.admins import Admins
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.config import Config

group = typer.Typer(no_args_is_help=True, help="Users of the console: each sets a password at a one-time link.")

Name = Annotated[str, typer.Argument(help="The user's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="admin")


@group.command()
def add(name: Name, config: ConfigFile = None, data: DataDir = DATA) -> None:
    """Make a user, and print the link at which it sets its password; good once, for an hour."""
    settings = opened(config, data)
    _print(settings, Admins(buffer(settings)).add(name))


@group.command("list")
def list_(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List the users."""
    found = Admins(buffer(opened(config, data))).every()
    if as_json:
        show(msgspec.to_builtins(found))
        return
    for admin in found:
        state = f"last logged in {_day(admin.login_s)}" if admin.login_s else "never logged in"
        typer.echo(f"{admin.name}: {state if admin.ready else 'no password yet'}")
    if not found:
        typer.echo("there is no admin; `relay admin add NAME` makes one")


@group.command()
def remove(name: Name, config: ConfigFile = None, data: DataDir = DATA) -> None:
    """Remove a user; its sessions end at once."""
    Admins(buffer(opened(config, data))).remove(name)
    typer.echo(f"{name} is no admin any more")


@group.command()
def reset(name: Name, config: ConfigFile = None, data: DataDir = DATA) -> None:
    """End a user's password and sessions at once, and print a new link."""
    settings = opened(config, data)
    _print(settings, Admins(buffer(settings)).reset(name))


def _print(config: Config, token: str) -> None:
    """The link, where the relay is reached from this machine; people elsewhere know its name."""
    try:
        port = int((config.data_dir / "port").read_text())  # `relay up` of this folder
    except (OSError, ValueError):
        port = config.settings.port
    typer.echo(f"http://127.0.0.1:{port}/console/welcome?token={token}")
    typer.echo("good once, for an hour; put the relay's own address in place of 127.0.0.1", err=True)


def _day(seconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M} UTC"
