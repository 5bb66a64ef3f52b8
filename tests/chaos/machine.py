"""The faults of the machine beneath: its disk is full, its clock steps."""

from __future__ import annotations

import time

import psutil

from tests.chaos.scene import LANES, Scene
from tests.oracle.machine import eventually, kill

_FINDS_S = 60.0
#: For how long a disk is full.
_SHORT_S = 3.0
#: What the clock is off by after each strike, in turn: it goes forward and back, by a little and by much.
_OFF_BY_S = (3600, 0, -3600, 0, 2 * 86_400, 0, -90, 0)


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
    """Valkey's clock steps, by turns forward and back, by an hour, by two days, by a minute and a half."""
    if scene.wall is None:
        raise AssertionError("this fault needs a clock of its own")
    # Who has a claim in hand cannot be seen after a step forward: RQ's notes on its workers have expired by then.
    count = eventually(lambda: _in_flight(scene), "something is in flight", _FINDS_S)
    scene.wall.set(_OFF_BY_S[scene.turn % len(_OFF_BY_S)])
    return count


def _in_flight(scene: Scene) -> int:
    return len(scene.vendor.on_the_way) + sum(scene.in_hand(lane) for lane in LANES.values())


def largest(scene: Scene) -> int:
    """SIGKILL of one of the four processes of the relay that have the most memory, each in turn, whatever it is.

    It stands in for the kernel's OOM killer, which ends the largest process with that signal: to have that one
    itself takes a limit on the memory of a group of processes, which is not the suite's to set.
    """

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
