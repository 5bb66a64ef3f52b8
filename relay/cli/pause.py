"""`relay pause` and `relay resume`: hold a destination back, and let it go on."""

from __future__ import annotations

from typing import Annotated

import typer

from relay.buffer import destinations
from relay.cli.options import DATA, ConfigFile, DataDir, buffer, opened
from relay.config import Config
from relay.errors import ConfigInvalid

Name = Annotated[str, typer.Argument(help="A destination, by its name in relay.yaml.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pause, resume):
        app.command()(command)


def pause(
    destination: Name,
    why: Annotated[str, typer.Option(help="Shown by `relay stats` until it is resumed.")] = "",
    config: ConfigFile = None,
    data: DataDir = DATA,
) -> None:
    """Deliver nothing to a destination until `relay resume`; deliveries are taken all the same.

    What is being sent is finished first: a batch, or two of a backlog.
    """
    settings = opened(config, data)
    _known(settings, destination)
    destinations.pause(buffer(settings), destination, why)
    typer.echo(f"{destination} is paused; `relay resume {destination}` ends it")


def resume(destination: Name, config: ConfigFile = None, data: DataDir = DATA) -> None:
    """Deliver to a destination again, now: after `relay pause`, or where it rests since it failed."""
    settings = opened(config, data)
    _known(settings, destination)
    if destinations.resume(buffer(settings), destination):
        typer.echo(f"{destination} goes on")
    else:
        typer.echo(f"nothing held {destination} back")


def _known(config: Config, name: str) -> None:
    known = config.settings.destinations
    if name not in known:
        raise ConfigInvalid(f"there is no destination {name!r}; known: {', '.join(known)}")
