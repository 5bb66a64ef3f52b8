"""`/healthz`: the process answers. `/readyz`: it can store what it is sent."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response
from redis.exceptions import RedisError

from relay.buffer.alarms import standing
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
    """200 where Redis answers, with what needs a person, if anything; 503 with the reason where it does not."""
    front = state().front
    try:
        alarms = standing(front.client, front.bounds)
    except (RedisError, OSError) as error:
        body = {"status": "unavailable", "redis": type(error).__name__}
        return Response(_encode(body), 503, content_type="application/json")
    # Not a reason for 503: what can be taken is taken, and a proxy must not turn it away.
    told = {"alarms": [alarm.text for alarm in alarms]} if alarms else {}
    return Response(_encode({"status": "ok", "redis": "ok", **told}), content_type="application/json")
