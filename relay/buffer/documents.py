"""Documents on their way to rows: imports, executions, and the compressed pieces in which a document waits.

A document's chunks count in the same budgets as events (`rh:bytes`), and are taken only while a share of those is
free, so that its rows have room to come out. An execution that waits or runs is in `rh:documents:due` with the
time at which the ticker looks whether somebody works on it; whoever does has a lease, which each note renews.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
import redis as driver
import zstandard

from relay.buffer import keys
from relay.buffer.bounds import LETTER_BYTES, Bounds
from relay.buffer.executions import CANCELED, RUNNING, UPLOADING, Execution, Import, Progress
from relay.buffer.redis import script
from relay.buffer.seal import Seal
from relay.errors import BufferUnavailable, SealBroken

#: Bytes of a document in one chunk, before they are compressed.
CHUNK: Final = 1024 * 1024
LEASE_MS: Final = 15_000
#: For so long a job that was asked for is waited for before it is asked for again.
RING_MS: Final = 5_000
#: Of what may wait in the buffer, what may be filled when documents are still taken.
SHARE: Final = 0.5
#: Without another chunk for so long, an upload is given up.
IDLE_MS: Final = 900_000
MOST_OPEN: Final = 10_000
MOST_IMPORTS: Final = 1_000
MOST_EXECUTIONS: Final = 100
KEPT_S: Final = 30 * 86_400
ERRORS_KEPT_S: Final = 7 * 86_400
#: Of one error file: lines, and compressed bytes; and compressed bytes of all.
MOST_ERRORS: Final = 10_000
ERROR_BYTES: Final = 1024 * 1024
_ALL_ERROR_BYTES: Final = 64 * 1024 * 1024
_NO_ROOM: Final = {
    b"source": "the datamart has used its share of the buffer for documents",
    b"all": "the buffer has no room for documents now",
}
#: Before a sealed chunk; others begin as zstd frames do.
_SEALED: Final = b"sealed1:"
Mode = Literal["holder", "free", "upload", "any"]


class Documents:
    """Imports and executions of a Redis.

    Args:
        client: Redis. wait_ms: an execution is made only when Redis's disk has it; 0: it has at once.
        seal: of what waits: rules of redaction hold for rows, and a document has none yet.
    """

    def __init__(self, client: driver.Redis, wait_ms: int = 0, seal: Seal | None = None) -> None:
        self.client, self.seal = client, seal
        self._store, self._end = script(client, "documents_store"), script(client, "documents_end")
        self._commit = script(client, "documents_commit", wait_ms=wait_ms)
        self._begin, self._note = script(client, "documents_begin"), script(client, "documents_note")

    def create(self, make: Callable[[int], Import]) -> Import:
        """A new import.

        Args:
            make: it, by its number.
        """
        number: Any = self.client.incr(keys.DOCUMENTS_LAST)
        made = make(number)
        self.save(made)
        over = self.imports(made.client)[MOST_IMPORTS:]
        for old in over:
            if not any(run.open for run in self.executions(old.id)):
                self.remove(old)
        return made

    def save(self, one: Import) -> None:
        """Keep what an import is."""
        self.client.hset(keys.imports(one.client), str(one.id), msgspec.json.encode(one))

    def find(self, client: int, number: int) -> Import | None:
        """An import of a client."""
        raw: Any = self.client.hget(keys.imports(client), str(number))
        return None if raw is None else msgspec.json.decode(raw, type=Import)

    def imports(self, client: int) -> list[Import]:
        """A client's imports, newest first."""
        raw: Any = self.client.hvals(keys.imports(client))
        return sorted((msgspec.json.decode(one, type=Import) for one in raw), key=lambda one: -one.id)

    def remove(self, one: Import) -> None:
        """Forget an import and all that belongs to it; what it has put already stays."""
        self.client.hdel(keys.imports(one.client), str(one.id))
        for run in self.executions(one.id):
            self.end(run, "any", "")
        self.client.delete(keys.executions(one.id))

    def upload(self, one: Import) -> Execution:
        """Begin to take a document."""
        number: Any = self.client.incr(keys.DOCUMENTS_LAST)
        name = f"document-{number}"
        run = Execution(number, one.client, one.id, one.document_type, one.mime_type, name, UPLOADING)
        fields: Any = {k: v for k, v in msgspec.structs.asdict(run).items() if k != "started_ms"}
        with self.client.pipeline() as pipe:
            pipe.hset(keys.execution(number), mapping=fields)
            pipe.zadd(keys.DOCUMENTS_UPLOADS, {str(number): self._now()})
            pipe.execute()
        return run

    def store(self, run: Execution, index: int, data: bytes, bounds: Bounds) -> None:
        """Store a chunk of a document that is being sent.

        Raises:
            BufferUnavailable: there is no room, or the upload was given up.
        """
        names = [
            keys.BYTES, keys.execution(run.id), _chunks(run.id), keys.DOCUMENTS_UPLOADS, keys.EVENTS, keys.PARKED,
            keys.DEAD,
        ]  # fmt: skip
        limits = [int(bounds.total * SHARE), int(bounds.source * SHARE), bounds.overhead, LETTER_BYTES]
        answer = self._store(names, [run.id, run.source, index, self._closed(run, index, data), *limits])
        if answer in _NO_ROOM:
            raise BufferUnavailable(_NO_ROOM[answer], reason="over_budget", retry_after_s=30)
        if answer != b"ok":
            raise BufferUnavailable("the upload took too long and was given up", reason="upload_idle")

    def rename(self, run: Execution, file_name: str) -> None:
        """Note what the file was called, of an upload."""
        self.client.hset(keys.execution(run.id), "file_name", file_name)

    def commit(self, run: Execution, size: int, lines: int) -> bool:
        """Make an upload an execution; False where its import is gone. Returns once it is durable.

        Raises:
            BufferUnavailable: too many executions wait, or nothing is known to be stored.
        """
        names = [
            keys.execution(run.id), keys.DOCUMENTS_UPLOADS, keys.DOCUMENTS_DUE, keys.executions(run.import_id),
            keys.imports(run.client), keys.DOCUMENTS_CLOCK,
        ]  # fmt: skip
        answer = self._commit(names, [run.id, run.import_id, size, lines, RING_MS, MOST_OPEN])
        if answer < 0:
            raise BufferUnavailable("too many executions wait", reason="over_budget", retry_after_s=30)
        return bool(answer == 1)

    def give_up(self, run: Execution) -> None:
        """Forget a document that was not sent whole."""
        self.end(run, "upload", "")

    def execution(self, number: int) -> Execution | None:
        """An execution; None where there is none, or it is still being sent."""
        raw: Any = self.client.hgetall(keys.execution(number))
        return _read(raw)

    def executions(self, number: int) -> list[Execution]:
        """An import's executions, newest first; the oldest that are over give way."""
        ids: Any = self.client.zrevrange(keys.executions(number), 0, -1)
        with self.client.pipeline(transaction=False) as pipe:
            for id_ in ids:
                pipe.hgetall(keys.execution(int(id_)))
            raw: list[Any] = pipe.execute() if ids else []
        found = [(int(id_), _read(one)) for id_, one in zip(ids, raw, strict=True)]
        kept = []
        for at, (id_, run) in enumerate(found):
            if run is not None and (at < MOST_EXECUTIONS or run.open):
                kept.append(run)
                continue
            if run is not None:
                self.end(run, "any", "")
            self.client.zrem(keys.executions(number), id_)
        return kept

    def last(self, numbers: Sequence[int]) -> list[Execution | None]:
        """The newest execution of each of some imports, in two round trips."""
        if not numbers:
            return []
        with self.client.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.zrevrange(keys.executions(number), 0, 0)
            newest: list[Any] = pipe.execute()
            for ids in newest:
                pipe.hgetall(keys.execution(int(ids[0]) if ids else 0))
            return [_read(raw) for raw in pipe.execute()]

    def begin(self, number: int, token: str) -> Execution | None:
        """Work on an execution; None where another does, or it is over."""
        if self._begin([keys.execution(number), keys.DOCUMENTS_DUE], [number, token, LEASE_MS]) != 1:
            return None
        return self.execution(number)

    def chunk(self, run: Execution, index: int) -> bytes | None:
        """A piece of its document; None where it is not there.

        Raises:
            BufferUnavailable: it is sealed under a key that the settings do not hold now.
        """
        raw: Any = self.client.hget(_chunks(run.id), str(index))
        if raw is None or not raw.startswith(_SEALED):
            return None if raw is None else _whole(raw)
        # It was acknowledged: it waits until the key is back.
        if self.seal is None:
            raise BufferUnavailable("a document is sealed, and no redaction_key is set", reason="sealed")
        try:
            return _whole(self.seal.open(raw[len(_SEALED) :], f"{run.id}/{index}"))
        except SealBroken as error:
            raise BufferUnavailable(f"a document is {error}", reason="sealed", retry_after_s=30) from error

    def _closed(self, run: Execution, index: int, data: bytes) -> bytes:
        small = _compressed(data)
        return small if self.seal is None else _SEALED + self.seal.close(small, f"{run.id}/{index}")

    def note(
        self,
        run: Execution,
        done: Progress,
        before: int,
        *,
        lease_ms: int = LEASE_MS,
        due_ms: int = LEASE_MS,
        died: bool = False,
    ) -> int:
        """Note progress: 1; 2 where it is to be canceled; 0 where it is another's by now.

        Args:
            run: as it was begun.
            done: since the last note.
            before: offset at that.
            lease_ms: until others may have it; 0: from now on.
            due_ms: until the ticker looks after it.
            died: its last job did, so that it counts as tried.
        """
        names = [keys.execution(run.id), _chunks(run.id), keys.BYTES, keys.DOCUMENTS_DUE, _errors(run.id)]
        errors = _compressed(done.errors) if done.errors else b""
        args = [
            run.id, run.source, run.token, lease_ms, due_ms, done.completed, done.erroneous, done.at, done.line,
            done.pieces, done.header, done.at // CHUNK, before // CHUNK, errors, done.error_lines, ERRORS_KEPT_S,
            int(died),
        ]  # fmt: skip
        return int(self._note(names, args))

    def end(self, run: Execution, mode: Mode, status: str, why: str = "") -> int:
        """End an execution, or forget it where the status is empty; see documents_end.lua."""
        names = [
            keys.execution(run.id), _chunks(run.id), keys.BYTES, keys.DOCUMENTS_DUE, keys.DOCUMENTS_UPLOADS,
            _errors(run.id),
        ]  # fmt: skip
        return int(self._end(names, [run.id, run.source, mode, run.token, status, why[:500], KEPT_S]))

    def cancel(self, run: Execution) -> Execution:
        """Cancel an execution: at once where it waits, between two pieces where it runs; as it is then."""
        self.end(run, "free", CANCELED)
        return self.execution(run.id) or run

    def free(self, number: int, token: str) -> None:
        """Give an execution back whose job is known to be dead."""
        run = self.execution(number)
        if run is not None and run.status == RUNNING and run.token == token:
            done = Progress(run.at, run.line, run.pieces, run.header)
            self.note(run, done, run.at, lease_ms=0, due_ms=0, died=True)

    def errors(self, run: Execution) -> Iterator[bytes]:
        """The error file, piece by piece."""
        parts: Any = self.client.lrange(_errors(run.id), 0, -1)
        return (_whole(part) for part in parts)

    def kept_errors(self, run: Execution) -> None:
        """Count an error file among all; the oldest give way."""
        self.client.zadd(keys.DOCUMENTS_ERRORS, {str(run.id): self._now()})
        ids: Any = self.client.zrevrange(keys.DOCUMENTS_ERRORS, 0, -1)
        total = 0
        for id_ in ids:
            size: Any = self.client.hget(keys.execution(int(id_)), "error_bytes")
            total += int(size or 0)
            if size is None or total > _ALL_ERROR_BYTES:
                self.client.delete(_errors(int(id_)))
                self.client.zrem(keys.DOCUMENTS_ERRORS, id_)

    def waiting(self, client: int) -> list[int]:
        """Executions of a client that are not over, or still being sent."""
        due: Any = self.client.zrange(keys.DOCUMENTS_DUE, 0, -1)
        sent: Any = self.client.zrange(keys.DOCUMENTS_UPLOADS, 0, -1)
        numbers = sorted({int(id_) for id_ in (*due, *sent)})
        return [n for n in numbers if self.client.hget(keys.execution(n), "client") == b"%d" % client]

    def due(self) -> list[int]:
        """Executions that nobody works on, though somebody should."""
        self._sweep()
        now = self._now()
        ids: Any = self.client.zrangebyscore(keys.DOCUMENTS_DUE, "-inf", now, start=0, num=100)
        return [int(id_) for id_ in ids]

    def asked(self, number: int) -> None:
        """Note that somebody was asked to work on it."""
        self.client.zadd(keys.DOCUMENTS_DUE, {str(number): self._now() + RING_MS}, xx=True)

    def _now(self) -> int:
        """Milliseconds since 1970, by Redis's clock, as the scripts have it."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _sweep(self) -> None:
        """Give up documents of which nothing more comes."""
        before = self._now() - IDLE_MS
        ids: Any = self.client.zrangebyscore(keys.DOCUMENTS_UPLOADS, "-inf", before, start=0, num=100)
        for id_ in ids:
            run = _read(self.client.hgetall(keys.execution(int(id_))), uploading=True)
            if run is not None:
                self.give_up(run)
            else:
                self.client.zrem(keys.DOCUMENTS_UPLOADS, id_)


def _read(raw: Any, *, uploading: bool = False) -> Execution | None:
    fields: dict[str, Any] = {name.decode(): value.decode() for name, value in raw.items()}
    if not fields or (fields.get("status") == UPLOADING) != uploading:
        return None
    try:
        return msgspec.convert(fields, Execution, strict=False)
    except msgspec.ValidationError:  # half of one: it expired while it was written
        return None


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)  # threads must not share one


def _whole(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def _chunks(number: int) -> str:
    return f"{keys.execution(number)}:chunks"


def _errors(number: int) -> str:
    return f"{keys.execution(number)}:errors"


def backlog(client: driver.Redis, source: str, to: dict[str, int]) -> int:
    """Events of a source that wait for destinations which take rows.

    Args:
        client: Redis.
        source: as the ledger calls it.
        to: destination -> lanes.
    """
    waiting = 0
    for destination, lanes in to.items():
        state: Any = client.hmget(keys.destination(destination), ["paused", "since"])
        if any(field is not None for field in state):
            continue  # for how long, nobody knows: what waits for it is parked
        for partition in range(lanes):
            count: Any = client.zcard(keys.queue(keys.lane_name(destination, partition, lanes), source))
            waiting += count
    return waiting
