"""How long after its 202 a row is committed: 200 webhooks a second over 30 tables, two workers, PostgreSQL.

The processes are those of `relay up`: gunicorn and `python -m worker` under their own settings, archive included.
The commit's moment is the server's own (`track_commit_timestamp`), so that no polling blurs it.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from bench.report import Row, at_most, percentile
from bench.servers import Gunicorn, Postgres, Process, Valkey, folder, settings_file
from relay import config, configured
from relay.buffer import ledger
from relay.configured import Source
from relay.records import Request, encode_json

SECRET: Final = "bench-secret"
TABLES: Final = 30
PER_S: Final = 200
_SENDERS: Final = 8
_WARM_UP_S: Final = 4.0
_SETTLE_S: Final = 30.0
_BLOCK: Final = {
    "kind": "custom",
    "verify": {"hmac": {"header": "X-Signature"}},
    "secrets": [SECRET],
    "id": 'headers."x-delivery"',
    "tables": [{"table": "items", "key": ["id"], "version": "updated_at"}],
}


def run(*, quick: bool) -> list[Row]:
    """Measure; raises where an answer is not 202, a row is missing or the ledger does not balance."""
    with (
        folder() as data,
        Postgres(data, {"track_commit_timestamp": "on"}) as postgres,
        Valkey(data) as valkey,
    ):
        settings = settings_file(
            data,
            redis_url=valkey.url,
            sources={f"s{n:02d}": _BLOCK for n in range(TABLES)},
            destinations={"pg": {"kind": "postgres", "dsn": postgres.url}},
            workers=2,
            log_level="warning",
        )
        env = {"RELAY_CONFIG": str(settings), "RELAY_DATA": str(data)}
        with (
            Gunicorn("relay.app:create_app()", settings, {}, "gunicorn") as web,
            Process([sys.executable, "-m", "worker"], env, data / "worker.out"),
        ):
            answered = _send(settings, web.port, _WARM_UP_S + (12 if quick else 25))
            committed = _committed(postgres.url, len(answered))
            _settled(valkey)
    first = min(at for at in answered.values()) + _WARM_UP_S
    waits = [1e3 * (committed[event] - at) for event, at in answered.items() if at > first]
    what = f"202 to commit, {len(waits)} webhooks at {PER_S}/s over {TABLES} tables, 2 workers"
    return [
        at_most("freshness", f"{what}: p50", "", percentile(waits, 50), 120, "ms"),
        at_most("freshness", f"{what}: p99", f"most {max(waits):.0f} ms", percentile(waits, 99), 300, "ms"),
    ]


def _send(settings: Path, port: int, seconds: float) -> dict[str, float]:
    """Events by arrival number, with the moment of their 202."""
    sources = list(configured.sources_of(config.load(settings, settings.parent)).values())
    answered: dict[str, float] = {}
    faults: list[str] = []
    start = time.monotonic() + 0.5

    def sender(own: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for n in range(own, int(seconds * PER_S), _SENDERS):
                request = _signed(sources[n % TABLES], n)
                time.sleep(max(0.0, start + n / PER_S - time.monotonic()))
                connection.request(
                    "POST", f"/hooks/{sources[n % TABLES].name}", request.body, dict(request.headers)
                )
                arrival = _arrival(connection.getresponse())
                answered[arrival] = time.time()
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            faults.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=sender, args=(own,)) for own in range(_SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults or len(answered) != int(seconds * PER_S):
        raise RuntimeError(f"{len(answered)} answered: {faults[:3]}")
    return answered


def _arrival(answer: http.client.HTTPResponse) -> str:
    """The arrival number of what was answered 202."""
    said = answer.read()
    if answer.status != 202:
        raise RuntimeError(f"not 202: {answer.status} {said[:200]!r}")
    return str(json.loads(said)["id"])


def _signed(source: Source, n: int) -> Request:
    now = time.time_ns()
    data: dict[str, Any] = {"id": n, "updated_at": now, "total": "19.95", "paid": n % 2 == 0, "tags": ["a", "b"]}
    data |= {f"column_{i:02d}": f"value {n % 97} of {i}" for i in range(15)}
    headers = {"content-type": "application/json", "x-delivery": f"d{n}"}
    request = Request("POST", f"http://127.0.0.1/hooks/{source.name}", headers, encode_json(data))
    return source.verifier.sign(request, SECRET, now)


def _committed(url: str, events: int) -> dict[str, float]:
    """Events by arrival number, with the moment of their row's commit; waits until all are there."""
    until = time.monotonic() + _SETTLE_S
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            found: dict[str, float] = {}
            for n in range(TABLES):
                query = sql.SQL("SELECT _relay_event, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM {}")
                rows = connection.execute(query.format(sql.Identifier(f"s{n:02d}_items"))).fetchall()
                found.update((event, float(at)) for event, at in rows)
            if len(found) == events:
                return found
            if time.monotonic() > until:
                raise RuntimeError(f"{events} answered 202, {len(found)} rows")
            time.sleep(0.5)


def _settled(valkey: Valkey) -> None:
    until = time.monotonic() + _SETTLE_S
    while faults := ledger.audit(valkey.client, deep=True):
        if time.monotonic() > until:
            raise RuntimeError(f"the ledger does not balance: {faults[:5]}")
        time.sleep(0.5)
