"""A relay that people look at: `relay up` with senders, destinations, and failures of each kind."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import redis
import requests
import yaml

from relay import configured
from relay.buffer import ledger
from relay.buffer.redis import connect
from relay.config import load
from tests.oracle.machine import Machine, eventually
from tests.servers.import_server import ImportServer

PASSWORD: Final = "a long enough password"
KEY: Final = "the-s3cret"
#: A sender that says whatever a test wants it to.
ERP: Final[Mapping[str, Any]] = {
    "kind": "custom", "secrets": [KEY], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
    "id": 'headers."x-delivery"',
    "tables": [{
        "table": "things", "key": ["id"], "version": "at", "columns": {"id": "id", "name": "name", "more": "more"},
    }],
}  # fmt: skip
_INVITES: Final = re.compile(r"(/console/welcome\?token=\S+)")


class Stage(Machine):
    """One `relay up` whose console is looked at.

    Args:
        imports: the Import API that it delivers to. settings: of its relay.yaml, all of them.
    """

    def __init__(self, imports: ImportServer, settings: Mapping[str, Any]) -> None:
        self.imports = imports
        super().__init__(yaml.safe_dump({"host": "127.0.0.1", "linger_ms": 20, **settings}))
        self.ready()
        self._http = requests.Session()
        self._http.trust_env = False
        self.sources = configured.sources_of(load(self.file, self.data))

    @cached_property
    def buffer(self) -> redis.Redis:
        """The embedded server, as the relay itself reads it."""
        return connect((self.data / "redis.url").read_text().strip())

    def invitation(self) -> str:
        """The path of the one-time link that `relay up` printed."""
        found = eventually(lambda: _INVITES.search(self.out.read_text()), "the link of the first admin is printed")
        return found[1]

    def post(self, body: Any, *, key: str = KEY, source: str = "erp", **headers: str) -> tuple[int, Any]:
        """An event of the sender that says what it likes; returns the answer's status and JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"X-Key": key, "Content-Type": "application/json", **headers}
        answer = self._http.post(f"{self.url}/hooks/{source}", raw, headers=sent, timeout=20)
        return answer.status_code, answer.json()

    def send(self, name: str, type_: str = "", n: int = 0, *, secret: str = "") -> int:
        """Post a sample of a source's vendor, returning the status; it must refuse another secret than its own."""
        source = copy.copy(self.sources[name])
        source.secrets = (secret,) if secret else source.secrets
        type_ = type_ or next(iter(source.vendor.samples))
        request = configured.signed_sample(source, type_, f"{self.url}/hooks/{name}", n, time.time_ns())
        answer = self._http.post(request.url, request.body, headers=dict(request.headers), timeout=20)
        return answer.status_code

    def records(self, destination: str) -> Counter[str]:
        """The ledger's records of a destination, by state."""
        found: Counter[str] = Counter()
        for (_, of, _), states in ledger.read(self.buffer).records.items():
            if of == destination:
                found.update(states)
        return found

    def settled(self, *destinations: str) -> bool:
        """Whether nothing waits for these."""
        return not any(self.records(name)["pending"] for name in destinations)

    def clean(self) -> None:
        self._http.close()
        self.buffer.close()
        super().clean()


def thing(id_: Any, **more: Any) -> dict[str, Any]:
    """A row of `erp_things`."""
    return {"type": "thing.saved", "id": id_, "name": "a thing", "at": "2026-01-01T00:00:00Z", **more}


def refuses_thirteen(point: dict[str, Any]) -> str | None:
    """What the Import API of these tests says of the points that it does not want."""
    return None if "13" not in str(point.get("id")) else f"{point.get('name')}: id {point['id']} is out of range"


def settings(imports: ImportServer, **more: Any) -> dict[str, Any]:
    """Two vendors, one without its secret, and a sender of one's own; destinations that fail, each in its way."""
    mbi = {"kind": "import_api", "url": imports.url, "client_id": imports.client_id, "api_key": imports.api_key}
    return {
        "sources": {
            "shop": {"kind": "shopify", "secrets": ["shop-s3cret"], "to": ["warehouse", "lake"]},
            "erp": {**ERP, "to": ["warehouse", "mbi"]},
            "crm": {**ERP, "to": "ruin"},
            "desk": {"kind": "zendesk", "to": "warehouse"},
        },
        "destinations": {
            "warehouse": {"kind": "sqlite"},
            "mbi": mbi,
            "lake": {"kind": "sqlite", "path": "lake.db"},
            "ruin": {**mbi, "url": "http://127.0.0.1:9"},
        },
        **more,
    }


@contextlib.contextmanager
def stage(**more: Any) -> Iterator[Stage]:
    """A relay with those settings and an Import API beside it, running."""
    with ImportServer() as imports:
        imports.objects_to = refuses_thirteen
        made = Stage(imports, settings(imports, **more))
        try:
            yield made
        except BaseException:
            print(made.words())  # noqa: T201 - shown with the failure
            raise
        finally:
            made.clean()


def trouble(on: Stage) -> None:
    """Events that end in every way: stored, twice, unmapped, refused, dead, waiting for what is paused or down."""
    on.command("pause", "lake", "--why", "the disk is being changed")
    on.command("keys", "create", "--kind", "export", "--client", "12", "--name", "the dashboards")
    for n in range(12):
        assert on.send("shop", "orders/create", n) == 202
    assert [on.send("shop", n=n, secret="not the secret") for n in range(3)] == [401] * 3
    for n in range(1, 21):
        assert on.post(thing(n), **{"X-Delivery": f"d-{n}"})[0] == 202
    assert on.post(thing(1), **{"X-Delivery": "d-1"})[1]["duplicate"]
    assert on.post({"type": "thing.saved", "name": "without an id"})[0] == 202
    assert on.post(b'{"type": "thing.saved", "id": 1')[0] == 202
    assert on.post(thing(1), source="crm")[0] == 202
    assert on.post({}, source="desk")[0] == 503
    eventually(lambda: on.settled("warehouse", "mbi"), "what can be delivered is")
    eventually(lambda: on.records("mbi")["dead"], "a row is refused for good")
