"""`python -m bench [NAME|all] [--quick]`: a table; exit 1 where a target is missed."""

from __future__ import annotations

import argparse
import importlib
import sys

from bench.report import Row, table

BENCHES = ("accept", "drain", "freshness")
#: `all` leaves out what needs a tool that not every machine has, and what takes minutes and has no target.
APART = ("fsync", "documents", "imports", "growth", "console")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios within one run on this machine.")
    parser.add_argument("bench", nargs="?", default="all", choices=(*BENCHES, *APART, "all"))
    parser.add_argument("--quick", action="store_true", help="smaller rounds; noisier figures")
    asked = parser.parse_args()
    rows: list[Row] = []
    for name in BENCHES if asked.bench == "all" else (asked.bench,):
        print(f"{name} …", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"bench.{name}").run(quick=asked.quick)
    print(table(rows))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
