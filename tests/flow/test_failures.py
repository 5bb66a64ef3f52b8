"""Quarantine and dead letters: kept, shown, sent again through a mended mapping, or given up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import redis
import yaml
from typer.testing import CliRunner

from relay import jobs
from relay.app import create_app
from relay.buffer import keys, ledger
from relay.buffer.failures import Failures
from relay.buffer.lanes import Lane, Settlement
from relay.cli.main import app
from relay.config import load

RIGHT = {"table": "things", "key": ["id"], "columns": {"id": "id", "name": "name"}, "version": "at"}


class Shop:
    """A relay with one `custom` source whose mapping can be mended."""

    def __init__(self, url: str, folder: Path):
        self.folder, self.path = folder, folder / "relay.yaml"
        self.client = redis.Redis.from_url(url)
        self.url = url
        self.write(RIGHT)

    def write(self, table, name="erp"):
        source = {
            "kind": "custom",
            "secrets": ["k"],
            "verify": {"token": {"header": "X-Key"}},
            "type": "body.type",
        }
        settings = {
            "redis_url": self.url,
            "linger_ms": 0,
            "archive_days": 0,
            "sources": {name: {**source, "tables": [table]}},
        }
        self.path.write_text(yaml.safe_dump(settings))

    def post(self, body) -> dict:
        web = create_app(load(self.path, self.folder)).test_client()
        data = body if isinstance(body, bytes) else json.dumps(body)
        answer = web.post("/hooks/erp", data=data, headers={"X-Key": "k", "Content-Type": "application/json"})
        assert answer.status_code == 202
        return answer.get_json()

    def run(self, *args):
        result = CliRunner().invoke(app, [*args, "--config", str(self.path), "--data", str(self.folder)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def bury(self, reason="no such column"):
        """Let the destination refuse what waits."""
        lane = Lane(self.client, "warehouse/0/1", "t")
        self.client.delete(keys.lane(lane.name))
        assert lane.begin()
        claimed = lane.claim(["erp"], most=99, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)
        letter = json.dumps(["erp", "erp_things", '["1"]', "0" * 57, reason, "destination"]).encode()
        arrivals = [c.arrival for c in claimed]
        counts = {"r|erp|warehouse|erp_things|dead": len(arrivals)}
        counts["r|erp|warehouse|erp_things|pending"] = -len(arrivals)
        lane.settle(Settlement({"erp": arrivals}, [], [(a, 0, letter) for a in arrivals], counts, {}))
        lane.finish(["erp"], 0)

    def balanced(self):
        assert ledger.audit(self.client, deep=True) == []
        return ledger.read(self.client)


@pytest.fixture
def shop(redis_url, tmp_path):
    return Shop(redis_url, tmp_path)


def test_an_event_that_could_not_be_mapped_is_listed_and_goes_through_once_the_mapping_is_mended(shop):
    shop.write({**RIGHT, "columns": {"id": "number", "name": "name"}})
    taken = shop.post({"type": "t", "id": 1, "name": "a", "at": "2026-01-01T00:00:00Z"})
    (failure,) = json.loads(shop.run("dead", "list", "--json").stdout)
    assert (failure["id"], failure["blame"], failure["source"]) == (taken["id"], "mapping", "erp")
    assert "id" in failure["reason"]
    assert shop.run("dead", "retry", taken["id"]).exit_code == 1, "the mapping is still wrong"
    shop.balanced()
    shop.write(RIGHT)
    assert shop.run("dead", "retry", "--all").exit_code == 0
    account = shop.balanced()
    assert account.events["erp"] == {"accepted": 1, "mapped": 1, "quarantined": 0}
    assert account.records["erp", "warehouse", "erp_things"] == {"emitted": 1, "pending": 1}
    assert json.loads(shop.run("dead", "list", "--json").stdout) == []


def test_an_event_that_could_not_be_read_is_the_vendors_and_can_be_shown_and_discarded(shop):
    taken = shop.post(b'{"type": "t", oops')
    (failure,) = json.loads(shop.run("dead", "list", "--json", "--blame", "vendor").stdout)
    assert json.loads(shop.run("dead", "show", failure["id"]).stdout)["body"] == '{"type": "t", oops'
    assert shop.run("dead", "discard", taken["id"], "--yes").exit_code == 0
    assert shop.balanced().events["erp"] == {"accepted": 1, "quarantined": 0, "discarded": 1}
    assert shop.client.hlen(keys.EVENTS) == 0
    assert shop.client.hget(keys.BYTES, "*") == b"0"


def test_a_dead_letter_goes_again_to_its_destination_with_its_old_version(shop):
    taken = shop.post({"type": "t", "id": 1, "name": "a", "at": "2026-01-01T00:00:00Z"})
    shop.bury()
    (failure,) = json.loads(shop.run("dead", "list", "--json", "--destination", "warehouse").stdout)
    assert failure["id"] == f"{taken['id']}|warehouse|0"
    assert failure["reason"] == "no such column"
    assert shop.run("dead", "retry", "--all", "--reason", "no such").exit_code == 0
    account = shop.balanced()
    assert account.records["erp", "warehouse", "erp_things"] == {
        "emitted": 2, "pending": 1, "dead": 0, "discarded": 1,
    }  # fmt: skip
    shop.client.delete(keys.lane("warehouse/0/1"))
    lane = Lane(shop.client, "warehouse/0/1", "t2")
    assert lane.begin()
    (one,) = lane.claim(["erp"], most=9, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)
    assert one.arrival == taken["id"]


def test_a_dead_letter_can_be_given_up(shop):
    shop.post({"type": "t", "id": 1, "at": "2026-01-01T00:00:00Z"})
    shop.bury()
    assert shop.run("dead", "discard", "--all", "--yes").exit_code == 0
    account = shop.balanced()
    assert account.records["erp", "warehouse", "erp_things"]["discarded"] == 1
    assert shop.client.hlen(keys.EVENTS) == 0


def test_nothing_is_retried_or_discarded_without_being_named(shop):
    shop.post(b"{")
    for command in ("retry", "discard"):
        with pytest.raises(Exception, match="say which"):
            shop.run("dead", command)
    with pytest.raises(Exception, match="there is no failure"):
        shop.run("dead", "retry", "1" * 16)


def test_a_list_that_filters_leave_empty_does_not_say_that_nothing_failed(shop):
    assert shop.run("dead", "list").stdout == "nothing failed\n"
    shop.post(b"{")
    assert shop.run("dead", "list", "--source", "nosuch").stdout.startswith("nothing that failed is of that kind")
    refused = shop.run("dead", "list", "--blame", "nobody")
    assert refused.exit_code == 2
    assert "vendor" in refused.stderr


def test_a_retry_says_which_is_gone_the_source_or_the_event(shop):
    taken = shop.post(b"{")
    shop.write(RIGHT, name="other")
    done = shop.run("dead", "retry", "--all")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (1, f"{taken['id']}: erp is no longer configured")
    failures = Failures(shop.client)
    (failure,) = failures.every()
    shop.client.delete(keys.EVENTS)
    again = jobs.retry(failures, [failure], {})
    assert again.failed == {taken["id"]: "its event is no longer there"}


def test_a_resend_of_a_buried_event_runs_again(shop):
    body = {"type": "t", "id": 1, "name": "a", "at": "2026-01-01T00:00:00Z", "nonce": time.time_ns()}
    shop.post(body)
    shop.bury()
    assert shop.post(body)["duplicate"] is False
    shop.balanced()
