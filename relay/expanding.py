"""Turns documents that were sent into rows: the RQ job of an execution, which any worker may take up again.

A document is read chunk by chunk into pieces of some hundred commands, whose bounds depend on the document alone.
A piece is put as any delivery is, under a digest that names it, and noted after that: where a job dies in between,
the next one puts the same piece again and is told that it is a duplicate. Rows are ordered by when their document
was taken and their place in it, so that it does not matter which of two documents is worked on first.

No Flask. It is called by name (`relay.dispatch.EXPAND`), in slices as drains are.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
from rq import get_current_job

from relay import cards, pushes
from relay.buffer.accept import Delivery, Front, digest_of
from relay.buffer.documents import CHUNK, ERROR_BYTES, LEASE_MS, MOST_ERRORS, RING_MS, Documents, backlog
from relay.buffer.executions import CANCELED, FAILED, SUCCEEDED, Execution, Progress
from relay.buffer.registry import Registry
from relay.buffer.seal import of_documents
from relay.config import Config, load
from relay.configured import sources_of
from relay.dialect import Pushed, PushRefused, Row
from relay.dialects import documents as dialect
from relay.dispatch import Bell, ask_to_expand
from relay.errors import BufferUnavailable, RelayError
from relay.front import front_of
from relay.pushes import Client, client_of
from relay.records import Codec
from relay.telemetry import logger
from relay.values import CsvRows, Found, JsonValues, Reader, Unreadable

#: Commands and bytes of one piece: it changes which pieces a document has, so a release that changes it puts the
#: piece that it was stopped in twice.
PIECE, PIECE_BYTES = 500, 512 * 1024
#: Pieces that may wait for a destination before the next is put: documents must not crowd out what comes in live.
MOST_WAITING: Final = 40
#: A job works for so long; for less where other jobs wait.
SLICE_S, SHORT_SLICE_S = 30.0, 2.0
#: Without any progress, an execution is begun so often.
MOST_TRIES: Final = 10
_BREATH_S: Final = 0.05
_BEAT_S: Final = 3.0
_LATER_MS: Final = 1_000
log = logger("expanding")


class _Process:
    stop = False


class _Ended(Exception):
    """The execution is over, or another's."""


class Vanished(Unreadable):
    """A chunk is not there, though nobody released it."""

    reason = "chunk_missing"


def expand(number: int) -> None:
    """Work on an execution for a while; the RQ job.

    Args:
        number: the execution's.
    """
    signal.signal(signal.SIGTERM, _finish_piece)
    path = os.environ.get("RELAY_CONFIG")
    config = load(Path(path) if path else None, Path(os.environ.get("RELAY_DATA", ".relay")))
    job = get_current_job()
    work(config, number, job.id if job is not None else f"job-{os.getpid()}-{time.monotonic_ns()}")


def work(config: Config, number: int, token: str) -> None:
    """The same under given settings.

    Args:
        config: settings.
        number: the execution's.
        token: this job's own.
    """
    sources = sources_of(config)
    front = front_of(config, sources)
    store = Documents(front.client, seal=of_documents(config.settings.redaction_key.get_secret_value()))
    run = store.begin(number, token)
    if run is None:
        return
    try:
        client = client_of(config, sources.values(), run.client, Registry(front.client).prefix)
        _worked(Expansion(store, front, client, run))
    except (Unreadable, PushRefused) as error:
        _end(store, run, FAILED, str(error))
    except BufferUnavailable as error:
        log.warning("document_waits", execution=number, detail=str(error))
        _rest(store, run, error.retry_after_s * 1000)


def _worked(expansion: Expansion) -> None:
    store, run = expansion.store, expansion.run
    if run.cancel:
        _end(store, run, CANCELED)
        return
    if run.tries > MOST_TRIES:
        raise Unreadable(f"it was begun {run.tries} times without getting on; see the workers' log")
    try:
        whole = expansion.work()
    except _Ended:
        return
    if whole:
        _end(store, run, SUCCEEDED)
    else:
        ask_to_expand(store.client, run.id)


def _end(store: Documents, run: Execution, status: str, why: str = "") -> None:
    store.end(run, "holder", status, why)
    found = store.execution(run.id)
    if found is not None and found.error_bytes:
        store.kept_errors(found)
    log.info("document_ended", execution=run.id, status=status, why=why)


def _rest(store: Documents, run: Execution, due_ms: int) -> None:
    """Give it back as it stands; the ticker asks for it again."""
    found = store.execution(run.id)
    if found is None:
        return
    done = Progress(found.at, found.line, found.pieces, found.header)
    try:
        store.note(run, done, found.at, lease_ms=0, due_ms=due_ms)
    except RelayError as error:  # its lease ends by itself
        log.warning("document_not_given_back", execution=run.id, detail=str(error))


