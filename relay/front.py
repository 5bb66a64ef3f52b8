"""The front of the buffer as the settings and the server make it, for whoever puts something into it."""

from __future__ import annotations

from typing import Final

from relay import telemetry
from relay.buffer import redis as server
from relay.buffer.accept import Front
from relay.buffer.bounds import Bounds, bounds_of
from relay.config import Config, Settings
from relay.configured import Source
from relay.dispatch import Bell

#: Lanes of one destination that an event's records may fall into, as far as the budgets count them.
_MOST_ENTRIES: Final = 4


def front_of(config: Config, sources: dict[str, Source]) -> Front:
    """The front of the buffer, as the settings and the server make it; a server's warnings are logged.

    Raises:
        ConfigInvalid: a Redis that would break the promise.
        BufferUnavailable: it cannot be reached.
    """
    settings, url = config.settings, config.redis_url()
    client = server.connect(url, timeout_s=max(settings.accept_deadline_s, 5))
    report = server.require(client, settings.durability)
    for warning in report.warnings:
        telemetry.logger("web").warning("redis_warning", text=warning)
    bounds = _bounds(settings, report.get("maxmemory", ""), sources)
    return Front(url, bounds, Bell(client).ring, settings.accept_deadline_s, waits=report.waits)


def _bounds(settings: Settings, maxmemory: str, sources: dict[str, Source]) -> Bounds:
    """What the put script enforces; sources whose vendor soon gives up have a share of their own."""
    entries = (len(s.archive) + sum(min(n, _MOST_ENTRIES) for n in s.to.values()) for s in sources.values())
    fragile = [name for name, source in sources.items() if source.vendor.fragile]
    return bounds_of(settings, maxmemory, fragile=fragile, sources=len(sources), entries=max(entries, default=2))
