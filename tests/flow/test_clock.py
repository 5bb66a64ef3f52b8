"""The server's clock set back: what was due in an hour is not due in two."""

from __future__ import annotations

import time

import pytest
import redis

from relay.buffer import keys
from relay.buffer.accept import Bounds, Delivery, Front, Offer
from relay.buffer.clock import Clock
from relay.buffer.lanes import Lane, Watch
from relay.records import Codec, Meta, Table

TABLE = Table("t", key=("id",))
LANE, HOUR_MS = "w/0/1", 3_600_000


@pytest.fixture
def client(redis_url):
    front = Front(redis_url, Bounds(linger_ms=0), lambda _: None)
    meta = Meta("s", "k", "thing", schemas={"s_t": TABLE.schema_id})
    blob = Codec().pack(meta, b"{}", [])
    for _ in range(1500):  # more than are moved in one call
        offer = Offer("", "", blob, quarantined=False, lanes=(LANE,), counts={})
        front.put(Delivery("s", (offer,), {TABLE.schema_id: TABLE.declaration}))
    with redis.Redis.from_url(redis_url) as client:
        yield client


def later(client, ms):
    """As if all had been written by a clock that is ahead by so much."""
    queue, now = keys.queue(LANE, "s"), int(time.time() * 1000)
    for arrival in client.zrange(queue, 0, -1):
        client.zadd(queue, {arrival: now + ms})
    client.hset(keys.lane(LANE), mapping={"holder": "gone", "until": now + ms + 15_000, "in_flight": 0})
    client.hset(keys.destination("w"), mapping={"failures": 3, "open_until": now + ms, "since": now + ms})
    client.set(keys.CLOCK, f"{(now + ms) * 1000}")


def test_a_clock_that_was_set_back_before_anybody_looked_is_told_by_the_last_arrival(client):
    later(client, HOUR_MS)
    clock = Clock(client)
    assert clock.tick()
    now = time.time() * 1000
    assert int(client.hget(keys.lane(LANE), "until")) < now + 16_000, "a lease at most"
    assert int(client.hget(keys.destination("w"), "open_until")) < now + 301_000
    assert client.zcount(keys.queue(LANE, "s"), "-inf", now + 1000) == 1500
    assert not clock.tick(), "said and mended once"


def test_a_rest_after_an_unknown_outcome_begins_anew_and_is_never_cut_short(client):
    later(client, HOUR_MS)
    now = int(time.time() * 1000)
    client.hset(keys.lane(LANE), mapping={"hold_until": now + HOUR_MS, "hold_ms": 60_000})
    Clock(client).tick()
    hold = int(client.hget(keys.lane(LANE), "hold_until"))
    assert now + 60_000 <= hold < now + 90_000


def test_a_clock_that_goes_on_is_left_alone_and_what_rests_still_rests(client):
    clock = Clock(client)
    assert not clock.tick()
    later(client, 10_000)
    client.set(keys.CLOCK, f"{int(time.time() * 1_000_000)}")
    assert not clock.tick()
    assert client.zcount(keys.queue(LANE, "s"), "-inf", time.time() * 1000) == 0


def test_after_the_mending_the_lane_is_served_again(client, redis_url):
    later(client, HOUR_MS)
    Clock(client).tick()
    client.hset(keys.lane(LANE), "until", int(time.time() * 1000) - 1)  # its lease is over
    client.hset(keys.destination("w"), "open_until", 1)
    rung: list[str] = []
    assert Watch(redis_url).ring_due(0, rung.append, lambda _: True) == 1
    mine = Lane(client, LANE, "me")
    assert mine.begin()
    claimed = mine.claim(["s"], most=2000, most_bytes=10**8, linger_ms=0, full=1, rest_ms=0)
    assert isinstance(claimed, list)
    assert len(claimed) == 1500
