"""The console by keyboard alone: everything is reached in reading order, one sees where one is, and acts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import introduced
from tests.browser.places import Place, places
from tests.browser.stage import Stage, stage, trouble

pytestmark = pytest.mark.browser
_MOST = 250
#: What can be reached by Tab, in the order of the page.
_WAITING = """() => [...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]')]
  .filter(e => !e.disabled && e.checkVisibility({visibilityProperty: true}))
  .map((e, n) => { e.stop = n; return n; })"""
#: Where the focus is: its place in that order, and what a person cannot see of it.
_AT = """() => { const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (e.stop === undefined) return null;
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const seen = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [e.stop, (ring ? "" : "no ring ") + (seen ? "" : "out of sight ") +
    (ring && seen ? "" : e.outerHTML.slice(0, 80))]; }"""


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as made:
        trouble(made)
        yield made


@pytest.fixture(scope="module")
def cookies(chromium: Browser, on: Stage) -> Any:
    return introduced(chromium, on)


def test_tab_reaches_everything_in_reading_order_and_one_sees_where_one_is(on, cookies, meet):
    person = meet(on, cookies)
    wrong: dict[str, list[str]] = {}
    for place in [*places(person.page), Place("missing", "/console/welcome?token=x")]:
        place.go(person.page)
        stops, at = person.page.evaluate(_WAITING), []
        while len(at) < min(len(stops), _MOST):
            person.page.keyboard.press("Tab")
            at.append(person.page.evaluate(_AT) or [-1, "lost"])
        wrong[place.name] = [said for _, said in at if said]
        if [stop for stop, _ in at] != stops[:_MOST]:
            wrong[place.name].append(f"order: {[stop for stop, _ in at]}")
    assert {name: said for name, said in wrong.items() if said} == {}


def test_the_first_stop_skips_the_navigation(on, cookies, meet):
    page = meet(on, cookies).open("failures/")
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to content")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_a_destination_is_paused_without_a_mouse(on, cookies, meet):
    person = meet(on, cookies)
    page = person.open()
    _tab_to(page, "Destinations")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Destinations", level=1).wait_for()
    _tab_to(page, "Pause")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Pause ", level=1).wait_for()
    _tab_to(page, "Pause")
    page.keyboard.press("Shift+Tab")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_contain_text("is paused")
    assert "by keyboard" in person.says()


def _tab_to(page: Any, name: str) -> None:
    for _ in range(_MOST):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == name:
            return
    raise AssertionError(f"{name} is not reached")
