"""Whose word on the caller's address counts."""

from __future__ import annotations

import pytest

from relay.web.callers import caller, networks

TRUSTED = networks(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.9", "", "198.51.100.9"),
        ("198.51.100.9", "203.0.113.5", "198.51.100.9"),  # nobody we trust says so
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.5", "203.0.113.5"),  # the left one is the caller's own invention
        ("10.0.0.1", "203.0.113.5, 10.9.9.9, 192.0.2.1", "203.0.113.5"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.5", "203.0.113.5"),
        ("fd00::1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", "203.0.113.5:4711", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5, unknown", "unknown"),
        ("10.0.0.1", "203.0.113.5,", ""),
        ("", "203.0.113.5", ""),  # a socket of this machine has no address
    ],
)
def test_the_caller_is_the_last_hop_that_nobody_trusted_vouches_for(peer, forwarded, expected):
    assert caller(peer, forwarded, TRUSTED) == expected
