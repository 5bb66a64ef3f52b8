"""Every page, by desk and phone, light and dark, without a script: readable for all, whole, quiet."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import introduced
from tests.browser.looking import PICTURES, cut, picture, violations
from tests.browser.people import DESKTOP, PHONE, Person
from tests.browser.places import Place, places
from tests.browser.stage import Stage, stage, trouble

pytestmark = pytest.mark.browser
MODES = [f"{size}.{scheme}" for size in ("desktop", "phone") for scheme in ("light", "dark")]
Found = dict[str, list[str]]


@dataclass
class Looked:
    """What was seen in one mode, by page."""

    names: list[str] = field(default_factory=list)
    broken_rules: Found = field(default_factory=dict)
    cut: Found = field(default_factory=dict)
    noise: Found = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    """A relay with failures of each kind."""
    with stage() as made:
        trouble(made)
        yield made


@pytest.fixture(scope="module")
def cookies(chromium: Browser, on: Stage) -> Any:
    return introduced(chromium, on)


@pytest.fixture(scope="module")
def everywhere(chromium: Browser, on: Stage, cookies: Any) -> list[Place]:
    """All pages, and those for whom nobody is logged in."""
    person = Person(chromium, on.url, cookies)
    found = places(person.page)
    person.close()
    return found


@pytest.fixture(scope="module", params=MODES)
def looked(request: pytest.FixtureRequest, chromium: Browser, on: Stage, cookies: Any, everywhere: Any) -> Looked:
    """A look at each page in one mode, a picture of it kept."""
    size, _, scheme = request.param.partition(".")
    if request.param == MODES[0]:
        shutil.rmtree(PICTURES, ignore_errors=True)
    seen = Looked()
    options = {"viewport": PHONE if size == "phone" else DESKTOP, "color_scheme": scheme}
    outside = [Place("login", "/console/login"), Place("welcome", "/console/welcome?token=x")]
    for state, there in ((cookies, everywhere), (None, outside)):
        person = Person(chromium, on.url, state, **options)
        for place in there:
            _look(person, place, request.param, seen)
        person.close()
    return seen


def _look(person: Person, place: Place, mode: str, seen: Looked) -> None:
    answer = place.go(person.page)
    seen.names.append(place.name)
    seen.statuses[place.name] = answer.status if answer else 0
    picture(person.page, place.name, mode)
    for found, kept in ((violations(person.page), seen.broken_rules), (cut(person.page), seen.cut)):
        if found:
            kept[place.name] = found
    if person.watch.problems:
        seen.noise[place.name] = [*person.watch.problems]
        person.watch.problems.clear()


def test_the_pages_are_found_by_their_links(everywhere):
    names = {place.name for place in everywhere}
    known = {
        "overview", "sources", "sources-shop", "failures", "failures-group", "failures-one", "failures-act-retry",
        "failures-act-discard", "destinations", "events", "events-archive", "tables", "keys", "keys-sent",
        "keys-revoke", "audit", "nowhere",
    }  # fmt: skip
    assert known <= names, sorted(names)
    assert {name for name in names if name.endswith("-pause")}


def test_every_page_meets_wcag_aa(looked):
    assert looked.broken_rules == {}


def test_nothing_is_cut_off_and_no_page_scrolls_sideways(looked):
    assert looked.cut == {}


def test_no_page_breaks_its_own_policy_or_asks_anything_of_others(looked):
    assert looked.noise == {}


def test_no_page_is_an_error_of_ours(looked):
    assert {name: status for name, status in looked.statuses.items() if not 200 <= status < 500} == {}
    assert [name for name, status in looked.statuses.items() if status == 200 and name == "overview"]


def test_every_page_says_the_same_without_a_script(on, cookies, everywhere, meet):
    with_, without = meet(on, cookies), meet(on, cookies, java_script_enabled=False)
    heads: defaultdict[str, list[str]] = defaultdict(list)
    for place in everywhere:
        for person in (with_, without):
            place.go(person.page)
            heads[place.name].append("\n".join(person.page.locator("h1, h2, nav a").all_inner_texts()))
            assert person.says().strip()
    assert {name: said for name, said in heads.items() if said[0] != said[1]} == {}


def test_what_is_wrong_with_a_page_is_seen(on, chromium):
    person = Person(chromium, on.url)
    page = person.open("login")
    assert (violations(page), cut(page)) == ([], [])
    page.locator("h1").evaluate("e => { e.style.color = '#eee'; e.style.background = '#fff' }")
    assert "color-contrast" in str(violations(page))
    page.locator("form").evaluate("e => { e.style.width = '2000px' }")
    assert "outside: <" in str(cut(page))
    page.locator("form").evaluate("e => { e.style.width = '' }")
    page.locator("h1").evaluate("e => { e.style.cssText = 'width: 20px; overflow: hidden; white-space: nowrap' }")
    assert "cut: <h1" in str(cut(page))
    with page.expect_console_message(lambda said: "Content Security Policy" in said.text):
        page.locator("h1").evaluate("e => { e.innerHTML = '<img src=x onerror=alert(1)>' }")
    assert "Content Security Policy" in str(person.watch.problems)
    person.watch.problems.clear()
    person.close()


def test_a_light_and_a_dark_page_differ(on, meet):
    grounds = [
        meet(on, color_scheme=scheme).open("login").locator("html").evaluate("e => getComputedStyle(e).background")
        for scheme in ("light", "dark")
    ]
    assert grounds[0] != grounds[1]
