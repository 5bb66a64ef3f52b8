"""What needs a person, and why: the one place that decides it, for the console, the worker's log and alerts.

A look costs a few round trips and reads nothing of any event, however many failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis as driver

from relay import words
from relay.buffer import destinations, pulse
from relay.buffer.alarms import maxmemory, standing
from relay.buffer.bounds import Bounds, bounds_of
from relay.buffer.destinations import Lane
from relay.buffer.glance import Glance, glance, lanes_of, unlike
from relay.buffer.refused import Account, Accounts
from relay.config import MIB, Config
from relay.words import plural, sentence, span

#: What was refused longer ago than this is no news.
RECENT_MS: Final = 24 * 3600 * 1000
#: Share of a budget from which on it is nearly used up, and of Redis's memory.
NEAR_SHARE: Final = 0.7
MEMORY_SHARE: Final = 0.9
#: After so long without a look of the ticker there is no worker.
NO_TICK_S: Final = 300
#: A destination that a person paused is no news before.
PAUSED_S: Final = 12 * 3600
#: So many refused deliveries make a case where others of the source are taken, or where nobody signed them.
_SOME_REFUSED: Final = 10
_LATELY_MS: Final = 900_000
#: Worker processes, by RQ's own account.
_WORKERS: Final = "rq:workers"
_TABLES: Final = 3
_MS: Final = 1000


class Need(msgspec.Struct, frozen=True):
    """Something that needs a person.

    Args:
        kind: a constant word. about: the source or destination; empty where it is the whole relay.
        tone: `bad` or `warn`. what, why: for people; the first names it, the second says what to do.
        rings: it is worth an alert.
        patience_s: for so long at least it must stand before.
        count: how many there are or were. least: so many more of them must come before.
    """

    kind: str
    about: str
    tone: str
    what: str
    why: str
    rings: bool = True
    patience_s: int = 0
    count: int = 0
    least: int = 0

    @property
    def id(self) -> str:
        """The same for the same need at another time."""
        return f"{self.kind}|{self.about}"


class Seen(msgspec.Struct, frozen=True):
    """What is gone by: the buffer at a glance, each destination's lanes, each source's refused deliveries.

    `faults` is a sentence for each account that does not balance.
    """

    bounds: Bounds
    glance: Glance
    faults: Sequence[str]
    lanes: Mapping[str, list[Lane]]
    accounts: Mapping[str, Account]


def see(client: driver.Redis, config: Config, bounds: Bounds | None = None) -> Seen:
    """Read what `look` goes by.

    Args:
        client: Redis.
        config: settings.
        bounds: of the buffer; None: they are made of the settings and of what Redis says.

    Raises:
        RedisError, OSError, BufferUnavailable: Redis cannot be asked.
    """
    if bounds is None:
        bounds = bounds_of(config.settings, maxmemory(client), sources=len(config.settings.sources))
    seen = glance(client, bounds, lanes_of(config))
    return Seen(bounds, seen, _faults(seen), destinations.lanes(client, seen.now_ms), Accounts(client).every())


def look(client: driver.Redis, config: Config, read: Seen | None = None) -> list[Need]:
    """What needs somebody now, the gravest kinds first.

    Args:
        client: Redis.
        config: settings.
        read: what `see` gave just now; None: it is asked for.

    Raises:
        RedisError, OSError, BufferUnavailable: Redis cannot be asked.
    """
    read = read or see(client, config)
    seen = read.glance
    lanes = {name: read.lanes.get(name, []) for name in config.settings.destinations}
    return [
        *_ledger(read.faults), *_bounds(client, read.bounds, seen), *_workers(client, seen, lanes),
        *_destinations(seen, lanes), *_failed(seen), *_sources(config, seen, read.accounts),
    ]  # fmt: skip


def _faults(seen: Glance) -> list[str]:
    kept = unlike(seen.ledger, seen.quarantined, seen.letters)
    return [
        *seen.ledger.residuals(),
        *(
            f"{name.replace('_', ' ')}: the ledger and what is kept differ by {abs(n)}"
            for name, n in kept.items()
            if n
        ),
    ]


def _ledger(faults: Sequence[str]) -> Iterator[Need]:
    if faults:
        more = f" So do {len(faults) - 1} more accounts." if len(faults) > 1 else ""
        why = f"{sentence(faults[0])}{more} `relay audit --deep` names what is missing."
        yield Need("ledger_residual", "", "bad", "The ledger does not balance", why)


def _bounds(client: driver.Redis, bounds: Bounds, seen: Glance) -> Iterator[Need]:
    reached = standing(client, bounds)
    for alarm in reached:
        yield Need(alarm.name, "", "bad", alarm.name.replace("_", " ").capitalize(), sentence(alarm.text))
    mend = "See `relay stats` for what does not drain; at 100 % senders are answered 503."
    if bounds.total and seen.held > NEAR_SHARE * bounds.total and "buffer_full" not in {a.name for a in reached}:
        why = f"Undelivered events take {_share(seen.held, bounds.total)} (max_pending_bytes). {mend}"
        yield Need("budget_near", "", "warn", "The buffer fills up", why)
    for source, size in sorted(seen.own.items()):
        if bounds.source and size > NEAR_SHARE * bounds.source:
            why = f"Its undelivered events take {_share(size, bounds.source)} (max_source_bytes). {mend}"
            yield Need("source_budget_near", source, "warn", f"The share of {source} fills up", why)
    used, limit = (int(seen.memory.get(name) or 0) for name in ("used_memory", "maxmemory"))
    if limit and used > MEMORY_SHARE * limit:
        why = f"It uses {_share(used, limit)} (maxmemory). At 100 % every sender is answered 503."
        yield Need("redis_memory_near", "", "bad", "Redis's memory is nearly used up", why)


def _share(size: int, limit: int) -> str:
    return f"{size / MIB:.1f} of {limit / MIB:.1f} MiB, {size / limit:.0%}"


def _workers(client: driver.Redis, seen: Glance, lanes: Mapping[str, Sequence[Lane]]) -> Iterator[Need]:
    known: Any = client.scard(_WORKERS)
    waits = sum(lane.waits for found in lanes.values() for lane in found)
    ticked = pulse.looked(seen.pulse)
    away_s = seen.now_ms // _MS - ticked if ticked is not None else 0
    start = "start `relay worker` (or `relay up`)."
    if waits and not known:
        why = f"{words.waits(waits)}, and nobody delivers: {start}"
        yield Need("no_worker", "", "bad", "No worker runs", why)
    elif away_s > NO_TICK_S:
        why = f"None has looked after the buffer for {span(away_s)}: {start}"
        yield Need("no_worker", "", "bad", "No worker runs", why)


def _destinations(seen: Glance, lanes: Mapping[str, Sequence[Lane]]) -> Iterator[Need]:
    stored = {name for (_, name, _), states in seen.ledger.records.items() if states.get("stored")}
    for name, found in lanes.items():
        state_ = seen.standings.get(name, {})
        state, tone = destinations.state_of(state_, found, seen.now_ms, stored=name in stored)
        if tone not in {"bad", "warn"}:
            continue
        said = f"{sentence(destinations.in_words(state_))} " if state_ else ""
        oldest = destinations.oldest_ms(found)
        since = f" The oldest came {span((seen.now_ms - oldest) / _MS)} ago." if oldest else ""
        why = f"{said}{words.waits(sum(lane.waits for lane in found))}.{since}"
        paused = "paused" in state_
        kind = "destination_paused" if paused else "destination_troubled"
        yield Need(kind, name, tone, f"Destination {name}: {state}", why, patience_s=PAUSED_S if paused else 0)


def _failed(seen: Glance) -> Iterator[Need]:
    mend = "`relay dead list` says why; mend that, then `relay dead retry`."
    for source, states in sorted(seen.ledger.events.items()):
        if n := states.get("quarantined", 0):
            what = f"{plural(n, 'event')} of {source} could not be read or mapped"
            why = f"They were answered 202 and are kept. {mend}"
            yield Need("quarantine", source, "bad", what, why, count=n)
    dead: dict[str, Counter[str]] = {}
    failed = [(route, n) for route, states in seen.ledger.records.items() if (n := states.get("dead", 0))]
    for (_, destination, table), n in sorted(failed):
        dead.setdefault(destination, Counter())[table] += n
    for destination, tables in dead.items():
        named = ", ".join(table for table, _ in tables.most_common(_TABLES))
        more = f" and {len(tables) - _TABLES} more tables" if len(tables) > _TABLES else ""
        what = f"{plural(tables.total(), 'row')} will never be taken by {destination} as they are"
        yield Need(
            "dead_letters", destination, "bad", what, f"Of {named}{more}; kept. {mend}", count=tables.total()
        )


def _sources(config: Config, seen: Glance, accounts: Mapping[str, Account]) -> Iterator[Need]:
    settings = config.settings.sources
    taken_ms = {name: account.last * _MS for name, account, _ in pulse.accounts(seen.pulse)}
    for name, account in accounts.items():
        if seen.now_ms - account.last < RECENT_MS:
            yield _refused(name, account, seen.now_ms, taken_ms.get(name, 0))
    for one in pulse.silences(seen.pulse, seen.ledger.events, seen.now_ms // _MS):
        if one.silent and one.source in settings:
            why = (
                f"For {span(one.seconds)}; by its own rhythm {span(one.limit or 0)} would be the most at "
                "this hour. See at the vendor whether the webhook is there and enabled, and send a test."
            )
            yield Need("source_silent", one.source, "warn", f"Nothing comes from {one.source}", why)
    for name, source in settings.items():
        if not any(secret.get_secret_value() for secret in source.secrets):
            why = "Its deliveries are answered 503 until its secret stands in relay.yaml."
            yield Need("secret_missing", name, "warn", f"Source {name} has no secret", why, rings=False)
    for name in sorted({*seen.ledger.events, *(source for source, _, _ in seen.ledger.records)} - set(settings)):
        if ":" not in name:  # else an API client
            why = "It is in the ledger, and no longer in relay.yaml."
            yield Need("source_unknown", name, "warn", f"Source {name} is not configured", why, rings=False)


def _refused(name: str, account: Account, now_ms: int, taken_ms: int) -> Need:
    """Refused deliveries: an alert at once where none is taken any more, else where there are some of late.

    Whoever finds the URL may post to it unsigned, and that is no reason to wake somebody.
    """
    newest = max(account.findings, key=lambda finding: finding.last, default=None)
    why = newest.hypothesis if newest is not None else "The signature did not fit."
    signed = any(finding.reason != "signature_missing" for finding in account.findings)
    stopped = signed and taken_ms < account.last
    return Need(
        "signatures_refused",
        name,
        "bad",
        f"{plural(account.refused, 'delivery', 'deliveries')} of {name} refused (401)",
        f"{why} The last was {span((now_ms - account.last) / _MS)} ago.",
        rings=stopped or now_ms - account.last < _LATELY_MS,
        count=account.refused,
        least=0 if stopped else _SOME_REFUSED,
    )
