"""What `GET /metrics` shows: each metric declared once, and a collector that reads them all in one round trip.

All numbers live in Redis, so that any process may answer for all of them. What the ledger holds is read as it is;
what processes measure is counted by `relay.buffer.measures`, the rhythm of sources by `relay.buffer.pulse`. A
label is the name of a source, a destination or a table that exists, or a word of the relay's own.

https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
import redis as driver
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as Base
from redis.exceptions import RedisError

from relay import __version__
from relay.buffer import measures, pulse
from relay.buffer.bounds import Bounds
from relay.buffer.glance import Glance, glance, lanes_of, residuals
from relay.buffer.ledger import EVENT_STATES
from relay.config import Config
from relay.telemetry import logger

log = logger("metrics")
#: Routes (source, destination, table) that are shown apart; the rest is summed under no table, since tables of an
#: API's clients are the clients' to make.
MOST_ROUTES: Final = 2_000
_ROUTE: Final = ("source", "destination", "table")
_MS: Final = 1000


class Declared(msgspec.Struct, frozen=True):
    """One metric.

    Args:
        name: as queries have it; of a histogram, without `_bucket`. kind: counter, gauge or histogram.
        about: its HELP text. labels: names of its labels.
    """

    name: str
    kind: str
    about: str
    labels: tuple[str, ...] = ()


DECLARED: Final = (
    Declared("rowhook_build_info", "gauge", "Always 1; the version of the process that answered.", ("version",)),
    Declared("rowhook_redis_up", "gauge", "Whether Redis answered; where it is 0 there is nothing else to show."),
    Declared(
        "rowhook_worker_tick_timestamp_seconds", "gauge",
        "When the ticker of a worker last looked after the buffer, once a minute (seconds since 1970).",
    ),
    Declared(
        "rowhook_events_accepted_total", "counter", "Events that were taken, duplicates included.", ("source",)
    ),
    Declared(
        "rowhook_events", "gauge",
        "Events by what has become of them: duplicate, ignored (nothing maps them), quarantined, mapped, waiting "
        "(for what they name to be fetched), discarded. The sum over all states is what was accepted.",
        ("source", "state"),
    ),
    Declared(
        "rowhook_requests_refused_total", "counter",
        "Requests of senders and of clients that push which were refused, by reason; counted a second late. No "
        "source: the request named none of ours, or a client's API.",
        ("source", "reason"),
    ),
    Declared(
        "rowhook_source_silence_seconds", "gauge", "Time since a source's last event, to the minute.", ("source",)
    ),
    Declared(
        "rowhook_source_silence_limit_seconds", "gauge",
        "The silence that would be unusual for a source now, by its own rhythm.", ("source",),
    ),
    Declared(
        "rowhook_source_silent", "gauge",
        "1 where a source's silence was beyond its limit, until its next event.", ("source",),
    ),
    Declared(
        "rowhook_records_emitted_total", "counter",
        "Records that events became, once for each destination; what is sent again is counted again.", _ROUTE,
    ),
    Declared(
        "rowhook_records", "gauge",
        "Records by what has become of them: stored, superseded (a newer row was there), dead (a dead letter), "
        "pending (to be delivered), discarded. The sum over all states is what was emitted.",
        (*_ROUTE, "state"),
    ),
    Declared(
        "rowhook_delivery_lag_seconds", "histogram",
        "From the receipt of an event until a record of it is committed at the destination. Records that are "
        "replayed or retried count from their first receipt.",
        ("destination",),
    ),
    Declared(
        "rowhook_batch_rows", "histogram", "Rows that a destination was handed at once, failed attempts included.",
        ("destination",),
    ),
    Declared(
        "rowhook_delivery_attempts_total", "counter",
        "Attempts to deliver a batch, by how they ended: stored, rejected (will never be taken so), transient "
        "(may be taken later), unknown (may have been applied all the same), refused (credentials or access), "
        "broken (a fault of ours).",
        ("destination", "outcome"),
    ),
    Declared(
        "rowhook_destination_paused", "gauge", "1 where a person paused a destination.", ("destination",)
    ),
    Declared(
        "rowhook_destination_breaker_open", "gauge",
        "1 where a destination rests, since nothing got through, until it has taken something.", ("destination",),
    ),
    Declared(
        "rowhook_destination_failures", "gauge", "Failures in a row, nothing having got through.", ("destination",)
    ),
    Declared(
        "rowhook_destination_failing_seconds", "gauge",
        "For how long nothing has got through; 0 while a destination takes rows.", ("destination",),
    ),
    Declared(
        "rowhook_destination_lanes_resting", "gauge",
        "Lanes of a destination that rest after a failure, or since it is not known what became of a batch.",
        ("destination",),
    ),
    Declared("rowhook_buffer_bytes", "gauge", "Bytes of Redis that undelivered events take, as budgeted."),
    Declared(
        "rowhook_buffer_limit_bytes", "gauge", "The budget of that, max_pending_bytes; +Inf where there is none."
    ),
    Declared(
        "rowhook_source_buffer_bytes", "gauge", "Bytes of that which a source's events take.", ("source",)
    ),
    Declared(
        "rowhook_source_buffer_limit_bytes", "gauge",
        "The budget of each source, max_source_bytes; +Inf where there is none.",
    ),
    Declared("rowhook_dedup_bytes", "gauge", "Bytes of Redis that remembered delivery ids take, about."),
    Declared(
        "rowhook_dedup_limit_bytes", "gauge", "The budget of that, max_dedup_bytes; +Inf where there is none."
    ),
    Declared("rowhook_redis_memory_bytes", "gauge", "Bytes that Redis uses in all."),
    Declared("rowhook_redis_memory_limit_bytes", "gauge", "Its maxmemory; +Inf where there is none."),
    Declared("rowhook_quarantined_events", "gauge", "Events that could not be read or mapped; kept."),
    Declared("rowhook_dead_letters", "gauge", "Records that a destination will never take as they are."),
    Declared(
        "rowhook_ledger_residual", "gauge",
        "What is not accounted for, as a sum of absolute differences: events (accepted less the sum of their "
        "states), records (emitted likewise), quarantine and dead_letters (the ledger's count less what is kept).",
        ("account",),
    ),
)  # fmt: skip
#: Values of one metric by its labels.
Values = dict[tuple[str, ...], float]


class Collector(Base):
    """Reads all metrics anew whenever it is asked.

    Args:
        config: settings. bounds: that the buffer has. client: Redis.
    """

    def __init__(self, config: Config, bounds: Bounds, client: driver.Redis) -> None:
        self._bounds, self._client = bounds, client
        self._sources = sorted(config.settings.sources)
        self._lanes = lanes_of(config)

    def collect(self) -> Iterator[Metric]:
        """Every metric, in the order of `DECLARED`."""
        values: dict[str, Values] = {"rowhook_build_info": {(__version__,): 1}, "rowhook_redis_up": {(): 0}}
        histograms: dict[str, dict[str, measures.Histogram]] = {}
        try:
            seen = glance(self._client, self._bounds, self._lanes)
        except (RedisError, OSError) as error:
            log.warning("metrics_without_redis", why=type(error).__name__)
        else:
            values |= self._values(seen)
            empty = {kind: measures.empty(kind) for kind in ("lag", "rows")}
            histograms = {
                "rowhook_delivery_lag_seconds": dict.fromkeys(self._lanes, empty["lag"]) | seen.measures.lag,
                "rowhook_batch_rows": dict.fromkeys(self._lanes, empty["rows"]) | seen.measures.rows,
            }
        for one in DECLARED:
            yield _family(one, values.get(one.name, {}), histograms.get(one.name, {}))

    def _values(self, seen: Glance) -> dict[str, Values]:
        found: dict[str, Values] = {"rowhook_redis_up": {(): 1}}
        found |= self._intake(seen)
        found |= _delivery(seen)
        found |= self._destinations(seen)
        found |= self._bytes(seen)
        return found

    def _intake(self, seen: Glance) -> dict[str, Values]:
        events = seen.ledger.events
        names = sorted({*self._sources, *events})
        refused: Values = {(name, "signature_wrong"): 0 for name in self._sources}  # a rate needs a first value
        found: dict[str, Values] = {
            "rowhook_events_accepted_total": {(n,): events.get(n, {}).get("accepted", 0) for n in names},
            "rowhook_events": {(n, s): events.get(n, {}).get(s, 0) for n in names for s in EVENT_STATES},
            "rowhook_requests_refused_total": refused | seen.measures.refused,
        }
        return found | self._silence(seen)

    def _silence(self, seen: Glance) -> dict[str, Values]:
        now_s = seen.now_ms // _MS
        found = defaultdict[str, Values](dict)
        for one in pulse.silences(seen.pulse, seen.ledger.events, now_s):
            if one.source not in self._sources:
                continue
            found["rowhook_source_silence_seconds"][(one.source,)] = one.seconds
            if one.limit is not None:
                found["rowhook_source_silence_limit_seconds"][(one.source,)] = round(one.limit)
                found["rowhook_source_silent"][(one.source,)] = one.silent
        ticked = pulse.looked(seen.pulse)
        if ticked is not None:
            found["rowhook_worker_tick_timestamp_seconds"][()] = ticked
        return dict(found)

    def _destinations(self, seen: Glance) -> dict[str, Values]:
        found = defaultdict[str, Values](dict)
        for name, standing in seen.standings.items():
            failing = seen.now_ms - int(standing["since"]) if "since" in standing else 0
            for what, value in {
                "paused": float("paused" in standing),
                "breaker_open": float("open_until" in standing),
                "failures": int(standing.get("failures", 0)),
                "failing_seconds": max(0, failing) / _MS,
                "lanes_resting": seen.resting.get(name, 0),
            }.items():
                found[f"rowhook_destination_{what}"][(name,)] = value
        tries: Values = {(name, outcome): 0 for name in self._lanes for outcome in measures.OUTCOMES}
        found["rowhook_delivery_attempts_total"] = tries | seen.measures.tries
        return dict(found)

    def _bytes(self, seen: Glance) -> dict[str, Values]:
        bounds, none = self._bounds, float("inf")
        plain: dict[str, float] = {
            "rowhook_buffer_bytes": seen.held,
            "rowhook_buffer_limit_bytes": bounds.total or none,
            "rowhook_source_buffer_limit_bytes": bounds.source or none,
            "rowhook_dedup_bytes": seen.marks,
            "rowhook_dedup_limit_bytes": bounds.marks or none,
            "rowhook_redis_memory_bytes": int(seen.memory.get("used_memory", 0)),
            "rowhook_redis_memory_limit_bytes": int(seen.memory.get("maxmemory", 0)) or none,
            "rowhook_quarantined_events": seen.quarantined,
            "rowhook_dead_letters": seen.letters,
        }
        found: dict[str, Values] = {name: {(): value} for name, value in plain.items()}
        found["rowhook_source_buffer_bytes"] = {(n,): seen.own.get(n, 0) for n in {*self._sources, *seen.own}}
        rests = residuals(seen.ledger, seen.quarantined, seen.letters)
        found["rowhook_ledger_residual"] = {(account,): n for account, n in rests.items()}
        return found


def _delivery(seen: Glance) -> dict[str, Values]:
    emitted, states = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for number, ((source, destination, table), found) in enumerate(sorted(seen.ledger.records.items())):
        route = (source, destination, table if number < MOST_ROUTES else "")
        for state, n in found.items():
            if state == "emitted":
                emitted[route] += n
            else:
                states[*route, state] += n
    return {"rowhook_records_emitted_total": dict(emitted), "rowhook_records": dict(states)}


def _family(one: Declared, values: Values, histograms: Mapping[str, measures.Histogram]) -> Metric:
    if one.kind == "histogram":
        shown = HistogramMetricFamily(one.name, one.about, labels=one.labels)
        for name, histogram in sorted(histograms.items()):
            shown.add_metric([name], histogram.cumulative(), histogram.total)
        return shown
    kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    family = kind(one.name, one.about, labels=one.labels)
    for at, value in values.items():
        family.add_metric(list(at), value)
    return family
