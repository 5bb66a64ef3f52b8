"""The command that makes deliveries: send."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
import typer

from relay import configured
from relay.cli.options import DATA, ConfigFile, DataDir, opened
from relay.config import Config
from relay.configured import Source
from relay.errors import ConfigInvalid
from relay.kinds import kinds
from relay.records import Request

_PATIENCE_S: Final = 30


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(send)


def send(  # noqa: PLR0913, PLR0917 - options of a command
    kind: Annotated[str, typer.Argument(help="The vendor.")],
    type_: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="The event's type.")] = None,
    config: ConfigFile = None,
    data: DataDir = DATA,
    source: Annotated[str | None, typer.Option(help="Which source; default: the first of that kind.")] = None,
    to: Annotated[
        str | None,
        typer.Option(help="URL, of one without a path its /hooks/SOURCE; default: this machine's relay."),
    ] = None,
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
    url = _address(to or f"http://127.0.0.1:{_port(settings)}", chosen.name)
    _post_all(chosen, url, type_, _read(file), range(start, start + count), rate)


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


def _address(url: str, source: str) -> str:
    """Where to post; of an address that is a relay's own, the source's path there."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # what stands for the port is none
        usable = False
    if not usable:
        raise ConfigInvalid("--to: no address to post to: write http://HOST:PORT, or all of a webhook's address")
    return url if parts.path.strip("/") else parts._replace(path=f"/hooks/{source}").geturl()


def _read(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{file}: {error.strerror}") from None


def _post_all(source: Source, url: str, type_: str, body: bytes | None, numbers: range, rate: float) -> None:
    import requests

    parts = urlsplit(url)
    at = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # no password, and no token of a query
    session = requests.Session()
    session.trust_env = False
    started, refused = time.monotonic(), 0
    for done, n in enumerate(numbers):
        if rate:
            time.sleep(max(0.0, started + done / rate - time.monotonic()))
        request = _signed(source, url, type_, body, n)
        try:
            answer = session.post(
                request.url, data=request.body, headers=dict(request.headers), timeout=_PATIENCE_S
            )
        except requests.ReadTimeout:
            raise ConfigInvalid(f"{at} took the delivery and said nothing within {_PATIENCE_S} s") from None
        except requests.ConnectionError:
            raise ConfigInvalid(f"nobody answers at {at}: is `relay up` running?") from None
        except requests.RequestException as error:
            raise ConfigInvalid(f"{at}: nothing could be sent ({type(error).__name__})") from None
        refused += answer.status_code >= 300  # noqa: PLR2004 - HTTP
        if len(numbers) <= 20:  # noqa: PLR2004 - more lines than a person reads
            typer.echo(f"{answer.status_code} {answer.text.strip()}")
        elif (done + 1) % 500 == 0 or done + 1 == len(numbers):
            typer.echo(f"{done + 1} of {len(numbers)} sent, {refused} refused", err=True)
    if refused:
        raise typer.Exit(1)


def _signed(source: Source, url: str, type_: str, body: bytes | None, n: int) -> Request:
    request = configured.signed_sample(source, type_, url, n, time.time_ns(), body=body)
    return msgspec.structs.replace(request, url=url + request.url[len(source.public_url or url) :])
