"""Senders that ship as settings, and what a user may lay over them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from relay import catalogue, configured, intake, recipes
from relay.config import load
from relay.errors import ConfigInvalid
from relay.records import NS, Event, Request, Type
from relay.signatures import Basic, Hmac, Token
from relay.sources.custom import build

NOW = 1_772_352_960 * NS
each = pytest.mark.parametrize("name", recipes.names())


def test_no_recipe_has_the_name_of_a_source_file() -> None:
    assert not set(recipes.names()) & set(catalogue.names(intake.SOURCES))


def test_there_is_no_recipe_of_another_name() -> None:
    with pytest.raises(KeyError):
        recipes.load("nosuch")
    with pytest.raises(KeyError):
        intake.vendor_of("nosuch", {})


@each
def test_a_recipe_says_all_that_people_must_know_and_has_typed_tables(name: str) -> None:
    recipe = recipes.load(name)
    vendor = intake.vendor_of(name, {})
    assert recipe.setup
    assert recipe.deletes
    assert any("secret" in step.lower() for step in recipe.setup)
    assert max(len(table.columns) for table in vendor.tables.values()) >= 8
    for entry in recipe.settings["tables"]:
        typed = vendor.tables[entry["table"]].columns
        assert set(entry["columns"]) == set(typed), f"{entry['table']}: columns without a type"
    assert not vendor.proved


@each
def test_a_recipe_that_proves_nothing_of_the_body_says_so(name: str) -> None:
    verifier = intake.vendor_of(name, {}).verifier({})
    if not isinstance(verifier, Hmac):
        assert isinstance(verifier, (Token, Basic))
        assert any("signed" in limit or "signature" in limit for limit in recipes.load(name).limits)


@each
def test_a_sample_of_another_number_is_another_object_and_becomes_rows(name: str) -> None:
    vendor = intake.vendor_of(name, {})
    assert vendor.samples
    for make in vendor.samples.values():
        assert make(1, NOW).body == make(1, NOW).body != make(2, NOW).body


def mapped(kind: str, own: dict[str, Any], data: Any) -> dict[str, dict[str, Any]]:
    vendor = intake.vendor_of(kind, own)
    [event] = vendor.read(Request("POST", "https://relay.example/", {}, b""), data)
    mapper = vendor.mapper(event.type)
    assert mapper is not None
    return {record.table: record.data for record in mapper(event)}


LEAD = {"lead_id": "l-1", "create_time": "1772190930482", "email": "a@mail.example"}


def test_a_users_own_proof_lies_over_the_recipes() -> None:
    own = {"verify": {"token": {"header": "X-Mine"}}}
    assert intake.vendor_of("snapchat", own).verifier({}).scheme == "shared token in header X-Mine"
    assert intake.vendor_of("snapchat", {}).verifier({}).scheme == "shared token in query token"


def test_a_users_own_table_takes_the_place_of_the_recipes_and_the_others_stay() -> None:
    own = {
        "tables": [{"table": "tickets", "key": "number", "columns": {"number": "number", "plan": "custom.plan"}}]
    }
    tables = intake.vendor_of("groove", own).tables
    assert tables["tickets"].columns == {}
    assert set(tables) == {"tickets", "messages", "customers", "agents"}
    found = mapped("groove", own, {"number": 4, "custom": {"plan": "gold"}})
    assert found == {"tickets": {"number": 4, "plan": "gold"}}


def test_a_users_own_table_is_added_to_the_recipes() -> None:
    own = {"tables": [{"table": "emails", "key": "email", "columns": {"email": "email", "lead": "lead_id"}}]}
    found = mapped("snapchat", own, LEAD)
    assert found["emails"] == {"email": "a@mail.example", "lead": "l-1"}
    assert found["leads"]["lead_id"] == "l-1"


def test_what_lies_over_one_source_changes_no_other() -> None:
    before = recipes.load("snapchat").model_dump()
    intake.vendor_of("snapchat", {"tables": [{"table": "leads", "key": "lead_id"}], "fragile": False})
    assert recipes.load("snapchat").model_dump() == before
    assert intake.vendor_of("snapchat", {}).fragile


@pytest.mark.parametrize(
    "own", [{"tables": 5}, {"tables": ["leads"]}, {"tables": [{}]}, {"nosuch": 1}, {"verify": {}}]
)
def test_what_cannot_lie_over_a_recipe_is_refused(own: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid):
        intake.vendor_of("snapchat", own)


def test_a_source_of_a_recipe_is_configured_as_any_other(tmp_path: Any) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text("sources:\n  leads: {kind: snapchat, secrets: [s3cret]}\n  bad: {kind: snapchit}\n")
    config = load(path, tmp_path)
    with pytest.raises(
        ConfigInvalid, match=r"relay.yaml:3: sources.bad.kind: there is no kind 'snapchit'; known: .*snapchat"
    ):
        configured.sources_of(config)
    path.write_text("sources:\n  leads: {kind: snapchat, secrets: [s3cret]}\n")
    source = configured.sources_of(load(path, tmp_path))["leads"]
    assert (source.kind, source.vendor.title) == ("snapchat", "Snapchat lead generation")
    assert source.vendor.tables["leads"].columns["create_time"] == Type.INSTANT


def test_gumroad_is_answered_200_since_it_sends_all_else_again() -> None:
    reply = intake.vendor_of("gumroad", {}).reply
    assert reply is not None
    assert (reply.status, reply.body) == (200, b"")


def test_a_gumroad_refund_is_above_its_sale_of_the_same_second() -> None:
    vendor = intake.vendor_of("gumroad", {})
    versions = []
    for type_ in ("sale", "refund", "dispute", "dispute_won"):
        data = {"sale_id": "s", "sale_timestamp": "2026-02-18T19:38:56Z", "resource_name": type_}
        mapper = vendor.mapper(type_)
        assert mapper is not None
        versions += [record.version for record in mapper(Event(type_, data))]
    assert versions == sorted(set(versions))
    assert len(versions) == 4


def test_a_described_source_may_say_how_it_is_answered_and_that_it_is_fragile() -> None:
    block = {"verify": {"basic": {}}, "tables": [{"table": "rows", "key": "id"}]}
    plain, told = build(block), build({**block, "fragile": True, "reply": {"status": 204}})
    assert (plain.reply, plain.fragile) == (None, False)
    assert told.reply is not None
    assert (told.reply.status, told.fragile) == (204, True)


def test_samples_are_filled_in_by_number_and_time() -> None:
    sampled = recipes.Sampled(body={"n": "{n}", "m": ["{n+7}-{iso}"], "s": "{s}", "ms": "{ms}", "x": "{other}"})
    assert sampled.made(3, NOW) == (
        b'{"n":3,"m":["10-2026-03-01T08:16:00Z"],"s":1772352960,"ms":1772352960000,"x":"{other}"}'
    )


PAGES = sorted((Path(__file__).parents[2] / "docs/howto").glob("[cr]*.md"))
BLOCKS = [
    (page.stem, number, block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(sources:.*?)```", page.read_text("utf-8"), re.DOTALL))
    if "kind: custom" in block or "kind: gorgias" in block
]


@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=lambda part: str(part)[:20].split("\n")[0])
def test_what_the_documentation_shows_can_be_used(page: str, number: int, block: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(block)
    assert configured.sources_of(load(path, tmp_path))


def test_the_documentation_shows_something() -> None:
    assert {page for page, _, _ in BLOCKS} >= {"custom-sender", "recipes"}
