"""What a person can mistype, at any command, is said in a sentence, without a traceback and without secrets."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from relay.cli import send
from relay.cli.main import main

AWAY = "redis://:hush@127.0.0.1:1/0"
SHOP = "sources:\n  shop: {kind: shopify, secrets: [k]}\n"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in a folder with a source; gives its exit code and all that it printed."""
    (tmp_path / "relay.yaml").write_text(SHOP)
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["relay", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(str(ended.value.code)), shown.out + shown.err

    return run


@pytest.mark.parametrize(
    "line",
    [
        "stats", "audit", "dead list", "keys list", "admin list", "tail", "drift", "imports list", "refused list",
        "alerts list", "lineage shop_orders 1",
    ],
)  # fmt: skip
def test_every_command_says_in_a_sentence_that_redis_is_away(said, monkeypatch, line):
    monkeypatch.setenv("RELAY_REDIS_URL", AWAY)
    assert said(line) == (2, "Redis cannot be reached: see whether it runs, and what redis_url says\n")


@pytest.mark.parametrize(
    "url", ["nonsense", "redis://:hush@127.0.0.1:abc/0", "redis://:hu#sh@h/0", "redis://h/0?hush=1"]
)
def test_what_is_no_address_of_a_redis_is_named_and_not_repeated(said, monkeypatch, url):
    code, words = said(f"up --redis {url}")
    assert (code, words[:29]) == (2, "no address of a Redis (redis_")
    monkeypatch.setenv("RELAY_REDIS_URL", url)
    for line, expected in (("stats", 2), ("up", 2), ("check", 1)):
        code, words = said(line)
        assert code == expected
        assert "redis_url: no address of a Redis" in words
        assert "Traceback" not in words
        assert not {"hush", "hu#sh", "nonsense"} & set(words.replace("/", " ").split())


@pytest.mark.parametrize("options", ["--port 65536", "--port -1", "--workers 0", "--workers 65"])
def test_a_number_that_up_cannot_use_is_refused_before_anything_starts(said, tmp_path, options):
    assert said(f"up {options}")[0] == 2
    assert not (tmp_path / ".relay").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--file nowhere.json", "nowhere.json: No such file or directory\n"),
        ("--file .", ".: Is a directory\n"),
        ("--to 127.0.0.1:18480", "--to: no address to post to: write http://HOST:PORT"),
        ("--to http://127.0.0.1:port", "--to: no address to post to"),
        ("--to http://me:hush@127.0.0.1:1?token=hush", "nobody answers at http://127.0.0.1:1/hooks/shop: is"),
    ],
)
def test_send_says_what_it_cannot_read_and_where_it_cannot_post(said, options, words):
    code, found = said(f"send shopify {options}")
    assert code == 2
    assert found.startswith(words)
    assert "hush" not in found


def test_send_does_not_wait_for_ever_for_a_receiver_that_says_nothing(said, monkeypatch):
    monkeypatch.setattr(send, "_PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, found = said(f"send shopify --to {at}")
    assert (code, found) == (2, f"{at}/hooks/shop took the delivery and said nothing within 0.1 s\n")


def test_a_list_of_no_imports_is_not_an_empty_answer(said, monkeypatch, redis_url):
    monkeypatch.setenv("RELAY_REDIS_URL", redis_url)
    assert said("imports list") == (0, "nothing was imported, or nothing of it is kept any more\n")
