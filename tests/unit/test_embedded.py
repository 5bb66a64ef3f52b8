"""The embedded server and what stands around it, as far as no supervisor is needed."""

from __future__ import annotations

import base64
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from gunicorn.config import Config as GunicornConfig

from relay.config import Settings, load
from relay.configured import sources_of
from relay.errors import ConfigInvalid, RelayError
from relay.intake import handshake, webhook
from relay.kinds import kinds
from relay.locks import Lock
from relay.publickeys import ED25519, Ring, Signed
from relay.records import Codec
from relay.signatures import AnyOf, Basic, Hmac, Verifier
from relay.source import Setting, Vendor, sample_request
from relay.supervisor import demo, embedded, place
from relay.supervisor.active import Active
from relay.supervisor.address import Address
from relay.supervisor.embedded import Server
from relay.supervisor.locks import one_supervisor, prepare
from relay.supervisor.parts import Backoff, Part, ending
from relay.supervisor.serving import Log, gunicorn_settings, without_query


def vendor(verify: Verifier | Callable[[Mapping[str, Any]], Verifier], **more: object) -> Vendor:
    return Vendor(title="T", family="carts", docs="https://example.com", verify=verify, **more)  # type: ignore[arg-type]


def test_a_socket_stands_in_the_data_folder_where_its_path_is_short_enough() -> None:
    assert place.socket_path(Path("/srv/relay")) == Path("/srv/relay/valkey.sock")


def test_a_socket_of_a_deep_folder_stands_in_a_private_temporary_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    found = place.socket_path(deep)
    assert len(os.fsencode(found)) <= 100
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
    assert place.socket_path(deep) == found
    other = place.socket_path(tmp_path / ("e" * 120))
    assert other != found
    for folder in (found.parent, other.parent):
        folder.rmdir()


def test_a_temporary_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    folder = place.socket_path(tmp_path / ("d" * 120)).parent
    folder.chmod(0o755)
    with pytest.raises(RelayError, match="not a private folder of ours"):
        place.socket_path(tmp_path / ("d" * 120))
    folder.rmdir()


def test_a_machine_without_a_binary_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(RelayError, match="no embedded Valkey for this kind of machine: give a Redis with --redis"):
        place.command(Path("/d"), Path("/s"), Path("/l"))


def test_the_server_starts_in_a_folder_with_blanks_and_accents_and_keeps_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "a b é 'c'" / ("deep" * 30)
    folder.mkdir(parents=True)
    said: list[str] = []
    server = Server(folder, said.append)
    for value in ("1", "2"):
        server.start(time.sleep)
        try:
            with redis.Redis.from_url(server.url) as client:
                assert client.incr("starts") == int(value)
            assert (folder / "redis.url").read_text().strip() == server.url
        finally:
            server.stop()
        server = Server(folder, said.append)
    assert not list(folder.glob("redis.url"))
    server.socket.unlink(missing_ok=True)
    server.socket.parent.rmdir()
    assert said == []


def test_a_server_that_cannot_read_its_file_says_so_in_one_sentence(tmp_path: Path) -> None:
    prepare(tmp_path / "d")
    server = Server(tmp_path / "d", print)
    server.start(time.sleep)
    server.stop()
    (base,) = (tmp_path / "d" / "valkey" / "appendonlydir").glob("*.base.rdb")
    base.write_bytes(b"not what was written")
    again = Server(tmp_path / "d", print)
    with pytest.raises(RelayError, match=r"the embedded Valkey did not start \(exit code 1\): .+valkey.log\)$"):
        again.start(time.sleep)
    again.stop()


def test_a_server_of_another_folder_is_never_taken_over(tmp_path: Path) -> None:
    """A copied data folder brings the lock file of the original, which names the original's socket."""
    prepare(tmp_path / "a")
    prepare(tmp_path / "b")
    original = Server(tmp_path / "a", print)
    original.start(time.sleep)
    try:
        held = Lock(tmp_path / "b" / "lock")
        assert held.take()
        held.say((tmp_path / "a" / "lock").read_text())
        with pytest.raises(RelayError, match="keeps its data in"):
            Server(tmp_path / "b", print).start(time.sleep)
        held.close()
    finally:
        original.stop()


