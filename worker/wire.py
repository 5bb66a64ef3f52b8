"""HTTP as destinations need it: connections that follow nothing and tell no secret, and what an answer means.

An answer's consequence is the same everywhere: no access pauses, "not now" goes again, anything else that begins
with 4 never will. Of a request without an answer nobody knows whether it was applied, unless nothing was sent.
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
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator
from requests.adapters import HTTPAdapter

from relay.errors import DeliveryError, Permanent, Refused, Transient
from worker.destination import Settings

_REASON_CHARS: Final = 500
_ANSWER_BYTES: Final = 256 * 1024
#: Seconds for which an idle connection is trusted. A server that closes it just as we send leaves an unknown
#: outcome, and then the partition rests; gunicorn, as an example, closes after 2 s.
_IDLE_S: Final = 1.5
_LONGEST_RETRY_AFTER_S: Final = 86_400.0
_TOO_MANY, _SERVERS_FAULT = 429, 500
_NO_ACCESS: Final = frozenset({401, 403, 407})
#: "Not now" rather than "never": of the 4xx, these say nothing of the records.
_LATER: Final = frozenset({408, 425, _TOO_MANY})
#: A gateway's word that it lost the server behind it, which may still apply what it was sent.
_LOST_BEHIND: Final = frozenset({502, 504, 520, 524})
_HOST: Final = re.compile(r"(?:https?:)?//(?:[^/?#]*@)?([^/?#@]{1,255})")
_SECRET_IN_URL: Final = re.compile(r"(?i)(apikey|access_token)=[^&\s\"'<]+")

_URL_UNUSABLE: Final = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
_NOTHING_SENT: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ProxyError)
_NETWORK: Final = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError)


class HttpSettings(Settings):
    """What every destination behind HTTP may say."""

    # A key would otherwise stand in the text of a validation error.
    model_config = ConfigDict(hide_input_in_errors=True)

    timeout_s: float
    unknown_hold_s: float = Field(60.0, gt=0, description="Rest after a request whose outcome is unknown.")
    proxy: SecretStr | None = Field(None, description="URL of an HTTP proxy; the environment's are not used.")

    @field_validator("url", check_fields=False)
    @classmethod
    def _plain_url(cls, url: str) -> str:
        return plain_url(url)

    @model_validator(mode="after")
    def _hold_outlasts_a_request(self) -> Self:
        if self.unknown_hold_s < self.timeout_s:
            raise ValueError("unknown_hold_s must be at least timeout_s")
        return self


class Answer(msgspec.Struct, frozen=True):
    """What came back; `whole` is False where the body broke off, took too long or is larger than was wanted."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


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


