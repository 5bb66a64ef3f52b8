"""What the pages show, read from Redis and the settings at each request: sources, destinations, the ledger."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property

import msgspec
import redis as driver

from relay.buffer import destinations, keys, ledger
from relay.buffer.destinations import Lane
from relay.buffer.needs import RECENT_MS, Seen
from relay.buffer.refused import Account, Accounts
from relay.config import Config
from relay.configured import Source


class SourceFacts(msgspec.Struct, frozen=True):
    """One sender, as the ledger and the accounts of refusals know it.

    Args:
        name, kind, title: of it; an API client has the kind `api client`.
        state, tone: a word for people, and how it is coloured: `good`, `bad`, `warn` or `idle`.
        events: state -> n. rows: the same of its records, over all destinations.
        account: of its refused deliveries; None where none was refused lately.
        configured: it has a page of its own.
    """

    name: str
    kind: str
    title: str
    state: str
    tone: str
    events: Mapping[str, int]
    rows: Mapping[str, int]
    account: Account | None
    configured: bool

    @property
    def busy(self) -> bool:
        """Whether anything ever came of it."""
        return bool(self.events or self.rows or self.account)


class DestinationFacts(msgspec.Struct, frozen=True):
    """One destination: how it is doing, and what waits for it."""

    name: str
    kind: str
    state: str
    tone: str
    says: str
    held: bool
    paused: bool
    rows: Mapping[str, int]
    waits: int
    oldest_ms: int
    lanes: list[Lane]


class Facts:
    """Read once a request.

    Args:
        client: Redis. config: settings. sources: as configured. seen: what was read already, if it was.
    """

    def __init__(
        self, client: driver.Redis, config: Config, sources: Mapping[str, Source], seen: Seen | None = None
    ) -> None:
        self.client, self._config, self._sources = client, config, sources
        self.ledger = seen.glance.ledger if seen is not None else ledger.read(client)
        self.accounts = seen.accounts if seen is not None else Accounts(client).every()
        self._seen = seen
        self.now_ms = int(time.time() * 1000)
        self._of_source: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._of_destination: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (source, destination, _), states in self.ledger.records.items():
            ledger.add(self._of_source[source], states)
            ledger.add(self._of_destination[destination], states)

    # --- sources -------------------------------------------------------------------------------------------

    def sources(self) -> list[SourceFacts]:
        """Configured sources, and API clients that pushed; those that need somebody come first."""
        names = {*self._sources, *self.ledger.events, *self._of_source, *self.accounts}
        order = {"bad": 0, "warn": 1, "good": 2, "idle": 3}
        return sorted((self.source(name) for name in names), key=lambda s: (order[s.tone], not s.busy, s.name))

    def source(self, name: str) -> SourceFacts:
        """One of them."""
        source, account = self._sources.get(name), self.accounts.get(name)
        events = self.ledger.events.get(name, {})
        rows = self._of_source.get(name, Counter[str]())
        state, tone = _source_state(source, events, rows, account, self.now_ms, name)
        client = ":" in name
        kind = source.kind if source is not None else "api client" if client else "not configured"
        title = source.vendor.title if source is not None else kind
        return SourceFacts(name, kind, title, state, tone, events, dict(rows), account, source is not None)

    # --- destinations --------------------------------------------------------------------------------------

    def destinations(self) -> list[DestinationFacts]:
        """Configured destinations, in the order of the settings."""
        configured = self._config.settings.destinations
        seen = self._seen
        standings = (
            seen.glance.standings if seen is not None else destinations.standings_of(self.client, list(configured))
        )
        return [
            self._destination(name, str(block.get("kind", "")), standings.get(name, {}), self._lanes.get(name, []))
            for name, block in configured.items()
        ]

    def archive(self) -> int:
        """Events that wait to be written to the archive."""
        return sum(lane.waits for lane in self._lanes.get(keys.ARCHIVE, []))

    @cached_property
    def _lanes(self) -> Mapping[str, list[Lane]]:
        return self._seen.lanes if self._seen is not None else destinations.lanes(self.client, self.now_ms)

    def _destination(
        self, name: str, kind: str, standing: Mapping[str, str], lanes: list[Lane]
    ) -> DestinationFacts:
        rows = self._of_destination.get(name, Counter[str]())
        waits, oldest = sum(lane.waits for lane in lanes), destinations.oldest_ms(lanes)
        state, tone = destinations.state_of(standing, lanes, self.now_ms, stored=bool(rows.get("stored")))
        says = destinations.in_words(standing) if standing else ""
        held = "paused" in standing or "open_until" in standing
        return DestinationFacts(
            name, kind, state, tone, says, held, "paused" in standing, dict(rows), waits, oldest, lanes
        )


def _source_state(
    source: Source | None,
    events: Mapping[str, int],
    rows: Mapping[str, int],
    account: Account | None,
    now_ms: int,
    name: str,
) -> tuple[str, str]:
    if source is not None and not source.secrets:
        return "no secret yet", "warn"
    if account is not None and now_ms - account.last < RECENT_MS:
        return "refused lately", "bad"
    if events.get("quarantined"):
        return "some not mapped", "bad"
    if rows.get("dead"):
        return "some rows refused", "bad"
    if source is None and ":" not in name:
        return "not configured", "warn"
    if events.get("accepted") or rows:
        return "receiving", "good"
    return "nothing yet", "idle"
