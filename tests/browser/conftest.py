"""One Chromium a session; a person in it, who is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.chromium import FLAGS, MISSING, find
from tests.browser.people import Person
from tests.browser.stage import PASSWORD, Stage

Meet = Callable[..., Person]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser, without a window."""
    path = find()
    if path is None:
        pytest.exit(MISSING, 1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        yield browser
        browser.close()


def introduced(chromium: Browser, on: Stage) -> Any:
    """The cookies of `admin`, who has just set a password and logged in."""
    admin = Person(chromium, on.url)
    admin.welcome(on.invitation(), PASSWORD)
    admin.log_in("admin", PASSWORD)
    cookies = admin.cookies()
    admin.close()
    return cookies


@pytest.fixture
def meet(chromium: Browser) -> Iterator[Meet]:
    """Makes people; at the end none of them may have seen anything go wrong."""
    met: list[Person] = []

    def make(on: Stage, cookies: Any = None, **options: Any) -> Person:
        met.append(Person(chromium, on.url, cookies, **options))
        return met[-1]

    yield make
    for person in met:
        person.close()
