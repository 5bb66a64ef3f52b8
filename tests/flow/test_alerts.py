"""Alerts over a real Valkey to a real HTTP server: said once, again after hours, and when it is over."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import yaml
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result

from relay import telemetry
from relay.alerts import AlertSettings
from relay.buffer import keys, measures, pulse
from relay.buffer.alerts import MOST_UNSENT, Alerts, Notice, State, Unsent, step
from relay.buffer.needs import Need, look
from relay.buffer.refused import Accounts
from relay.cli.main import app
from relay.config import Config, load
from relay.errors import ConfigInvalid
from tests.servers.receiver import Answer, Receiver
from worker import alerting, watching
from worker.keeping import Keeper

ROOT = Path(__file__).parents[2]
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MINUTE, HOUR = 60_000, 3_600_000
RULES = AlertSettings(alert_after_s=300, alert_repeat_hours=12)
ERP = {
    "kind": "custom", "secrets": ["s3cret"], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
    "tables": [{"table": "things", "key": ["id"], "columns": {"id": "id"}}], "to": "warehouse",
}  # fmt: skip
DOWN = Need("destination_troubled", "warehouse", "bad", "Destination warehouse: failing", "It is away.")


def until(done: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


class Relay:
    """A relay with one source and one destination, which tells of what needs somebody."""

    def __init__(self, url: str, folder: Path, *receivers: dict[str, str], **settings: Any) -> None:
        self.client, self.folder, self.path = redis.Redis.from_url(url), folder, folder / "relay.yaml"
        self.settings = {
            "redis_url": url, "archive_days": 0, "alert_after_s": 0, "log_level": "debug", "log_format": "json",
            "sources": {"erp": ERP}, "destinations": {"warehouse": {"kind": "sqlite"}}, "alerts": [*receivers],
            **settings,
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump(self.settings))
        self.alerts = Alerts(self.client)

    @property
    def config(self) -> Config:
        return load(self.path, self.folder)

    def fail(self, why: str = "connection refused") -> None:
        at = keys.destination("warehouse")
        since = str(measures.now_us(self.client) // 1000)
        self.client.hset(at, mapping={"failures": 3, "since": since, "why": why})

    def mend(self) -> None:
        self.client.delete(keys.destination("warehouse"))

    def look(self, keeper: Keeper | None = None) -> None:
        """What a ticker does at its next look, and the job that it asks for."""
        (keeper or Keeper(self.config, self.client)).tick()
        self.deliver()

    def deliver(self) -> None:
        alerting.deliver(self.alerts, self.config.settings)

    def due_now(self) -> None:
        """As if the time had come at which what failed is tried again."""
        for one in self.alerts.unsent():
            self.alerts.later(one, 0, one.tries)

    def command(self, *args: str) -> Result:
        return CliRunner().invoke(app, [*args, "--config", str(self.path), "--data", str(self.folder)])


@pytest.fixture
def server() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture(autouse=True)
def _every_look_counts(monkeypatch):
    telemetry.setup()
    monkeypatch.setattr(watching, "LOOK_S", 0.0)


@pytest.fixture
def relay(redis_url, tmp_path, server) -> Relay:
    return Relay(redis_url, tmp_path, {"url": server.url, "format": "slack"})


# --- what is said, and when ---------------------------------------------------------------------------------


def told(times: dict[int, list[Need]], settings: AlertSettings = RULES) -> list[tuple[int, str]]:
    """What is said at each minute; a list of needs stands from its minute on."""
    states: dict[str, State] = {}
    said, needs = list[tuple[int, str]](), list[Need]()
    for minute in range(max(times) + 1):
        needs = times.get(minute, needs)
        states, notices = step(states, needs, minute * MINUTE + 1, settings)
        said += [(minute, notice.event) for notice in notices]
    return said


def test_what_stands_is_said_once_after_a_while_and_once_more_when_it_is_over():
    assert told({0: [DOWN], 60: [], 120: []}) == [(5, "began"), (65, "recovered")]


def test_what_is_over_before_it_counts_is_never_said():
    assert told({0: [DOWN], 3: [], 60: []}) == []


def test_what_stays_is_said_again_after_hours_or_never():
    assert told({0: [DOWN], 1500: [DOWN]}) == [(5, "began"), (725, "stands"), (1445, "stands")]
    never = AlertSettings(alert_after_s=300, alert_repeat_hours=0)
    assert told({0: [DOWN], 1500: [DOWN]}, never) == [(5, "began")]


def test_what_comes_and_goes_every_other_minute_is_one_alert():
    flapping = {minute: [] if minute % 2 else [DOWN] for minute in range(200)}
    assert told({**flapping, 200: [], 300: []}) == [(6, "began"), (204, "recovered")]


def test_what_returns_again_and_again_must_stand_longer_each_time():
    waves = {minute: [] if minute % 20 >= 10 else [DOWN] for minute in range(24 * 60)}
    said = told(waves)
    assert len(said) <= 8, "seventy-two waves"
    assert said[0] == (5, "began")


def test_what_piles_up_is_said_again_at_ten_times_as_much():
    def letters(n: int) -> list[Need]:
        return [Need("dead_letters", "mbi", "bad", f"{n} rows", "…", count=n)]

    assert told({0: letters(3), 10: letters(29), 20: letters(30), 40: letters(299), 50: letters(299)}) == [
        (5, "began"), (20, "grew"),
    ]  # fmt: skip


def test_a_paused_destination_is_left_alone_for_half_a_day():
    paused = Need("destination_paused", "mbi", "warn", "…", "…", patience_s=12 * 3600)
    assert told({0: [paused], 719: [paused]}) == []
    assert told({0: [paused], 721: [paused]}) == [(720, "began")]


def test_a_few_unsigned_requests_wake_nobody_and_many_do():
    def refused(n: int) -> list[Need]:
        return [Need("signatures_refused", "erp", "bad", "…", "…", count=n, least=10)]

    assert told({0: refused(5), 10: refused(14), 20: refused(15), 30: refused(15)}) == [(20, "began")]
    assert told({0: [Need("x", "", "warn", "…", "…", rings=False)], 30: []}) == []


# --- how it is sent -----------------------------------------------------------------------------------------


def test_a_beginning_and_a_recovery_are_one_message_each_however_many_look(relay, server):
    relay.fail()
    keepers = [Keeper(relay.config, redis.Redis.from_url(relay.config.redis_url())) for _ in range(2)]
    for _ in range(3):
        together = [threading.Thread(target=keeper.tick) for keeper in keepers]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
        relay.deliver()
    (text,) = server.texts
    assert text.startswith("rowhook: Destination warehouse: failing\nFailing since ")
    assert "connection refused. 0 events wait." in text
    relay.mend()
    for keeper in [*keepers, Keeper(relay.config, relay.client)]:  # and one that was just started
        relay.look(keeper)
    assert server.texts[1:] == ["rowhook: Over after 0 s: Destination warehouse: failing"]
    assert relay.alerts.unsent() == []


def test_of_many_who_look_at_the_same_moment_one_says_it(relay):
    together, said = threading.Barrier(8), list[Notice]()

    def note(n: int) -> None:
        with redis.Redis.from_url(relay.config.redis_url()) as client:
            client.ping()
            together.wait()
            said.extend(Alerts(client).note([DOWN], 1_000_000 + n, relay.config.settings))

    for _ in range(5):
        relay.client.delete(keys.ALERTED, keys.UNSENT)
        said.clear()
        threads = [threading.Thread(target=note, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(said) == len(relay.alerts.unsent()) == 1


def test_what_a_hand_left_in_redis_ends_neither_the_ticker_nor_alerts(relay, server, caplog):
    relay.client.hset(keys.ALERTED, "destination_troubled|warehouse", b"rubbish")
    relay.client.hset(keys.UNSENT, "rubbish", b"rubbish")
    relay.fail()
    relay.look()
    assert len(server.requests) == 1
    assert relay.alerts.unsent() == []
    relay.client.hset(keys.destination("warehouse"), "failures", "rubbish")
    relay.look()
    assert "needs_not_seen" in caplog.text


def test_two_real_workers_and_a_restart_send_nothing_twice_and_log_no_secret(redis_url, tmp_path, server):
    relay = Relay(
        redis_url, tmp_path, {"url": server.url, "format": "slack"},
        {"url": f"http://ann:passw0rd@{server.host}/hook?token=querytoken", "format": "standard", "secret": KEY},
    )  # fmt: skip
    relay.fail()
    server.answers(503)
    with running(relay, 2) as logs:
        until(lambda: len(server.requests) == 3)  # one of the two was tried again
        until(lambda: relay.alerts.unsent() == [])
    relay.mend()
    with running(relay, 1) as more:
        until(lambda: len(server.requests) == 5)
        until(lambda: relay.alerts.unsent() == [])
    kinds = sorted(posted.json.get("type", "slack") for posted in server.requests)
    assert kinds in (
        ["alert.began", "alert.recovered", "slack", "slack", "slack"],
        ["alert.began", "alert.began", "alert.recovered", "slack", "slack"],
    )
    text = logs[0] + more[0]
    assert '"event": "alert_sent"' in text
    assert '"event": "alert_put_off"' in text
    assert '"event": "destination_troubled"' in text, "the log says it too"
    for secret in ("SECRET", "pathtoken", "passw0rd", "querytoken", KEY, KEY.removeprefix("whsec_")):
        assert secret not in text
        assert not any(secret.encode() in (relay.client.dump(key) or b"") for key in relay.client.keys("rh:aler*"))


class running:  # noqa: N801 - reads as a function
    """Real worker halves; their log is in the list once they have ended."""

    def __init__(self, relay: Relay, number: int) -> None:
        environment = {**os.environ, "RELAY_CONFIG": str(relay.path), "RELAY_DATA": str(relay.folder)}
        self.workers = [
            subprocess.Popen([sys.executable, "-m", "worker"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
            for _ in range(number)
        ]
        self.log: list[str] = []

    def __enter__(self) -> list[str]:
        return self.log

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        self.log.append("".join(worker.communicate(timeout=60)[1].decode() for worker in self.workers))


def test_a_standard_webhook_is_signed_as_its_library_verifies_and_a_repetition_keeps_its_id(
    redis_url, tmp_path, server
):
    relay = Relay(redis_url, tmp_path, {"url": server.url, "format": "standard", "secret": KEY})
    relay.fail("it said <no>")
    server.answers(500)
    relay.look()
    relay.due_now()
    relay.deliver()
    first, second = server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    for posted in (first, second):
        event = Webhook(KEY).verify(posted.body, posted.headers)
        assert event["type"] == "alert.began"
        assert event["data"]["kind"] == "destination_troubled"
        assert event["data"]["about"] == "warehouse"
        assert "it said <no>." in event["data"]["why"]


@pytest.mark.parametrize("answer", [
    Answer(503), Answer(429, {"Retry-After": "7"}), Answer(401), Answer(302, {"Location": "http://127.0.0.1:1/x"}),
], ids=["503", "429", "401", "redirect"])  # fmt: skip
def test_what_is_not_taken_is_tried_again_and_what_comes_after_it_waits(relay, server, answer):
    server.answers(answer)
    relay.fail()
    relay.look()
    (waits,) = relay.alerts.unsent()
    relay.alerts.later(waits, waits.due_ms + HOUR, waits.tries)
    relay.client.hset(keys.LEDGER, "e|erp|accepted", 5)  # a second alert
    relay.look()
    assert len(server.requests) == 1, "no redirect is followed, and the receiver is left alone"
    relay.due_now()
    relay.deliver()
    assert [text.split("\n")[0] for text in server.texts[1:]] == [
        "rowhook: Destination warehouse: failing", "rowhook: The ledger does not balance",
    ]  # fmt: skip
    assert relay.alerts.unsent() == []


def test_retry_after_is_kept(relay, server):
    server.answers(Answer(429, {"Retry-After": "70"}))
    relay.fail()
    relay.look()
    (waits,) = relay.alerts.unsent()
    assert waits.tries == 1
    assert waits.due_ms - measures.now_us(relay.client) // 1000 > 60_000
    relay.deliver()
    assert len(server.requests) == 1, "it is not due"


def test_what_a_receiver_will_never_take_is_given_up_and_said(relay, server, caplog):
    server.answers(Answer(404, {}, b"no_service pathtoken"))
    relay.fail()
    relay.look()
    assert relay.alerts.unsent() == []
    assert "pathtoken" not in caplog.text
    assert "alert_given_up" in caplog.text


def test_a_receiver_that_is_down_loses_nothing_within_a_day_and_holds_up_nobody(redis_url, tmp_path, server):
    away = {"url": "http://127.0.0.1:1/hook-secret", "format": "slack"}
    relay = Relay(redis_url, tmp_path, away, {"url": server.url, "format": "slack"})
    relay.fail()
    relay.look()
    assert len(server.requests) == 1
    (waits,) = relay.alerts.unsent()
    relay.client.hset(keys.UNSENT, waits.field, encoded(waits, at_ms=1))  # as if it were of 1970
    relay.due_now()
    relay.deliver()
    assert relay.alerts.unsent() == []


def encoded(one: Unsent, **changes: Any) -> bytes:
    notice = msgspec.structs.replace(one.notice, **changes)
    return msgspec.msgpack.encode(msgspec.structs.replace(one, notice=notice))


def test_a_slow_receiver_holds_up_neither_the_ticker_nor_another_receiver(
    redis_url, tmp_path, server, monkeypatch
):
    monkeypatch.setattr(alerting, "TIMEOUT_S", 1.0)
    gate = threading.Event()
    with Receiver() as slow:
        slow.answers(Answer(gate=gate))
        relay = Relay(redis_url, tmp_path, *({"url": one.url, "format": "slack"} for one in (slow, server)))
        relay.fail()
        keeper = Keeper(relay.config, relay.client)
        keeper.tick()
        sending = threading.Thread(target=relay.deliver)
        sending.start()
        until(lambda: len(server.requests) == 1)
        keeper.tick()  # it asks for a job, and waits for none
        sending.join()
        gate.set()
        assert len(relay.alerts.unsent()) == 1, "nobody knows whether the slow one took it"


def test_what_may_wait_is_bounded_and_the_oldest_go(relay):
    for n in range(MOST_UNSENT + 5):
        notice = Notice(f"msg_{n}", "began", "x", "", "bad", "…", "…", n, n, 0)
        relay.alerts.later(Unsent("r", notice, 0), 0, 0)
    left = relay.alerts.unsent()
    assert len(left) == MOST_UNSENT
    assert left[0].notice.id == "msg_5"
    relay.deliver()
    assert relay.alerts.unsent() == [], "the receiver is no longer in the settings"


def test_what_others_wrote_is_inert_and_bounded_in_a_message(relay, server):
    relay.fail("<!channel> <http://evil.example|click> & [x](http://evil.example) @here\x1b[31m\n" + "a" * 9999)
    relay.look()
    (text,) = server.texts
    assert "<" not in text
    assert "&lt;!channel&gt;" in text
    assert "&amp;" in text
    assert "](" not in text
    assert "@here" not in text
    assert "\x1b" not in text
    assert len(text) < 2_500


def test_the_librarys_own_log_holds_no_address(relay, server, caplog):
    """Some lines of it do, such as of each request at DEBUG."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")
    relay.fail()
    relay.look()
    assert len(server.requests) == 1
    assert "POST" in caplog.text
    assert "SECRET" not in caplog.text
    assert "pathtoken" not in caplog.text


