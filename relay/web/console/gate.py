"""The gate of the console: sessions, forms that only our own pages can send, headers, and errors as pages.

https://fetch.spec.whatwg.org/#append-a-request-origin-header · https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, current_app, g, redirect, render_template, request, url_for
from jinja2 import Template
from redis.exceptions import RedisError
from werkzeug.exceptions import Forbidden, HTTPException

from relay.buffer.acts import Acts
from relay.buffer.admins import Admins, Session, is_name
from relay.buffer.redis import connect
from relay.config import Config
from relay.errors import BufferUnavailable, RelayError
from relay.signatures import same
from relay.telemetry import logger
from relay.web.callers import networks, normal, within
from relay.web.console import charts, words
from relay.web.state import state
from relay.words import sentence

log = logger("console")


class Pages(Blueprint):
    """Pages are found without their last slash too: else werkzeug leads there, past the gate."""

    def add_url_rule(self, *args: Any, **options: Any) -> None:
        """See Flask's."""
        super().add_url_rule(*args, **{"strict_slashes": False, **options})


bp = Pages(
    "console",
    __name__,
    url_prefix="/console",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)
COOKIE: Final = "rowhook_session"
#: Stands in for a session's token in the forms of those who have none yet.
FORM_COOKIE: Final = "rowhook_form"
FORM_FIELD: Final = "form_token"
#: The script that keeps parts fresh says so by this header: nobody need be there.
FRAGMENT: Final = "X-Console-Part"
_OPEN: Final = frozenset({f"console.{name}" for name in ("login", "log_in", "welcome", "accept", "static")})
#: No form of ours is longer.
_LONGEST_FORM: Final = 64 * 1024
_TIMEOUT_S: Final = 10.0
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; connect-src 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Console:
    """What a web process holds for its console.

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self.client = connect(config.redis_url(), timeout_s=_TIMEOUT_S)
        self.admins = Admins(self.client)
        self.acts = Acts(self.client)
        self.trusted = networks(config.settings.trusted_proxies)
        self.user_header = config.settings.console_user_header
        self.passwords = config.settings.console_password_login


def attach(app: Flask, config: Config) -> None:
    """Give an application what its console needs."""
    app.extensions["rowhook_console"] = Console(config)
    app.jinja_env.filters.update(words.FILTERS, a_minute=charts.a_minute, seconds=charts.seconds)


def here() -> Console:
    """What this process holds for the console."""
    found: Console = current_app.extensions["rowhook_console"]
    return found


def secure() -> bool:
    """Whether the browser speaks TLS, as far as the proxies before us are believed."""
    if request.is_secure:
        return True
    proto = request.headers.get("X-Forwarded-Proto", "").split(",")[-1].strip().lower()
    return proto == "https" and _from_proxy()


def _from_proxy() -> bool:
    """Whether the other end of this connection is a trusted proxy; those before it do not count."""
    return within(normal(request.remote_addr or ""), here().trusted)


def session() -> Session:
    """Whoever asks; there is a session wherever a page is behind the gate."""
    found: Session = g.console_session
    return found


def set_cookie(response: Any, name: str, value: str, *, max_age: int | None = None) -> None:
    """Set one of our cookies; an empty value ends it."""
    response.set_cookie(
        name,
        value,
        max_age=max_age if value else 0,
        path="/console",
        httponly=True,
        secure=secure(),
        samesite="Strict",
    )


# --- before and after each request -------------------------------------------------------------------------


@bp.before_request
def _enter() -> Any:
    if request.endpoint == "console.static":
        return None
    request.max_content_length = _LONGEST_FORM
    part = FRAGMENT in request.headers
    found = _who(part)
    if found is not None:
        g.console_session = found
        caller = state().caller()
        if here().admins.moved(found, caller):
            noted("console_session_moved", found.user, caller)
    if request.method not in {"GET", "HEAD", "OPTIONS"}:
        _our_form(found)
    if not here().passwords and (found is None or request.endpoint in _OPEN - {"console.login"}):
        raise Forbidden("there are no passwords here: come through the proxy that says who you are")
    if found is None and request.endpoint not in _OPEN:
        if part or request.method == "POST":
            raise Forbidden("the session has ended: log in again")
        return redirect(url_for("console.login"), 303)
    return None


def _who(part: bool) -> Session | None:
    """The session of whoever asks; where a proxy names somebody, of nobody else."""
    admins, token = here().admins, request.cookies.get(COOKIE, "")
    found = admins.find(token, touch=not part) if token else None
    named = _named()
    if named is None:
        return None if found is None or found.proxied or not here().passwords else found
    if found is not None and found.user == named and (found.proxied or here().passwords):
        return found
    if found is not None:
        admins.end(token)
    if part or request.method not in {"GET", "HEAD"}:  # no form of ours can come from a session that begins now
        return None
    caller = state().caller()
    g.console_begun = admins.begin_proxied(named, caller)
    newest = here().acts.acts(0, 1)
    if not newest or (newest[0].act, newest[0].admin, newest[0].caller) != ("login", named, caller):
        # Once for a client that keeps no cookie, and so begins a session with each request.
        noted("console_login", named, caller, by=here().user_header)
    return admins.find(g.console_begun, touch=False)


def _named() -> str | None:
    """Whom a trusted proxy says that this request is from; None where it, or anybody else, says nothing to us.

    Raises:
        Forbidden: it says what is no name. Several of one header are one to WSGI, with a comma between them.
    """
    name = here().user_header
    if not name or name not in request.headers or not _from_proxy():
        return None
    named = request.headers[name]
    if not is_name(named):
        caller = state().caller()
        log.warning("console_proxy_user_refused", caller=caller)
        here().acts.refuse("proxy_user_refused", "", caller)
        raise Forbidden(f"the proxy names nobody who could be a user in its header {name}")
    return named


def _our_form(found: Session | None) -> None:
    """Refuse what no page of ours sent.

    Raises:
        Forbidden: the token is wrong, or the browser says that another site asks.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    # By `no-referrer` a browser hides the origin of our own forms too ("null"), and says where they come from in
    # Sec-Fetch-Site, but only over TLS or on this machine. Where it says neither, the token and SameSite decide.
    foreign = site not in {None, "same-origin"} or (origin not in {None, "null"} and not _ours_is(origin or ""))
    wanted = found.form if found is not None else request.cookies.get(FORM_COOKIE, "")
    if foreign or not wanted or not same(wanted, request.form.get(FORM_FIELD, "")):
        if found is not None:  # anybody may post here; only that somebody's session was at stake is news
            caller = state().caller()
            log.warning("console_form_refused", path=request.path, caller=caller, foreign=foreign)
            here().acts.refuse("form_refused", found.user, caller)
        raise Forbidden("this form is not from this session: open the page again")


