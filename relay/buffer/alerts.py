"""Alerts: said once when something begins, again after hours, and when it is over; and those still unsent.

What was said stands in Redis and moves together with the notices that follow from it, so that it does not matter
how many tickers look, or which of them were restarted: of two that look at once, one does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import redis as driver
from redis.exceptions import WatchError

from relay.alerts import AlertSettings
from relay.buffer import keys
from relay.buffer.needs import Need
from relay.telemetry import logger

#: What returns within a day flaps: each time it must stand, and be over, twice as long, up to an hour.
_DAY_MS: Final = 24 * 3600 * 1000
_CALM_MS: Final = 3600 * 1000
#: Something that piles up is said again when there is ten times as much.
_GROWN: Final = 10
#: Notices that may wait to be sent; beyond, the oldest are given up.
MOST_UNSENT: Final = 256
_WHAT_CHARS, _WHY_CHARS = 300, 1500
_MS: Final = 1000
log = logger("alerts")


class State(msgspec.Struct, array_like=True):
    """What is known of one need; times are ms since 1970, 0 for never.

    Args:
        kind, about, tone, what, why: as it was last seen.
        since: it stands since then. first: its count at that time.
        rang: when its beginning was said. told: when anything was said last. count: of what was said last.
        gone: it was not there any more at that time. over: and for long enough.
        times: how often it began, with less than a day between.
    """

    kind: str
    about: str
    tone: str
    what: str
    why: str
    since: int
    first: int = 0
    rang: int = 0
    told: int = 0
    count: int = 0
    gone: int = 0
    over: bool = False
    times: int = 1


class Notice(msgspec.Struct, frozen=True):
    """What is to be said once.

    Args:
        id: the same however often it is sent.
        event: it began, it still stands, there is much more of it, it is over; or a test.
        since_ms, at_ms: when it began, and when this was noticed. lasted_s: until then, or until it was over.
    """

    id: str
    event: Literal["began", "stands", "grew", "recovered", "test"]
    kind: str
    about: str
    tone: str
    what: str
    why: str
    since_ms: int
    at_ms: int
    lasted_s: int


class Unsent(msgspec.Struct):
    """A notice that a receiver has not taken yet; `due_ms` is when it is tried next."""

    receiver: str
    notice: Notice
    due_ms: int
    tries: int = 0

    @property
    def field(self) -> str:
        """Where it stands."""
        return f"{self.notice.id}|{self.receiver}"


_state_of: Final = msgspec.msgpack.Decoder(State).decode
_unsent_of: Final = msgspec.msgpack.Decoder(Unsent).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def step(
    states: Mapping[str, State], needs: Sequence[Need], now_ms: int, settings: AlertSettings
) -> tuple[dict[str, State], list[Notice]]:
    """What is known after a look, and what is to be said for it. Pure.

    Args:
        states: known before, by the id of the need.
        needs: that stand now.
        now_ms: the time.
        settings: how soon, and how often again.
    """
    found, notices = dict[str, State](), list[Notice]()
    standing = {need.id: need for need in needs if need.rings}
    for id_, need in standing.items():
        state = _seen(states.get(id_), need, now_ms)
        event = _due(state, need, now_ms, settings)
        if event is not None:
            state.rang, state.told, state.count = state.rang or now_ms, now_ms, need.count
            notices.append(_notice(id_, event, state, now_ms, now_ms))
        found[id_] = state
    for id_, before in states.items():
        if id_ in standing:
            continue
        state = msgspec.structs.replace(before, gone=before.gone or now_ms)
        if state.over or now_ms - state.gone < _hold_ms(state, settings):
            if not state.over or now_ms - state.gone < _DAY_MS:
                found[id_] = state
        elif state.rang:
            notices.append(_notice(id_, "recovered", state, now_ms, state.gone))
            found[id_] = msgspec.structs.replace(state, over=True)
    return found, notices


def _seen(before: State | None, need: Need, now_ms: int) -> State:
    what, why = need.what[:_WHAT_CHARS], need.why[:_WHY_CHARS]
    if before is None or before.over:
        times = before.times + 1 if before is not None else 1
        return State(need.kind, need.about, need.tone, what, why, now_ms, first=need.count, times=times)
    return msgspec.structs.replace(before, tone=need.tone, what=what, why=why, gone=0)


def _due(
    state: State, need: Need, now_ms: int, settings: AlertSettings
) -> Literal["began", "stands", "grew"] | None:
    if not state.rang:
        long = now_ms - state.since >= max(_hold_ms(state, settings), need.patience_s * _MS)
        return "began" if long and need.count - state.first >= need.least else None
    if need.count >= _GROWN * max(1, state.count):
        return "grew"
    repeat_ms = settings.alert_repeat_hours * 3600 * _MS
    return "stands" if repeat_ms and now_ms - state.told >= repeat_ms else None


def _hold_ms(state: State, settings: AlertSettings) -> int:
    """How long it must stand, or be over, to be said."""
    usual = settings.alert_after_s * _MS
    return min(usual << min(state.times - 1, 20), max(usual, _CALM_MS))


def _notice(
    id_: str, event: Literal["began", "stands", "grew", "recovered"], state: State, now_ms: int, until_ms: int
) -> Notice:
    told = hashlib.blake2b(f"{id_} {event} {state.since} {now_ms}".encode(), digest_size=12).hexdigest()
    return Notice(
        f"msg_{told}", event, state.kind, state.about, state.tone, state.what, state.why, state.since, now_ms,
        max(0, until_ms - state.since) // _MS,
    )  # fmt: skip


def _states(raw: Mapping[bytes, bytes]) -> dict[str, State]:
    """What is known, from the hash as it is; what is damaged begins anew."""
    found: dict[str, State] = {}
    for id_, text in raw.items():
        with contextlib.suppress(msgspec.MsgspecError):
            found[id_.decode("utf-8", "replace")] = _state_of(text)
    return found


class Alerts:
    """Alerts of one buffer.

    Args:
        client: Redis.
    """

    def __init__(self, client: driver.Redis) -> None:
        self.client = client

    def known(self) -> dict[str, State]:
        """What was seen of each need, by its id."""
        found: Any = self.client.hgetall(keys.ALERTED)
        return _states(found)

    def note(self, needs: Sequence[Need], now_ms: int, settings: AlertSettings) -> list[Notice]:
        """Note what stands, and put what follows from it among the unsent; both, or neither where others did it.

        Args:
            needs: that stand now.
            now_ms: the time, by Redis's clock.
            settings: of alerts.

        Raises:
            RedisError, OSError: it cannot be asked.
        """
        opened: Any = self.client.pipeline()  # `watch` is not typed
        with opened as pipe:
            try:
                pipe.watch(keys.ALERTED)
                raw: Any = pipe.hgetall(keys.ALERTED)
                after, notices = step(_states(raw), needs, now_ms, settings)
                pipe.multi()
                # Written even where nothing changed, so that of two who look at once one is refused.
                pipe.delete(keys.ALERTED)
                if after:
                    states: Any = {id_: _encode(state) for id_, state in after.items()}
                    pipe.hset(keys.ALERTED, mapping=states)
                for notice in notices:
                    for receiver in settings.alerts:
                        one = Unsent(receiver.id, notice, now_ms)
                        pipe.hset(keys.UNSENT, one.field, _encode(one))
                pipe.execute()
            except WatchError:
                return []
        return notices

    def unsent(self) -> list[Unsent]:
        """What is to be sent, the oldest first; what is more than may wait is given up."""
        raw: Any = self.client.hgetall(keys.UNSENT)
        found = list[Unsent]()
        for field, text in raw.items():
            try:
                found.append(_unsent_of(text))
            except msgspec.MsgspecError:  # nobody will ever send it
                self.client.hdel(keys.UNSENT, field)
        found.sort(key=lambda one: one.notice.at_ms)
        for one in found[:-MOST_UNSENT]:
            self.done(one)
            log.error("alert_given_up", kind=one.notice.kind, about=one.notice.about, why="too many wait")
        return found[-MOST_UNSENT:]

    def due(self, now_ms: int) -> list[Unsent]:
        """What is to be sent now; a receiver that did not take one is left alone with all that is meant for it."""
        found = self.unsent()
        resting = {one.receiver for one in found if one.due_ms > now_ms}
        return [one for one in found if one.receiver not in resting]

    def done(self, one: Unsent) -> None:
        """It was sent, or is given up."""
        self.client.hdel(keys.UNSENT, one.field)

    def later(self, one: Unsent, due_ms: int, tries: int) -> None:
        """It is tried again at another time, and what is meant for the same receiver not before."""
        self.client.hset(keys.UNSENT, one.field, _encode(msgspec.structs.replace(one, due_ms=due_ms, tries=tries)))
