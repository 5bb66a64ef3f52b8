"""A card number in a delivery's text is stored nowhere; its ids and numbers are stored as they came."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from relay import configured, jobs
from relay.buffer import keys
from relay.records import Codec, Packed, records_of
from tests.flow.test_history import ERP, Here

CARD = "4111 1111 1111 1111"
ID = 4111111111111111
TABLE = {"table": "orders", "key": ["id"], "children": {"lines": {"key": ["sku"]}}}
BODY = {
    "type": "t",
    "id": ID,
    "text_id": str(ID),
    "gid": f"gid://shop/Order/{ID}",
    "note": f"my card is {CARD}, thanks",
    "lines": [{"sku": str(ID), "engraving": f"pay with {ID} please"}],
}


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Here:
    return Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [TABLE]}})


def kept(here: Here) -> Packed:
    """The only event."""
    (blob,) = here.client.hgetall(keys.EVENTS).values()
    return Codec().unpack(blob)


def test_neither_the_rows_nor_the_kept_body_hold_a_card_number(here: Here) -> None:
    here.post("erp", BODY)
    packed = kept(here)
    raw: dict[str, Any] = json.loads(packed.raw)
    assert raw == {
        **BODY,
        "note": "my card is **** **** **** 1111, thanks",
        "lines": [{"sku": str(ID), "engraving": "pay with ************1111 please"}],
    }
    order, lines = records_of(packed)
    assert {name: order.data[name] for name in ("id", "text_id", "gid", "note")} == {
        "id": ID, "text_id": str(ID), "gid": BODY["gid"], "note": raw["note"],
    }  # fmt: skip
    assert lines.members is not None
    assert lines.members[0]["engraving"] == "pay with ************1111 please"


def test_a_replay_of_a_masked_body_ends_in_the_same_rows(here: Here) -> None:
    here.post("erp", BODY)
    packed = kept(here)
    again = Codec().unpack(jobs.remapped(configured.sources_of(here.config)["erp"], packed, Codec()).blob)
    assert (again.rows, again.raw) == (packed.rows, packed.raw)


def test_the_same_delivery_again_is_a_duplicate_masked_or_not(here: Here) -> None:
    here.post("erp", BODY)
    assert here.post("erp", BODY) == next(iter(here.client.hgetall(keys.EVENTS))).decode()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({**BODY, "id": None}).encode(),
        f'{{"id": {ID}, "note": "card {CARD}"'.encode(),
        json.dumps([f"card {CARD}"]).encode(),
    ],
    ids=["not mapped", "not read", "not of the shape"],
)
def test_a_quarantined_body_holds_none(here: Here, body: bytes) -> None:
    here.post("erp", body)
    packed = kept(here)
    assert packed.meta.fault
    assert CARD.encode() not in packed.raw
    assert b"**** 1111" in packed.raw


def test_forms_and_compressed_bodies_are_masked_too(here: Here) -> None:
    form = urlencode({"type": "t", "id": ID, "note": f"card {CARD}"}).encode()
    event = here.post("erp", form, **{"Content-Type": "application/x-www-form-urlencoded"})
    packed = Codec().unpack(here.client.hget(keys.EVENTS, event))
    assert json.loads(packed.raw) == {"type": "t", "id": str(ID), "note": "card **** **** **** 1111"}
    event = here.post("erp", gzip.compress(json.dumps(BODY).encode()), **{"Content-Encoding": "gzip"})
    assert CARD.encode() not in Codec().unpack(here.client.hget(keys.EVENTS, event)).raw


def test_a_body_without_cards_is_kept_byte_for_byte(here: Here) -> None:
    body = json.dumps({**BODY, "note": "no card", "lines": []}, indent=3).encode()
    here.post("erp", body)
    assert kept(here).raw == body


def test_masking_can_be_switched_off(here: Here) -> None:
    here.write(mask_cards=False)
    here.post("erp", BODY)
    assert CARD.encode() in kept(here).raw
