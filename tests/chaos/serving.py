"""The faults of destinations: PostgreSQL's, and the Import API's."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.chaos.scene import LANES, Scene
from tests.oracle.machine import eventually
from tests.servers import import_server as api

Strike = Callable[[Scene], int]
#: For how long after the first struck POST others are struck as well.
_WINDOW_S = 0.3
#: Where some of the requests that go out together succeed, the rest must not be forgotten over it.
_SOME = 0.4
#: For how long the Import API takes nothing at all.
_ALL_S = 3.0


def postgres_restart(scene: Scene) -> int:
    """PostgreSQL restarted, by turns in order and as a crash, under a transaction."""
    with scene.database.blocked() as holder:
        count = scene.in_hand(LANES["postgres"])
        mode = "immediate" if scene.turn % 2 else "fast"
        try:
            scene.database.server.restart(mode)
        finally:
            holder.close()
    return count


def postgres_deadlock(scene: Scene) -> int:
    """A deadlock that PostgreSQL breaks by ending the relay's transaction."""
    before = scene.database.deadlocks()
    scene.database.deadlock()
    count = max(1, scene.in_hand(LANES["postgres"]))
    eventually(lambda: scene.database.deadlocks() > before, "PostgreSQL has counted a deadlock", 60)
    return count


def postgres_refusing(scene: Scene) -> int:
    """The database takes no connections for 2 s, and those that are there end."""
    return _refuse(scene, "connections")


def postgres_out_of_connections(scene: Scene) -> int:
    """Every connection that the relay may have is taken for 2 s, and those that it has end."""
    return _refuse(scene, "limit")


def _refuse(scene: Scene, how: str) -> int:
    with scene.database.blocked():
        count = scene.in_hand(LANES["postgres"])
        scene.database.refuse(how, 2.0)
    return count


def _struck(scene: Scene, fault: Callable[[], api.Fault], share: float = 1.0, window_s: float = _WINDOW_S) -> int:
    """The next POST goes wrong, and a share of those of that moment; returns how many rows they carried."""
    posts: list[api.Post] = []

    def choose(post: api.Post) -> api.Fault | None:
        if posts and (post.at - posts[0].at > window_s or scene.rng.random() > share):
            return None
        posts.append(post)
        return fault()

    scene.imports.choose = choose
    try:
        eventually(lambda: posts and time.monotonic() - posts[0].at > window_s, "POSTs went wrong", 60)
    finally:
        scene.imports.choose = lambda _post: None
    return sum(len(post.points) for post in posts)


def import_500(scene: Scene) -> int:
    """500."""
    return _struck(scene, lambda: api.refuse(500))


def import_503(scene: Scene) -> int:
    """503 with `Retry-After: 1`."""
    return _struck(scene, lambda: api.refuse(503, retry_after="1"))


def import_429(scene: Scene) -> int:
    """429 with `Retry-After: 1`."""
    return _struck(scene, lambda: api.refuse(429, retry_after="1"))


def import_400(scene: Scene) -> int:
    """400 for one record of a batch; at the end of the run its dead letters are retried."""
    posts: list[api.Post] = []

    def choose(post: api.Post) -> None:
        if not posts and post.table == "shopify_orders":
            posts.append(post)
            bad = scene.rng.choice(post.points)["id"]
            scene.imports.objects_to = lambda point: f"id {bad} is refused" if point.get("id") == bad else None

    scene.imports.choose = choose
    eventually(lambda: posts, "a POST had a bad record", 60)
    scene.imports.choose = lambda _post: None
    time.sleep(_WINDOW_S)
    return sum(len(post.points) for post in posts)


def import_400_all(scene: Scene) -> int:
    """400 for every request, in the same words: it is the destination, so no record may be buried for it.

    Some requests are refused while there is a backlog, and some while a claim has a few records only.
    """
    count = _struck(scene, lambda: api.refuse(400, "this account takes no data"), window_s=_ALL_S)
    buried = int(eventually(lambda: str(scene.redis.hlen("rh:dead")), "Redis answers"))
    if buried:
        scene.broken.append(f"{buried} records were buried, though the destination refused everything")
    return count


def import_401(scene: Scene) -> int:
    """401: the lane rests half a minute."""
    return _struck(scene, lambda: api.refuse(401))


def import_slow(scene: Scene) -> int:
    """Answers that take almost as long as the relay waits."""
    return _struck(scene, lambda: api.slow(0.8))


def import_never(scene: Scene) -> int:
    """No answer, by turns having stored the rows or not."""
    return _struck(scene, lambda: api.silence(commit=scene.rng.choice(("before", "never"))), _SOME)


def import_half(scene: Scene) -> int:
    """Half an answer, then the end of the connection."""
    return _struck(scene, api.half_answer, _SOME)


def import_commit_then_drop(scene: Scene) -> int:
    """The rows are stored, and the connection ends without an answer."""
    return _struck(scene, api.drop, _SOME)


def import_late_commit(scene: Scene) -> int:
    """The connection ends without an answer, and the rows are stored up to 1.5 s later."""
    return _struck(scene, lambda: api.late(scene.rng.uniform(0.2, 1.5)), _SOME)
