"""Thin events made whole: fetched from a server of the suite's own in the vendor's place, then mapped."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import configured, fetching
from relay.buffer import keys, ledger
from relay.buffer.strays import discard, refuse
from relay.buffer.waiting import Waiting
from relay.errors import ConfigInvalid
from relay.fetching import permitted, retry_after_s
from relay.records import Codec, Request, encode_json
from relay.signatures import Hmac
from tests.flow.test_history import Here

SIGNED = Hmac("X-Hub-Signature-256", prefix="sha256=")
TOKEN = "a-page-token"
AT = 1_772_352_000


class Graph:
    """The vendor's API: leads by id, and what it answers in place of one."""

    def __init__(self) -> None:
        self.leads: dict[str, Any] = {}
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        graph = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                graph.asked.append((self.path, dict(self.headers)))
                status, headers, body = graph.answer(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    for at in range(len(body)) if "X-Trickle" in headers else ():
                        self.wfile.write(body[at : at + 1])
                        time.sleep(0.1)
                    if "X-Trickle" not in headers:
                        self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v24.0"

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.answers:
            return self.answers.pop(0)
        lead = self.leads.get(path.partition("?")[0].rpartition("/")[2])
        return (404, {}, b"{}") if lead is None else (200, {}, json.dumps(lead).encode())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Ads(Here):
    """A relay with one source of Meta leads."""

    def __init__(self, url: str, folder: Path, graph: Graph, **more: Any) -> None:
        block = {
            "kind": "meta",
            "secrets": ["k"],
            "api_url": graph.url,
            "api_per_second": 1000,
            "page_token": TOKEN,
        }
        super().__init__(url, folder, sources={"ads": {**block, **more}})
        self.graph = graph

    def lead(self, *ids: int) -> None:
        """One delivery with thin changes."""
        changes = [
            {"field": "leadgen", "value": {"leadgen_id": str(n), "page_id": "9", "created_time": AT}} for n in ids
        ]
        self.post_change(*changes)

    def post_change(self, *changes: Any) -> None:
        body = encode_json({"object": "page", "entry": [{"id": "9", "time": AT, "changes": list(changes)}]})
        signed = SIGNED.sign(Request("POST", "", {}, body), "k", time.time_ns())
        answer = self.web.post(
            "/hooks/ads", data=body, headers={**signed.headers, "Content-Type": "application/json"}
        )
        assert answer.status_code == 202, answer.text

    def fetch(self) -> None:
        """The job."""
        fetching.work(self.config, "ads")

    def due(self) -> None:
        """Let whatever waits be due."""
        self.client.delete(keys.resting("ads"))
        for arrival in self.client.zrange(keys.waiting("ads"), 0, -1):
            self.client.zadd(keys.waiting("ads"), {arrival: 0})

    def states(self) -> dict[str, int]:
        assert ledger.audit(self.client, deep=True) == []
        return {state: n for state, n in ledger.read(self.client).events["ads"].items() if n}

    def leads(self) -> list[tuple[Any, ...]]:
        self.drain()
        return self.sql("SELECT leadgen_id, campaign_name, page_id FROM ads_leads ORDER BY 1")


def whole(n: int, **more: Any) -> dict[str, Any]:
    """A lead as the API has it."""
    answers = [{"name": "email", "values": [f"lead{n}@mail.example"]}]
    at = "2026-03-01T08:00:00+0000"
    return {"id": str(n), "created_time": at, "campaign_name": f"c{n}", "field_data": answers, **more}


@pytest.fixture
def graph() -> Iterator[Graph]:
    found = Graph()
    yield found
    found.close()


@pytest.fixture
def here(redis_url: str, tmp_path: Path, graph: Graph) -> Ads:
    return Ads(redis_url, tmp_path, graph)


def test_a_thin_event_waits_is_fetched_and_becomes_whole_rows(here: Ads) -> None:
    here.graph.leads = {"1": whole(1), "2": whole(2)}
    here.lead(1, 2)
    assert here.states() == {"accepted": 2, "waiting": 2}
    here.fetch()
    assert here.states() == {"accepted": 2, "mapped": 2}
    assert here.leads() == [("1", "c1", "9"), ("2", "c2", "9")]
    assert here.sql("SELECT leadgen_id, name FROM ads_lead_fields ORDER BY 1") == [("1", "email"), ("2", "email")]
    path, headers = here.graph.asked[0]
    assert path.startswith("/v24.0/1?fields=")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert not here.client.exists(keys.TRIES)


def test_a_row_is_not_forgotten_while_an_event_that_names_it_waits_to_be_fetched(here: Ads) -> None:
    here.graph.leads = {str(n): whole(n) for n in (1, 2, 11)}
    here.lead(2)
    here.fetch()
    here.drain()
    here.lead(1, 11)
    with pytest.raises(ConfigInvalid, match="1 event of ads with this key in the body still to be fetched"):
        here.run("forget", "ads_leads", "1", "--yes", "--json")
    assert here.run("forget", "ads_leads", "2", "--yes", "--json").exit_code == 0  # what waits is of others
    here.fetch()
    here.drain()
    assert here.run("forget", "ads_leads", "1", "--yes", "--json").exit_code == 0
    assert "lead1@mail.example" not in str(here.sql("SELECT * FROM ads_lead_fields"))
    assert here.sql("SELECT campaign_name FROM ads_leads ORDER BY leadgen_id") == [(None,), ("c11",), (None,)]


def test_a_replay_asks_nobody_and_changes_nothing(here: Ads) -> None:
    here.graph.leads = {"1": whole(1)}
    here.lead(1)
    here.fetch()
    here.drain()
    asked = len(here.graph.asked)
    assert here.rehearse("ads") | {"rows": []} == {
        **here.rehearse("ads"), "inserted": 0, "changed": 0, "rows": [],
    }  # fmt: skip
    here.sql("DELETE FROM ads_leads")
    here.run("replay", "--source", "ads", "--since", "1h")
    assert here.leads() == [("1", "c1", "9")]
    assert len(here.graph.asked) == asked


def test_without_a_token_the_ids_are_a_row_at_once(redis_url: str, tmp_path: Path, graph: Graph) -> None:
    here = Ads(redis_url, tmp_path, graph, page_token=None)
    here.lead(1)
    assert here.states() == {"accepted": 1, "mapped": 1}
    assert here.leads() == [("1", None, "9")]
    assert graph.asked == []


@pytest.mark.parametrize("token", [TOKEN, None], ids=["with a token", "without"])
def test_what_a_sender_says_was_fetched_is_not_believed(
    redis_url: str, tmp_path: Path, graph: Graph, token: str | None
) -> None:
    here = Ads(redis_url, tmp_path, graph, page_token=token)
    value = {"leadgen_id": "1", "page_id": "9", "created_time": AT}
    here.post_change({"field": "leadgen", "value": value, "fetched": whole(1, campaign_name="forged")})
    here.fetch()
    assert here.leads() == [("1", None, "9")]
    assert all(b"forged" not in Codec().unpack(blob).raw for blob in here.client.hvals(keys.EVENTS))
    here.run("replay", "--source", "ads", "--since", "1h")
    assert here.leads() == [("1", None, "9")]


def test_a_token_that_no_header_can_hold_is_put_off(redis_url: str, tmp_path: Path, graph: Graph) -> None:
    here = Ads(redis_url, tmp_path, graph, page_token="tökén☃")
    here.lead(1)
    here.fetch()
    assert here.states() == {"accepted": 1, "waiting": 1}
    assert here.client.exists(keys.resting("ads"))


def test_what_the_vendor_has_no_more_is_a_row_of_ids(here: Ads) -> None:
    here.lead(1)
    here.fetch()
    assert here.states() == {"accepted": 1, "mapped": 1}
    assert here.leads() == [("1", None, "9")]


@pytest.mark.parametrize(
    ("answer", "rests"),
    [
        ((500, {}, b""), False),
        ((200, {}, b"<html>"), False),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), False),
        ((429, {"Retry-After": "7"}, b""), True),
        ((503, {}, b""), True),
        ((401, {}, b""), True),
    ],
    ids=["error", "no json", "redirect", "429", "503", "token"],
)
def test_a_vendor_that_does_not_answer_well_is_asked_again_later(
    here: Ads, answer: tuple[int, dict[str, str], bytes], rests: bool
) -> None:
    here.graph.leads = {"1": whole(1), "2": whole(2)}
    here.graph.answers = [answer]
    here.lead(1)
    here.lead(2)
    here.fetch()
    assert here.client.exists(keys.resting("ads")) == int(rests)
    assert here.states() == {"accepted": 2, "waiting": 2} if rests else {"accepted": 2, "waiting": 1, "mapped": 1}
    assert len(here.graph.asked) == (1 if rests else 2), "one that wants to be left alone is"
    here.fetch()
    assert len(here.graph.asked) == (1 if rests else 2), "nothing is due yet"
    here.due()
    here.fetch()
    assert here.states() == {"accepted": 2, "mapped": 2}
    assert [row[1] for row in here.leads()] == ["c1", "c2"]


