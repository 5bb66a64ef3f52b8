"""A destination or source that is taken out of the settings while something still waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from relay.buffer import keys, ledger, strays
from relay.errors import ConfigInvalid
from tests.flow.test_history import ERP, ORDERS, Here
from tests.flow.test_parking import drain
from worker import __main__ as main

ORDER = {"type": "order.created", "id": 1, "name": "a", "at": "2026-11-01T00:00:00Z", "lines": [{"sku": "x"}]}
BOTH = {"warehouse": {"kind": "sqlite"}, "second": {"kind": "sqlite", "path": "second.db"}}


@pytest.fixture
def here(redis_url: str, tmp_path: Path) -> Here:
    source = {**ERP, "to": ["warehouse", "second"], "tables": [ORDERS]}
    return Here(redis_url, tmp_path, sources={"erp": source}, destinations=BOTH)


def without_second(here: Here) -> None:
    here.write(
        destinations={"warehouse": {"kind": "sqlite"}},
        sources={"erp": {**ERP, "to": ["warehouse"], "tables": [ORDERS]}},
    )


def test_a_destination_that_still_has_rows_cannot_be_taken_out_and_the_words_say_what_to_do(here):
    here.post("erp", ORDER)
    with pytest.raises(ConfigInvalid, match=r"1 events still wait for destination second, .*--discard"):
        without_second(here)
    report = json.loads(here.run("check", "--json").stdout)
    assert any("destination second" in fault for fault in report["faults"])


def test_a_source_that_still_has_rows_cannot_be_taken_out(here):
    here.post("erp", ORDER)
    with pytest.raises(ConfigInvalid, match="2 events still wait for source erp"):
        here.write(sources={"other": {**ERP, "to": ["warehouse"], "tables": [ORDERS]}})


def test_the_workers_refuse_as_well_and_end_with_the_code_for_wrong_settings(here, monkeypatch, capsys):
    here.post("erp", ORDER)
    with pytest.raises(ConfigInvalid):
        without_second(here)
    monkeypatch.setenv("RELAY_CONFIG", str(here.path))
    monkeypatch.setenv("RELAY_DATA", str(here.folder))
    assert main.main() == 2
    assert "destination second" in capsys.readouterr().err


def test_up_says_so_in_one_sentence_before_any_part_starts(here):
    here.post("erp", ORDER)
    with pytest.raises(ConfigInvalid):
        without_second(here)
    command = [sys.executable, "-m", "relay", "up", "--port", "0", "--data", str(here.folder)]
    done = subprocess.run(
        [*command, "--config", str(here.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 events still wait for destination second" in done.stdout
    assert "Traceback" not in done.stdout
    assert "starting" not in done.stdout


def test_once_all_is_delivered_it_can_be_taken_out(here):
    here.post("erp", ORDER)
    here.drain()
    without_second(here)


def test_what_is_discarded_is_on_the_ledger_and_the_others_still_get_it(here):
    for n in range(3):
        here.post("erp", {**ORDER, "id": n})
    gone = strays.discard(here.client, ["warehouse"], ["erp"], lambda _: {})
    assert gone == 3
    without_second(here)
    records = ledger.read(here.client).records
    assert records["erp", "second", "erp_orders"] == {"emitted": 3, "pending": 0, "discarded": 3}
    assert ledger.audit(here.client, deep=True) == []
    drain(here, "warehouse", "archive")
    assert here.sql("SELECT count(*) FROM erp_orders") == [(3,)]
    assert ledger.audit(here.client, deep=True) == []
    assert here.client.hlen(keys.EVENTS) == 0


def test_nothing_is_discarded_under_a_drain_that_is_at_work(here):
    here.post("erp", ORDER)
    here.client.hset(keys.lane("second/0/1"), mapping={"holder": "someone", "until": 10**15})
    with pytest.raises(ConfigInvalid, match="is being served"):
        strays.discard(here.client, ["warehouse"], ["erp"], lambda _: {})
    assert here.client.zcard(keys.queue("second/0/1", "erp")) == 1
