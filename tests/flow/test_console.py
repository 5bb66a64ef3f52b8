"""The console over a real Valkey: who gets in, what the pages say after real events, and what acts do."""

from __future__ import annotations

import html
import json
import logging
import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
import redis
import yaml

from relay.app import create_app
from relay.buffer import admins, keys, ledger
from relay.buffer.admins import Admins
from relay.buffer.failures import Failures
from relay.buffer.lanes import Lane, Settlement
from relay.buffer.refused import Accounts
from relay.buffer.registry import Registry, id_of
from relay.config import load

PASSWORD = "a long enough password"
XSS = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
TABLE = {"table": "things", "key": ["id"], "columns": {"id": "id", "name": "name"}, "version": "at"}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; connect-src 'self'"
)
PAGES = ["", "sources/", "failures/", "destinations/", "events/", "tables/", "keys/", "audit/", "acts/"]


class Browser:
    """A person at a relay with one `custom` source, `erp`, and one without a secret, `shop`."""

    def __init__(self, url: str, folder: Path, **settings):
        self.client = redis.Redis.from_url(url)
        self.folder, self.path = folder, folder / "relay.yaml"
        self.settings = {"redis_url": url, "linger_ms": 0, "archive_days": 0, **settings}
        self.users = Admins(self.client)
        self.start(TABLE)

    def start(self, table):
        erp = {
            "kind": "custom", "secrets": ["k"], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
            "id": 'headers."x-delivery"', "tables": [table], "to": "warehouse",
        }  # fmt: skip
        shop = {"kind": "shopify", "to": "warehouse"}
        self.path.write_text(yaml.safe_dump({**self.settings, "sources": {"erp": erp, "shop": shop}}))
        self.app = create_app(load(self.path, self.folder))
        self.web = self.app.test_client()

    def post_event(self, body, key="k", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body)
        sent = {"X-Key": key, "Content-Type": "application/json", **headers}
        return self.app.test_client().post("/hooks/erp", data=data, headers=sent)

    def log_in(self, name="ada", **headers):
        if name not in {admin.name for admin in self.users.every()}:
            self.users.accept(self.users.add(name), PASSWORD)
        answer = self.submit("/console/login", {"name": name, "password": PASSWORD}, "/console/login", **headers)
        assert answer.status_code == 303, answer.text
        return answer

    def get(self, path="", status=200, **headers):
        answer = self.web.get(f"/console/{path}", headers=headers)
        assert answer.status_code == status, answer.text
        return answer.text

    def submit(self, to, fields, page="/console/", **headers):
        """Send a form with the token that a page gave."""
        token = re.search(r'name="form_token" value="([^"]*)"', self.web.get(page).text)
        return self.web.post(to, data={"form_token": token[1] if token else "", **fields}, headers=headers)

    def confirm(self, to, fields):
        """Send a form, then the one that asks whether it is meant."""
        asked = self.submit(to, fields)
        assert asked.status_code == 200, asked.text
        form = asked.text[asked.text.index(f'action="{to}"') :]
        hidden = dict(
            re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[: form.index("</form>")])
        )
        return self.web.post(to, data={**fields, **hidden})

    def bury(self, reason, key='["1"]'):
        """Let the destination refuse what waits."""
        lane = Lane(self.client, "warehouse/0/1", "t")
        self.client.delete(keys.lane(lane.name))
        assert lane.begin()
        claimed = lane.claim(["erp"], most=99, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)
        letter = json.dumps(["erp", "erp_things", key, "0" * 57, reason, "destination"]).encode()
        arrivals = [c.arrival for c in claimed]
        counts = {"r|erp|warehouse|erp_things|dead": len(arrivals)}
        counts["r|erp|warehouse|erp_things|pending"] = -len(arrivals)
        lane.settle(Settlement({"erp": arrivals}, [], [(a, 0, letter) for a in arrivals], counts, {}))
        lane.finish(["erp"], 0)

    def facts(self):
        assert ledger.audit(self.client, deep=True) == []
        return ledger.read(self.client)


@pytest.fixture
def out(redis_url, tmp_path):
    """A browser that is not logged in."""
    return Browser(redis_url, tmp_path)


@pytest.fixture
def me(out):
    out.log_in()
    return out


def row(id_, **more):
    return {"type": "t", "id": id_, "name": "a", "at": "2026-01-01T00:00:00Z", **more}


