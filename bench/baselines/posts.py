"""An Import API from rows in memory: a thread and a kept connection each, POST after POST. No fence, no retry."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import requests

_encode = msgspec.json.Encoder(decimal_format="number").encode
_local = threading.local()


def store(url: str, batches: Sequence[tuple[str, list[dict[str, Any]]]], connections: int) -> None:
    """POST batches of (table, points) over so many connections."""

    def post(batch: tuple[str, list[dict[str, Any]]]) -> None:
        if not hasattr(_local, "session"):
            _local.session = requests.Session()
        table, points = batch
        answer = _local.session.post(
            f"{url}/v2/client/12/table/{table}/data?apikey=goodkey",
            data=_encode(points),
            headers={"Content-Type": "application/json"},
        )
        answer.raise_for_status()

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(post, batches))
