"""Options that every command takes, and what they open."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
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
    return connect(config.redis_url(), timeout_s=30)


def ask_worker(config: Config, verb: str, *args: str) -> Any:
    """What needs a destination runs as the half that has them: `python -m worker VERB`, JSON on its output.

    Raises:
        ConfigInvalid: with the words of that half.
    """
    environment = worker_environment(config)
    command = [sys.executable, "-m", "worker", verb, *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ConfigInvalid(done.stderr.strip() or f"python -m worker {verb} ended with {done.returncode}")
    return json.loads(done.stdout)


def stream_worker(config: Config, verb: str, *args: str, told: Iterable[bytes] | None = None) -> Iterator[Any]:
    """`ask_worker` for many answers: one JSON value a line, as they come.

    `told` are lines for its standard input; it must read them all before it answers.
    """
    command = [sys.executable, "-m", "worker", verb, *args]
    environment = worker_environment(config)
    given = subprocess.DEVNULL if told is None else subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=given, stdout=subprocess.PIPE) as asked:  # noqa: S603
        if asked.stdin is not None:
            # Where it ended early, its exit code says more than the broken pipe.
            with contextlib.suppress(BrokenPipeError), asked.stdin as stdin:
                for line in told or ():
                    stdin.write(line + b"\n")
        for line in asked.stdout or ():
            yield json.loads(line)
    if asked.returncode != 0:
        raise ConfigInvalid(f"python -m worker {verb} ended with {asked.returncode}")


def worker_environment(config: Config) -> dict[str, str]:
    """The environment in which the other half finds the same settings."""
    import os

    environment = dict(os.environ)
    environment["RELAY_DATA"] = str(config.data_dir)
    if config.path is not None:
        environment["RELAY_CONFIG"] = str(config.path)
    return environment


def show(value: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