class Tags(HTMLParser):
    """What a browser makes of a page: its tags and their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "script":
            assert dict(attrs)["src"] == "/console/static/console.js"

    def inert(self) -> bool:
        """Whether nothing in it runs but our own script."""
        ran = [a for a, v in self.attributes if a.startswith("on") or a == "style" or v.startswith("javascript:")]
        return not ran and not self.tags & {"img", "iframe", "object", "embed", "base", "style"}


def acts(caplog) -> list[dict]:
    """What was logged of acts."""
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [line for line in lines if line["event"] == "console_act"]


def text(page: str) -> str:
    """A page's words as a person reads them."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


# --- who gets in -------------------------------------------------------------------------------------------


def test_no_page_is_shown_without_a_session(out):
    out.post_event(row(1))
    for path in [*PAGES, "sources/erp", "failures/one?id=1", "events/1795258954163034", "nowhere"]:
        answer = out.web.get(f"/console/{path}")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/console/login"), path
        assert "erp" not in answer.text
        assert out.web.get(f"/console/{path}", headers={"X-Console-Part": "live"}).status_code == 403


def test_no_act_is_done_without_a_session(out):
    for path in ("failures/act", "destinations/warehouse", "keys/", "keys/revoke", "logout"):
        answer = out.submit(f"/console/{path}", {"act": "pause", "sure": "yes", "kind": "admin"}, "/console/login")
        assert answer.status_code == 403, path
    assert not out.client.exists(keys.API_KEYS, keys.destination("warehouse"))


def test_a_link_stays_good_where_there_is_no_room_to_set_the_password(out, monkeypatch):
    token = out.users.add("ada")
    page = f"/console/welcome?token={token}"
    fields = {"token": token, "password": PASSWORD, "again": PASSWORD}
    with monkeypatch.context() as patch:
        patch.setattr(admins, "_places", threading.BoundedSemaphore(1))
        with admins._places:
            busy = out.submit("/console/welcome", fields, page)
    assert (busy.status_code, "Too many log in at once" in busy.text) == (503, True)
    assert "The password is set" in out.submit("/console/welcome", fields, page).text


@pytest.mark.parametrize(("method", "path"), [("PUT", "keys/"), ("POST", "nowhere"), ("DELETE", "events/1")])
def test_what_no_page_takes_is_refused_with_the_consoles_own_headers(me, method, path):
    answer = me.web.open(f"/console/{path}", method=method)
    assert answer.status_code in {403, 404, 405}
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_page_without_a_live_part_is_given_whole(me):
    assert "<h1>" in me.get("keys/", **{"X-Console-Part": "live"})


def test_a_link_leads_to_a_password_and_the_password_to_the_overview(out):
    token = out.users.add("ada")
    page = f"/console/welcome?token={token}"
    assert "For ada" in text(out.web.get(page).text)
    differ = {"token": token, "password": PASSWORD, "again": "another"}
    assert "differ" in out.submit("/console/welcome", differ, page).text
    short = {"token": token, "password": "short", "again": "short"}
    assert "12 to 512 characters" in out.submit("/console/welcome", short, page).text
    same = {"token": token, "password": PASSWORD, "again": PASSWORD}
    assert "The password is set" in out.submit("/console/welcome", same, page).text
    assert out.web.get(page).status_code == 404
    assert out.submit("/console/welcome", same, "/console/login").status_code == 404
    out.log_in()
    assert "Overview" in out.get()


