"""Asks for jobs by name: the one link from the half that receives to the half that delivers."""

from __future__ import annotations

import secrets
import time
from typing import Final

import redis as driver
from redis.exceptions import RedisError
from rq import Queue

from relay.telemetry import logger

QUEUE: Final = "rowhook"
DRAIN: Final = "worker.jobs.drain"
#: Reading has queues, and hands, of its own: no delivery waits for it.
QUESTIONS: Final = "rowhook-questions"
EXPORTS: Final = "rowhook-exports"
ANSWER: Final = "worker.exports.answer"
WRITE: Final = "worker.exports.write"
#: Sends alerts, on a queue of its own too: a receiver that hangs holds up nobody else.
ALERTS: Final = "rowhook-alerts"
SEND: Final = "worker.alerting.send"
#: What the console asks for, one after the other; it may take a minute.
LOOKS: Final = "rowhook-looks"
SEARCH: Final = "worker.looking.search"
EVENT: Final = "worker.looking.event"
REHEARSE: Final = "relay.rehearsing.rehearse"
REPLAY: Final = "relay.rehearsing.replay"
#: Replays wait for destinations, so they have a queue of their own: no look waits for them.
REPLAYS: Final = "rowhook-replays"
#: So many may wait, for so long; and so long may each take.
_MOST_LOOKS: Final = 20
_LOOK_WAITS_S: Final = 120
#: Beyond what the replay before takes, and less than what was asked for is kept.
_REPLAY_WAITS_S: Final = 600
LOOK_S: Final = 60
REPLAY_S: Final = 900
#: Turns a document that was sent into rows; on the queue of the drains, in slices as theirs.
EXPAND: Final = "relay.expanding.expand"
#: Fetches what thin events name; on the queue of the drains, in slices as theirs.
FETCH: Final = "relay.fetching.fetch"
#: Above the slice of a job that sends alerts and its longest request.
SEND_S: Final = 120
#: A web process asks no more often for one source.
_ASKED_S: Final = 1.0
#: How long a whole table may take to be written.
EXPORT_S: Final = 3600
#: Above a drain's slice plus a destination's longest request; RQ kills what runs longer.
JOB_TIMEOUT_S: Final = 300

log = logger("dispatch")


class Bell:
    """Asks RQ for drains. A bell that cannot be rung is not an error: the ticker rings again."""

    def __init__(self, client: driver.Redis) -> None:
        self._queue = Queue(QUEUE, connection=client)

    def ring(self, lane: str) -> None:
        """Ask for a drain of a lane."""
        # The id names the lane, so that the ticker sees which bells still wait; RQ allows few characters.
        job_id = f"{_job_prefix(lane)}{secrets.token_hex(6)}"
        try:
            self._queue.enqueue(
                DRAIN, lane, job_id=job_id, result_ttl=0, failure_ttl=3600, job_timeout=JOB_TIMEOUT_S
            )
        except (RedisError, OSError) as error:
            log.warning("bell_unheard", lane=lane, error=str(error))

    def ring_again(self, lane: str) -> None:
        """Ask for a drain of a lane, but where one is asked for already and no worker was free yet."""
        prefix = _job_prefix(lane)
        if not any(job_id.startswith(prefix) for job_id in self._queue.get_job_ids()):
            self.ring(lane)

    def others_wait(self) -> bool:
        """Whether jobs of other lanes wait for a worker."""
        return self._queue.count > 0


def ask_to_write(client: driver.Redis, number: int, *, first: bool = False) -> None:
    """Ask for a raw export to be written, `first` before all others.

    Raises:
        RedisError, OSError: it could not be asked for.
    """
    # Beyond the time that it takes by its own clock.
    limit = EXPORT_S + 120
    Queue(EXPORTS, connection=client).enqueue(
        WRITE, number, result_ttl=0, failure_ttl=3600, job_timeout=limit, at_front=first
    )


def ask_to_expand(client: driver.Redis, execution: int, *, again: bool = False) -> bool:
    """Ask for an execution of a document import to be worked on; False where it could not be asked for.

    Args:
        client: Redis.
        execution: its number.
        again: not where somebody was asked already and no worker was free yet.
    """
    queue, prefix = Queue(QUEUE, connection=client), f"expand-{execution}--"
    try:
        if not (again and any(job_id.startswith(prefix) for job_id in queue.get_job_ids())):
            queue.enqueue(
                EXPAND,
                execution,
                job_id=f"{prefix}{secrets.token_hex(6)}",
                result_ttl=0,
                failure_ttl=3600,
                job_timeout=JOB_TIMEOUT_S,
            )
    except (RedisError, OSError) as error:
        log.warning("expansion_not_asked_for", execution=execution, error=str(error))
        return False
    return True


def ask_to_look(client: driver.Redis, job: str, token: str) -> bool:
    """Ask for one of the jobs of the console; False where too many wait already.

    Raises:
        RedisError, OSError: it could not be asked for.
    """
    queue = Queue(REPLAYS if job == REPLAY else LOOKS, connection=client)
    if queue.count >= _MOST_LOOKS:
        return False
    # What nobody waits for any more is not begun.
    limit = REPLAY_S if job == REPLAY else LOOK_S
    queue.enqueue(job, token, ttl=waits_s(job), result_ttl=0, failure_ttl=3600, job_timeout=limit)
    return True


def waits_s(job: str) -> int:
    """For how long one of the jobs of the console waits for its turn; later it is not begun any more."""
    return _REPLAY_WAITS_S if job == REPLAY else _LOOK_WAITS_S


class FetchBell:
    """Asks for fetches on behalf of deliveries: once a second for a source at most, as the ticker asks too."""

    def __init__(self, client: driver.Redis) -> None:
        self._client = client
        self._asked: dict[str, float] = {}

    def ring(self, source: str) -> None:
        """Ask, unless that was just done."""
        now = time.monotonic()
        if now - self._asked.get(source, -_ASKED_S) >= _ASKED_S:
            self._asked[source] = now
            ask_to_fetch(self._client, source)


def ask_to_fetch(client: driver.Redis, source: str) -> None:
    """Ask for what a source's thin events name to be fetched, but where somebody was asked already."""
    queue, prefix = Queue(QUEUE, connection=client), f"fetch-{source}--"
    try:
        if any(job_id.startswith(prefix) for job_id in queue.get_job_ids()):
            return
        job_id = f"{prefix}{secrets.token_hex(6)}"
        queue.enqueue(FETCH, source, job_id=job_id, result_ttl=0, failure_ttl=3600, job_timeout=JOB_TIMEOUT_S)
    except (RedisError, OSError) as error:
        log.warning("fetch_not_asked_for", source=source, error=str(error))


def ask_to_send(client: driver.Redis) -> None:
    """Ask for alerts to be sent, but where somebody was asked already.

    Raises:
        RedisError, OSError: it could not be asked for; the ticker asks again.
    """
    queue = Queue(ALERTS, connection=client)
    if not queue.count:
        queue.enqueue(SEND, result_ttl=0, failure_ttl=3600, job_timeout=SEND_S)


def _job_prefix(lane: str) -> str:
    return f"drain-{lane.replace('/', '-')}--"
