"""A mixed load as a shop has it: many vendors, bursts, repetitions, and all that goes wrong with some of it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import requests

from relay.kinds import CUSTOM, kinds, vendor_of
from relay.supervisor import demo
from tests.browser.stage import ERP, Stage, thing
from tests.servers.import_server import Fault, ImportServer, Post, refuse

#: Who sends most; the rest share what is left.
_BUSY: Final = ("shopify", "woocommerce", "stripe", "zendesk", "segment", "hubspot")
_CARTS: Final = ("shopify", "woocommerce", "bigcommerce", "ecwid", "square", "stripe")
_DESKS: Final = ("zendesk", "intercom", "freshdesk", "helpscout", "front")
_A_SECOND: Final = 12.0
_BURST, _BURST_EVERY_S = 120, 60.0
_THREADS: Final = 3
#: When the replica is away, as shares of the whole time; the second lasts until the pictures are taken.
_DOWN: Final = ((0.35, 0.5), (0.93, 9.0))


def settings(marts: ImportServer, replica: ImportServer) -> dict[str, Any]:
    """A source of each kind that has samples; a warehouse, and two Import APIs that make trouble."""
    blocks = {kind: demo.source(kind, vendor_of(kind, {})) for kind in kinds() if kind != CUSTOM}
    sources: dict[str, Any] = {
        kind: {**block, "to": _to(kind)}
        for kind, block in blocks.items()
        if block is not None and vendor_of(kind, {}).samples
    }
    apis = {
        name: {"kind": "import_api", "url": api.url, "client_id": api.client_id, "api_key": api.api_key}
        for name, api in (("magento_bi", marts), ("replica", replica))
    }
    return {
        "sources": {**sources, "erp": {**ERP, "to": ["warehouse", "magento_bi"]}, "gorgias_eu": _without_secret()},
        "destinations": {"warehouse": {"kind": "sqlite"}, **apis},
        "web_workers": 3,
        "workers": 3,
        "linger_ms": 100,
    }


def _to(kind: str) -> list[str]:
    return ["warehouse", *(["magento_bi"] if kind in _CARTS else []), *(["replica"] if kind in _DESKS else [])]


def _without_secret() -> Mapping[str, Any]:
    return {"kind": "typeform", "to": "warehouse"}


class Load:
    """Posts until it is told to stop.

    Args:
        on: the relay. replica: what is down for a while. seconds: how long it is meant to go on.
    """

    def __init__(self, on: Stage, replica: ImportServer, seconds: float) -> None:
        self.on, self.seconds, self.statuses = on, seconds, dict[int, int]()
        self._numbers, self._over, self._lock = itertools.count(1), threading.Event(), threading.Lock()
        self._began = time.monotonic()
        self._kinds = [name for name in on.sources if on.sources[name].secrets and name != "erp"]
        on.imports.objects_to = _objects_to
        replica.choose = self._away

    def run(self) -> None:
        """All of it."""
        threads = [threading.Thread(target=self._post, args=(n,), name=f"load-{n}") for n in range(_THREADS)]
        for thread in threads:
            thread.start()
        try:
            self._over.wait(self.seconds)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _post(self, seed: int) -> None:
        rng, burst_at = random.Random(seed), self._began + _BURST_EVERY_S / 2
        while not self._over.is_set():
            pause = rng.expovariate(_A_SECOND / _THREADS)
            if time.monotonic() > burst_at:
                burst_at += _BURST_EVERY_S
                for _ in range(_BURST // _THREADS):
                    self._one(rng)
            self._one(rng)
            self._over.wait(pause)

    def _one(self, rng: random.Random) -> None:
        n, dice = next(self._numbers), rng.random()
        try:
            if dice < 0.04:
                status = self._wrong(rng, n)
            elif dice < 0.10:
                again = rng.randrange(n // 2 + 1)  # some of them came before
                status = self.on.post(thing(again, name=f"item {again}"), **{"X-Delivery": f"erp-{again}"})[0]
            else:
                name = rng.choice(_BUSY) if rng.random() < 0.6 else rng.choice(self._kinds)
                types = [*self.on.sources[name].vendor.samples]
                status = self.on.send(name, types[0] if rng.random() < 0.7 else rng.choice(types), n)
        except requests.RequestException:
            status = 0
        with self._lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1

    def _wrong(self, rng: random.Random, n: int) -> int:
        """Something that somebody will have to look at."""
        choice = rng.randrange(4)
        if choice == 0:
            return self.on.send("stripe", n=n, secret="whsec_of_another_endpoint")
        if choice == 1:
            return self.on.post({"type": "thing.saved", "name": f"item {n}"}, **{"X-Delivery": f"erp-x{n}"})[0]
        if choice == 2:
            return self.on.post(
                f'{{"type": "thing.saved", "id": {n}, "na'.encode(), **{"X-Delivery": f"erp-y{n}"}
            )[0]
        return self.on.post({}, source="gorgias_eu")[0]

    def _away(self, _post: Post) -> Fault | None:
        share = (time.monotonic() - self._began) / self.seconds
        down = any(since <= share < until for since, until in _DOWN)
        return refuse(503, "the replica is being restored", retry_after="5") if down else None


def _objects_to(point: dict[str, Any]) -> str | None:
    """Some orders and items are not to this API's liking."""
    id_ = str(point.get("id", ""))
    if id_.endswith("7") and "total_price" in point:
        return f"order {id_}: total_price must be a number"
    return f"item {id_} is on no list of items" if id_.endswith("77") and "more" in point else None
