"""`relay up` as real processes: a real Valkey, and small stand-ins for the web part and the worker.

A stand-in appends a line to a file for whatever it is told, so that order and signals can be read afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import redis

T = TypeVar("T")
DRIVER = """
import sys
from pathlib import Path
from relay.config import load
from relay.supervisor import up
from relay.supervisor.parts import Part

folder, config, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
stand_in = str(Path(__file__).with_name("stand_in.py"))

def parts(env, address):
    return [
        Part(name, (sys.executable, "-S", stand_in, name, str(address.fd)), env, pass_fds=(address.fd,))
        for name in ("web", "worker")
    ]

def out(line):
    print(line, flush=True)

if len(sys.argv) > 4:
    from relay.supervisor import loop
    loop._PATIENCE_S = 1
    last = sys.argv[4]
    def parts(env, address):
        return [
            Part("web", ("sleep", "300"), env),
            Part("worker", (sys.executable, "-S", "-c", last), env, faulty_code=2),
        ]

path = config if config.exists() else None
sys.exit(up(load(path, folder), config_path=path, port=port, redis_url=None, workers=1, out=out, parts=parts))
"""
STAND_IN = """
import os, signal, socket, subprocess, sys, time
name, journal, job = sys.argv[1], os.environ["JOURNAL"], None

def note(word):
    with open(journal, "a") as file:
        file.write(f"{name} {word} {os.getpid()}\\n")

def stop(*_):
    note("stop")
    time.sleep(0.2)
    if job:
        job.terminate()
    note("gone")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, lambda *_: note("reload"))
note("start")
if name == "web":
    listener = socket.socket(fileno=int(sys.argv[2]))
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
        connection.close()
else:
    # A forked job as RQ's: in a process group of its own.
    job = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"], process_group=0)
    note(f"job {job.pid}")
    while True:
        time.sleep(0.1)
"""


def eventually(ask: Callable[[], T], what: str, seconds: float = 10) -> T:
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError, OSError, psutil.NoSuchProcess, http.client.HTTPException):
            if found := ask():
                return found
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.05)


class Up:
    """One `relay up` and what can be seen of it."""

    def __init__(self, home: Path, port: int, *more: str, **env: str) -> None:
        self.more, self.env = more, env
        self.home, self.port, self.data = home, port, home / "d"
        self.out, self.err, self.journal = home / "out", home / "err", home / "journal"
        for file in (self.out, self.err, self.journal):
            file.touch()
        self.process = self.run()

    def run(self) -> subprocess.Popen[bytes]:
        with self.out.open("ab") as out, self.err.open("ab") as err:
            return subprocess.Popen(
                [
                    sys.executable,
                    self.home / "driver.py",
                    self.data,
                    self.home / "relay.yaml",
                    str(self.port),
                    *self.more,
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "JOURNAL": str(self.journal), **self.env},
                process_group=0,
            )

    def again(self) -> None:
        self.out.write_text("")
        self.journal.write_text("")
        self.process = self.run()

    def ready(self) -> Up:
        # `relay web` says it as a line of the log, where nobody sits before it.
        eventually(lambda: "rowhook is ready" in self.out.read_text() + self.err.read_text(), "ready")
        if (self.home / "stand_in.py").exists():
            eventually(lambda: self.noted("worker", "job"), "the stand-in of the worker is up as well")
        return self

    def noted(self, *words: str) -> list[list[str]]:
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [line for line in lines if line[: len(words)] == list(words)]

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.err.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url((self.data / "redis.url").read_text().strip(), decode_responses=True)

    def server(self) -> int:
        with self.redis() as client:
            return int(client.info("server")["process_id"])

    def put(self, key: str) -> None:
        with self.redis() as client:
            client.set(key, "kept")

    def has(self, key: str) -> bool:
        with self.redis() as client:
            return client.get(key) == "kept"

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def ours(self) -> Iterator[psutil.Process]:
        """Live processes that belong to this folder; Valkey writes its title over its environment."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                known = str(self.home) in " ".join(process.cmdline())
                if known or process.environ().get("JOURNAL") == str(self.journal):
                    yield process

    def left(self) -> list[str]:
        """Their command lines."""
        return [" ".join(process.cmdline()) for process in self.ours()]

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.ours():
            process.kill()


