"""Nothing but the web server: a Flask view that reads the body and answers as the relay does."""

from __future__ import annotations

import msgspec
from flask import Flask, Response, request

app = Flask("empty", static_folder=None)
_encode = msgspec.json.Encoder().encode


@app.post("/hooks/<name>")
def deliver(name: str) -> Response:
    size = len(request.get_data(cache=False))
    return Response(_encode({"source": name, "bytes": size}), 202, content_type="application/json")
