"""Times in formats, zones and units of their own."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.moments import Times
from relay.records import instant_ns, instant_of_ns

GROOVE = ["iso", "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S UTC"]
TIMES: list[tuple[dict[str, Any], Any, str]] = [
    ({}, "2026-07-14T21:17:29Z", "2026-07-14T21:17:29Z"),
    ({"format": GROOVE}, "2026-02-14 20:09:19 +0530", "2026-02-14T14:39:19Z"),
    ({"format": GROOVE}, "2026-02-14 15:53:33 UTC", "2026-02-14T15:53:33Z"),
    ({"format": GROOVE}, " 2026-02-14T15:53:33.123456789Z ", "2026-02-14T15:53:33.123456789Z"),
    ({"format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"}, "14.07.2026 21:17", "2026-07-14T19:17:00Z"),
    ({"format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"}, "14.01.2026 21:17", "2026-01-14T20:17:00Z"),
    ({"format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"}, "25.10.2026 02:30", "2026-10-25T00:30:00Z"),
    ({"format": "%m/%d/%y %I:%M:%S.%f %p"}, "07/14/26 09:17:29.5 PM", "2026-07-14T21:17:29.5Z"),
    (
        {"format": "%Y-%m-%d %H:%M:%S %z", "zone": "Asia/Tokyo"},
        "2026-01-01 00:00:00 -0100",
        "2026-01-01T01:00:00Z",
    ),
    ({"zone": "America/New_York"}, "2026-01-05T09:30:00", "2026-01-05T14:30:00Z"),
    ({"zone": "America/New_York"}, "2026-01-05T09:30:00+01:00", "2026-01-05T08:30:00Z"),
    ({"zone": "America/New_York"}, 1_772_600_768, "2026-03-04T05:06:08Z"),
    ({"unit": "s"}, 5, "1970-01-01T00:00:05Z"),
    ({"unit": "ms"}, "1772190930482", "2026-02-27T11:15:30.482Z"),
    ({"unit": "s"}, Decimal("1772190930.482"), "2026-02-27T11:15:30.482Z"),
    ({"unit": "ns"}, 1_772_190_930_482_000_001, "2026-02-27T11:15:30.482000001Z"),
]


@pytest.mark.parametrize(("how", "value", "at"), TIMES)
def test_a_time_is_read_as_it_is_described(how: dict[str, Any], value: Any, at: str) -> None:
    assert Times(**how).ns(value) == instant_ns(at)


@pytest.mark.parametrize("how", [{}, {"format": GROOVE}, {"zone": "Asia/Tokyo"}, {"unit": "ms"}])
def test_no_time_is_none_and_anything_else_is_refused_without_saying_what_it_was(how: dict[str, Any]) -> None:
    times = Times(**how)
    assert (times.ns(None), times.ns("")) == (None, None)
    for value in (
        "4111-x",
        "soon",
        True,
        [],
        {},
        "9" * 5000,
        Decimal("1e99999"),
        "NaN",
        "\0",
        "2026-13-45T00:00:00Z",
    ):
        with pytest.raises(ValueError, match=r"^not a time$"):
            times.ns(value)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/Los_Angeles"])
@given(ns=st.integers(-60_000_000_000, 250_000_000_000).map(lambda s: s * 10**9))
def test_a_time_with_its_offset_is_the_same_in_every_zone(zone: str, ns: int) -> None:
    text = instant_of_ns(ns).isoformat()
    assert Times(zone=zone).ns(text) == ns
    assert Times(zone=zone, format="%Y-%m-%dT%H:%M:%S%z").ns(text) == ns


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati"])
@given(text=st.text(max_size=40) | st.datetimes().map(str))
def test_any_text_is_a_time_or_is_refused(zone: str, text: str) -> None:
    for times in (Times(zone=zone), Times(zone=zone, format=["%Y-%m-%d %H:%M:%S", "%j %Y"]), Times(unit="us")):
        with contextlib.suppress(ValueError):
            found = times.ns(text)
            assert found is None or isinstance(found, int)
