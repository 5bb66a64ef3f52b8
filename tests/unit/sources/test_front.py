"""Front's traps: two schemes under one header, and a challenge that must not be answered for everybody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relay.errors import ConfigInvalid, Unauthenticated
from relay.records import NS, Request
from relay.sources import front

NOW = 1_772_352_960 * NS
SECRET = "an-app's-signing-key"
APP, RULE = {"webhooks": "app"}, {"webhooks": "rule"}


def request(body: bytes = b'{"type":"sync"}', **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", "https://hooks.shop.example/hooks/desk", named, body)


@pytest.mark.parametrize(("mine", "theirs"), [(APP, RULE), (RULE, APP)])
def test_the_scheme_is_the_operators_choice_and_not_the_senders(mine: Any, theirs: Any) -> None:
    signed = front.verifier(theirs).sign(request(), SECRET, NOW)
    with pytest.raises(Unauthenticated):
        front.verifier(mine).verify(signed, (SECRET,), NOW)


@pytest.mark.parametrize("wrong", ["", "APP", None, 1])
def test_a_kind_of_webhook_that_is_none_is_refused_when_the_source_is_loaded(wrong: Any) -> None:
    with pytest.raises(ConfigInvalid):
        front.verifier({"webhooks": wrong})


def test_a_signed_challenge_is_given_back() -> None:
    asked = front.verifier(APP).sign(request(x_front_challenge="a1b2c3d4e5"), SECRET, NOW)
    reply = front.handshake(asked, ("old", SECRET), APP)
    assert reply is not None
    assert reply.body == b'{"challenge":"a1b2c3d4e5"}'


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b'{"type":"sync" }'},
        {"body": b"nul"},
        {"body": b'["sync"]'},
        {"method": "GET"},
    ],
)
def test_a_challenge_that_is_not_signed_as_it_is_gets_no_answer(changed: dict[str, Any]) -> None:
    asked = front.verifier(APP).sign(request(x_front_challenge="a1b2c3d4e5"), SECRET, NOW)
    assert front.handshake(msgspec.structs.replace(asked, **changed), (SECRET,), APP) is None


@pytest.mark.parametrize("body", [b"nul", b'["sync"]', b"[]", b'{"type":"archive"}', b'{"type":["sync"]}'])
def test_only_a_sync_is_a_challenge(body: bytes) -> None:
    asked = front.verifier(APP).sign(request(body, x_front_challenge="a1b2c3d4e5"), SECRET, NOW)
    assert front.handshake(asked, (SECRET,), APP) is None


@pytest.mark.parametrize(
    "challenge", ["", "short", "x" * 257, "<b>12345678</b>", "a b c d e f g", "ä" * 20, "a\n" * 9]
)
def test_a_challenge_of_another_shape_gets_no_answer(challenge: str) -> None:
    asked = front.verifier(APP).sign(request(x_front_challenge=challenge), SECRET, NOW)
    assert front.handshake(asked, (SECRET,), APP) is None


def test_without_a_secret_no_challenge_is_answered() -> None:
    asked = front.verifier(APP).sign(request(x_front_challenge="a1b2c3d4e5"), SECRET, NOW)
    assert front.handshake(asked, (), APP) is None