def test_a_silent_holder_of_the_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs, or whose socket was deleted: never a second one beside it."""
    monkeypatch.setattr(embedded, "_HOLDER_S", 0.3)
    held = Lock(tmp_path / "lock")
    assert held.take()
    held.say(f'{{"pid": 77, "socket": "{tmp_path}/valkey.sock"}}')
    (tmp_path / "redis.url").write_text("its address")
    server = Server(tmp_path, print)
    with pytest.raises(RelayError, match=r"does not answer still holds .* \(process 77\): end it"):
        server.start(time.sleep)
    server.stop()
    assert (tmp_path / "redis.url").exists(), "what belongs to the holder is left alone"
    assert not (tmp_path / "valkey").exists()
    held.close()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "1:M 1 Jan # Error writing to the AOF file: No space left on device\n1:M # Exiting\n",
            "full: free some space",
        ),
        ("old\n1:M 1 Jan # Fatal error loading the DB\n\n", "^Fatal error loading the DB"),
        ("1:M # Short write while writing to the AOF file: (nwritten=1, expected=2)\n1:M # Exit\n", "full: free"),
        ("", "it said nothing"),
    ],
)
def test_last_words_are_one_sentence(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "valkey.log").write_text(log)
    said = place.last_words(tmp_path / "valkey.log", 0)
    assert "\n" not in said
    assert re.search(words, said)


def test_words_of_an_earlier_run_are_not_repeated(tmp_path: Path) -> None:
    log = tmp_path / "valkey.log"
    log.write_text("1:M # No space left on device\n")
    start = log.stat().st_size
    log.write_text(log.read_text() + "1:M # Out of files\n")
    assert place.last_words(log, start).startswith("Out of files")


def test_a_lock_lives_on_in_the_child_that_inherited_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.take()
    assert lock.fd is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fd,))
    lock.close()
    assert not Lock(tmp_path / "lock").take()
    child.communicate(b"\n")
    other = Lock(tmp_path / "lock")
    assert other.take()
    other.close()


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RelayError, match=r"cannot be used .*: choose another with --data"):
        prepare(tmp_path / "file" / "d")


def test_one_folder_has_one_supervisor(tmp_path: Path) -> None:
    first = one_supervisor(tmp_path)
    with pytest.raises(RelayError, match=rf"already running in .* \(process {os.getpid()}\)"):
        one_supervisor(tmp_path)
    first.close()
    one_supervisor(tmp_path).close()


def test_pauses_double_up_to_ten_seconds_and_start_again_after_a_steady_run() -> None:
    backoff = Backoff()
    assert [backoff.after(1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert backoff.after(60) == 0.5


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (-9, "SIGKILL"), (-64, "SIGRTMAX"), (-99, "signal 99")]
)
def test_an_ending_is_told_in_words(code: int, words: str) -> None:
    assert ending(code) == words


def test_a_busy_port_and_a_foreign_address_are_each_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RelayError, match=f"port {port} is in use by another program"):
            Address("127.0.0.1", port)
    with pytest.raises(RelayError, match=r"cannot listen on 192\.0\.2\.1"):
        Address("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:{}"), ("0.0.0.0", "http://127.0.0.1:{}"), ("::", "http://[::1]:{}")],
)
def test_the_address_shown_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    address = Address(host, 0)
    assert address.url == url.format(address.port)
    socket.create_connection((address.reach, address.port)).close()
    address.close()


def test_gunicorn_is_told_all_that_matters() -> None:
    made = gunicorn_settings(Settings(host="::", port=81, web_workers=3, web_threads=7))
    assert made["bind"] == ["[::]:81"]
    assert (made["workers"], made["threads"], made["worker_class"]) == (3, 7, "gthread")
    assert made["accesslog"] is None
    assert made["preload_app"] is False
    assert made["control_socket_disable"] is True
    assert gunicorn_settings(Settings(), "7")["bind"] == ["fd://7"]


def test_gunicorn_knows_every_setting_that_it_is_told() -> None:
    from gunicorn.config import Config

    config = Config()
    for name, value in gunicorn_settings(Settings()).items():
        config.set(name, value)  # raises for a name or value that it does not know


def test_a_query_never_reaches_the_log() -> None:
    record = logging.LogRecord("n", 30, "p", 1, "bad %r at %s", ("GET /x?token=abc HTTP/9", "/y?k=abc"), None)
    assert without_query(record)
    assert record.getMessage() == "bad 'GET /x?… HTTP/9' at /y?…"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigInvalid("relay.yaml:3: port: no"), "Exception in worker process: relay.yaml:3: port: no"),
        (redis.ConnectionError("refused"), "Exception in worker process: Redis cannot be reached"),
    ],
)
def test_of_settings_with_which_the_web_part_cannot_start_gunicorn_logs_the_words_alone(
    error, said, caplog
) -> None:
    log = Log(GunicornConfig())
    try:
        raise error
    except type(error):
        log.exception("Exception in worker process")
    [record] = caplog.records
    assert (record.getMessage(), record.levelname, record.exc_info) == (said, "ERROR", None)


def test_the_demo_has_a_source_of_each_kind_and_keeps_its_secrets(tmp_path: Path) -> None:
    assert demo.write(tmp_path)
    path = tmp_path / "demo.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = load(None, tmp_path)
    assert "shopify" in config.settings.sources
    assert all(source.secrets for source in config.settings.sources.values())

    before = path.read_text()
    assert not demo.write(tmp_path)
    assert path.read_text() == before

    have = yaml.safe_load(before)
    shopify = have["sources"].pop("shopify")
    path.write_text(yaml.safe_dump(have))
    assert demo.write(tmp_path), "a kind that is new is added"
    now = yaml.safe_load(path.read_text())["sources"]
    assert {k: v for k, v in now.items() if k != "shopify"} == have["sources"]
    assert now["shopify"]["secrets"] != shopify["secrets"]


def test_every_demo_source_takes_each_sample_that_relay_send_makes(tmp_path: Path) -> None:
    demo.write(tmp_path)
    sources, codec, now = sources_of(load(None, tmp_path)), Codec(), time.time_ns()
    assert {source.kind for source in sources.values()} == set(kinds()) - {"custom"}
    for name, source in sources.items():
        assert source.vendor.samples, name
        rows = 0
        for type_, make in source.vendor.samples.items():
            plain = sample_request(make(1, now), f"http://127.0.0.1:8080/hooks/{name}")
            request = source.verifier.sign(plain, source.secrets[0], now)
            assert handshake(source, request) is None, (name, type_)
            accepted = webhook(source, request, now, codec, limit=1_000_000)
            assert not accepted.faults, (name, type_)
            assert not any(offer.waits for offer in accepted.delivery.offers), (name, type_)
            rows += accepted.rows
        assert rows, name


def test_no_two_demo_sources_have_one_secret_and_none_is_made_twice(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        demo.write(tmp_path / name)
        blocks = yaml.safe_load((tmp_path / name / "demo.yaml").read_text())["sources"].values()
        made += [secret for block in blocks for secret in block["secrets"]]
    assert len(set(made)) == len(made)


def test_a_folder_that_has_all_demo_sources_loads_no_kind_to_write_them(tmp_path: Path) -> None:
    demo.write(tmp_path)
    script = f"""
