"""`relay map` and `relay test`: what a body becomes under the configuration, without a running relay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from relay.cli.main import app
from relay.errors import ConfigInvalid

EXAMPLES = Path(__file__).parents[1] / "payloads/custom"
LEAD = {"lead_id": "l-1", "create_time": "1772190930482", "email": "card 4111 1111 1111 1111"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    erp = json.loads((EXAMPLES / "order_updated/source.json").read_text())
    settings = {"sources": {"erp": {"kind": "custom", "secrets": ["k"], **erp}, "leads": {"kind": "snapchat"}}}
    (tmp_path / "relay.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "lead.json").write_text(json.dumps(LEAD))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(args), input=given)


def shown(*args: str, given: bytes | None = None, code: int = 0) -> Any:
    done = run(*args, given=given)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def add(home: Path, name: str, *, source: str = "erp", **files: Any) -> Path:
    case = home / "cases" / source / name
    case.mkdir(parents=True)
    for file, content in files.items():
        path = case / (file if file == "body" else f"{file}.json")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return case


# --- map ----------------------------------------------------------------------------------------------


def test_map_prints_the_rows_of_a_body(home: Path) -> None:
    found = shown("map", "leads", "lead.json")
    [event] = found["events"]
    assert (found["source"], event["type"], event["id"]) == ("leads", "lead", "l-1")
    [record] = event["records"]
    assert (record["table"], record["op"]) == ("leads_leads", "row")
    assert record["at"] == event["at"] == "2026-02-27T11:15:30.482Z"
    assert record["data"]["lead_id"] == "l-1"
    assert record["data"]["email"] == "card **** **** **** 1111"


def test_map_reads_standard_input_headers_and_the_query(home: Path) -> None:
    body = (EXAMPLES / "order_updated/body").read_bytes()
    [event] = shown("map", "erp", "-", "--header", "X-Delivery: d-1", given=body)["events"]
    assert event["id"] == "d-1"
    assert "1049.10" in run("map", "erp", "-", given=body).stdout, "a number is printed as it was sent"
    settings = yaml.safe_load((home / "relay.yaml").read_text())
    settings["sources"]["leads"]["type"] = "query.topic"
    (home / "relay.yaml").write_text(yaml.safe_dump(settings))
    [event] = shown("map", "leads", "lead.json", "--query", "topic=new lead")["events"]
    assert event["type"] == "new lead"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not_json: the body is not JSON"),
        (b"[]", "no_type: the event has no type"),
    ],
)
def test_map_says_why_a_body_would_be_quarantined(home: Path, body: bytes, said: str) -> None:
    assert shown("map", "erp", "-", given=body, code=1)["quarantined"].startswith(said)


def test_map_says_where_an_event_cannot_be_mapped(home: Path) -> None:
    body = b'{"type": "order.x", "order": {"id": 1, "items": [{"sku": "a"}, {"sku": "b"}, {}]}}'
    [event] = shown("map", "erp", "-", given=body, code=1)["events"]
    assert event["quarantined"].startswith("mapping_failed: ")
    assert event["quarantined"].endswith("orders_items[2]: no value for the key column sku")
    assert "records" not in event
    body = b'{"type": "order.x", "order": [{"id": 1}, {"id": 2, "placed": "soon"}]}'
    [event] = shown("map", "erp", "-", given=body, code=1)["events"]
    assert event["quarantined"].endswith("orders[1]: column placed_at (placed): not a time")


def test_map_says_that_a_body_has_no_type_where_a_header_would_say_it(home: Path) -> None:
    settings = yaml.safe_load((home / "relay.yaml").read_text())
    settings["sources"]["shop"] = {"kind": "shopify"}
    (home / "relay.yaml").write_text(yaml.safe_dump(settings))
    (home / "order.json").write_text('{"id": 1, "updated_at": "2026-11-01T00:00:00Z"}')
    bare = run("map", "shop", "order.json")
    assert json.loads(bare.stdout)["events"][0]["records"] == []
    assert bare.stderr == "no type, so no rows: give --type, or --header with the one that says it\n"
    for more in (("--type", "orders/create"), ("--header", "X-Shopify-Topic: orders/create")):
        typed = run("map", "shop", "order.json", *more)
        assert json.loads(typed.stdout)["events"][0]["records"]
        assert typed.stderr == ""


@pytest.mark.parametrize("option", ["--header=nocolon", "--header=: value", "--query=nothing"])
def test_map_ignores_no_header_and_no_query_that_is_written_wrong(home: Path, option: str) -> None:
    error = run("map", "leads", "lead.json", option).exception
    assert isinstance(error, ConfigInvalid)
    assert str(error).startswith(f"{option.partition('=')[0]}: write it as NAME")


def test_map_knows_only_what_is_configured(home: Path) -> None:
    for args in (("map", "nosuch", "lead.json"), ("map", "erp", "nosuch.json")):
        assert isinstance(run(*args).exception, ConfigInvalid)


# --- test ---------------------------------------------------------------------------------------------


def test_cases_that_are_as_written_down_are_ok(home: Path) -> None:
    """In the form of the relay's own cases: times in ns, tables without the source's name."""
    for name in ("order_updated", "order_deleted"):
        shutil.copytree(EXAMPLES / name, home / "cases/erp" / name)
    done = run("test")
    assert done.exit_code == 0, done.output
    assert "ok      erp/order_updated" in done.stdout
    assert done.stdout.endswith("2 of 2 cases are as written down\n")


def test_a_case_that_differs_is_shown_as_a_difference(home: Path) -> None:
    shutil.copytree(EXAMPLES / "order_updated", home / "cases/erp/order_updated")
    expected = home / "cases/erp/order_updated/records.json"
    expected.write_text(expected.read_text().replace("1049.10", "1049.1"))
    add(home, "fine", source="leads", body=LEAD, records=json.loads(run("map", "leads", "lead.json").stdout))
    done = run("test")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert "failed  erp/order_updated" in lines
    assert any(line.strip().startswith("-") and line.endswith("1049.1") for line in lines)
    assert any(line.strip().startswith("+") and line.endswith("1049.10") for line in lines)
    assert "ok      leads/fine" in lines
    found = shown("test", "--json", code=1)
    assert (found["failed"], [case["state"] for case in found["cases"]]) == (1, ["failed", "ok"])


def test_write_writes_what_new_cases_become_and_changes_no_other(home: Path) -> None:
    case = add(home, "new", source="leads", body=LEAD)
    old = add(home, "old", source="leads", body=LEAD, records={"events": []})
    assert run("test").exit_code == 1
    assert not (case / "records.json").exists()
    assert "written leads/new" in run("test", "--write").stdout
    assert json.loads((case / "records.json").read_text())["events"][0]["records"][0]["table"] == "leads_leads"
    assert json.loads((old / "records.json").read_text()) == {"events": []}
    shutil.rmtree(old)
    assert run("test").exit_code == 0


def test_a_case_may_expect_that_an_event_is_quarantined(home: Path) -> None:
    add(home, "unread", body="{", request={})
    add(home, "unmapped", body={"type": "order.x", "order": {}})
    assert run("test", "--write").exit_code == 0
    assert run("test").exit_code == 0
    (home / "cases/erp/unread/body").write_text("[]")
    assert run("test").exit_code == 1


def test_a_case_with_headers_query_and_a_form(home: Path) -> None:
    shutil.copytree(EXAMPLES / "form_signed_with_its_url_and_sorted_fields", home / "elsewhere/depot/scan")
    block = json.loads((home / "elsewhere/depot/scan/source.json").read_text())
    (home / "relay.yaml").write_text(yaml.safe_dump({"sources": {"depot": {"kind": "custom", **block}}}))
    done = run("test", "elsewhere")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "files",
    [
        {"body": "{}", "records": "{"},
        {"body": "{}", "records": []},
        {"body": "{}", "records": {"events": 5}},
        {"body": "{}", "records": {"events": [{"type": "t"}]}},
        {"body": LEAD, "records": {"events": [{"type": "lead", "at": "soon", "records": []}]}},
        {"body": "{}", "records": {"events": []}, "request": "["},
        {"body": "{}", "records": {"events": []}, "request": {"headers": 5}},
        {"records": {"events": []}},
    ],
)
def test_files_of_another_form_fail_and_never_crash(home: Path, files: dict[str, Any]) -> None:
    add(home, "broken", source="leads", **files)
    done = run("test")
    assert done.exit_code == 1, done.output
    assert "failed  leads/broken" in done.stdout


def test_a_case_of_a_source_that_is_not_configured_fails(home: Path) -> None:
    add(home, "any", source="shop", body="{}", records={"events": []})
    done = run("test")
    assert done.exit_code == 1
    assert "there is no source 'shop'; configured: erp, leads" in done.stdout


def test_no_cases_at_all_are_a_mistake(home: Path) -> None:
    assert isinstance(run("test").exception, ConfigInvalid)


# --- sources ------------------------------------------------------------------------------------------


def test_sources_tells_files_recipes_and_descriptions_apart(home: Path) -> None:
    kinds = {kind["kind"]: kind for kind in shown("sources", "--json")["kinds"]}
    told = {
        name: (kinds[name]["support"], kinds[name]["proved"])
        for name in ("stripe", "google_ads", "gorgias", "custom")
    }
    assert told == {
        "stripe": ("source", True), "google_ads": ("source", False),
        "gorgias": ("recipe", False), "custom": ("custom", False),
    }  # fmt: skip
    assert kinds["kustomer"]["scheme"] == "hmac-sha256 hex of {body}"
    assert kinds["stripe"]["proof"].startswith("vector: ")
    for name, kind in kinds.items():
        assert name == "custom" or (kind["setup"] and kind["tables"])
        assert all({"key", "parent", "clock", "columns"} == set(table) for table in kind["tables"].values())
    assert kinds["gorgias"]["tables"]["tickets"]["columns"]["updated_datetime"] == "instant"
    text = run("sources").stdout
    assert "leads: snapchat at /hooks/leads  (no secret yet)" in text
    lines = {line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in text.splitlines()}
    assert "stripe" in lines["kinds, proved by what others signed"]
    assert "google_ads" in lines["kinds, as the vendor documents it"]
    assert "gorgias" in lines["kinds, recipes"]
    assert lines["kinds, described in relay.yaml"] == ["custom"]
