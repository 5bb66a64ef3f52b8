"""`python -m worker`: RQ workers on this machine, and the ticker that looks after lanes.

`python -m worker VERB` answers what `relay` asks of the half that has destinations and the archive.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.job import Job

from relay import telemetry, tracing
from relay.buffer import redis as server
from relay.buffer.documents import Documents
from relay.buffer.keys import ARCHIVE
from relay.buffer.lanes import Watch
from relay.buffer.looks import Looks
from relay.buffer.strays import refuse
from relay.config import Config, load
from relay.dispatch import ALERTS, EXPAND, EXPORTS, LOOKS, QUESTIONS, QUEUE, REPLAYS, Bell
from relay.errors import BufferUnavailable, ConfigInvalid, RelayError
from worker import alerting, exports, jobs
from worker.keeping import Keeper

TICK_S: Final = 0.25
#: For so long a process that reads stays without work; it is started anew by the next question.
_READER_IDLE_S: Final = 60
_STOP_S: Final = 60.0
_REDIS_TIMEOUT_S: Final = 30.0


def _forget(config: Config) -> Iterator[dict[str, Any]]:
    yield from jobs.forget(config)
    exports.sweep(config)  # of what was exported of the tables


_fork: Final = multiprocessing.get_context("fork")
_VERBS: Final[dict[str, Callable[[Config], Any]]] = {
    "check": jobs.check,
    "tables": jobs.tables,
    "alerts": alerting.try_out,
}
_STREAMS: Final[dict[str, Callable[..., Iterator[Any]]]] = {
    "events": jobs.events, "preview": jobs.preview, "forget": _forget,
}  # fmt: skip
log = telemetry.logger("worker")


class HorseWorker(Worker):
    """RQ's forking worker; SIGTERM reaches the work horse too, so that it ends as soon as it may."""

    max_connection_wait_time = 2

    def handle_warm_shutdown_request(self) -> None:
        """Pass SIGTERM on; RQ then waits for the horse."""
        if self.horse_pid:
            try:
                os.kill(self.horse_pid, signal.SIGTERM)
            except ProcessLookupError:
                return


class ReadingWorker(HorseWorker):
    """Serves the export API and the console, or sends alerts, for as long as there is something to do."""

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:  # noqa: ARG002
        """Say that nothing becomes of what it wrote."""
        log.warning("horse_killed", job=job.func_name, pid=retpid, status=ret_val)
        try:
            if job.origin in {LOOKS, REPLAYS}:
                Looks(self.connection).fail(job.args[0], "the process that worked on it was ended: ask again")
            exports.killed(self.connection, job.func_name, job.args)
        except RedisError as error:  # seen all the same, by its silence
            log.warning("export_not_failed", detail=str(error))


class LaneWorker(HorseWorker):
    """The worker of drains: where a horse is killed, its lane is free at once; RQ leaves that to a time-out."""

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:  # noqa: ARG002
        """Free the dead horse's lane; what it held unsettled is claimed again."""
        if job.func_name == EXPAND:
            log.warning("horse_killed", execution=job.args[0], pid=retpid, status=ret_val)
            try:
                Documents(self.connection).free(job.args[0], job.id)
            except (RelayError, RedisError) as error:  # free all the same, after its lease
                log.warning("document_not_freed", execution=job.args[0], detail=str(error))
            return
        lane = job.args[0] if job.args else ""
        log.warning("horse_killed", lane=lane, pid=retpid, status=ret_val)
        try:
            watch = Watch(load_from_environment().redis_url())
            watch.release(lane, job.id)
            Bell(watch.client).ring_again(lane)
        except (RelayError, RedisError) as error:  # the file may be half written just now; the ticker rings later
            log.warning("lane_not_freed", lane=lane, detail=str(error))


def load_from_environment() -> Config:
    """Settings from RELAY_CONFIG and RELAY_DATA."""
    path = os.environ.get("RELAY_CONFIG")
    return load(Path(path) if path else None, Path(os.environ.get("RELAY_DATA", ".relay")))


def _work(config: Config) -> None:
    """One RQ worker process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):  # the crew's handlers only note it: too early it would be lost
        signal.signal(number, signal.SIG_DFL)
    tracing.prepare()  # once, not in each work horse
    client = server.connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)
    try:
        worker = LaneWorker([Queue(QUEUE, connection=client)], connection=client)
        worker.work(with_scheduler=False, logging_level="WARNING")
    except (RedisError, OSError) as error:
        # The crew starts another; what was claimed stays claimed, or is claimed again.
        log.warning("worker_lost_redis", detail=str(error))
        time.sleep(1)


def _read(config: Config, queue: str) -> None:
    """A worker process of one queue, until there has been nothing to do for a while."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    client = server.connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)
    try:
        worker = ReadingWorker([Queue(queue, connection=client)], connection=client)
        worker.work(max_idle_time=_READER_IDLE_S, with_scheduler=False, logging_level="WARNING")
    except (RedisError, OSError) as error:
        log.warning("worker_lost_redis", detail=str(error))


