"""mediarithmics' document imports on 127.0.0.1: remembers what it took, works in steps, and fails as it is told.

::

    with Mediarithmics() as server:
        server.faults(drop(), refuse(503))       # the next two uploads, then all is well
        server.objects_to = lambda line: "unknown segment" if line["segment_id"] == "7" else None
        server.steps = None                      # executions never end until `server.finish()`
        …
        server.taken("USER_PROFILE"), server.executions, server.requests

An execution is PENDING when it is made, RUNNING after one look, and ended after `steps` looks; only then are its
lines applied. An activity is added whatever was there before.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from relay.records import decode_json, encode_json
from tests.servers.serving import Served, Server

_PATH: Final = re.compile(r"/v1/datamarts/(\d+)/document_imports(?:/(\w+)(/executions(?:/(\w+))?)?)?")
_TYPES: Final = {"application/x-ndjson": "APPLICATION_X_NDJSON", "text/csv": "TEXT_CSV"}


@dataclass(frozen=True)
class Fault:
    """How one request goes wrong.

    Args:
        takes: the upload is taken all the same. answers: else the connection ends without a word.
        status, headers, body: of the answer; a body of None is the vendor's own envelope.
    """

    takes: bool = False
    answers: bool = True
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


def drop(*, takes: bool = True) -> Fault:
    """Ends the connection without an answer, having taken the file or not."""
    return Fault(takes=takes, answers=False)


def refuse(status: int, words: str = "no", *, retry_after: str | None = None, takes: bool = False) -> Fault:
    """Says no."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    body = encode_json({"status": "error", "error": words, "error_id": "e-1"})
    return Fault(takes=takes, status=status, headers=headers, body=body)


@dataclass
class Run:
    """An execution: what came, how far it is, and how it is to end."""

    id: str
    import_id: str
    name: str
    lines: list[bytes]
    steps: int | None
    end: str = "SUCCEEDED"
    partly: int = 0
    status: str = "PENDING"
    errors: list[bytes] = field(default_factory=list)
    stored: int = 0


