"""What a web process holds: sources, the front of the buffer, and a codec a thread."""

from __future__ import annotations

import threading

from flask import Flask, current_app

from relay.buffer.accept import Front
from relay.config import Config
from relay.intake import Source
from relay.records import Codec


class State:
    """Built once a process by `relay.app`; requests only read it."""

    def __init__(self, config: Config, sources: dict[str, Source], front: Front) -> None:
        self.config, self.sources, self.front = config, sources, front
        self._local = threading.local()

    @property
    def codec(self) -> Codec:
        """This thread's codec."""
        codec: Codec | None = getattr(self._local, "codec", None)
        if codec is None:
            codec = self._local.codec = Codec()
        return codec


def attach(app: Flask, state: State) -> None:
    """Give the state to an application."""
    app.extensions["rowhook"] = state


def state() -> State:
    """The state of the application that serves this request."""
    found: State = current_app.extensions["rowhook"]
    return found
