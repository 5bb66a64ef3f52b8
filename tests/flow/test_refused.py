"""Refused deliveries: the operator learns why, the caller does not; what is kept is sealed and bounded."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner, Result

from relay import config as configuration
from relay.app import create_app
from relay.buffer import keys, ledger, refused
from relay.buffer.refused import Accounts, Refused, Room
from relay.buffer.seal import of_refused
from relay.cli.main import app
from relay.config import load
from relay.configured import sources_of
from relay.errors import ConfigInvalid, SealBroken
from relay.records import NS, Request
from relay.source import sample_request

RIGHT, WRONG, PLANTED = "the-right-s3cret", "a-wrong-s3cret", "planted@example.com"
GENERIC = {"error": "the request could not be authenticated"}
KEY = "a long text that only the settings hold"


def until(done: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


class Relay:
    """A relay of several sources in one process, whose settings can be mended."""

    def __init__(self, url: str, folder: Path, capsys: Any):
        self.capsys, self._log = capsys, ""
        self.url, self.folder, self.path = url, folder, folder / "relay.yaml"
        self.client = redis.Redis.from_url(url)
        self.apps: list[Any] = []
        self.stay: dict[str, Any] = {"keep_refused": True, "refused_key": KEY, "refused_per_second": 1000}
        self.write()

    def write(self, shop: str = WRONG, *, more: dict[str, Any] | None = None, **sources: Any) -> None:
        named: dict[str, Any] = {
            "shop": {"kind": "shopify", "secrets": [shop]},
            "second": {"kind": "shopify", "secrets": ["the-second-s3cret"]},
            "pay": {"kind": "stripe", "secrets": ["pay-s3cret"]},
            "new": {"kind": "shopify"},
            **sources,
        }
        settings = {"redis_url": self.url, "linger_ms": 0, **self.stay, **(more or {}), "sources": named}
        self.path.write_text(yaml.safe_dump(settings, sort_keys=False))
        self.apps.append(create_app(load(self.path, self.folder)))
        self.web = self.apps[-1].test_client()

    def signed(
        self, source: str = "shop", secret: str = RIGHT, n: int = 1, now: int | None = None, url: str = ""
    ) -> Request:
        chosen = sources_of(load(self.path, self.folder))[source]
        now = now or time.time_ns()
        make = next(iter(chosen.vendor.samples.values()))
        plain = sample_request(make(n, now), url or f"http://localhost/hooks/{source}")
        return chosen.verifier.sign(plain, secret, now)

    def post(self, source: str, request: Request) -> Any:
        return self.web.post(f"/hooks/{source}", data=request.body, headers=dict(request.headers))

    def refused(self, source: str = "shop", secret: str = RIGHT, n: int = 1) -> Request:
        """Post what is signed with a secret that is not configured."""
        request = self.signed(source, secret, n)
        answer = self.post(source, request)
        assert (answer.status_code, answer.get_json()) == (401, GENERIC)
        return request

    def run(self, *args: str) -> Result:
        result = CliRunner().invoke(app, [*args, "--config", str(self.path), "--data", str(self.folder)])
        self._log += result.stderr  # what the web half's threads log meanwhile goes there too
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def doctor(self, source: str = "shop") -> dict[str, Any] | None:
        found = json.loads(self.run("doctor", "--json").stdout)["sources"]
        return next((one for one in found if one["source"] == source), None)

    def kept(self, *args: str) -> list[dict[str, Any]]:
        return list(json.loads(self.run("refused", "list", "--json", *args).stdout))

    def retry(self, *args: str) -> tuple[int, dict[str, Any]]:
        result = self.run("refused", "retry", "--json", *args)
        return result.exit_code, json.loads(result.stdout)

    def events(self, source: str = "shop") -> dict[str, int]:
        return ledger.read(self.client).events.get(source, {})

    def log(self) -> str:
        """All that was logged so far."""
        self._log += self.capsys.readouterr().err
        return self._log

    def memory(self) -> int:
        """Bytes that Redis says all of it takes."""
        return sum(self.client.memory_usage(key, samples=0) or 0 for key in self.client.scan_iter("rh:refused*"))


@pytest.fixture
def here(redis_url: str, tmp_path: Path, capsys: Any) -> Iterator[Relay]:
    relay = Relay(redis_url, tmp_path, capsys)
    yield relay
    for one in relay.apps:
        one.extensions["rowhook"].refusals.close(30)  # it would write into the next test
    relay.client.close()


# --- the doctor ---------------------------------------------------------------------------------------


def test_a_refusal_is_explained_to_the_operator_and_its_answer_stays_as_it_was(here: Relay) -> None:
    here.write(shop=f"{RIGHT}\n")
    here.refused()
    account = until(here.doctor)
    assert account["refused"] == 1
    (finding,) = account["findings"]
    assert finding["reason"] == "signature_wrong"
    assert finding["kind"] == "secret"
    assert "white space or a line end around it" in finding["hypothesis"]
    logged = here.log()
    (line,) = [json.loads(x) for x in logged.splitlines() if '"signature_refused"' in x]
    assert (line["source"], line["kind"], line["hypothesis"]) == ("shop", "secret", finding["hypothesis"])
    assert RIGHT not in logged
    assert RIGHT not in str(here.client.hgetall(keys.REFUSALS))


def test_the_source_whose_secret_fits_is_named(here: Relay) -> None:
    here.refused(secret="the-second-s3cret")
    assert "the source second" in until(here.doctor)["findings"][0]["hypothesis"]


def test_a_gzip_body_is_looked_at_as_its_sender_signed_it(here: Relay) -> None:
    here.write(shop=f" {RIGHT}")
    request = here.signed()
    headers = {**request.headers, "content-encoding": "gzip"}
    answer = here.web.post("/hooks/shop", data=gzip.compress(request.body), headers=headers)
    assert (answer.status_code, answer.get_json()) == (401, GENERIC)
    assert until(here.doctor)["findings"][0]["kind"] == "secret"


def test_an_address_that_a_proxy_changed_is_named_and_what_was_kept_fits_once_it_is_mended(here: Relay) -> None:
    public = "https://shop.example/in/erp"
    source = {
        "kind": "custom",
        "secrets": [RIGHT],
        "verify": {"hmac": {"header": "X-Sign", "message": "{url}{body}"}},
        "tables": [{"table": "things", "key": ["id"]}],
    }
    here.write(erp=source)
    body = b'{"id": 1}'
    proof = hmac.new(RIGHT.encode(), f"{public}?a=1".encode() + body, hashlib.sha256).hexdigest()
    proxied = {
        "X-Sign": proof,
        "X-Forwarded-Host": "shop.example",
        "X-Forwarded-Proto": "https",
        "Content-Type": "application/json",
    }
    assert here.web.post("/hooks/erp?a=1", data=body, headers=proxied).status_code == 401
    until(lambda: here.kept("--source", "erp"))
    here.write(erp={**source, "public_url": public})
    code, done = here.retry()
    assert (code, len(done["accepted"])) == (0, 1)
    assert here.events("erp") == {"accepted": 1, "mapped": 1}


def test_every_refusal_is_counted_and_few_are_looked_at(here: Relay) -> None:
    started = time.monotonic()
    request = here.signed()
    for _ in range(60):
        assert here.post("shop", request).status_code == 401
    seconds = time.monotonic() - started
    account = until(lambda: (a := here.doctor()) and a["refused"] == 60 and a)
    assert sum(f["count"] for f in account["findings"]) <= seconds + 2


def test_a_burst_that_ends_is_counted_without_another_refusal(here: Relay) -> None:
    request = here.signed()
    assert here.post("shop", request).status_code == 401
    until(lambda: here.client.exists(keys.REFUSALS))  # it was looked at; those of the same second only count
    for _ in range(5):
        assert here.post("shop", request).status_code == 401
    until(lambda: (a := here.doctor()) and a["refused"] == 6)


def test_only_deliveries_that_are_refused_for_their_proof_are_in_the_account(here: Relay) -> None:
    here.write(shop=RIGHT)
    assert here.post("shop", here.signed()).status_code == 202
    assert here.post("new", here.signed("new")).status_code == 503
    assert here.web.post("/hooks/nobody").status_code == 404
    here.refused("second")
    until(lambda: here.doctor("second"))
    assert [s["source"] for s in json.loads(here.run("doctor", "--json").stdout)["sources"]] == ["second"]


def test_the_doctor_speaks_of_one_source_or_of_all_in_plain_words(here: Relay) -> None:
    assert "nothing was refused" in here.run("doctor").stdout
    here.refused()
    here.refused("pay", "unknown")
    until(lambda: here.doctor("shop") and here.doctor("pay"))
    both, one = here.run("doctor").stdout, here.run("doctor", "pay").stdout
    assert "shop: 1 refused" in both
    assert "pay: 1 refused" in both
    assert "[signature_wrong] Nothing that was tried fits" in one
    assert "shop" not in one
    with pytest.raises(ConfigInvalid, match="there is no source 'nobody'"):
        here.run("doctor", "nobody")


def test_an_account_is_small_however_many_things_go_wrong(here: Relay) -> None:
    accounts = Accounts(here.client)
    for n in range(30):
        accounts.note("shop", 2, "signature_wrong", f"kind {n}", f"sentence {n}")
    accounts.note("shop", 5)
    accounts.note("shop", 1, "signature_wrong", "kind 27", "newer sentence")
    account = accounts.every()["shop"]
    assert account.refused == 66
    assert [f.hypothesis for f in account.findings][:3] == ["newer sentence", "sentence 29", "sentence 28"]
    assert len(account.findings) == refused.FINDINGS
    assert account.findings[0].times == 2
    assert 0 < here.client.pttl(keys.REFUSALS) <= refused.REMEMBERED_MS


def test_rubbish_with_ever_other_words_does_not_push_out_a_finding(here: Relay) -> None:
    here.write(shop=f"{RIGHT}\n")
    here.refused()
    until(here.doctor)
    accounts = Accounts(here.client)
    for n in range(50):
        accounts.note("shop", 1, "signature_missing", "unknown", f"the header x-{n} came")
    account = accounts.every()["shop"]
    assert [(f.kind, f.times) for f in account.findings] == [("unknown", 50), ("secret", 1)]
    assert account.findings[0].hypothesis == "the header x-49 came"


def test_an_account_that_begins_with_a_bare_count_is_read(here: Relay) -> None:
    accounts = Accounts(here.client)
    accounts.note("shop", 3)
    assert (accounts.every()["shop"].refused, accounts.every()["shop"].findings) == (3, [])


# --- what is kept -------------------------------------------------------------------------------------


def test_nothing_is_kept_unless_it_is_wished(here: Relay) -> None:
    here.stay = {}
    here.write()
    here.refused()
    until(here.doctor)
    assert here.kept() == []
    assert "keep_refused is off" in here.run("refused", "list").stdout
    with pytest.raises(ConfigInvalid, match="refused_key"):
        here.run("refused", "retry")


def test_once_the_secret_is_mended_what_was_kept_is_taken_and_let_go(here: Relay) -> None:
    for n in range(3):
        here.refused(n=n)
    until(lambda: len(here.kept()) == 3)
    assert here.events() == {}
    code, done = here.retry()
    assert (code, done["accepted"], len(done["failed"])) == (1, [], 3)
    assert len(here.kept()) == 3
    here.write(shop=RIGHT)
    code, done = here.retry()
    assert code == 0
    assert [one["duplicate"] for one in done["accepted"]] == [False] * 3
    assert all(one["rows"] > 0 and one["event"] for one in done["accepted"])
    assert here.events() == {"accepted": 3, "mapped": 3}
    assert here.kept() == []
    assert {int(n) for n in here.client.hvals(keys.REFUSED_BYTES)} == {0}
    assert here.retry() == (0, {"accepted": [], "failed": {}})


def test_one_source_can_be_tried_alone(here: Relay) -> None:
    here.refused("shop")
    here.refused("second")
    until(lambda: len(here.kept()) == 2)
    (entry,) = here.kept("--source", "second")
    assert entry["reason"] == "signature_wrong"
    here.write(shop=RIGHT)
    assert len(here.retry("--source", "second")[1]["failed"]) == 1
    assert len(here.retry("--source", "shop")[1]["accepted"]) == 1
    assert [e["source"] for e in here.kept()] == ["second"]
    assert "1 still refused" in here.run("refused", "retry").stdout


def test_the_vendors_own_repetition_makes_a_duplicate_of_what_was_kept(here: Relay) -> None:
    request = here.refused()
    until(here.kept)
    here.write(shop=RIGHT)
    event = here.post("shop", request).get_json()["id"]
    code, done = here.retry()
    assert code == 0
    assert [(one["event"], one["duplicate"], one["rows"]) for one in done["accepted"]] == [(event, True, 0)]
    assert here.events() == {"accepted": 2, "mapped": 1, "duplicate": 1}


def test_a_timed_signature_is_verified_as_of_its_receipt(here: Relay) -> None:
    then = time.time_ns() - 7200 * NS
    request = here.signed("pay", "pay-s3cret", now=then)
    assert here.post("pay", request).status_code == 401  # two hours later it is stale
    room = Room(10**6, 10**6, 10**6)
    kept = Refused(here.client, of_refused(KEY))
    assert kept.keep("pay", request, then + NS, "signature_wrong", room)
    assert kept.keep("pay", request, then + 400 * NS, "signature_wrong", room)  # it was stale when it came
    _, done = here.retry()
    assert len(done["accepted"]) == 1
    assert ["timestamp" in why for why in done["failed"].values()] == [True]
    assert here.events("pay")["accepted"] == 1


def test_what_no_secret_could_mend_is_not_kept(here: Relay) -> None:
    here.write(more={"refused_request_max_bytes": 20_000})
    unsigned = here.signed()
    headers = {k: v for k, v in unsigned.headers.items() if k != "x-shopify-hmac-sha256"}
    assert here.web.post("/hooks/shop", data=unsigned.body, headers=headers).status_code == 401
    stale = here.signed("pay", "pay-s3cret", now=time.time_ns() - 900 * NS)
    assert here.post("pay", stale).status_code == 401
    large = base64.b64encode(hmac.new(b"any", b"x" * 30_000, "sha256").digest()).decode()
    headers = {**unsigned.headers, "x-shopify-hmac-sha256": large}
    assert here.web.post("/hooks/second", data=b"x" * 30_000, headers=headers).status_code == 401
    here.refused()  # only this one
    until(here.kept)
    until(lambda: all(here.doctor(name) for name in ("shop", "pay", "second")))
    assert [entry["source"] for entry in here.kept()] == ["shop"]


def test_nothing_that_is_kept_is_found_in_the_clear(here: Relay) -> None:
    here.write(erp={
        "kind": "custom", "secrets": [WRONG], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
        "redact": {"drop": ["email"]}, "tables": [{"table": "things", "key": ["id"]}],
    })  # fmt: skip
    body = json.dumps({"type": "t", "id": 1, "email": PLANTED})
    headers = {"X-Key": RIGHT, "Content-Type": "application/json"}
    answer = here.web.post("/hooks/erp?of=planted-query", data=body, headers=headers)
    assert (answer.status_code, answer.get_json()) == (401, GENERIC)
    until(here.kept)
    until(lambda: here.doctor("erp"))

    def everywhere() -> bytes:
        folder = Path(here.client.config_get("dir")["dir"])
        files = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
        dumps = [here.client.dump(key) or b"" for key in here.client.scan_iter("*")]
        logs, out = here.log().encode(), here.run("refused", "list").stdout.encode()
        return b"".join([*files, *dumps, logs, out])

    found = everywhere()
    assert b"rh:refused" in found
    for secret in (PLANTED, RIGHT, "planted-query", KEY):
        assert secret.encode() not in found
    here.write(erp={
        "kind": "custom", "secrets": [RIGHT], "verify": {"token": {"header": "X-Key"}}, "type": "body.type",
        "redact": {"drop": ["email"]}, "tables": [{"table": "things", "key": ["id"]}],
    })  # fmt: skip
    assert here.retry()[0] == 0
    assert here.events("erp") == {"accepted": 1, "mapped": 1}
    assert PLANTED.encode() not in everywhere()  # the rules hold for what is taken then


def test_under_another_key_it_stays_shut_and_stays_kept(here: Relay) -> None:
    here.refused()
    until(here.kept)
    here.write(shop=RIGHT, more={"refused_key": "another"})
    code, done = here.retry()
    assert code == 1
    assert list(done["failed"].values()) == ["sealed under another refused_key, or damaged"]
    here.write(shop=RIGHT)
    assert len(here.retry()[1]["accepted"]) == 1


def test_a_seal_holds_for_one_request_of_one_source_only() -> None:
    seal = of_refused(KEY)
    sealed = seal.close(b"body", "id|shop")
    assert of_refused(KEY).open(sealed, "id|shop") == b"body"
    assert seal.close(b"body", "id|shop") != sealed
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for broken, about in ((sealed, "id|other"), (sealed, "no|shop"), (changed, "id|shop"), (b"", "id|shop")):
        with pytest.raises(SealBroken):
            seal.open(broken, about)


def test_after_its_time_a_request_is_gone_and_its_room_is_free(here: Relay, monkeypatch: Any) -> None:
    room = Room(100_000, 2_000, 100_000)
    kept = Refused(here.client, of_refused(KEY))
    request = here.signed()
    assert kept.keep("erp", Request("POST", "u", {}, b"x" * 1000), 1, "signature_wrong", room)
    assert 0 < here.client.pttl(keys.REFUSED) <= refused.KEPT_MS
    (entry,) = kept.every()
    assert 0 < here.client.pttl(keys.refused(entry.id)) <= refused.KEPT_MS
    assert not kept.keep("erp", Request("POST", "u", {}, b"x" * 1000), 1, "signature_wrong", room)
    here.client.flushall()
    monkeypatch.setattr(refused, "KEPT_MS", 400)
    assert kept.keep("shop", request, 1, "signature_wrong", Room(10**5, 10**5, 10**5))
    until(lambda: not list(kept.every()))
    until(lambda: not list(here.client.scan_iter("rh:refused*")))
    small = Request("POST", "u", {}, b"x" * 1000)
    assert kept.keep("erp", small, 1, "signature_wrong", room)
    monkeypatch.setattr(refused, "KEPT_MS", 60_000)
    # The first goes while the index lives on: what it took is given back as soon as room is wanted.
    assert kept.keep("shop", small, 1, "signature_wrong", room)
    monkeypatch.setattr(refused, "KEPT_MS", 1)
    until(lambda: kept.keep("erp", small, 1, "signature_wrong", room))


# --- bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 300, 5_000, 60_000])
def test_a_flood_of_forged_requests_stays_within_its_bytes(here: Relay, size: int) -> None:
    room = Room(total=400_000, source=150_000, request=100_000)
    kept = Refused(here.client, of_refused(KEY))
    before = here.client.info("memory")["used_memory"]
    results = [
        kept.keep(f"source{n % 4}", Request("POST", "u", {}, bytes(size)), n, "signature_wrong", room)
        for n in range(2_000)
    ]
    assert any(results)
    assert not all(results)
    assert here.memory() <= room.total
    # Beside the keys: what the server's own tables grew by.
    assert here.client.info("memory")["used_memory"] - before <= room.total + 400_000
    held = {name.decode(): int(n) for name, n in here.client.hgetall(keys.REFUSED_BYTES).items()}
    assert held.pop("*") == sum(held.values()) <= room.total
    assert max(held.values()) <= room.source


def test_a_flood_through_the_web_neither_grows_nor_pushes_out_what_was_there(here: Relay) -> None:
    here.write(more={"refused_max_bytes": 300_000, "refused_source_max_bytes": 100_000})
    first = here.refused(n=1)
    until(here.kept)
    forged = here.signed(secret="nobody")
    body = forged.body + b" " * 5_000
    for n in range(400):
        answer = here.web.post("/hooks/shop", data=body + str(n).encode(), headers=dict(forged.headers))
        assert (answer.status_code, answer.get_json()) == (401, GENERIC)
    account = until(lambda: (a := here.doctor()) and a["refused"] == 401 and a)
    until(lambda: "no room" in here.log())
    assert here.memory() <= 100_000
    assert account["findings"]
    here.write(shop=RIGHT, more={"refused_max_bytes": 300_000, "refused_source_max_bytes": 100_000})
    _, done = here.retry()
    assert len(done["accepted"]) == 1
    assert done["failed"]
    assert here.post("shop", first).get_json()["duplicate"] is True


def test_no_more_requests_a_second_are_kept_than_the_settings_say(here: Relay) -> None:
    here.write(more={"refused_per_second": 2})
    request, started = here.signed(), time.monotonic()
    for _ in range(100):
        assert here.post("shop", request).status_code == 401
    seconds = time.monotonic() - started
    until(lambda: (a := here.doctor()) and a["refused"] == 100)
    assert 1 <= len(here.kept()) <= 2 * (seconds + 2)


def test_a_redis_that_is_full_changes_neither_the_answer_nor_the_relay(here: Relay) -> None:
    here.client.config_set("maxmemory", "1")
    try:
        here.refused()
        until(lambda: '"refused_not_kept"' in here.log())
    finally:
        here.client.config_set("maxmemory", "0")
    assert here.kept() == []
    here.refused()
    until(here.kept)


def test_a_redis_that_hangs_does_not_hold_up_a_refusal(here: Relay) -> None:
    request = here.signed()
    here.client.client_pause(4000)
    started = time.monotonic()
    for _ in range(5):
        answer = here.post("shop", request)
        assert (answer.status_code, answer.get_json()) == (401, GENERIC)
    assert time.monotonic() - started < 3.5  # less than the pause, and so it did not wait
    until(here.doctor)


def test_keeping_without_a_key_is_a_fault_that_names_file_line_and_setting(here: Relay) -> None:
    for key in ({}, {"refused_key": "  "}):
        here.path.write_text(yaml.safe_dump({"linger_ms": 1, "keep_refused": True, **key}, sort_keys=False))
        with pytest.raises(ConfigInvalid, match=r"relay\.yaml:2: keep_refused: .*refused_key"):
            configuration.load(here.path, here.folder)