class Mediarithmics(Served):
    """The server; `url` says where. Everything that it remembers may be read at any time."""

    def __init__(self, *, datamart_id: int = 1502, token: str = "tok") -> None:
        super().__init__(_Handler)
        self.datamart_id, self.token = datamart_id, token
        self.imports: dict[str, dict[str, Any]] = {}
        self.executions: list[Run] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        #: Every line that was applied, with its document type, in order.
        self.applied: list[tuple[str, dict[str, Any]]] = []
        #: Why a line is refused, or None.
        self.objects_to: Callable[[dict[str, Any]], str | None] = lambda _line: None
        #: Looks until an execution ends; None: never.
        self.steps: int | None = 2
        #: How executions end, and how many lines are applied where that is not SUCCEEDED.
        self.end, self.partly = "SUCCEEDED", 0
        #: How a line of the error file is written.
        self.error_line: Callable[[int, str, bytes], Any] = lambda n, why, line: {
            "line": n, "error": why, "input": line.decode(),
        }  # fmt: skip
        #: Says how a request goes wrong where no fault is queued, by method and path.
        self.choose: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.lock = threading.RLock()
        self._queue: deque[Fault] = deque()

    def faults(self, *faults: Fault) -> None:
        """Queue faults, one for each of the next uploads."""
        with self.lock:
            self._queue.extend(faults)

    def taken(self, document_type: str) -> list[dict[str, Any]]:
        """Lines of one type that were applied, in order."""
        with self.lock:
            return [line for kind, line in self.applied if kind == document_type]

    def finish(self) -> None:
        """End all executions."""
        with self.lock:
            for run in self.executions:
                if run.status in {"PENDING", "RUNNING"}:
                    self._end(run)

    def next_fault(self, method: str, path: str, *, upload: bool) -> Fault | None:
        """What is to go wrong with a request."""
        with self.lock:
            return self._queue.popleft() if upload and self._queue else self.choose(method, path)

    def make(self, told: dict[str, Any]) -> dict[str, Any]:
        """A new document import."""
        with self.lock:
            found = {
                "id": str(20517 + len(self.imports)), "datafarm_key": "DF_EU_2020_02",
                "datamart_id": str(self.datamart_id), "priority": "MEDIUM", **told,
            }  # fmt: skip
            self.imports[found["id"]] = found
            return found

    def begin(self, import_id: str, name: str, body: bytes) -> Run:
        """A new execution."""
        with self.lock:
            lines = [line for line in body.split(b"\n") if line.strip()]
            number = str(len(self.executions) + 1)
            run = Run(number, import_id, name, lines, self.steps, self.end, self.partly)
            self.executions.append(run)
            return run

    def look(self, run: Run) -> None:
        """One look at an execution is one step of it."""
        with self.lock:
            if run.status not in {"PENDING", "RUNNING"} or run.steps is None:
                return
            run.steps -= 1
            run.status = "RUNNING"
            if run.steps <= 0:
                self._end(run)

    def told(self, run: Run) -> dict[str, Any]:
        """An execution as the API tells it."""
        with self.lock:
            ended = run.status not in {"PENDING", "RUNNING"}
            result = {
                "total_success": run.stored, "total_failure": len(run.errors), "input_file_name": run.name,
                "input_file_uri": f"mics://data_file/{run.id}/input",
                "error_file_uri": f"mics://data_file/{run.id}/errors" if run.errors else None,
                "possible_issue_on_identifiers": False, "top_identifiers": {},
            }  # fmt: skip
            parameters = {
                "datamart_id": self.datamart_id, "document_import_id": int(run.import_id),
                "mime_type": "APPLICATION_X_NDJSON", "input_file_name": run.name, "file_uri": "xxxxxx",
                "number_of_lines": len(run.lines), "segment_id": None,
            }  # fmt: skip
            return {
                "parameters": parameters if run.status != "PENDING" else None,
                "result": result if ended else None,
                "error": {"message": "the executor gave up"} if ended and run.status == "FAILED" else None,
                "id": run.id, "status": run.status, "creation_date": 1605271495713, "is_retryable": False,
                "num_tasks": 1 if ended else None, "completed_tasks": 1 if ended else None,
                "erroneous_tasks": 0 if ended else None, "retry_count": 0, "job_type": "DOCUMENT_IMPORT",
                "import_mode": "MANUAL_FILE", "import_type": None,
            }  # fmt: skip

    def file(self, uri: str) -> bytes | None:
        """A data file."""
        found = re.fullmatch(r"mics://data_file/(\d+)/(input|errors)", uri)
        if found is None:
            return None
        run = self.executions[int(found[1]) - 1]
        return b"\n".join(run.lines if found[2] == "input" else run.errors) + b"\n"

    def _end(self, run: Run) -> None:
        kind = self.imports[run.import_id]["document_type"]
        run.status = run.end
        lines = run.lines if run.end == "SUCCEEDED" else run.lines[: run.partly]
        for number, line in enumerate(lines, 1):
            told = decode_json(line)
            why = self.objects_to(told)
            if why is not None:
                error = self.error_line(number, why, line)
                run.errors.append(error if isinstance(error, bytes) else encode_json(error))
            else:
                run.stored += 1
                self.applied.append((kind, told))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: Server

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Quiet."""

    def _serve(self, body: bytes) -> None:
        api, url = self.server.api, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with api.lock:
            headers = {k.lower(): v for k, v in self.headers.items()}
            api.requests.append((self.command, self.path, headers))
        found = _PATH.fullmatch(url.path)
        upload = self.command == "POST" and found is not None and bool(found[3])
        fault = api.next_fault(self.command, url.path, upload=upload)
        if fault is not None:
            if fault.takes and found is not None:
                api.begin(found[2], *self._document(body))
            return self._misbehave(fault)
        if url.path == "/v1/data_file/data":
            return self._data_file(query)
        if self.headers.get("Authorization") != api.token:
            return self._error(401, "the token is not known")
        if found is None or found[1] != str(api.datamart_id) or (found[2] and found[2] not in api.imports):
            return self._error(404, "no such resource")
        return self._resource(found, query, body)

    def _resource(self, found: re.Match[str], query: dict[str, str], body: bytes) -> None:
        api, (import_id, executions, execution_id) = self.server.api, found.group(2, 3, 4)
        if self.command == "POST" and not import_id:
            return self._one(api.make(decode_json(body)))
        if self.command == "POST":
            name, document = self._document(body)
            if _TYPES.get(self._mime) != api.imports[import_id]["mime_type"]:
                return self._error(400, "the content type is not the import's mime type")
            return self._one(api.told(api.begin(import_id, name, document)))
        if execution_id:
            run = api.executions[int(execution_id) - 1]
            api.look(run)
            return self._one(api.told(run))
        if executions:
            runs = [api.told(run) for run in reversed(api.executions) if run.import_id == import_id]
            return self._page(runs, query)
        if import_id:
            return self._one(api.imports[import_id])
        wanted = unquote(query.get("keywords", ""))
        return self._page([one for one in api.imports.values() if wanted in one["name"]], query)

    def _document(self, body: bytes) -> tuple[str, bytes]:
        """Name and content of an upload, raw or in a form."""
        kind = self.headers.get("Content-Type", "")
        self._mime, name, document = kind.partition(";")[0], "upload-without-a-name", body
        if self._mime == "multipart/form-data":
            form = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
            for part in form.iter_parts():
                if part.get_param("name", header="content-disposition") == "file":
                    name, self._mime = part.get_filename() or name, part.get_content_type()
                    document = part.get_payload(decode=True)
        return name, document

    def _data_file(self, query: dict[str, str]) -> None:
        api = self.server.api
        if query.get("access_token") != api.token:
            return self._error(401, "the token is not known")
        content = api.file(query.get("uri", ""))
        if content is None:
            return self._error(404, "no such file")
        return self._send(200, content, "application/octet-stream", {})

    def _misbehave(self, fault: Fault) -> None:
        if not fault.answers:
            self.close_connection = True
            return
        body = fault.body if fault.body is not None else encode_json({"status": "error", "error": "no"})
        self._send(fault.status, body, "application/json", fault.headers)

    def _one(self, data: dict[str, Any]) -> None:
        self._send(200, encode_json({"status": "ok", "data": data}), "application/json", {})

    def _page(self, every: list[dict[str, Any]], query: dict[str, str]) -> None:
        first, most = int(query.get("first_result", "0")), int(query.get("max_results", "10"))
        page = every[first : first + most]
        told = {
            "status": "ok",
            "count": len(page),
            "total": len(every),
            "first_result": first,
            "max_results": most,
        }
        self._send(200, encode_json({**told, "data": page}), "application/json", {})

    def _error(self, status: int, words: str) -> None:
        body = encode_json({"status": "error", "error": words, "error_id": "e-1"})
        self._send(status, body, "application/json", {})

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