# --- what needs a person ------------------------------------------------------------------------------------


def kinds(relay: Relay) -> dict[str, Need]:
    return {need.kind: need for need in look(relay.client, relay.config) if need.rings}


def test_what_rings_is_found_in_the_buffer_and_says_what_to_do(relay):
    assert kinds(relay) == {}
    now_s = measures.now_us(relay.client) // 1_000_000
    relay.client.hset(keys.LEDGER, mapping={"e|erp|accepted": 12, "e|erp|quarantined": 4, "e|erp|mapped": 7})
    relay.client.hset(keys.LEDGER, mapping={f"r|erp|warehouse|erp_things|{s}": 2 for s in ("emitted", "dead")})
    account = pulse.Account(12, now_s - 30 * 86_400, now_s - 86_400, moves=99, mean=60.0, said=True)
    looked = {"erp": encode(account), "*": str(now_s - 900)}
    relay.client.hset(keys.PULSE, mapping=looked)
    Accounts(relay.client).note("erp", 3, "signature_wrong", "secret", "The secret has a line end behind it.")
    relay.fail()
    found = kinds(relay)
    assert set(found) == {
        "ledger_residual", "no_worker", "destination_troubled", "quarantine", "dead_letters", "signatures_refused",
        "source_silent",
    }  # fmt: skip
    assert found["signatures_refused"].why.startswith("The secret has a line end behind it. The last was ")
    assert found["dead_letters"].what == "2 rows will never be taken by warehouse as they are"
    assert found["quarantine"].what == "4 events of erp could not be read or mapped"
    assert "Events of erp: accepted differs from the sum of its states by +1." in found["ledger_residual"].why
    assert "15 min" in found["no_worker"].why


