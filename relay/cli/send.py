"""The command that makes deliveries: send."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from relay import configured
from relay.cli.options import DATA, ConfigFile, DataDir, opened
from relay.config import Config
from relay.configured import Source
from relay.errors import ConfigInvalid
from relay.kinds import kinds
from relay.records import Request


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(send)


def send(  # noqa: PLR0913, PLR0917 - options of a command
    kind: Annotated[str, typer.Argument(help="The vendor.")],
    type_: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="The event's type.")] = None,
    config: ConfigFile = None,
    data: DataDir = DATA,
    source: Annotated[str | None, typer.Option(help="Which source; default: the first of that kind.")] = None,
    to: Annotated[str | None, typer.Option(help="URL; default: this machine's relay.")] = None,
    file: Annotated[Path | None, typer.Option(help="Send this body instead of a sample.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many, each of another object.")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="At most so many a second; 0: as fast as they go.")] = 0,
    start: Annotated[int, typer.Option(help="Number of the first object.")] = 0,
    list_: Annotated[bool, typer.Option("--list", help="List the sample types of the kind.")] = False,
) -> None:
    """Send a correctly signed, realistic delivery of a vendor; exit 1 where one was refused."""
    settings = opened(config, data)
    chosen = _choose(settings, kind, source)
    samples = chosen.vendor.samples
    if list_:
        for name in samples:
            typer.echo(name)
        return
    type_ = type_ or next(iter(samples), "")
    url = to or f"http://127.0.0.1:{_port(settings)}/hooks/{chosen.name}"
    _post_all(chosen, url, type_, file, range(start, start + count), rate)


def _choose(config: Config, kind: str, name: str | None) -> Source:
    sources = configured.sources_of(config)
    if name is not None:
        if name not in sources:
            raise ConfigInvalid(f"there is no source {name!r}; configured: {', '.join(sources)}")
        return sources[name]
    for source in sources.values():
        if source.kind == kind:
            return source
    known = ", ".join(kinds())
    raise ConfigInvalid(f"no source of kind {kind!r} is configured (kinds: {known}); see `relay sources`")


def _port(config: Config) -> int:
    """The port of the relay that runs in the data folder, else the configured one."""
    noted = config.data_dir / "port"
    return int(noted.read_text()) if noted.exists() else config.settings.port


def _post_all(source: Source, url: str, type_: str, file: Path | None, numbers: range, rate: float) -> None:
    import requests

    session = requests.Session()
    session.trust_env = False
    started, refused = time.monotonic(), 0
    for done, n in enumerate(numbers):
        if rate:
            time.sleep(max(0.0, started + done / rate - time.monotonic()))
        request = _signed(source, url, type_, file, n)
        try:
            answer = session.post(request.url, data=request.body, headers=dict(request.headers), timeout=30)
        except requests.ConnectionError:
            raise ConfigInvalid(f"nobody answers at {url}: is `relay up` running?") from None
        refused += answer.status_code >= 300  # noqa: PLR2004 - HTTP
        if len(numbers) <= 20:  # noqa: PLR2004 - more lines than a person reads
            typer.echo(f"{answer.status_code} {answer.text.strip()}")
        elif (done + 1) % 500 == 0 or done + 1 == len(numbers):
            typer.echo(f"{done + 1} of {len(numbers)} sent, {refused} refused", err=True)
    if refused:
        raise typer.Exit(1)


def _signed(source: Source, url: str, type_: str, file: Path | None, n: int) -> Request:
    body = None if file is None else file.read_bytes()
    request = configured.signed_sample(source, type_, url, n, time.time_ns(), body=body)
    return msgspec.structs.replace(request, url=url + request.url[len(source.public_url or url) :])
