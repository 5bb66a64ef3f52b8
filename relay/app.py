"""The web half, wired together: `gunicorn 'relay.app:create_app()'`."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from flask import Flask, Response

from relay import telemetry, tracing
from relay.buffer import redis as server
from relay.buffer.strays import refuse
from relay.config import Config, load
from relay.configured import sources_of
from relay.front import front_of
from relay.web import (
    console,
    counter,
    documents,
    errors,
    exports,
    figures,
    hooks,
    imports,
    metrics,
    openapi,
    ops,
    requests,
    stitch,
)
from relay.web.state import State, attach


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
    tracing.start()
    sources = sources_of(config)
    front = front_of(config, sources)
    with server.connect(config.redis_url(), timeout_s=10) as client:
        refuse(client, settings.destinations, settings.sources)
    app = metrics.App("relay", static_folder=None)
    app.wsgi_app = requests.Requests(app.wsgi_app)  # type: ignore[method-assign]
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    here = State(config, sources, front)
    attach(app, here)
    metrics.attach(app, here)
    errors.register(app)
    counter.attach(app, config)
    console.attach(app, config)
    serve(app)
    # What is loaded by now stays; requests make small objects without cycles.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return app


def serve(app: Flask) -> None:
    """Register all that is served."""
    app.url_map.merge_slashes = False  # no client follows where a redirected POST leads
    for module in (hooks, ops, imports, stitch, documents, exports, figures, console, metrics, openapi):
        app.register_blueprint(module.bp)
    app.add_url_rule("/favicon.ico", "favicon", lambda: Response(status=204))