def _ours_is(origin: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        return False


@bp.after_request
def _leave(response: Response) -> Response:
    if "console_begun" in g:
        set_cookie(response, COOKIE, g.console_begun)
    for name, value in _HEADERS.items():
        response.headers[name] = value
    # A style sheet is nobody's secret, and asked for with each page.
    fixed = request.endpoint == "console.static" and response.status_code in {200, 304}
    response.headers["Cache-Control"] = "no-cache" if fixed else "no-store"
    return response


# --- pages, acts, errors -----------------------------------------------------------------------------------


def page(template: str, status: int = 200, **facts: Any) -> Response:
    """A page, or the part of it that its script asks for."""
    found: Session | None = g.get("console_session")
    facts.update(me=found, form_token=found.form if found is not None else facts.get("form_token", ""))
    names: list[str | Template] = [f"console/{template}"]
    if request.headers.get(FRAGMENT) == "live":  # the whole page, where it has no such part
        names.insert(0, f"console/live/{template}")
        facts["said"] = ""
    else:
        facts["said"] = here().admins.said(found) if found is not None else ""
    return _html(render_template(names, **facts), status)


def _html(text: str, status: int) -> Response:
    return Response(text, status, content_type="text/html; charset=utf-8")


def acted(act: str, text: str, **details: Any) -> None:
    """Log what a user did, keep it among the acts, and say it on the next page; no secret may be in `details`."""
    caller = state().caller()
    log.info("console_act", act=act, admin=session().user, caller=caller, **details)
    here().acts.note(act, session().user, caller, details)
    here().admins.say(session(), text)


def noted(event: str, admin: str, caller: str, **details: Any) -> None:
    """Log a way in or out by its event, and keep it among the acts."""
    log.info(event, admin=admin, caller=caller, **details)
    here().acts.note(event.removeprefix("console_"), admin, caller, details)


def back(endpoint: str, **values: Any) -> Any:
    """After an act: a page that can be loaded again without repeating it."""
    return redirect(url_for(f"console.{endpoint}", **values), 303)


def _trouble(status: int, title: str, text: str, retry_after_s: int = 0) -> Response:
    found: Session | None = g.get("console_session")
    facts: dict[str, Any] = {"me": found, "form_token": found.form if found is not None else "", "said": ""}
    response = _html(render_template("console/trouble.html", title=title, text=text, **facts), status)
    if retry_after_s:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


@bp.errorhandler(HTTPException)
def _http(error: HTTPException) -> Response:
    return _trouble(error.code or 500, error.name, error.description or "")


@bp.errorhandler(RelayError)
def _ours(error: RelayError) -> Response:
    if isinstance(error, BufferUnavailable):
        return _trouble(503, "Not now", sentence(str(error)), error.retry_after_s)
    return _trouble(400, "That cannot be done", sentence(str(error)))


@bp.errorhandler(RedisError)
@bp.errorhandler(ConnectionError)
@bp.errorhandler(TimeoutError)
def _away(error: Exception) -> Response:
    log.warning("console_unanswered", path=request.path, error=type(error).__name__)
    why = "Redis does not answer, so nothing can be shown. Deliveries are answered 503; senders will repeat them."
    return _trouble(503, "Redis is away", why, 5)


@bp.errorhandler(Exception)
def _unforeseen(error: Exception) -> Response:
    log.error("console_failed", path=request.path, error=repr(error), exc_info=error)
    return _trouble(500, "Something broke", "This page could not be made. The log of the web process says why.")


@bp.route("/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def nowhere(rest: str) -> Response:
    """There is no such page."""
    return _trouble(404, "No such page", f"There is nothing at /console/{rest[:100]}.")
