"""Commands that run something: up, web, worker, check."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer
from redis.exceptions import RedisError

from relay.buffer import strays
from relay.buffer.redis import connect, inspect, unavailable
from relay.cli.options import (
    DATA,
    AsJson,
    ConfigFile,
    DataDir,
    buffer,
    config_path,
    opened,
    show,
)
from relay.config import Config
from relay.configured import sources_of
from relay.errors import ConfigInvalid
from relay.otherhalf import archived_blobs, ask_worker, worker_environment

Discard = Annotated[
    bool, typer.Option("--discard", help="Give up what waits for destinations and sources no longer configured.")
]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on; default: the settings' own, 8080.")
]


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
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="RQ workers; default: the settings' own.")
    ] = None,
    discard: Discard = False,
) -> None:
    """Run everything on this machine, supervised, until Ctrl-C."""
    from relay import supervisor

    path = config_path(config)
    settings = opened(path, data)
    if redis is not None:  # an address that is none is said before anything starts
        connect(redis).close()
    elif settings.settings.redis_url.get_secret_value():
        buffer(settings).close()
    code = supervisor.up(
        settings,
        config_path=path,
        port=port,
        redis_url=redis,
        workers=workers,
        out=typer.echo,
        first=lambda url: _give_up(settings, url) if discard else _leave_nothing(settings, url),
    )
    raise typer.Exit(code)


def web(config: ConfigFile = None, data: DataDir = DATA, port: Port = None, discard: Discard = False) -> None:
    """Receive only: the web half, for a container."""
    from relay import supervisor

    path = config_path(config)
    settings = opened(path, data)
    if discard:
        _give_up(settings, settings.redis_url())
    raise typer.Exit(supervisor.web(settings, config_path=path, port=port, out=typer.echo))


def worker(config: ConfigFile = None, data: DataDir = DATA, discard: Discard = False) -> None:
    """Deliver only: RQ workers and the ticker, for a container."""
    settings = opened(config, data)
    if discard:
        _give_up(settings, settings.redis_url())
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
        found = inspect(buffer(config), config.settings.durability)
    except ConfigInvalid as error:
        faults.append(str(error))
    except (RedisError, OSError) as error:
        faults.append(f"Redis: {unavailable(error)}")
    else:
        try:
            strays.refuse(buffer(config), config.settings.destinations, config.settings.sources)
        except ConfigInvalid as error:
            faults += str(error).splitlines()
        report.update(found)
        faults += [f"Redis: {fault}" for fault in found.faults]
        warnings += [f"Redis: {warning}" for warning in found.warnings]


def _give_up(config: Config, url: str) -> None:
    """Give up what waits for destinations and sources that are not configured any more."""

    def fetch(arrivals: list[str]) -> dict[str, bytes]:
        if not arrivals:
            return {}
        span = {"since": min(arrivals), "until": max(arrivals) + "!"}
        return {arrival: blob for arrival, blob in archived_blobs(config, span) if arrival in set(arrivals)}

    settings = config.settings
    count = strays.discard(connect(url, timeout_s=30), settings.destinations, settings.sources, fetch)
    typer.echo(f"{count} events given up")


def _leave_nothing(config: Config, url: str) -> None:
    """Refuse settings that leave something behind before any part starts: each of them would say so."""
    with (
        contextlib.suppress(RedisError),
        connect(url, timeout_s=30) as client,
    ):  # where it is away, parts wait for it
        strays.refuse(client, config.settings.destinations, config.settings.sources)


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
