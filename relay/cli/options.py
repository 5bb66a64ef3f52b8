"""Options that every command takes, and what they open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import redis as driver
import typer

from relay import telemetry
from relay.buffer.redis import connect
from relay.config import Config, load
from relay.errors import ConfigInvalid

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="RELAY_CONFIG", help="The settings file; default: relay.yaml, if it is there."
    ),
]
DataDir = Annotated[Path, typer.Option("--data", envvar="RELAY_DATA", help="The data folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
DATA = Path(".relay")


def config_path(given: Path | None) -> Path | None:
    """The file that is meant: the given one, else relay.yaml where it is there."""
    if given is not None:
        return given
    usual = Path("relay.yaml")
    return usual if usual.exists() else None


def opened(given: Path | None, data: Path) -> Config:
    """Settings, checked; what a command logs from then on goes to standard error, as they say."""
    config = load(config_path(given), data)
    telemetry.setup(config.settings.log_format, config.settings.log_level)
    return config


def buffer(config: Config) -> driver.Redis:
    """A client of the buffer."""
    url = config.redis_url()
    try:
        return connect(url, timeout_s=30)
    except ConfigInvalid as error:
        raise config.fault("redis_url", str(error)) from None


def show(value: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
