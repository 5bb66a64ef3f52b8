"""The web half, wired together: `gunicorn 'relay.app:create_app()'`."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from flask import Flask, Response

from relay import telemetry
from relay.buffer import redis as server
from relay.buffer.accept import Bounds, Front
from relay.config import Config, Settings, load
from relay.dispatch import Bell
from relay.intake import sources_of
from relay.web import errors, hooks, ops
from relay.web.state import State, attach

#: Share of Redis's memory that undelivered events may take, so that draining always has room.
_SHARE = 0.6


def create_app(config: Config | None = None) -> Flask:
    """The WSGI application.

    Args:
        config: checked settings; None: from RELAY_CONFIG and RELAY_DATA.

    Raises:
        ConfigInvalid: settings, or a Redis that would break the promise.
    """
    if config is None:
        path = os.environ.get("RELAY_CONFIG")
        config = load(Path(path) if path else None, Path(os.environ.get("RELAY_DATA", ".relay")))
    settings = config.settings
    telemetry.setup(settings.log_format, settings.log_level)
    sources = sources_of(config)
    url = config.redis_url()
    client = server.connect(url, timeout_s=max(settings.accept_deadline_s, 5))
    report = server.require(client)
    for warning in report.warnings:
        telemetry.logger("web").warning("redis_warning", text=warning)
    bell = Bell(client)
    front = Front(url, bounds(settings, report.get("maxmemory", "0")), bell.ring, settings.accept_deadline_s)
    app = Flask("relay", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    attach(app, State(config, sources, front))
    errors.register(app)
    app.register_blueprint(hooks.bp)
    app.register_blueprint(ops.bp)
    # What is loaded by now stays; requests make small objects without cycles.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    app.add_url_rule("/favicon.ico", "favicon", lambda: Response(status=204))
    return app


def bounds(settings: Settings, maxmemory: str) -> Bounds:
    """What the put script enforces, from the settings and the server's own memory limit."""
    total = settings.max_pending_bytes
    if not total and maxmemory.isdigit():
        total = int(int(maxmemory) * _SHARE)
    return Bounds(
        total=total,
        source=settings.max_source_bytes or total // 2,
        linger_ms=settings.linger_ms,
        dedup_days=settings.dedup_days,
        content_minutes=settings.content_dedup_minutes,
    )
