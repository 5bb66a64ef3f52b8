"""How numbers and spans are worded for people, wherever they are read."""

from __future__ import annotations

from typing import Any, Final

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


def number(value: Any) -> str:
    """12,345."""
    return f"{int(value):,}"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 event`, `2 events`."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def waits(count: int, one: str = "event") -> str:
    """`1 event waits`, `2 events wait`."""
    return f"{plural(count, one)} {'waits' if count == 1 else 'wait'}"


def sentence(text: str) -> str:
    """Somebody's words with a capital and a full stop."""
    trimmed = text.strip()
    if trimmed.partition(" ")[0].isalpha():  # else it is a name, of a setting or the like
        trimmed = trimmed[:1].upper() + trimmed[1:]
    return trimmed + ("" if trimmed.endswith((".", "?", "!")) else ".")


def span(seconds: float) -> str:
    """A span in its largest unit: `40 s`, `3 min`, `5 h`, `2 d`."""
    for size, word in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {word}"
    return f"{max(0, int(seconds))} s"
