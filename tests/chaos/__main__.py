"""`python -m tests.chaos [FAULT…]`: strike, and write docs/explanation/guarantees.md."""

from __future__ import annotations

import argparse
import sys

from tests.chaos import page
from tests.chaos.database import Server
from tests.chaos.faults import FAULTS
from tests.chaos.running import Result, run
from tests.chaos.worlds import Kernel


def main() -> int:
    """Run the faults that are named, or all; 1 where a promise was broken, or a named one cannot be run."""
    asked = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    asked.add_argument("faults", nargs="*", metavar="FAULT", help=f"of: {', '.join(FAULTS)}; default: all")
    asked.add_argument("--strikes", type=int, default=20)
    asked.add_argument("--events", type=int, default=5000)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--dry", action="store_true", help="write nothing")
    asked.add_argument("--page", action="store_true", help="only write the page from the last results")
    given = asked.parse_args()
    if unknown := [name for name in given.faults if name not in FAULTS]:
        asked.error(f"there is no fault {unknown[0]}")
    if given.page:
        page.write(page.results())
        return 0
    broken, unrun = [], []
    with Server() as server:
        for name in given.faults or FAULTS:
            if missing := FAULTS[name].missing():
                sys.stderr.write(f"{name} was not run: it needs {missing}\n")
                unrun.append(name)
                continue
            if FAULTS[name].own == "kernel" and not Kernel.inside():
                result = _within(name, given)
            else:
                result = run(server, name, [name], strikes=given.strikes, events=given.events, seed=given.seed)
            sys.stdout.write(page.line(result) + "\n")
            sys.stdout.flush()
            if not given.dry:
                page.keep(result)
            if not result.holds:
                broken.append(name)
    if broken:
        sys.stderr.write(f"broken: {', '.join(broken)}\n")
    return 1 if broken or (given.faults and unrun) else 0


def _within(name: str, given: argparse.Namespace) -> Result:
    """Run a fault in a kernel of its own."""
    sizes = (f"--{one}={getattr(given, one)}" for one in ("strikes", "events", "seed"))
    return page.read(Kernel.python("-m", "tests.chaos", name, "--dry", *sizes))


if __name__ == "__main__":
    sys.exit(main())
