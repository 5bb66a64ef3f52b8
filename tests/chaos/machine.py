"""The faults of the machine beneath: its disk is full, its clocks step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psutil

from tests.chaos.scene import LANES, Scene
from tests.oracle.machine import eventually, kill

_FINDS_S = 60.0
#: For how long a disk is full.
_SHORT_S = 3.0
#: What a clock is off by after a strike, in turn: it goes forward and back, by a little and by much.
_OFF_BY_S = (3, 3600, -2, 2 * 86_400, -90, 0, -3600, 90)


def valkey_disk_full(scene: Scene) -> int:
    """The disk of Valkey's append-only file is full for 3 s: it ends, and is started on the full disk again."""
    relay = scene.relay
    if relay.disk is None:
        raise AssertionError("this fault needs a disk of its own")
    log = relay.data / "valkey.log"

    def ended() -> int:
        return log.read_text().count("AOF write error")

    before, refused = ended(), scene.vendor.repeats
    with relay.disk.full(relay.process.pid):
        count = eventually(lambda: len(scene.vendor.on_the_way), "requests are on their way", _FINDS_S)
        eventually(lambda: ended() > before, "Valkey ends, since it cannot write", _FINDS_S)
        eventually(lambda: scene.vendor.repeats > refused, "a webhook is refused for the time being", _FINDS_S)
        time.sleep(_SHORT_S)
    return count


def clock_steps(scene: Scene) -> int:
    """The wall clocks of some of the relay's processes step: of each kind alone, of halves, of all at once."""
    if scene.relay.clocks is None:
        raise AssertionError("this fault needs clocks of its own")
    chosen, off_by = list(_WHOSE.values())[scene.turn % len(_WHOSE)], _OFF_BY_S[scene.turn % len(_OFF_BY_S)]
    # Who has a claim in hand cannot be seen after a step forward: RQ's notes on its workers have expired by then.
    count = eventually(lambda: _in_flight(scene), "something is in flight", _FINDS_S)
    for process in eventually(lambda: chosen(scene), "there is a process whose clock can be set", _FINDS_S):
        with contextlib.suppress(OSError):  # a horse that was just done
            scene.relay.clocks.set(process, off_by)
    return count


def _valkey(scene: Scene) -> list[int]:
    return [int(scene.redis.info("server")["process_id"])]


def _below(part: int, depth: int) -> list[int]:
    """The processes so far below a part."""
    found = [psutil.Process(part)] if part else []
    for _ in range(depth):
        found = [child for one in found for child in one.children()]
    return [one.pid for one in found]


def _pythons(scene: Scene) -> list[int]:
    valkey = _valkey(scene)
    root = psutil.Process(scene.relay.process.pid)
    return [one.pid for one in (root, *root.children(recursive=True)) if one.pid not in valkey]


#: Whose clocks step, in turn; what they are off by comes in another rhythm, so that each goes forward and back.
_WHOSE: dict[str, Callable[[Scene], list[int]]] = {
    "Valkey": _valkey,
    "one gunicorn worker": lambda scene: scene.web_workers()[:1],
    "all of the web": lambda scene: [scene.relay.part("gunicorn"), *scene.web_workers()],
    "an RQ worker": lambda scene: _below(scene.relay.part("worker"), 1)[:1],
    "RQ's horses": lambda scene: _below(scene.relay.part("worker"), 2),
    "the ticker": lambda scene: _below(scene.relay.part("worker"), 0),
    "the supervisor": lambda scene: [scene.relay.process.pid],
    "all Python processes": _pythons,
    "all": lambda scene: [*_valkey(scene), *_pythons(scene)],
}


def _in_flight(scene: Scene) -> int:
    return len(scene.vendor.on_the_way) + sum(scene.in_hand(lane) for lane in LANES.values())


def largest(scene: Scene) -> int:
    """SIGKILL of one of the four processes of the relay with the most memory, each in turn, whatever it is."""

    def look() -> tuple[int, int] | None:
        root = psutil.Process(scene.relay.process.pid)
        try:
            there = [(one.memory_info().rss, one.pid) for one in (root, *root.children(recursive=True))]
        except psutil.NoSuchProcess:  # a horse that was just done
            return None
        count = _in_flight(scene)
        return (sorted(there, reverse=True)[scene.turn % 4][1], count) if count else None

    victim, count = eventually(look, "something is in flight", _FINDS_S)
    kill(victim)
    if victim == scene.relay.process.pid:
        scene.relay.process.wait()
        scene.relay.start()
        scene.relay.ready()
    return count
