"""What RQ calls, by name, with plain arguments; and how a process that delivers is set up."""

from __future__ import annotations

import base64
import contextlib
import gc
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import msgspec
from pydantic import ValidationError
from redis import Redis
from rq import get_current_job

from relay import catalogue
from relay.buffer.keys import ARCHIVE
from relay.buffer.lanes import Claimed, Lane, waits_elsewhere
from relay.buffer.redis import connect
from relay.config import Config
from relay.dispatch import Bell
from relay.errors import ConfigInvalid, DeliveryError
from worker.archive import Archive, Wanted
from worker.delivery import Courier
from worker.destination import Destination
from worker.drain import Deliver, Pace, Read
from worker.drain import drain as serve
from worker.preview import Spool
from worker.preview import preview as previewed
from worker.reading import Reader

DESTINATIONS = "worker.destinations"
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
        return cls, cls.Settings.model_validate(block)
    except ValidationError as error:
        faults = [
            str(
                config.fault(
                    ".".join([at, *map(str, f["loc"])]),
                    "unknown setting" if f["type"] == "extra_forbidden" else f["msg"],
                )
            )
            for f in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigInvalid("\n".join(faults)) from None


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
            faults.append(f"destination {name}: {error}")
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


def drain(lane_name: str) -> None:
    """Serve one lane until it is idle; the RQ job."""
    config = _Process.config
    if config is None:
        raise ConfigInvalid("this process was not set up: drains run under `relay worker`")
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
    with contextlib.closing(_receiver(config, lane)) as receiver:
        again = serve(
            lane,
            receiver.read,
            receiver.deliver,
            pace=Pace(config.settings.linger_ms, receiver.full, receiver.rest_ms),
            stopping=lambda: _Process.stop,
            others_wait=bell.others_wait,
        )
    if again:
        bell.ring(lane_name)


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
        archive = open_archive(config)
        return _Receiver(list, archive.keep, archive.close, _ARCHIVE_FULL)
    if lane.destination not in config.settings.destinations:
        raise ConfigInvalid(f"lane {lane.name} waits for a destination that is no longer configured")
    destination = open_destination(config, lane.destination)
    courier = Courier(lane, destination)
    return _Receiver(
        courier.read, courier, destination.close, destination.limits.records, int(courier.hold_s * 1000)
    )


def open_archive(config: Config) -> Archive:
    """The archive of the data folder."""
    settings = config.settings
    return Archive(config.data_dir / "events.db", days=settings.archive_days, max_bytes=settings.archive_max_bytes)


def _finish_batch(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    _Process.stop = True
