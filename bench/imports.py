"""The Import API's path beside the webhooks': requests and rows a second until they are durable, and their CPU.

One gunicorn under the relay's own settings gets, in turn and round by round, signed webhooks, pushes of one point
and pushes of a hundred points.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Any, Final

from bench import load
from bench.accept import SECRET, Side, signed, source
from bench.report import Row
from bench.servers import Gunicorn, Valkey, folder, settings_file
from relay.buffer import keys, ledger
from relay.buffer.registry import Registry
from relay.records import Request, encode_json

_WARM_UP: Final = 100
_MOST: Final = 100
_CLIENT: Final = 12


def run(*, quick: bool) -> list[Row]:
    """Measure; raises where an answer is another, or what was answered is not there."""
    rounds, size = (4, 1_000) if quick else (7, 4_000)
    here = source()
    with folder() as data, contextlib.ExitStack() as stack:
        valkey = stack.enter_context(Valkey(data))
        settings = settings_file(
            data,
            redis_url=valkey.url,
            sources={here.name: {"kind": here.kind, "secrets": [SECRET]}},
            log_level="warning",
        )
        web = stack.enter_context(Gunicorn("relay.app:create_app()", settings, {}, "web"))
        key = Registry(valkey.client).create("import", _CLIENT)
        # Pushes of a hundred are fewer: what counts is per row.
        few = size // 20
        hooks, ones, many = (
            Side("webhooks", web, valkey, None, b"202"),
            Side("pushes of 1", web, valkey, None, b"201"),
            Side("pushes of 100", web, valkey, None, b"201"),
        )
        for n in range(rounds + 1):
            start = n * size
            hooks.send(signed(here, range(start, start + (size if n else _WARM_UP))))
            ones.send([_push(key, i, 1) for i in range(start, start + (size if n else _WARM_UP))])
            many.send([_push(key, i * _MOST, _MOST) for i in range(start, start + (few if n else _WARM_UP // 5))])
        _check(valkey, hooks.sent + ones.sent + many.sent, ones.sent + _MOST * many.sent)
    body = len(_push(key, 0, _MOST).partition(b"\r\n\r\n")[2])
    return [
        Row("imports", "webhooks: one order each", hooks.words(), figure=_rate(hooks, 1)),
        Row("imports", "pushes of one point", ones.words(), figure=_rate(ones, 1)),
        Row("imports", f"pushes of 100 points, {body:,} B", many.words(), figure=_rate(many, _MOST)),
        Row(
            "imports",
            "CPU of a webhook over that of a push of one",
            "",
            figure=f"{ones.times_cheaper(hooks):.2f} x",
        ),
        Row("imports", "CPU of a push of one over a row among 100", "", figure=_share(many, ones)),
    ]


def _push(key: str, n: int, points: int) -> bytes:
    rows = [
        {
            "keys": ["id"], "id": n + i, "email": f"kunde.{n + i}@example.com", "name": f"Kunde {n + i}",
            "total": "119.70", "currency": "EUR", "status": "paid", "items": 3, "at": f"{time.time():.3f}",
            "note": "Bitte klingeln", "tags": ["web", "neu"],
        }
        for i in range(points)
    ]  # fmt: skip
    url = f"http://127.0.0.1/v2/client/{_CLIENT}/table/orders/data?apikey={key}"
    return load.wire(Request("POST", url, {"content-type": "application/json"}, encode_json(rows)))


def _rate(side: Side, rows: int) -> str:
    return f"{side.median('per_s'):,.0f} requests/s, {rows * side.median('per_s'):,.0f} rows/s"


def _share(many: Side, ones: Side) -> str:
    pairs = zip(many.rounds[1:], ones.rounds[1:], strict=True)
    return f"{statistics.median(one.cpu_us / (some.cpu_us / _MOST) for some, one in pairs):.1f} x"


def _check(valkey: Valkey, events: int, rows: int) -> None:
    account = ledger.read(valkey.client)
    held: Any = valkey.client.hlen(keys.EVENTS)
    name = f"client:{_CLIENT}"
    emitted = sum(r.get("emitted", 0) for at, r in account.records.items() if at[0] == name)
    faults = ledger.audit(valkey.client, deep=False)
    if held != events or emitted != rows or faults:
        raise RuntimeError(f"{events} events and {rows} rows answered; held {held}, emitted {emitted} {faults}")
