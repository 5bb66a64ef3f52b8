"""Logs: one static event name, values as keywords, context bound once, JSON off a terminal.

Whatever a process says of itself goes this way: our lines, the libraries', Python's warnings, and what ends a
thread or the process. No line holds a secret of a URL or a DSN, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, ParamSpec, TextIO, TypeVar

import structlog

_P = ParamSpec("_P")
_R = TypeVar("_R")
_USER_IN_URL: Final = re.compile(r"(://)[^\s\"'<>]*@")
_SECRET: Final = re.compile(
    r"(?i)((?:api_?key|token|passwd|password|secret|signature)=)(?:'[^']*'|\"[^\"]*\"|[^&\s\"'<>,;]+)"
)
#: Characters of one value; a traceback is longer than any other.
_MOST: Final = 16_384


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time; where that is gone, a line is lost and nothing else."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where the next line goes."""
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Say that a line could not be written, where that can be said."""
        with contextlib.suppress(OSError, ValueError):
            super().handleError(record)


def as_json(log_format: str) -> bool:
    """Whether lines are JSON: by the setting, or because nobody reads them on a terminal."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def setup(log_format: str = "auto", level: str = "info") -> None:
    """Send every line, ours and the libraries', through one formatter to stderr."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_process,
    ]
    # Tracebacks stay plain: the pretty ones show variables, and so bodies and keys.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    last = structlog.processors.JSONRenderer() if as_json(log_format) else plain
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _with_logger],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _without_secrets,
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
    logging.captureWarnings(capture=True)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _process_failed
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_failed


def logger(name: str) -> Any:
    """A logger; the first argument of its calls is a constant event name."""
    return structlog.get_logger(logger_name=name)


def carrying(work: Callable[_P, _R]) -> Callable[_P, _R]:
    """A call for another thread, which has what is bound here as its own context."""
    here = contextvars.copy_context()

    def carried(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return here.copy().run(work, *args, **kwargs)

    return carried


def without_secrets(text: str) -> str:
    """A text without what stands before the host of a URL, and without values of keys, tokens and passwords."""
    if len(text) > _MOST:
        text = f"{text[:_MOST]}…"
    if "://" in text:
        text = _USER_IN_URL.sub(r"\1…@", text)
    return _SECRET.sub(r"\1…", text) if "=" in text else text


def _without_secrets(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in line.items():
        if isinstance(value, str):
            line[key] = without_secrets(value)
    return line


def _with_process(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line["process_id"] = os.getpid()
    return line


def _with_logger(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line["logger_name"] = line["_record"].name
    return line


def _process_failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends the process is a line as any other; Ctrl-C is not a fault."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logger("process").critical("process_failed", exc_info=(kind, error, trace))


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread else ""
        logger("process").error("thread_failed", thread=name, exc_info=failed.exc_value)
