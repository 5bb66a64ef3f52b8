"""Asks for jobs by name: the one link from the half that receives to the half that delivers."""

from __future__ import annotations

import secrets
from typing import Final

import redis as driver
from redis.exceptions import RedisError
from rq import Queue

from relay.telemetry import logger

QUEUE: Final = "rowhook"
DRAIN: Final = "worker.jobs.drain"
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


def _job_prefix(lane: str) -> str:
    return f"drain-{lane.replace('/', '-')}--"
