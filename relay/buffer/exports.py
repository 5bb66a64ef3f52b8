"""Raw exports, the numbers by which tables and figures are known, and questions to the half that has destinations.

What is here is about reading: none of it is an acknowledged event, and all of it goes by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay.buffer import keys
from relay.buffer.looking import Look, RowOf

PENDING: Final = "Pending"
RUNNING: Final = "In Progress"
COMPLETED: Final = "Completed"
ERROR: Final = "Error"
#: An export is there for so long, counted from when it was asked for.
KEPT_MS: Final = 7 * 86_400_000
#: Without a sign of life for so long, whoever wrote it is gone.
_SILENT_MS: Final = 120_000
#: Exports kept at once; the oldest that are finished make room.
_MOST: Final = 2_000
_ANSWER_S: Final = 60


class Export(msgspec.Struct, frozen=True):
    """One raw export of a table.

    Args:
        id: its number. client: whose. destination, table: what is exported. table_id: the table's number.
        name: of the file in the zip, without `.csv`; safe as a file name.
        status: `Pending`, `In Progress`, `Completed` or `Error`. why: of an error.
        rows: written so far. bytes: of the finished file. truncated: rows over the cap were left out.
        created_ms, started_ms, beat_ms, ended_ms: since 1970; `beat_ms` is its last sign of life.
    """

    id: int
    client: int
    destination: str
    table: str
    table_id: int
    name: str
    status: str = PENDING
    why: str = ""
    rows: int = 0
    bytes: int = 0
    truncated: bool = False
    created_ms: int = 0
    started_ms: int = 0
    beat_ms: int = 0
    ended_ms: int = 0

    @property
    def open(self) -> bool:
        """Whether something may still become of it."""
        return self.status in {PENDING, RUNNING}


def file_of(number: int) -> str:
    """The name of an export's file in the folder of exports."""
    return f"export-{number}.zip"


