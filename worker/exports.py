"""Reads destinations for the export API: tables as CSV in a zip, saved queries, names. What RQ calls, by name.

CSV is that of RFC 4180, in UTF-8, with a header row; an empty cell is NULL. Nothing here grows with a table.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from relay.buffer.exports import TOO_SLOW, Answer, Export, Exports, Question, file_of, put_answer
from relay.buffer.redis import connect
from relay.config import Config
from relay.dispatch import EXPORT_S, WRITE, ask_to_write
from relay.errors import ConfigInvalid, DeliveryError, Permanent, Transient
from relay.telemetry import logger
from worker import browsing, jobs, tracing
from worker.destination import Cells, Reader

log = logger("exports")
#: A disk with less room than this is left to those who need it more: the buffer's own file may lie on it.
RESERVE_BYTES: Final = 512 * 1024 * 1024
#: Rows and bytes of a figure's data.
FIGURE_ROWS, FIGURE_BYTES = 100_000, 64 * 1024 * 1024
_REDIS_TIMEOUT_S: Final = 30.0
_LOOK_ROWS: Final = 2_000
_BEAT_S: Final = 2.0
_LEVEL: Final = 6
#: After so long nobody asks for an answer's file, or writes on a part, any more.
_ANSWER_S, _PART_S = 600, EXPORT_S + 600
_json: Final = msgspec.json.Encoder(decimal_format="number")


class _Stopped(Exception):
    """This process was told to end."""


class _Process:
    stop = False


# --- a table as a file -----------------------------------------------------------------------------------


def write(number: int) -> None:
    """Write one raw export; what becomes of it is told in Redis."""
    config = jobs.configured()
    signal.signal(signal.SIGTERM, _end)
    client = connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)
    exports = Exports(client)
    export = exports.begin(number)
    if export is None:
        return
    sweep(config)
    try:
        rows, size, truncated = _written(config, exports, export)
    except _Stopped:
        exports.put_back(number)
        ask_to_write(client, number, first=True)
    except (DeliveryError, ConfigInvalid, OSError) as error:
        log.warning("export_failed", export=number, table=export.table, detail=str(error))
        exports.fail(number, _why(error))
    except BaseException:
        exports.fail(number, "it was broken off")
        raise
    else:
        exports.complete(number, rows, size, truncated=truncated)
        log.info("export_written", export=number, table=export.table, rows=rows, bytes=size)


def killed(client: Redis, name: str | None, arguments: Sequence[Any]) -> None:
    """Note that a process which read was killed.

    Args:
        client: Redis.
        name: of the job.
        arguments: of the job.
    """
    if name == WRITE and arguments:
        Exports(client).fail(int(arguments[0]), "the process that wrote it was killed")


def _written(config: Config, exports: Exports, export: Export) -> tuple[int, int, bool]:
    """Rows and bytes of the file, and whether rows were left out."""
    folder = _folder(config)
    part = folder / f"export-{export.id}-{os.getpid()}.part"
    try:
        with _reader(config, export.destination) as reader, part.open("wb") as file:
            found = reader.rows(export.table, EXPORT_S)
            room = _Room(config, folder, file.tell)
            rows = _Watched(found.rows, config.settings.export_max_rows, lambda n: _look(exports, export, n, room))
            to_zip(file, export.name, found.columns, rows)
            file.flush()
            os.fsync(file.fileno())
        size = part.stat().st_size
        part.replace(folder / file_of(export.id))
    finally:
        part.unlink(missing_ok=True)
    return rows.count, size, rows.truncated


def to_zip(file: Any, name: str, columns: Sequence[str], rows: Iterable[Cells]) -> None:
    """Write a zip with one CSV into an open file, row by row."""
    entry = zipfile.ZipInfo(f"{name}.csv", time.gmtime()[:6])
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive,
        archive.open(entry, "w", force_zip64=True) as raw,
        io.TextIOWrapper(raw, "utf-8", newline="", write_through=False) as text,
    ):
        to_csv(text, columns, rows)


def to_csv(text: TextIO, columns: Sequence[str] | None, rows: Iterable[Cells]) -> None:
    """Write rows as CSV, with a header where there are columns."""
    writer = csv.writer(text, lineterminator="\r\n")
    if columns is not None:
        writer.writerow(columns)
    for row in rows:
        writer.writerow([cell if cell is None or type(cell) is str else _worded(cell) for cell in row])


def _worded(cell: Any) -> Any:
    """A cell without loss: `true` and `false`, and never an exponent where the destination has none."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return format(cell, "f") if isinstance(cell, Decimal) else cell


