"""`relay doctor --bundle`: what it holds, and that nothing planted anywhere is among it."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from relay.buffer import keys
from relay.buffer.alerts import Alerts, Notice, Unsent
from relay.buffer.refused import Accounts
from relay.cli.main import app
from relay.cli.masking import masked
from tests.flow.test_console import TABLE, Browser, row

#: Secrets and people, all of them somewhere in the relay; none may be in a bundle.
PLANTED = [
    "rediSpassw0rd", "pgPassw0rd", "mbiKey0011", "T0PLANTED", "pathT0ken", "whsec_", "reDactionKey", "refUsedKey",
    "metricsT0ken", "srcT0ken", "verifyT0ken", "Okonkwo", "okonkwo", "example.org", "4915123", "203.0.113.77",
    "hdrSecret", "rowkey77", "Lindenallee", "10115", "diskSwap", "pg.internal",
]  # fmt: skip
PERSON = {
    "name": "Ada Okonkwo",
    "email": "ada.okonkwo@example.org",
    "phone": "+4915123",
    "street": "Lindenallee 7",
}


def planted(url: str, folder: Path) -> Browser:
    """A relay whose settings, events, headers, keys, failures and answers hold secrets and people."""
    api = {
        "kind": "import_api",
        "url": "http://127.0.0.1:1/pathT0ken",
        "api_key": "mbiKey0011",
        "client_id": 4915123,
    }
    signed = {
        "url": "http://127.0.0.1:1/x",
        "format": "standard",
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }
    relay = Browser(
        url.replace("unix://", "unix://default:rediSpassw0rd@"), folder,
        destinations={
            "warehouse": {"kind": "sqlite", "path": "Okonkwo.db"},
            "pg": {"kind": "postgres", "dsn": "postgresql://okonkwo:pgPassw0rd@127.0.0.1:1/pg.internal"},
            "mbi": api,
        },
        alerts=[{"url": "http://127.0.0.1:1/services/T0PLANTED/pathT0ken", "format": "slack"}, signed],
        redaction_key="reDactionKey", refused_key="refUsedKey", metrics_token="metricsT0ken",
        tables={"erp_things": {"hash": ["name"]}},
    )  # fmt: skip
    settings = yaml.safe_load(relay.path.read_text())
    settings["sources"]["erp"] |= {"secrets": ["k", "srcT0ken"], "public_url": "https://pg.internal/hooks/erp"}
    settings["sources"]["erp"]["tables"][0]["columns"]["note"] = "'verifyT0ken'"
    relay.path.write_text(yaml.safe_dump(settings))
    plant(relay)
    return relay


def plant(relay: Browser) -> None:
    headers = {"X-Delivery": "hdrSecret", "Authorization": "Bearer hdrSecret"}
    relay.post_event(row("rowkey77", **PERSON), **headers)
    relay.bury(
        'invalid input for integer: "Ada Okonkwo"; Key (email)=(ada.okonkwo@example.org) of Okonkwo, '
        "Lindenallee 7, 10115 is too long for column name",
        key='["rowkey77"]',
    )
    relay.post_event({"type": "Okonkwo", **PERSON}, **{"X-Delivery": "d2"})
    relay.post_event(b'{"name": "Ada Okonkwo" oops', **{"X-Delivery": "d3"})
    client = relay.client
    said = "the Import API said 503: ada.okonkwo@example.org of 10115 mbiKey0011 is unavailable"
    client.hset(keys.destination("mbi"), mapping={"failures": 2, "since": 1, "why": said})
    client.hset(keys.destination("pg"), mapping={"paused": "diskSwap, ask Okonkwo"})
    client.hset(keys.lane("warehouse/0/1"), "why", said)
    Accounts(client).note("erp", 2, "signature_wrong", "url", "It came from 203.0.113.77, sign with srcT0ken.")
    notice = Notice("msg_1", "began", "x", "erp", "bad", "Okonkwo", "rediSpassw0rd", 1, 1, 0)
    Alerts(client).later(Unsent("pathT0ken", notice, 0), 0, 1)
    log = "7:M 02 Mar 2026 07:14:09.123 # crashed by command: HSET Okonkwo rowkey77\nOkonkwo\n"
    (relay.folder / "valkey.log").write_text(log)


def bundle(folder: Path, path: Path, name: str = "out.zip") -> Result:
    arguments = ["doctor", "--bundle", str(folder / name), "--config", str(path), "--data", str(folder)]
    return CliRunner().invoke(app, arguments)


def unzipped(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def clean(files: dict[str, str]) -> dict[str, Any]:
    """The files as data, when nothing planted is in them."""
    for name, text in files.items():
        for secret in PLANTED:
            assert secret not in text, (name, secret)
    return {name: json.loads(text) for name, text in files.items() if name.endswith(".json")}


def test_a_bundle_holds_what_a_report_needs_and_nothing_that_was_planted(redis_url, tmp_path, monkeypatch):
    monkeypatch.setenv("RELAY_PLANTED", "hdrSecret")
    relay = planted(redis_url, tmp_path)
    done = bundle(tmp_path, relay.path)
    assert done.exit_code == 0, done.output
    assert "Look through it before you send it." in done.output
    files = unzipped(tmp_path / "out.zip")
    assert stat.S_IMODE((tmp_path / "out.zip").stat().st_mode) == 0o600
    found = clean(files)
    assert set(files) - set(found) == {"README.txt", "metrics.txt", "valkey.log"}
    assert all(name in done.output for name in files)
    assert "RELAY_PLANTED" in found["versions.json"]["environment"]
    assert found["settings.json"]["destinations"]["mbi"]["kind"] == "import_api"
    assert found["settings.json"]["max_body_bytes"] == 10 * 1024 * 1024
    assert found["ledger.json"]["events"]["erp"]["quarantined"] == 2
    assert found["audit.json"] == []
    assert {need["kind"] for need in found["needs.json"]} >= {"destination_troubled", "quarantine", "dead_letters"}
    assert found["refusals.json"]["erp"]["findings"] == [{"reason": "signature_wrong", "kind": "url", "times": 1}]
    causes = {group["cause"] for group in found["failures.json"]["groups"]}
    assert "invalid input for integer: …; Key (email)=(…) of … is too long for column name" in causes
    assert found["stats.json"]["destinations"]["mbi"]["why"].startswith("the Import API said 503: …")
    assert 'rowhook_events{source="erp",state="quarantined"} 2.0' in files["metrics.txt"]
    assert files["valkey.log"].startswith("7:M 02 Mar 2026 07:14:09.123 # ")
    assert any("connection" in fault for fault in found["destinations_check.json"])


def test_a_bundle_is_made_where_redis_is_away_and_says_so(tmp_path):
    path = tmp_path / "relay.yaml"
    url = "redis://default:rediSpassw0rd@127.0.0.1:1/0"
    path.write_text(
        yaml.safe_dump({"redis_url": url, "sources": {"erp": {"kind": "shopify", "secrets": ["srcT0ken"]}}})
    )
    done = bundle(tmp_path, path)
    assert done.exit_code == 0, done.output
    found = clean(unzipped(tmp_path / "out.zip"))
    assert found["ledger.json"] == {"not_read": "Redis cannot be reached"}
    assert found["settings.json"]["redis_url"] == "redis://(set)"
    assert found["versions.json"]["rowhook"]


@pytest.mark.parametrize("text", [
    "sources: {erp: {kind: Okonkwo, secrets: [srcT0ken]}}\ndestinations: {pg: {kind: okonkwo}}\nportt: srcT0ken\n",
    "sources: [srcT0ken\n  Okonkwo",
    "redis_url: ${Okonkwo_URL}\n",
    "Okonkwo",
])  # fmt: skip
def test_a_bundle_is_made_of_settings_that_cannot_be_loaded(tmp_path, text):
    path = tmp_path / "relay.yaml"
    path.write_text(text)
    done = bundle(tmp_path, path)
    assert done.exit_code == 0, done.output
    assert clean(unzipped(tmp_path / "out.zip"))["settings.json"]["not_loaded"]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out.zip").write_text("mine")
    done = bundle(tmp_path, tmp_path / "none.yaml")
    assert done.exit_code != 0
    assert "is there already" in str(done.exception)
    assert (tmp_path / "out.zip").read_text() == "mine"


@pytest.mark.parametrize(("said", "left"), [
    ('invalid input syntax for type integer: "Jane"', "invalid input syntax for type integer: …"),
    ("Key (email)=(jane@x.de) already exists.", "Key (email)=(…) already exists."),
    ("value jane is too long for column email", "value … is too long for column email"),
    ("AttributeError: 'Jane' object has no attribute 'get'", "AttributeError: … object has no attribute …"),
    ("it said 503: Jane, 12345 Berlin", "it said 503: …"),
    ("Jane\u202eDoe\x00 \N{GRINNING FACE} 4111111111111111", "…"),
])  # fmt: skip
def test_only_words_that_tell_nothing_are_left(said, left):
    assert masked(said, {"email", *TABLE["columns"]}) == left
