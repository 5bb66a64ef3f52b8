"""`relay alerts`: what needs a person now, and whether those who are to be told can be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import typer
from redis.exceptions import RedisError

from relay.buffer.alerts import Alerts
from relay.buffer.needs import look
from relay.buffer.redis import unavailable
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.otherhalf import ask_worker

group = typer.Typer(no_args_is_help=True, help="What needs a person, and who is told of it.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="alerts")


@group.command("list")
def list_(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """List what needs a person now, as the console and the worker's log say it, and since when it was said."""
    settings = opened(config, data)
    client = buffer(settings)
    try:
        needs, known = look(client, settings), Alerts(client).known()
    except (RedisError, OSError) as error:
        raise unavailable(error) from error
    found: list[dict[str, Any]] = []
    for need in needs:
        state = known.get(need.id)
        said = state.rang if state is not None else 0
        found.append(
            {
                **{name: getattr(need, name) for name in ("kind", "about", "tone", "what", "why")},
                "since": _instant(state.since) if state is not None and not state.over else None,
                "alerted": _instant(said) if said else None,
                "rings": need.rings,
            }
        )
    if as_json:
        show(found)
        return
    for one in found:
        alerted = f"  (alerted {one['alerted']})" if one["alerted"] else ""
        typer.echo(f"{one['tone']:4} {one['kind']}: {one['what']}{alerted}\n     {one['why']}")
    if not found:
        typer.echo("nothing needs anybody")


@group.command("test")
def try_out(config: ConfigFile = None, data: DataDir = DATA, as_json: AsJson = False) -> None:
    """Send a test to each receiver of alerts, and say what it answers; exit 1 where one does not take it."""
    settings = opened(config, data)
    answers: list[dict[str, Any]] = ask_worker(settings, "alerts")
    if as_json:
        show(answers)
    else:
        for one in answers:
            state = "took it" if one["taken"] else "did not take it"
            typer.echo(f"{one['to']} ({one['format']}) {state}: {one['answer']}")
        if not answers:
            typer.echo("nobody is told: there is no `alerts` in the settings")
    raise typer.Exit(0 if all(one["taken"] for one in answers) else 1)


def _instant(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