class Crew:
    """The worker processes of this machine; one that dies is replaced."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.hands: list[BaseProcess] = []
        self.leaving: list[BaseProcess] = []
        self.readers: dict[str, BaseProcess] = {}
        self._strange: set[str] = set()

    def keep(self) -> None:
        """Replace workers that died."""
        for hand in [h for h in self.hands if not h.is_alive()]:
            log.warning("worker_died", pid=hand.pid, status=hand.exitcode)
            self.hands.remove(hand)
        self.leaving = [h for h in self.leaving if h.is_alive()]
        while len(self.hands) < self.config.settings.workers:
            hand = _fork.Process(target=_work, args=(self.config,), name="rowhook-worker")
            hand.start()
            self.hands.append(hand)

    def read(self, client: Redis) -> None:
        """Have somebody read where something is to be read, or send alerts; deliveries do not wait for it."""
        for queue in (QUESTIONS, EXPORTS, LOOKS, REPLAYS, ALERTS):
            reader = self.readers.get(queue)
            if (reader is None or not reader.is_alive()) and Queue(queue, connection=client).count:
                self.readers[queue] = _fork.Process(target=_read, args=(self.config, queue), name="rowhook-reader")
                self.readers[queue].start()

    def knows(self, lane: str) -> bool:
        """Whether a lane's destination is configured; what waits for another is said, and kept."""
        destination = lane.rsplit("/", 2)[0]
        if destination == ARCHIVE or destination in self.config.settings.destinations:
            return True
        if destination not in self._strange:
            self._strange.add(destination)
            log.warning("destination_not_configured", lane=lane)
        return False

    def leave(self) -> None:
        """Let every worker end after its running batch."""
        hands = [*self.hands, *self.readers.values()]
        for hand in hands:
            if hand.pid and hand.is_alive():
                os.kill(hand.pid, signal.SIGTERM)
        self.leaving += hands
        self.hands, self.readers = [], {}

    def wait(self) -> None:
        """Until all that were told to leave are gone."""
        for hand in self.leaving:
            hand.join(_STOP_S)


class _Signals:
    stop = reload = False

    def __init__(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def _stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.stop = True

    def _reload(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.reload = True


def run(config: Config) -> int:
    """Serve until SIGTERM; SIGHUP reloads the settings, or keeps the old ones where the new are wrong."""
    signals = _Signals()
    jobs.setup(config)
    crew = Crew(config)
    watch = Watch(config.redis_url())
    _await_redis(watch, signals, config.settings.durability)
    refuse(watch.client, config.settings.destinations, config.settings.sources)
    bell, keeper = Bell(watch.client), Keeper(config, watch.client)
    while not signals.stop:
        if signals.reload:
            signals.reload = False
            config = _reloaded(config, watch.client)
            crew.config = config
            keeper.reload(config)
            crew.leave()
        crew.keep()
        try:
            watch.ring_due(config.settings.linger_ms, bell.ring_again, crew.knows)
            crew.read(watch.client)
            keeper.tick()
        except (RelayError, RedisError, OSError) as error:
            log.warning("ticker_waits", detail=str(error))
        time.sleep(TICK_S)
    crew.leave()
    crew.wait()
    return 0


def _reloaded(config: Config, client: Redis) -> Config:
    try:
        fresh = load_from_environment()
        jobs.setup(fresh)
        refuse(client, fresh.settings.destinations, fresh.settings.sources)
    except (RelayError, RedisError) as error:
        log.warning("config_kept", detail=str(error))
        return config
    log.info("config_reloaded")
    return fresh


def _await_redis(watch: Watch, signals: _Signals, durability: str) -> None:
    while not signals.stop:
        try:
            server.require(watch.client, durability)
        except BufferUnavailable as error:
            log.warning("redis_awaited", detail=str(error))
            time.sleep(1)
        else:
            return


def main(verb: str = "", *args: str) -> int:
    """Serve, or answer one question as JSON; returns the exit code."""
    try:
        config = load_from_environment()
        telemetry.setup(config.settings.log_format, config.settings.log_level)
        if not verb:
            return run(config)
        if verb in _STREAMS:
            for value in _STREAMS[verb](config, *args):
                sys.stdout.write(json.dumps(value) + "\n")
        else:
            sys.stdout.write(json.dumps(_VERBS[verb](config)))
    except ConfigInvalid as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