class _Watched:
    """Rows up to a cap, looked after on the way."""

    def __init__(self, rows: Iterator[Cells], most: int, look: Callable[[int], None]) -> None:
        self._rows, self._most, self._look = rows, most, look
        self.count, self.truncated = 0, False

    def __iter__(self) -> Iterator[Cells]:
        for row in self._rows:
            if self.count >= self._most:
                self.truncated = True
                return
            self.count += 1
            if self.count % _LOOK_ROWS == 0:
                self._look(self.count)
            yield row


class _Room:
    """Sees that an export leaves room on the disk, and in the folder."""

    def __init__(self, config: Config, folder: Path, written: Callable[[], int]) -> None:
        self._folder, self._written = folder, written
        held = sum(_size(path) for path in folder.iterdir())
        self._left = config.settings.files_max_bytes - held
        self.beat_at = time.monotonic() + _BEAT_S
        self.look()

    def look(self) -> None:
        """Raise `OSError` where there is none."""
        if shutil.disk_usage(self._folder).free < RESERVE_BYTES:
            raise OSError(0, "the disk of the export folder is nearly full")
        if self._written() > self._left:
            raise OSError(0, "the folder of exports is full (setting files_max_bytes)")


def _look(exports: Exports, export: Export, rows: int, room: _Room) -> None:
    if _Process.stop:
        raise _Stopped
    now = time.monotonic()
    if now < room.beat_at:
        return
    room.beat_at = now + _BEAT_S
    room.look()
    with contextlib.suppress(RedisError, OSError):  # it is told again soon
        exports.beat(export.id, rows)


# --- questions -------------------------------------------------------------------------------------------


def answer(token: str, text: str) -> None:
    """Answer a question of the web half.

    Args:
        token: where the answer is put.
        text: a `relay.buffer.exports.Question` as JSON.
    """
    config = jobs.configured()
    question = msgspec.json.decode(text, type=Question)
    try:
        reply = Answer(_answer(config, question, token))
    except DeliveryError as error:
        log.warning("question_failed", kind=question.kind, name=question.name, detail=str(error))
        gone = isinstance(error, Permanent) and error.reason == "no_table"
        away = not isinstance(error, Permanent)
        reply = Answer(fault="unknown" if gone else "away" if away else "failed", why=_why(error))
    except (ConfigInvalid, OSError) as error:
        log.warning("question_failed", kind=question.kind, name=question.name, detail=str(error))
        reply = Answer(fault="failed", why=_why(error))
    with contextlib.closing(connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)) as client:
        put_answer(client, token, reply)


def _answer(config: Config, question: Question, token: str) -> Any:
    if question.kind == "tables":
        return dict(_tables(config))
    if question.kind == "columns":
        with _reader(config, question.destination) as reader:
            return reader.columns(question.table)
    if question.kind == "shape":
        with _reader(config, question.destination) as reader:
            return browsing.shape(reader, question.table)
    if question.kind == "look" and question.look is not None:
        with _reader(config, question.destination) as reader:
            return browsing.look(reader, question.table, question.look)
    if question.kind == "lineage" and question.row is not None:
        return tracing.traced(config, question.table, question.row)
    if question.kind == "settings":
        return jobs.told(config, question.destination)
    return _figure(config, question, token)


