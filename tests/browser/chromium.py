"""Which Chromium the tests drive: `CHROMIUM`, else the system's. Standard library only, for `make`.

Usage: python3 -m tests.browser.chromium
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
MISSING: Final = (
    "rowhook: there is no Chromium for the tests of the console: on Debian, apt-get install chromium, "
    "or name one in CHROMIUM."
)
#: It runs for root and in a container, and asks for nothing but the relay's pages.
FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def find() -> str | None:
    """The path of a Chromium, or None; a `CHROMIUM` that is not there is no other one."""
    asked = os.environ.get("CHROMIUM")
    return next((path for name in ([asked] if asked else _NAMES) if (path := shutil.which(name))), None)


if __name__ == "__main__":
    if find() is None:
        sys.exit(MISSING)
