"""Commands that try the mapping on bodies, without a running relay: map, test.

A case is a folder `<cases>/<source>/<name>/` with `body`, `request.json` (method, headers, query, content_type; it
may be absent) and `records.json`, what becomes of it: in the words in which `relay map` prints it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from relay import configured, intake
from relay.cli.options import DATA, AsJson, ConfigFile, DataDir, config_path, opened
from relay.config import Config
from relay.configured import Source
from relay.errors import ConfigInvalid, IntakeError, MalformedPayload, MappingFailed
from relay.records import (
    NS,
    SEQUENCE_DIGITS,
    TIME_DIGITS,
    Event,
    Record,
    Request,
    decode_json,
    encode_json,
    instant_ns,
    instant_of_ns,
)

_END: Final = TIME_DIGITS + SEQUENCE_DIGITS
_GONE: Final = 99
_sorted: Final = msgspec.json.Encoder(order="sorted", decimal_format="number").encode


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("map")(map_)
    app.command("test")(check)


def map_(
    source: Annotated[str, typer.Argument(help="A configured source.")],
    file: Annotated[Path, typer.Argument(help="A body, as the vendor sends it; - for standard input.")],
    config: ConfigFile = None,
    data: DataDir = DATA,
    type_: Annotated[str | None, typer.Option("--type", help="The event's type, where a header says it.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="NAME: VALUE, may be repeated.")] = None,
    query: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the URL, may be repeated.")] = None,
) -> None:
    """Print the rows that a payload becomes and store nothing; exit 1 where it would be quarantined."""
    chosen = _chosen(opened(config, data), source)
    headers = dict(_pair(line, ":", "--header: write it as NAME: VALUE") for line in header or ())
    asked = dict(_pair(line, "=", "--query: write it as NAME=VALUE") for line in query or ())
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{file}: {error.strerror}") from None
    found = outcome(chosen, _request(chosen, {"headers": headers, "query": asked}, body), type_)
    typer.echo(_shown({"source": source, **found}))
    if any(not event["type"] for event in found.get("events", ())):
        typer.echo("no type, so no rows: give --type, or --header with the one that says it", err=True)
    raise typer.Exit(1 if _quarantined(found) else 0)


def check(
    folder: Annotated[Path | None, typer.Argument(help="Of the cases; default: cases, beside relay.yaml.")] = None,
    config: ConfigFile = None,
    data: DataDir = DATA,
    write: Annotated[bool, typer.Option("--write", help="Write records.json for cases that have none.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that payloads become the rows that were written down beside them; exit 1 where one does not."""
    settings = opened(config, data)
    path = config_path(config)
    where = folder or (path.parent if path else Path()) / "cases"
    cases = sorted(case for case in where.glob("*/*") if case.is_dir())
    if not cases:
        raise ConfigInvalid(f"{where}: no cases: <source>/<name>/ with body and records.json")
    sources = configured.sources_of(settings)
    told = [(case, *_tried(sources, case, write=write)) for case in cases]
    failed = [case for case, state, _ in told if state == "failed"]
    if as_json:
        shown = [
            {"source": case.parent.name, "name": case.name, "state": state, "why": why}
            for case, state, why in told
        ]
        typer.echo(_shown({"cases": shown, "failed": len(failed)}))
    else:
        for case, state, why in told:
            typer.echo(f"{state:7} {case.parent.name}/{case.name}")
            if why:
                typer.echo("\n".join(f"    {line}" for line in why.splitlines()))
        typer.echo(f"{len(told) - len(failed)} of {len(told)} cases are as written down")
    raise typer.Exit(1 if failed else 0)


def _tried(sources: Mapping[str, Source], case: Path, *, write: bool) -> tuple[str, str]:
    """How a case ends (`ok`, `written`, `failed`), and why where that must be said."""
    source = sources.get(case.parent.name)
    if source is None:
        return "failed", f"there is no source {case.parent.name!r}; configured: {', '.join(sources)}"
    expected = case / "records.json"
    try:
        head = _read(case / "request.json") if (case / "request.json").exists() else {}
        found = _ordered(outcome(source, _request(source, head, _body(case))))
        if not expected.exists():
            if not write:
                return "failed", "there is no records.json; --write writes what it becomes now"
            expected.write_text(_shown(found) + "\n", encoding="utf-8")
            return "written", ""
        wanted = _in_full(source, _read(expected))
    except (ConfigInvalid, MalformedPayload) as error:
        return "failed", str(error)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        return "failed", f"a file of the case is not of its form: {type(error).__name__}: {error}"
    difference = list(_difference(wanted, found))
    return ("failed", "\n".join(difference)) if difference else ("ok", "")


def _read(path: Path) -> Any:
    try:
        return decode_json(path.read_bytes())
    except MalformedPayload as error:
        raise ConfigInvalid(f"{path}: {str(error).removeprefix('the body ')}") from None


def _body(case: Path) -> bytes:
    """The file `body`, whatever its suffix."""
    found = next((path for path in sorted(case.glob("body*")) if path.stem == "body"), None)
    return b"" if found is None else found.read_bytes()