WSGI = """
import os, sys, time

def create_app():
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            time.sleep(0.3)
        body = f"{os.getpid()} {os.environ['RELAY_CONFIG']}".encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    return app
"""
WEB = """
import sys
from pathlib import Path
import msgspec
from relay.config import load
from relay.supervisor import web
from relay.supervisor.run import web_part

def parts(env, address):
    part = web_part(env, address)
    ours = {"argv": (*part.argv[:-1], "tiny:create_app()"), "check": (*part.check[:-1], "tiny:create_app()")}
    return [msgspec.structs.replace(part, **ours)]

config = Path(sys.argv[2])
out = lambda line: print(line, flush=True)
sys.exit(web(load(config, Path(sys.argv[1])), config_path=config, port=int(sys.argv[3]), out=out, parts=parts))
"""


@pytest.fixture
def web() -> Iterator[Up]:
    """`relay web`: a real gunicorn with our settings and a tiny application."""
    config = "host: 127.0.0.1\nredis_url: unix:///none\n"
    with started({"driver.py": WEB, "tiny.py": WSGI, "relay.yaml": config}) as made:
        yield made.ready()


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(files: dict[str, str], *more: str) -> Iterator[Up]:
    home = Path(tempfile.mkdtemp(prefix="up"))  # short: a socket's path has some hundred bytes
    for name, text in files.items():
        (home / name).write_text(text)
    made = Up(home, free_port(), *more, PYTHONPATH=str(home))
    try:
        yield made
    finally:
        made.clean()
        shutil.rmtree(home)


STAND_INS = {"driver.py": DRIVER, "stand_in.py": STAND_IN, "relay.yaml": "host: 127.0.0.1\n"}


@pytest.fixture
def up() -> Iterator[Up]:
    with started(STAND_INS) as made:
        yield made.ready()


