"""Failures that were found to lose, wedge or miscount something; each stays found."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from redis.exceptions import OutOfMemoryError

from relay import configured, jobs
from relay.buffer import keys, ledger
from relay.buffer.failures import Failures
from relay.buffer.lanes import Lane, Settlement, lane_states
from relay.config import load
from relay.errors import BufferUnavailable
from relay.records import Codec
from tests.flow.test_delivery import Here, order
from tests.flow.test_failures import RIGHT, Shop
from tests.servers import import_server as api
from worker.destinations.import_api import ImportApi


class TwoShops(Shop):
    """A shop whose rows go to two destinations."""

    def write(self, *tables):
        super().write(tables[0])
        settings = yaml.safe_load(self.path.read_text())
        settings["sources"]["erp"] |= {"to": ["warehouse", "mirror"], "tables": list(tables)}
        settings["destinations"] = {"warehouse": {"kind": "sqlite"}, "mirror": {"kind": "sqlite", "path": "m.db"}}
        self.path.write_text(yaml.safe_dump(settings))

    def sources(self):
        return configured.sources_of(load(self.path, self.folder))

    def settle(self, destination, verdict="stored"):
        """Let a destination settle all that waits for it."""
        lane = Lane(self.client, f"{destination}/0/1", "t")
        self.client.delete(keys.lane(lane.name))
        assert lane.begin()
        claimed = lane.claim(["erp"], most=99, most_bytes=10**7, linger_ms=0, full=1, rest_ms=0)
        counts, dead, codec = {}, [], Codec()
        for one in claimed if isinstance(claimed, list) else ():
            for position, record in enumerate(json.loads(codec.unpack(one.blob).rows)):
                at = f"r|erp|{destination}|{record[0]}|"
                counts[at + verdict] = counts.get(at + verdict, 0) + 1
                counts[at + "pending"] = counts.get(at + "pending", 0) - 1
                if verdict == "dead":
                    letter = ["erp", record[0], '["1"]', "0" * 57, "no", "destination"]
                    dead.append((one.arrival, position, json.dumps(letter).encode()))
        done = [one.arrival for one in claimed] if isinstance(claimed, list) else []
        lane.settle(Settlement({"erp": done}, [], dead, counts, {}))
        lane.finish(["erp"], 0, even_if_due=True)
        return len(done)


BODY = {"type": "t", "id": 1, "name": "a", "at": "2026-01-01T00:00:00Z"}
MORE = {**RIGHT, "table": "more"}


@pytest.fixture
def shop(redis_url, tmp_path):
    return TwoShops(redis_url, tmp_path)


@pytest.fixture
def here(redis_url, tmp_path):
    with api.ImportServer() as server:
        yield Here(redis_url, server, tmp_path)
        assert server.regressions() == []


def test_a_replayed_event_that_is_refused_again_has_one_dead_letter_not_two(shop):
    taken = shop.post(BODY)
    assert shop.settle("mirror") == 1
    assert shop.settle("warehouse", "dead") == 1
    failures = Failures(shop.client)
    packed = failures.event(taken["id"])
    again = jobs.replay(failures, [(taken["id"], packed)], shop.sources(), breathe=lambda _: True)
    assert again.queued == [taken["id"]]
    assert shop.settle("warehouse", "dead") == 1
    assert shop.settle("mirror") == 1
    account = shop.balanced()
    assert account.records["erp", "warehouse", "erp_things"] == {
        "emitted": 2, "pending": 0, "dead": 1, "discarded": 1,
    }  # fmt: skip
    assert shop.run("dead", "discard", "--all", "--yes").exit_code == 0
    shop.balanced()
    assert shop.client.hlen(keys.EVENTS) == 0, "nothing holds its body any more"
    assert shop.client.hget(keys.BYTES, "*") == b"0"


def test_a_retry_does_not_change_the_records_for_which_another_destination_still_waits(shop):
    shop.post(BODY)
    assert shop.settle("warehouse", "dead") == 1
    shop.write(RIGHT, MORE)  # the mended mapping makes other records
    assert shop.run("dead", "retry", "--all").exit_code == 0
    shop.balanced()
    assert shop.settle("mirror") == 1
    shop.balanced()
    assert shop.run("dead", "retry", "--all").exit_code == 0
    assert shop.settle("warehouse") == 1
    account = shop.balanced()
    assert account.records["erp", "warehouse", "erp_more"]["stored"] == 1
    assert account.records["erp", "mirror", "erp_things"]["stored"] == 1


def test_two_people_who_retry_the_same_letter_have_it_sent_and_counted_once(shop):
    shop.post(BODY)
    assert shop.settle("mirror", "dead") == 1  # keeps the event
    assert shop.settle("warehouse", "dead") == 1
    failures = Failures(shop.client)
    chosen = [f for f in failures.every() if f.destination == "warehouse"]
    assert len(jobs.retry(failures, chosen, shop.sources()).queued) == 1
    assert shop.settle("warehouse") == 1
    assert jobs.retry(failures, chosen, shop.sources()).queued == []
    account = shop.balanced()
    assert account.records["erp", "warehouse", "erp_things"] == {
        "emitted": 2, "pending": 0, "stored": 1, "dead": 0, "discarded": 1,
    }  # fmt: skip


def test_schemas_that_cannot_be_published_are_a_full_buffer_not_a_dead_process(here, monkeypatch):
    def full(*_args, **_kwargs):
        raise OutOfMemoryError("OOM command not allowed when used memory > 'maxmemory'.")

    with monkeypatch.context() as patched:
        patched.setattr(here.front.client, "hset", full)
        for n in range(3):
            with pytest.raises(BufferUnavailable) as caught:
                here.put(order(n))
            assert caught.value.reason == "redis_full"
    here.put(order(9))
    here.drain()
    assert here.live() == [9]


def test_an_error_that_no_destination_should_raise_buries_its_record_and_wedges_no_lane(here, monkeypatch):
    honest = ImportApi.deliver

    def deliver(self, batch):
        if any(item.data["id"] == 13 for item in batch.items):
            raise ZeroDivisionError("a bug")
        return honest(self, batch)

    monkeypatch.setattr(ImportApi, "deliver", deliver)
    for n in range(20):
        here.put(order(n))
    here.drain()
    assert here.live() == [n for n in range(20) if n != 13]
    assert here.states() == {"stored": 19, "dead": 1}
    assert lane_states(here.client)["mbi/0/1"]["holder"] == ""
    assert ledger.audit(here.client, deep=True) == []


def test_a_poison_record_is_found_however_few_calls_the_destination_allows_at_a_time(here):
    calls = itertools.count()
    here.server.choose = lambda _post: api.refuse(429) if next(calls) >= 5 else None
    here.server.objects_to = lambda point: "no such" if point["id"] == 50 else None
    for n in range(64):
        here.put(order(n))
    for _ in range(6):
        calls = itertools.count()
        here.drain()
        here.wake()
    assert here.live() == [n for n in range(64) if n != 50]
    assert here.states() == {"stored": 63, "dead": 1}
    assert ledger.audit(here.client, deep=True) == []