def _difference(wanted: Any, found: Any) -> Iterator[str]:
    # Fields in one order, and numbers as they are written: 1.10 is not 1.1.
    if _sorted(wanted) == _sorted(found):
        return
    left, right = (msgspec.json.format(_sorted(side), indent=2).decode().splitlines() for side in (wanted, found))
    yield from difflib.unified_diff(left, right, "records.json", "what it becomes", n=4, lineterm="")


# --- what becomes of a request ------------------------------------------------------------------------


def outcome(source: Source, request: Request, type_: str | None = None) -> dict[str, Any]:
    """What intake would make of a verified request: its events with their records, or why they are quarantined."""
    try:
        data, _ = intake.cleaned(source, request)
        events = intake.events_of(source, request, data)
    except MalformedPayload as error:
        return {"quarantined": _reason(error)}
    if type_ is not None:
        events = [msgspec.structs.replace(event, type=type_) for event in events]
    return {"events": [_told(source, event) for event in events]}


def _told(source: Source, event: Event) -> dict[str, Any]:
    told = {"type": event.type, "id": event.id, "at": _instant(event.at), "test": event.test}
    try:
        records = [_in_words(record) for record in intake.records_of(source, event)]
    except MappingFailed as error:
        return {**told, "quarantined": _reason(error)}
    return {**told, "records": records}


def _reason(error: IntakeError) -> str:
    return f"{error.reason}: {error}"


def _in_words(record: Record) -> dict[str, Any]:
    time = record.version[:TIME_DIGITS]
    words = {
        "table": record.table,
        "op": record.op,
        "at": None if time.startswith("-") else _instant(int(time)),
        "sequence": int(record.version[TIME_DIGITS:_END]),
        "rank": int(record.version[_END:]),
        "data": record.data,
    }
    return words if record.members is None else {**words, "members": record.members, "complete": record.complete}


def _instant(ns: int | None) -> str | int | None:
    """A time as ISO 8601 with all its digits; as ns where the calendar has no such day."""
    if ns is None:
        return None
    whole, rest = divmod(ns, NS)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    text = f"{instant_of_ns(whole * NS).replace(tzinfo=None).isoformat()}{fraction}Z"
    return text if instant_ns(text) == ns else ns


def _ordered(found: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a request, with each event's records in the order in which they are compared."""
    for event in found.get("events", ()):
        if "records" in event:
            event["records"] = _in_order(event["records"])
    return found


def _in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The order in which a mapper yields them means nothing."""
    return sorted(records, key=lambda record: (record["table"], record["op"], _sorted(record)))


def _in_full(source: Source, said: Any) -> dict[str, Any]:
    """What was written down, with all that may be left out; tables may lack the source's name."""
    if "events" not in said:
        return {"quarantined": said["quarantined"]}
    return {"events": [_event_in_full(source, event) for event in said["events"]]}


def _event_in_full(source: Source, said: dict[str, Any]) -> dict[str, Any]:
    event = {"id": "", "test": False, **said, "at": _time(said.get("at"))}
    if "quarantined" not in said:
        event["records"] = _in_order([_record_in_full(source, record) for record in said["records"]])
    return event


def _record_in_full(source: Source, said: dict[str, Any]) -> dict[str, Any]:
    table = source.tables[said["table"]][0] if said["table"] in source.tables else said["table"]
    rank = _GONE if said["op"] == "gone" else 0
    words = {"sequence": 0, "rank": rank, **said, "table": table, "at": _time(said.get("at"))}
    return {"members": [], "complete": True, **words} if said["op"] == "set" else words


def _time(said: Any) -> str | int | None:
    """A time in ns or in any words, in ours."""
    at = said if isinstance(said, int) else instant_ns(said)
    if said is not None and at is None:
        raise ValueError(f"{said!r} is not a time")
    return _instant(at)


def _quarantined(found: dict[str, Any]) -> bool:
    return "quarantined" in found or any("quarantined" in event for event in found["events"])


# --- requests -----------------------------------------------------------------------------------------


def _chosen(config: Config, name: str) -> Source:
    sources = configured.sources_of(config)
    if name not in sources:
        raise ConfigInvalid(f"there is no source {name!r}; configured: {', '.join(sources)}")
    return sources[name]


def _pair(line: str, mark: str, form: str) -> tuple[str, str]:
    name, found, value = line.partition(mark)
    if not found or not name.strip():
        raise ConfigInvalid(form)
    return name.strip(), value.strip()


def _request(source: Source, head: Mapping[str, Any], body: bytes) -> Request:
    headers = {"content-type": head.get("content_type", "application/json")}
    headers |= {str(name).lower(): str(value) for name, value in head.get("headers", {}).items()}
    query = {str(name): str(value) for name, value in head.get("query", {}).items()}
    return Request(str(head.get("method", "POST")), source.public_url or "http://localhost/", headers, body, query)


def _shown(value: Any) -> str:
    """Data as JSON, numbers as they are."""
    return msgspec.json.format(encode_json(value), indent=2).decode()
