"""A buffer full of orders, and drains of it in slices, as the RQ job drains."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.servers import Valkey, settings_file
from relay import config, configured, intake
from relay.buffer import keys, ledger
from relay.buffer.accept import Bounds, Delivery, Front
from relay.buffer.lanes import Lane
from relay.buffer.redis import connect
from relay.records import NS, Codec
from relay.source import sample_request
from worker import drain, jobs
from worker.delivery import Courier
from worker.destination import Destination

SECRET: Final = "bench-secret"
#: What one sample of a topic becomes: rows by table, the event's own first.
ORDERS: Final = "orders/create"
CUSTOMERS: Final = "customers/create"
ROWS: Final = {
    ORDERS: {
        "shop_orders": 1,
        "shop_order_lines": 3,
        "shop_order_shipping_lines": 1,
        "shop_order_discount_codes": 1,
    },
    CUSTOMERS: {"shop_customers": 1},
}
_TOGETHER: Final = 100


class Backlog:
    """Events of one source that wait for several destinations.

    Args:
        data: a folder. valkey: an empty buffer. destinations: blocks as in `relay.yaml`. topic: of all events.
    """

    def __init__(self, data: Path, valkey: Valkey, destinations: dict[str, dict[str, Any]], topic: str) -> None:
        self.client, self._url, self.size = valkey.client, valkey.url, 0
        self.topic, self.rows = topic, ROWS[topic]
        path = settings_file(
            data,
            redis_url=valkey.url,
            sources={"shop": {"kind": "shopify", "secrets": [SECRET], "to": list(destinations)}},
            destinations=destinations,
            archive_days=0,
        )
        self._config = config.load(path, data)
        self._source = configured.sources_of(self._config)["shop"]
        self._tokens = itertools.count()

    def fill(self, events: int) -> None:
        """Put signed events, each verified and mapped, many to a call."""
        front = Front(self._url, Bounds(linger_ms=0), lambda _lane: None, 30)
        codec, now = Codec(), time.time_ns()
        make = self._source.vendor.samples[self.topic]
        numbers = range(self.size, self.size + events)
        for start in range(0, events, _TOGETHER):
            accepted = []
            for n in numbers[start : start + _TOGETHER]:
                plain = sample_request(make(n, now + n * NS), "http://127.0.0.1/hooks/shop")
                request = self._source.verifier.sign(plain, SECRET, now)
                accepted.append(intake.webhook(self._source, request, now, codec, limit=10**7).delivery)
            offers = tuple(offer for one in accepted for offer in one.offers)
            if len(offers) != len(accepted) or any(t.duplicate for t in front.put(
                Delivery("shop", offers, accepted[0].schemas)
            )):  # fmt: skip
                raise RuntimeError("an event was not taken")
        self.size += events

    def open(self, name: str) -> tuple[Destination, Callable[[int], float]]:
        """A destination, and a call that drains its lane down to so many events and returns the seconds."""
        destination = jobs.open_destination(self._config, name)
        client = connect(self._url, timeout_s=30)
        lane_name = keys.lane_name(name, 0, 1)

        def run(left: int) -> float:
            lane = Lane(client, lane_name, f"bench{next(self._tokens)}")
            courier = Courier(lane, destination)
            started = time.perf_counter()
            drain.drain(
                lane,
                courier.read,
                courier,
                pace=drain.Pace(0, destination.limits.records, int(courier.hold_s * 1000)),
                stopping=lambda: self.pending(name) <= left,
                others_wait=lambda: False,
            )
            spent = time.perf_counter() - started
            if self.pending(name) > left:
                raise RuntimeError(
                    f"{name}: {self.pending(name)} events still wait, {client.hgetall(keys.lane(lane_name))}"
                )
            return spent

        return destination, run

    def pending(self, name: str) -> int:
        """Events that wait for a destination."""
        found: Any = self.client.zcard(keys.queue(keys.lane_name(name, 0, 1), "shop"))
        return int(found)

    def verify(self) -> None:
        """Raise where anything is left, or the ledger does not balance."""
        held: Any = self.client.hlen(keys.EVENTS)
        faults = ledger.audit(self.client, deep=True)
        if held or faults:
            raise RuntimeError(f"{held} events are still held; {faults[:5]}")

    def balances(self) -> None:
        """Raise where the ledger does not balance."""
        if faults := ledger.audit(self.client, deep=False):
            raise RuntimeError(f"the ledger: {faults[:5]}")

    def expect(self, where: str, found: dict[str, int]) -> None:
        """Raise where a table does not hold all rows."""
        wanted = {table: rows * self.size for table, rows in self.rows.items()}
        if found != wanted:
            raise RuntimeError(f"{where}: {found}, not {wanted}")
