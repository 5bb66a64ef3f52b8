"""What RQ calls, by name, with plain arguments; and how a process that delivers is set up."""

from __future__ import annotations

import base64
import contextlib
import gc
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import msgspec
from pydantic import SecretStr, ValidationError
from redis import Redis
from redis.exceptions import RedisError
from rq import get_current_job
from structlog.contextvars import bound_contextvars

from relay import catalogue, tracing
from relay.buffer.drift import Drift
from relay.buffer.exports import note_update
from relay.buffer.keys import ARCHIVE, lane_name
from relay.buffer.lanes import LEASE_MS, Claimed, Lane, Settlement, Standing, waits_elsewhere
from relay.buffer.parking import held
from relay.buffer.redis import connect
from relay.config import Config
from relay.dispatch import Bell
from relay.errors import ConfigInvalid, DeliveryError, RelayError, Transient
from relay.records import partition_of
from relay.telemetry import logger
from relay.written import worded
from worker import forget as erasing
from worker.archive import Archive, Wanted
from worker.delivery import Courier
from worker.destination import Destination, Settings
from worker.drain import Deliver, Pace, Read
from worker.drain import drain as serve
from worker.drift import Watch
from worker.preview import Spool
from worker.preview import preview as previewed
from worker.reading import Reader, Work

DESTINATIONS = "worker.destinations"
Held = Callable[[Sequence[str]], set[str]]
log = logger("jobs")
#: Longer than any script of the buffer runs.
_REDIS_TIMEOUT_S = 30.0
_ARCHIVE_FULL = 500


class _Process:
    """What this process was set up with; forked work horses inherit it."""

    config: Config | None = None
    stop = False


def setup(config: Config) -> None:
    """Give this process, and the work horses that it forks, their settings.

    Raises:
        ConfigInvalid: a destination's block is wrong.
    """
    for name in config.settings.destinations:
        settings_of(config, name)
    _Process.config = config


def configured() -> Config:
    """The settings that this process was set up with.

    Raises:
        ConfigInvalid: it was not.
    """
    if _Process.config is None:
        raise ConfigInvalid("this process was not set up: jobs run under `relay worker`")
    return _Process.config


def settings_of(config: Config, name: str) -> tuple[type[Destination], Any]:
    """A destination's class and its checked settings.

    Raises:
        ConfigInvalid: names file, line and setting.
    """
    block = config.settings.destinations[name]
    at, kind = f"destinations.{name}", str(block.get("kind", ""))
    try:
        cls: type[Destination] = catalogue.load(DESTINATIONS, kind).destination
    except KeyError:
        kinds = ", ".join(catalogue.names(DESTINATIONS))
        raise config.fault(f"{at}.kind", f"there is no kind {kind!r}; known: {kinds}") from None
    try:
        settings = cls.Settings.model_validate(block)
    except ValidationError as error:
        faults = (str(config.fault(f"{at}.{setting}".rstrip("."), said)) for setting, said in worded(error))
        raise ConfigInvalid("\n".join(faults)) from None
    if other := _same_place(config, name, settings):
        raise config.fault(
            f"{at}.{settings.alone[-1]}", f"destination {other} writes there; each of kind {kind} needs its own"
        )
    return cls, settings


def _same_place(config: Config, name: str, settings: Settings) -> str | None:
    """Another destination of the kind that writes where this one does, and must not."""
    place = [getattr(settings, setting) for setting in settings.alone]
    for other, block in config.settings.destinations.items():
        if place and other != name and block.get("kind") == settings.kind:
            with contextlib.suppress(ValidationError):  # that one's own fault
                theirs = type(settings).model_validate(block)
                if place == [getattr(theirs, setting) for setting in settings.alone]:
                    return other
    return None


def told(config: Config, name: str) -> dict[str, Any]:
    """A destination's settings for people: of a secret only whether there is one."""
    if name not in config.settings.destinations:
        return {}
    _, settings = settings_of(config, name)
    plain = settings.model_dump(mode="json", by_alias=True)
    for field, about in type(settings).model_fields.items():
        value = getattr(settings, field)
        if isinstance(value, SecretStr):
            plain[about.alias or field] = "present" if value.get_secret_value() else "missing"
    return dict(plain)


