"""A person at a browser: a context of Chromium, and a watch over what goes wrong in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Locator,
    Page,
    Request,
    ViewportSize,
)

DESKTOP: Final = ViewportSize(width=1280, height=800)
PHONE: Final = ViewportSize(width=390, height=844)
#: A page that says 4xx is a page; Chromium notes it as an error all the same.
_ANSWERED: Final = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")


@dataclass
class Watch:
    """What no page of the console may do: each breach is a sentence."""

    origin: str
    problems: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        """Watch every page of a context."""
        context.on("console", self._console)
        context.on("dialog", self._dialog)
        context.on("weberror", lambda error: self._note(f"a script failed: {error.error}"))
        context.on("request", self._request)

    def _note(self, what: str) -> None:
        self.problems.append(what)

    def _console(self, message: ConsoleMessage) -> None:
        # Also what the policy has kept from running is said here.
        if message.type in {"error", "warning"} and not _ANSWERED.match(message.text):
            self._note(f"{message.location.get('url')}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self._note(f"a dialog opened: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        at = urlsplit(request.url)
        if at.scheme != "data" and f"{at.scheme}://{at.netloc}" != self.origin:
            self._note(f"something was asked of {request.url}")


class Person:
    """One browser of one person, at one relay.

    Args:
        browser: Chromium. url: the relay's. state: the cookies of somebody who has logged in, or None.
        options: of the context: `viewport`, `color_scheme`, `java_script_enabled`, …
    """

    def __init__(self, browser: Browser, url: str, state: Any = None, **options: Any) -> None:
        self.url, self.watch = url, Watch(url)
        options.setdefault("viewport", DESKTOP)
        self.context = browser.new_context(base_url=url, storage_state=state, reduced_motion="reduce", **options)
        self.context.set_default_timeout(15_000)
        self.context.set_default_navigation_timeout(60_000)
        self.watch.over(self.context)
        self.page: Page = self.context.new_page()

    def open(self, path: str = "") -> Page:
        """Go to a page of the console."""
        self.page.goto(f"/console/{path}")
        return self.page

    def welcome(self, link: str, password: str) -> None:
        """Set a password at a one-time link."""
        self.page.goto(link)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_label("Once more").fill(password)
        self.follow(self.page.get_by_role("button", name="Set the password"))

    def log_in(self, name: str, password: str) -> None:
        """Fill in the form of the login."""
        self.open("login")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.follow(self.page.get_by_role("button", name="Log in"))

    def log_out(self) -> None:
        """Press the button that each page has."""
        self.follow(self.page.get_by_role("button", name="Log out"))

    def press(self, name: str | re.Pattern[str]) -> None:
        """Press the button of a form in the page's main part."""
        self.follow(self.page.get_by_role("main").get_by_role("button", name=name, exact=True))

    def follow(self, way: Locator) -> None:
        """Click on a button of a form, or a link, and wait until the page that it leads to is there.

        Without it, what is done next may meet the browser between two pages.
        """
        with self.page.expect_navigation():
            way.click()

    def says(self) -> str:
        """The main part's words."""
        return self.page.get_by_role("main").inner_text()

    def cookies(self) -> Any:
        """What another context needs to be this person."""
        return self.context.storage_state()

    def close(self) -> None:
        """Close the browser, and fail where anything went wrong in it."""
        try:
            self.context.close()
        except Error as error:
            self.watch.problems.append(str(error))
        assert self.watch.problems == []
