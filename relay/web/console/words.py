"""How the console words numbers, times and bodies: the filters of its templates."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from markupsafe import Markup, escape

from relay.records import arrival_instant
from relay.words import number, plural, sentence, span, waits

_KIB: Final = 1024
#: Bytes of a body that are shown.
SHOWN: Final = 64 * _KIB


def marked(text: str) -> Markup:
    """A text of ours or a vendor file's, in which `code` stands between backticks; the rest is escaped."""
    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # one has no partner
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts)
    )


def instant(ms: int) -> str:
    """A moment in ms since 1970, to the second."""
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(ms: int) -> str:
    """How long a moment is past."""
    return f"{span(time.time() - ms / 1000)} ago"


def arrived(arrival: str) -> int:
    """When an event came, ms since 1970."""
    return int(arrival_instant(arrival).timestamp() * 1000)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for word in ("B", "KiB", "MiB"):
        if value < _KIB:
            return f"{value:.0f} {word}" if word == "B" else f"{value:.1f} {word}"
        value /= _KIB
    return f"{value:.1f} GiB"


def body(raw: bytes) -> tuple[str, bool]:
    """A body for people, JSON indented with its numbers as they came; and whether something was cut off."""
    cut = raw[:SHOWN]
    if len(raw) <= SHOWN:
        with contextlib.suppress(msgspec.MsgspecError):
            cut = msgspec.json.format(raw, indent=2)
    return cut[: 2 * SHOWN].decode("utf-8", "backslashreplace"), len(raw) > SHOWN


_ALL: Final[tuple[Callable[..., Any], ...]] = (
    number, plural, waits, sentence, marked, instant, span, ago, arrived, size,
)  # fmt: skip
FILTERS: Final[Mapping[str, Callable[..., Any]]] = {filter_.__name__: filter_ for filter_ in _ALL}
