"""The way in and out: login, logout, and the one-time link at which a password is set."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from flask import Response, g, request

from relay.buffer.admins import LONGEST, SHORTEST
from relay.buffer.throttle import Throttled
from relay.errors import ConfigInvalid
from relay.web.console import gate
from relay.web.console.gate import COOKIE, FORM_COOKIE, bp, here, log, noted, page, set_cookie
from relay.web.state import state
from relay.words import sentence

_FORM_TOKEN_BYTES: Final = 24
_FORM_TOKEN: Final = re.compile(f"[0-9a-f]{{{2 * _FORM_TOKEN_BYTES}}}")


def _form(template: str, status: int = 200, **facts: Any) -> Response:
    """A page with a form for people who have no session yet: its token stands in a cookie too."""
    token = request.cookies.get(FORM_COOKIE, "")
    if not _FORM_TOKEN.fullmatch(token):
        token = secrets.token_hex(_FORM_TOKEN_BYTES)
    response = page(template, status, form_token=token, **facts)
    set_cookie(response, FORM_COOKIE, token)
    return response


@bp.get("/login")
def login() -> Any:
    """Ask for name and password."""
    if "console_session" in g:
        return gate.back("overview")
    return _form("login.html", none_yet=not any(admin.ready for admin in here().admins.every()))


@bp.post("/login")
def log_in() -> Any:
    """Begin a session; whoever had one on this browser has it no more."""
    name, password = request.form.get("name", ""), request.form.get("password", "")
    caller = state().caller()
    try:
        token = here().admins.login(name, password, caller)
    except Throttled as error:
        if error.first:
            log.warning("console_login_throttled", caller=caller, seconds=error.seconds)
            here().acts.refuse("login_throttled", _known(name), caller)
        wrong = "Too many attempts from here, or for this name."
        response = _form("login.html", 429, wrong=wrong, wait=error.seconds)
        response.headers["Retry-After"] = str(error.seconds)
        return response
    if token is None:
        log.warning("console_login_refused", caller=caller)
        here().acts.refuse("login_refused", _known(name), caller)
        return _form("login.html", 401, wrong="The name or the password is wrong.", name=name[:64])
    _end_session()
    noted("console_login", name, caller)
    response = gate.back("overview")
    set_cookie(response, COOKIE, token)
    set_cookie(response, FORM_COOKIE, "")
    return response


@bp.post("/logout")
def log_out() -> Any:
    """End the session."""
    noted("console_logout", gate.session().user, state().caller())
    _end_session()
    return _gone()


@bp.post("/logout/everywhere")
def log_out_everywhere() -> Any:
    """End all sessions of whoever asks, this one too."""
    noted("console_logout_everywhere", gate.session().user, state().caller())
    here().admins.end_all(gate.session().user)
    return _gone()


def _gone() -> Response:
    response: Response = gate.back("login")
    set_cookie(response, COOKIE, "")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def _known(name: str) -> str:
    """A name that somebody has, else nothing: people type their password into the wrong field."""
    return name if any(admin.name == name for admin in here().admins.every()) else ""


def _end_session() -> None:
    old = request.cookies.get(COOKIE)
    if old:
        here().admins.end(old)


@bp.get("/welcome")
def welcome() -> Any:
    """Ask whom a link is for to set a password; looking does not use the link up."""
    token = request.args.get("token", "")
    name = here().admins.invited(token)
    status = 200 if name is not None else 404
    return _welcome(token, name, status)


@bp.post("/welcome")
def accept() -> Any:
    """Set the password, once."""
    token, password = request.form.get("token", ""), request.form.get("password", "")
    if password != request.form.get("again", ""):
        return _welcome(token, here().admins.invited(token), 400, wrong="The two passwords differ.")
    try:
        name = here().admins.accept(token, password)
    except ConfigInvalid as error:
        return _welcome(token, here().admins.invited(token), 400, wrong=sentence(str(error)))
    if name is None:
        return _welcome("", None, 404)
    noted("console_password_set", name, state().caller())
    return _form("login.html", name=name, well="The password is set. Log in with it.")


def _welcome(token: str, name: str | None, status: int, wrong: str = "") -> Response:
    return _form(
        "welcome.html", status, token=token, name=name, wrong=wrong, shortest=SHORTEST, longest=LONGEST
    )  # fmt: skip
