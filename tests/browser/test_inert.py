"""Markup in all that others may write is text on every page: ids, types, keys, values, reasons, names, headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from relay.buffer.refused import Accounts
from tests.browser.conftest import introduced
from tests.browser.people import Person
from tests.browser.places import places
from tests.browser.stage import Stage, stage, thing
from tests.flow.test_console import plant_key
from tests.oracle.machine import eventually
from tests.servers.import_server import refuse

pytestmark = pytest.mark.browser
#: Ways out of text, an attribute, a text area, a script, and a template.
ATTACKS = [
    '<img data-xss src="x" onerror="alert(1)">',
    '"><svg data-xss onload=alert(1)>',
    "' autofocus data-xss=1 onfocus=alert(1) x='",
    "</textarea></pre></code></title><script data-xss>alert(1)</script>",
    '<a data-xss href="javascript:alert(1)">x</a>{{7*191}}${7*191}',
]
_INJECTED = '[data-xss], main script, main img, main svg[onload], [onerror], [onload], [href^="javascript:"]'


def poison(on: Stage) -> None:
    """Every attack in every field that somebody else fills in."""
    for n, attack in enumerate(ATTACKS):
        sent = {"X-Delivery": attack, "User-Agent": attack, "X-Request-Id": attack}
        on.post({"type": attack, "id": attack, "name": attack, "more": {attack: [attack]}, "at": n}, **sent)
        on.post({"type": attack, "name": attack}, **{**sent, "X-Delivery": f"a{attack}"})
        on.post(attack.encode(), **{**sent, "X-Delivery": f"b{attack}"})
        on.post(json.dumps(attack).encode(), **{**sent, "X-Delivery": f"c{attack}"})
        on.post({"id": attack}, key=attack, **sent)
        on.post(thing(f"13{attack}", name=attack, type=attack), **{**sent, "X-Delivery": f"d{attack}"})
        on.post(thing(n), source="crm", **sent)
        Accounts(on.buffer).note("erp", 1, attack, "secret", attack)
        plant_key(on.buffer, attack)
    on.command("pause", "lake", "--why", " ".join(ATTACKS))
    on.send("shop")
    eventually(lambda: on.records("mbi")["dead"] >= len(ATTACKS), "rows are refused in the attacker's words")


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as made:
        poison(made)
        yield made


@pytest.fixture(scope="module")
def cookies(chromium: Browser, on: Stage) -> Any:
    return introduced(chromium, on)


def look(person: Person) -> tuple[int, int]:
    """How many attacks a page shows as text, and how many became a part of it."""
    page = person.page
    assert "1337" not in page.get_by_role("main").inner_text(), page.url
    text = page.content()
    return text.count("data-xss"), page.locator(_INJECTED).count()


def test_no_page_makes_anything_of_markup_that_others_wrote(on, cookies, meet):
    person = meet(on, cookies)
    shown, injected = {}, {}
    for place in places(person.page, alike=12):
        place.go(person.page)
        shown[place.name], injected[place.name] = look(person)
    assert {name: count for name, count in injected.items() if count} == {}
    loud = {name.rstrip("-0123456789") for name, count in shown.items() if count}
    expected = {
        "overview", "sources-erp", "failures", "failures-group", "failures-one", "destinations", "events",
        "events-archive", "keys",
    }  # fmt: skip
    assert expected - loud == set(), "what was written stands there, as text"


def test_the_parts_that_are_freshened_by_the_script_stay_text(on, cookies, meet):
    person = meet(on, cookies)
    for path in ("", "destinations/"):
        page = person.open(path)
        with page.expect_response(lambda answer: answer.request.resource_type == "fetch", timeout=20_000):
            pass
        page.wait_for_timeout(300)
        shown, injected = look(person)
        assert shown
        assert injected == 0


def test_what_is_searched_for_and_typed_comes_back_as_text(on, cookies, meet):
    person = meet(on, cookies)
    for attack in ATTACKS:
        page = person.open("events/")
        page.get_by_label("Event or delivery id").fill(attack)
        page.get_by_label("Type").fill(attack)
        person.press("Search")
        assert look(person)[1] == 0
        page = person.open("keys/")
        for label in ("Name, for people", "Only these tables", "Only from these networks"):
            page.get_by_label(label).fill(attack)
        person.press("Make the key")
        assert look(person)[1] == 0
        page.goto(f"/console/{attack}")
        assert look(person)[1] == 0
    outside = meet(on)
    for attack in ATTACKS[:3]:
        outside.log_in(attack, attack)
        assert look(outside)[1] == 0


def test_a_page_that_a_destination_answers_with_is_text(on, cookies, meet):
    person = meet(on, cookies)
    on.imports.choose = lambda _post: refuse(400, body="".join(ATTACKS).encode())
    on.post(thing(991))
    eventually(
        lambda: on.redis.hget("rh:destination:mbi", "failures") or not on.waiting("mbi/*"), "it has answered"
    )
    for path in ("", "destinations/", "failures/"):
        person.open(path)
        assert look(person)[1] == 0
