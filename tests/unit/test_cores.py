"""Web processes and cores: each keeps to one where there are no more of these, and the free one is taken again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from relay.supervisor.cores import least_used
from tests.oracle.machine import eventually

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells a process its cores")
CONFIG = """
from relay.config import Settings
from relay.supervisor.serving import gunicorn_settings
globals().update(gunicorn_settings(Settings(web_workers={workers}, host="127.0.0.1", port={port})))
"""
RUN = "import os, sys; os.sched_setaffinity(0, {cores}); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


def test_the_core_that_is_taken_least_often_is_chosen():
    assert least_used([0, 1], []) == 0
    assert least_used([0, 1], [0]) == 1
    assert least_used([0, 1], [None, 0, 1, 1]) == 0
    assert least_used([4, 7], [0, 0]) == 4


class Gunicorn:
    """A gunicorn that may use some cores."""

    def __init__(self, folder: Path, workers: int, cores: set[int]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = folder / "conf.py"
        config.write_text(CONFIG.format(workers=workers, port=port))
        root = Path(__file__).parents[2]
        argv = ["-m", "gunicorn", "--config", str(config), "bench.baselines.empty:app"]
        self.server = subprocess.Popen(
            [sys.executable, "-c", RUN.format(cores=cores), *argv], cwd=root, stderr=subprocess.DEVNULL
        )
        self.workers, self.port = workers, port

    def until(self, done: Callable[[list[set[int]]], bool]) -> None:
        """Wait until all workers are there, and their cores are as they are to be."""
        end = time.monotonic() + 30
        while True:
            found = [os.sched_getaffinity(pid) for pid in self.pids()]
            if len(found) == self.workers and done(found):
                return
            assert time.monotonic() < end, found
            time.sleep(0.05)

    def answers(self) -> int:
        """The status of a request, which a worker answers."""
        return requests.post(f"http://127.0.0.1:{self.port}/hooks/x", b"{}", timeout=10).status_code

    def pids(self) -> list[int]:
        """Of the workers that run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [p.pid for p in psutil.Process(self.server.pid).children() if p.status() != "zombie"]
        return []


@pytest.fixture
def cores() -> set[int]:
    """Two of those that this test may use, where there are two."""
    return set(sorted(os.sched_getaffinity(0))[:2])


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[int, set[int]], Gunicorn]]:
    running: list[Gunicorn] = []

    def start(workers: int, cores: set[int]) -> Gunicorn:
        running.append(Gunicorn(tmp_path, workers, cores))
        return running[-1]

    yield start
    for one in running:
        one.server.terminate()
        one.server.wait(40)


@linux
def test_each_web_process_keeps_to_a_core_of_its_own_and_a_new_one_takes_that_of_a_dead_one(started, cores):
    def apart(found: list[set[int]]) -> bool:
        return all(len(one) == 1 for one in found) and set.union(*found) == cores

    here = started(2, cores)
    here.until(apart)
    for pid in here.pids():
        os.kill(pid, signal.SIGKILL)
        here.until(lambda found, pid=pid: pid not in here.pids() and apart(found))


@linux
def test_where_there_are_more_cores_than_web_processes_each_may_use_all(started, cores):
    here = started(1, cores)
    for _ in range(3):  # what answers has chosen before
        assert eventually(here.answers, "it answers") == 202
    here.until(lambda found: found == [cores])
