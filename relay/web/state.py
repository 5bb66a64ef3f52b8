"""What a web process holds: sources, the front of the buffer, and codecs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, current_app, request

from relay.buffer.accept import Front
from relay.buffer.fitted import Fitted
from relay.buffer.registry import Registry
from relay.buffer.seal import of_documents
from relay.config import Config
from relay.configured import Source
from relay.dispatch import FetchBell
from relay.pushes import Client, client_of
from relay.records import Codec
from relay.web.callers import caller, networks
from relay.web.door import Door
from relay.web.refusals import Refusals
from relay.web.unmapped import Unmapped


class State:
    """Built once a process by `relay.app`; requests only read it."""

    def __init__(self, config: Config, sources: dict[str, Source], front: Front) -> None:
        self.config, self.sources, self.front = config, sources, front
        self.refusals = Refusals(config.settings, sources, front.client)
        self.unmapped, self.fitted = Unmapped(front.client), Fitted(front.client)
        registry = Registry(front.client)
        self.door, self.clients = Door(registry), Clients(config, sources, registry)
        self.seal = of_documents(config.settings.redaction_key.get_secret_value())
        self.fetches = FetchBell(front.client)
        self._trusted = networks(config.settings.trusted_proxies)
        self._codecs: list[Codec] = []

    def caller(self) -> str:
        """The address that this request comes from, as far as the proxies before us are believed."""
        return caller(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""), self._trusted)

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


class Clients:
    """API clients as they are configured, made when they first push."""

    def __init__(self, config: Config, sources: dict[str, Source], registry: Registry) -> None:
        self._config, self._sources, self._registry = config, sources, registry
        self._known: dict[int, Client] = {}
        self._keys: dict[str, tuple[str, ...]] = {}

    def of(self, number: int) -> Client:
        """A client.

        Raises:
            ConfigInvalid: it is not said where its rows go.
        """
        if number not in self._known:
            self._known[number] = client_of(self._config, self._sources.values(), number, self._registry.prefix)
        return self._known[number]

    def key_of(self, full: str, number: int, key: tuple[str, ...]) -> tuple[str, ...]:
        """The key columns of a client's table; these, where it is new."""
        if full not in self._keys:
            self._keys[full] = self._registry.table_key(full, number, key)
        return self._keys[full]


def attach(app: Flask, state: State) -> None:
    """Give the state to an application."""
    app.extensions["rowhook"] = state


def state() -> State:
    """The state of the application that serves this request."""
    found: State = current_app.extensions["rowhook"]
    return found
