"""gunicorn's settings, derived from ours."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

from gunicorn.glogging import Logger
from redis.exceptions import RedisError

from relay import telemetry
from relay.buffer.redis import unavailable
from relay.config import Config, Settings, load
from relay.errors import RelayError
from relay.supervisor import cores

APP: Final = "relay.app:create_app()"
#: The listening socket that the supervisor hands down, as the number of an open file.
LISTEN_FD: Final = "RELAY_LISTEN_FD"
_QUERY: Final = re.compile(r"\?[^\s'\"]*")
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - gunicorn makes its own private file there


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own lines, through our formatter and without query strings: tokens stand in them."""

    def setup(self, cfg: Any) -> None:
        """See gunicorn's `Logger`."""
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True
        self.error_log.addFilter(without_query)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """See gunicorn's `Logger`; of what a person can mend, such as settings, the words are enough."""
        error = sys.exc_info()[1]
        if isinstance(error, (RelayError, RedisError)):
            said = unavailable(error) if isinstance(error, RedisError) else error
            self.error(f"{msg}: %s", *args, said)
        else:
            super().exception(msg, *args, **kwargs)


def without_query(record: logging.LogRecord) -> bool:
    """Blank the query of each URL in a line; lets every line pass."""
    record.msg, record.args = _QUERY.sub("?…", record.getMessage()), None
    return True


def from_environment() -> dict[str, Any]:
    """The settings under `RELAY_CONFIG`, `RELAY_DATA` and `RELAY_*`; logs are set up as well.

    Raises:
        ConfigInvalid: the configuration is faulty.
    """
    config = configured()
    telemetry.setup(config.settings.log_format, config.settings.log_level)
    return gunicorn_settings(config.settings, os.environ.get(LISTEN_FD, ""))


def configured() -> Config:
    """The configuration that the environment names."""
    named = os.environ.get("RELAY_CONFIG")
    return load(Path(named) if named else None, Path(os.environ.get("RELAY_DATA", ".relay")))


def gunicorn_settings(settings: Settings, listen_fd: str = "") -> dict[str, Any]:
    """Gunicorn's settings by gunicorn's names.

    Args:
        settings: ours.
        listen_fd: an inherited listening socket; empty where gunicorn is to open its own.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": [f"fd://{listen_fd}" if listen_fd else f"{host}:{settings.port}"],
        "workers": settings.web_workers,
        "worker_class": "gthread",
        "threads": settings.web_threads,
        "pre_fork": cores.choose,
        "post_fork": cores.stay,
        # Longer than the idle time of the usual load balancers (60 s), so that they close first and never send
        # into a connection that is just being closed.
        "keepalive": 75,
        "timeout": 30,
        "graceful_timeout": 30,
        "http_parser": "auto",
        # WSGI cannot tell X_Forwarded_User from X-Forwarded-User, and a proxy removes only the one it knows.
        "header_map": "drop",
        # gunicorn's most. A header of a signature may be as long as its own default lets through (8190).
        "limit_request_line": 8190,
        # A worker that touches its heartbeat file on a busy disk can be taken for dead.
        "worker_tmp_dir": str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        # Preloading would keep the old code and settings through a reload.
        "preload_app": False,
        "max_requests": 0,
        # Tokens stand in URLs and headers.
        "accesslog": None,
        "logger_class": Log,
        "loglevel": "info" if settings.log_level == "debug" else "warning",
        # No second way in: the supervisor controls gunicorn with signals.
        "control_socket_disable": True,
    }