def open_destination(config: Config, name: str) -> Destination:
    """A destination, ready to deliver to."""
    cls, settings = settings_of(config, name)
    return cls(name, settings, config.data_dir)


def check(config: Config) -> list[str]:
    """What is wrong with the destinations: their settings, or that they would not take a batch now."""
    faults = []
    for name in config.settings.destinations:
        try:
            destination = open_destination(config, name)
        except ConfigInvalid as error:
            faults += str(error).splitlines()
            continue
        try:
            destination.ping()
        except DeliveryError as error:
            faults.append(str(config.fault(f"destinations.{name}", str(error))))
        finally:
            destination.close()
    return faults


def tables(config: Config) -> dict[str, Any]:
    """The relay's tables at each destination, or why they cannot be read."""
    found: dict[str, Any] = {}
    for name in config.settings.destinations:
        destination = open_destination(config, name)
        try:
            found[name] = {"tables": [msgspec.to_builtins(table) for table in destination.tables()]}
        except DeliveryError as error:
            found[name] = {"error": str(error)}
        finally:
            destination.close()
    return found


def events(config: Config, wanted: str) -> Iterator[dict[str, str]]:
    """Archived events, oldest first.

    Args:
        config: settings.
        wanted: a `worker.archive.Wanted` as JSON.
    """
    with contextlib.closing(open_archive(config)) as archive:
        for arrival, blob in archive.find(msgspec.json.decode(wanted, type=Wanted)):
            yield {"arrival": arrival, "blob": base64.b64encode(blob).decode()}


def preview(config: Config) -> Iterator[dict[str, Any]]:
    """What events would change, asked of each destination; nothing is stored.

    Standard input has one JSON value a line: first the names of the `destinations` and the `schemas` of the tables
    (id to declaration), then events with their records: `arrival`, `source`, `blob` in base64.
    """
    told = msgspec.json.decode(sys.stdin.buffer.readline())
    schemas = {id_: text.encode() for id_, text in told["schemas"].items()}
    with contextlib.closing(Spool()) as spool:
        reader = Reader(lambda ids: {i: schemas[i] for i in ids})
        while lines := list(itertools.islice(sys.stdin.buffer, _ARCHIVE_FULL)):
            events = map(msgspec.json.decode, lines)
            spool.add(
                reader.read(
                    [Claimed(e["source"], e["arrival"], None, base64.b64decode(e["blob"])) for e in events]
                )
            )
        for name in told["destinations"]:
            with contextlib.closing(open_destination(config, name)) as destination:
                try:
                    yield from previewed(destination, spool)
                except DeliveryError as error:
                    yield {"destination": name, "unseen": str(error)}


def forget(config: Config) -> Iterator[dict[str, Any]]:
    """Erase rows at each destination, and events in the archive; one line a place, with what was done there.

    Standard input has one JSON value a line: a `worker.forget.Told`, then numbers of archived events.
    """
    asked = erasing.told(sys.stdin.buffer.readline())
    arrivals = [msgspec.json.decode(line, type=str) for line in sys.stdin.buffer]
    wanted = erasing.batches(asked, time.time_ns())
    client, unsent = connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S), list[str]()
    for name in config.settings.destinations:
        lanes, token = config.lanes(name), erasing.token()

        def lane_of(table: str, key: str, name: str = name, lanes: int = lanes, token: str = token) -> Lane:
            return Lane(client, lane_name(name, partition_of(table, key, lanes), lanes), token)

        with contextlib.closing(open_destination(config, name)) as destination:
            try:
                yield {"place": name, "rows": erasing.forget(destination, asked, wanted, lane_of)}
            except RelayError as error:
                unsent += [] if destination.conditional else [name]
                yield {"place": name, "failed": str(error)}
    if unsent and arrivals:
        why = f"its events say in which form {', '.join(unsent)} has the key: kept until that is done"
        yield {"place": ARCHIVE, "failed": why}
    elif arrivals:
        with contextlib.closing(open_archive(config)) as archive:
            try:
                yield {"place": ARCHIVE, "events": archive.forget(arrivals)}
            except DeliveryError as error:
                yield {"place": ARCHIVE, "failed": str(error)}


