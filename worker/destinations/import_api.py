"""The RJMetrics / Magento BI Data Import API, and any server that speaks it.

https://developer.adobe.com/commerce/services/reporting/import-api/

One POST carries up to 100 points of one table; a point replaces the whole row with equal `keys`. The API knows
no versions and no deletes, so `worker.delivery` keeps a version fence before it, and a tombstone is a column. It
says little of its answers: success here is a 2xx that is a JSON object, and anything else that begins with 2 is
an unknown outcome (a proxy's page is no receipt).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator
from requests.adapters import HTTPAdapter

from relay.errors import DeliveryError, MalformedPayload, Permanent, Refused, Transient
from relay.records import NS, Type, decode_json, encode_json, instant_ns, instant_of_ns, version_instant
from worker.destination import STORED, Batch, Destination, Item, Limits, Settings, TableSpec, Verdict

#: The API's own caps: 100 points, and (by the word of an official client) 5 MB; that client stops at 4 MiB.
_POINTS: Final = 100
_BATCH_BYTES: Final = 4 * 1024 * 1024
_CAP_BYTES: Final = 5_000_000
_TABLE: Final = re.compile(r"[A-Za-z0-9_]+")
#: `keys` belongs to the protocol. Each such name gets one underscore more, so that two never become one.
_PROTOCOL_COLUMN: Final = re.compile(r"keys_*")

_REASON_CHARS: Final = 500
_ANSWER_BYTES: Final = 256 * 1024
#: Seconds for which an idle connection is trusted. A server that closes it just as we send leaves an unknown
#: outcome, and then the partition rests; gunicorn, as an example, closes after 2 s.
_IDLE_S: Final = 1.5
_LONGEST_RETRY_AFTER_S: Final = 86_400.0
_NO_CONTENT, _FAULTS, _TOO_MANY, _SERVERS_FAULT = 204, 400, 429, 500
_NO_ACCESS: Final = frozenset({401, 403, 407})
#: "Not now" rather than "never": of the 4xx, these say nothing of the records.
_LATER: Final = frozenset({408, 425, _TOO_MANY})
#: A gateway's word that it lost the server behind it, which may still apply what it was sent.
_LOST_BEHIND: Final = frozenset({502, 504, 520, 524})
_HOST: Final = re.compile(r"(?:https?:)?//(?:[^/?#]*@)?([^/?#@]{1,255})")
_KEY_IN_URL: Final = re.compile(r"(?i)apikey=[^&\s\"'<]+")
#: The years that `YYYY-MM-DD` can say, as nanoseconds since 1970.
_FIRST_NS, _LAST_NS = -62_135_596_800 * NS, 253_402_300_800 * NS

_URL_UNUSABLE: Final = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
_NOTHING_SENT: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ProxyError)
_NETWORK: Final = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError)


class ImportApiSettings(Settings):
    """A destination of kind `import_api`."""

    # The key would otherwise stand in the text of a validation error.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = Field("https://connect.rjmetrics.com", description="Without /v2; a path prefix is taken.")
    client_id: int = Field(gt=0, description="The account's number.")
    api_key: SecretStr = Field(description='The key of a "Data Import API" data source.')
    timeout_s: float = Field(30.0, gt=0, le=600, description="Wait for a connection, and then for an answer.")
    deletes: Literal["blank", "mark", "keep"] = Field(
        "blank",
        description="A deleted row: its key and _relay_deleted_at; mark: its last columns too; keep: as it was.",
    )
    concurrency: int = Field(4, ge=1, le=64, description="Requests at once.")
    unknown_hold_s: float = Field(60.0, gt=0, description="Rest after a request whose outcome is unknown.")
    proxy: SecretStr | None = Field(None, description="URL of an HTTP proxy; the environment's are not used.")

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError("must be http(s)://host, with a port or a path where needed")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("takes no user, query or fragment; the key goes into api_key")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _key_fits_a_url(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value().strip()
        if not re.fullmatch(r"[0-9A-Za-z._~-]+", text):
            raise ValueError("must be letters and digits (. _ ~ - are taken too): it travels in the URL")
        return SecretStr(text)

    @model_validator(mode="after")
    def _hold_outlasts_a_request(self) -> ImportApiSettings:
        if self.unknown_hold_s < self.timeout_s:
            raise ValueError("unknown_hold_s must be at least timeout_s")
        return self


class ImportApi(Destination):
    """Posts whole rows as data points."""

    Settings = ImportApiSettings
    conditional: ClassVar[bool] = False
    keeps_deleted: ClassVar[bool] = False

    def __init__(self, name: str, settings: ImportApiSettings, data_dir: Path) -> None:
        super().__init__(name, settings, data_dir)
        self.limits = Limits(records=_POINTS, body_bytes=_BATCH_BYTES, concurrency=settings.concurrency)
        self.marks = settings.deletes == "mark"
        self._http = _Http(settings)

    def deliver(self, batch: Batch) -> list[Verdict]:
        """See `Destination`; the API stores all points of a request or says that it does not."""
        table, deletes = batch.table, self.settings.deletes
        if not _TABLE.fullmatch(table.name):
            raise Permanent(f"the Import API takes no table called {table.name!r}: letters, digits and _ only")
        sent = [item for item in batch.items if deletes != "keep" or item.op == "row"]
        body = encode_json([point(table, item, deletes) for item in sent])
        if len(body) > _CAP_BYTES and len(sent) > 1:
            raise Permanent(f"{len(body)} bytes are more than the {_CAP_BYTES} that the Import API takes")
        if sent:
            self._http.ask("POST", f"table/{table.name}/data", body)
        return [STORED] * len(batch.items)

    def ping(self) -> None:
        """Have the key checked; stores nothing."""
        self._http.ask("GET", "authenticate")

    def close(self) -> None:
        """Close the connections of all threads."""
        self._http.close()


destination = ImportApi


def point(table: TableSpec, item: Item, deletes: str) -> dict[str, Any]:
    """A record as the API takes it: its columns, `keys`, and what the relay adds."""
    if item.op not in {"row", "gone", "full_gone"}:
        raise Permanent(f"the Import API takes no {item.op!r} record")
    data = item.data
    if item.op == "gone" and deletes == "blank":
        data = {name: data[name] for name in table.key if name in data}
    row = {
        _column(name): _value(value, table.columns.get(name), is_key=name in table.key)
        for name, value in data.items()
        if not name.startswith("_relay_")
    }
    row["keys"] = [_column(name) for name in table.key]
    row["_relay_source"], row["_relay_version"] = item.source, item.version
    if item.op != "row":
        row["_relay_deleted_at"] = _date_text(version_instant(item.version))
    return row


def _column(name: str) -> str:
    return f"{name}_" if _PROTOCOL_COLUMN.fullmatch(name) else name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def _value(value: Any, declared: str | None, *, is_key: bool) -> Any:
    """A value as it is sent.

    Nested values go as JSON text, since the API says nothing of them. A key's digits have one form, whichever
    the vendor sent: to the fence 1 and "1" are one row, and here they would be two. A key's time stays as it
    came, because cutting it to seconds could make two rows one.
    """
    if isinstance(value, (dict, list)):
        return _text(value)
    if declared == Type.ID and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if is_key:
        digits = declared == Type.INT and isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,39}", value)
        return int(value) if digits else value
    if declared == Type.INSTANT:
        at = instant_ns(value)
        return value if at is None or not _FIRST_NS <= at < _LAST_NS else _date_text(instant_of_ns(at))
    return value


def _date_text(moment: dt.datetime) -> str:
    """The form of dates in the API's own examples; UTC."""
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")


