"""`python -m bench.api MS`: the tests' Import API in a process of its own, answering after so many milliseconds.

Prints its URL; then, for each line it is given, how many rows each table has, as JSON.
"""

from __future__ import annotations

import json
import sys

from tests.servers.import_server import ImportServer


def main() -> None:
    with ImportServer() as server:
        server.latency_s = int(sys.argv[1]) / 1000
        print(server.url, flush=True)
        for _ in sys.stdin:
            print(json.dumps({name: len(rows) for name, rows in server.tables.items()}), flush=True)


if __name__ == "__main__":
    main()
