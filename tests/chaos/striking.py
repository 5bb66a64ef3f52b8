"""The faults of processes and of Redis. A victim is frozen, what it has in hand is counted, then it is struck.

Each strike returns how many requests or events were in flight when it struck.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from tests.chaos.scene import LANES, Scene, freeze, thaw
from tests.oracle.machine import eventually

Strike = Callable[[Scene], int]
#: How long a strike looks for something in flight. There is load all the while, so this is for slow machines.
_FINDS_S = 120.0


def _lane(scene: Scene) -> str:
    """Each destination in turn."""
    return list(LANES.values())[scene.turn % len(LANES)]


def web_worker(scene: Scene) -> int:
    """SIGKILL of a gunicorn worker with requests in its hands."""

    def look() -> tuple[int, int] | None:
        workers = scene.web_workers()
        if not workers:
            return None
        victim = scene.rng.choice(workers)
        freeze(victim)
        time.sleep(0.15)
        count = scene.requests_of(victim)
        if count:
            return victim, count
        thaw(victim)
        return None

    victim, count = eventually(look, "a gunicorn worker has requests", _FINDS_S)
    scene.kill(victim)
    return count


def web_master(scene: Scene) -> int:
    """SIGKILL of gunicorn's master; its workers are left without one."""
    master = eventually(lambda: scene.relay.part("gunicorn"), "gunicorn runs", 30)
    count = eventually(lambda: len(scene.vendor.on_the_way), "requests are on their way", _FINDS_S)
    scene.kill(master)

    def another() -> bool:
        # Workers that were left without a master may look like one.
        found = scene.relay.part("gunicorn")
        return found not in {0, master} and bool(psutil.Process(found).children())

    eventually(another, "gunicorn has another master", _FINDS_S)
    return count


def horse(scene: Scene) -> int:
    """SIGKILL of an RQ work horse in the middle of a batch."""
    with scene.frozen_claim(_lane(scene)) as (claim, count):
        scene.kill(claim.horse)
    return count


def parent(scene: Scene) -> int:
    """SIGKILL of an RQ worker; the horse that it forked lives on."""
    with scene.frozen_claim(_lane(scene)) as (claim, count):
        scene.kill(claim.worker)
    scene.orphans.append(claim.horse)
    return count


def horse_and_parent(scene: Scene) -> int:
    """SIGKILL of an RQ worker and of its horse, so that nobody is left to say so."""
    with scene.frozen_claim(_lane(scene)) as (claim, count):
        scene.kill(claim.worker)
        scene.kill(claim.horse)
    return count


def worker_part(scene: Scene) -> int:
    """SIGKILL of `python -m worker`: the ticker, and the parent of all RQ workers."""
    before = eventually(lambda: scene.relay.part("worker"), "the worker part runs", 30)
    with scene.frozen_claim(_lane(scene)) as (_, count):
        scene.kill(before)
    return count


def supervisor(scene: Scene) -> int:
    """SIGKILL of `relay up` itself, which is then started again by hand."""
    with scene.frozen_claim(_lane(scene)) as (_, count):
        scene.relay.process.kill()
        scene.relay.process.wait()
    scene.relay.start()
    scene.relay.ready()
    return count


def after_commit(scene: Scene) -> int:
    """SIGKILL of a horse between a destination's commit and the settle: PostgreSQL, Import API in turn."""
    return (_after_import if scene.turn % 2 else _after_postgres)(scene)


def _after_postgres(scene: Scene) -> int:
    proxy = scene.database.proxy
    before, proxy.silenced = proxy.silence, 0
    proxy.silence = lambda piece: piece[:1] == b"Q" and b"COMMIT" in piece
    try:
        eventually(lambda: proxy.silenced, "a COMMIT was passed on, and its answer kept back", _FINDS_S)
        time.sleep(0.05)
        with scene.frozen_claim(LANES["postgres"]) as (claim, count):
            scene.kill(claim.horse)
    finally:
        proxy.silence = before
    return count


def _after_import(scene: Scene) -> int:
    from tests.servers.import_server import Fault, Post

    struck: list[Post] = []

    def commit_and_wait(post: Post) -> Fault:
        struck.append(post)
        return Fault(commit="before", answer="silence")

    scene.imports.choose = commit_and_wait
    try:
        eventually(lambda: struck, "a post was committed and not answered", _FINDS_S)
        time.sleep(0.05)
        with scene.frozen_claim(LANES["imports"]) as (claim, count):
            scene.kill(claim.horse)
    finally:
        scene.imports.choose = lambda _post: None
    return count


# --- Redis ----------------------------------------------------------------------------------------------


def _frozen_server(scene: Scene) -> tuple[int, int]:
    """Valkey, stopped with requests before it, and how many they are."""
    server = eventually(lambda: int(scene.redis.info("server")["process_id"]), "Valkey answers", 30)
    freeze(server)
    time.sleep(0.1)  # what it had answered is read by now
    return server, eventually(lambda: len(scene.vendor.on_the_way), "requests are on their way", _FINDS_S)


def valkey_sigkill(scene: Scene) -> int:
    """SIGKILL of Valkey; it is started again on its append-only file."""
    server, count = _frozen_server(scene)
    scene.kill(server)
    eventually(lambda: int(scene.redis.info("server")["process_id"]) != server, "another server runs", _FINDS_S)
    return count


def valkey_stall(scene: Scene) -> int:
    """Valkey does nothing for 10 s (SIGSTOP)."""
    server, count = _frozen_server(scene)
    time.sleep(10)
    thaw(server)
    return count


def valkey_cut(scene: Scene) -> int:
    """Every connection to Valkey is cut, by turns between its commands and while it is stopped."""
    if scene.bus is None:
        raise AssertionError("this fault needs a proxy before Valkey")
    server, count = _frozen_server(scene)
    if scene.turn % 2:
        scene.bus.cut()
        thaw(server)
    else:
        thaw(server)
        scene.bus.cut()
    return count
