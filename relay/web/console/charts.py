"""The charts of the overview, drawn as SVG on the server, each told in words and all of them as a table too.

Where nobody took samples a line is interrupted: nothing is drawn that was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from relay.buffer.rates import Reading, readings
from relay.buffer.samples import DAY_S, HOUR_S, SLOT_S, Sample, Samples
from relay.words import number, span

WIDTH: Final = 300
HEIGHT: Final = 72
_EDGE: Final = 3
_MS: Final = 1000
_MINUTE_S: Final = 60
_NONE: Final = "\N{EN DASH}"
_TENTHS: Final = 10
#: Rows of the table of a chart's time.
_ROWS: Final = 12
#: Half the width of what is drawn for a single moment.
_DOT: Final = 0.75

Value = Callable[[Reading], float | None]


class Line(msgspec.Struct, frozen=True):
    """One line of a chart: its name, what it is now, and its unbroken parts as SVG's points."""

    name: str
    now: str
    parts: list[str]


class Chart(msgspec.Struct, frozen=True):
    """One chart: `top` is the value at its upper edge, `told` what a reader who sees none is told."""

    id: str
    title: str
    top: str
    told: str
    lines: list[Line]


class Period(msgspec.Struct, frozen=True):
    """The charts of one time, and the same as a table: when, and a text for each measure."""

    id: str
    title: str
    start: str
    charts: list[Chart]
    head: list[str]
    rows: list[tuple[int, list[str]]]


def a_minute(value: float | None) -> str:
    """A rate in few digits; a dash for none."""
    if value is None:
        return _NONE
    return f"{value:.1f}" if value < _TENTHS else number(round(value))


def seconds(value: float | None) -> str:
    """A delay in few digits; a dash for none."""
    if value is None:
        return _NONE
    if value < 1:
        return f"{round(value * _MS)} ms"
    return f"{value:.1f} s" if value < _MINUTE_S else span(value)


def _count(value: float | None) -> str:
    return _NONE if value is None else number(value)


_CHARTS: Final[Sequence[tuple[str, str, Callable[[float | None], str], Sequence[tuple[str, Value]]]]] = (
    ("rates", "A minute", a_minute, (("events in", lambda r: r.accepted), ("records out", lambda r: r.stored))),
    ("fresh", "Receipt to commit", seconds, (("p50", lambda r: r.p50), ("p99", lambda r: r.p99))),
    ("waits", "Backlog", _count, (("wait", lambda r: r.pending),)),
    ("failed", "Failures", _count, (("kept", lambda r: r.failed),)),
)


def periods(samples: Samples) -> list[Period]:
    """The last hour and the last day."""
    return [
        _period("hour", "Last hour", samples.hour, samples.now_ms, HOUR_S, _MINUTE_S),
        _period("day", "Last day", samples.day, samples.now_ms, DAY_S, SLOT_S),
    ]


def _period(id_: str, title: str, samples: Sequence[Sample], now_ms: int, length_s: int, step_s: int) -> Period:
    fine = readings(samples, step_s * _MS)
    coarse = readings(samples, length_s * _MS // _ROWS)
    start_ms = now_ms - length_s * _MS
    missing = (now_ms - start_ms) - sum(r.at - r.since for r in fine if r.since is not None)
    gap = f" Nothing was measured for {span(missing / _MS)} of it." if missing > 2 * step_s * _MS else ""
    charts = [
        _chart(f"{id_}-{name}", f"{head}, {title.lower()}", gap, fine, (start_ms, now_ms), word, lines)
        for name, head, word, lines in _CHARTS
    ]
    columns = [(f"{head}: {line}", value, word) for _, head, word, lines in _CHARTS for line, value in lines]
    rows = [(r.at, [word(value(r)) for _, value, word in columns]) for r in coarse]
    return Period(id_, title, f"{span(length_s)} ago", charts, [head for head, *_ in columns], rows)


def _chart(
    id_: str,
    title: str,
    gap: str,
    found: Sequence[Reading],
    time: tuple[int, int],
    word: Callable[[float | None], str],
    lines: Sequence[tuple[str, Value]],
) -> Chart:
    known = [value for _, of in lines for r in found if (value := of(r)) is not None]
    top = max(known, default=0.0)
    drawn, told = [], []
    for name, of in lines:
        values = [value for r in found if (value := of(r)) is not None]
        now = word(of(found[-1])) if found else _NONE
        drawn.append(Line(name, now, _parts(found, of, time, top)))
        range_ = f"from {word(min(values))} to {word(max(values))}" if values else "nothing yet"
        told.append(f"{name}: {now} at the end, {range_}")
    return Chart(id_, title, word(top), f"{'; '.join(told)}.{gap}", drawn)


def _parts(found: Sequence[Reading], of: Value, time: tuple[int, int], top: float) -> list[str]:
    """A line's unbroken parts; a moment that stands alone is as wide as a dot."""
    start, end = time
    parts: list[list[tuple[float, float]]] = [[]]
    for reading in found:
        value = of(reading)
        if value is None or reading.since is None:
            parts.append([])
        if value is not None:
            x = WIDTH * (reading.at - start) / (end - start)
            parts[-1].append((x, HEIGHT - _EDGE - (HEIGHT - 2 * _EDGE) * (value / top if top else 0)))
    lone = [[(p[0][0] - _DOT, p[0][1]), (p[0][0] + _DOT, p[0][1])] if len(p) == 1 else p for p in parts if p]
    return [" ".join(f"{x:.1f},{y:.1f}" for x, y in part) for part in lone]
