"""PyJWT and our file: what one signs the other accepts, and what is changed both refuse."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from jwt.algorithms import RSAAlgorithm

from relay.errors import Unauthenticated
from relay.publickeys import RSA, new_key
from relay.records import NS, Request
from tests.contracts import sources

NAME = "700100200/81700000000123001"
SAYS = {"iss": "orgId:700100200", "aud": "webhookId:81700000000123001"}


def private(number: int) -> Any:
    return serialization.load_pem_private_key(new_key(RSA, number).encode(), None)


def ours(*kids: str) -> Any:
    """Our verifier with a key set that PyJWT wrote."""
    keys = [
        {**RSAAlgorithm.to_jwk(private(i).public_key(), as_dict=True), "kid": kid} for i, kid in enumerate(kids)
    ]
    return sources.vendor_of("zoho_desk").verifier({"jwks": json.dumps({"keys": keys})})


def sent(token: str) -> Request:
    return Request("POST", "", {"x-zdesk-jwt": token}, b"[]")


def refused(token: str, now: int) -> str:
    with pytest.raises(Unauthenticated) as error:
        ours("a", "b").verify(sent(token), (NAME,), now)
    return error.value.reason


@pytest.mark.parametrize("scale", [1, 1000])
def test_what_the_library_signs_we_accept_and_changed_we_do_not(scale: int) -> None:
    now = 1_772_352_960
    said = {**SAYS, "iat": now * scale, "exp": (now + 600) * scale}
    for number, kid in enumerate(("a", "b")):
        token = jwt.encode(said, private(number), algorithm="RS256", headers={"kid": kid})
        ours("a", "b").verify(sent(token), (NAME,), now * NS)
        for place in (0, 1, 2):
            parts = token.split(".")
            middle = len(parts[place]) // 2
            parts[place] = (
                parts[place][:middle] + ("A" if parts[place][middle] != "A" else "B") + parts[place][middle + 1 :]
            )
            assert refused(".".join(parts), now * NS).startswith("signature_")
        assert refused(token, (now + 1000) * NS) == "timestamp_stale"
    assert (
        refused(jwt.encode(said, private(0), algorithm="RS256", headers={"kid": "b"}), now * NS)
        == "signature_wrong"
    )
    assert (
        refused(jwt.encode(said, private(2), algorithm="RS256", headers={"kid": "a"}), now * NS)
        == "signature_wrong"
    )
    for name in ("iss", "aud"):
        other = jwt.encode(
            {**said, name: said[name].replace("700", "701").replace("817", "818")}, private(0), "RS256"
        )
        assert refused(other, now * NS) == "signature_wrong"


def test_other_algorithms_of_the_library_are_refused() -> None:
    now = int(time.time())
    said = {**SAYS, "iat": now, "exp": now + 600}
    for algorithm, key in (("none", None), ("HS256", "x" * 64), ("RS512", private(0)), ("PS256", private(0))):
        assert refused(jwt.encode(said, key, algorithm=algorithm), now * NS) == "signature_malformed"


def test_what_we_sign_the_library_accepts_and_changed_it_does_not() -> None:
    now = time.time_ns()
    verifier = ours()
    token = verifier.sign(Request("POST", "", {}, b"[]"), verifier.test_secret(0), now).headers["x-zdesk-jwt"]
    key, audience = private(0).public_key(), SAYS["aud"]
    found = jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=SAYS["iss"])
    assert found["exp"] > now // NS
    for wrong in ({"audience": "webhookId:1"}, {"issuer": "orgId:1"}, {"key": private(1).public_key()}):
        with pytest.raises(jwt.InvalidTokenError):
            jwt.decode(
                token,
                **{"key": key, "algorithms": ["RS256"], "audience": audience, "issuer": SAYS["iss"], **wrong},
            )
    with pytest.raises(jwt.InvalidTokenError):
        jwt.decode(f"{token[:-8]}AAAAAAAA", key, algorithms=["RS256"], audience=audience)
