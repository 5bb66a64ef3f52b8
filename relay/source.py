"""The contract of a vendor: what one file in `relay/sources/` declares.

A vendor is data where vendors differ in data, and a decorated generator where they differ in code::

    ORDERS = Table("orders", key=("id",), clock="updated_at", columns={"id": Type.INT, …})

    vendor = Vendor(
        title="Acme", family="carts", docs="https://docs.acme.example/webhooks",
        verify=Hmac("X-Acme-Signature"),
        type=header("X-Acme-Topic"), id=header("X-Acme-Delivery"),
        tables=(ORDERS,),
    )

    @vendor.maps("order.created", "order.updated")
    def order(event: Event) -> Iterator[Record]:
        yield ORDERS.row(event.data, at=instant_ns(event.data["updated_at"]))

    @vendor.sample("order.created")
    def order_sample(n: int, now: int) -> Sample: ...

A mapper is a pure generator. A type without one is ignored and counted. A `KeyError`, `TypeError` or the like in
a mapper is caught once, in `intake`, and quarantines the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from relay.errors import MalformedPayload
from relay.records import Event, Record, Request, Table, Type, encode_json, instant_ns
from relay.signatures import Verifier

Mapper = Callable[[Event], Iterator[Record]]
Reader = Callable[[Request, Any], Any]
#: Headers that identify a delivery's content, kept with the event for mappers and people.
_NO_HEADERS: Final[tuple[str, ...]] = ()


class Reply(msgspec.Struct, frozen=True):
    """What a vendor must be answered where it is not the plain 202."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


class Sample(msgspec.Struct, frozen=True):
    """A realistic delivery of one type, unsigned: a JSON value (or raw bytes) and the vendor's headers."""

    body: Any
    headers: Mapping[str, str] = {}
    content_type: str = "application/json"


#: Where the object that an event names stands in its data, once it was fetched.
FETCHED: Final = "fetched"


class Fetch(msgspec.Struct, frozen=True):
    """What is to be fetched: a URL of the vendor's API, by GET, with the headers that it demands."""

    url: str
    headers: Mapping[str, str] = {}


class Hydration(msgspec.Struct, frozen=True):
    """How thin events become whole.

    Args:
        fetch: what an event needs, by the source's settings; None where it needs nothing.
        token: the setting without which nothing is fetched.
        hosts: the vendor's hosts; a name that begins with a dot stands for all that end so.
    """

    fetch: Callable[[Event, Mapping[str, Any]], Fetch | None]
    token: str
    hosts: tuple[str, ...]


class Setting(msgspec.Struct, frozen=True):
    """One setting that only this vendor has, under the vendor's own name."""

    help: str
    default: Any = None
    secret: bool = False


def api(url: str, per_second: float = 2) -> dict[str, Setting]:
    """The settings of a vendor whose objects are fetched: where, and how often."""
    return {
        "api_url": Setting("Where objects are fetched; another only for tests and proxies.", url),
        "api_per_second": Setting("Requests a second at most.", per_second),
    }


def header(name: str) -> Reader:
    """Reads a request header; empty where it is absent."""
    lower = name.lower()
    return lambda request, _data: request.headers.get(lower, "")


def field(*path: str) -> Reader:
    """Reads a field of the decoded body; empty where it is absent."""

    def read(_request: Request, data: Any) -> Any:
        for name in path:
            data = data.get(name) if isinstance(data, dict) else None
        return "" if data is None else data

    return read


def table(name: str, key: str, clock: str, parent: str = "", **columns: str) -> Table:
    """A table with its columns by type: `int="id order_id"` declares two integers.

    Args:
        name: its short name.
        key: columns that identify a row.
        clock: of its versions, in words.
        parent: the first columns of the key, where its rows come as whole sets.
        **columns: by type, see `relay.records.Type`.
    """
    types = {column: Type(kind) for kind, group in columns.items() for column in group.split()}
    return Table(name, tuple(key.split()), clock, types, tuple(parent.split()))


def nothing(_request: Request, _data: Any) -> str:
    """Reads nothing: the vendor has no such thing."""
    return ""


