"""stitchclient. Arguments: URL, client id, key, most bytes of a body; messages as JSON lines on stdin."""

import collections
import collections.abc
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal

# The transit that it brings along was written for Python before 3.10.
for name in ("Mapping", "Hashable", "MutableMapping"):
    setattr(collections, name, getattr(collections.abc, name))

from stitchclient.client import Client  # noqa: E402

url, number, key, most = sys.argv[1:]
done: list = []
try:
    with Client(
        int(number), key, callback_function=done.extend, override_stitch_url=url, max_batch_size_bytes=int(most)
    ) as client:
        for at, line in enumerate(sys.stdin):
            message = json.loads(line)
            if message["data"].pop("typed", False):
                message["data"].update(
                    exact=Decimal("19.990"), big=2**60, at=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
                )
            client.push(message, at)
except RuntimeError as error:
    sys.stdout.write(json.dumps({"error": str(error)}))
    sys.exit(1)
sys.stdout.write(json.dumps({"done": done, "bodies": len(client.batch_stats)}))
