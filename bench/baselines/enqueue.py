"""The plain way: check the signature, parse, and ask RQ for one job a webhook. No dedup, no mapping, no order."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os

from flask import Flask, Response, abort, jsonify, request
from redis import Redis
from rq import Queue

app = Flask("enqueue", static_folder=None)
queue = Queue("plain", connection=Redis.from_url(os.environ["BENCH_REDIS_URL"]))
secret = os.environ["BENCH_SECRET"].encode()


@app.post("/hooks/<name>")
def deliver(name: str) -> tuple[Response, int]:
    body = request.get_data()
    digest = base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(digest, request.headers.get("X-Shopify-Hmac-Sha256", "")):
        abort(401)
    job = queue.enqueue("bench.baselines.enqueue.store", name, json.loads(body))
    return jsonify(id=job.id), 202


def store(name: str, payload: dict[str, object]) -> None:
    """What a worker would run; the accept bench has none."""