def test_an_answer_that_trickles_is_not_waited_for(here: Ads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "WHOLE_S", 0.5)
    here.graph.answers = [(200, {"X-Trickle": "1"}, b" " * 100)]
    here.lead(1)
    began = time.monotonic()
    here.fetch()
    assert time.monotonic() - began < 5
    assert here.states() == {"accepted": 1, "waiting": 1}


def test_an_answer_that_breaks_off_or_is_no_gzip_is_asked_for_again(here: Ads) -> None:
    for headers in ({"Content-Length": "1000"}, {"Content-Encoding": "gzip"}):
        here.graph.answers = [(200, headers, b"{}")]
        here.lead(1)
        here.fetch()
        assert here.states()["waiting"] == 1
        here.due()


def test_one_job_at_a_time_fetches_for_a_source(here: Ads) -> None:
    """Else two would ask twice as often as the vendor allows."""
    here.graph.leads = {"1": whole(1)}
    here.lead(1)
    assert Waiting(here.client).begin("ads")
    here.fetch()
    assert here.graph.asked == []
    Waiting(here.client).end("ads")
    here.fetch()
    assert here.states() == {"accepted": 1, "mapped": 1}
    assert not here.client.exists(keys.fetching("ads"))


def test_after_a_day_the_ids_alone_are_a_row(here: Ads, monkeypatch: pytest.MonkeyPatch) -> None:
    here.graph.answers = [(500, {}, b"")] * 2
    here.lead(1)
    here.fetch()
    assert here.states() == {"accepted": 1, "waiting": 1}
    monkeypatch.setattr(fetching, "GIVE_UP_MS", -1)
    here.due()
    here.fetch()
    assert here.leads() == [("1", None, "9")]