def drain(lane_name: str) -> None:
    """Serve one lane until it is idle; the RQ job."""
    config, began = configured(), time.time_ns() // 1_000_000
    signal.signal(signal.SIGTERM, _finish_batch)
    # A claim is thousands of small objects without cycles; looking for some after each few hundred costs a third
    # of a drain's CPU, and the process lives for one slice.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
    client = connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)
    bell = Bell(client)
    job = get_current_job()
    lane = Lane(client, lane_name, job.id if job is not None else "drain")
    if _must_wait(config, client, lane):
        return
    tracing.start()
    try:
        with bound_contextvars(job_id=lane.token), contextlib.closing(_receiver(config, lane)) as receiver:
            again = serve(
                lane,
                receiver.read,
                receiver.deliver,
                pace=Pace(config.settings.linger_ms, receiver.full, receiver.rest_ms),
                stopping=lambda: _Process.stop,
                others_wait=bell.others_wait,
            )
    finally:
        tracing.finish()
    if again:
        bell.ring_again(lane_name)
    elif lane.destination != ARCHIVE:
        with contextlib.suppress(RedisError, OSError):  # only those who ask for the state of things miss it
            note_update(client, lane.name, began)


def _must_wait(config: Config, client: Redis, lane: Lane) -> bool:
    """After a change of `lanes`, the new ones wait until the old ones are empty: a row may stand in both."""
    block = config.settings.destinations.get(lane.destination)
    if block is None or lane.partitions != int(block.get("lanes", 1)):
        return False
    return waits_elsewhere(client, lane.destination, lane.partitions)


class _Receiver(msgspec.Struct):
    """What a lane leads to."""

    read: Read
    deliver: Deliver
    close: Callable[[], None]
    full: int
    rest_ms: int = 0


def _receiver(config: Config, lane: Lane) -> _Receiver:
    if lane.destination == ARCHIVE:
        archive = open_archive(config, lambda arrivals: held(lane.client, arrivals))
        return _Receiver(list, archive.keep, archive.close, _ARCHIVE_FULL)
    if lane.destination not in config.settings.destinations:
        raise ConfigInvalid(f"lane {lane.name} waits for a destination that is no longer configured")
    destination = open_destination(config, lane.destination)
    courier = Courier(lane, destination)
    watch = Watch(Drift(lane.client), _watched(config, lane.destination))

    def deliver(work: Work, standing: Standing) -> Settlement:
        settlement = courier(work, standing)
        watch.look(work)
        return settlement

    def close() -> None:
        destination.close()
        watch.close()

    return _Receiver(
        lambda claimed: courier.read(fetched(config, claimed)),
        deliver,
        close,
        destination.limits.records,
        # A drain that lost its lane may not know it for as long as its lease lasted.
        max(int(courier.hold_s * 1000), LEASE_MS) if courier.hold_s else 0,
    )


def _watched(config: Config, destination: str) -> frozenset[str]:
    """Sources of which the drains of this destination notice drift: of several destinations the first one's do."""
    return frozenset(name for name, block in config.settings.sources.items() if block.to[:1] == (destination,))


def fetched(config: Config, claimed: Sequence[Claimed]) -> Sequence[Claimed]:
    """A claim with the bodies of parked events, which only the archive has."""
    missing = [one.arrival for one in claimed if not one.blob]
    if not missing:
        return claimed
    with contextlib.closing(open_archive(config)) as archive:
        try:
            found = archive.blobs(missing)
        except Transient as error:
            log.warning("parked_not_read", detail=str(error))
            found = {}
    return [
        msgspec.structs.replace(one, blob=found[one.arrival], parked=True) if one.arrival in found else one
        for one in claimed
    ]


def open_archive(config: Config, held: Held = lambda _: set()) -> Archive:
    """The archive of the data folder.

    Args:
        config: settings.
        held: of some arrival numbers, those that the buffer still holds.
    """
    settings = config.settings
    return Archive(
        config.data_dir / "events.db", days=settings.archive_days, max_bytes=settings.archive_max_bytes, held=held
    )


def _finish_batch(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    _Process.stop = True