def test_the_session_cookie_cannot_be_read_by_scripts_or_sent_by_other_sites(out):
    answer = out.log_in()
    (cookie,) = [c for c in answer.headers.getlist("Set-Cookie") if c.startswith("rowhook_session=")]
    assert {"HttpOnly", "SameSite=Strict", "Path=/console"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert len(cookie.split(";")[0].partition("=")[2]) == 43, "256 bits"


@pytest.mark.parametrize(("proxies", "secure"), [(["127.0.0.1"], True), (["10.0.0.0/8"], False)])
def test_the_cookie_is_secure_where_a_trusted_proxy_says_https(redis_url, tmp_path, proxies, secure):
    answer = Browser(redis_url, tmp_path, trusted_proxies=proxies).log_in(**{"X-Forwarded-Proto": "https"})
    cookies = [c for c in answer.headers.getlist("Set-Cookie") if c.startswith("rowhook_session=")]
    assert ["Secure" in cookie for cookie in cookies] == [secure]


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(me):
    me.web = me.app.test_client()
    answers = [
        me.submit("/console/login", {"name": name, "password": "wrong password"}, "/console/login")
        for name in ("ada", "abc")
    ]
    pages = [re.sub(r'value="[^"]*"', "", answer.text) for answer in answers]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert pages[0] == pages[1]
    assert "The name or the password is wrong." in pages[0]


def test_whoever_tries_too_often_is_told_to_wait_also_with_the_right_password(me):
    me.web = me.app.test_client()
    for _ in range(5):
        assert me.submit("/console/login", {"name": "ada", "password": "no"}, "/console/login").status_code == 401
    answer = me.submit("/console/login", {"name": "ada", "password": PASSWORD}, "/console/login")
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 900
    assert "rowhook_session" not in str(answer.headers)


def test_a_login_begins_a_new_session_and_ends_the_old_one(me):
    old = me.web.get_cookie("rowhook_session", path="/console").value
    token = me.users.find(old, touch=False).form
    me.submit("/console/login", {"name": "ada", "password": PASSWORD, "form_token": token})
    new = me.web.get_cookie("rowhook_session", path="/console").value
    assert new != old
    assert me.users.find(old, touch=False) is None


def test_a_session_ends_at_logout_at_reset_and_when_it_expires(me):
    stolen = me.web.get_cookie("rowhook_session", path="/console").value

    def thief():
        web = me.app.test_client()
        web.set_cookie("rowhook_session", stolen, path="/console")
        return web.get("/console/").status_code

    assert thief() == 200
    assert me.submit("/console/logout", {}).status_code == 303
    assert thief() == 303
    me.log_in()
    me.client.delete(*me.client.scan_iter("rh:admin:session:*"))
    assert me.web.get("/console/").status_code == 303
    me.log_in()
    me.users.reset("ada")
    assert me.web.get("/console/").status_code == 303


def test_a_session_that_is_made_up_opens_nothing(out):
    for value in ("x" * 43, "", "\u00e9", "*", "a" * 3000):
        out.web.set_cookie("rowhook_session", value, path="/console")
        assert out.web.get("/console/").status_code == 303


def test_a_form_without_the_sessions_token_does_nothing(me):
    for token in ("", "wrong", "0" * 48, "\u00e9"):
        fields = {"form_token": token, "act": "pause", "sure": "yes"}
        assert me.web.post("/console/destinations/warehouse", data=fields).status_code == 403
    assert not me.client.exists(keys.destination("warehouse"))


def test_a_form_with_another_sessions_token_does_nothing(me):
    other = me.users.find(me.users.login("ada", PASSWORD, "10.0.0.9"), touch=False).form
    fields = {"form_token": other, "act": "pause", "sure": "yes"}
    assert me.web.post("/console/destinations/warehouse", data=fields).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "null"}, 303),
        ({}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://localhost.evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
    ],
)
def test_a_form_that_another_site_sends_does_nothing_even_with_the_token(me, headers, status):
    fields = {"act": "pause", "sure": "yes"}
    assert me.submit("/console/destinations/warehouse", fields, **headers).status_code == status
    assert me.client.exists(keys.destination("warehouse")) == (status == 303)


def test_a_login_form_needs_its_own_token_too(me):
    web = me.app.test_client()
    assert web.post("/console/login", data={"name": "ada", "password": PASSWORD}).status_code == 403


def test_a_huge_form_is_refused(out):
    answer = out.submit("/console/login", {"name": "ada", "password": "x" * 100_000}, "/console/login")
    assert answer.status_code == 413


# --- headers and pages -------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_that_make_it_inert(me):
    for path in [*PAGES, "login", "welcome", "nowhere", "failures/one?id=no", "static/console.css"]:
        with me.web.get(f"/console/{path}") as answer:
            headers = answer.headers
        assert headers["Content-Security-Policy"] == POLICY, path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == ("no-cache" if "static" in path else "no-store")


def test_every_page_is_whole_without_a_script_and_holds_none_of_its_own(me):
    me.post_event(row(1))
    for path in PAGES:
        page = me.get(path)
        assert page.rstrip().endswith("</html>")
        assert Tags(page).inert(), path
        assert re.findall(r'(?:src|href)="(?:https?:)?//', page) == []
        assert 'aria-current="page"' in page