class _Session(requests.Session):
    """A connection that follows nothing, keeps no cookies and asks the environment for nothing."""

    def __init__(self, proxy: SecretStr | None) -> None:
        super().__init__()
        self.trust_env = False  # neither proxies nor .netrc nor another CA bundle by accident
        self.headers.update({"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "rowhook"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if proxy is not None:
            self.proxies = dict.fromkeys(("http", "https"), proxy.get_secret_value())
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=1, max_retries=0))
        self.used = time.monotonic()

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Do not even look where a redirect leads."""


class _Answer(msgspec.Struct, frozen=True):
    """What came back; `whole` is False where the body broke off or took too long."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class _Http:
    """The API's two calls; each takes a connection that no other thread uses meanwhile.

    No exception of the library leaves it, not even as the context of ours: its text holds the URL, and with it
    the key.
    """

    def __init__(self, settings: ImportApiSettings) -> None:
        self._settings = settings
        self._key = settings.api_key.get_secret_value()
        self._base = f"{settings.url}/v2/client/{settings.client_id}"
        self._idle: list[_Session] = []

    def ask(self, method: str, path: str, body: bytes | None = None) -> None:
        """Return where the API agreed.

        Raises:
            DeliveryError: otherwise.
        """
        session = self._take()
        answer = self._send(session, method, path, body)
        session.used = time.monotonic()
        self._idle.append(session)
        fault = answer if isinstance(answer, DeliveryError) else _fault(answer, self._key, stores=body is not None)
        if fault is not None:
            raise fault

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> _Session:
        try:
            session = self._idle.pop()
        except IndexError:
            return _Session(self._settings.proxy)
        if time.monotonic() - session.used > _IDLE_S:
            session.close()  # drops the connection; the session itself goes on
        return session

    def _send(self, session: _Session, method: str, path: str, body: bytes | None) -> _Answer | DeliveryError:
        timeout_s = self._settings.timeout_s
        try:
            with session.request(
                method,
                f"{self._base}/{path}?apikey={self._key}",
                data=body,
                headers={} if body is None else {"Content-Type": "application/json"},
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                return _read(response, time.monotonic() + timeout_s)
        except _NETWORK as error:
            return _network_fault(error, stores=body is not None)


def _read(response: requests.Response, deadline: float) -> _Answer:
    """The answer with as much of its body as matters; the status stands even where the body breaks off."""
    body, whole = b"", False
    with contextlib.suppress(*_NETWORK):
        while not whole and len(body) < _ANSWER_BYTES and time.monotonic() < deadline:
            part = response.raw.read1(_ANSWER_BYTES, decode_content=True)
            body, whole = body + part, not part
    return _Answer(response.status_code, response.headers, body, whole)


def _network_fault(error: Exception, *, stores: bool) -> DeliveryError:
    """What follows from a request without an answer; only the error's kind is told, never its text."""
    inner: Any = error.args[0] if error.args else None
    cause = getattr(inner, "reason", None) or inner
    kind = type(cause if isinstance(cause, Exception) else error).__name__
    if isinstance(error, _URL_UNUSABLE):
        return Refused(f"the Import API's URL or proxy cannot be used: {kind}", reason="url_unusable")
    untrusted = isinstance(cause, Exception) and any(isinstance(a, ssl.CertificateError) for a in cause.args)
    if untrusted or isinstance(error, requests.ConnectTimeout) or isinstance(cause, _NOTHING_SENT):
        return Transient(f"the Import API cannot be reached: {kind}", reason="away")
    return Transient(f"the Import API did not answer: {kind}", reason="no_answer", unknown=stores)


def _fault(answer: _Answer, key: str, *, stores: bool) -> DeliveryError | None:
    """What follows from an answer; None where the API agreed."""
    status, said = answer.status, _words(answer, key)
    match status // 100:
        case 2 if _agrees(answer):
            return None
        case 2:
            text = f"the Import API's {status} is no answer of its own: {said}"
            return Transient(text, reason="answer_garbled", unknown=stores)
        case 3:
            host = _HOST.match(answer.headers.get("Location", ""))
            place = _scrub(host[1], key) if host else "no host"
            return Refused(f"the Import API's URL is wrong: {status} redirects to {place}", reason="redirected")
    text = f"the Import API said {status}: {said}"
    if status in _NO_ACCESS:
        return Refused(text)
    if status in _LATER or status >= _SERVERS_FAULT:
        reason = "rate_limited" if status == _TOO_MANY else "transient"
        unknown = stores and status in _LOST_BEHIND
        return Transient(text, reason=reason, retry_after_s=retry_after_s(answer.headers), unknown=unknown)
    return Permanent(text)


def _agrees(answer: _Answer) -> bool:
    """A whole JSON object, whose `code`, where it has one, names no fault."""
    if answer.status == _NO_CONTENT:
        return True
    said = _object(answer.body) if answer.whole else None
    code = 0 if said is None else said.get("code")
    return said is not None and not (isinstance(code, int) and code >= _FAULTS)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = decode_json(body)
    except MalformedPayload:
        return None
    return value if isinstance(value, dict) else None


def _words(answer: _Answer, key: str) -> str:
    """The API's own words, for people: one line, bounded, without the key."""
    said = _object(answer.body)
    if said is None:
        text = re.sub(r"<[^<>]*>", " ", answer.body.decode("utf-8", "replace"))
    else:
        reasons = said.get("reasons")
        parts = [said.get("message"), *(reasons if isinstance(reasons, list) else [reasons])]
        text = "; ".join(map(_text, filter(None, parts))) or _text(said)
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", _scrub(text, key)).split())
    return text[:_REASON_CHARS] or "(no words)"


def _scrub(text: str, key: str) -> str:
    """The text without the key, and without whatever stands as `apikey=` in an echoed URL."""
    return _KEY_IN_URL.sub("apikey=***", re.sub(re.escape(key), "***", text, flags=re.IGNORECASE))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, given as such or as an HTTP date; None where there is none to be read.

    A date is compared with the answer's own Date where it has one, so that a wrong clock here does no harm.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text):
        return min(float(text), _LONGEST_RETRY_AFTER_S)
    until = _http_date(text)
    if until is None:
        return None
    wait = until - (_http_date(headers.get("Date", "")) or dt.datetime.now(dt.UTC))
    return min(max(wait.total_seconds(), 0.0), _LONGEST_RETRY_AFTER_S)


def _http_date(text: str) -> dt.datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def _key_out_of_logs(record: logging.LogRecord) -> bool:
    """Take the key out of the lines that urllib3 writes of each request at DEBUG, URL included."""
    record.msg, record.args = _KEY_IN_URL.sub("apikey=***", record.getMessage()), ()
    return True


for _logger in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_logger).addFilter(_key_out_of_logs)