def test_it_says_where_it_is_ready_and_keeps_the_folder_private(up: Up) -> None:
    lines = up.out.read_text().splitlines()
    assert lines[-1] == f"rowhook is ready: http://127.0.0.1:{up.port}/console/ (data in {up.data})"
    assert up.data.stat().st_mode & 0o777 == 0o700
    assert (up.data / "redis.url").stat().st_mode & 0o777 == 0o600
    with up.redis() as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "appendfsync")
        assert settings == {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0


def test_a_second_start_on_the_folder_names_the_first_and_changes_nothing(up: Up) -> None:
    server = up.server()
    second = up.run()
    assert second.wait(10) == 1
    last = up.out.read_text().splitlines()[-1]
    assert f"already running in {up.data} (process {up.process.pid})" in last
    assert up.server() == server


def test_a_busy_port_is_said_before_anything_starts(up: Up) -> None:
    taken, up.data = up.data, up.home / "e"
    second = up.run()
    assert second.wait(10) == 1
    assert up.out.read_text().splitlines()[-1].startswith(f"port {up.port} is in use by another program")
    assert not (up.data / "valkey").exists()
    up.data = taken


def test_stopping_ends_web_then_worker_then_server_and_leaves_nothing(up: Up) -> None:
    up.put("k")
    eventually(lambda: len(up.left()) == 5, "supervisor, server, two parts and a job are all seen")
    assert up.stop() == 0
    assert [line[:2] for line in up.noted() if line[1] in {"stop", "gone"}] == [
        ["web", "stop"],
        ["web", "gone"],
        ["worker", "stop"],
        ["worker", "gone"],
    ]
    assert up.left() == []
    assert not (up.data / "redis.url").exists()
    up.again()
    assert up.ready().has("k"), "what was stored survives a stop and a start"


def test_ctrl_c_twice_hurries(up: Up) -> None:
    for line in up.noted("worker", "start"):
        os.kill(int(line[2]), signal.SIGSTOP)  # it will not hear that it is to stop
    up.process.send_signal(signal.SIGINT)
    eventually(lambda: up.noted("web", "gone"), "the web part stops")
    time.sleep(0.5)
    assert up.process.poll() is None
    assert up.stop(signal.SIGINT) == 0
    assert up.left() == []


def test_it_stops_under_a_shell_that_ignores_interrupts(up: Up) -> None:
    """`sh -c 'relay up &'` starts it with SIGINT ignored."""
    up.stop()
    up.out.write_text("")
    command = (
        f"{sys.executable} {up.home}/driver.py {up.data} {up.home}/relay.yaml {up.port} >{up.out} 2>&1 & wait"
    )
    shell = subprocess.Popen(["sh", "-c", command], env={**os.environ, "JOURNAL": str(up.journal)})
    up.ready()
    (child,) = psutil.Process(shell.pid).children()
    child.send_signal(signal.SIGINT)
    shell.wait(20)
    assert up.left() == []


def test_a_part_that_dies_is_started_again_without_what_it_left(up: Up) -> None:
    ((_, _, worker),) = up.noted("worker", "start")
    ((_, _, job, _),) = up.noted("worker", "job")
    os.kill(int(worker), signal.SIGKILL)
    eventually(lambda: len(up.noted("worker", "start")) == 2, "a second worker")
    (ended,) = up.logged("part_ended")
    assert (ended["part"], ended["ended"], ended["again_in_s"]) == ("worker", "SIGKILL", 0.5)
    assert up.stop() == 0
    assert gone(int(job)), "the job of the killed worker is gone as well"


def test_callers_wait_while_the_web_part_is_started_again(up: Up) -> None:
    ((_, _, web),) = up.noted("web", "start")
    os.kill(int(web), signal.SIGKILL)
    eventually(lambda: gone(int(web)), "its end")
    connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    assert len(up.noted("web", "start")) == 2


def test_a_killed_server_comes_back_with_its_data(up: Up) -> None:
    up.put("k")
    server = up.server()
    os.kill(server, signal.SIGKILL)
    assert eventually(up.server, "another server") != server
    assert up.has("k")
    eventually(lambda: up.logged("server_back"), "said so")
    assert up.logged("server_ended")[0]["ended"] == "SIGKILL"
    assert len(up.noted("web", "start")) == len(up.noted("worker", "start")) == 1


def test_a_server_that_outlived_its_supervisor_is_taken_over_never_doubled(up: Up) -> None:
    """The supervisor is killed: its parts end by themselves, the server stays and holds the lock."""
    up.put("k")
    server = up.server()
    up.process.kill()
    up.process.wait()
    eventually(lambda: up.noted("worker", "gone") and up.noted("web", "gone"), "the parts end by themselves")
    assert up.server() == server
    up.again()
    up.ready()
    assert f"took over the server that an earlier `relay up` left running (process {server})" in up.out.read_text()
    assert up.server() == server
    assert up.has("k")

    os.kill(server, signal.SIGKILL)
    assert eventually(up.server, "another server in place of the adopted one") != server
    assert up.has("k")
    assert up.stop() == 0
    eventually(lambda: up.left() == [], "nothing is left")


def test_an_adopted_server_is_stopped_at_the_end(up: Up) -> None:
    server = up.server()
    up.process.kill()
    up.process.wait()
    up.again()
    up.ready()
    assert up.stop() == 0
    eventually(lambda: gone(server), "the server ends")


def test_a_faulty_file_changes_nothing_and_a_good_one_reaches_all_parts(up: Up) -> None:
    config = up.home / "relay.yaml"
    in_use = up.data / "in-use" / "up.yaml"
    before = in_use.read_text()
    config.write_text("host: 127.0.0.1\nlinger: 5\n")
    up.process.send_signal(signal.SIGHUP)
    eventually(lambda: up.logged("config_refused"), "the fault is said")
    time.sleep(0.5)
    (refused,) = up.logged("config_refused")
    assert refused["error"] == f"{config}:2: linger: unknown setting"
    assert up.noted("web", "reload") == up.noted("worker", "reload") == []
    assert in_use.read_text() == before

    config.write_text("host: 127.0.0.1\nlinger_ms: 5\n")
    up.process.send_signal(signal.SIGHUP)
    eventually(lambda: up.noted("web", "reload") and up.noted("worker", "reload"), "both parts are told")
    assert in_use.read_text() == config.read_text()
    assert len(up.noted("web", "start")) == len(up.noted("worker", "start")) == 1


def get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def test_gunicorn_reloads_without_losing_a_request_and_survives_a_faulty_file(web: Up) -> None:
    config = web.home / "relay.yaml"
    before, answers, failures, over = get(web.port, "/"), [], [], threading.Event()

    def ask(path: str) -> None:
        while not over.is_set():
            try:
                answers.append(get(web.port, path))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                failures.append(error)

    callers = [threading.Thread(target=ask, args=(path,)) for path in ("/", "/slow", "/slow")]
    for caller in callers:
        caller.start()
    try:
        good = config.read_text()
        config.write_text(good + "web_workers: none\n")
        web.process.send_signal(signal.SIGHUP)
        eventually(lambda: web.logged("config_refused"), "the fault is said")
        config.write_text(good + "web_workers: 1\n")
        web.process.send_signal(signal.SIGHUP)
        eventually(lambda: web.logged("config_reloaded"), "the reload")
        (master,) = psutil.Process(web.process.pid).children()
        eventually(lambda: len(master.children()) == 1, "the new number of processes")
        count = len(answers)
        eventually(lambda: len(answers) > count + 20, "answers of the new process")
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert failures == []
    (left,) = master.children()
    assert answers[-1].startswith(f"{left.pid} ")
    assert not before.startswith(f"{left.pid} ")
    assert web.stop() == 0
    assert web.left() == []


def test_a_killed_gunicorn_is_started_again_and_no_query_is_logged(web: Up) -> None:
    (master,) = psutil.Process(web.process.pid).children()
    master.kill()
    assert get(web.port, "/slow")
    with socket.create_connection(("127.0.0.1", web.port), timeout=5) as wire:
        wire.sendall(b"GET /hooks/x?token=s3cret HTTP/9.9\r\n\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 400")
    eventually(lambda: "Invalid request" in web.err.read_text(), "the refusal is logged")
    assert "s3cret" not in web.err.read_text()
    assert not list(web.data.rglob("*.ctl"))


def test_a_part_that_cannot_start_with_these_settings_ends_it_all() -> None:
    with started(STAND_INS, "import sys; sys.exit(2)") as up:
        assert up.process.wait(10) == 1
        assert up.out.read_text().splitlines()[-1].startswith("worker cannot start with these settings")
        assert up.left() == []


def test_it_says_which_part_is_not_up_and_goes_on_trying() -> None:
    with started(STAND_INS, "import sys; sys.exit(1)") as up:
        eventually(lambda: "not ready after" in up.out.read_text(), "the part is named")
        assert "worker does not stay up (exit code 1); still trying" in up.out.read_text()
        assert up.process.poll() is None
        assert up.stop() == 0
        assert up.left() == []


def test_without_a_file_it_writes_a_demo() -> None:
    with started({name: text for name, text in STAND_INS.items() if name != "relay.yaml"}) as up:
        up.ready()
        demo = up.data / "demo.yaml"
        assert demo.stat().st_mode & 0o777 == 0o600
        assert (up.data / "in-use" / "up.yaml").read_text() == demo.read_text()
