"""`/hooks/<source>` on a real Valkey: every answer of the contract, and what each leaves behind."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
import redis

from relay import config as configuration
from relay.app import create_app
from relay.buffer import keys, ledger
from relay.buffer.failures import Failures
from relay.config import Config, Settings
from relay.configured import sources_of
from relay.records import NS
from relay.source import sample_request

SECRET = "shpss_test"


@pytest.fixture
def config(redis_url, tmp_path: Path) -> Config:
    settings = Settings(
        redis_url=redis_url,
        max_body_bytes=200_000,
        linger_ms=0,
        sources={
            "shop": {"kind": "shopify", "secrets": [SECRET, "the_old_one"]},
            "pages": {"kind": "meta", "secrets": ["app_secret"], "verify_token": "tok"},
            "new": {"kind": "shopify"},
            "erp": {
                "kind": "custom",
                "secrets": ["key"],
                "verify": {"token": {"header": "X-Key"}},
                "type": "body.type",
                "tables": [{"table": "things", "key": ["id"]}],
            },
        },
    )
    return Config(configuration._with_defaults(settings), None, tmp_path, {}, [])


@pytest.fixture
def web(config):
    return create_app(config).test_client()


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def signed(config, name="shop", type_="orders/create", n=1, secret=SECRET, now=None, body=None):
    source = sources_of(config)[name]
    now = now or time.time_ns()
    request = sample_request(source.vendor.samples[type_](n, now), f"http://localhost/hooks/{name}")
    if body is not None:
        request = type(request)(request.method, request.url, request.headers, body, request.query)
    done = source.verifier.sign(request, secret, now)
    return {"data": done.body, "headers": dict(done.headers)}


def events(client, source="shop"):
    return ledger.read(client).events.get(source, {})


def test_a_signed_delivery_is_answered_202_with_its_id_and_rows(web, config, client):
    answer = web.post("/hooks/shop", **signed(config))
    assert answer.status_code == 202
    body = answer.get_json()
    assert body["duplicate"] is False
    assert body["rows"] > 3
    assert client.hexists(keys.EVENTS, body["id"])
    assert events(client) == {"accepted": 1, "mapped": 1}


def test_an_old_secret_still_fits(web, config):
    assert web.post("/hooks/shop", **signed(config, secret="the_old_one")).status_code == 202


def test_the_same_delivery_again_is_a_duplicate_of_the_same_id(web, config, client):
    sent = signed(config)
    first = web.post("/hooks/shop", **sent).get_json()
    again = web.post("/hooks/shop", **sent).get_json()
    assert again == {"id": first["id"], "rows": 0, "duplicate": True}
    assert events(client) == {"accepted": 2, "mapped": 1, "duplicate": 1}


@pytest.mark.parametrize("value", ["", "garbage", "v1,é", "a" * 8000, "=", "\x00"])
def test_a_bad_signature_is_401_with_one_generic_body_and_nothing_is_stored(web, config, client, value):
    sent = signed(config)
    if "\x00" not in value:
        sent["headers"]["x-shopify-hmac-sha256"] = value.encode().decode("latin-1")
    else:
        del sent["headers"]["x-shopify-hmac-sha256"]
    answer = web.post("/hooks/shop", **sent)
    assert answer.status_code == 401
    assert answer.get_json() == {"error": "the request could not be authenticated"}
    assert client.hlen(keys.EVENTS) == 0


def test_a_source_without_a_secret_starts_and_answers_503(web, config):
    answer = web.post("/hooks/new", data=b"{}")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert web.get("/hooks/new").status_code == 200


def test_unknown_sources_are_404_and_other_methods_405(web):
    assert web.post("/hooks/nobody").status_code == 404
    assert web.put("/hooks/shop").status_code == 405
    assert web.head("/hooks/shop").status_code == 200


def test_a_body_over_the_limit_is_413_also_when_chunked(web, config):
    sent = signed(config, body=b'{"x":"' + b"y" * 300_000 + b'"}')
    assert web.post("/hooks/shop", **sent).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"id": "\\ud800"}',
        b"null",
        b"[]",
        b'"text"',
        b'{"id":null}',
    ],
)
def test_a_verified_body_that_cannot_be_read_or_mapped_is_quarantined_and_answered_202(web, config, client, body):
    answer = web.post("/hooks/shop", **signed(config, body=body))
    assert answer.status_code == 202
    assert answer.get_json()["rows"] == 0
    assert events(client) == {"accepted": 1, "quarantined": 1}
    assert client.zcard(keys.QUARANTINE) == 1
    assert ledger.audit(client, deep=True) == []


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"'])
def test_a_body_that_is_no_object_is_told_in_words_and_blamed_on_the_vendor(web, config, client, body):
    web.post("/hooks/shop", **signed(config, body=body))
    assert [(f.blame, f.reason, f.type) for f in Failures(client).every()] == [
        ("vendor", "not_an_object: the body is not an object", "orders/create")
    ]


def test_a_type_that_is_not_mapped_is_ignored_and_counted(web, config, client):
    sent = signed(config)
    sent["headers"]["x-shopify-topic"] = "themes/publish"
    assert web.post("/hooks/shop", **sent).status_code == 202
    assert events(client) == {"accepted": 1, "ignored": 1}


def test_a_gzip_body_is_read_and_a_gzip_bomb_is_not(web, config):
    source = sources_of(config)["shop"]
    plain = sample_request(source.vendor.samples["orders/create"](1, NS), "http://localhost/hooks/shop")
    for payload, status in ((plain.body, 202), (b'{"a":"' + b"0" * 5_000_000 + b'"}', 413)):
        packed = gzip.compress(payload)
        request = type(plain)("POST", plain.url, {**plain.headers, "content-encoding": "gzip"}, packed, {})
        done = source.verifier.sign(request, SECRET, time.time_ns())
        assert web.post("/hooks/shop", data=done.body, headers=dict(done.headers)).status_code == status
    over_plain = source.verifier.sign(plain, SECRET, time.time_ns())
    headers = {**over_plain.headers, "content-encoding": "gzip"}
    again = web.post("/hooks/shop", data=gzip.compress(plain.body), headers=headers)
    assert again.get_json()["duplicate"] is True, "a signature over the inflated body fits too"


def test_unknown_encodings_and_broken_gzip_are_415(web, config):
    for encoding in ("br", "gzip"):
        sent = signed(config)
        sent["headers"]["content-encoding"] = encoding
        assert web.post("/hooks/shop", **sent).status_code == 415


def test_a_form_and_a_payload_form_are_read(web, client):
    form = {"headers": {"X-Key": "key", "Content-Type": "application/x-www-form-urlencoded"}}
    assert web.post("/hooks/erp", data="type=x&id=7&name=caf%C3%A9", **form).get_json()["rows"] == 1
    payload = "payload=" + json.dumps({"id": 8, "type": "x"}).replace(" ", "+")
    assert web.post("/hooks/erp", data=payload, **form).get_json()["rows"] == 1
    assert web.post("/hooks/erp", data="%ff=%fe", **form).get_json()["rows"] == 0


def test_metas_challenge_is_echoed_only_for_the_right_token(web):
    ask = "/hooks/pages?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
    right = web.get(ask + "tok")
    assert (right.status_code, right.data) == (200, b"1158201444")
    assert web.get(ask + "wrong").status_code == 403


def test_a_redis_that_is_away_costs_a_503_with_retry_after(config, redis_url):
    app = create_app(config)
    web = app.test_client()
    state = app.extensions["rowhook"]
    state.front.client.connection_pool.disconnect()
    state.front.client.connection_pool.connection_kwargs["path"] = "/nonexistent.sock"
    answer = web.post("/hooks/shop", **signed(config))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert web.get("/readyz").status_code == 503
    assert web.get("/healthz").status_code == 200


def test_a_redis_that_evicts_is_refused_at_start(config, client):
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(configuration.ConfigInvalid, match="noeviction"):
            create_app(config)
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_duplicate_keys_nul_characters_and_large_numbers_are_taken(web, config, client):
    body = (
        b'{"id":1,"id":18446744073709551616123,"name":"a\\u0000b","total_price":1e400,"updated_at":"2026-01-01"}'
    )
    assert web.post("/hooks/shop", **signed(config, body=body)).get_json()["rows"] == 1
    assert ledger.audit(client, deep=True) == []
