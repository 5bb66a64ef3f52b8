"""`relay forget`: a row erased wherever the relay can, and a word on each place where it cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any

import msgspec
import redis as driver
import typer

from relay.buffer import attempts
from relay.buffer import forget as buffered
from relay.buffer.documents import Documents
from relay.buffer.exports import Exports
from relay.buffer.failures import Failure, Failures
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, buffer, opened, show
from relay.cli.subject import Subject
from relay.config import Config
from relay.configured import Source
from relay.errors import ConfigInvalid, RelayError
from relay.jobs import owned
from relay.otherhalf import archived_blobs, stream_worker
from relay.pushes import PREFIX
from relay.records import Codec, encode_json
from relay.words import plural

_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(forget)


class Archived(msgspec.Struct):
    """Arrivals of events in the archive: those of the row, and those without rows that name its key."""

    ours: list[str]
    unmapped: list[str]


def forget(
    table: Annotated[str, typer.Argument(help="Full name of the table.")],
    key: Annotated[list[str], typer.Argument(help="The row's key, one value a key column.")],
    config: ConfigFile = None,
    data: DataDir = DATA,
    unmapped: Annotated[
        bool,
        typer.Option("--unmapped", help="Also erase events that could not be mapped and hold the key."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a row, with its child rows, everywhere; exit 1 where some place could not. It cannot be undone."""
    settings = opened(config, data)
    client = buffer(settings)
    subject = _subject(settings, client, table, key)
    # Before the archive is read, or what is settled meanwhile would be seen in neither; and after it, as only then
    # it is known of which events the archive alone has the body.
    _nothing_waits(client, subject, ())
    archive = _archived(settings, subject)
    _nothing_waits(client, subject, set(archive.ours))
    held = buffered.held(client, subject.source, subject.touches, subject.named_in, set(archive.ours))
    if not yes:
        _ask(settings, subject, archive, held, unmapped=unmapped)
    report = _Report(table, key, [part.table for part in subject.parts])
    dropped = Exports(client).drop(report.tables)
    if dropped:
        report.add({"place": "exports", "files, to be asked for again": dropped})
    arrivals = archive.ours + (archive.unmapped if unmapped else [])
    for line in stream_worker(settings, "forget", told=_told(subject, arrivals)):
        report.add(line)
    _erase_held(client, held.letters, held.unmapped if unmapped else [], report)
    _strip_fences(settings, client, subject, report)
    if report.erased:  # the destinations' words on earlier attempts may quote it
        attempts.forget(client, settings.settings.destinations)
    if not unmapped:
        report.unmapped = sorted({*archive.unmapped, *(failure.arrival for failure in held.unmapped)})
    why = buffered.rewrite_file(client)
    report.add({"place": "redis file", "failed": why} if why else {"place": "redis file", "rewritten": 1})
    report.show(as_json=as_json)
    raise typer.Exit(1 if report.failed else 0)


def _nothing_waits(client: driver.Redis, subject: Subject, archived: Collection[str]) -> None:
    """See that no event of the row is on its way, from where it comes to where it goes.

    Raises:
        ConfigInvalid: what waits, and what to do.
    """
    unfetched = buffered.unfetched(client, subject.source, subject.named_in)
    if unfetched:
        raise ConfigInvalid(
            f"{plural(unfetched, 'event')} of {subject.source} with this key in the body still to be fetched "
            "from the vendor: try again once that is done; `relay stats` says why it waits"
        )
    if subject.source.startswith(PREFIX):
        documents = Documents(client).waiting(int(subject.source.removeprefix(PREFIX)))
        if documents:
            some = ", ".join(map(str, documents[:_SHOWN]))
            raise ConfigInvalid(f"documents of this client still wait (executions {some}): try again after them")
    waiting = buffered.waiting(client, subject.source, subject.touches, archived)
    if waiting:
        lanes = ", ".join(f"{n} in lane {lane}" for lane, n in waiting.items())
        raise ConfigInvalid(f"events of this row still wait ({lanes}): try again once they are delivered")


def _subject(config: Config, client: driver.Redis, table: str, key: list[str]) -> Subject:
    source, declared = owned(config, client, table, key)
    tables = dict(source.tables.values()) if isinstance(source, Source) else {table: declared}
    return Subject(source.name, tables, table, key)


def _archived(config: Config, subject: Subject) -> Archived:
    found, codec = Archived([], []), Codec()
    if not (config.data_dir / "events.db").exists():
        return found
    for arrival, blob in archived_blobs(config, {"source": subject.source}):
        packed = codec.unpack(blob)
        if subject.touches(packed):
            found.ours.append(arrival)
        elif packed.meta.fault and subject.named_in(packed.raw):
            found.unmapped.append(arrival)
    return found


def _ask(config: Config, subject: Subject, archive: Archived, held: buffered.Held, *, unmapped: bool) -> None:
    rows, *children = [part.table for part in subject.parts]
    also = f" and its rows of {', '.join(children)}" if children else ""
    events = len(archive.ours) + (len(archive.unmapped) if unmapped else 0)
    where = ", ".join(config.settings.destinations)
    typer.confirm(
        f"erase the row of {rows}{also} at {where}, {events} events of the archive with all that they say, "
        f"and {len(held.letters)} dead letters, for good?",
        abort=True,
    )


def _told(subject: Subject, arrivals: list[str]) -> Iterator[bytes]:
    yield encode_json({"source": subject.source, "rows": subject.told()})
    for arrival in arrivals:
        yield encode_json(arrival)


def _erase_held(client: driver.Redis, letters: list[Failure], unmapped: list[Failure], report: _Report) -> None:
    failures = Failures(client)
    for what, found in (("dead letters", letters), ("quarantined events", unmapped)):
        try:
            report.add({"place": "buffer", what: sum(failures.discard(failure) for failure in found)})
        except RelayError as error:
            report.add({"place": "buffer", "failed": str(error)})


def _strip_fences(config: Config, client: driver.Redis, subject: Subject, report: _Report) -> None:
    known = set(config.settings.destinations)
    count = sum(
        buffered.strip_fences(client, part.table, part.key, known, parent=not part.whole) for part in subject.parts
    )
    if count:
        report.add({"place": "buffer", "rows kept for a destination that is no longer configured": count})


class _Report:
    """What was done where."""

    def __init__(self, table: str, key: list[str], tables: list[str]) -> None:
        self.table, self.key, self.tables = table, key, tables
        self.places: list[dict[str, Any]] = []
        self.unmapped: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether some place could not."""
        return any("failed" in place for place in self.places)

    @property
    def erased(self) -> bool:
        """Whether something was there to be erased."""
        return any(n for place in self.places for what, n in place.items() if what not in {"place", "failed"})

    def add(self, place: dict[str, Any]) -> None:
        """One place's outcome."""
        self.places.append(place)

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        if as_json:
            show({
                "table": self.table, "key": self.key, "tables": self.tables, "places": self.places,
                "unmapped": self.unmapped, "complete": not self.failed,
            })  # fmt: skip
            return
        for place in self.places:
            name = place["place"]
            said = [f"not erased: {place['failed']}"] if "failed" in place else []
            said += [f"{n} {what}" for what, n in place.items() if what not in {"place", "failed"}]
            typer.echo(f"{name}: {', '.join(said)}")
        if self.unmapped:
            some = ", ".join(self.unmapped[:_SHOWN]) + (", …" if len(self.unmapped) > _SHOWN else "")
            typer.echo(
                f"{len(self.unmapped)} events could not be mapped and hold this key in their body ({some}): "
                "run it again with --unmapped to erase them too"
            )
