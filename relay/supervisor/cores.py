"""A core for each web process, where there are no more cores than web processes.

The threads of a process take turns at Python's lock. Left to itself, the kernel wakes each on whichever core is
idle, and every turn begins with cold caches. Where there are more cores than processes nothing is done: others may
have chosen the same.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any


def choose(server: Any, worker: Any) -> None:
    """Gunicorn's `pre_fork`: the core that the fewest of the processes that run have."""
    if not hasattr(os, "sched_getaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= server.num_workers:
        worker.core = least_used(cores, (getattr(other, "core", None) for other in server.WORKERS.values()))


def stay(_server: Any, worker: Any) -> None:
    """Gunicorn's `post_fork`: stay on that core; where it may not be chosen, all goes on without."""
    core = getattr(worker, "core", None)
    if core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})


def least_used(cores: Iterable[int], taken: Iterable[int | None]) -> int:
    """The core that is taken least often, the first of several."""
    counts = Counter(taken)
    return min(cores, key=lambda core: (counts[core], core))