def encode(account: pulse.Account) -> bytes:
    return msgspec.msgpack.encode(account)


def test_refused_deliveries_are_an_alert_at_once_only_where_no_other_is_taken(relay):
    now_s = measures.now_us(relay.client) // 1_000_000
    Accounts(relay.client).note("erp", 1, "signature_missing", "unknown", "Nobody signed it.")
    assert kinds(relay)["signatures_refused"].least > 0, "whoever knows the address may post rubbish"
    Accounts(relay.client).note("erp", 1, "signature_wrong", "secret", "Another secret.")
    assert kinds(relay)["signatures_refused"].least == 0
    relay.client.hset(keys.PULSE, "erp", encode(pulse.Account(5, now_s - 900, now_s + 5)))
    assert kinds(relay)["signatures_refused"].least > 0, "others are taken"


def test_budgets_are_an_alert_before_they_are_full(redis_url, tmp_path):
    relay = Relay(redis_url, tmp_path, max_pending_bytes=1_000_000, max_source_bytes=900_000)
    relay.client.hset(keys.BYTES, mapping={"*": 750_000, "erp": 750_000})
    assert set(kinds(relay)) == {"budget_near", "source_budget_near"}
    relay.client.hset(keys.BYTES, mapping={"*": 850_000, "erp": 850_000})
    assert set(kinds(relay)) == {"buffer_full", "source_budget_near"}


