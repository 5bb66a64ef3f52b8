"""Commands on what was: replay, lineage."""

from __future__ import annotations

import base64
import datetime as dt
import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from relay import intake, jobs
from relay.buffer.failures import Failures
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show, stream_worker
from relay.config import Config
from relay.errors import ConfigInvalid
from relay.records import Codec, Packed, arrival_instant, full_version, instant_ns, key_of, records_of

_AGO = re.compile(r"(\d+)([smhd])\Z")
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
    until: Annotated[str | None, typer.Option(help="To when, not included.")] = None,
    type_: Annotated[str, typer.Option("--type", help="Only this event type.")] = "",
    id_: Annotated[str, typer.Option("--id", help="Only this delivery id of the vendor's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Send archived events through the mapping as it is now; versions keep rows from going back."""
    settings = opened(config, data)
    sources = intake.sources_of(settings)
    if source not in sources:
        raise ConfigInvalid(f"there is no source {source!r}; configured: {', '.join(sources)}")
    wanted = {"source": source, "type": type_, "delivery_id": id_, "since": _arrival(since)}
    if until:
        wanted["until"] = _arrival(until)
    failures = Failures(buffer(settings))

    def breathe() -> None:
        while not jobs.room(failures):
            time.sleep(0.1)

    again = jobs.replay(failures, archived(settings, wanted), sources, breathe=breathe)
    if as_json:
        show(msgspec.to_builtins(again))
    else:
        for arrival, why in again.failed.items():
            typer.echo(f"{arrival}: {why}")
        numbers = f"{len(again.queued)} sent again, {len(again.waiting)} still wait"
        typer.echo(f"{numbers}, {len(again.failed)} could not be mapped")
    raise typer.Exit(1 if again.failed else 0)


def archived(config: Config, wanted: dict[str, str]) -> Iterator[tuple[str, Packed]]:
    """Archived events that are meant, oldest first."""
    codec = Codec()
    for line in stream_worker(config, "events", msgspec.json.encode(wanted).decode()):
        yield line["arrival"], codec.unpack(base64.b64decode(line["blob"]))


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
    sources = intake.sources_of(settings).values()
    written = {full: (source, declared) for source in sources for full, declared in source.tables.values()}
    if table not in written:
        raise ConfigInvalid(f"no configured source writes a table {table!r}")
    source, columns = written[table][0], written[table][1].key
    wanted = key_of(dict(zip(columns, key, strict=False)), columns)
    if len(key) != len(columns):
        raise ConfigInvalid(f"the key of {table} is {', '.join(columns)}: give {len(columns)} values")
    found = sorted(_touches(archived(settings, {"source": source.name}), table, columns, wanted), key=_version)
    won = max((t for t in found if t["says"] != "leaves it out"), key=_version, default=None)
    removed = [t for t in found if t["says"] == "leaves it out" and (won is None or t["version"] > won["version"])]
    for touch in found:
        touch["state"] = "won" if touch is won and not removed else "superseded"
    if removed:
        removed[-1]["state"] = "won"
    if as_json:
        show(found)
        return
    for touch in found:
        typer.echo(f"{touch['at']}  {touch['event']}  {touch['type']}: {touch['says']}, {touch['state']}")
    if not found:
        typer.echo("no delivery that is kept touched this row")


def _version(touch: dict[str, Any]) -> str:
    return str(touch["version"])


def _touches(
    events: Iterator[tuple[str, Packed]], table: str, columns: tuple[str, ...], wanted: str
) -> Iterator[dict[str, Any]]:
    for arrival, packed in events:
        for record in records_of(packed) if not packed.meta.fault else ():
            if record.table != table:
                continue
            if record.members is None:
                says = "deletes it" if record.op != "row" else "writes it"
                hit = key_of(record.data, columns) == wanted
            else:
                inside = any(key_of(member, columns) == wanted for member in record.members)
                parent = tuple(record.data)
                values = msgspec.json.decode(wanted)
                ours = [str(v) for v in record.data.values()] == values[: len(parent)]
                says = "writes it" if inside else "leaves it out"
                hit = inside or (ours and record.complete)
            if hit:
                at = arrival_instant(arrival).astimezone(dt.UTC)
                yield {
                    "event": arrival, "at": f"{at:%Y-%m-%d %H:%M:%S}", "type": packed.meta.type,
                    "delivery_id": packed.meta.delivery_id, "says": says,
                    "version": full_version(record.version, arrival),
                }  # fmt: skip
