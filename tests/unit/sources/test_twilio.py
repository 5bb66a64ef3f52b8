"""Twilio: what the contract of vendors cannot see."""

from __future__ import annotations

import pytest

from relay.errors import ConfigInvalid
from relay.records import Request
from relay.sources.twilio import vendor


def version(status: str) -> str:
    fields = {"MessageSid": ["SM1"], "MessageStatus": [status]}
    [event] = vendor.read(Request("POST", "", {}, b""), fields)
    [record] = vendor.mapper(event.type)(event)
    return record.version


def test_a_message_that_is_delivered_stays_so_when_sent_arrives_behind() -> None:
    assert version("queued") < version("sending") < version("sent") < version("delivered") < version("read")
    assert version("sent") < version("undelivered")
    assert version("sent") < version("failed")


def test_a_status_that_we_do_not_know_lies_between_sent_and_the_ends() -> None:
    assert version("sent") < version("teleported") < version("failed")


def test_an_unknown_algorithm_is_told_at_the_start() -> None:
    with pytest.raises(ConfigInvalid, match="sha1 or sha256"):
        vendor.verifier({"algorithm": "md5"})


@pytest.mark.parametrize("time", ["", "yesterday", "Tue, 99 Mar 2026 09:15:07 +0000", 7, None, ["a", "b"]])
def test_a_time_that_is_none_leaves_the_order_to_the_receipt(time) -> None:
    fields = {"CallSid": "CA1", "CallStatus": "ringing", "Timestamp": time, "SequenceNumber": "x"}
    [event] = vendor.read(Request("POST", "", {}, b""), fields)
    assert event.at is None
    [record] = vendor.mapper(event.type)(event)
    assert record.version.startswith("-")
