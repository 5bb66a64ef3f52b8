"""What is declared, measured and learnt for `/metrics`, and what the shipped rules and dashboard say of it."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.exceptions import ConnectionError as RedisConnectionError
from typer.main import get_command

from relay.buffer import measures, pulse
from relay.buffer.lanes import Settlement
from relay.cli.main import app
from relay.config import load
from relay.errors import Permanent, Refused, StaleClaim, Transient
from relay.web.gauges import DECLARED
from worker.destination import Batch, Item, TableSpec
from worker.measuring import Measuring

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
RULE_TESTS = yaml.safe_load((DEPLOY / "prometheus/tests.yaml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana/rowhook.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NAME, SELECTOR = re.compile(r"\browhook_[a-z_]+"), re.compile(r"\b(rowhook_[a-z_]+)\{([^}]*)\}")
DAY, HOUR, WEEK = 86_400, 3_600, 604_800
START = 1_795_219_200 // WEEK * WEEK
ITEM = Item("row", {"id": 1}, None, True, "0" * 57, '["1"]', "1795000000000000", 0, "shop", False, 9)  # noqa: FBT003
BATCH = Batch(TableSpec("t", ("id",), (), {}), [ITEM] * 3)


def shown() -> dict[str, set[str]]:
    """Names of series with their labels."""
    found: dict[str, set[str]] = {}
    for one in DECLARED:
        if one.kind == "histogram":
            found[f"{one.name}_bucket"] = {*one.labels, "le"}
            found[f"{one.name}_sum"] = found[f"{one.name}_count"] = set(one.labels)
        else:
            found[one.name] = set(one.labels)
    return found


def queries() -> dict[str, str]:
    found = {rule["alert"]: rule["expr"] for rule in ALERTS}
    for panel in PANELS:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found[variable["name"]] = variable["query"]["query"]
    for test in RULE_TESTS["tests"]:
        for series in test["input_series"]:
            found[f"{test['name']}: {series['series']}"] = series["series"]
    return found


@pytest.mark.parametrize("query", queries().values(), ids=queries())
def test_what_rules_and_dashboard_ask_for_exists_with_its_labels(query):
    known = shown()
    assert set(NAME.findall(query)) <= set(known)
    for name, selector in SELECTOR.findall(query):
        named = set(re.findall(r"([a-z]+)\s*(?:=~|!~|!=|=)", selector))
        assert named <= known[name] | {"instance"}, name
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= set().union(*known.values()) | {"instance"}


def test_every_metric_is_on_the_dashboard_or_in_an_alert_or_is_a_detail_of_one_that_is():
    asked = {name for query in queries().values() for name in NAME.findall(query)}
    unseen = {name for name in shown() if name not in asked}
    assert unseen <= {"rowhook_records_emitted_total", "rowhook_dedup_limit_bytes", "rowhook_batch_rows_bucket",
                      "rowhook_delivery_lag_seconds_sum"}  # fmt: skip


def test_names_are_as_prometheus_wants_them_and_every_metric_says_what_it_is():
    assert len({one.name for one in DECLARED}) == len(DECLARED)
    for one in DECLARED:
        assert re.fullmatch(r"rowhook_[a-z]+(_[a-z]+)*", one.name)
        assert (one.kind == "counter") == one.name.endswith("_total"), one.name
        assert one.about.endswith((".", ")"))
        assert set(one.labels) <= {
            "source",
            "destination",
            "table",
            "state",
            "outcome",
            "reason",
            "account",
            "version",
        }


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_waits_has_a_severity_says_what_to_do_and_is_tested(rule):
    assert rule["for"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    said = rule["annotations"]["description"]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, part in re.findall(r"`relay ([a-z]+)(?: ([a-z]+))?", said):
        assert command in commands
        inner = getattr(commands[command], "commands", None)
        assert not part or inner is None or part in inner
    for setting in re.findall(r"`((?:max|metrics)_[a-z_]+)`", said):
        assert setting in load(None, Path("nowhere")).settings.model_fields_set | set(
            type(load(None, Path("nowhere")).settings).model_fields
        )
    assert rule["alert"] in (DEPLOY / "prometheus/tests.yaml").read_text()


def test_the_dashboard_is_whole():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert all(target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"])
    places = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(places)) == len(places), "panels lie on each other"


# --- measures -------------------------------------------------------------------------------------------


def test_a_lag_counts_in_the_first_bucket_that_holds_it_and_in_the_sum():
    now, sent = 1_795_000_000_000_000, random.Random(7)
    waited = [sent.uniform(0, 100_000) for _ in range(500)] + [0.0, 0.1, 60.0, 43_200.0, 43_200.1]
    arrivals = [f"{now - round(s * 1_000_000):016d}" for s in waited]
    found = measures.read({k.encode(): str(n).encode() for k, n in measures.lags("d", arrivals, now).items()})
    for bound, count in found.lag["d"].cumulative():
        assert count == sum(s <= float(bound) for s in waited), bound
    assert found.lag["d"].total == pytest.approx(sum(waited), abs=0.01)


def test_a_clock_that_was_set_back_makes_no_lag_below_nothing():
    now = 1_795_000_000_000_000
    assert measures.lags("d", [f"{now + 5_000_000:016d}"], now) == Counter({"lag|d|0.1": 1})


def test_attempts_and_their_rows_are_counted_by_destination():
    told = measures.batches("d", [(1, "stored"), (100, "stored"), (101, "unknown"), (9_999, "rejected")])
    found = measures.read({k.encode(): str(n).encode() for k, n in told.items()})
    assert found.tries == {("d", "stored"): 2, ("d", "unknown"): 1, ("d", "rejected"): 1}
    assert {b: n for b, n in found.rows["d"].counts.items() if n} == {"1.0": 1, "100.0": 1, "250.0": 1, "+Inf": 1}
    assert found.rows["d"].total == 10_201


def test_buckets_of_another_release_and_fields_of_nobody_are_read_without_harm():
    raw = {b"lag|d|0.15": b"2", b"lag|d|99999999.0": b"1", b"lag|d|sum": b"1500", b"x|y|z": b"1", b"lag": b"1"}
    found = measures.read(raw).lag["d"]
    assert (found.counts["0.2"], found.counts["+Inf"], found.total) == (2, 1, 1.5)


class Client:
    """Tells the time, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away

    def time(self):
        if self.away:
            raise RedisConnectionError("away")
        return 1_795_000_000, 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Transient("later"), "transient"),
        (Transient("who knows", unknown=True), "unknown"),
        (Refused("no"), "refused"),
        (Permanent("never"), "rejected"),
        (Permanent("a fault", reason="ours"), "broken"),
        (TimeoutError("the job's own end"), "unknown"),
        (StaleClaim("not sent"), None),
        (None, "stored"),
    ],
)
def test_an_attempt_is_counted_by_how_it_ends(error, outcome):
    client = Client()
    measuring = Measuring(client, "d")
    try:
        with measuring.attempt(BATCH):
            if error is not None:
                raise error
    except type(error or KeyError):
        pass
    settlement = Settlement({}, [], [], {}, {})
    measuring.note(settlement, [])
    assert [a.outcome for a in [*settlement.attempts, *settlement.successes]] == ([outcome] if outcome else [])
    assert {k: n for k, n in settlement.measured.items() if k.startswith("tries")} == (
        {f"tries|d|{outcome}": 1} if outcome else {}
    )