def test_the_overview_says_that_all_is_well_and_what_flows(me):
    me.post_event(row(1), **{"X-Delivery": "d1"})
    me.post_event(row(1), **{"X-Delivery": "d1"})
    page = text(me.get())
    assert "Received 2 events; 1 sent twice" in page
    assert "Became 1 records" in page
    assert "Wait 1 records of 1 event are on their way" in page
    assert "It balances 2 events = 1 mapped + 1 duplicate" in page
    assert "1 thing needs somebody" not in page, "no worker runs, and a source has no secret"
    assert "No worker runs 1 event wait" in page
    assert "Source shop has no secret" in page


def test_the_overview_names_what_fails_and_why(me):
    me.post_event({"type": "order", "name": "without an id"})
    me.post_event(b"{oops")
    Accounts(me.client).note("erp", 3, "signature_wrong", "secret", "The secret has a line end behind it.")
    me.client.hset(keys.destination("warehouse"), "paused", "the disk is changed")
    me.client.hset(keys.LEDGER, "e|erp|ignored", 5)
    page = text(me.get())
    assert "The ledger does not balance Events of erp: accepted differs from the sum of its states by -5." in page
    assert "1 event of erp failed Our mapping does not fit what came: mapping_failed" in page
    assert "1 event of erp failed The sender's body could not be read: not_json" in page
    assert "3 deliveries of erp refused (401) The secret has a line end behind it." in page
    assert "Destination warehouse: paused by hand Paused by hand: the disk is changed." in page
    assert "Failed 2 2 events not mapped" in page


def test_a_live_part_is_the_part_alone_and_does_not_keep_a_session_awake(me):
    (at,) = me.client.scan_iter("rh:admin:session:*")
    me.client.expire(at, 100)
    for path in ("", "destinations/"):
        part = me.get(path, **{"X-Console-Part": "live"})
        assert "<html" not in part
        assert "warehouse" in part
    assert me.client.ttl(at) <= 100
    me.get()
    assert me.client.ttl(at) > 1000


def test_a_source_says_what_to_paste_what_to_do_and_why_it_was_refused(me):
    Accounts(me.client).note("shop", 2, "signature_wrong", "secret", "The secret has a line end behind it.")
    page = text(me.get("sources/shop"))
    assert "http://localhost/hooks/shop" in page
    assert "Secret missing set sources.shop.secrets" in page
    assert "Settings → Notifications → Webhooks" in page
    assert "2 deliveries answered 401" in page
    assert "The secret has a line end behind it." in page
    assert "present 1 secret; all are live" in text(me.get("sources/erp"))
    assert me.web.get("/console/sources/nobody").status_code == 404
    everything = text(me.get("sources/"))
    assert everything.index("shop") < everything.index("erp")


def test_no_page_shows_a_secret(redis_url, tmp_path):
    hidden = "zzz-hidden-zzz"
    mbi = {"kind": "import_api", "client_id": 1, "api_key": hidden, "url": "http://127.0.0.1:1"}
    browser = Browser(redis_url, tmp_path, destinations={"warehouse": {"kind": "sqlite"}, "mbi": mbi})
    browser.log_in()
    key = Registry(browser.client).create("export", 3)
    for path in [*PAGES, "sources/erp", "sources/shop"]:
        page = browser.get(path)
        assert hidden not in page
        assert key not in page


def test_an_event_in_the_buffer_is_found_and_shown_with_its_rows(me):
    taken = me.post_event(row(12345678901234567890, price=1.10), **{"X-Delivery": "d-77"}).get_json()
    me.post_event(row(2, type="other"))
    for query in ("id=d-77", f"id={taken['id']}", "type=t&source=erp"):
        found = me.get(f"events/?{query}")
        assert re.findall(r"events/(\d{16})", found) == [taken["id"]]
    assert "Nothing fits" in me.get("events/?source=shop")
    page = text(me.get(f"events/{taken['id']}"))
    assert "t of erp" in page
    assert "erp_things" in page
    assert "12345678901234567890" in page
    assert me.web.get("/console/events/0000000000000001").status_code == 404
    assert me.web.get("/console/events/x").status_code == 404
    assert "There is no archive" in me.get("events/?in=archive")