class Wire:
    """Calls of one server; each takes a connection that no other thread uses meanwhile.

    No exception of the library leaves it, not even as the context of ours: its text may hold the URL, and with it
    the secret.

    Args:
        whom: the server's name for people, as `the Import API`.
        secret: what no error may repeat.
        timeout_s: wait for a connection, and then for an answer.
        proxy: URL of an HTTP proxy.
    """

    def __init__(self, whom: str, secret: SecretStr, timeout_s: float, proxy: SecretStr | None) -> None:
        self.whom = whom
        self._secret, self._timeout_s, self._proxy = secret.get_secret_value(), timeout_s, proxy
        self._idle: list[_Session] = []

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        stores: bool,
        most: int = _ANSWER_BYTES,
    ) -> Answer:
        """The answer, whatever it says.

        Args:
            method: HTTP's.
            url: with its query.
            body: what is sent.
            headers: beside those of every request.
            stores: it changes something there, so that without an answer the outcome is unknown.
            most: bytes of the answer's body that matter.

        Raises:
            DeliveryError: there was none.
        """
        session = self._take()
        answer = self._send(session, (method, url, body, headers or {}), most, stores=stores)
        session.used = time.monotonic()
        self._idle.append(session)
        if isinstance(answer, DeliveryError):
            raise answer
        return answer

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._idle:
            self._idle.pop().close()

    def refusal(self, answer: Answer, said: str, *, stores: bool) -> DeliveryError:
        """What follows from an answer whose status does not begin with 2; `said` are its words."""
        status = answer.status
        if status // 100 == 3:  # noqa: PLR2004 - redirects
            host = _HOST.match(answer.headers.get("Location", ""))
            place = self.scrub(host[1]) if host else "no host"
            return Refused(f"{self.whom}'s URL is wrong: {status} redirects to {place}", reason="redirected")
        text = f"{self.whom} said {status}: {said}"
        if status in _NO_ACCESS:
            return Refused(text)
        if status in _LATER or status >= _SERVERS_FAULT:
            reason = "rate_limited" if status == _TOO_MANY else "transient"
            unknown = stores and status in _LOST_BEHIND
            return Transient(text, reason=reason, retry_after_s=retry_after_s(answer.headers), unknown=unknown)
        return Permanent(text)

    def words(self, text: str) -> str:
        """A server's own words, for people: one line, bounded, without the secret."""
        return one_line(self.scrub(text))

    def scrub(self, text: str) -> str:
        """The text without the secret, and without whatever stands as one in an echoed URL."""
        return scrub(text, self._secret)

    def _take(self) -> _Session:
        try:
            session = self._idle.pop()
        except IndexError:
            return _Session(self._proxy)
        if time.monotonic() - session.used > _IDLE_S:
            session.close()  # drops the connection; the session itself goes on
        return session

    def _send(
        self,
        session: _Session,
        request: tuple[str, str, bytes | None, Mapping[str, str]],
        most: int,
        *,
        stores: bool,
    ) -> Answer | DeliveryError:
        method, url, body, headers = request
        try:
            with session.request(
                method, url, data=body, headers=dict(headers), timeout=self._timeout_s, allow_redirects=False,
                stream=True,
            ) as response:  # fmt: skip
                return _read(response, time.monotonic() + self._timeout_s, most)
        except _NETWORK as error:
            return self._without_answer(error, stores=stores)

    def _without_answer(self, error: Exception, *, stores: bool) -> DeliveryError:
        """What follows from a request without an answer; only the error's kind is told, never its text."""
        inner: Any = error.args[0] if error.args else None
        cause = getattr(inner, "reason", None) or inner
        kind = type(cause if isinstance(cause, Exception) else error).__name__
        if isinstance(error, _URL_UNUSABLE):
            return Refused(f"{self.whom}'s URL or proxy cannot be used: {kind}", reason="url_unusable")
        untrusted = isinstance(cause, Exception) and any(isinstance(a, ssl.CertificateError) for a in cause.args)
        if untrusted or isinstance(error, requests.ConnectTimeout) or isinstance(cause, _NOTHING_SENT):
            return Transient(f"{self.whom} cannot be reached: {kind}", reason="away")
        return Transient(f"{self.whom} did not answer: {kind}", reason="no_answer", unknown=stores)


def _read(response: requests.Response, deadline: float, most: int) -> Answer:
    """The answer with as much of its body as matters; the status stands even where the body breaks off."""
    parts, size, whole = list[bytes](), 0, False
    with contextlib.suppress(*_NETWORK):
        while not whole and size < most and time.monotonic() < deadline:
            part = response.raw.read1(_ANSWER_BYTES, decode_content=True)
            parts.append(part)
            size, whole = size + len(part), not part
    return Answer(response.status_code, response.headers, b"".join(parts), whole)


def plain_url(url: str) -> str:
    """A base URL as settings take it, without a slash at its end.

    Raises:
        ValueError: it is none, or holds a secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be http(s)://host, with a port or a path where needed")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("takes no user, query or fragment; the secret has a setting of its own")
    return url.rstrip("/")


def one_line(text: str) -> str:
    """Bounded words without control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())[:_REASON_CHARS] or "(no words)"


def scrub(text: str, secret: str) -> str:
    """See `Wire.scrub`."""
    return _SECRET_IN_URL.sub(r"\1=***", re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE))


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


def _secrets_out_of_logs(record: logging.LogRecord) -> bool:
    """Take secrets out of the lines that urllib3 writes of each request at DEBUG, URL included."""
    record.msg, record.args = _SECRET_IN_URL.sub(r"\1=***", record.getMessage()), ()
    return True


for _logger in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_logger).addFilter(_secrets_out_of_logs)