# --- commands and settings ----------------------------------------------------------------------------------


def test_the_commands_list_what_stands_and_test_who_is_told(relay, server):
    relay.fail()
    relay.look()
    listed = relay.command("alerts", "list")
    assert "bad  destination_troubled: Destination warehouse: failing  (alerted 20" in listed.output
    (one, *_) = json.loads(relay.command("alerts", "list", "--json").output)
    assert one["kind"] == "destination_troubled"
    assert one["alerted"] is not None
    tested = relay.command("alerts", "test")
    assert tested.exit_code == 0, tested.output
    assert tested.output == f"{server.host} (slack) took it: 200 ok\n"
    assert server.texts[-1].startswith("rowhook: This is a test of rowhook's alerts\n")
    server.answers(Answer(403, {}, b"invalid_token pathtoken"))
    refused = relay.command("alerts", "test")
    assert refused.exit_code == 1
    assert "did not take it" in refused.output
    assert "403" in refused.output
    assert "pathtoken" not in refused.output


@pytest.mark.parametrize(("block", "fault"), [
    ({"url": "https://hooks.example.com/x", "format": "slack", "secret": KEY}, "signs nothing"),
    ({"url": "https://hooks.example.com/x", "format": "standard"}, "needs a `secret`"),
    ({"url": "https://hooks.example.com/x", "format": "standard", "secret": "whsec_c2hvcnQ="}, "24 to 64"),
    ({"url": "https://hooks.example.com/x", "format": "standard", "secret": "no base64"}, "24 to 64"),
    ({"url": "hooks.example.com/x", "format": "slack"}, "must be http(s)://host"),
    ({"url": "https://a b/x", "format": "slack"}, "must be http(s)://host"),
    ({"url": "https://hooks.example.com/x", "format": "teams"}, "'slack' or 'standard'"),
    ({"url": "https://hooks.example.com/x", "format": "slack", "chanel": "x"}, "unknown setting"),
])  # fmt: skip
def test_check_names_the_line_of_a_receiver_that_cannot_be_and_not_its_secret(redis_url, tmp_path, block, fault):
    relay = Relay(redis_url, tmp_path, block)
    with pytest.raises(ConfigInvalid) as raised:
        _ = relay.config
    assert "relay.yaml:" in str(raised.value)
    assert "alerts.0" in str(raised.value)
    assert fault in str(raised.value)
    assert block["url"] not in str(raised.value)
    assert block.get("secret", KEY) not in str(raised.value)
