"""The console's pages where a million events are kept: what waits, what failed, and a large ledger."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from flask.testing import FlaskClient

from bench.report import Row, at_most
from bench.servers import Valkey, folder, settings_file
from relay import config
from relay.app import create_app
from relay.buffer import keys, ledger, measures, samples
from relay.buffer.accept import Bounds, Delivery, Front, Offer
from relay.buffer.acts import MOST_ACTS, Acts
from relay.buffer.admins import Admins
from relay.buffer.lanes import Lane, Settlement
from relay.buffer.refused import Accounts
from relay.buffer.registry import Registry
from relay.records import Codec, Meta, Table

TARGET_MS: Final = 100.0
SOURCES: Final = 50
DESTINATIONS: Final = ("lake", "mart", "warehouse")
TABLES: Final = 10
_PASSWORD: Final = "a password of the bench"
_TOGETHER: Final = 500
_CLAIMED: Final = 1_000
_CAUSES: Final = 20
_ROUNDS: Final = 21
_NUMBER: Final = re.compile(r"\d{16}.*")
#: A slow page is not waited for so often.
_LONGEST_MS: Final = 20_000.0
PAGES: Final = (
    "", "sources/", "sources/s00", "failures/", "destinations/", "events/", "events/?type=none", "tables/",
    "keys/", "audit/", "acts/",
)  # fmt: skip


class Crowd:
    """A Redis that holds what many sources sent, by the product's own scripts, and a console on it.

    Args:
        data: a folder. url: an empty Redis.
    """

    def __init__(self, data: Path, url: str) -> None:
        sources = {name: {"kind": "shopify", "secrets": ["s"], "to": list(DESTINATIONS)} for name in self.names()}
        destinations = {name: {"kind": "sqlite", "path": f"{name}.db"} for name in DESTINATIONS}
        path = settings_file(data, redis_url=url, sources=sources, destinations=destinations, archive_days=0)
        self.config = config.load(path, data)
        self.app = create_app(self.config)
        self._front = Front(url, Bounds(linger_ms=0), lambda _lane: None, 30)
        self.client = self._front.client
        self._codec = Codec()

    @staticmethod
    def names() -> list[str]:
        """Of the sources."""
        return [f"s{n:02}" for n in range(SOURCES)]

    def fill(self, pending: int, quarantined: int, dead: int) -> None:
        """So many events of each sort, by turns of all sources."""
        lanes = tuple(keys.lane_name(name, 0, 1) for name in DESTINATIONS)
        self._put(dead, lambda source, n: self._offer(source, n, lanes[:1]))
        self._bury(lanes[0], dead)
        self._put(pending, lambda source, n: self._offer(source, n, lanes))
        self._put(quarantined, self._fault)

    def furnish(self) -> None:
        """A little of all else that is shown."""
        accounts, registry, acts = Accounts(self.client), Registry(self.client), Acts(self.client)
        for n, source in enumerate(self.names()):
            accounts.note(
                source, 3, "signature_wrong", "secret", f"The secret of {source} has a line end behind it."
            )
            registry.create("export", n + 1, name=source)
        for n in range(MOST_ACTS):
            acts.note("retry", "ada", "10.0.0.1", {"source": "s00", "destination": "lake", "count": n})
        measures.add(
            self.client, {f"lag|{name}|{bound}": 9 for name in DESTINATIONS for bound in measures.names("lag")}
        )
        self._sample()

    def _put(self, count: int, make: Callable[[str, int], Offer]) -> None:
        names = self.names()
        for turn, start in enumerate(range(0, count, _TOGETHER)):
            source = names[turn % SOURCES]
            offers = tuple(make(source, n) for n in range(start, min(start + _TOGETHER, count)))
            self._front.put(Delivery(source, offers, {_SHAPE.schema_id: _SHAPE.declaration}))

    def _offer(self, source: str, n: int, lanes: tuple[str, ...]) -> Offer:
        table = f"{source}_t{n % TABLES}"
        row = {"id": n, "email": f"jane{n}@example.com", "total": n}
        record = msgspec.structs.replace(_SHAPE.row(row, at=n), table=table)
        meta = Meta(source, "shopify", "orders/create", f"d{n}", schemas={table: _SHAPE.schema_id})
        blob = self._codec.pack(meta, msgspec.json.encode(row), [record])
        counts = {f"e|{source}|accepted": 1, f"e|{source}|mapped": 1}
        for lane in lanes:
            at = f"r|{source}|{lane.partition('/')[0]}|{table}"
            counts |= {f"{at}|emitted": 1, f"{at}|pending": 1}
        return Offer("", "id", blob, quarantined=False, lanes=lanes, counts=counts, type="orders/create")

    def _fault(self, source: str, n: int) -> Offer:
        meta = Meta(
            source, "shopify", "orders/create", f"q{n}", fault=f"mapping_failed: field f{n % _CAUSES} is {n}"
        )
        counts = {f"e|{source}|accepted": 1, f"e|{source}|quarantined": 1}
        blob = self._codec.pack(meta, b'{"id": 1}', [])
        return Offer("", "id", blob, quarantined=True, lanes=(), counts=counts, type="orders/create")

    def _bury(self, name: str, count: int) -> None:
        """Let a destination refuse all that waits in a lane."""
        lane = Lane(self.client, name, "bench")
        self.client.delete(keys.lane(name))
        if lane.begin() is None:
            raise RuntimeError("the lane is taken")
        for _ in range(0, count, _CLAIMED):
            claimed = lane.claim(lane.sources(), most=_CLAIMED, most_bytes=10**9, linger_ms=0, full=1, rest_ms=0)
            if not isinstance(claimed, list):
                raise RuntimeError("less waits than was put")  # noqa: TRY004 - not about a type
            done, counts, dead = dict[str, list[str]](), Counter[str](), []
            for n, one in enumerate(claimed):
                table = next(iter(self._codec.unpack(one.blob).meta.schemas))
                letter = [
                    one.source,
                    table,
                    f"[{n}]",
                    "0" * 57,
                    f"column c{n % _CAUSES} is not there",
                    "destination",
                ]
                dead.append((one.arrival, 0, msgspec.json.encode(letter)))
                done.setdefault(one.source, []).append(one.arrival)
                at = f"r|{one.source}|{lane.destination}|{table}"
                counts.update({f"{at}|dead": 1})
                counts.subtract({f"{at}|pending": 1})
            lane.settle(Settlement(done, [], dead, counts, {}))
        lane.finish(lane.sources(), 0)

    def _sample(self) -> None:
        now_ms = int(time.time() * 1000)
        for ring, places, step_s in ((keys.SAMPLES_HOUR, 360, 10), (keys.SAMPLES_DAY, 288, 300)):
            kept = {
                str(n): msgspec.msgpack.encode(
                    samples.Sample(now_ms - n * step_s * 1000, 9 * (400 - n), 7 * (400 - n), n, n, [400 - n] * 15)
                )
                for n in range(places)
            }
            self.client.hset(ring, mapping=dict[Any, Any](kept))

    def browser(self) -> FlaskClient:
        """Somebody who is logged in."""
        admins = Admins(self.client)
        admins.accept(admins.add("ada"), _PASSWORD)
        token = admins.login("ada", _PASSWORD, "127.0.0.1")
        browser = self.app.test_client()
        browser.set_cookie("rowhook_session", token or "", path="/console")
        return browser

    def paths(self, browser: FlaskClient) -> Iterator[str]:
        """All pages, those of one group, of one failure and of one event among them."""
        yield from PAGES
        groups = browser.get("/console/failures/").text
        group = re.search(r"failures/group/\w+", groups)
        if group is None:
            raise RuntimeError("no group of failures is shown")
        yield group[0]
        one = re.search(r'failures/one\?id=[^"]+', browser.get(f"/console/{group[0]}").text)
        event = re.search(r"events/\d+", browser.get("/console/events/").text)
        yield from (found[0] for found in (one, event) if found is not None)


_SHAPE: Final = Table("orders", ("id",))


def run(*, quick: bool) -> list[Row]:
    """Fill, look at each page again and again: where most waits, and where all has failed."""
    share = 10 if quick else 1
    mixed, dead = (800_000 // share, 100_000 // share, 100_000 // share), (0, 0, 1_000_000 // share)
    return [*_look("mixed", mixed), *_look("all dead", dead)]


def _look(name: str, kept: tuple[int, int, int]) -> Iterator[Row]:
    with folder() as data, Valkey(data) as valkey:
        crowd = Crowd(data, valkey.url)
        began = time.perf_counter()
        valkey.client.config_set("appendfsync", "no")  # of no account here, and most of the time
        crowd.fill(*kept)
        crowd.furnish()
        memory = f"{valkey.memory() / 2**20:.0f} MiB"
        print(f"{name}: filled in {time.perf_counter() - began:.0f} s, {memory}", file=sys.stderr)
        faults = ledger.audit(valkey.client, deep=False)
        if faults or valkey.client.hlen(keys.EVENTS) != sum(kept):
            raise RuntimeError(f"not all is there: {faults[:3]}")
        browser = crowd.browser()
        for path in crowd.paths(browser):
            yield _row(crowd, browser, path, f"{sum(kept):,} events kept, {name}")


def _row(crowd: Crowd, browser: FlaskClient, path: str, kept: str) -> Row:
    """CPU of a page, the web process's and Redis's together: waiting for a core is no work of ours."""
    times: list[float] = []
    before, size = _cpu_ms(crowd), 0
    while len(times) < _ROUNDS and sum(times) < _LONGEST_MS:
        began = time.perf_counter()
        answer = browser.get(f"/console/{path}")
        times.append((time.perf_counter() - began) * 1000)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        size = len(answer.data)
    spent = (_cpu_ms(crowd) - before) / len(times)
    ours = f"{statistics.median(times):.0f} ms of a clock, at most {max(times):.0f}; {size / 1024:.0f} KiB"
    print(f"/console/{path}: {spent:.1f} ms CPU, {ours}", file=sys.stderr, flush=True)
    return at_most("console", f"/console/{_NUMBER.sub('…', path)}, {kept}", ours, spent, TARGET_MS, "ms CPU")


def _cpu_ms(crowd: Crowd) -> float:
    redis: Any = crowd.client.info("cpu")
    return (time.process_time() + redis["used_cpu_user"] + redis["used_cpu_sys"]) * 1000
