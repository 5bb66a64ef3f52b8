"""A table at the destination that the relay did not make holds up its own rows and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.buffer import keys, ledger
from tests.flow.test_history import ERP, ORDERS, Here
from tests.flow.test_parking import drain

OTHER = {"table": "notes", "key": ["id"], "when": "type == 'note'"}


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Here:
    orders = {**ORDERS, "when": "type != 'note'"}
    return Here(redis_url, tmp_path, sources={"erp": {**ERP, "tables": [orders, OTHER]}})


def test_rows_of_a_table_that_is_not_ours_wait_while_the_others_are_stored(here):
    here.sql("CREATE TABLE erp_orders (id TEXT)")
    here.post("erp", {"type": "order.created", "id": 1, "at": "2026-11-01T00:00:00Z", "lines": []})
    drain(here, "warehouse")
    assert here.client.hget(keys.lane("warehouse/0/1"), "hold_until") is None
    assert not here.client.exists(keys.destination("warehouse")), "the destination is well"
    here.post("erp", {"type": "note", "id": 1})
    drain(here, "warehouse")
    assert here.sql("SELECT count(*) FROM erp_notes") == [(1,)]
    assert here.sql("SELECT count(*) FROM erp_orders") == [(0,)]
    assert ledger.read(here.client).records["erp", "warehouse", "erp_orders"]["pending"] == 1
    assert ledger.audit(here.client, deep=True) == []