class Vendor:
    """One kind of sender.

    Args:
        title: its name for people.
        family: `helpdesk`, `carts`, `ads` or `generic`.
        docs: the vendor's page on its webhooks.
        verify: the mechanism that proves a delivery.
        type: reads the event's type. id: reads the delivery id (`nothing`: deduplicated by content, for
            minutes). at: reads the vendor's time of the event, any form that `instant_ns` takes.
        test: reads whether the vendor calls it a test.
        tables: all tables that its mappers write.
        split: takes a delivery apart into the data of its events; None where a delivery is one event.
        events: reads a whole delivery into events, in place of type, id, at, test and split.
        keep_headers: request headers kept with the event, for mappers and people.
        handshake: answers a request of the challenge's shape, or returns None; may see GET and POST, signed or
            not. It gets the request, the secrets and the settings.
        scrub: takes secrets out of a decoded body before anything is stored.
        reply: what an accepted delivery is answered, None for the plain 202.
        settings: settings of this vendor alone. forms: takes form bodies.
        setup: what to do at the vendor, step by step, for people. deletes: what becomes of what the vendor
            deletes. limits: what its deliveries do not say, or say late.
        proof: how the scheme is proved: `vector: <ids>` (of `tests/proofs/<kind>.json`), `library: <name>` (by
            `tests/proofs/test_<kind>.py`), or `documented: <why there is neither>`.
        secret_like: a prefix of a secret's form (`whsec_`), for the demo sources.
        fragile: what is refused for some hours is lost, since the vendor never retries, soon gives up, or drops
            the subscription. A share of the buffer is reserved for such senders, where others, who retry for
            days, are refused already. The file names the vendor's page that says so.
    """

    def __init__(  # noqa: PLR0913 - a declaration names each thing in which vendors differ
        self,
        *,
        title: str,
        family: str,
        docs: str,
        verify: Verifier | Callable[[Mapping[str, Any]], Verifier],
        type: Reader = nothing,  # noqa: A002 - the field's own word
        id: Reader = nothing,  # noqa: A002 - the field's own word
        at: Reader = nothing,
        test: Reader = nothing,
        tables: tuple[Table, ...] = (),
        split: Callable[[Any], Iterable[Any]] | None = None,
        events: Callable[[Request, Any], Iterable[Event]] | None = None,
        keep_headers: tuple[str, ...] = _NO_HEADERS,
        handshake: Callable[[Request, tuple[str, ...], Mapping[str, Any]], Reply | None] | None = None,
        scrub: Callable[[Any], Any] | None = None,
        reply: Reply | None = None,
        settings: Mapping[str, Setting] | None = None,
        forms: bool = False,
        setup: tuple[str, ...] = (),
        deletes: str = "",
        limits: tuple[str, ...] = (),
        proof: str = "",
        secret_like: str = "",
        fragile: bool = False,
    ) -> None:
        self.title, self.family, self.docs, self.proof = title, family, docs, proof
        self.setup, self.deletes, self.limits = setup, deletes, limits
        self.verify, self.type, self.id, self.at, self.test = verify, type, id, at, test
        self.tables = {table.name: table for table in tables}
        self.split, self.events = split, events
        self.keep_headers = tuple(h.lower() for h in keep_headers)
        self.handshake, self.scrub, self.reply = handshake, scrub, reply
        self.settings, self.forms, self.secret_like = dict(settings or {}), forms, secret_like
        self.fragile = fragile
        self.mappers: dict[str, Mapper] = {}
        self.families: list[tuple[str, Mapper]] = []
        self.samples: dict[str, Callable[[int, int], Sample]] = {}
        self.hydrations: list[tuple[str, Hydration]] = []

    @property
    def proved(self) -> bool:
        """Whether somebody else's code or vector bears the scheme out, not the vendor's words alone."""
        return self.proof.startswith(("vector:", "library:"))

    def maps(self, *types: str) -> Callable[[Mapper], Mapper]:
        """Declares the mapper of these types; one that ends in `*` serves all that begin so."""

        def declare(mapper: Mapper) -> Mapper:
            for name in types:
                if name in self.mappers or any(p == name for p, _ in self.families):
                    raise TypeError(f"{name} is mapped twice")
                if name.endswith("*"):
                    self.families.append((name, mapper))
                else:
                    self.mappers[name] = mapper
            return mapper

        return declare

    def sample(self, *types: str) -> Callable[[Callable[[int, int], Sample]], Callable[[int, int], Sample]]:
        """Declares how a realistic delivery of a type is made, from a number and a time in ns."""

        def declare(make: Callable[[int, int], Sample]) -> Callable[[int, int], Sample]:
            for name in types:
                self.samples[name] = make
            return make

        return declare

    def hydrates(
        self, *types: str, token: str, hosts: tuple[str, ...]
    ) -> Callable[[Callable[[Event, Mapping[str, Any]], Fetch | None]], Hydration]:
        """Declares what these types (`*` as in `maps`) need of the vendor's API before they are mapped.

        The object then stands in `event.data["fetched"]`; without the token, or where the vendor does not give it,
        the event is mapped as it came. A vendor that does so has the settings of `api` beside its token.
        """

        def declare(fetch: Callable[[Event, Mapping[str, Any]], Fetch | None]) -> Hydration:
            hydration = Hydration(fetch, token, hosts)
            self.hydrations += [(name, hydration) for name in types]
            return hydration

        return declare

    def hydration(self, type_: str) -> Hydration | None:
        """What a type needs, if anything."""
        for name, hydration in self.hydrations:
            if type_ == name or (name.endswith("*") and type_.startswith(name[:-1])):
                return hydration
        return None

    def mapper(self, type_: str) -> Mapper | None:
        """The mapper of a type, or None: then events of it are ignored and counted."""
        found = self.mappers.get(type_)
        if found is None:
            for prefix, mapper in self.families:
                if type_.startswith(prefix[:-1]):
                    return mapper
        return found

    def verifier(self, settings: Mapping[str, Any]) -> Verifier:
        """The proof mechanism under a source's settings."""
        return self.verify(settings) if callable(self.verify) else self.verify

    def read(self, request: Request, data: Any) -> list[Event]:
        """A delivery's events: the envelope read, the headers that matter kept.

        Raises:
            MalformedPayload: the body is not of the vendor's shape.
        """
        if self.events is not None:
            return list(self.events(request, data))
        kept = {name: request.headers[name] for name in self.keep_headers if name in request.headers}
        items = [data] if self.split is None else list(self.split(data))
        return [self._event(request, item, kept) for item in items]

    def live(self, request: Request, data: Any) -> list[Event]:
        """`read`, of what a sender just sent: what it says where fetched objects stand was fetched by nobody.

        Raises:
            MalformedPayload: the body is not of the vendor's shape.
        """
        events = self.read(request, data)
        return [_as_sent(event) for event in events] if self.hydrations else events

    def _event(self, request: Request, data: Any, kept: dict[str, str]) -> Event:
        if not isinstance(data, dict):  # whatever its type: all that the fields are read from is objects
            raise MalformedPayload("the body is not an object", reason="not_an_object")
        type_, id_ = self.type(request, data), self.id(request, data)
        if not isinstance(type_, str):
            raise MalformedPayload(f"the event's type is not text but {type(type_).__name__}", reason="no_type")
        return Event(
            type=type_,
            data=data,
            id=str(id_),
            at=instant_ns(self.at(request, data)),
            headers=kept,
            test=self.test(request, data) is True,
            dedup="id" if id_ != "" else "content",
        )


def _as_sent(event: Event) -> Event:
    if not isinstance(event.data, dict) or FETCHED not in event.data:
        return event
    return msgspec.structs.replace(event, data={k: v for k, v in event.data.items() if k != FETCHED})


def sample_request(sample: Sample, url: str) -> Request:
    """An unsigned request that carries a sample."""
    body = sample.body if isinstance(sample.body, bytes) else encode_json(sample.body)
    headers = {"content-type": sample.content_type, **{k.lower(): v for k, v in sample.headers.items()}}
    return Request("POST", url, headers, body)
