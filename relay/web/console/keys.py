"""API keys: listed without themselves, made and shown once, revoked at once."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from relay import configured
from relay.buffer.registry import KINDS, Registry
from relay.errors import ConfigInvalid
from relay.pushes import client_of
from relay.web.console.gate import acted, back, bp, here, page
from relay.web.state import state
from relay.words import sentence


@bp.get("/keys/")
def keys_page() -> Response:
    """All keys, and a form for a new one."""
    return _page()


def _page(status: int = 200, **facts: Any) -> Response:
    return page("keys.html", status, keys=Registry(here().client).every(), kinds=KINDS, **facts)


@bp.post("/keys/")
def create_key() -> Response:
    """Make a key; the answer to this form is the only page that ever shows it."""
    form, registry, config = request.form, Registry(here().client), state().config
    kind, name = form.get("kind", ""), form.get("name", "").strip()[:100]
    tables, networks = (form.get(field, "").replace(",", " ").split() for field in ("tables", "networks"))
    try:
        client, days = _number(form.get("client", "")), _number(form.get("days", ""))
        if kind == "import" and client:  # a key with which nothing could be pushed is better not handed out
            client_of(config, configured.sources_of(config).values(), client, registry.prefix)
        key = registry.create(kind, client, name=name, tables=tables, networks=networks, days=days)
    except ConfigInvalid as error:
        return _page(400, wrong=sentence(str(error)), given=form)
    made = registry.find(key)
    short = made.short if made is not None else ""
    acted("key_create", f"Key {short} was made.", key=short, kind=kind, client=client)
    return _page(fresh=key, fresh_id=short)


@bp.post("/keys/revoke")
def revoke_key() -> Any:
    """Ask whether it is meant, then revoke."""
    registry, wanted = Registry(here().client), request.form.get("id", "")
    one = next((key for key in registry.every() if key.id == wanted), None)
    if one is None:
        raise ConfigInvalid("there is no such key any more")
    if request.form.get("sure") != "yes":
        return page("key_confirm.html", key=one)
    gone = registry.revoke(one.id)
    acted("key_revoke", f"Key {gone.short} opens nothing any more.", key=gone.short, kind=gone.kind)
    return back("keys_page")


def _number(text: str) -> int:
    """A number of a form; 0 where the field was left empty."""
    digits = text.strip()
    if not digits:
        return 0
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):  # noqa: PLR2004 - digits of a client id
        raise ConfigInvalid(f"{digits[:20]!r} is not a number from 0")
    return int(digits)
