"""Values that know both how a vendor writes them and what a table must hold."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from typing import Any

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: A moment long gone, so that what is ordered by receipt is always later than what is ordered by a vendor's time.
BASE = int(dt.datetime(2026, 3, 1, 9, 0, tzinfo=dt.UTC).timestamp())
_RAW_NUMBER = re.compile(r'"@(-?[0-9.]+)@"')


class Money(str):
    """An amount as text; equal amounts need not be equal text."""

    __slots__ = ()


class Number(str):
    """A JSON number with more digits than a float holds."""

    __slots__ = ()


class Ref(int):
    """An id that is sent as a number and kept as text."""


class At:
    """A moment.

    Args:
        ns: nanoseconds since 1970, UTC.
        form: how it is written: `iso`, `offset` (two hours east), `bare` (no zone), `nano` or `epoch` (seconds).
    """

    def __init__(self, ns: int, form: str = "iso") -> None:
        self.ns, self.form = ns, form

    def wire(self) -> str | int:
        """As the vendor writes it."""
        seconds, rest = divmod(self.ns, 10**9)
        if self.form == "epoch":
            return seconds
        east = dt.timedelta(hours=2) if self.form == "offset" else dt.timedelta(0)
        text = f"{EPOCH + dt.timedelta(seconds=seconds) + east:%Y-%m-%dT%H:%M:%S}"
        zone = {
            "iso": "Z",
            "offset": "+02:00",
            "bare": "",
            "nano": f".{rest:09d}Z",
            "milli": f".{rest:09d}"[:4] + "Z",
        }
        return text + zone[self.form]

    def moment(self) -> dt.datetime:
        """As a table holds it: to the microsecond."""
        return moment(self.ns)


def moment(ns: int) -> dt.datetime:
    """Nanoseconds since 1970 as a UTC moment, cut to microseconds."""
    return EPOCH + dt.timedelta(microseconds=ns // 1000)


def at(seconds: float, form: str = "iso") -> At:
    """So many seconds after the beginning of this world."""
    return At(BASE * 10**9 + round(seconds * 10**9), form)


def wire(value: Any) -> Any:
    """A body as plain JSON values."""
    if isinstance(value, dict):
        return {name: wire(item) for name, item in value.items()}
    if isinstance(value, list):
        return [wire(item) for item in value]
    if isinstance(value, At):
        return value.wire()
    return f"@{value}@" if isinstance(value, Number) else value


def dumps(value: Any) -> bytes:
    """A body as JSON bytes, numbers of any length as they are."""
    return _RAW_NUMBER.sub(r"\1", json.dumps(wire(value), ensure_ascii=False)).encode()


def loads(text: str | bytes) -> Any:
    """JSON without floats."""
    return json.loads(text, parse_float=Decimal)


def same(expected: Any, actual: Any) -> bool:
    """Whether a column holds what it must, in the form that its database has for it."""
    if expected is None or actual is None:
        return expected is actual
    if isinstance(expected, (Money, Number)):
        return Decimal(expected) == Decimal(str(actual))
    if isinstance(expected, At):
        found = dt.datetime.fromisoformat(actual) if isinstance(actual, str) else actual
        return found.tzinfo is not None and found == expected.moment()
    if isinstance(expected, bool):
        return actual in (0, 1) and bool(actual) is expected
    if isinstance(expected, Ref):
        return actual == str(int(expected))
    if isinstance(expected, int):
        return not isinstance(actual, (bool, float)) and int(actual) == expected
    if isinstance(expected, (dict, list)):
        return (loads(actual) if isinstance(actual, str) else actual) == loads(dumps(expected))
    return actual == expected
