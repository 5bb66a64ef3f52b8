"""Commands on what was refused with 401: doctor, and refused list, retry."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from relay import configured, intake
from relay.buffer.accept import Front
from relay.buffer.refused import Account, Accounts, Entry, Kept, Refused
from relay.buffer.seal import of_refused
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.config import Config
from relay.configured import Source
from relay.errors import ConfigInvalid, IntakeError, SealBroken
from relay.records import Codec, Request

group = typer.Typer(no_args_is_help=True, help="Requests that were refused for their signature and are kept.")

OfSource = Annotated[str | None, typer.Option("--source", help="Only of this source.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(doctor)
    app.add_typer(group, name="refused")


def doctor(
    source: Annotated[str | None, typer.Argument(help="Only this source.")] = None,
    config: ConfigFile = None,
    data: DataDir = DATA,
    as_json: AsJson = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write a zip for a bug report: versions, settings, accounts; no secrets, no data."),
    ] = None,
) -> None:
    """Say why deliveries were refused with 401 in the last days, and what to do; or gather a bug report."""
    if bundle is not None:
        _bundle(bundle, config, data)
        return
    settings = opened(config, data)
    accounts = Accounts(buffer(settings)).every()
    if source is not None:
        _known(settings, source)
        accounts = {name: account for name, account in accounts.items() if name == source}
    if as_json:
        show({"sources": [_account(name, account) for name, account in accounts.items()]})
        return
    for name, account in accounts.items():
        first, last = _moment(account.first), _moment(account.last)
        typer.echo(f"{name}: {account.refused} refused, the first {first}, the last {last}")
        for finding in account.findings:
            typer.echo(f"  {_moment(finding.last)}  {finding.times}x  [{finding.reason}] {finding.hypothesis}")
    if not accounts:
        typer.echo("nothing was refused")


def _bundle(path: Path, config: Path | None, data: Path) -> None:
    from relay.cli.bundle import Bundle, write

    try:
        found = Bundle(opened(config, data))
    except ConfigInvalid as error:
        found = Bundle(None, str(error))
    files = found.collect()
    write(path, files)
    typer.echo(f"{path} holds {', '.join(files)}.")
    typer.echo("It is made without secrets and without anybody's data. Look through it before you send it.")


def _account(name: str, account: Account) -> dict[str, Any]:
    findings = [
        {
            "at": _moment(finding.last),
            "count": finding.times,
            "reason": finding.reason,
            "kind": finding.kind,
            "hypothesis": finding.hypothesis,
        }
        for finding in account.findings
    ]
    first, last = _moment(account.first), _moment(account.last)
    return {"source": name, "refused": account.refused, "first": first, "last": last, "findings": findings}


@group.command("list")
def list_(
    config: ConfigFile = None, data: DataDir = DATA, source: OfSource = None, as_json: AsJson = False
) -> None:
    """List the refused requests that are kept; their content is sealed."""
    settings = opened(config, data)
    if source is not None:
        _known(settings, source)
    found = list(Refused(buffer(settings)).every(source))
    if as_json:
        show([{**msgspec.to_builtins(entry), "at": _moment(entry.at)} for entry in found])
        return
    for entry in found:
        typer.echo(f"{entry.id}  {_moment(entry.at)}  {entry.source}  {entry.size} bytes  [{entry.reason}]")
    if not found:
        kept = settings.settings.keep_refused
        typer.echo("nothing is kept" if kept else "nothing is kept (keep_refused is off)")


class Retried(msgspec.Struct):
    """What a retry came to: what was taken, and why the rest is still refused, by id."""

    accepted: list[dict[str, Any]]
    failed: dict[str, str]


@group.command()
def retry(
    config: ConfigFile = None, data: DataDir = DATA, source: OfSource = None, as_json: AsJson = False
) -> None:
    """Verify kept requests with the secrets as they are now, and take those that fit; exit 1 where some do not."""
    settings = opened(config, data)
    sources = configured.sources_of(settings)
    if source is not None:
        _known(settings, source)
    key = settings.settings.refused_key.get_secret_value()
    if not key.strip():
        raise settings.fault("refused_key", "is needed to open what was kept: set it as it was then")
    done = _retry(settings, sources, Refused(buffer(settings), of_refused(key)), source)
    if as_json:
        show(msgspec.to_builtins(done))
    else:
        for id_, why in done.failed.items():
            typer.echo(f"{id_}: {why}")
        typer.echo(f"{len(done.accepted)} taken, {len(done.failed)} still refused")
    raise typer.Exit(1 if done.failed else 0)


def _retry(config: Config, sources: dict[str, Source], refused: Refused, only: str | None) -> Retried:
    from relay.front import front_of

    done = Retried([], {})
    codec, front = Codec(), front_of(config, sources)
    for entry in refused.every(only):
        source = sources.get(entry.source)
        if source is None:
            done.failed[entry.id] = f"there is no source {entry.source} any more"
            continue
        try:
            kept = refused.read(entry)
            if kept is not None:
                done.accepted.append(_take(config, source, entry, kept, codec, front))
                refused.drop(entry)
        except (IntakeError, SealBroken) as error:
            done.failed[entry.id] = str(error)
    return done


def _take(config: Config, source: Source, entry: Entry, kept: Kept, codec: Codec, front: Front) -> dict[str, Any]:
    """Through the ordinary intake, as if it were the time of its receipt; the buffer tells repetitions apart.

    Raises:
        IntakeError: it is refused still.
        BufferUnavailable: nothing was stored, and it stays kept.
    """
    request = _addressed(source, kept.request)
    accepted = intake.webhook(source, request, kept.now, codec, limit=config.settings.max_body_bytes)
    # As for a delivery that comes now: it is let go of only once it is durable.
    taken = front.put(accepted.delivery) if accepted.delivery.offers else []
    duplicate = bool(taken) and all(t.duplicate for t in taken)
    event, rows = taken[0].arrival if taken else None, 0 if duplicate else accepted.rows
    return {"id": entry.id, "source": source.name, "event": event, "rows": rows, "duplicate": duplicate}


def _addressed(source: Source, request: Request) -> Request:
    """The request under the address as it is configured now; that may be what was mended."""
    if not source.public_url:
        return request
    query = request.url.partition("?")[2]
    return msgspec.structs.replace(request, url=f"{source.public_url}?{query}" if query else source.public_url)


def _known(config: Config, source: str) -> None:
    if source not in config.settings.sources:
        known = ", ".join(config.settings.sources) or "none"
        raise ConfigInvalid(f"there is no source {source!r}; known: {known}")


def _moment(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