def test_a_table_of_a_destination_that_was_removed_is_shown_and_no_link_leads_nowhere(me):
    me.client.hset(keys.LEDGER, mapping={"r|erp|gone|erp_things|stored": 1, "r|client:12|gone|kiosks|stored": 1})
    me.client.hset(keys.LEDGER, "r|client:12|warehouse|kiosks|stored", 1)
    for path in ("tables/", "transfers/"):
        page = me.get(path)
        assert "gone removed" in text(page)
        links = re.findall(r'href="/console/(tables/one[^"]*)"', page)
        assert links
        for link in links:
            me.get(html.unescape(link))


def test_tables_and_audit_show_the_ledger(me):
    me.post_event(row(1))
    page = text(me.get("tables/"))
    assert "erp_things key id; newer by at warehouse erp 0 0 1 0" in page
    assert "It balances" in me.get("audit/")
    me.client.hincrby(keys.LEDGER, "r|erp|warehouse|erp_things|stored", 4)
    page = text(me.get("audit/"))
    assert "records of erp_things (erp to warehouse): emitted differs by -4" in page


# --- what is shown is inert --------------------------------------------------------------------------------


def plant_key(client, markup):
    """A key with markup in its name and, as none is made any more, in its tables: an old one, or by a hand."""
    key = id_of(Registry(client).create("export", 3, name=markup, tables=["planted"]))
    entry = client.hget(keys.API_KEYS, key).decode()
    client.hset(keys.API_KEYS, key, entry.replace("planted", markup.replace(" ", "/")))


def test_markup_in_anything_that_others_wrote_is_shown_and_not_run(me):
    me.post_event({"type": XSS, "name": XSS}, **{"X-Delivery": XSS})
    me.post_event(row(XSS, name=XSS, type=XSS))
    me.bury(XSS, key=json.dumps([XSS]))
    Accounts(me.client).note("erp", 1, XSS, "secret", XSS)
    me.client.hset(keys.destination("warehouse"), mapping={"paused": XSS})
    me.client.hset(keys.lane("warehouse/0/1"), "why", XSS)
    me.client.hset(keys.LEDGER, f"e|{XSS.replace('|', '')}|accepted", 1)
    plant_key(me.client, XSS)
    failures = re.findall(r"failures/group/\w+", me.get("failures/"))
    assert len(failures) == 2
    ones = re.findall(r'failures/one\?id=[^"]+', "".join(me.get(group) for group in failures))
    events = re.findall(r"events/\d{16}", me.get("events/"))
    assert len(events) == 2
    paths = [*PAGES, "sources/erp", *failures, *map(html.unescape, ones), *events, f"events/?id={XSS}&type={XSS}"]
    seen = 0
    for path in [*paths, f"nowhere/{XSS}"]:
        page = me.web.get(f"/console/{path}").text
        seen += "&lt;script&gt;" in page or "\\u003cscript" in page
        assert Tags(page).inert()
    assert seen >= 12


def test_markup_in_forms_comes_back_inert(me):
    fields = {"kind": "import", "client": XSS, "name": XSS, "tables": XSS, "networks": XSS, "days": XSS}
    answer = me.submit("/console/keys/", fields)
    assert answer.status_code == 400
    login = me.app.test_client()
    me.web, mine = login, me.web
    wrong = me.submit("/console/login", {"name": XSS, "password": XSS}, "/console/login")
    me.web = mine
    for page in (answer.text, wrong.text):
        assert "&lt;script&gt;" in page
        assert Tags(page).inert()


# --- acts --------------------------------------------------------------------------------------------------


def group(me) -> dict[str, str]:
    page = me.get("failures/")
    return {name: re.search(rf'name="{name}" value="([^"]+)"', page)[1] for name in ("group", "upto")}


def test_a_group_is_retried_after_one_question_once_the_mapping_is_mended(me, caplog):
    me.start({**TABLE, "columns": {"id": "number", "name": "name"}})
    me.log_in()
    for n in range(3):
        me.post_event(row(n))
    assert "Retry 3" in me.get("failures/")
    asked = me.submit("/console/failures/act", {**group(me), "act": "retry"})
    assert "Send 3 failures again?" in text(asked.text)
    assert me.facts().events["erp"]["quarantined"] == 3
    me.confirm("/console/failures/act", {**group(me), "act": "retry"})
    assert "0 failures sent again. 3 still fail: " in text(me.get("failures/"))
    me.start(TABLE)
    me.log_in()
    logging.getLogger().addHandler(caplog.handler)  # the new app has set up logs anew
    answer = me.confirm("/console/failures/act", {**group(me), "act": "retry"})
    assert answer.status_code == 303
    assert "3 failures sent again." in me.get("failures/")
    assert "3 failures sent again." not in me.get("failures/"), "it is said once"
    assert me.facts().events["erp"] == {"accepted": 3, "mapped": 3, "quarantined": 0}
    (line,) = acts(caplog)
    assert (line["admin"], line["act"], line["queued"], line["source"]) == ("ada", "retry", 3, "erp")


