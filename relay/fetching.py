"""Fetches the objects that thin events only name, then maps the events: the RQ job of a source, and its rules.

A vendor declares what is fetched (`Vendor.hydrates`); only a source that has the token for it waits for that. What
is fetched stands in the event's body under `fetched`, and is kept with it, so that a replay asks nobody. Requests
go to the vendor's own hosts alone, follow no redirect, and are spaced by the source's `api_per_second`.

No Flask. It is called by name (`relay.dispatch.FETCH`).
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import requests
from urllib3.exceptions import HTTPError

from relay import cards, configured
from relay.buffer.failures import Failures
from relay.buffer.redis import connect
from relay.buffer.waiting import Waiter, Waiting
from relay.config import Config, load
from relay.configured import Source
from relay.dispatch import Bell, ask_to_fetch
from relay.errors import IntakeError, MalformedPayload, MappingFailed
from relay.jobs import event_of, remapped
from relay.records import Codec, Packed, decode_json, encode_json
from relay.source import FETCHED, Fetch, Hydration
from relay.telemetry import logger

#: A job works for so long, well within a claim's lease.
SLICE_S: Final = 30.0
#: After so long an event is mapped without what could not be fetched.
GIVE_UP_MS: Final = 24 * 3600 * 1000
MOST_BYTES: Final = 5 * 1024 * 1024
_TIMEOUT_S: Final = (5, 10)
#: For all of an answer, however it trickles: less than what a lease leaves behind a slice.
WHOLE_S: Final = 20.0
_REDIS_TIMEOUT_S: Final = 10.0
_FIRST_S, _LONGEST_S = 5.0, 1800.0
_DENIED_S: Final = 300.0
_GONE: Final = frozenset({404, 410})
_DENIED: Final = frozenset({401, 403})
_BUSY: Final = frozenset({408, 425, 429})
log = logger("fetching")


class Later(Exception):
    """It cannot be had now.

    Args:
        why: for people. rest_s: the vendor wants to be left alone for so long; 0: try others meanwhile.
    """

    def __init__(self, why: str, rest_s: float = 0) -> None:
        super().__init__(why)
        self.rest_s = rest_s


class Gone(Exception):
    """The vendor has it no more, or will never give it; the event is mapped without it."""


def fetch(name: str) -> None:
    """Fetch for a source for a while; the RQ job."""
    path = os.environ.get("RELAY_CONFIG")
    config = load(Path(path) if path else None, Path(os.environ.get("RELAY_DATA", ".relay")))
    work(config, name)


def work(config: Config, name: str) -> None:
    """The same under given settings."""
    source = configured.sources_of(config).get(name)
    with contextlib.closing(connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)) as client:
        waiting = Waiting(client)
        if source is None or not waiting.begin(name):
            return
        try:
            more = _slice(Fetcher(source, waiting, Failures(client), Bell(client)))
        finally:
            waiting.end(name)
        if more:
            ask_to_fetch(client, name)


def _slice(fetcher: Fetcher) -> bool:
    """Whether something may be left that is due."""
    until = time.monotonic() + SLICE_S
    while time.monotonic() < until:
        if not fetcher.some(until):
            return False
    return True


class Fetcher:
    """Fetches for one source.

    Args:
        source: as configured. waiting: what waits. failures: by which events go on. bell: rings for their drains.
    """

    def __init__(self, source: Source, waiting: Waiting, failures: Failures, bell: Bell) -> None:
        self.source, self.waiting, self.failures, self.bell = source, waiting, failures, bell
        self._codec, self._session = Codec(), requests.Session()
        self._space = 1 / float(source.settings.get("api_per_second") or 2)
        self._next = 0.0
        self._rung: set[str] = set()

    def some(self, until: float) -> bool:
        """Work on what is due; False where nothing more is."""
        now, claimed = self.waiting.claim(self.source.name)
        try:
            return self._each(claimed, now, until)
        finally:
            for lane in self._rung:
                self.bell.ring_again(lane)
            self._rung.clear()

    def _each(self, claimed: list[Waiter], now: int, until: float) -> bool:
        # Of several events that name one object it is fetched once: it is newer than all of them.
        known: dict[str, Any] = {}
        for n, waiter in enumerate(claimed):
            if time.monotonic() > until:
                for late in claimed[n:]:
                    self.waiting.untried(self.source.name, late.arrival)
                return True
            try:
                self._one(waiter, now, known)
            except Later as error:
                self._put_off(waiter, now, error)
                if error.rest_s:
                    self.waiting.rest(self.source.name, error.rest_s, str(error))
                    for late in claimed[n + 1 :]:
                        self.waiting.untried(self.source.name, late.arrival)
                    return False
        return bool(claimed)

    def _one(self, waiter: Waiter, now: int, known: dict[str, Any]) -> None:
        if not waiter.blob:
            log.error("event_missing", source=self.source.name, event_id=waiter.arrival)
            return
        packed = self._codec.unpack(waiter.blob)
        old = now - int(waiter.arrival) // 1000 > GIVE_UP_MS
        with contextlib.suppress(Gone):
            try:
                packed = self._whole(packed, known)
            except Later:
                if not old:
                    raise
                log.warning("fetch_given_up", source=self.source.name, event_id=waiter.arrival)
        self._go_on(waiter, packed)

    def _whole(self, packed: Packed, known: dict[str, Any]) -> Packed:
        """The event with what it names."""
        try:
            event = event_of(self.source, packed)
            hydration = self.source.vendor.hydration(event.type)
            wanted = None if hydration is None else hydration.fetch(event, self.source.settings)
        except (IntakeError, LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning(
                "nothing_to_fetch", source=self.source.name, type=packed.meta.type, detail=str(error)[:300]
            )
            raise Gone from error
        if hydration is None or wanted is None or not isinstance(event.data, dict):
            raise Gone
        if wanted.url not in known:
            known[wanted.url] = self._get(hydration, wanted)
        raw = encode_json(self._clean({**event.data, FETCHED: known[wanted.url]}))
        headers = {**packed.meta.headers, "content-type": "application/json"}
        return Packed(msgspec.structs.replace(packed.meta, headers=headers), raw, packed.rows)

    def _clean(self, data: dict[str, Any]) -> Any:
        source = self.source
        if source.mask_cards:
            data = cards.masked(data)
        if source.vendor.scrub is not None:
            data = source.vendor.scrub(data)
        if source.redaction is not None:
            return source.redaction.kept(source.redaction.body(data))
        return data

    def _get(self, hydration: Hydration, wanted: Fetch) -> Any:
        if not permitted(wanted.url, hydration.hosts, str(self.source.settings.get("api_url") or "")):
            log.error("fetch_refused", source=self.source.name, host=urlsplit(wanted.url).hostname)
            raise Gone
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + self._space
        headers = {"Accept": "application/json", "User-Agent": "rowhook", **wanted.headers}
        try:
            with self._session.get(
                wanted.url, headers=headers, timeout=_TIMEOUT_S, allow_redirects=False, stream=True
            ) as answer:
                return _object(answer)
        except (requests.RequestException, HTTPError) as error:
            raise Later(f"no answer: {type(error).__name__}") from error
        except ValueError as error:  # of characters that no header may hold: the operator's to mend
            raise Later("the token cannot be sent: it has characters that no header holds", _DENIED_S) from error

    def _go_on(self, waiter: Waiter, packed: Packed) -> None:
        name, arrival = self.source.name, waiter.arrival
        try:
            again = remapped(self.source, packed, self._codec)
        except MappingFailed as error:
            meta = msgspec.structs.replace(packed.meta, fault=f"{error.reason}: {error}")
            self.waiting.fail(name, arrival, self._codec.pack(meta, packed.raw, []))
            log.warning("event_quarantined", source=name, event_id=arrival, fault=str(error))
            return
        queued = self.failures.requeue(
            name, arrival, again.blob, again.lanes, again.counts, {}, self.source.schemas, waiting=True
        )
        self.waiting.done(arrival)
        self._rung.update(again.lanes if queued else ())

    def _put_off(self, waiter: Waiter, now: int, error: Later) -> None:
        wait_s = error.rest_s or min(_FIRST_S * 2**waiter.tries, _LONGEST_S)
        self.waiting.later(self.source.name, waiter.arrival, now + int(wait_s * 1000))
        log.warning(
            "fetch_put_off", source=self.source.name, event_id=waiter.arrival, detail=str(error), seconds=wait_s
        )


def permitted(url: str, hosts: tuple[str, ...], base: str) -> bool:
    """Whether a URL is the vendor's: over TLS to one of its hosts, or under the address that the settings say.

    Args:
        url: to be fetched.
        hosts: names, or `.suffix` for all names that end so.
        base: the source's `api_url`.
    """
    try:
        parts, own = urlsplit(url), urlsplit(base)
        same = bool(base) and (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port)
        usual = parts.port in (None, 443)
    except ValueError:
        return False
    host = (parts.hostname or "").rstrip(".")
    if parts.username is not None or parts.password is not None or not host:
        return False
    known = any(host == one or (one.startswith(".") and host.endswith(one)) for one in hosts)
    return same or (parts.scheme == "https" and usual and known)


def _object(answer: requests.Response) -> Any:
    """The object in an answer.

    Raises:
        Later, Gone: it is not there.
    """
    status = answer.status_code
    if status in _GONE:
        raise Gone
    if status in _DENIED:
        raise Later(f"the vendor refuses the token ({status}): mend it in the source's block", _DENIED_S)
    if status in _BUSY or status == 503:  # noqa: PLR2004 - its HTTP name
        raise Later(f"the vendor is busy ({status})", retry_after_s(answer.headers, time.time()))
    if status != 200:  # noqa: PLR2004
        raise Later(f"answered {status}")
    body, until = bytearray(), time.monotonic() + WHOLE_S
    while piece := answer.raw.read1(65_536, decode_content=True):
        body += piece
        if time.monotonic() > until:
            raise Later(f"the answer took longer than {WHOLE_S:.0f} s")
        if len(body) > MOST_BYTES:
            log.error("fetch_too_large", host=urlsplit(answer.url).hostname)
            raise Gone
    try:
        return decode_json(bytes(body))
    except MalformedPayload as error:
        raise Later("the answer is not JSON") from error


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float:
    """What `Retry-After` asks for, in seconds or as a date; at least a second, at most half an hour."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        wanted = float(text[:9])
    else:
        try:
            wanted = email.utils.parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            wanted = _FIRST_S
    return min(max(wanted, 1.0), _LONGEST_S)
