"""Commands that run something: up, web, worker, check."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from redis.exceptions import RedisError

from relay.buffer.keys import ARCHIVE
from relay.buffer.lanes import lane_states
from relay.buffer.redis import inspect, unavailable
from relay.cli.options import (
    DATA,
    AsJson,
    ConfigFile,
    DataDir,
    ask_worker,
    buffer,
    config_path,
    opened,
    show,
    worker_environment,
)
from relay.config import Config
from relay.errors import ConfigInvalid, RelayError
from relay.intake import sources_of

Port = Annotated[int | None, typer.Option(help="Port to listen on; default: the settings' own, 8080.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(web)
    app.command()(worker)
    app.command()(check)


def up(
    config: ConfigFile = None,
    data: DataDir = DATA,
    port: Port = None,
    redis: Annotated[str | None, typer.Option(help="Use this Redis instead of the embedded one.")] = None,
    workers: Annotated[int | None, typer.Option(help="RQ workers; default: the settings' own.")] = None,
) -> None:
    """Run everything on this machine, supervised, until Ctrl-C."""
    from relay import supervisor

    path = config_path(config)
    settings = opened(path, data)
    code = supervisor.up(settings, config_path=path, port=port, redis_url=redis, workers=workers, out=typer.echo)
    raise typer.Exit(code)


def web(config: ConfigFile = None, data: DataDir = DATA, port: Port = None) -> None:
    """Receive only: the web half, for a container."""
    from relay import supervisor

    path = config_path(config)
    raise typer.Exit(supervisor.web(opened(path, data), config_path=path, port=port, out=typer.echo))


def worker(config: ConfigFile = None, data: DataDir = DATA) -> None:
    """Deliver only: RQ workers and the ticker, for a container."""
    settings = opened(config, data)
    os.execve(sys.executable, [sys.executable, "-m", "worker"], worker_environment(settings))  # noqa: S606 - ourselves


def check(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """Check settings, secrets, Redis and destinations; exit 1 where something must be mended."""
    faults: list[str] = []
    warnings: list[str] = []
    report: dict[str, str] = {}
    settings: Config | None = None
    try:
        settings = opened(config, data)
        warnings += settings.warnings
        for name, source in sources_of(settings).items():
            if not source.secrets:
                warnings.append(f"{settings.where(f'sources.{name}')}: no secret yet: its events are answered 503")
    except ConfigInvalid as error:
        faults += str(error).splitlines()
    if settings is not None:
        _check_redis(settings, faults, warnings, report)
        try:
            faults += ask_worker(settings, "check")
        except ConfigInvalid as error:
            faults += str(error).splitlines()
    _print_check(faults, warnings, report, as_json=as_json)
    raise typer.Exit(1 if faults else 0)


def _check_redis(config: Config, faults: list[str], warnings: list[str], report: dict[str, str]) -> None:
    try:
        found = inspect(buffer(config))
    except RelayError as error:
        faults.append(f"Redis: {error}")
    except (RedisError, OSError) as error:
        faults.append(f"Redis: {unavailable(error)}")
    else:
        faults += _stranded(config)
        report.update(found)
        faults += [f"Redis: {fault}" for fault in found.faults]
        warnings += [f"Redis: {warning}" for warning in found.warnings]


def _stranded(config: Config) -> Iterator[str]:
    """Destinations that are no longer configured and still have events."""
    for lane, state in lane_states(buffer(config)).items():
        destination = lane.rsplit("/", 2)[0]
        known = destination == ARCHIVE or destination in config.settings.destinations
        if not known and int(state["waiting"]):
            yield (
                f"{state['waiting']} events wait for destination {destination!r}, which is not configured: "
                "configure it again until they are delivered"
            )


def _print_check(faults: list[str], warnings: list[str], report: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        show({"faults": faults, "warnings": warnings, "redis": report})
        return
    for name, value in report.items():
        typer.echo(f"redis {name}: {value}")
    for warning in warnings:
        typer.echo(f"warning: {warning}")
    for fault in faults:
        typer.echo(f"fault: {fault}")
    if not faults:
        typer.echo("all is well" if not warnings else "usable, with warnings")