def _tables(config: Config) -> Iterator[tuple[str, list[str]]]:
    for name in config.settings.destinations:
        if jobs.settings_of(config, name)[0].reads is not None:
            with _reader(config, name) as reader:
                yield name, reader.names()


def _figure(config: Config, question: Question, token: str) -> str:
    """A saved query's data, as a file of that name."""
    query = config.settings.saved(question.kind).get(question.name)
    if query is None:
        raise Permanent(f"there is no {question.kind} {question.name!r}", reason="no_table")
    where = query.destination or next(iter(config.settings.destinations))
    file = _folder(config) / f"answer-{token}.{question.format}"
    part = file.with_suffix(".part")
    try:
        with _reader(config, where) as reader, part.open("w", encoding="utf-8", newline="") as text:
            found = reader.query(query.sql, config.settings.figure_seconds)
            rows = _Watched(found.rows, FIGURE_ROWS, lambda _: _not_too_much(text))
            if question.format == "json":
                _to_json(text, question.name, found.columns, rows)
            else:
                to_csv(text, found.columns if question.headers else None, rows)
            if rows.truncated:
                raise Permanent(f"the query gives more than {FIGURE_ROWS} rows", reason="too_large")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file.name


def _not_too_much(text: TextIO) -> None:
    if text.tell() > FIGURE_BYTES:
        raise Permanent(f"the query gives more than {FIGURE_BYTES} bytes", reason="too_large")


def _to_json(text: TextIO, name: str, columns: Sequence[str], rows: Iterable[Cells]) -> None:
    names = distinct(columns)
    text.write(f'{{"name":{_text(name)},"columns":{_text(names)},"data":[')
    for n, row in enumerate(rows):
        cells = [str(c) if isinstance(c, Decimal) and not c.is_finite() else c for c in row]
        text.write(("," if n else "") + _text(dict(zip(names, cells, strict=True))))
    text.write("]}")


def _text(value: Any) -> str:
    return _json.encode(value).decode()


def distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns, a second one of the same name as `<name>_2`: none of a row's cells is lost."""
    names: list[str] = []
    for column in columns:
        name, n = column, 1
        while name in names:
            n += 1
            name = f"{column}_{n}"
        names.append(name)
    return names


# --- what both need --------------------------------------------------------------------------------------


def sweep(config: Config) -> None:
    """Remove files of exports that are no more, and what was left behind."""
    folder, now = config.data_dir / config.settings.files, time.time()
    if not folder.is_dir():  # nothing was exported yet
        return
    with contextlib.closing(connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)) as client:
        named = ((path.stem.partition("-")[2], path) for path in folder.glob("export-*.zip"))
        files = {int(number): path for number, path in named if number.isdecimal()}
        found = Exports(client).several(list(files))
        old = [path for path, export in zip(files.values(), found, strict=True) if export is None]
    old += [path for path in folder.glob("answer-*") if now - _changed(path) > _ANSWER_S]
    old += [path for path in folder.glob("export-*.part") if now - _changed(path) > _PART_S]
    for path in old:
        path.unlink(missing_ok=True)


def _folder(config: Config) -> Path:
    folder = config.data_dir / config.settings.files
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _reader(config: Config, name: str) -> Iterator[Reader]:
    if name not in config.settings.destinations:
        raise Permanent(f"there is no destination {name} any more", reason="no_table")
    with contextlib.closing(jobs.open_destination(config, name)) as destination, destination.reader() as reader:
        yield reader


def _why(error: Exception) -> str:
    """An error for those who called; the destination's own words are for the log."""
    if isinstance(error, Permanent) and error.reason == "too_slow":
        return TOO_SLOW
    if isinstance(error, Permanent) and error.reason in {"too_large", "no_export", "no_archive"}:
        return str(error)
    if isinstance(error, Permanent) and error.reason == "no_table":
        return "there is no such table any more"
    if isinstance(error, Transient):
        return "the destination could not be read: ask again later"
    if isinstance(error, OSError):
        return error.strerror or "the file could not be written"
    return "the destination could not be read"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it was swept away just now
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    _Process.stop = True
