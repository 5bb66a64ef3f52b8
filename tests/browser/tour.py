# ruff: noqa: T201 - a script that says what it found
"""Feeds a relay with a mixed load and takes pictures of its console; then sets its metrics beside its ledger.

Usage: python -m tests.browser.tour [--minutes 10] [--out FOLDER] [--image docs/images/console.webp]
"""

from __future__ import annotations

import argparse
import base64
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

from relay.buffer import ledger
from tests.browser.chromium import FLAGS, MISSING, find
from tests.browser.conftest import introduced
from tests.browser.load import Load, settings
from tests.browser.looking import PICTURES, picture
from tests.browser.people import DESKTOP, PHONE, Person
from tests.browser.places import places
from tests.browser.stage import Stage
from tests.flow.test_metrics import Samples, agrees, parsed
from tests.oracle.machine import eventually
from tests.servers.import_server import ImportServer

#: Of the picture in the README.
_MOST_BYTES: Final = 200_000
_SUMS: Final = {"accepted": "rowhook_events_accepted_total", "emitted": "rowhook_records_emitted_total"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=PICTURES / "tour")
    parser.add_argument("--image", type=Path, help="also write the overview as a small WebP, for the README")
    return parser.parse_args()


def _pictures(chromium: Browser, on: Stage, cookies: object, folder: Path) -> int:
    """One of each page, by desk and phone, light and dark; returns how many."""
    finder = Person(chromium, on.url, cookies)
    there = places(finder.page)
    finder.close()
    for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            person = Person(chromium, on.url, cookies, viewport=viewport, color_scheme=scheme)
            for place in there:
                place.go(person.page)
                picture(person.page, place.name, f"{size}.{scheme}", folder)
            person.close()
    return 4 * len(there)


def _image(page: Page, to: Path) -> int:
    """The first window of the overview; returns its bytes."""
    page.goto("/console/")
    shot = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": 82})
    raw = base64.b64decode(shot["data"])
    if len(raw) > _MOST_BYTES:
        raise SystemExit(f"{to} would have {len(raw)} bytes, and may have {_MOST_BYTES}")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(raw)
    return len(raw)


def _shown(on: Stage) -> Samples:
    with urllib.request.urlopen(f"{on.url}/metrics", timeout=20) as answer:
        return parsed(answer.read().decode())


def _compare(on: Stage) -> bool:
    """Print the sums of /metrics beside the ledger's; True where every account is the same."""
    same = eventually(lambda: agrees(_shown(on), on.buffer), "a scrape and the ledger are of one moment", 60)
    shown, truth = _shown(on), ledger.read(on.buffer)
    told: Counter[str] = Counter()
    for states in [*truth.events.values(), *truth.records.values()]:
        told.update(states)
    scraped = Counter({word: int(sum(shown[name].values())) for word, name in _SUMS.items()})
    for name in ("rowhook_events", "rowhook_records"):
        for labels, n in shown[name].items():
            scraped[dict(labels)["state"]] += int(n)
    print(f"{'':14}{'/metrics':>10}{'ledger':>10}")
    for word in sorted(told | scraped):
        print(f"{word:14}{scraped[word]:10}{told[word]:10}")
    print(
        "residuals:", {dict(labels)["account"]: int(n) for labels, n in shown["rowhook_ledger_residual"].items()}
    )
    return bool(same) and not list(truth.residuals())


def main() -> int:
    """Feed, look, compare."""
    asked, path = _arguments(), find()
    if path is None:
        print(MISSING)
        return 1
    with ImportServer() as marts, ImportServer() as replica, sync_playwright() as playwright:
        on = Stage(marts, settings(marts, replica))
        chromium = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            cookies = introduced(chromium, on)
            load = Load(on, replica, asked.minutes * 60)
            print(
                f"{len(on.sources)} sources are fed for {asked.minutes:g} minutes: {on.url}/console/", flush=True
            )
            load.run()
            print("answers by status:", dict(sorted(load.statuses.items())))
            if asked.image:
                person = Person(chromium, on.url, cookies)
                print(f"{asked.image}: {_image(person.page, asked.image)} bytes")
                person.close()
            print(f"{_pictures(chromium, on, cookies, asked.out)} pictures in {asked.out}")
            web, workers = len(on.children("gunicorn")), int(on.redis.scard("rq:workers"))
            print(f"{web} gunicorn processes, {workers} RQ workers")
            return 0 if _compare(on) else 1
        finally:
            chromium.close()
            on.clean()


if __name__ == "__main__":
    sys.exit(main())
