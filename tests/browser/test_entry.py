"""Who gets in, tried with a real browser: one-time links, a stolen session, another site, too many tries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import introduced
from tests.browser.people import Person
from tests.browser.stage import PASSWORD, Stage, stage

pytestmark = pytest.mark.browser
Serve = Callable[[str], str]


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="module")
def cookies(chromium: Browser, on: Stage) -> Any:
    return introduced(chromium, on)


@pytest.fixture
def elsewhere() -> Iterator[Serve]:
    """Another site on this machine, of one page."""

    class Handler(BaseHTTPRequestHandler):
        page = b""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(self.page)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()

    def serve(page: str) -> str:
        Handler.page = page.encode()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield serve
    server.shutdown()
    server.server_close()
    thread.join()


def invited(on: Stage, name: str) -> str:
    """A new link, as `relay admin add` prints it."""
    said = on.command("admin", "add", name).stdout
    return said[said.index("/console/welcome") :].split()[0]


def paused(on: Stage) -> bool:
    return bool(on.redis.hexists("rh:destination:warehouse", "paused"))


@pytest.mark.parametrize("script", [True, False])
def test_a_link_is_good_once_then_the_password_opens_the_console(on, cookies, meet, script):
    name = f"ada{script}"
    link, ada = invited(on, name), meet(on, java_script_enabled=script)
    ada.page.goto(link)
    ada.page.reload()  # looking does not use it up
    ada.welcome(link, PASSWORD)
    expect(ada.page.get_by_role("status")).to_contain_text("The password is set")
    ada.page.goto(link)
    assert "This link opens nothing" in ada.says()
    ada.log_in(name, PASSWORD)
    expect(ada.page.get_by_role("heading", name="Overview")).to_be_visible()
    ada.log_out()
    expect(ada.page.get_by_role("heading", name="Log in")).to_be_visible()
    ada.open("events/")
    assert ada.page.url.endswith("/console/login")


def test_after_the_logout_nothing_is_left_to_go_back_to(on, cookies, meet):
    link, eve = invited(on, "eve"), meet(on)
    eve.welcome(link, PASSWORD)
    eve.log_in("eve", PASSWORD)
    eve.open("keys/")
    eve.log_out()
    eve.page.go_back()
    expect(eve.page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_stolen_session_is_worth_nothing_once_its_owner_has_logged_out(on, cookies, meet):
    link, owner = invited(on, "owner"), meet(on)
    owner.welcome(link, PASSWORD)
    owner.log_in("owner", PASSWORD)
    thief = meet(on, owner.cookies())
    thief.open()
    expect(thief.page.get_by_role("heading", name="Overview")).to_be_visible()
    owner.log_out()
    expect(owner.page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(thief.page.get_by_role("heading", name="Log in")).to_be_visible(timeout=20_000)
    for path in ("", "events/", "keys/", "failures/"):
        thief.open(path)
        assert thief.page.url.endswith("/console/login"), path


def test_no_script_can_read_the_session(on, cookies, meet):
    person = meet(on, cookies)
    assert person.open().evaluate("document.cookie") == ""


@pytest.mark.parametrize("with_token", [False, True])
def test_a_form_of_another_site_does_nothing_even_with_the_token(on, cookies, meet, elsewhere, with_token):
    victim = meet(on, cookies)
    token = victim.open("destinations/").locator('main input[name="form_token"]').first.get_attribute("value")
    form = (
        f'<form method="post" action="{on.url}/console/destinations/warehouse"><input name="act" value="pause">'
        f'<input name="sure" value="yes"><input name="form_token" value="{token if with_token else ""}">'
        "<button>You have won</button></form>"
    )
    victim.page.goto(elsewhere(form))
    with victim.page.expect_navigation() as after:
        victim.page.get_by_role("button").click()
    assert after.value.status == 403
    assert not paused(on)
    victim.watch.problems.clear()  # the other site's page was the point


def test_a_script_of_another_site_can_neither_read_nor_act_nor_frame(on, cookies, meet, elsewhere):
    victim = meet(on, cookies)
    victim.page.goto(elsewhere(f'<h1>hello</h1><iframe src="{on.url}/console/"></iframe>'))
    said = victim.page.evaluate(
        """async url => {
            const tries = [fetch(url + "/console/keys/", {credentials: "include"}).then(a => a.text()),
                fetch(url + "/console/destinations/warehouse", {method: "POST", credentials: "include",
                    mode: "no-cors", body: new URLSearchParams({act: "pause", sure: "yes"})}).then(a => a.type)];
            return (await Promise.allSettled(tries)).map(done => done.value || "refused");
        }""",
        on.url,
    )
    assert said in (["refused", "opaque"], ["refused", "refused"])
    assert not paused(on)
    assert "Overview" not in victim.page.frames[1].content()
    victim.watch.problems.clear()


def test_whoever_guesses_passwords_is_told_to_wait_and_the_right_one_does_not_help(on, cookies, meet):
    link, guesser = invited(on, "mallory"), meet(on)
    guesser.welcome(link, PASSWORD)
    for _ in range(5):
        guesser.log_in("mallory", "a wrong password")
        expect(guesser.page.get_by_role("alert")).to_contain_text("The name or the password is wrong.")
    guesser.log_in("mallory", PASSWORD)
    expect(guesser.page.get_by_role("alert")).to_contain_text("Too many attempts")
    assert "Try again in" in guesser.says()
    guesser.open()
    assert guesser.page.url.endswith("/console/login")


def test_a_person_who_is_removed_is_out_at_once(on, cookies, meet):
    link, gone = invited(on, "gone"), meet(on)
    gone.welcome(link, PASSWORD)
    gone.log_in("gone", PASSWORD)
    on.command("admin", "remove", "gone")
    gone.open("keys/")
    assert gone.page.url.endswith("/console/login")


def test_whoever_has_no_password_yet_is_told_where_the_link_is(chromium):
    with stage() as fresh:
        person = Person(chromium, fresh.url)
        person.open()
        assert "relay admin add" in person.says()
        person.close()
