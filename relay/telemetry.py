"""Logs: one static event name, values as keywords, context bound once, JSON off a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO

import structlog


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to standard error; where that is gone, a line is lost and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Say that a line could not be written, where that can be said."""
        with contextlib.suppress(OSError, ValueError):
            super().handleError(record)


def setup(log_format: str = "auto", level: str = "info") -> None:
    """Send every line, ours and the libraries', through one formatter to stderr."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _ToStderr(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # RQ says each job's start and end; a drain says itself what it did.
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.WARNING)


def logger(name: str) -> Any:
    """A logger; the first argument of its calls is a constant event name."""
    return structlog.get_logger(logger_name=name)
