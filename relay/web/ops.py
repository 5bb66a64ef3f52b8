"""`/healthz`: the process answers. `/readyz`: it can store what it is sent."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response
from redis.exceptions import RedisError

from relay.web.state import state

bp = Blueprint("ops", __name__)
_encode = msgspec.json.Encoder().encode


@bp.get("/healthz")
def healthz() -> Response:
    """200 as long as the process serves."""
    return Response(_encode({"status": "ok"}), content_type="application/json")


@bp.get("/console/")
def console() -> Response:
    """What can be seen on the command line until there is more to see here; shows no data."""
    page = (
        "rowhook is running.\n\n"
        "relay sources   what may post, and where\n"
        "relay tail      events as they are taken\n"
        "relay tables    rows at each destination\n"
        "relay stats     the ledger and what waits\n"
        "relay dead list what failed, and why\n"
        "relay audit     whether everything is accounted for\n"
    )
    return Response(page, content_type="text/plain; charset=utf-8")


@bp.get("/readyz")
def readyz() -> Response:
    """200 where Redis answers, 503 with the reason where it does not."""
    try:
        state().front.client.ping()
    except (RedisError, OSError) as error:
        body = {"status": "unavailable", "redis": type(error).__name__}
        return Response(_encode(body), 503, content_type="application/json")
    return Response(_encode({"status": "ok", "redis": "ok"}), content_type="application/json")