def test_what_came_after_the_count_was_shown_is_not_discarded(me):
    me.post_event(b"{oops 1")
    me.post_event(b"{oops 2")
    shown = group(me)
    later = me.post_event(b"{oops 3").get_json()["id"]
    me.confirm("/console/failures/act", {**shown, "act": "discard"})
    assert me.facts().events["erp"] == {"accepted": 3, "quarantined": 1, "discarded": 2}
    assert re.findall(r"failures/group/\w+", me.get("failures/"))
    assert me.client.zrange(keys.QUARANTINE, 0, -1) == [later.encode()]
    assert me.submit("/console/failures/act", {**shown, "act": "discard", "sure": "yes"}).status_code == 404


def test_an_older_event_that_fails_while_it_is_asked_is_not_given_up_with_the_others(me):
    older = me.post_event(row(1), **{"X-Delivery": "d1"}).get_json()["id"]
    queue = keys.queue("warehouse/0/1", "erp")
    due = me.client.zscore(queue, older)
    me.client.zrem(queue, older)
    me.post_event(row(2), **{"X-Delivery": "d2"})
    me.bury("no such column")
    fields = {**group(me), "act": "discard"}
    asked = me.submit("/console/failures/act", fields)
    assert "Give up 1 failure for good?" in text(asked.text)
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked.text))
    me.client.zadd(queue, {older: due})
    me.bury("no such column")
    me.web.post("/console/failures/act", data={**fields, **hidden})
    assert [failure.arrival for failure in Failures(me.client).every()] == [older]
    assert "Give up 1 failure for good?" in text(
        me.submit("/console/failures/act", {**group(me), "act": "discard", "sure": "yes", "chosen": "eJw!"}).text
    ), "what is damaged says nothing, so it is asked again"


def test_the_command_beside_the_question_does_no_more_than_the_button(me):
    for n in range(2):
        me.post_event(b"{oops %d" % n)
    asked = text(me.submit("/console/failures/act", {**group(me), "act": "discard"}).text)
    ids = " ".join(failure.id for failure in Failures(me.client).every())
    assert f"By command: relay dead discard {ids}" in asked
    for n in range(20):
        me.post_event(b"{oops again %d" % n)
    asked = text(me.submit("/console/failures/act", {**group(me), "act": "discard"}).text)
    assert "relay dead list --source erp --blame vendor lists them, among others" in asked


def test_one_dead_letter_is_shown_with_its_body_and_retried(me):
    taken = me.post_event(row(1), **{"X-Delivery": "d1"}).get_json()["id"]
    me.bury("no such column")
    page = text(me.get(f"failures/one?id={taken}|warehouse|0"))
    assert "no such column" in page
    assert '"name": "a"' in page
    fields = {"id": f"{taken}|warehouse|0", "act": "retry", "sure": "yes"}
    assert me.submit("/console/failures/act", fields).status_code == 303
    states = {"emitted": 2, "pending": 1, "dead": 0, "discarded": 1}
    assert me.facts().records["erp", "warehouse", "erp_things"] == states


def test_of_many_causes_the_first_hundred_are_shown_and_the_rest_is_counted(me, monkeypatch):
    monkeypatch.setattr("relay.web.console.failures._SHOWN", 2)
    for n in range(4):
        assert me.post_event(b"[" * (n + 1), **{"X-Delivery": str(n)}).status_code == 202
    for word in ("one", "two", "three"):
        me.post_event(row(word))
        me.bury(f"{word} is not welcome")
    page = me.get("failures/")
    assert page.count('<li class="card">') == 2
    assert "more cause" in page


def test_failures_of_one_cause_are_one_group_whatever_their_numbers(me):
    for n in range(3):
        me.post_event(b"x" * (n + 1) + b"{oops")
    me.post_event({"type": "t"})
    counts = re.findall(r"Retry (\d+)", me.get("failures/"))
    assert sum(map(int, counts)) == 4
    assert counts[0] == "3"


