"""The console's overview, act log and ways in: what is sampled and drawn, who did what, and who is let in."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
import yaml
from typer.testing import CliRunner

from bench import console as bench
from relay.buffer import acts, bodies, causes, keys, ledger, measures, rates, samples
from relay.buffer.failures import Failures
from relay.cli.main import app
from relay.config import load
from relay.errors import ConfigInvalid
from relay.web.console import charts, events
from tests.flow.test_console import PASSWORD, XSS, Browser, Tags, row, text
from tests.servers.import_case import free_port
from worker.keeping import Keeper

MINUTE = 60_000
NOW = 1_790_000_000_000
ROOT = Path(__file__).parents[2]
HEADER = "X-Forwarded-User"
PROXIED = {"trusted_proxies": ["127.0.0.1"], "console_user_header": HEADER}


@pytest.fixture
def me(redis_url, tmp_path):
    """A person who is logged in."""
    browser = Browser(redis_url, tmp_path)
    browser.log_in()
    return browser


def sample(at_ms, accepted, stored=0, pending=0, failed=0, lag=()):
    counts = [*lag, *([0] * (len(measures.LAG_S) + 1 - len(lag)))]
    return samples.Sample(at_ms, accepted, stored, pending, failed, counts)


# --- what the ticker leaves --------------------------------------------------------------------------------


def test_two_workers_leave_one_sample_a_period_of_all_sources_and_destinations(me):
    for n in range(3):
        me.post_event(row(n))
    me.post_event(b"{oops")
    measures.add(me.client, {"lag|warehouse|0.1": 2, "lag|old|0.5": 1})
    for keeper in [Keeper(load(me.path, me.folder), me.client) for _ in range(2)]:
        keeper.tick()
        keeper.tick()
    kept = samples.read(me.client)
    assert 1 <= len(kept.hour) <= 2, "one, or the clock stepped into the next ten seconds"
    assert 1 <= len(kept.day) <= 2
    found = kept.hour[-1]
    assert (found.accepted, found.stored, found.pending, found.failed) == (4, 0, 3, 1)
    assert found.lag[:4] == [2, 0, 0, 1]


def test_nobody_who_looks_leaves_a_sample(me):
    me.get()
    assert samples.read(me.client).hour == []
    assert "a running worker takes a sample" in me.get()


def test_the_rings_stay_as_large_as_they_are_however_long_a_worker_runs():
    places = [samples.places(NOW // 1000 + second) for second in range(0, 3 * 86_400, 7)]
    assert len({hour for hour, _ in places}) == 360
    assert len({day for _, day in places}) == 288


def test_a_counter_that_a_hand_damaged_does_not_end_the_ticker(me, caplog):
    me.post_event(row("1"))
    me.client.hset(keys.LEDGER, "e|erp|accepted", "rubbish")
    Keeper(load(me.path, me.folder), me.client).tick()
    assert "not_watched" in caplog.text


def test_what_is_damaged_older_than_its_ring_or_of_a_time_to_come_is_left_out(me):
    Keeper(load(me.path, me.folder), me.client).tick()
    whole = samples.read(me.client)
    old = samples._encode(sample(whole.now_ms - 2 * 86_400_000, 1))
    short = samples._encode(samples.Sample(whole.now_ms, 1, 1, 1, 1, [1]))
    ahead = samples._encode(sample(whole.now_ms + 600_000, 1))
    for ring in (keys.SAMPLES_HOUR, keys.SAMPLES_DAY):
        me.client.hset(ring, mapping={"a": b"\xc1", "b": old, "c": short, "d": b"", "e": ahead})
    assert samples.read(me.client).hour == whole.hour
    assert me.get()


# --- rates and charts --------------------------------------------------------------------------------------


def test_rates_and_freshness_are_of_the_time_between_two_samples():
    found = rates.readings([sample(0, 10, 5), sample(MINUTE, 40, 65, 7, 2, [50, 50])], MINUTE)
    assert found[0].since is None
    assert found[0].accepted is None
    last = found[1]
    assert (last.accepted, last.stored, last.pending, last.failed) == (30, 60, 7, 2)
    assert last.p50 == pytest.approx(0.1)
    assert last.p99 == pytest.approx(0.198)


def test_a_time_without_samples_is_a_gap_and_so_is_a_counter_that_began_anew():
    taken = [sample(n * MINUTE, 10 * n, lag=[n]) for n in range(5)]
    taken += [sample(n * MINUTE, 10 * n, lag=[n]) for n in range(20, 23)]
    taken += [sample(23 * MINUTE, 3)]
    found = rates.readings(taken, MINUTE)
    assert [r.at // MINUTE for r in found if r.since is None] == [0, 20, 23]
    assert {r.accepted for r in found if r.since is not None} == {10}
    (hour, _) = charts.periods(samples.Samples(60 * MINUTE, taken, []))
    (flow, fresh, waits, failed) = hour.charts
    assert [len(line.parts) for line in flow.lines] == [2, 2]
    assert [len(line.parts) for line in (*fresh.lines, *waits.lines, *failed.lines)] == [2, 2, 3, 3]
    assert flow.told.endswith("Nothing was measured for 54 min of it.")
    assert fresh.told.startswith("p50: \N{EN DASH} at the end, from 50 ms to 50 ms; p99:")


def test_a_line_stays_within_its_chart():
    taken = [sample(n * MINUTE, n * n, lag=[n]) for n in range(61)]
    (hour, _) = charts.periods(samples.Samples(60 * MINUTE, taken, []))
    (part,) = hour.charts[0].lines[0].parts
    points = [tuple(map(float, point.split(","))) for point in part.split()]
    assert len(points) == 60
    assert points == sorted(points)
    assert {0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in points} == {True}
    assert points[-1][1] < points[0][1], "more stands higher"


def test_the_median_lies_between_the_bounds_of_its_bucket_and_beyond_the_last_is_the_last():
    nothing = [0] * (len(measures.LAG_S) + 1)
    assert measures.quantile(nothing, 0.5) is None
    assert measures.quantile([10, 0, 10, *nothing[3:]], 0.75) == pytest.approx(0.25)
    assert measures.quantile([*nothing[:-1], 3], 0.5) == measures.LAG_S[-1]


def fill_rings(client, now_ms):
    for n in range(60):
        at = now_ms - (59 - n) * MINUTE
        client.hset(keys.SAMPLES_HOUR, str(n), samples._encode(sample(at, 6 * n, 3 * n, n, 1, [n, n, 0, 9 * n])))
    for n in range(288):
        at = now_ms - (287 - n) * 5 * MINUTE
        client.hset(keys.SAMPLES_DAY, str(n), samples._encode(sample(at, 6 * n, 3 * n, n, 1, [n])))


def test_the_overview_draws_the_hour_and_the_day_with_words_and_a_table_for_whoever_sees_no_lines(me):
    fill_rings(me.client, samples.read(me.client).now_ms)
    for page in (me.get(), me.get(**{"X-Console-Part": "live"})):
        drawn = re.findall(r'<svg [^>]*role="img" aria-labelledby="([\w-]+) ([\w-]+)">', page)
        assert len(drawn) == 8
        for title, told in drawn:
            assert re.search(f'<title id="{title}">[^<]+</title>', page)
            assert re.search(f'<desc id="{told}">[^<]+ at the end, from [^<]+</desc>', page)
        assert page.count("<polyline") == 12
        assert "6.0 events and 3.0 records a minute" in text(page)
        assert "half of the records were committed within" in text(page)
        assert "events in: 6.0 at the end, from 6.0 to 6.0; records out: 3.0 at the end" in page
        tables = re.findall(r"<details id=\"(\w+)-table\"><summary>(.*?)</details>", page, re.DOTALL)
        assert [name for name, _ in tables] == ["hour", "day"]
        assert all(12 <= table.count('<th scope="row">') <= 13 for _, table in tables)
        assert Tags(page).inert()


def test_stats_tells_the_rates_of_the_overview_and_none_where_nobody_measured(me):
    def stats(*options):
        return (
            CliRunner().invoke(app, ["stats", *options, "--config", str(me.path), "--data", str(me.folder)]).stdout
        )

    assert "rates" not in stats()
    assert json.loads(stats("--json"))["rates"] is None
    fill_rings(me.client, samples.read(me.client).now_ms)
    assert "rates   6.0 events in and 3.0 records out a minute, over the last 1 min\n" in stats()
    assert json.loads(stats("--json"))["rates"] == {"events_in": 6.0, "records_out": 3.0, "over_s": 60.0}


def test_a_counter_that_began_anew_gives_no_rate_and_a_page_all_the_same(me):
    now_ms = samples.read(me.client).now_ms
    for n, accepted in ((0, 9), (1, 2)):
        at = now_ms - (1 - n) * 10_000
        me.client.hset(keys.SAMPLES_HOUR, str(n), samples._encode(sample(at, accepted)))
    assert rates.lately(samples.read(me.client)) is None
    assert "No rate yet" in me.get()


def test_the_colours_of_lines_stand_out_from_the_paper_in_the_light_and_in_the_dark(me):
    with me.web.get("/console/static/console.css") as answer:
        css = answer.text
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    for palette in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", palette))
        for name in ("link", "warn"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, "3 is asked of lines, 4.5 of words"
        assert contrast(colours["dim"], colours["paper"]) >= 4.5
    assert {"--link", "--warn"} == set(re.findall(r"\.line\d \{ stroke: var\((--\w+)\)", css))
    assert "stroke-dasharray" in css, "the second line is told by more than its colour"


def contrast(one: str, other: str) -> float:
    """As https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio has it."""

    def luminance(colour):
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# --- what a page costs -------------------------------------------------------------------------------------


@pytest.fixture
def trips(monkeypatch):
    """Counts round trips to Redis."""
    made = []
    send = redis.connection.AbstractConnection.send_packed_command
    monkeypatch.setattr(
        redis.connection.AbstractConnection,
        "send_packed_command",
        lambda self, command, *args, **kwargs: made.append(1) or send(self, command, *args, **kwargs),
    )
    return made


def test_a_page_asks_redis_no_more_and_reads_no_more_where_four_times_as_much_is_kept(
    redis_url, tmp_path, trips, monkeypatch
):
    monkeypatch.setattr(bench, "_TOGETHER", 10)
    monkeypatch.setattr(causes, "LOOKED_AT", 200)
    monkeypatch.setattr(events, "_LOOKED_AT", 300)
    crowd = bench.Crowd(tmp_path, redis_url)
    costs = []
    for kept in (500, 1500):
        crowd.fill(kept, kept, kept)
        if not costs:
            browser = crowd.browser()
        costs.append({path: cost(crowd.client, browser, path, trips) for path in bench.PAGES})
    assert crowd.client.hlen(keys.EVENTS) == 6_000
    for path, (asked, commands, size) in costs[1].items():
        asked_before, commands_before, size_before = costs[0][path]
        assert asked <= asked_before + 5, path
        assert asked <= 40, path
        assert commands <= commands_before * 1.2 + 5, path
        assert size <= size_before * 1.5 + 20_000, path


def cost(client, browser, path, trips):
    """Round trips, commands and bytes that Redis sent for a page."""
    browser.get(f"/console/{path}")
    before, began = client.info("stats"), len(trips)
    assert browser.get(f"/console/{path}").status_code == 200
    made = len(trips) - began
    after = client.info("stats")
    return made, *(after[n] - before[n] for n in ("total_commands_processed", "total_net_output_bytes"))


def test_the_first_failures_are_those_of_all_and_a_huge_body_is_not_read_for_them(me, monkeypatch):
    found = Failures(me.client)
    assert found.first(10) == ([], False)
    for n in range(4):
        me.post_event(b"{oops %d" % n)
    me.post_event(row(1))
    me.bury("no such column")
    every = list(found.every())
    assert len(every) == 5
    assert found.first(5) == found.first(100) == (every, False)
    assert found.first(3) == (every[:3], False)
    assert found.some(f.id for f in every[::-1]) == [*every[3::-1], every[4]]
    monkeypatch.setattr(bodies, "AT_ONCE_BYTES", me.client.hstrlen(keys.EVENTS, every[0].arrival) + 1)
    some, left_out = found.first(100)
    assert [f.id for f in some] == [every[0].id, every[4].id]
    assert some[1].type == "", "it is in the body, which is not read"
    assert left_out
    assert found.some(f.id for f in every) == every
    assert "Only the first 2 are looked at" in text(me.get("failures/"))
    for one in every:
        assert one.reason[:20] in text(me.get(f"failures/one?id={one.id}")), "it is shown all the same"


def test_of_more_dead_letters_than_are_looked_at_some_are_read(redis_url, tmp_path):
    crowd = bench.Crowd(tmp_path, redis_url)
    crowd.fill(0, 0, 2_000)
    found, _ = Failures(crowd.client).first(50)
    assert len({failure.id for failure in found}) == 50
    assert {failure.type for failure in found} == {"orders/create"}


def test_the_plain_audit_is_of_one_moment(redis_url, tmp_path):
    crowd = bench.Crowd(tmp_path, redis_url)
    stop = threading.Event()

    def go_on():
        while not stop.is_set():
            crowd.fill(500, 500, 0)

    other = threading.Thread(target=go_on)
    other.start()
    try:
        with redis.Redis.from_url(redis_url) as client:
            looks = [ledger._look(client, lambda _since, _until: (), deep=False) for _ in range(40)]
    finally:
        stop.set()
        other.join()
    assert [faults for faults in looks if faults and "wait in the lanes" not in faults[0]] == []


# --- who did what ------------------------------------------------------------------------------------------


def test_an_act_is_kept_with_who_when_where_what_and_on_how_many(me):
    for n in range(3):
        me.post_event(b"{oops %d" % n)
    group = {
        name: re.search(rf'name="{name}" value="([^"]+)"', me.get("failures/"))[1] for name in ("group", "upto")
    }
    me.confirm("/console/failures/act", {**group, "act": "discard"})
    me.submit("/console/destinations/warehouse", {"act": "pause", "why": XSS, "sure": "yes"})
    page = me.get("acts/")
    rows = [text(found) for found in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    assert re.match(
        r"ada \d{4}-\d\d-\d\d [\d:]+ UTC paused destination warehouse, why <script>.* 127\.0\.0\.1", rows[1]
    )
    assert re.match(r"ada .* UTC gave up source erp, discarded 3 3 127\.0\.0\.1", rows[2])
    assert re.match(r"ada .* UTC logged in \N{EN DASH} \N{EN DASH} 127\.0\.0\.1", rows[3])
    assert Tags(page).inert()


def test_refusals_at_the_door_are_kept_and_no_name_that_nobody_has(me):
    web, me.web = me.web, me.app.test_client()
    for name in ("ada", PASSWORD):
        for _ in range(6):
            me.submit("/console/login", {"name": name, "password": "my real passw0rd"}, "/console/login")
    me.web = web
    me.web.post("/console/keys/", data={"form_token": "wrong"})
    page = me.get("acts/")
    refused = text(page.split("Refused at the door")[1])
    assert refused.count("wrong name or password ada 127.0.0.1") == 5
    assert refused.count("wrong name or password \N{EN DASH} 127.0.0.1") == 5
    assert refused.count("too many attempts") == 2, "once a throttle"
    assert "a form of another page ada" in refused
    assert PASSWORD not in page
    assert "passw0rd" not in page


def test_nothing_secret_is_among_the_acts(me):
    token = me.users.add("bob")
    me.submit("/console/welcome", {"token": token, "password": PASSWORD, "again": PASSWORD})
    key = re.search(r'<code id="key">(\w+)<', me.submit("/console/keys/", {"kind": "export", "client": "1"}).text)[
        1
    ]
    mine = me.web.get_cookie("rowhook_session", path="/console").value
    kept = b"".join(me.client.lrange(keys.ACTS, 0, -1)).decode()
    assert "key_create" in kept
    assert "password_set" in kept
    for secret in (key, token, mine, PASSWORD, me.users.find(mine, touch=False).form):
        assert secret not in kept


def test_acts_are_bounded_by_count_and_length_and_refusals_push_out_none_of_them(redis_url):
    client = redis.Redis.from_url(redis_url)
    log = acts.Acts(client)
    log.note("pause", "ada", "10.0.0.1", {"why": "x" * 10_000, **{f"n{n}": n for n in range(100)}})
    for _ in range(acts.MOST_REFUSALS + 5):
        log.refuse("login_refused", "x" * 1000, "y" * 1000)
    assert client.llen(keys.LOGINS_REFUSED) == acts.MOST_REFUSALS
    (one,) = log.acts(0, 10)
    assert len(json.dumps(one.about)) < 1000
    for n in range(acts.MOST_ACTS + 5):
        log.note("pause", "ada", "10.0.0.1", {"n": n})
    assert client.llen(keys.ACTS) == acts.MOST_ACTS
    assert log.acts(0, 1)[0].about == {"n": acts.MOST_ACTS + 4}


def test_older_acts_are_on_a_page_of_their_own(me):
    log = acts.Acts(me.client)
    for n in range(150):
        log.note("pause", "ada", "10.0.0.1", {"destination": f"d{n:03}"})
    first = me.get("acts/")
    assert "d149" in first
    assert "d049" not in first
    older = html.unescape(re.search(r'href="/console/(acts/\?from=\d+)"', first)[1])
    assert "d049" in me.get(older)
    for odd in ("-1", "9" * 30, "x", "\u0663", ""):
        assert "Acts" in me.get(f"acts/?from={odd}")


# --- a session that somebody else has ----------------------------------------------------------------------


def test_a_session_used_from_another_address_is_said_once_and_all_can_be_ended(redis_url, tmp_path):
    me = Browser(redis_url, tmp_path, trusted_proxies=["127.0.0.1"])
    me.log_in()
    stolen = me.web.get_cookie("rowhook_session", path="/console").value
    thief = me.app.test_client()
    thief.set_cookie("rowhook_session", stolen, path="/console")
    for _ in range(3):
        assert thief.get("/console/", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200
    assert text(me.get("acts/")).count("came from another address") == 1
    assert "203.0.113.9" in me.get("acts/")
    assert me.submit("/console/logout/everywhere", {}, "/console/acts/").status_code == 303
    assert thief.get("/console/").status_code == 303
    assert me.web.get("/console/").status_code == 303
    me.log_in()
    assert "ended all own sessions" in me.get("acts/")


def test_a_session_that_wanders_fills_no_list(redis_url, tmp_path):
    me = Browser(redis_url, tmp_path, trusted_proxies=["127.0.0.1"])
    me.log_in()
    for n in range(30):
        me.get("keys/", **{"X-Forwarded-For": f"203.0.113.{n}"})
    assert me.client.llen(keys.ACTS) <= 10


def test_a_form_cookie_that_others_could_set_is_not_taken_over(me):
    web = me.app.test_client()
    web.set_cookie("rowhook_form", "x" * 2000, path="/console")
    page = web.get("/console/login").text
    assert "x" * 20 not in page
    assert re.search(r'name="form_token" value="[0-9a-f]{48}"', page)


def test_a_host_header_leads_nobody_away(me):
    me.post_event(row(1))
    paths = [
        "",
        "sources",
        "acts",
        "failures",
        "/evil.example/",
        "//evil.example",
        "\\evil.example",
        "login",
        "keys",
    ]
    for path in paths:
        answer = me.web.get(f"/console/{path}", headers={"Host": "evil.example"})
        assert "evil.example" not in answer.headers.get("Location", ""), path
    out = me.app.test_client()
    for path in ("", "keys/", "login?next=https://evil.example", "?next=//evil.example"):
        answer = out.get(f"/console/{path}", headers={"Host": "evil.example"})
        assert answer.headers.get("Location", "/console/login") == "/console/login"


def test_no_page_can_be_framed_opened_from_elsewhere_or_kept(me):
    for path in ("", "login", "acts/", "nowhere", "sources", "events"):
        headers = me.web.get(f"/console/{path}").headers
        assert headers["X-Frame-Options"] == "DENY", path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"


# --- a proxy that says who it is ---------------------------------------------------------------------------


@pytest.fixture
def behind(redis_url, tmp_path):
    """A browser behind a trusted proxy that names its user."""
    return Browser(redis_url, tmp_path, **PROXIED)


def test_whom_a_trusted_proxy_names_is_that_user_with_a_session_and_its_forms(behind):
    ada = {HEADER: "ada@example.com"}
    page = behind.get(**ada)
    assert "ada@example.com" in page
    assert "Log out" not in page
    behind.get("keys/", **ada)
    assert behind.client.llen(keys.ACTS) == 1, "one login, however many pages"
    token = re.search(r'name="form_token" value="([^"]*)"', behind.get("destinations/", **ada))[1]
    fields = {"form_token": token, "act": "pause", "sure": "yes"}
    assert behind.web.post("/console/destinations/warehouse", data=fields, headers=ada).status_code == 303
    newest = acts.Acts(behind.client).acts(0, 1)[0]
    assert (newest.act, newest.admin) == ("pause", "ada@example.com")
    without = {**fields, "form_token": "wrong"}
    assert behind.web.post("/console/destinations/warehouse", data=without, headers=ada).status_code == 403
    crossing = {**ada, "Sec-Fetch-Site": "cross-site"}
    assert behind.web.post("/console/destinations/warehouse", data=fields, headers=crossing).status_code == 403


def test_a_client_behind_the_proxy_that_keeps_no_cookie_fills_no_list(behind):
    for _ in range(20):
        assert behind.app.test_client().get("/console/", headers={HEADER: "monitor"}).status_code == 200
    assert behind.client.llen(keys.ACTS) == 1


def test_a_post_through_the_proxy_without_a_session_does_nothing(behind):
    fields = {"act": "pause", "sure": "yes", "form_token": ""}
    answer = behind.web.post("/console/destinations/warehouse", data=fields, headers={HEADER: "ada"})
    assert answer.status_code == 403
    assert not behind.client.exists(keys.destination("warehouse"))


@pytest.mark.parametrize("peer", ["127.0.0.2", "10.0.0.1", "::1", "", "unix:", "127.0.0.1, 10.0.0.1"])
def test_the_header_from_elsewhere_is_ignored_whatever_is_said_of_who_speaks(behind, peer):
    headers = {
        HEADER: "ada",
        "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "for=127.0.0.1",
        "X-Real-IP": "127.0.0.1",
    }
    answer = behind.web.get("/console/", headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/login")
    assert not list(behind.client.scan_iter("rh:admin:session:*"))


@pytest.mark.parametrize(
    "value",
    ["", " ", "ada,root", "ada, root", "ada root", "-", "x" * 65, "ada\u00e9", "<b>", "../ada", '"ada"', "ada;x"],
)
def test_an_odd_name_is_refused_everywhere_and_leads_to_no_password_either(behind, value):
    for path in ("", "login", "welcome?token=x", "keys/"):
        answer = behind.web.get(f"/console/{path}", headers={HEADER: value.encode().decode("latin-1")})
        assert answer.status_code == 403, path
        assert "names nobody" in answer.text
    assert not list(behind.client.scan_iter("rh:admin:session:*"))
    assert behind.client.llen(keys.LOGINS_REFUSED) == 4


def test_another_header_of_nearly_that_name_is_ignored(behind):
    for name in ("X-Forwarded-Users", "X-Forwarded-Use", "Forwarded-User", "X-Remote-User", "Remote-User"):
        assert behind.web.get("/console/", headers={name: "ada"}).status_code == 303


def test_a_session_of_the_proxys_opens_nothing_without_it_and_nothing_for_another_user(behind):
    behind.get(**{HEADER: "ada"})
    cookie = behind.web.get_cookie("rowhook_session", path="/console").value
    assert behind.web.get("/console/").status_code == 303, "the proxy has ended its own session"
    elsewhere = behind.web.get("/console/", environ_base={"REMOTE_ADDR": "10.0.0.1"}, headers={HEADER: "ada"})
    assert elsewhere.status_code == 303
    thief = behind.app.test_client()
    thief.set_cookie("rowhook_session", cookie, path="/console")
    page = thief.get("/console/", headers={HEADER: "bob"}).text
    assert '<span class="who">bob</span>' in page
    assert thief.get_cookie("rowhook_session", path="/console").value != cookie
    part = behind.web.get("/console/", headers={HEADER: "ada", "X-Console-Part": "live"})
    assert part.status_code == 403, "that session has ended"


def test_a_password_still_lets_in_where_the_proxy_names_nobody(behind):
    behind.log_in("ada")
    assert "Log out" in behind.get()
    page = behind.get(**{HEADER: "bob"})
    assert '<span class="who">bob</span>' in page


def test_without_passwords_only_the_proxy_lets_in(redis_url, tmp_path):
    before = Browser(redis_url, tmp_path)
    before.log_in()
    cookie = before.web.get_cookie("rowhook_session", path="/console").value
    link = before.users.add("eve")
    now = Browser(redis_url, tmp_path, **PROXIED, console_password_login=False)
    now.web.set_cookie("rowhook_session", cookie, path="/console")
    for path in ("", "login", f"welcome?token={link}", "keys/"):
        assert now.web.get(f"/console/{path}").status_code == 403, path
    fields = {"name": "ada", "password": PASSWORD}
    assert now.submit("/console/login", fields, "/console/login").status_code == 403
    ada = {HEADER: "ada"}
    assert "Overview" in now.get(**ada)
    token = re.search(r'name="form_token" value="([^"]*)"', now.get(**ada))[1]
    for path, form in (("login", fields), ("welcome", {"token": link, "password": PASSWORD, "again": PASSWORD})):
        answer = now.web.post(f"/console/{path}", data={**form, "form_token": token}, headers=ada)
        assert answer.status_code == 403, path
    assert now.users.invited(link) == "eve"
    assert now.web.get("/console/login", headers=ada).headers["Location"] == "/console/"


@pytest.fixture
def gunicorn(redis_url, tmp_path):
    """The web half as it runs; returns what asks it with headers as they are."""
    port = free_port()
    settings = tmp_path / "relay.yaml"
    listens = {"redis_url": redis_url, "host": "127.0.0.1", "port": port, "web_workers": 1}
    settings.write_text(yaml.safe_dump({**listens, **PROXIED}))
    command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "deploy/gunicorn.conf.py")]
    environment = {**os.environ, "RELAY_CONFIG": str(settings), "RELAY_DATA": str(tmp_path)}
    server = subprocess.Popen([*command, "relay.app:create_app()"], env=environment, cwd=ROOT)
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < until, "it does not come up"
            time.sleep(0.05)

    def ask(*lines: str) -> str:
        head = "\r\n".join(("GET /console/ HTTP/1.1", "Host: relay", "Connection: close", *lines))
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode("latin-1"))
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()

    yield ask
    server.terminate()
    server.wait(40)


def test_a_header_with_underscores_or_said_twice_makes_nobody_a_user(gunicorn):
    assert '<span class="who">ada</span>' in gunicorn(f"{HEADER}: ada")
    for underscored in ("X_Forwarded_User", "X-Forwarded_User", "x_forwarded-user"):
        assert " 303 " in gunicorn(f"{underscored}: root").splitlines()[0], underscored
        beside = gunicorn(f"{underscored}: root", f"{HEADER}: ada", f"{underscored}: root")
        assert '<span class="who">ada</span>' in beside
    for twice in (("ada", "root"), ("ada", "ada"), ("", "root"), ("root", "")):
        answer = gunicorn(*(f"{HEADER}: {name}" for name in twice))
        assert " 403 " in answer.splitlines()[0], twice


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"console_user_header": HEADER}, "console_user_header: nobody would be believed"),
        ({**PROXIED, "trusted_proxies": ["0.0.0.0/0"]}, "console_user_header: with all addresses"),
        ({**PROXIED, "trusted_proxies": ["10.0.0.1", "::/0"]}, "console_user_header: with all addresses"),
        ({"console_password_login": False}, "console_password_login: nobody could get in"),
        ({**PROXIED, "console_user_header": "X_Forwarded_User"}, "console_user_header: String should match"),
        ({**PROXIED, "console_user_header": "X-User: x"}, "console_user_header: String should match"),
    ],
)
def test_settings_that_let_in_nobody_or_anybody_are_refused(redis_url, tmp_path, settings, why):
    with pytest.raises(ConfigInvalid, match=re.escape(why)):
        Browser(redis_url, tmp_path, **settings)
