"""Settings: every fault names file, line and setting; secrets never show; the environment is above the file."""

from __future__ import annotations

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
        ("sources:\n  Shop: {kind: shopify}\n", 1, "'Shop' is not a name"),
        ("destinations:\n  w: {kind: oracle}\n", 2, "there is no kind 'oracle'; known: dlt, import_api"),
        ("destinations:\n  w:\n    kind: sqlite\n    colour: red\n", 4, "destinations.w.colour: unknown setting"),
        (
            "destinations:\n  lake:\n    kind: dlt\n    warehouse: duckdb\n    lanes: 2\n",
            5,
            "destinations.lake.lanes: Value error, must be 1: dlt merges through one staging table",
        ),
        (
            "destinations:\n  a: {kind: dlt, warehouse: duckdb}\n  b: {kind: dlt, warehouse: duckdb, lanes: 1}\n",
            2,
            "destinations.a.dataset: destination b writes there; each of kind dlt needs its own",
        ),
        ("destinations:\n  archive: {kind: sqlite}\n", 1, "the name archive is the relay's own"),
        ("linger_ms: soon\n", 1, "linger_ms"),
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


def test_a_missing_file_and_a_missing_redis_are_said_in_a_sentence(tmp_path):
    with pytest.raises(ConfigInvalid, match="no such file"):
        load(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(ConfigInvalid, match="set RELAY_REDIS_URL, or start `relay up`"):
        load(None, tmp_path).redis_url()


def test_without_a_file_rows_go_to_sqlite(tmp_path):
    assert load(None, tmp_path).settings.destinations == {"warehouse": {"kind": "sqlite"}}
