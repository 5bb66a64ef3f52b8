"""Times as senders write them, where that is not told from how they look: a format, a zone, a unit. Pure."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from relay.records import NS, instant_ns

_ISO: Final = "iso"
_LONGEST: Final = 100
#: No `%Z`: which names it takes is a matter of the machine.
_DIRECTIVES: Final = frozenset("YymdHIMSfzbBaApj%")
_SCALES: Final = {"s": NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - local times are counted from a local one


def _format(text: str) -> str:
    found = set(re.findall(r"%(.?)", text.replace("%%", "")))
    if text != _ISO and (not found & {"Y", "y"} or not found <= _DIRECTIVES):
        known = " ".join(f"%{letter}" for letter in sorted(_DIRECTIVES))
        raise ValueError(f"a format is `iso`, or has a year (%Y) and of these: {known}")
    return text


def _zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; such as Europe/Berlin") from None
    return name


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Times(BaseModel):
    """How a time is written: in one of some formats, in a zone where it names none, or as a count of units."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    format: Annotated[tuple[Annotated[str, AfterValidator(_format)], ...], BeforeValidator(_one_or_many)] = ()
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    unit: Literal["s", "ms", "us", "ns"] | None = None

    @cached_property
    def plain(self) -> bool:
        """Whether a time is told from how it looks alone."""
        return not (self.format or self.unit or self.zone != "UTC")

    def ns(self, value: Any) -> int | None:
        """A time in ns since 1970; None where there is none; `ValueError` where it is not of the form."""
        if value is None or value == "":
            return None
        at = instant_ns(value) if self.plain else self._ns(value)
        if at is None:
            raise ValueError("not a time")
        return at

    def _ns(self, value: Any) -> int | None:
        if self.unit is not None:
            return _count(value, _SCALES[self.unit])
        for form in self.format or (_ISO,):
            at = self._iso(value) if form == _ISO else self._of_form(value, form)
            if at is not None:
                return at
        return None

    def _iso(self, value: Any) -> int | None:
        at = instant_ns(value)
        try:
            local = dt.datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
        except ValueError:  # a count of seconds, or nothing
            return at
        if at is None or local is None or local.tzinfo is not None:
            return at
        return at - self._offset(local)

    def _of_form(self, value: Any, form: str) -> int | None:
        if not isinstance(value, str) or len(value) > _LONGEST:
            return None
        try:
            moment = dt.datetime.strptime(value.strip(), form)  # noqa: DTZ007 - its zone follows
        except ValueError:
            return None
        offset, local = moment.utcoffset(), moment.replace(tzinfo=None)
        return _ns_of(local - _EPOCH) - (self._offset(local) if offset is None else _ns_of(offset))

    def _offset(self, local: dt.datetime) -> int:
        """Of a local time from UTC, in ns; where clocks are set back, the first of the two hours is meant."""
        try:
            offset = local.replace(tzinfo=zoneinfo.ZoneInfo(self.zone)).utcoffset()
        except OverflowError:  # the ends of the calendar
            raise ValueError("not a time") from None
        return 0 if offset is None else _ns_of(offset)


def _count(value: Any, scale: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        return None
    try:
        number = Decimal(value.strip() if isinstance(value, str) else value)
    except (InvalidOperation, ValueError):
        return None
    # A longer number is no time, and would be long in the making.
    return int(number * scale) if number.is_finite() and -30 < number.adjusted() < 20 else None  # noqa: PLR2004


def _ns_of(delta: dt.timedelta) -> int:
    return delta // _MICROSECOND * 1000
