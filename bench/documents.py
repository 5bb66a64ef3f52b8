"""A document import of a million lines through the processes of `relay up`: its rate, and its memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final, Self

import psutil

from bench.report import Row
from bench.servers import Gunicorn, Process, Valkey, folder, settings_file
from relay.buffer import ledger
from relay.buffer.registry import Registry

_LINES, _QUICK = 1_000_000, 100_000
_BAD: Final = 10
_LIMIT_S: Final = 1800.0
_MB: Final = 1_000_000


def run(*, quick: bool) -> list[Row]:
    total = _QUICK if quick else _LINES
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(folder())
        valkey = stack.enter_context(Valkey(data))
        settings = settings_file(data, redis_url=valkey.url, web_workers=1, workers=2, log_format="json")
        env = {"RELAY_CONFIG": str(settings), "RELAY_DATA": str(data)}
        web = stack.enter_context(Gunicorn("relay.app:create_app()", settings, {}, "web"))
        crew = stack.enter_context(Process([sys.executable, "-m", "worker"], env, data / "worker.out"))
        document = stack.enter_context(tempfile.NamedTemporaryFile())
        bad = _write(document, total)
        size = document.tell()
        api = _Api(web.port, Registry(valkey.client).create("import", 12))
        base = valkey.memory()
        valkey.client.config_resetstat()
        memory = stack.enter_context(_Memory({"web": web, "workers": crew}))
        began = time.monotonic()
        at, execution = api.send(Path(document.name))
        sent = time.monotonic()
        told = api.wait(at, execution, crew)
        expanded = time.monotonic()
        _await_rows(valkey, crew, total - _BAD)
        stored = time.monotonic()
        info: Any = valkey.client.info("memory")
        _check(valkey, api, told, bad, data, total)
    what = f"{total:,} lines, {size / _MB:.0f} MB"
    redis_ = f"{info['used_memory_peak'] / _MB:.0f} MB at most, {base / _MB:.0f} MB before"
    return [
        Row("documents", f"{what}: sent, answered PENDING", f"{sent - began:.1f} s"),
        Row("documents", "sent -> SUCCEEDED", f"{total / (expanded - sent):,.0f} lines/s"),
        Row("documents", "sent -> all rows in SQLite", f"{total / (stored - sent):,.0f} rows/s"),
        Row("documents", "peak memory, web", _grown(memory, "web", size)),
        Row("documents", "peak memory, workers (all processes)", _grown(memory, "workers", size)),
        Row("documents", "peak memory, Redis", redis_, f"file {size / _MB:.0f} MB"),
    ]


def _grown(memory: _Memory, name: str, size: int) -> str:
    first, most = memory.first[name], memory.most[name]
    return f"{most / _MB:.0f} MB, {(most - first) / _MB:+.0f} MB ({(most - first) / size:.2f} of the file)"


def _write(document: Any, total: int) -> list[int]:
    """Activities; returns the lines of those that are none."""
    bad = [total * (2 * n + 1) // (2 * _BAD) for n in range(_BAD)]
    planted = set(bad)
    for n in range(1, total + 1):
        if n in planted:
            document.write(b'{"$type": "TOUCH", "$ts": nope}\n')
            continue
        told = {"$user_account_id": f"u{n}", "$type": "TOUCH", "$ts": 1_700_000_000_000 + n, "$site": "shop"}
        document.write(json.dumps(told).encode() + b"\n")
    document.flush()
    return bad


class _Api:
    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The body of an answer; a file is sent chunked."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Authorization": self.token, "Content-Type": kind}
        connection.request(method, path, body, headers, encode_chunked=hasattr(body, "read"))
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {raw[:300]!r}")
        return raw

    def send(self, document: Path) -> tuple[str, str]:
        at = "/v1/datamarts/12/document_imports"
        told = {"document_type": "USER_ACTIVITY", "mime_type": "APPLICATION_X_NDJSON", "encoding": "utf-8"}
        made = json.loads(self.ask("POST", at, json.dumps({**told, "name": "bench"})))["data"]["id"]
        runs = f"{at}/{made}/executions"
        with document.open("rb") as file:
            answer = json.loads(self.ask("POST", runs, file, "application/x-ndjson"))
        return runs, str(answer["data"]["id"])

    def wait(self, runs: str, execution: str, crew: Process) -> dict[str, Any]:
        limit = time.monotonic() + _LIMIT_S
        while time.monotonic() < limit:
            crew.check()
            told: dict[str, Any] = json.loads(self.ask("GET", f"{runs}/{execution}"))["data"]
            if told["status"] not in {"PENDING", "RUNNING"}:
                return told
            time.sleep(0.2)
        raise RuntimeError(f"the execution did not end within {_LIMIT_S:.0f} s")


class _Memory:
    """Resident memory of processes with their children, looked at all the time; shared pages are shared out."""

    def __init__(self, processes: dict[str, Process]) -> None:
        self._processes = processes
        self.first = {name: self._now(name) for name in processes}
        self.most = dict(self.first)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            for name in self.most:
                self.most[name] = max(self.most[name], self._now(name))

    def _now(self, name: str) -> int:
        parent, total = psutil.Process(self._processes[name]._child.pid), 0  # noqa: SLF001
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                total += process.memory_full_info().pss
        return total


def _await_rows(valkey: Valkey, crew: Process, total: int) -> None:
    limit = time.monotonic() + _LIMIT_S
    route = ("client:12", "warehouse", "user_activities")
    while ledger.read(valkey.client).records.get(route, {}).get("stored", 0) < total:
        crew.check()
        if time.monotonic() > limit:
            raise RuntimeError("the rows are not all there")
        time.sleep(0.2)


def _check(valkey: Valkey, api: _Api, told: dict[str, Any], bad: list[int], data: Path, total: int) -> None:
    """Raise where not every line is accounted for."""
    counts = (told["status"], told["completed_tasks"], told["erroneous_tasks"])
    if counts != ("SUCCEEDED", total - _BAD, _BAD):
        raise RuntimeError(f"the execution says {counts}")
    uri = told["result"]["error_file_uri"]
    errors = api.ask("GET", f"/v1/data_file/data?uri={uri}&access_token={api.token}").splitlines()
    if [json.loads(line)["line"] for line in errors] != bad:
        raise RuntimeError(f"the error file has {len(errors)} lines")
    with contextlib.closing(sqlite3.connect(data / "warehouse.db")) as warehouse:
        (rows,) = warehouse.execute("SELECT count(*) FROM user_activities").fetchone()
    if rows != total - _BAD:
        raise RuntimeError(f"{rows} rows are stored")
    faults = ledger.audit(valkey.client, deep=True)
    if faults:
        raise RuntimeError(f"the ledger does not balance: {faults}")