def test_of_events_that_name_one_object_it_is_fetched_once(here: Ads) -> None:
    here.graph.leads = {"1": whole(1)}
    for _ in range(3):
        for key in here.client.scan_iter("rh:seen:*"):  # else it would be a repetition
            here.client.delete(key)
        here.lead(1)
    assert here.states() == {"accepted": 3, "waiting": 3}
    here.fetch()
    assert len(here.graph.asked) == 1
    assert here.states() == {"accepted": 3, "mapped": 3}


def test_what_a_dead_job_held_is_fetched_by_the_next_after_its_lease(here: Ads) -> None:
    here.graph.leads = {"1": whole(1)}
    here.lead(1)
    _, claimed = Waiting(here.client).claim("ads")
    assert len(claimed) == 1
    here.fetch()
    assert here.graph.asked == []
    here.due()
    here.fetch()
    assert here.leads() == [("1", "c1", "9")]
    # And a job that finishes after all, late, changes nothing any more.
    ads = configured.sources_of(here.config)["ads"]
    late = fetching.Fetcher(ads, Waiting(here.client), fetching.Failures(here.client), None)  # type: ignore[arg-type]
    late._one(claimed[0], 0, {})
    assert here.states() == {"accepted": 1, "mapped": 1}


def test_a_whole_object_that_cannot_be_mapped_is_quarantined_and_can_be_retried(here: Ads) -> None:
    here.graph.leads = {"1": whole(1, field_data=[{"values": ["no name"]}])}
    here.lead(1)
    here.fetch()
    assert here.states() == {"accepted": 1, "quarantined": 1}
    dead = json.loads(here.run("dead", "list", "--json").stdout)
    assert "name" in dead[0]["reason"]