import pathlib, sys
from relay.supervisor import demo
assert not demo.write(pathlib.Path({str(tmp_path)!r}))
print([name for name in sys.modules if name.startswith("relay.sources.")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_demo_secrets_have_the_form_that_each_scheme_reads() -> None:
    (plain,) = demo.source("x", vendor(Hmac("X")))["secrets"]
    assert len(bytes.fromhex(plain)) == 32
    (standard,) = demo.source("x", vendor(Hmac("X", key="whsec")))["secrets"]
    assert len(base64.b64decode(standard.removeprefix("whsec_"), validate=True)) == 24
    (prefixed,) = demo.source("x", vendor(Hmac("X"), secret_like="shpss_"))["secrets"]
    assert prefixed.startswith("shpss_")
    (coded,) = demo.source("x", vendor(Hmac("X", key="base64")))["secrets"]
    assert base64.b64decode(coded, validate=True)
    (basic,) = demo.source("x", vendor(Basic()))["secrets"]
    assert basic.count(":") == 1
    (inner,) = demo.source("x", vendor(AnyOf(Hmac("X", key="base64"), Basic())))["secrets"]
    assert base64.b64decode(inner, validate=True)
    (key,) = demo.source("x", vendor(Signed("X", ring=Ring(ED25519))))["secrets"]
    assert key.startswith("-----BEGIN PRIVATE KEY-----")


def test_a_kind_that_cannot_be_verified_without_settings_gets_no_demo_source() -> None:
    def needs(settings: Mapping[str, Any]) -> Hmac:
        if settings["where"] is None:
            raise ConfigInvalid("where: say it")
        return Hmac(settings["where"])

    assert demo.source("x", vendor(needs, settings={"where": Setting("help")})) is None


def test_a_demo_source_has_no_token_of_an_api_for_its_events_would_wait_for_the_vendor() -> None:
    made = vendor(Hmac("X"), settings={"api_token": Setting("help", secret=True)})
    made.hydrates("order", token="api_token", hosts=("api.example",))(lambda _event, _settings: None)
    assert set(demo.source("x", made) or ()) == {"kind", "secrets"}


def test_a_demo_source_gets_the_secret_settings_of_its_vendor() -> None:
    settings = {"verify_token": Setting("help", secret=True), "plain": Setting("help", default=3)}
    block = demo.source("x", vendor(Hmac("X"), settings=settings))
    assert set(block) == {"kind", "secrets", "verify_token"}
    assert len(block["verify_token"]) == 32


def test_a_demo_file_that_is_not_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("sources: [1")
    with pytest.raises(ConfigInvalid, match=r"demo\.yaml: cannot be read"):
        demo.write(tmp_path)


def active(tmp_path: Path) -> Active:
    return Active(tmp_path / "relay.yaml", tmp_path, "up")


def test_the_copy_in_use_changes_only_to_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text("linger_ms: 5\n")
    made = active(tmp_path)
    assert made.accept().settings.linger_ms == 5
    copy = Path(made.env["RELAY_CONFIG"])
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600

    for fault in ("linger_ms: many\n", "a: [\n", "sources: {x: {kind: nobody}}\n"):
        (tmp_path / "relay.yaml").write_text(fault)
        with pytest.raises(ConfigInvalid, match=rf"^{tmp_path}/relay\.yaml:\d"):
            made.accept()
        assert copy.read_text() == "linger_ms: 5\n"
    (tmp_path / "relay.yaml").unlink()
    with pytest.raises(ConfigInvalid, match="No such file"):
        made.accept()
    assert [file.name for file in copy.parent.iterdir()] == ["up.yaml"]


def test_a_part_that_could_not_start_with_a_file_refuses_it_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text("linger_ms: 5\n")
    script = "import os, sys; sys.exit('noise\\n' + os.environ['RELAY_CONFIG'] + ':1: no')"
    part = Part("web", (), check=(sys.executable, "-c", script))
    with pytest.raises(ConfigInvalid, match=rf"^{tmp_path}/relay\.yaml:1: no$"):
        active(tmp_path).accept([part])
    assert active(tmp_path).accept([Part("web", (), check=("true",))]).settings.linger_ms == 5
