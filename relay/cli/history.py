"""Commands on what was: replay, lineage."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from relay import jobs
from relay.buffer.failures import Failures
from relay.buffer.finding import Text
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.config import Config
from relay.errors import ConfigInvalid
from relay.lineage import lineage as touches
from relay.lineage import sought
from relay.otherhalf import archived
from relay.records import Packed, instant_ns
from relay.rehearsing import ORIGIN, Outcome, rehearsed

_AGO = re.compile(r"(\d+)([smhd])\Z")
#: How often a replay looks whether there is room.
_LOOK_S = 0.1
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(replay)
    app.command()(lineage)


def replay(  # noqa: PLR0913, PLR0917 - options of a command
    source: Annotated[str, typer.Option(help="Whose events.")],
    since: Annotated[str, typer.Option(help="From when: a time (2026-11-20T08:00Z) or so long ago (90m, 2d).")],
    config: ConfigFile = None,
    data: DataDir = DATA,
    until: Annotated[str, typer.Option(help="To when, not included; default: now.")] = "0s",
    type_: Annotated[str, typer.Option("--type", help="Only this event type.")] = "",
    id_: Annotated[str, typer.Option("--id", help="Only this delivery id of the vendor's.")] = "",
    text: Annotated[str, typer.Option(help="Only where the body has this text.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print which rows would change; store nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send archived events through the mapping as it is now; versions keep rows from going back.

    Exit 1 where an event cannot be mapped, or a destination cannot say what would change.
    """
    settings = opened(config, data)
    sources = jobs.senders(settings, buffer(settings))
    if source not in sources:
        raise ConfigInvalid(f"there is no source {source!r}; configured: {', '.join(sources)}")
    wanted = {
        "source": source, "type": type_, "delivery_id": id_, "since": _arrival(since), "until": _arrival(until),
    }  # fmt: skip
    has = Text(text)
    events = ((arrival, packed) for arrival, packed in archived(settings, wanted) if has.fits(packed.raw))
    act = _rehearse if dry_run else _replay
    failed = act(settings, events, sources[source], as_json=as_json)
    raise typer.Exit(1 if failed else 0)


Events = Iterator[tuple[str, Packed]]


def _replay(config: Config, events: Events, source: jobs.Sender, *, as_json: bool) -> bool:
    failures = Failures(buffer(config))

    def breathe(_: jobs.Again) -> bool:
        said = False
        while not jobs.room(failures, source):
            if not said:
                typer.echo("waiting until the lanes have room", err=True)
            said = True
            time.sleep(_LOOK_S)
        return True

    again = jobs.replay(failures, events, {source.name: source}, breathe=breathe)
    if as_json:
        show(msgspec.to_builtins(again))
    else:
        _say_failed(again.failed)
        numbers = f"{len(again.queued)} sent again, {len(again.waiting)} still wait"
        typer.echo(f"{numbers}, {len(again.failed)} could not be mapped")
    return bool(again.failed)


def _rehearse(config: Config, events: Events, source: jobs.Sender, *, as_json: bool) -> bool:
    """Print what would change; whether an event cannot be mapped or a destination cannot tell."""
    rows: list[dict[str, Any]] = []
    outcome = Outcome()
    for line in rehearsed(config, events, source, outcome):
        if as_json:
            rows.append(line)
        else:
            _say_row(line)
    if as_json:
        found = {"destinations": outcome.counts, "failed": outcome.failed, "unseen": outcome.unseen}
        show({**outcome.total, "rows": rows, **found})
    else:
        _say_failed(outcome.failed)
        for name, why in outcome.unseen.items():
            typer.echo(f"{name}: {why}", err=True)
        typer.echo(f"{', '.join(f'{n} {sort}' for sort, n in outcome.total.items())}; nothing was stored")
    return bool(outcome.failed or outcome.unseen)


def _say_failed(failed: dict[str, str]) -> None:
    for arrival, why in failed.items():
        typer.echo(f"{arrival}: {why}")


def _say_row(row: dict[str, Any]) -> None:
    """One row, and its fields but for those that say where it comes from."""
    at = f"{row['destination']}  {row['op']}  {row['table']}"
    if row["op"] == "rejected":
        typer.echo(f"{at}  {row['key']}: {row['reason']}")
        return
    key = ", ".join(f"{name}={value}" for name, value in row["key"].items())
    typer.echo(f"{at}  {key}")
    for name, (old, new) in row["fields"].items():
        if name not in row["key"] and name not in ORIGIN:
            typer.echo(f"    {name}: {_shown(old)} -> {_shown(new)}")


def _shown(cell: Any) -> str:
    return msgspec.json.encode(cell).decode()


def _arrival(text: str) -> str:
    """A time, or so long ago, as the arrival number of that moment."""
    ago = _AGO.match(text)
    if ago:
        at: int | None = time.time_ns() - int(ago[1]) * _SECONDS[ago[2]] * 1_000_000_000
    else:
        at = instant_ns(text)
    if at is None:
        raise ConfigInvalid(f"{text!r} is neither a time such as 2026-11-20T08:00Z nor a span such as 90m or 2d")
    return f"{at // 1000:016d}"


def lineage(
    table: Annotated[str, typer.Argument(help="Full name of the table.")],
    key: Annotated[list[str], typer.Argument(help="The row's key, one value a key column.")],
    config: ConfigFile = None,
    data: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Show the deliveries kept that touched a row, oldest version first, and which of them won."""
    settings = opened(config, data)
    client = buffer(settings)
    source, declared = jobs.owned(settings, client, table, key)
    events = archived(settings, {"source": source.name})
    found = touches(events, sought(table, declared, key), Failures(client).every(), source.to)
    if as_json:
        show(msgspec.to_builtins(found))
        return
    for touch in found:
        by = f" (refused by {', '.join(touch.refused_by)})" if touch.refused_by else ""
        typer.echo(f"{touch.at}  {touch.event}  {touch.type}: {touch.says}, {touch.state}{by}")
    if not found:
        typer.echo("no delivery that is kept touched this row")