def test_what_is_fetched_is_redacted_before_it_is_kept(here: Ads) -> None:
    here.write(
        sources={"ads": {**here.settings["sources"]["ads"], "redact": {"drop": ["fetched.campaign_name"]}}},
    )
    here.graph.leads = {"1": whole(1, note="card 4111 1111 1111 1111 please")}
    here.lead(1)
    here.fetch()
    kept = [Codec().unpack(blob).raw for blob in here.client.hvals(keys.EVENTS)]
    assert b"c1" not in kept[0]
    assert b"4111 1111" not in kept[0]
    assert here.leads() == [("1", None, "9")]


def test_settings_without_a_source_of_which_something_waits_are_refused_or_it_is_given_up(here: Ads) -> None:
    here.lead(1)
    with pytest.raises(ConfigInvalid, match="1 events still wait for source ads"):
        refuse(here.client, ["warehouse"], [])
    assert discard(here.client, ["warehouse"], [], lambda _: {}) == 1
    assert here.states() == {"accepted": 1, "discarded": 1}


def test_the_bell_asks_for_a_job_once_and_stats_say_what_waits(here: Ads) -> None:
    here.lead(1)
    here.lead(2)
    jobs = [job.decode() for job in here.client.lrange("rq:queue:rowhook", 0, -1)]
    assert sum(job.startswith("fetch-ads--") for job in jobs) == 1
    assert "waiting ads: 2 events wait" in here.run("stats").stdout
    here.graph.answers = [(403, {}, b"")]
    here.fetch()
    said = here.run("stats").stdout
    assert "to be fetched: the vendor refuses the token (403): mend it in the source's block" in said


HOSTS = ("api.vendor.example", ".shops.example")


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("https://api.vendor.example/v1/x", True),
        ("https://one.shops.example/x", True),
        ("https://api.vendor.example:443/x", True),
        ("http://api.vendor.example/x", False),
        ("https://api.vendor.example:8443/x", False),
        ("https://api.vendor.example.evil.example/x", False),
        ("https://evilshops.example/x", False),
        ("https://shops.example/x", False),
        ("https://api.vendor.example@evil.example/x", False),
        ("https://user@api.vendor.example/x", False),
        ("https://127.0.0.1/x", False),
        ("https://[::1]/x", False),
        ("file:///etc/passwd", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_only_the_vendors_hosts_are_asked(url: str, is_ours: bool) -> None:
    assert permitted(url, HOSTS, "") is is_ours


def test_the_address_that_the_settings_say_is_permitted_and_its_neighbours_are_not() -> None:
    assert permitted("http://127.0.0.1:81/x", HOSTS, "http://127.0.0.1:81/v1")
    assert not permitted("http://127.0.0.1:82/x", HOSTS, "http://127.0.0.1:81/v1")
    assert not permitted("https://127.0.0.1:81/x", HOSTS, "http://127.0.0.1:81/v1")


@given(st.text())
def test_whatever_retry_after_says_it_is_a_second_to_half_an_hour(text: str) -> None:
    assert 1 <= retry_after_s({"Retry-After": text}, time.time()) <= 1800
