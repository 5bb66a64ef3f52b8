"""Document imports and their executions, as they are kept."""

from __future__ import annotations

import msgspec

UPLOADING, PENDING, RUNNING = "UPLOADING", "PENDING", "RUNNING"
SUCCEEDED, FAILED, CANCELED = "SUCCEEDED", "FAILED", "CANCELED"


class Import(msgspec.Struct, frozen=True):
    """A document import: what its executions' documents are.

    Args:
        id: its number. client: the datamart.
        document_type, mime_type, encoding, name, priority: as the client said.
    """

    id: int
    client: int
    document_type: str
    mime_type: str
    encoding: str
    name: str
    priority: str


class Execution(msgspec.Struct, frozen=True):
    """One document that was sent, and how far it is.

    Args:
        id: its number. client, import_id: whose it is. document_type, mime_type: the import's, then.
        file_name: as it was sent, or made up. status: one of this module's. size: bytes of the document.
        lines: about how many; known exactly at the end. base_us: orders its rows among all.
        created_ms, started_ms, ended_ms: since 1970, 0 for not yet.
        completed, erroneous: commands so far. at, line: where it is read on. pieces: put so far.
        header: names of the columns, as JSON. held: bytes of its chunks in Redis. tries: without any progress.
        cancel: `REQUESTED`, `CANCELED` or empty. why: it failed. error_lines, error_bytes: of the error file.
        token, until: whose it is, and until when (ms).
    """

    id: int
    client: int
    import_id: int
    document_type: str
    mime_type: str
    file_name: str
    status: str
    size: int = 0
    lines: int = 0
    base_us: int = 0
    created_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    completed: int = 0
    erroneous: int = 0
    at: int = 0
    line: int = 1
    pieces: int = 0
    header: str = "[]"
    held: int = 0
    tries: int = 0
    cancel: str = ""
    why: str = ""
    error_lines: int = 0
    error_bytes: int = 0
    token: str = ""
    until: int = 0

    @property
    def source(self) -> str:
        """As the ledger calls the client."""
        return f"client:{self.client}"

    @property
    def open(self) -> bool:
        """Whether something may still become of it."""
        return self.status in {PENDING, RUNNING}


class Progress(msgspec.Struct, frozen=True):
    """What a piece came to.

    Args:
        completed, erroneous: commands. at, line, pieces, header: as of `Execution`, behind it.
        errors: lines for the error file. error_lines: how many.
    """

    at: int
    line: int
    pieces: int
    header: str
    completed: int = 0
    erroneous: int = 0
    errors: bytes = b""
    error_lines: int = 0
