"""What the Import API's tests share: records, an opened destination, and a look for the key in what it raises."""

from __future__ import annotations

import contextlib
import json
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import DeliveryError
from relay.records import full_version, instant_ns, version_prefix
from tests.servers.import_server import ImportServer
from worker.destination import Batch, Item, TableSpec
from worker.destinations import import_api

KEY = "s3cr3tK3y00112233"
ORDERS = TableSpec(
    "shop_orders",
    ("id",),
    (),
    {"id": "id", "created_at": "instant", "total": "money", "ratio": "number", "lines": "json"},
)
NOON = "2026-03-04T12:00:00Z"
Make = Callable[..., import_api.ImportApi]


def version(at: str = NOON, arrival: int = 1) -> str:
    return full_version(version_prefix(instant_ns(at)), f"{arrival:016d}")


def item(data: dict[str, Any], op: str = "row", at: str = NOON) -> Item:
    key = json.dumps(data.get("id"))
    return Item(
        op, data, members=None, complete=True, version=version(at), key=key, event="1" * 16, position=0,
        source="shop", test=False, size=100,
    )  # fmt: skip


def orders(*items: Item) -> Batch:
    return Batch(ORDERS, items)


ONE = orders(item({"id": "1"}))


def everything_of(error: BaseException) -> str:
    """The texts of an error, of all errors behind it, and its printed traceback."""
    seen: list[str] = ["".join(traceback.format_exception(error))]
    behind: BaseException | None = error
    while behind is not None:
        seen += [str(behind), repr(behind), repr(vars(behind))]
        behind = behind.__cause__ or behind.__context__
    return "\n".join(seen)


@contextlib.contextmanager
def maker(server: ImportServer, data_dir: Path) -> Iterator[Make]:
    """Opens destinations that deliver to the server, and closes them."""
    opened: list[import_api.ImportApi] = []

    def build(**settings: Any) -> import_api.ImportApi:
        block = {"kind": "import_api", "url": server.url, "client_id": 12, "api_key": KEY, **settings}
        api = import_api.destination("mbi", import_api.ImportApiSettings.model_validate(block), data_dir)
        opened.append(api)
        return api

    try:
        yield build
    finally:
        for api in opened:
            api.close()


def failure(api: import_api.ImportApi, batch: Batch = ONE) -> DeliveryError:
    """What a delivery raises, after a look for the key in it and in everything behind it."""
    with pytest.raises(DeliveryError) as caught:
        api.deliver(batch)
    assert KEY not in everything_of(caught.value)
    return caught.value


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