def test_a_destination_is_paused_after_one_question_and_resumed(me, caplog):
    fields = {"act": "pause"}
    assert "Pause warehouse?" in me.submit("/console/destinations/warehouse", fields).text
    assert not me.client.exists(keys.destination("warehouse"))
    me.submit("/console/destinations/warehouse", {"act": "pause", "why": "new disk", "sure": "yes"})
    assert me.client.hget(keys.destination("warehouse"), "paused") == b"new disk"
    assert [(a["act"], a["admin"], a["destination"]) for a in acts(caplog)] == [("pause", "ada", "warehouse")]
    page = text(me.get("destinations/"))
    assert "warehouse is paused: deliveries are taken, and wait." in page
    assert "paused by hand: new disk" in page
    assert me.submit("/console/destinations/warehouse", {"act": "resume"}).status_code == 200
    me.submit("/console/destinations/warehouse", {"act": "resume", "sure": "yes"})
    assert not me.client.exists(keys.destination("warehouse"))
    assert me.submit("/console/destinations/nowhere", {"act": "pause", "sure": "yes"}).status_code == 404
    assert me.submit("/console/destinations/warehouse", {"act": "drop", "sure": "yes"}).status_code == 400


def test_a_key_is_shown_once_listed_without_itself_and_revoked(me, caplog):
    fields = {"kind": "export", "client": "12", "name": "bi", "networks": "10.0.0.0/8", "days": "30"}
    made = me.submit("/console/keys/", fields)
    assert made.status_code == 200
    key = re.search(r'<code id="key">([0-9a-f]{32})</code>', made.text)[1]
    found = Registry(me.client).find(key)
    assert (found.kind, found.client, found.name, found.networks) == ("export", 12, "bi", ("10.0.0.0/8",))
    page = me.get("keys/")
    assert found.short in page
    assert key not in page
    asked = me.submit("/console/keys/revoke", {"id": found.id})
    assert f"Revoke {found.short}?" in asked.text
    assert Registry(me.client).find(key)
    assert key not in str(acts(caplog))
    me.submit("/console/keys/revoke", {"id": found.id, "sure": "yes"})
    assert Registry(me.client).find(key) is None
    assert [(a["act"], a["key"]) for a in acts(caplog)] == [
        ("key_create", found.short),
        ("key_revoke", found.short),
    ]
    assert me.submit("/console/keys/revoke", {"id": "", "sure": "yes"}).status_code == 400


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "export", "client": ""}, "is a client"),
        ({"kind": "owner", "client": "1"}, "There is no kind of key"),
        ({"kind": "export", "client": "1", "networks": "home"}, "is not an address or a network"),
        ({"kind": "export", "client": "-1"}, "is not a number"),
        ({"kind": "export", "client": "1", "days": "\u0663"}, "is not a number"),
        ({"kind": "export", "client": "1", "days": "9999"}, "3650 days at most"),
        (
            {"kind": "export", "client": "1", "tables": "orders|customers"},
            "'orders|customers' is not a table's name",
        ),
        ({"kind": "import", "client": "1", "tables": "x;y"}, "'x;y' is not a table's name"),
    ],
)
def test_a_key_that_cannot_be_is_not_made_and_it_is_said_why(me, fields, why):
    answer = me.submit("/console/keys/", fields)
    assert answer.status_code == 400
    assert why in html.unescape(answer.text)
    assert not me.client.exists(keys.API_KEYS)


@pytest.mark.parametrize("entry", ["export|1|,a|b,|0|{}", "", "export", "export|x||0|{}", b"\xff|||"])
def test_a_damaged_key_opens_nothing_and_hides_no_other(me, entry):
    registry = Registry(me.client)
    good, bad = registry.create("export", 1), "0" * 32
    me.client.hset(keys.API_KEYS, id_of(bad), entry)
    assert registry.find(bad) is None
    assert "cannot be read: revoke it" in me.get("keys/")
    assert me.get("transfers/")
    me.submit("/console/keys/revoke", {"id": id_of(bad), "sure": "yes"})
    assert [key.id for key in registry.every()] == [id_of(good)]


def test_without_redis_a_page_says_so_and_is_not_a_500(me, monkeypatch):
    console = me.app.extensions["rowhook_console"]

    def away(*_args, **_kwargs):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(console.admins, "find", away)
    answer = me.web.get("/console/")
    assert answer.status_code == 503
    assert "Redis does not answer" in answer.text
    assert answer.headers["Content-Security-Policy"] == POLICY