def test_a_redis_that_is_away_stops_no_drain():
    measuring = Measuring(Client(away=True), "d")
    with measuring.attempt(BATCH):
        pass
    settlement = Settlement({}, [], [], {}, {})
    measuring.note(settlement, ["1795000000000000"])
    assert settlement.measured["tries|d|stored"] == 1


# --- the rhythm of sources ------------------------------------------------------------------------------


class World:
    """A source that sends by a timetable, looked at every minute."""

    def __init__(self, hourly, seed=1):
        self.hourly, self.dice, self.count = hourly, random.Random(seed), 0
        self.account, self.pauses = pulse.Account(0, START, START, hour=START // HOUR), pulse.fresh()
        self.now = START

    def run(self, seconds, *, off=False):
        """Let time pass; returns for which minutes it was silent."""
        silent = []
        for _ in range(seconds // 60):
            self.now += 60
            self.count += 0 if off else self._drawn(self.hourly(self.now // HOUR % 168) / 60)
            quiet = self.account.silence(self.count, self.now)
            if quiet and self.account.silent(self.pauses, self.now):
                silent.append(self.now)
            pulse.look(self.account, self.pauses, self.count, self.now)
        return silent

    def _drawn(self, mean):
        left, drawn = math.exp(-mean), 0
        chance, so_far, dice = left, left, self.dice.random()
        while dice > so_far and drawn < 1000:
            drawn += 1
            chance *= mean / drawn
            so_far += chance
        return drawn


def office(hour: int) -> float:
    """Sixty events an hour by day from Monday to Friday, none at night and on weekends."""
    return 60.0 if hour // 24 < 5 and 8 <= hour % 24 < 22 else 0.0


def test_a_shop_that_sleeps_at_night_and_on_weekends_is_silent_only_when_it_is_off_by_day():
    world = World(office)
    world.run(8 * DAY)
    assert world.run(2 * WEEK - DAY) == [], "neither at night nor on a weekend, once a week is known"
    assert world.run(12 * HOUR) == []
    began = world.now
    silent = world.run(2 * HOUR, off=True)
    assert 10 * 60 <= silent[0] - began <= 45 * 60
    assert world.run(20 * HOUR, off=True)[-1] == world.now, "it stays silent through the night"
    assert len(world.run(2 * HOUR)) < 30, "and is not any more once something comes"


@pytest.mark.parametrize("hourly", [3600.0, 60.0, 2.0, 1 / 3])
def test_a_source_of_any_pace_rings_seldom_by_itself_and_soon_when_it_is_off(hourly):
    world = World(lambda _: hourly)
    assert world.run(4 * WEEK) == []
    mean = 3600 / hourly
    began = world.now
    silent = world.run(int(40 * mean) + HOUR, off=True)
    assert silent[0] - began <= 20 * mean + 3600 * 0.5


def test_an_outage_hardly_excuses_the_next_one():
    world = World(lambda _: 600.0)
    world.run(2 * WEEK)
    world.run(DAY, off=True)
    world.run(WEEK - 12 * HOUR)
    began = world.now
    assert world.run(2 * HOUR, off=True)[0] - began <= HOUR


def test_nothing_is_said_of_a_source_that_is_hardly_known():
    world = World(lambda _: 60.0)
    world.run(15 * 60)
    assert world.account.limit(world.pauses, world.now) is None
    assert world.run(DAY, off=True) == []
    assert pulse.Account(0, START, START).silence(0, START + DAY) is None, "it never sent anything"


def test_a_ledger_that_begins_anew_is_learnt_anew():
    world = World(lambda _: 60.0)
    world.run(DAY)
    world.count = 0
    assert world.run(60) == []
    assert world.account.moves <= 1
    assert world.run(DAY) == []


def test_an_account_that_is_damaged_is_left_out_and_its_pauses_are_learnt_anew():
    world = World(lambda _: 60.0)
    world.run(DAY)
    good, other = pulse._encode(world.account), pulse._encode(["x"])
    raw = {b"a": good, b"a|pauses": b"\xc1", b"b": other, b"c": b"", b"*": b"x", b"d": good, b"d|pauses": other}
    found = {name: pauses for name, _, pauses in pulse.accounts(raw)}
    assert found == {"a": pulse.fresh(), "d": pulse.fresh()}
    assert pulse.looked(raw) is None
    assert pulse.looked({b"*": b"12"}) == 12
