"""Commands on what failed: dead list, show, retry, discard."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import typer

from relay import jobs
from relay.buffer.failures import Failure, Failures
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.config import Config
from relay.errors import ConfigInvalid
from relay.records import arrival_instant

group = typer.Typer(no_args_is_help=True, help="What failed and is kept: quarantined events and dead letters.")

Blame = Annotated[Literal["vendor", "mapping", "destination"] | None, typer.Option(help="Only of this blame.")]
OfSource = Annotated[str | None, typer.Option("--source", help="Only of this source.")]
Type = Annotated[str | None, typer.Option("--type", help="Only of this event type.")]
Destination = Annotated[str | None, typer.Option(help="Only refused by this destination.")]
Reason = Annotated[str | None, typer.Option(help="Only where the reason contains this text.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids, as `relay dead list` prints them.")]
Everything = Annotated[bool, typer.Option("--all", help="All that the filters leave.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="dead")


class Filter(msgspec.Struct, frozen=True):
    """Which failures are meant."""

    blame: str | None
    source: str | None
    type: str | None
    destination: str | None
    reason: str | None

    def fits(self, failure: Failure) -> bool:
        """Whether a failure is one of them."""
        wanted = {"blame": self.blame, "source": self.source, "type": self.type, "destination": self.destination}
        same = all(value is None or getattr(failure, name) == value for name, value in wanted.items())
        return same and (self.reason is None or self.reason in failure.reason)


@group.command("list")
def list_(  # noqa: PLR0913, PLR0917 - options of a command
    config: ConfigFile = None,
    data: DataDir = DATA,
    blame: Blame = None,
    source: OfSource = None,
    type_: Type = None,
    destination: Destination = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """List what failed, and whose fault it is."""
    wanted = Filter(blame, source, type_, destination, reason)
    failures = Failures(buffer(opened(config, data)))
    found = [f for f in failures.every() if wanted.fits(f)]
    if as_json:
        show(msgspec.to_builtins(found))
        return
    for failure in found:
        at = f"{arrival_instant(failure.arrival):%Y-%m-%d %H:%M:%S}"
        where = f" {failure.destination} {failure.table} {failure.key}" if failure.destination else ""
        typer.echo(
            f"{failure.id}  {at}  {failure.source} {failure.type}{where}  [{failure.blame}] {failure.reason}"
        )
    if not found:
        others = failures.first(1)[0]
        typer.echo("nothing that failed is of that kind: list it without filters" if others else "nothing failed")


@group.command("show")
def show_(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `relay dead list` prints it.")],
    config: ConfigFile = None,
    data: DataDir = DATA,
) -> None:
    """Show one failure with its event's body."""
    failures = Failures(buffer(opened(config, data)))
    failure = next((f for f in failures.every() if f.id == id_), None)
    packed = failures.event(failure.arrival) if failure is not None else None
    if failure is None or packed is None:
        raise ConfigInvalid(f"there is no failure {id_!r}; see `relay dead list`")
    body = packed.raw.decode("utf-8", "backslashreplace")
    show({**msgspec.to_builtins(failure), "headers": packed.meta.headers, "body": body})


@group.command()
def retry(  # noqa: PLR0913, PLR0917 - options of a command
    ids: Ids = None,
    config: ConfigFile = None,
    data: DataDir = DATA,
    everything: Everything = False,
    blame: Blame = None,
    source: OfSource = None,
    type_: Type = None,
    destination: Destination = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Map failed events anew and send them through their lanes again; exit 1 where some still fail."""
    settings = opened(config, data)
    failures = Failures(buffer(settings))
    chosen = _chosen(failures, ids, Filter(blame, source, type_, destination, reason), everything=everything)
    again = jobs.retry(failures, chosen, _sources(settings))
    if as_json:
        show(msgspec.to_builtins(again))
    else:
        for id_, why in again.failed.items():
            typer.echo(f"{id_}: {why}")
        typer.echo(
            f"{len(again.queued)} sent again, {len(again.waiting)} still wait, {len(again.failed)} still fail"
        )
    raise typer.Exit(1 if again.failed else 0)


@group.command()
def discard(  # noqa: PLR0913, PLR0917 - options of a command
    ids: Ids = None,
    config: ConfigFile = None,
    data: DataDir = DATA,
    everything: Everything = False,
    blame: Blame = None,
    source: OfSource = None,
    type_: Type = None,
    destination: Destination = None,
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give failures up: they count as discarded from then on."""
    failures = Failures(buffer(opened(config, data)))
    chosen = _chosen(failures, ids, Filter(blame, source, type_, destination, reason), everything=everything)
    if not yes:
        typer.confirm(f"give up {len(chosen)} failures for good?", abort=True)
    gone = sum(failures.discard(failure) for failure in chosen)
    typer.echo(f"{gone} discarded")


def _chosen(failures: Failures, ids: list[str] | None, wanted: Filter, *, everything: bool) -> list[Failure]:
    if not ids and not everything:
        raise ConfigInvalid("say which: ids as `relay dead list` prints them, or --all with filters")
    found = [f for f in failures.every() if wanted.fits(f) and (everything or f.id in (ids or ()))]
    missing = set(ids or ()) - {f.id for f in found}
    if missing:
        raise ConfigInvalid(f"there is no failure {', '.join(sorted(missing))}; see `relay dead list`")
    return found


def _sources(config: Config) -> dict[str, jobs.Sender]:
    return jobs.senders(config, buffer(config))
