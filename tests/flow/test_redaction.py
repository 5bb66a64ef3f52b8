"""A planted value that a rule names is found nowhere: in no blob, no row, no quarantine, no archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
import yaml

from relay import configured, jobs
from relay.app import create_app
from relay.buffer import keys
from relay.buffer.lanes import Lane, Standing
from relay.config import ConfigInvalid, load
from relay.records import Codec, records_of
from worker.archive import Archive, Wanted

EMAIL, PHONE, NOTE = "planted@example.com", "+49 170 5550199", "planted note"
BODY = {
    "type": "t",
    "id": 1,
    "at": "2026-01-01T00:00:00Z",
    "email": EMAIL,
    "phone": PHONE,
    "customer": {"id": 7, "note": NOTE},
    "items": [{"sku": "a", "phone": PHONE}],
}


def settings(url, **more):
    return {
        "redis_url": url,
        "linger_ms": 0,
        "redaction_key": "k1",
        "sources": {
            "erp": {
                "kind": "custom",
                "secrets": ["k"],
                "verify": {"token": {"header": "X-Key"}},
                "type": "body.type",
                "redact": {"drop": ["customer.note"]},
                "tables": [
                    {"table": "people", "key": ["id"], "version": "at", "children": {"items": {"key": ["sku"]}}}
                ],
            }
        },
        "tables": {
            "erp_people": {"hash": ["email"], "mask": ["phone"]},
            "erp_people_items": {"mask": ["phone"]},
        },
        **more,
    }


@pytest.fixture
def path(redis_url, tmp_path: Path) -> Path:
    path = tmp_path / "relay.yaml"
    path.write_text(yaml.safe_dump(settings(redis_url)))
    return path


def post(path, body):
    web = create_app(load(path, path.parent)).test_client()
    data = body if isinstance(body, bytes) else json.dumps(body)
    assert web.post("/hooks/erp", data=data, headers={"X-Key": "k"}).status_code == 202


def blobs(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        return dict(client.hgetall(keys.EVENTS))


def test_neither_the_rows_nor_the_kept_body_hold_what_a_rule_names(path, redis_url, tmp_path):
    post(path, BODY)
    ((arrival, blob),) = blobs(redis_url).items()
    packed = Codec().unpack(blob)
    everything = packed.raw + packed.rows
    for planted in (EMAIL, PHONE, NOTE, "5550199"):
        assert planted.encode() not in everything
    person, items = records_of(packed)
    assert person.data["email"].startswith("hmac-")
    assert person.data["phone"] == "***********0199"
    assert person.data["customer"] == {"id": 7}
    assert items.members[0]["phone"] == "***********0199"
    archive = Archive(tmp_path / "events.db", days=1, max_bytes=10**9)
    with redis.Redis.from_url(redis_url) as client:
        lane = Lane(client, "archive/0/1", "t")
        client.delete(keys.lane(lane.name))
        assert lane.begin()
        claimed = lane.claim(["erp"], most=9, most_bytes=10**6, linger_ms=0, full=1, rest_ms=0)
        lane.settle(archive.keep(claimed, Standing()))
    ((found, kept),) = archive.find(Wanted())
    archive.close()
    assert (found.encode(), kept) == (arrival, blob)


def test_a_replay_of_a_redacted_body_ends_in_the_same_rows(path, redis_url):
    post(path, BODY)
    (blob,) = blobs(redis_url).values()
    packed = Codec().unpack(blob)
    source = configured.sources_of(load(path, path.parent))["erp"]
    again = Codec().unpack(jobs.remapped(source, packed, Codec()).blob)
    assert again.rows == packed.rows


def test_a_body_that_cannot_be_read_is_kept_as_its_size_and_hash_where_rules_exist(path, redis_url):
    post(path, b'{"email": "planted@example.com", ')
    (blob,) = blobs(redis_url).values()
    assert b"planted" not in Codec().unpack(blob).raw
    assert json.loads(Codec().unpack(blob).raw)["size"] == 33


def test_a_quarantined_body_is_kept_redacted(path, redis_url):
    post(path, {**BODY, "id": None})
    (blob,) = blobs(redis_url).values()
    packed = Codec().unpack(blob)
    assert packed.meta.fault
    assert EMAIL.encode() not in packed.raw


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"redaction_key": ""}, "needs a key"),
        ({"tables": {"erp_people": {"drop": ["id"]}}}, "part of the key"),
        ({"tables": {"erp_people": {"mask": ["phone"]}, "erp_people_items": {"drop": ["phone"]}}}, "another rule"),
    ],
)
def test_rules_that_cannot_hold_are_refused_by_name(redis_url, tmp_path, more, words):
    path = tmp_path / "relay.yaml"
    path.write_text(yaml.safe_dump(settings(redis_url, **more)))
    with pytest.raises(ConfigInvalid, match=words):
        configured.sources_of(load(path, tmp_path))
