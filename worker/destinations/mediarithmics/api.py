"""The vendor's calls: document imports, their executions, and the files that belong to an execution.

https://developer.mediarithmics.io/data-ingestion/bulk-processing

Seen in the vendor's documents or its own user interface: paths, envelope, statuses, multipart uploads with a file
name, executions newest first, a run with bad lines ends SUCCEEDED, files by `/v1/data_file/data` with the token in
the query. Assumed, since nothing says it: the error file is NDJSON of `{line, error, input}` with lines from 1,
`input_file_name` holds the name that the upload gave, and an answer that is no envelope is none of the API's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

import msgspec
from pydantic import SecretStr

from relay.errors import DeliveryError, MalformedPayload, Permanent, Transient
from relay.records import decode_json, encode_json
from worker.wire import Answer, Wire

#: One look at the past: since nothing is sent while an execution is unsettled, what matters is among the newest.
_PAGE: Final = 100
#: Document imports that are looked through for one of ours.
_MOST_IMPORTS: Final = 2_000
#: The vendor advises at most 100 MB a file; an error file repeats its input.
_FILE_BYTES: Final = 64 * 1024 * 1024
_FIRST_LOOK_S, _LONGER, _LONGEST_LOOK_S = 0.2, 1.5, 5.0
_DONE: Final = frozenset({"SUCCEEDED", "SUCCESS"})
#: The last of them is known from the vendor's user interface only.
_FAILED: Final = frozenset({"FAILED", "CANCELED", "LOST"})
_NDJSON: Final = "application/x-ndjson"


class Execution(msgspec.Struct, frozen=True):
    """One run of a document import.

    Args:
        id, status: the vendor's. name: of the file, empty where it is not told yet.
        completed, failures: lines that were taken, lines that were not.
        error_uri, input_uri: its files, empty where there are none.
        words: why it failed.
    """

    id: str
    status: str
    name: str
    completed: int
    failures: int
    error_uri: str
    input_uri: str
    words: str

    @property
    def done(self) -> bool:
        """It ran to its end, bad lines or not."""
        return self.status in _DONE

    @property
    def ended(self) -> bool:
        """Nothing more will come of it."""
        return self.done or self.status in _FAILED


class Api:
    """Calls for one datamart.

    Args:
        base: URL up to `/v1`. datamart_id, token: the account's.
        timeout_s, proxy: see `Wire`.
    """

    def __init__(
        self, base: str, datamart_id: int, token: SecretStr, timeout_s: float, proxy: SecretStr | None
    ) -> None:
        self._wire = Wire("mediarithmics", token, timeout_s, proxy)
        self._token, self._base = token.get_secret_value(), base
        self._imports = f"{base}/datamarts/{datamart_id}/document_imports"
        self.close = self._wire.close

    def ping(self) -> None:
        """Read one document import."""
        self._ask("GET", f"{self._imports}?first_result=0&max_results=1")

    def import_of(self, name: str, document_type: str) -> str:
        """The id of the document import of that name and type; made where there is none.

        Where two processes made one at once, all take the older.
        """
        found = self._find(name, document_type)
        if found is None:
            wanted = {"document_type": document_type, "mime_type": "APPLICATION_X_NDJSON", "encoding": "utf-8"}
            body = encode_json({**wanted, "name": name})
            made = self._ask("POST", self._imports, body, {"Content-Type": "application/json"})
            found = self._find(name, document_type) or _id(made)
        return found

    def executions(self, import_id: str) -> list[Execution]:
        """The newest executions of an import, newest first."""
        found = self._ask("GET", f"{self._imports}/{import_id}/executions?first_result=0&max_results={_PAGE}")
        return [self._execution(one) for one in _list(found)]

    def send(self, import_id: str, name: str, lines: Iterable[bytes]) -> Execution:
        """Begin an execution of these lines, as a file of that name."""
        boundary = f"rowhook-{secrets.token_hex(16)}"
        body = b"".join(_multipart(boundary, name, b"\n".join(lines) + b"\n"))
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        made = self._ask("POST", f"{self._imports}/{import_id}/executions", body, headers, document=True)
        return self._execution(made)

    def end_of(self, import_id: str, execution: Execution, wait_s: float) -> Execution:
        """The execution as it ended; faults of single looks are waited out.

        Raises:
            Transient: it has not ended in time, so that its outcome is unknown.
            Refused: access was lost meanwhile.
        """
        until, look_s = time.monotonic() + wait_s, _FIRST_LOOK_S
        fault: Transient | None = None
        while not execution.ended:
            pause_s = max(look_s, fault.retry_after_s or 0.0) if fault else look_s
            if time.monotonic() + pause_s > until:
                last = f"; the last look: {fault}" if fault else ""
                raise Transient(
                    f"execution {execution.id} of document import {import_id} is {execution.status or 'unknown'} "
                    f"after {wait_s:g} s{last}; if that is common, raise wait_s, if it is stuck, cancel it there",
                    reason="no_answer",
                    unknown=True,
                )
            time.sleep(pause_s)
            look_s, fault = min(look_s * _LONGER, _LONGEST_LOOK_S), None
            try:
                found = self._ask("GET", f"{self._imports}/{import_id}/executions/{execution.id}")
                execution = self._execution(found)
            except Transient as error:
                fault = error
        return execution

    def refused(self, execution: Execution) -> list[tuple[int | None, bytes | None, str]]:
        """Lines of the error file: number from 1, the line as it was sent, and the vendor's words.

        Empty where there is no such file, or it is not what we think it is.
        """
        found = []
        for line in self._file(execution.error_uri):
            try:
                told = decode_json(line)
            except MalformedPayload:
                continue
            if isinstance(told, dict):
                number, given = told.get("line"), told.get("input")
                sent = None if given is None else _text(given).strip().encode()
                words = self._wire.words(_text(told.get("error") or told))
                found.append((number if isinstance(number, int) else None, sent, words))
        return found

    def lines(self, execution: Execution) -> list[bytes]:
        """What was sent, line by line; empty where it cannot be had any more."""
        return list(self._file(execution.input_uri))

    def _file(self, uri: str) -> Iterator[bytes]:
        if not uri:
            return
        url = f"{self._base}/data_file/data?uri={quote(uri, safe='')}&access_token={quote(self._token, safe='')}"
        answer = self._wire.ask("GET", url, stores=False, most=_FILE_BYTES)
        fault = None if answer.status // 100 == 2 else self._fault(answer, stores=False)  # noqa: PLR2004
        if fault is not None and not isinstance(fault, Permanent):
            raise fault
        if fault is None and not answer.whole and len(answer.body) < _FILE_BYTES:
            raise Transient("a file of mediarithmics broke off", reason="answer_garbled")
        if fault is None:
            yield from filter(None, map(bytes.strip, answer.body.split(b"\n")))

    def _find(self, name: str, document_type: str) -> str | None:
        found: list[str] = []
        for first in range(0, _MOST_IMPORTS, _PAGE):
            query = f"first_result={first}&max_results={_PAGE}&keywords={quote(name, safe='')}"
            page = _list(self._ask("GET", f"{self._imports}?{query}"))
            wanted = {"name": name, "document_type": document_type, "mime_type": "APPLICATION_X_NDJSON"}
            found += [_id(one) for one in page if wanted.items() <= one.items()]
            if len(page) < _PAGE:
                break
        return min(found, key=lambda one: (len(one), one), default=None)

    def _ask(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        document: bool = False,
    ) -> Any:
        """The `data` of an answer.

        Raises:
            DeliveryError: there is none. What is refused beside documents is a matter of the table's settings, so
                it says nothing of records.
        """
        headers = {**(headers or {}), "Authorization": self._token}
        answer = self._wire.ask(method, url, body, headers, stores=document, most=_FILE_BYTES)
        if answer.status // 100 != 2:  # noqa: PLR2004
            fault = self._fault(answer, stores=document)
            if isinstance(fault, Permanent) and not document:
                raise Permanent(str(fault), reason="foreign_table")
            raise fault
        told = _object(answer) if answer.whole else None
        if told is None or told.get("status") != "ok" or "data" not in told:
            said = self._said(answer)
            text = f"mediarithmics' {answer.status} is no answer of its own: {said}"
            raise Transient(text, reason="answer_garbled", unknown=document)
        return told["data"]

    def _fault(self, answer: Answer, *, stores: bool) -> DeliveryError:
        return self._wire.refusal(answer, self._said(answer), stores=stores)

    def _said(self, answer: Answer) -> str:
        told = _object(answer)
        text = answer.body[:4096].decode("utf-8", "replace") if told is None else _text(told.get("error") or told)
        return self._wire.words(text)

    def _execution(self, told: Any) -> Execution:
        told = told if isinstance(told, dict) else {}
        parameters, result, error = (_dict(told.get(name)) for name in ("parameters", "result", "error"))
        return Execution(
            id=_id(told),
            status=str(told.get("status") or ""),
            name=str(parameters.get("input_file_name") or result.get("input_file_name") or ""),
            # Lines where the result tells them; tasks may be more than a line each.
            completed=_count(result.get("total_success", told.get("completed_tasks"))),
            failures=_count(result.get("total_failure", told.get("erroneous_tasks"))),
            error_uri=str(result.get("error_file_uri") or ""),
            input_uri=str(result.get("input_file_uri") or parameters.get("file_uri") or ""),
            words=self._wire.words(_text(error.get("message") or "no reason was given")),
        )


def _multipart(boundary: str, name: str, document: bytes) -> Iterator[bytes]:
    """The form that the vendor's own user interface posts."""
    yield f'--{boundary}\r\nContent-Disposition: form-data; name="type"\r\n\r\n{_NDJSON}\r\n'.encode()
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    yield f"{head}Content-Type: {_NDJSON}\r\n\r\n".encode()
    yield document
    yield f"\r\n--{boundary}--\r\n".encode()


def _object(answer: Answer) -> dict[str, Any] | None:
    try:
        told = decode_json(answer.body)
    except MalformedPayload:
        return None
    return told if isinstance(told, dict) else None


def _id(told: Any) -> str:
    """An id, which the vendor writes as text; it goes into a path."""
    return quote(str(_dict(told).get("id") or ""), safe="")


def _list(told: Any) -> list[dict[str, Any]]:
    return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []


def _dict(told: Any) -> dict[str, Any]:
    return told if isinstance(told, dict) else {}


def _count(told: Any) -> int:
    return told if isinstance(told, int) and told > 0 else 0


def _text(told: Any) -> str:
    return told if isinstance(told, str) else encode_json(told).decode()
