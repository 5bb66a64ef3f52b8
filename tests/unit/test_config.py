"""Settings: every fault names file, line and setting; secrets never show; the environment is above the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relay.config import load
from relay.configured import sources_of
from relay.errors import ConfigInvalid
from worker import jobs


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "relay.yaml"
        path.write_text(text)
        return path

    return write


def everything(path: Path):
    config = load(path, path.parent)
    sources_of(config)
    jobs.setup(config)
    return config


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("sources:\n  shop: {kind: shopify}\ncolour: red\n", 3, "colour: unknown setting"),
        (
            "sources:\n  shop: {kind: shopify}\n  shop: {kind: stripe}\n",
            3,
            "sources.shop: written twice, first in line 2",
        ),
        ("sources:\n  shop:\n    kind: nobody\n", 3, "there is no kind 'nobody'; known: adobe_commerce"),
        (
            "sources:\n  shop:\n    kind: shopify\n    to: mars\n",
            4,
            "there is no destination 'mars'; known: warehouse",
        ),
        ("sources:\n  shop:\n    kind: shopify\n    colour: red\n", 4, "colour: unknown setting of kind shopify"),
        ("sources:\n  Shop-1: {kind: shopify}\n", 2, "sources.Shop-1: 'Shop-1' is not a name"),
        ("destinations:\n  w: {kind: oracle}\n", 2, "there is no kind 'oracle'; known: dlt, import_api"),
        ("destinations:\n  w:\n    kind: sqlite\n    colour: red\n", 4, "destinations.w.colour: unknown setting"),
        (
            "destinations:\n  lake:\n    kind: dlt\n    warehouse: duckdb\n    lanes: 2\n",
            5,
            "destinations.lake.lanes: must be 1: dlt merges through one staging table",
        ),
        (
            "destinations:\n  a: {kind: dlt, warehouse: duckdb}\n  b: {kind: dlt, warehouse: duckdb, lanes: 1}\n",
            2,
            "destinations.a.dataset: destination b writes there; each of kind dlt needs its own",
        ),
        ("destinations:\n  archive: {kind: sqlite}\n", 2, "the name archive is the relay's own"),
        ("linger_ms: soon\n", 1, "linger_ms"),
        ("trusted_proxies:\n  10.0.0.0/33\n", 1, "trusted_proxies: '10.0.0.0/33' does not appear to be"),
        (
            "figures:\n  f:\n    sql: DELETE FROM x\n",
            3,
            "figures.f.sql: a saved query only reads: write one SELECT",
        ),
        ("sources: [\n", 2, "not YAML"),
        ("- a\n", 1, "settings are a mapping"),
        (
            "destinations:\n  m: {kind: import_api, client_id: 1, api_key: '${NOWHERE}'}\n",
            2,
            "${NOWHERE} is not set",
        ),
    ],
)
def test_a_fault_names_file_line_and_setting(write, text, line, words):
    path = write(text)
    with pytest.raises(ConfigInvalid) as fault:
        everything(path)
    assert str(fault.value).startswith(f"{path}:{line}: ")
    assert words in str(fault.value)


def test_destinations_that_dlt_loads_go_side_by_side_in_datasets_or_warehouses_of_their_own(write):
    blocks = ["dataset: one", "dataset: two", "dataset: one, credentials: other.duckdb"]
    text = "".join(
        f"  d{n}: {{kind: dlt, warehouse: duckdb, lanes: 1, {block}}}\n" for n, block in enumerate(blocks)
    )
    assert len(everything(write("destinations:\n" + text)).settings.destinations) == 3


def test_two_destinations_need_a_source_to_say_which(write):
    text = "sources:\n  s: {kind: shopify}\ndestinations:\n  a: {kind: sqlite, path: a.db}\n"
    text += "  b: {kind: sqlite, path: b.db}\n"
    with pytest.raises(ConfigInvalid, match=r"relay.yaml:2: sources.s.to: say which of the destinations: a, b"):
        everything(write(text))


def test_secrets_come_from_the_environment_and_from_files_and_an_unset_one_is_a_warning(
    write, tmp_path, monkeypatch
):
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("NEW", "from the environment")
    text = (
        "sources:\n  shop:\n    kind: shopify\n"
        f"    secrets: ['${{NEW}}', '${{file:{tmp_path}/secret}}', '${{NOT_YET}}']\n"
    )
    config = everything(write(text))
    assert sources_of(config)["shop"].secrets == ("from the environment", "from a file")
    assert config.warnings == [f"{config.path}:4: sources.shop.secrets.2: ${{NOT_YET}} is not set"]
    assert "from a file" not in repr(config.settings)


def test_the_environment_is_above_the_file(write, monkeypatch):
    monkeypatch.setenv("RELAY_LINGER_MS", "7")
    assert load(write("linger_ms: 5\n"), Path()).settings.linger_ms == 7


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RELAY_WEB_WORKERS", "0", "environment, RELAY_WEB_WORKERS: web_workers: Input should be greater than"),
        ("RELAY_SOURCES", "hush", "environment, RELAY_SOURCES: not JSON"),
        ("RELAY_SOURCES__SHOP__REDACT", "hush", "environment, RELAY_SOURCES__SHOP__REDACT: sources.shop.redact: "),
        (
            "RELAY_SOURCES__shop__kind",
            "who",
            "environment, RELAY_SOURCES__shop__kind: sources.shop.kind: there is no",
        ),
    ],
)
def test_a_fault_of_the_environment_names_the_variable_and_not_what_it_holds(
    write, monkeypatch, variable, value, said
):
    path = write("web_workers: 2\nsources:\n  shop:\n    kind: shopify\n")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigInvalid) as fault:
        everything(path)
    assert str(fault.value).startswith(said)
    assert "hush" not in str(fault.value)


def test_a_fault_of_the_file_is_not_blamed_on_a_variable_that_says_something_else(write, monkeypatch):
    monkeypatch.setenv("RELAY_SOURCES", '{"other": {"kind": "shopify"}}')
    path = write("sources:\n  shop:\n    kind: nobody\n")
    with pytest.raises(ConfigInvalid, match=r"relay.yaml:3: sources.shop.kind: there is no kind"):
        everything(path)


def test_a_variable_that_looks_like_a_setting_and_is_none_is_warned_of_and_stops_nothing(write, monkeypatch):
    for name in ("RELAY_NOSUCH", "RELAY_PROT__X"):
        monkeypatch.setenv(name, "hush")
    said = [f"environment, {name}: unknown setting" for name in ("RELAY_NOSUCH", "RELAY_PROT__X")]
    assert everything(write("web_workers: 2\n")).warnings == said


def test_variables_that_the_file_refers_to_and_that_the_product_reads_are_no_settings(write, monkeypatch):
    for name in ("RELAY_SHOP_SECRET", "RELAY_CONFIG", "RELAY_DATA", "RELAY_LISTEN_FD"):
        monkeypatch.setenv(name, "x")
    config = everything(write("sources:\n  shop: {kind: shopify, secrets: ['a${RELAY_SHOP_SECRET}']}\n"))
    assert sources_of(config)["shop"].secrets == ("ax",)
    assert config.warnings == []


@pytest.mark.parametrize(
    ("path", "said"),
    [("/proc/nope/x.db", "/proc/nope: No such file or directory"), ("/", "/: unable to open database file")],
)
def test_a_destination_that_cannot_be_used_is_a_fault_with_its_line(write, path, said):
    config = everything(write(f"destinations:\n  w: {{kind: sqlite, path: {path}}}\n"))
    assert jobs.check(config) == [f"{config.path}:2: destinations.w: {said}"]


@pytest.mark.parametrize(
    "sql", ["select 1", " -- of a\n/* b */ (SELECT 1)", "WITH a AS (SELECT 1) SELECT * FROM a"]
)
def test_a_saved_query_that_reads_may_begin_in_any_way(write, sql):
    assert everything(write(f"figures:\n  f:\n    sql: {json.dumps(sql)}\n"))


def test_a_missing_file_and_a_missing_redis_are_said_in_a_sentence(tmp_path):
    with pytest.raises(ConfigInvalid, match="no such file"):
        load(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(
        ConfigInvalid, match=r"set RELAY_REDIS_URL, or start `relay up` \(no embedded server runs in"
    ):
        load(None, tmp_path).redis_url()


def test_without_a_file_rows_go_to_sqlite(tmp_path):
    assert load(None, tmp_path).settings.destinations == {"warehouse": {"kind": "sqlite"}}
