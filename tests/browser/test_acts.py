"""What is done in the console: each act asks once, is done, and says so, with a script and without one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from relay.buffer import keys
from relay.buffer.refused import Accounts
from relay.buffer.registry import Registry
from tests.browser.conftest import introduced
from tests.browser.people import PHONE, Person
from tests.browser.stage import Stage, refuses_thirteen, stage, thing
from tests.oracle.machine import eventually

pytestmark = pytest.mark.browser
numbers = itertools.count(1000)


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="module")
def cookies(chromium: Browser, on: Stage) -> Any:
    return introduced(chromium, on)


@pytest.fixture(params=["with a script", "on a phone without a script"])
def me(request: pytest.FixtureRequest, on: Stage, cookies: Any, meet: Any) -> Person:
    if request.param == "with a script":
        return meet(on, cookies)
    return meet(on, cookies, viewport=PHONE, java_script_enabled=False)


@pytest.fixture
def scripted(on: Stage, cookies: Any, meet: Any) -> Person:
    return meet(on, cookies)


def ledger_of(on: Stage, state: str) -> int:
    """Events of `erp` in a state."""
    return int(on.redis.hget("rh:ledger", f"e|erp|{state}") or 0)


def cause(page: Page, reason: str) -> Any:
    """The card of a cause."""
    return page.get_by_role("main").get_by_role("listitem").filter(has_text=reason)


# --- failures ----------------------------------------------------------------------------------------------


def test_failures_of_a_cause_are_discarded_together_after_one_question_with_their_count(me, on):
    for _ in range(3):
        on.post(f"not json {next(numbers)}".encode())
    page, before = me.open("failures/"), ledger_of(on, "discarded")
    me.follow(cause(page, "not_json").get_by_role("button", name="Discard 3"))
    assert "3" in page.get_by_role("heading", level=1).inner_text()
    assert ledger_of(on, "discarded") == before, "it was only asked"
    me.follow(page.get_by_role("main").get_by_role("link", name="No, go back"))
    assert ledger_of(on, "discarded") == before
    me.follow(cause(page, "not_json").get_by_role("button", name="Discard 3"))
    on.post(f"not json {next(numbers)}".encode())
    me.press(re.compile("iscard|Give up"))
    expect(page.get_by_role("status")).to_contain_text("3 failures given up.")
    assert ledger_of(on, "discarded") == before + 3, "what came after the count was shown is kept"
    me.follow(cause(page, "not_json").get_by_role("button", name="Discard 1"))
    me.press(re.compile("iscard|Give up"))
    expect(cause(page, "not_json")).to_have_count(0)


def test_rows_that_a_destination_refused_are_retried_together_once_it_takes_them(me, on):
    ids = [int(f"13{next(numbers)}") for _ in range(4)]
    buried = on.records("mbi")["dead"]
    for id_ in ids:
        on.post(thing(id_, name="refused for a while"))
    eventually(lambda: on.records("mbi")["dead"] == buried + 4, "they are refused")
    page = me.open("failures/")
    me.follow(cause(page, "refused for a while").get_by_role("link").first)
    assert "refused for a while" in me.says()
    me.follow(page.get_by_role("main").get_by_role("button", name=re.compile("^Retry 4")))
    on.imports.objects_to = lambda _point: None
    me.press(re.compile("etry|Send"))
    expect(page.get_by_role("status")).to_contain_text("4 failures sent again.")
    stored = eventually(lambda: on.settled("mbi") and on.imports.rows("erp_things"), "they are stored")
    on.imports.objects_to = refuses_thirteen
    assert {str(id_) for id_ in ids} <= {str(row["id"]) for row in stored}
    assert on.records("mbi")["dead"] == buried


# --- destinations, keys ------------------------------------------------------------------------------------


def test_a_destination_is_paused_with_a_reason_and_resumed(me, on):
    page = me.open("destinations/")
    card = page.get_by_role("region", name="warehouse")
    me.follow(card.get_by_role("button", name="Pause"))
    assert "Pause warehouse?" in me.says()
    page.get_by_label("Why").fill("the new disk")
    me.press("Pause")
    expect(page.get_by_role("status")).to_contain_text("warehouse is paused")
    lane = keys.lane("warehouse/0/1")
    eventually(lambda: not on.redis.hget(lane, "holder"), "the drain that ran has ended")
    assert on.post(thing(next(numbers)))[0] == 202
    page.reload()
    expect(card).to_contain_text("the new disk")
    stored = on.records("warehouse")["stored"]
    me.follow(card.get_by_role("button", name="Resume"))
    me.press("Resume")
    expect(page.get_by_role("status")).to_contain_text("warehouse goes on.")
    eventually(lambda: on.records("warehouse")["stored"] > stored, "what waited is stored")


def test_a_key_is_shown_once_and_revoked_after_one_question(me, on):
    page = me.open("keys/")
    page.get_by_label("Kind").select_option("export")
    page.get_by_label("Client id").fill("12")
    page.get_by_label("Name, for people").fill("the dashboards")
    me.press("Make the key")
    made = page.locator("#key").inner_text()
    registry = Registry(on.buffer)
    found = registry.find(made)
    assert found is not None
    page.goto("/console/keys/")
    assert made not in page.content()
    me.follow(page.get_by_role("button", name=f"Revoke {found.short}"))
    assert f"Revoke {found.short}?" in me.says()
    assert registry.find(made) is not None
    me.press("Revoke")
    expect(page.get_by_role("status")).to_contain_text(f"Key {found.short} opens nothing any more.")
    assert registry.find(made) is None


def test_a_key_that_cannot_be_is_explained_and_what_was_typed_is_kept(me, on):
    page = me.open("keys/")
    page.get_by_label("Kind").select_option("export")
    page.get_by_label("Client id").fill("12")
    page.get_by_label("Name, for people").fill("home")
    page.get_by_label("Only from these networks").fill("my house")
    me.press("Make the key")
    expect(page.get_by_role("alert")).to_contain_text("is not an address or a network")
    expect(page.get_by_label("Name, for people")).to_have_value("home")


# --- looking -----------------------------------------------------------------------------------------------


def test_an_event_that_failed_is_found_by_its_delivery_id_and_opened(me, on):
    id_ = next(numbers)
    taken = on.post({"type": "thing.saved", "name": "no id"}, **{"X-Delivery": f"d-{id_}"})[1]["id"]
    page = me.open("events/")
    page.get_by_label("Event or delivery id").fill(f"d-{id_}")
    me.press("Search")
    me.follow(page.get_by_role("link", name=taken))
    assert "thing.saved of erp" in me.says()
    assert '"name": "no id"' in me.says()


def test_an_event_that_was_delivered_is_found_in_the_archive(me, on):
    id_ = next(numbers)
    taken = on.post(thing(id_), **{"X-Delivery": f"d-{id_}"})[1]["id"]
    eventually(lambda: not on.waiting(), "it is delivered and archived")
    page = me.open("events/")
    page.get_by_label("Look in").select_option("archive")
    page.get_by_label("Event or delivery id").fill(f"d-{id_}")
    me.press("Search")
    me.follow(page.get_by_role("link", name=taken))
    assert "Rows that it became" in me.says()
    assert '"a thing"' in me.says()


def test_the_overview_shows_what_comes_without_being_loaded_again(scripted, on):
    page = scripted.open()
    loaded = page.evaluate("performance.timeOrigin")
    before = page.locator(".flow b").first.inner_text()
    on.post(thing(next(numbers)))
    expect(page.locator(".flow b").first).not_to_have_text(before, timeout=30_000)
    assert page.evaluate("performance.timeOrigin") == loaded


def test_what_somebody_is_just_using_is_not_taken_from_under_their_hands(scripted, on):
    page = scripted.open("destinations/")
    button = page.get_by_role("region", name="warehouse").get_by_role("button", name="Pause")
    button.focus()
    page.wait_for_timeout(6_000)  # longer than the parts are left alone
    expect(button).to_be_focused()


def test_an_address_is_copied_with_one_click(scripted, on):
    scripted.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=on.url)
    page = scripted.open("sources/erp")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"{on.url}/hooks/erp"


def test_refused_signatures_are_shown_with_what_the_doctor_found(me, on):
    assert on.send("shop", secret="not the secret") == 401
    eventually(
        lambda: "shop" in (found := Accounts(on.buffer).every()) and found["shop"].findings, "it is looked at"
    )
    page = me.open("sources/")
    me.follow(page.get_by_role("link", name="shop", exact=True))
    assert "answered 401" in me.says()
    assert "signing secret" in me.says()
