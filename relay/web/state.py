"""What a web process holds: sources, the front of the buffer, and codecs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, current_app

from relay.buffer.accept import Front
from relay.config import Config
from relay.intake import Source
from relay.records import Codec
from relay.web.refusals import Refusals


class State:
    """Built once a process by `relay.app`; requests only read it."""

    def __init__(self, config: Config, sources: dict[str, Source], front: Front) -> None:
        self.config, self.sources, self.front = config, sources, front
        self.refusals = Refusals(config.settings, sources, front.client)
        self._codecs: list[Codec] = []

    @contextmanager
    def codec(self) -> Iterator[Codec]:
        """A codec for one request; the one used last comes first, since its tables are still in the cache."""
        try:
            codec = self._codecs.pop()
        except IndexError:
            codec = Codec()
        try:
            yield codec
        finally:
            self._codecs.append(codec)


def attach(app: Flask, state: State) -> None:
    """Give the state to an application."""
    app.extensions["rowhook"] = state


def state() -> State:
    """The state of the application that serves this request."""
    found: State = current_app.extensions["rowhook"]
    return found
