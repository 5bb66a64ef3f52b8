"""CPU that one webhook costs until its 202: gunicorn and Redis together, beside an empty view and plain RQ.

Three gunicorns under the relay's own settings get the same signed requests in turn, round by round, each with a
Redis of its own.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import load
from bench.report import Row, at_least, at_most, percentile
from bench.servers import Gunicorn, Process, Valkey, folder, settings_file
from relay import intake
from relay.buffer import keys, ledger
from relay.configured import Source
from relay.records import NS, decode_json
from relay.source import sample_request

SECRET: Final = "bench-secret"
_NAME, _TYPE = "shopify", "orders/create"
_WARM_UP: Final = 500


class Round(msgspec.Struct):
    """One application's figures for one round, by request."""

    cpu_us: float
    gunicorn_us: float
    redis_us: float
    per_s: float
    p50_ms: float
    p99_ms: float


class Side:
    """One application under load, with the Redis that it writes to, if any."""

    def __init__(
        self,
        name: str,
        server: Gunicorn,
        valkey: Valkey | None,
        held: Callable[[], int] | None,
        answer: bytes = b"202",
    ) -> None:
        self.name, self.server, self.valkey, self.held, self.answer = name, server, valkey, held, answer
        self.rounds: list[Round] = []
        self.sent = 0

    def send(self, requests: Sequence[bytes]) -> None:
        """One round."""
        parts: list[Process] = [self.server, *([self.valkey] if self.valkey else [])]
        before = [part.cpu_s() for part in parts]
        result = load.run(self.server.port, requests, answer=self.answer)
        spent = [1e6 * (p.cpu_s() - b) / len(requests) for p, b in zip(parts, before, strict=True)]
        waits = [1e3 * w for w in result.waits_s]
        self.sent += len(requests)
        if len(waits) != len(requests):
            raise RuntimeError(f"{self.name}: {len(requests)} sent, {len(waits)} answered")
        self.rounds.append(
            Round(
                sum(spent),
                spent[0],
                sum(spent[1:]),
                len(requests) / result.wall_s,
                percentile(waits, 50),
                percentile(waits, 99),
            )
        )

    def verify(self) -> None:
        """Raise where not every event that was answered 202 is held."""
        if self.held is not None and (held := self.held()) != self.sent:
            raise RuntimeError(f"{self.name}: {self.sent} answered 202, {held} held")

    def median(self, of: str) -> float:
        """Of the measured rounds, the first being for warming up."""
        values: list[float] = [getattr(one, of) for one in self.rounds[1:]]
        return statistics.median(values)

    def times_cheaper(self, other: Side) -> float:
        """The other's CPU over this one's: the median of the rounds' ratios, since the machine drifts."""
        pairs = zip(self.rounds[1:], other.rounds[1:], strict=True)
        return statistics.median(theirs.cpu_us / mine.cpu_us for mine, theirs in pairs)

    def words(self) -> str:
        """Its figures as text."""
        m = self.median
        parts = f" ({m('gunicorn_us'):.0f} + Redis {m('redis_us'):.0f})" if self.valkey else ""
        return f"{m('cpu_us'):.0f} us{parts}, {m('per_s'):.0f}/s, p50/p99 {m('p50_ms'):.0f}/{m('p99_ms'):.0f} ms"


def source() -> Source:
    """The source that the relay is set up with."""
    return Source(
        _NAME, intake.vendor_of(_NAME, {}), (SECRET,), {}, {"warehouse": 1}, kind=_NAME, public_url=""
    )  # fmt: skip


def signed(here: Source, numbers: range) -> list[bytes]:
    """Distinct signed orders as they go over the wire."""
    make, now = here.vendor.samples[_TYPE], time.time_ns()
    requests = []
    for n in numbers:
        plain = sample_request(make(n, now + n * NS), f"http://127.0.0.1/hooks/{_NAME}")
        requests.append(load.wire(here.verifier.sign(plain, SECRET, now)))
    return requests


