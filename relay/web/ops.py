"""`/healthz`: the process answers. `/readyz`: it can store what it is sent."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

import msgspec
from flask import Blueprint, Response
from redis.exceptions import RedisError

from relay.buffer.alarms import standing
from relay.web.declared import JSON, Operation, declares, told
from relay.web.state import state

bp = Blueprint("ops", __name__)
_encode = msgspec.json.Encoder().encode


class Health(TypedDict):
    """The process serves."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """Redis answers."""

    status: Literal["ok"]
    redis: Literal["ok"]
    alarms: NotRequired[list[str]]


class Unready(TypedDict):
    """Redis does not answer; the error's name."""

    status: Literal["unavailable"]
    redis: str


@declares(Operation("Operation", {200: told("It serves.", Health)}))
@bp.get("/healthz")
def healthz() -> Response:
    """200 as long as the process serves."""
    return Response(_encode(Health(status="ok")), content_type=JSON)


@declares(
    Operation(
        "Operation",
        {200: told("It can store, but for what the alarms say.", Readiness), 503: told("It cannot.", Unready)},
    )
)
@bp.get("/readyz")
def readyz() -> Response:
    """200 where Redis answers, with what needs a person, if anything; 503 with the reason where it does not."""
    front = state().front
    try:
        alarms = standing(front.client, front.bounds)
    except (RedisError, OSError) as error:
        body = Unready(status="unavailable", redis=type(error).__name__)
        return Response(_encode(body), 503, content_type=JSON)
    # Not a reason for 503: what can be taken is taken, and a proxy must not turn it away.
    ready = Readiness(status="ok", redis="ok")
    if alarms:
        ready["alarms"] = [alarm.text for alarm in alarms]
    return Response(_encode(ready), content_type=JSON)
