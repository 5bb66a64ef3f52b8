"""The web half, wired together: `gunicorn 'relay.app:create_app()'`."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from flask import Flask, Response

from relay import telemetry
from relay.buffer import redis as server
from relay.buffer.accept import Front
from relay.buffer.bounds import Bounds, bounds_of
from relay.buffer.strays import refuse
from relay.config import Config, Settings, load
from relay.dispatch import Bell
from relay.intake import Source, sources_of
from relay.web import errors, hooks, imports, ops
from relay.web.state import State, attach

#: Lanes of one destination that an event's records may fall into, as far as the budgets count them.
_MOST_ENTRIES = 4


def create_app(config: Config | None = None) -> Flask:
    """The WSGI application.

    Args:
        config: checked settings; None: from RELAY_CONFIG and RELAY_DATA.

    Raises:
        ConfigInvalid: settings, or a Redis that would break the promise, or that holds rows for what is not
            configured any more.
    """
    if config is None:
        path = os.environ.get("RELAY_CONFIG")
        config = load(Path(path) if path else None, Path(os.environ.get("RELAY_DATA", ".relay")))
    settings = config.settings
    telemetry.setup(settings.log_format, settings.log_level)
    sources = sources_of(config)
    front = front_of(config, sources)
    with server.connect(config.redis_url(), timeout_s=10) as client:
        refuse(client, settings.destinations, settings.sources)
    app = Flask("relay", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    attach(app, State(config, sources, front))
    errors.register(app)
    app.register_blueprint(hooks.bp)
    app.register_blueprint(ops.bp)
    app.register_blueprint(imports.bp)
    # What is loaded by now stays; requests make small objects without cycles.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    app.add_url_rule("/favicon.ico", "favicon", lambda: Response(status=204))
    return app


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
