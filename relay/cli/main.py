"""The command line's frame: options that every command takes, and errors as one line a fault."""

from __future__ import annotations

import sys

import typer
from redis.exceptions import RedisError

from relay import __version__
from relay.buffer.redis import unavailable
from relay.cli import (
    admin,
    alerts,
    apikeys,
    audit,
    cases,
    dead,
    drift,
    forget,
    history,
    imports,
    look,
    pause,
    refused,
    run,
    send,
)  # fmt: skip
from relay.errors import BufferUnavailable, RelayError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A webhook relay that turns SaaS webhooks into correct, typed rows.",
)
_MODULES = (
    run, send, cases, look, alerts, drift, dead, refused, history, forget, audit, pause, imports, apikeys, admin,
)  # fmt: skip
for module in _MODULES:
    module.register(app)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run a command; a fault that a person can mend is said in plain words, with exit code 2."""
    try:
        app()
    except (RedisError, RelayError) as error:
        said = unavailable(error) if isinstance(error, RedisError) else error
        away = isinstance(said, BufferUnavailable) and said.reason == "redis_away"
        sys.stderr.write(f"{said}{': see whether it runs, and what redis_url says' if away else ''}\n")
        sys.exit(2)
    except BrokenPipeError:  # `relay tail | head`
        sys.stderr.close()
        sys.exit(0)
