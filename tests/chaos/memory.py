"""The kernel runs out of memory, and its OOM killer ends a process of the relay.

A limit on the memory of a group of processes (a cgroup) would do too, but is not the suite's to set. So there is a
kernel of its own with little memory, in which the whole suite runs: the relay, its vendor, its destinations. It is
User-Mode Linux, a plain process that changes nothing of the machine around; it has one processor and is slow
in all that asks the kernel, so recovery takes longer. A hog takes the memory that is left. Whom the killer prefers
is set as an administrator would, by `oom_score_adj`; the kernel's log must name it, or the strike is broken.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from tests.chaos import striking
from tests.chaos.scene import Scene
from tests.chaos.worlds import Kernel
from tests.oracle.machine import eventually, gone

_LOG = Path("/dev/kmsg")
#: Takes memory, most of it at once, and keeps it until a process has ended. It goes before all others, and is not
#: paged out itself: a machine that is short of memory for long does nothing but read its programs from disk again.
_HOG = """
import ctypes, mmap, os, sys, time
ctypes.CDLL(None).mlockall(1)
os.nice(-20)
own = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
def there():
    try:
        with open(f"/proc/{sys.argv[1]}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
with open("/proc/meminfo") as about:
    free = next(int(line.split()[1]) << 10 for line in about if line.startswith("MemAvailable"))
held = [mmap.mmap(-1, max(free - (64 << 20), 1 << 20), flags=own)]
while there():
    held.append(mmap.mmap(-1, 1 << 20, flags=own))
    time.sleep(0.001)
"""
_VICTIMS = (striking.web_worker, striking.valkey_sigkill, striking.horse, striking.parent)


def oom_killer(scene: Scene) -> int:
    """The kernel's OOM killer ends a gunicorn worker, Valkey, an RQ horse, an RQ worker, in turn."""
    if not Kernel.inside():
        raise AssertionError("this fault needs a kernel of its own")
    scene.kill = lambda victim: _exhaust(scene, victim)
    return _VICTIMS[scene.turn % len(_VICTIMS)](scene)


def _exhaust(scene: Scene, victim: int) -> None:
    """Use up all memory until the OOM killer has ended the victim; others of the relay may go with it."""
    for process in scene.relay.ours():
        with contextlib.suppress(OSError):  # a horse that was just done
            _prefer(process.pid, 0)
    _prefer(victim, 1000)
    log = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(log, 0, os.SEEK_END)
        subprocess.run([sys.executable, "-c", _HOG, str(victim)], check=True)
        eventually(lambda: gone(victim), f"process {victim} ends")
        said = [line for line in _lines(log) if "Out of memory: Killed process" in line]
    finally:
        os.close(log)
    if not any(f"Killed process {victim} (" in line for line in said):
        scene.broken.append(f"process {victim} ended, but not by the OOM killer")


def _prefer(process: int, score: int) -> None:
    Path(f"/proc/{process}/oom_score_adj").write_text(str(score))


def _lines(log: int) -> list[str]:
    """What the kernel has said; each read is a record."""
    found = []
    while True:
        try:
            found.append(os.read(log, 8192).decode(errors="replace"))
        except BlockingIOError:
            return found
        except BrokenPipeError:  # the oldest that was not read yet is there no more
            continue