class Exports:
    """All raw exports of a Redis.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client

    def create(self, client: int, destination: str, table: str, table_id: int, name: str) -> Export:
        """A new export, which somebody is still to be asked to write."""
        number: Any = self.client.incr(keys.LAST_EXPORT)
        now = _now()
        export = Export(number, client, destination, table, table_id, name, created_ms=now)
        fields: Any = {k: int(v) if isinstance(v, bool) else v for k, v in msgspec.structs.asdict(export).items()}
        with self.client.pipeline() as pipe:
            pipe.hset(keys.export(number), mapping=fields)
            pipe.pexpireat(keys.export(number), now + KEPT_MS)
            pipe.zadd(keys.EXPORTS, {str(number): now})
            pipe.execute()
        self._make_room()
        return export

    def find(self, number: int) -> Export | None:
        """An export as it stands; None where there never was one, or there is no more."""
        return self.several([number])[0]

    def several(self, numbers: Sequence[int]) -> list[Export | None]:
        """The same of several."""
        with self.client.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.hgetall(keys.export(number))
            found: list[Any] = pipe.execute() if numbers else []
        return [_read(raw) if raw else None for raw in found]

    def expired(self, number: int) -> bool:
        """Whether there was an export of that number which is no more."""
        last: Any = self.client.get(keys.LAST_EXPORT)
        return 0 < number <= int(last or 0) and self.find(number) is None

    def every(self, client: int | None = None) -> list[Export]:
        """A client's exports, or all of them, oldest first."""
        self.client.zremrangebyscore(keys.EXPORTS, "-inf", _now() - KEPT_MS)
        raw: Any = self.client.zrange(keys.EXPORTS, 0, -1)
        found = self.several([int(number) for number in raw])
        return [export for export in found if export is not None and client in {None, export.client}]

    def drop(self, tables: Iterable[str]) -> int:
        """Let all exports of these tables be no more; returns how many. Their files go with the next sweep."""
        named, gone = set(tables), 0
        raw: Any = self.client.zrange(keys.EXPORTS, 0, -1)
        for number in map(int, raw):
            export = self.find(number)
            if export is not None and export.table in named:
                self.client.delete(keys.export(number))
                self.client.zrem(keys.EXPORTS, number)
                gone += 1
        return gone

    def begin(self, number: int) -> Export | None:
        """Start to write; None where it is no more, or finished."""
        export = self.find(number)
        if export is None or export.status in {COMPLETED, ERROR}:
            return None
        now = _now()
        self._note(number, status=RUNNING, started_ms=now, beat_ms=now, rows=0)
        return export

    def beat(self, number: int, rows: int) -> None:
        """A sign of life."""
        self._note(number, rows=rows, beat_ms=_now())

    def complete(self, number: int, rows: int, size: int, *, truncated: bool) -> None:
        """Its file is there, whole."""
        self._note(number, status=COMPLETED, rows=rows, bytes=size, truncated=int(truncated), ended_ms=_now())

    def fail(self, number: int, why: str) -> None:
        """Nothing becomes of it."""
        self._note(number, status=ERROR, why=why[:500], ended_ms=_now())

    def put_back(self, number: int) -> None:
        """It is to be written anew."""
        self._note(number, status=PENDING, rows=0)

    def _note(self, number: int, **noted: Any) -> None:
        fields: Any = noted
        with self.client.pipeline() as pipe:
            pipe.hset(keys.export(number), mapping=fields)
            # One that just expired would otherwise come back to stay.
            pipe.expire(keys.export(number), KEPT_MS // 1000, nx=True)
            pipe.execute()

    def _make_room(self) -> None:
        over = int(self.client.zcard(keys.EXPORTS)) - _MOST
        if over <= 0:
            return
        raw: Any = self.client.zrange(keys.EXPORTS, 0, over + 100)
        for number in [int(n) for n in raw]:
            export = self.find(number)
            if over > 0 and (export is None or not export.open):
                self.client.delete(keys.export(number))
                self.client.zrem(keys.EXPORTS, number)
                over -= 1


class Numbers:
    """Numbers of tables, figures and charts: given once, never to another.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client

    def of(self, kind: str, names: Iterable[str]) -> dict[str, int]:
        """The numbers of some names; a new name is given one.

        Args:
            kind: `table` (a name is then `<destination>|<table>`), `figure` or `chart`.
            names: of that kind.
        """
        fields = {name: f"{kind}|{name}" for name in names}
        if not fields:
            return {}
        raw: Any = self.client.hmget(keys.NUMBERS, list(fields.values()))
        found = {name: int(n) for name, n in zip(fields, raw, strict=True) if n is not None}
        for name in fields.keys() - found.keys():
            number: Any = self.client.hincrby(keys.NUMBERS, "#", 1)
            if not self.client.hsetnx(keys.NUMBERS, fields[name], str(number)):  # another was quicker
                number = self.client.hget(keys.NUMBERS, fields[name])
            found[name] = int(number)
        return {name: found[name] for name in fields}

    def name(self, kind: str, number: int) -> str | None:
        """What has a number, None where nothing of that kind has it."""
        raw: Any = self.client.hgetall(keys.NUMBERS)
        names = [field.decode() for field, n in raw.items() if int(n) == number]
        return next((name.partition("|")[2] for name in names if name.startswith(f"{kind}|")), None)


#: What is said where a destination needed longer than it was given.
TOO_SLOW: Final = "it took too long"


class Question(msgspec.Struct, frozen=True):
    """What the web half asks of the half that has destinations.

    Args:
        kind: `tables` (of all destinations), `columns`, `shape`, `look` or `lineage` (of one table), `settings`
            (of one destination), `figure` or `chart`.
        destination, table: of which.
        name: of the figure or chart. format: `csv` or `json`. headers: a CSV begins with the columns' names.
        look: of `look`. row: of `lineage`.
    """

    kind: str
    destination: str = ""
    table: str = ""
    name: str = ""
    format: str = "csv"
    headers: bool = False
    look: Look | None = None
    row: RowOf | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of a question.

    Args:
        value: names of tables by destination, names of columns, the file that holds a figure's data, or what
            `relay.buffer.looking` and `relay.lineage` have for it.
        fault: empty, or `unknown` (there is no such thing), `away` (try again) or `failed` (it is no use).
        why: of the fault, for people.
    """

    value: Any = None
    fault: str = ""
    why: str = ""


def put_answer(client: driver.Redis, token: str, answer: Answer) -> None:
    """Answer a question; nobody may be waiting any more."""
    with client.pipeline() as pipe:
        pipe.rpush(keys.answer(token), msgspec.json.encode(answer))
        pipe.expire(keys.answer(token), _ANSWER_S)
        pipe.execute()


def await_answer(client: driver.Redis, token: str, seconds: float) -> Answer | None:
    """The answer to a question, None where there is none in time."""
    found: Any = client.blpop([keys.answer(token)], timeout=seconds)
    return None if found is None else msgspec.json.decode(found[1], type=Answer)


class Update(msgspec.Struct, frozen=True):
    """The last drain that left its lane empty: its number, and from when to when (ms since 1970) it ran."""

    id: int
    start_ms: int
    end_ms: int


def note_update(client: driver.Redis, lane: str, start_ms: int) -> None:
    """Note that a drain just ended, where it left its lane empty."""
    sources: Any = client.smembers(keys.lane_sources(lane))
    if any(client.zcard(keys.queue(lane, source.decode())) for source in sources):
        return
    with client.pipeline() as pipe:
        pipe.hincrby(keys.UPDATE, "id", 1)
        pipe.hset(keys.UPDATE, mapping={"start": start_ms, "end": max(_now(), start_ms)})
        pipe.execute()


def last_update(client: driver.Redis) -> Update | None:
    """What was noted last."""
    found: Any = client.hgetall(keys.UPDATE)
    return Update(int(found[b"id"]), int(found[b"start"]), int(found[b"end"])) if found else None


def _now() -> int:
    return int(time.time() * 1000)


def _read(raw: dict[bytes, bytes]) -> Export | None:
    fields: dict[str, Any] = {name.decode(): value.decode() for name, value in raw.items()}
    try:
        export = msgspec.convert(fields, Export, strict=False)
    except msgspec.ValidationError:  # half of one: it expired while it was written
        return None
    if export.status == RUNNING and export.beat_ms < _now() - _SILENT_MS:
        return msgspec.structs.replace(export, status=ERROR, why="the worker that wrote it is gone: ask again")
    return export