def run(*, quick: bool) -> list[Row]:
    """Measure; raises where an answer is not 202 or an event is missing afterwards."""
    rounds, size = (5, 2_000) if quick else (7, 8_000)
    here = source()
    with folder() as data, contextlib.ExitStack() as stack:
        ours, empty, plain = sides = _sides(data, stack)
        for side in sides:
            side.send(signed(here, range(_WARM_UP)))
        memory = _memory(ours)
        for n in range(rounds):
            requests = signed(here, range(_WARM_UP + n * size, _WARM_UP + (n + 1) * size))
            for side in sides:
                side.send(requests)
        pending = (_memory(ours) - memory) / (ours.sent - _WARM_UP)
        for side in sides:
            side.verify()
        _audit(ours)
    body = len(requests[0].partition(b"\r\n\r\n")[2])
    return [
        at_least(
            "accept", "share of an empty view's efficiency (CPU of gunicorn + Redis)", ours.words(), empty.words(),
            ours.times_cheaper(empty), 0.55,
        ),
        at_least(
            "accept", "beside `queue.enqueue` for each webhook", "", plain.words(),
            ours.times_cheaper(plain), 2.2,
        ),
        at_most(
            "accept", f"Redis bytes for a pending webhook of {body} B", f"{pending:.0f} B", pending / body, 1, "x"
        ),
        at_most("accept", f"decode and map an order of {body} B", "", mapping_us(here), 60, "us"),
    ]  # fmt: skip


def _sides(data: Path, stack: contextlib.ExitStack) -> tuple[Side, Side, Side]:
    stores = [stack.enter_context(Valkey(data, name)) for name in ("relay", "plain")]
    config = settings_file(
        data,
        redis_url=stores[0].url,
        sources={_NAME: {"kind": _NAME, "secrets": [SECRET]}},
        log_level="warning",
        **settings_from_environment(),
    )
    env = {"BENCH_REDIS_URL": stores[1].url, "BENCH_SECRET": SECRET}
    apps = {
        "relay": "relay.app:create_app()",
        "empty": "bench.baselines.empty:app",
        "enqueue": "bench.baselines.enqueue:app",
    }
    ours, empty, plain = (
        stack.enter_context(Gunicorn(app, config, env, f"gunicorn-{name}")) for name, app in apps.items()
    )

    def in_buffer() -> int:
        held: Any = stores[0].client.hlen(keys.EVENTS)
        return int(held)

    def in_queue() -> int:
        held: Any = stores[1].client.llen("rq:queue:plain")
        return int(held)

    return (
        Side("relay", ours, stores[0], in_buffer),
        Side("empty", empty, None, None),
        Side("enqueue", plain, stores[1], in_queue),
    )


def settings_from_environment() -> dict[str, int]:
    """`BENCH_WEB_WORKERS` and `BENCH_WEB_THREADS`, to try others than the defaults."""
    names = ("web_workers", "web_threads")
    return {n: int(os.environ[f"BENCH_{n.upper()}"]) for n in names if f"BENCH_{n.upper()}" in os.environ}


def _memory(side: Side) -> int:
    """Bytes that Redis uses, but for what it remembers of delivery ids."""
    if side.valkey is None:
        raise RuntimeError("no Redis")
    client = side.valkey.client
    seen: Any = client.keys("rh:seen:*")
    marks = sum(client.memory_usage(key, samples=0) or 0 for key in seen)
    return side.valkey.memory() - marks


def _audit(side: Side) -> None:
    if side.valkey is None:
        raise RuntimeError("no Redis")
    states = ledger.read(side.valkey.client).events[_NAME]
    faults = ledger.audit(side.valkey.client, deep=False)
    if states != {"accepted": side.sent, "mapped": side.sent} or faults:
        raise RuntimeError(f"{side.sent} sent, but the ledger says {states} {faults}")


def mapping_us(here: Source) -> float:
    """Microseconds from body to records: decode, read the envelope, map."""
    request = sample_request(here.vendor.samples[_TYPE](7, time.time_ns()), "http://127.0.0.1/")

    def once() -> None:
        for event in here.vendor.read(request, decode_json(request.body)):
            if not intake.records_of(here, event):
                raise RuntimeError("an order became no rows")

    return min(timeit.repeat(once, number=500, repeat=9)) / 500 * 1e6
