# ruff: noqa: T201 - a script that says what it found
"""Feeds a relay with a mixed load and takes pictures of its console; then sets its metrics beside its ledger.

Usage: python -m tests.browser.tour [--minutes 10] [--out FOLDER] [--image docs/images/console.webp]
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
import urllib.request
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
from tests.flow.test_metrics import Samples, parsed
from tests.servers.import_server import ImportServer

#: Of the picture in the README.
_MOST_BYTES: Final = 200_000
#: Metrics of the ledger's accounts, and the state that each is of; without one a label says it.
_METRICS: Final = {
    "rowhook_events_accepted_total": "accepted", "rowhook_events": "",
    "rowhook_records_emitted_total": "emitted", "rowhook_records": "",
}  # fmt: skip
_LOOKS: Final = 40
#: Source, or source, destination and table; and a state.
Accounts = dict[tuple[tuple[str, ...], str], int]


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


def _scraped(shown: Samples) -> Accounts:
    """What /metrics says of events and records, by account; what is 0 is no account."""
    found: Accounts = {}
    for name, word in _METRICS.items():
        for labels, n in shown[name].items():
            of = dict(labels)
            who = tuple(of[label] for label in ("source", "destination", "table") if label in of)
            if n:
                found[who, word or of["state"]] = int(n)
    return found


def _told(on: Stage) -> Accounts:
    """The same of the ledger."""
    truth = ledger.read(on.buffer)
    accounts = [((source,), states) for source, states in truth.events.items()] + [*truth.records.items()]
    return {(who, state): n for who, states in accounts for state, n in states.items() if n}


def _compare(on: Stage) -> bool:
    """Print the sums of /metrics beside the ledger's; True where every account is the same, and balances."""
    for _ in range(_LOOKS):  # of one moment, though something is still being delivered
        before, shown = _told(on), _shown(on)
        scraped, told = _scraped(shown), _told(on)
        if before == told == scraped:
            break
        time.sleep(0.5)
    print(f"{'':24}{'/metrics':>10}{'ledger':>10}")
    for sort, depth in (("events", 1), ("records", 3)):
        for state in sorted({state for who, state in scraped | told if len(who) == depth}):
            sums = [sum(n for (w, s), n in of.items() if s == state and len(w) == depth) for of in (scraped, told)]
            print(f"{sort + ' ' + state:24}{sums[0]:10}{sums[1]:10}")
    rests = {dict(labels)["account"]: int(n) for labels, n in shown["rowhook_ledger_residual"].items()}
    differ = {account for account in scraped | told if scraped.get(account) != told.get(account)}
    print(f"{len(told)} accounts, {len(differ)} differ {sorted(differ)[:5]}; residuals: {rests}")
    return not differ and not any(rests.values())


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
