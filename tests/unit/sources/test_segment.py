"""A batch is proved by its first event alone: what that means, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from relay.errors import Unauthenticated
from relay.records import Request
from relay.sources import segment

SECRET = "a-shared-secret"
FIRST, FORGED = b'{"type":"track","messageId":"1"}', b'{"type":"track","messageId":"2"}'
STRICT, LOOSE = segment.Signature(batches=False), segment.Signature(batches=True)


def request(body: bytes) -> Request:
    return Request("POST", "https://relay.example/", {}, body)


def sent(body: bytes) -> Request:
    return LOOSE.sign(request(body), SECRET, 0)


def test_a_batch_is_refused_by_default_and_the_refusal_says_why():
    with pytest.raises(Unauthenticated, match="batches") as caught:
        STRICT.verify(sent(b"[" + FIRST + b"]"), (SECRET,), 0)
    assert caught.value.reason == "batch_not_covered"


def test_the_setting_is_off_by_default():
    assert segment.vendor.settings["batches"].default is False
    assert isinstance(segment.vendor.verifier({"batches": "no"}), segment.Signature)
    assert not segment.vendor.verifier({"batches": "no"}).batches


def test_a_single_event_with_another_appended_is_refused_by_default():
    """What anybody could do who saw one delivery."""
    appended = msgspec.structs.replace(sent(FIRST), body=b"[" + FIRST + b"," + FORGED + b"]")
    with pytest.raises(Unauthenticated):
        STRICT.verify(appended, (SECRET,), 0)
    LOOSE.verify(appended, (SECRET,), 0)  # this is what the setting allows


def test_the_first_event_of_a_batch_is_covered_to_the_byte():
    batch = sent(b"[" + FIRST + b"," + FORGED + b"]")
    for body in (
        b"[" + FORGED + b"," + FIRST + b"]",
        b"[" + FIRST.replace(b"1", b"3") + b"]",
        b"[" + FIRST.replace(b":", b": ") + b"]",
        b"[[" + FIRST + b"]]",
    ):
        with pytest.raises(Unauthenticated):
            LOOSE.verify(msgspec.structs.replace(batch, body=body), (SECRET,), 0)


@pytest.mark.parametrize("body", [b"[]", b"[", b"[,]", b"[" * 100_000, b"[\xff]", b" [ ] x"])
def test_an_array_without_a_first_event_is_refused(body):
    with pytest.raises(Unauthenticated):
        LOOSE.verify(msgspec.structs.replace(sent(FIRST), body=body), (SECRET,), 0)