class Expansion:
    """One execution in one job's hands.

    Args:
        store: of documents. front: of the buffer. client: whose rows they are. run: as it was begun.
    """

    def __init__(self, store: Documents, front: Front, client: Client, run: Execution) -> None:
        self.store, self.front, self.client, self.run = store, front, client, run
        self._target = dialect.TARGETS[run.document_type]
        self._codec, self._bell = Codec(), Bell(store.client)
        self._since = time.monotonic()
        self._at, self._pieces = run.at, run.pieces
        self._errors, self._error_bytes = run.error_lines, run.error_bytes
        kind = CsvRows if run.mime_type == dialect.CSV else JsonValues
        header = tuple(msgspec.json.decode(run.header, type=list[str]))
        self._reader: Reader = kind(run.at, run.line, header)

    def work(self) -> bool:
        """Put pieces; True once there are no more, False where the rest is another job's.

        Raises:
            _Ended: it is over. Unreadable, PushRefused: nothing becomes of it. BufferUnavailable: not now.
        """
        for piece in self._piecewise():
            if not self._breathe():
                return False
            self._put(piece)
            if self._must_stop():
                self._note(self._still(), lease_ms=0, due_ms=RING_MS)
                return False
        return True

    def _piecewise(self) -> Iterator[list[Found]]:
        piece: list[Found] = []
        size = 0
        for found in self._found():
            piece.append(found)
            size += len(found.text)
            if len(piece) >= PIECE or size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece

    def _found(self) -> Iterator[Found]:
        last = max(self.run.size - 1, 0) // CHUNK
        start = self.run.at
        for index in range(start // CHUNK, last + 1):
            data = self.store.chunk(self.run, index)
            if data is None:
                if start >= self.run.size:
                    return  # all of it was read
                raise Vanished(f"a part of the document is missing in Redis (chunk {index})")
            yield from self._reader.feed(data[max(start - index * CHUNK, 0) :], last=index == last)

    def _put(self, piece: list[Found]) -> None:
        rows, errors = list[Row](), list[bytes]()
        completed = 0
        for found in piece:
            try:
                rows.append(self._row(found))
                completed += 1
            except PushRefused as error:
                errors.append(self._error_line(found, f"{error}: {'; '.join(error.reasons)}".removesuffix(": ")))
        if rows:
            self.front.put(self._delivery(rows, piece))
        self._pieces += 1
        kept = self._kept(errors)
        end = piece[-1]
        done = Progress(
            end.end, end.next_line, self._pieces, msgspec.json.encode(self._reader.header).decode(), completed,
            len(errors), b"".join(kept), len(kept),
        )  # fmt: skip
        self._note(done)

    def _row(self, found: Found) -> Row:
        if found.value is None:
            raise PushRefused(found.fault)
        # A byte of the document is a nanosecond of its rows' clock.
        place, sequence = f"{self.run.id}-{found.end}", self.run.base_us * 1000 + found.end
        return dialect.row(self.run.document_type, found.value, place, sequence)

    def _delivery(self, rows: list[Row], piece: list[Found]) -> Delivery:
        part = Pushed(self._target.table, self._target.key, rows, self._target.columns)
        suspected = cards.suspected(b"\n".join(found.text for found in piece))
        made = pushes.delivery(self.client, [part], "", self._codec, kind=dialect.KIND, cards_in=suspected)
        place = f"{self.run.id}/{self._at}-{piece[-1].end}"
        offers = tuple(
            msgspec.structs.replace(
                offer, digest=digest_of(self.client.name, dialect.KIND, f"{place}/{n}".encode()), window="id"
            )
            for n, offer in enumerate(made.offers)  # all are stored or none, so that their number is enough
        )
        # The key was good when the document was taken: what was acknowledged is not lost by revoking it.
        return msgspec.structs.replace(made, offers=offers, guard=None)

    def _error_line(self, found: Found, why: str) -> bytes:
        # What a rule would redact may stand anywhere in what could not be read.
        if self.client.redaction is not None:
            return dialect.error_line(found.line, why, None)
        text = cards.unread(found.text) if self.client.mask_cards else found.text
        return dialect.error_line(found.line, why, text.decode("utf-8", "replace"))

    def _kept(self, errors: list[bytes]) -> list[bytes]:
        """As many lines as the error file may still take."""
        room = MOST_ERRORS - self._errors if self._error_bytes < ERROR_BYTES else 0
        kept = errors[: max(room, 0)]
        self._errors += len(kept)
        self._error_bytes += sum(map(len, kept)) // 8  # about what they take compressed
        return kept

    def _still(self) -> Progress:
        found = self.store.execution(self.run.id)
        if found is None:
            raise _Ended
        return Progress(found.at, found.line, found.pieces, found.header)

    def _note(self, done: Progress, *, lease_ms: int = LEASE_MS, due_ms: int = LEASE_MS) -> None:
        answer = self.store.note(self.run, done, self._at, lease_ms=lease_ms, due_ms=due_ms)
        self._at = done.at
        if answer == 0:
            raise _Ended
        if answer == 2:  # noqa: PLR2004 - see documents_note.lua
            _end(self.store, self.run, CANCELED)
            raise _Ended

    def _must_stop(self) -> bool:
        worked = time.monotonic() - self._since
        return _Process.stop or worked > SLICE_S or (worked > SHORT_SLICE_S and self._bell.others_wait())

    def _breathe(self) -> bool:
        """Wait until not too much waits for the destinations; False where another job should have its turn."""
        beat = time.monotonic()
        while backlog(self.store.client, self.client.name, self.client.to) >= MOST_WAITING:
            if _Process.stop or self._bell.others_wait():  # whoever delivers what waits may be among them
                self._note(self._still(), lease_ms=0, due_ms=RING_MS)
                return False
            if self._must_stop():
                self._note(self._still(), lease_ms=0, due_ms=_LATER_MS)
                raise _Ended
            if time.monotonic() - beat > _BEAT_S:
                beat = time.monotonic()
                self._note(self._still())
            time.sleep(_BREATH_S)
        return True


def _finish_piece(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    _Process.stop = True
