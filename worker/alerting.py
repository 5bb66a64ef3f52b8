"""Sends alerts: to Slack-compatible addresses, and as Standard Webhooks. What RQ calls, by name.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

The address of a receiver is a secret, and so is what stands in it. Receivers are served side by side, each in
order; one that fails is left alone for a while, with all that is meant for it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hmac
import logging
import random
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, Final

import msgspec
from pydantic import SecretStr

from relay.alerts import AlertSettings, Receiver
from relay.buffer import keys, measures
from relay.buffer.alerts import Alerts, Notice, Unsent
from relay.buffer.redis import connect
from relay.config import Config
from relay.errors import DeliveryError, Permanent, Transient
from relay.telemetry import logger
from relay.words import span
from worker import jobs
from worker.retry import delay_s
from worker.wire import Wire, one_line

log = logger("alerts")
#: For so long a receiver may take to connect, and then to answer.
TIMEOUT_S: Final = 10.0
#: A job begins nothing more after so long; whoever comes next goes on.
_SLICE_S: Final = 30.0
#: Longer than a job may run: two would send the same twice.
_LEASE_MS: Final = 150_000
#: What could not be sent for so long is no news.
STALE_S: Final = 24 * 3600
_REDIS_TIMEOUT_S: Final = 30.0
_ANSWER_BYTES: Final = 4096
_ANSWER_CHARS: Final = 200
_LIBRARY: Final = ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry")
_WORDS: Final = {
    "began": "",
    "stands": "Still, for {lasted}: ",
    "grew": "Ten times as much: ",
    "recovered": "Over after {lasted}: ",
    "test": "",
}
_encode: Final = msgspec.json.Encoder().encode


class _Process:
    """Told to end, it begins nothing more: what is being sent is finished, so that it is not sent twice."""

    stop = False


# --- the job -----------------------------------------------------------------------------------------------


def send() -> None:
    """Send what is due; what is not taken is tried again later."""
    config = jobs.configured()
    signal.signal(signal.SIGTERM, _finish)
    client = connect(config.redis_url(), timeout_s=_REDIS_TIMEOUT_S)
    if not client.set(keys.SENDING, "1", nx=True, px=_LEASE_MS):
        return
    try:
        deliver(Alerts(client), config.settings)
    finally:
        client.delete(keys.SENDING)


def deliver(alerts: Alerts, settings: AlertSettings) -> None:
    """Send what is due to each receiver."""
    due = alerts.due(measures.now_us(alerts.client) // 1000)
    receivers = {receiver.id: receiver for receiver in settings.alerts}
    for one in due:
        if one.receiver not in receivers:  # it was taken out of the settings
            alerts.done(one)
    mine = {id_: [one for one in due if one.receiver == id_] for id_ in receivers}
    with quiet(settings.alerts), ThreadPoolExecutor(len(receivers) or 1) as pool:
        for done in [pool.submit(_serve, alerts, receivers[id_], found) for id_, found in mine.items() if found]:
            done.result()


def _serve(alerts: Alerts, receiver: Receiver, due: Sequence[Unsent]) -> None:
    until = time.monotonic() + _SLICE_S
    for one in due:
        if _Process.stop or time.monotonic() > until:
            return
        error = _refused(receiver, one.notice)
        now_ms, notice = measures.now_us(alerts.client) // 1000, one.notice
        said = {"to": receiver.host, "kind": notice.kind, "about": notice.about, "what": notice.event}
        if error is None:
            alerts.done(one)
            log.info("alert_sent", **said)
        elif isinstance(error, Permanent) or now_ms - notice.at_ms > STALE_S * 1000:
            alerts.done(one)
            log.error("alert_given_up", **said, why=str(error))
        else:
            asked = error.retry_after_s if isinstance(error, Transient) else None
            wait_s = delay_s(one.tries + 1, random.random(), asked)  # noqa: S311 - jitter
            log.warning("alert_put_off", **said, why=str(error), seconds=round(wait_s, 1))
            alerts.later(one, now_ms + int(wait_s * 1000), one.tries + 1)
            return


def _refused(receiver: Receiver, notice: Notice) -> DeliveryError | None:
    """Post a notice; None where it was taken."""
    try:
        post(receiver, notice)
    except DeliveryError as error:
        return error
    return None


def _finish(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    _Process.stop = True


def try_out(config: Config) -> list[dict[str, Any]]:
    """Send a test to each receiver, and say what it answered."""
    now_ms = int(time.time() * 1000)
    what, why = "This is a test of rowhook's alerts", "Nothing is wrong, and nothing need be done."
    notice = Notice(f"msg_test_{now_ms}", "test", "test", "", "warn", what, why, now_ms, now_ms, 0)
    found = []
    with quiet(config.settings.alerts):
        for receiver in config.settings.alerts:
            try:
                said, taken = post(receiver, notice), True
            except DeliveryError as error:
                said, taken = str(error), False
            found.append({"to": receiver.host, "format": receiver.format, "taken": taken, "answer": said})
    return found


# --- one message -------------------------------------------------------------------------------------------


def post(receiver: Receiver, notice: Notice) -> str:
    """Post one notice; returns the answer for people.

    Raises:
        DeliveryError: it was not taken.
    """
    body = _encode(slack(notice) if receiver.format == "slack" else event(notice))
    headers = {"Content-Type": "application/json"}
    if receiver.format == "standard":
        headers |= signed(receiver, notice.id, int(time.time()), body)
    url = receiver.url.get_secret_value()
    wire = Wire(f"the alerts' receiver {receiver.host}", SecretStr(url), TIMEOUT_S, receiver.proxy)
    with contextlib.closing(wire):
        answer = wire.ask("POST", url, body, headers, stores=False, most=_ANSWER_BYTES)
        said = one_line(_without(answer.body.decode("utf-8", "replace"), receiver))[:_ANSWER_CHARS]
        if answer.status // 100 != 2:  # noqa: PLR2004 - success
            raise wire.refusal(answer, said, stores=False)
    return f"{answer.status} {said}"


def event(notice: Notice) -> dict[str, Any]:
    """A notice as Standard Webhooks has events: flat data, for machines."""
    data = msgspec.to_builtins(notice)
    for name in ("id", "event", "since_ms", "at_ms"):
        del data[name]
    return {
        "type": f"alert.{notice.event}",
        "timestamp": _instant(notice.at_ms),
        "data": {**data, "since": _instant(notice.since_ms)},
    }


def slack(notice: Notice) -> dict[str, Any]:
    """A notice as a message; nothing in it is markup, whoever wrote it."""
    began = _WORDS[notice.event].format(lasted=span(notice.lasted_s))
    # What was to be done about it is of no use any more once it is over.
    lines = [f"rowhook: {began}{notice.what}", *([] if notice.event == "recovered" else [notice.why])]
    return {"text": "\n".join(_inert(line) for line in lines)}


def signed(receiver: Receiver, id_: str, now_s: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks; the time is the attempt's."""
    mac = hmac.digest(receiver.key or b"", f"{id_}.{now_s}.".encode() + body, "sha256")
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(now_s),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def _inert(text: str) -> str:
    """Words without control characters, markup or mentions, for Slack and for what is like it."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    escaped = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("@", "@\u200b").replace("](", "]\u200b(")


def _instant(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# --- secrets -----------------------------------------------------------------------------------------------


def _without(text: str, receiver: Receiver) -> str:
    for secret in receiver.hidden():
        text = text.replace(secret, "***")
    return text


@contextlib.contextmanager
def quiet(receivers: Sequence[Receiver]) -> Iterator[None]:
    """Keep receivers' secrets out of what the library logs: some of its lines hold the whole address."""

    def hide(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for receiver in receivers:
            text = _without(text, receiver)
        record.msg, record.args = text, ()
        return True

    loggers = [logging.getLogger(name) for name in _LIBRARY]
    for one in loggers:
        one.addFilter(hide)
    try:
        yield
    finally:
        for one in loggers:
            one.removeFilter(hide)
