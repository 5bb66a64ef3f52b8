"""A scheme is proved by somebody else: published vectors, and libraries that sign and verify (`tests/proofs/`).

`tests/proofs/<kind>.json` holds vectors: `id`, `source` (where it is published), `secrets`, `headers`, `body` (or
`body_base64`), and where they differ from `POST`, no URL and no time: `method`, `url`, `now` (s), `settings`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from relay.errors import Unauthenticated
from relay.records import NS, Request
from relay.signatures import Verifier
from tests.contracts import sources

PROOFS = Path(__file__).parents[1] / "proofs"
KINDS = sources.kinds()


class Vector(NamedTuple):
    """One signature that somebody else made."""

    kind: str
    said: dict[str, Any]

    @property
    def verifier(self) -> Verifier:
        vendor = sources.vendor_of(self.kind)
        return vendor.verifier({**sources.defaults(vendor), **self.said.get("settings", {})})

    @property
    def now(self) -> int:
        return int(self.said.get("now", 0)) * NS

    @property
    def request(self) -> Request:
        said = self.said
        body = base64.b64decode(said["body_base64"]) if "body_base64" in said else said["body"].encode()
        headers = {name.lower(): value for name, value in said["headers"].items()}
        url = said.get("url", "")
        query = dict(parse_qsl(urlsplit(url).query))
        return Request(said.get("method", "POST"), url, headers, body, query)


VECTORS = [
    Vector(path.stem, said)
    for path in sorted(PROOFS.glob("*.json"))
    for said in json.loads(path.read_text("utf-8"))
]
each = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v.kind}-{v.said['id']}")


@each
def test_a_published_signature_is_accepted(vector: Vector) -> None:
    vector.verifier.verify(vector.request, tuple(vector.said["secrets"]), vector.now)


@each
def test_no_other_secret_fits_it(vector: Vector) -> None:
    vendor, verifier = sources.vendor_of(vector.kind), vector.verifier
    with pytest.raises(Unauthenticated):
        verifier.verify(vector.request, (sources.secret_for(vendor, verifier, 5),), vector.now)


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if sources.covers_body(v.verifier)],
    ids=lambda v: f"{v.kind}-{v.said['id']}",
)
def test_its_body_with_one_more_byte_is_refused(vector: Vector) -> None:
    longer = msgspec.structs.replace(vector.request, body=vector.request.body + b" ")
    with pytest.raises(Unauthenticated):
        vector.verifier.verify(longer, tuple(vector.said["secrets"]), vector.now)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_vendor_says_of_its_proof_is_there(kind: str) -> None:
    how, _, what = sources.vendor_of(kind).proof.partition(": ")
    assert how in {"vector", "library", "documented"}
    assert what
    if how == "vector":
        named = what.partition(", of the same scheme")[0].partition(", whose")[0].split(", ")
        assert set(named) <= {v.said["id"] for v in VECTORS if v.kind == kind}
    if how == "library":
        assert (PROOFS / f"test_{kind}.py").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vendor_says_how_it_is_set_up_and_what_it_deletes(kind: str) -> None:
    vendor = sources.vendor_of(kind)
    assert vendor.setup
    assert vendor.deletes
    assert all(text.strip() == text and text for text in (*vendor.setup, vendor.deletes, *vendor.limits))
