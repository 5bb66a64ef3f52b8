"""What the contract of vendors is checked with: kinds and cases found by folder, and requests signed for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from relay import catalogue, intake, recipes
from relay.kinds import kinds as every_kind
from relay.records import NS, RANK_DIGITS, SEQUENCE_DIGITS, TIME_DIGITS, Event, Record, Request, Table, decode_json
from relay.signatures import Basic, Hmac, Timestamp, Token, Verifier
from relay.source import Vendor

PAYLOADS = Path(__file__).parents[1] / "payloads"
NOW = 1_772_352_960 * NS  # 2026-03-01 08:16:00 UTC, on a whole second as every timestamp's text is
HOSTILE_SIGNATURES = (
    *(
        "",
        " ",
        "garbage",
        "v1,",
        "v1,é",
        "v1,=",
        "t=1,v1=",
        "t=9e9,v1=é",
        "t=1;h1=é",
        "t=,v1=",
        "sha256=",
        "sha1=",
    ),
    *("=", ",", "\x00", "Basic", "Basic é", "Basic OjpA", "Bearer", "Bearer a.b.c", "-1", "9" * 400, "٣", "null"),
    *("1970-01-01T00:00:00Z", "x" * 1_000_000, "v1,a " * 100_000, "\udcff"),
)
HOSTILE_BODIES = (
    *(
        b"",
        b" ",
        b"{",
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf{}",
        b"nul",
        b"NaN",
        b"1e999999999",
        b"[" * 10_000 + b"]" * 10_000,
    ),
    *(b'"\\ud800"', b'{"id":"\\ud800"}', b'{"type":"\\ud800"}', b'{"a":"\\u0000"}', b'{"\\u0000":1}'),
    *(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"null", b"true", b"0", b'"x"', b"[]", b"[null]", b"[[]]", b"{}"),
    *(b'{"data":null}', b'{"data":{"object":[]}}', b'{"id":null}', b'{"id":{}}', b'{"type":{}}'),
    *(b'{"type":null,"id":[]}', b"a=1&a=2", b"payload=%7B", b"%ff=%00"),
)
#: What a field of a payload is replaced by, one at a time; `DROPPED` takes it away, `RENAMED` calls it otherwise.
DROPPED, RENAMED = object(), object()
WRONG = (
    *(
        DROPPED,
        RENAMED,
        None,
        "",
        "x",
        "0",
        "é\x00",
        0,
        -1,
        True,
        [],
        {},
        [None],
        [[]],
        {"id": None},
        ["x"],
        {"data": [1]},
    ),
    *(10**19, -(10**30), Decimal("1E+400"), Decimal("-0.5"), "2026-13-45T00:00:00Z", "0001-01-01T00:00:00+14:00"),
    *("9999-12-31T23:59:59-05:00", "1e30", 2**63, "2026-03-01"),
)
_SEQUENCE_END = TIME_DIGITS + SEQUENCE_DIGITS
_sorted_json = msgspec.json.Encoder(order="sorted", decimal_format="number")


def kinds() -> tuple[str, ...]:
    """Every vendor, file or recipe; `custom` is none, each of its cases builds one from its source.json."""
    found = catalogue.names(intake.SOURCES)
    files = (kind for kind in found if hasattr(catalogue.load(intake.SOURCES, kind), "vendor"))
    return (*files, *recipes.names())


def all_kinds() -> set[str]:
    return set(every_kind())


def vendor_of(kind: str) -> Vendor:
    return intake.vendor_of(kind, {})


class Case(NamedTuple):
    """One folder `tests/payloads/<kind>/<name>/`."""

    kind: str
    name: str

    @property
    def folder(self) -> Path:
        return PAYLOADS / self.kind / self.name

    @property
    def vendor(self) -> Vendor:
        block = self.folder / "source.json"
        return intake.vendor_of(self.kind, json.loads(block.read_bytes()) if block.exists() else {})

    @property
    def head(self) -> dict[str, Any]:
        """What request.json says: headers, query, settings, content_type."""
        return dict(json.loads((self.folder / "request.json").read_bytes()))

    @property
    def settings(self) -> dict[str, Any]:
        return {**defaults(self.vendor), **self.head.get("settings", {})}

    @property
    def verifier(self) -> Verifier:
        return self.vendor.verifier(self.settings)

    @property
    def is_challenge(self) -> bool:
        """A folder with reply.json in place of records.json: an unsigned request and what it is answered."""
        return (self.folder / "reply.json").exists()

    @property
    def reply(self) -> Any:
        return json.loads((self.folder / "reply.json").read_bytes())

    @property
    def expected(self) -> list[dict[str, Any]]:
        """The events of records.json, with all that may be left out filled in."""
        return [
            {"id": "", "at": None, "test": False, **event, "records": in_order(map(_filled, event["records"]))}
            for event in decode_json((self.folder / "records.json").read_bytes())["events"]
        ]

    def request(self) -> Request:
        """The delivery, unsigned."""
        head = self.head
        query = dict(head.get("query", {}))
        url = self.settings.get("public_url") or f"https://relay.example/hooks/{self.kind}"
        return Request(
            method=head.get("method", "POST"),
            url=f"{url}?{urlencode(query)}" if query else url,
            headers={
                "content-type": head.get("content_type", "application/json"),
                **{name.lower(): value for name, value in head.get("headers", {}).items()},
            },
            body=(self.folder / "body").read_bytes() if (self.folder / "body").exists() else b"",
            query=query,
        )


def cases() -> list[Case]:
    """All case folders, of kinds that exist and of kinds that do not."""
    return [Case(f.parent.name, f.name) for f in sorted(PAYLOADS.glob("*/*")) if f.is_dir()]


def defaults(vendor: Vendor) -> dict[str, Any]:
    return {name: setting.default for name, setting in vendor.settings.items()}


# --- proof --------------------------------------------------------------------------------------------


def mechanisms(verifier: Verifier) -> Iterator[Any]:
    """A verifier and those that it is made of."""
    yield verifier
    for part in vars(verifier).values():
        for inner in part if isinstance(part, (tuple, list)) else (part,):
            if hasattr(inner, "verify") and hasattr(inner, "sign"):
                yield from mechanisms(inner)


def secret_for(vendor: Vendor, verifier: Verifier, number: int) -> str:
    """A secret of the form that the vendor gives out; another one for each number."""
    made = getattr(verifier, "test_secret", None)
    if made is not None:
        return str(made(number))
    raw = bytes([number + 1]) * 32
    parts = list(mechanisms(verifier))
    if any(isinstance(part, Basic) for part in parts[:2]):
        return f"relay{number}:s3cret-{number}"
    form = next((part.key for part in parts if isinstance(part, Hmac)), "utf8")
    if form == "hex":
        return raw.hex()
    text = base64.b64encode(raw).decode() if form in {"base64", "whsec"} else f"k{number}-" + raw.hex()
    return vendor.secret_like + text.removeprefix(vendor.secret_like)


def covers_body(verifier: Verifier) -> bool:
    """False where the proof says who sent, and nothing of what was sent."""
    first = next(iter(getattr(verifier, "choices", ())), verifier)
    if isinstance(first, Hmac):
        return "body" in first.parts[1::2]
    return not isinstance(first, (Token, Basic)) and getattr(first, "covers_body", True) is not False


def timestamp_of(verifier: Verifier) -> Timestamp | None:
    """The time that the first scheme signs, if it does."""
    first = next(iter(getattr(verifier, "choices", ())), verifier)
    return next(
        (t for part in mechanisms(first) if isinstance(t := getattr(part, "timestamp", None), Timestamp)), None
    )


def added_by_signing(plain: Request, signed: Request) -> tuple[list[str], list[str]]:
    """The headers and the query fields that prove a request."""
    headers = [name for name, value in signed.headers.items() if plain.headers.get(name) != value]
    return headers, [name for name, value in signed.query.items() if plain.query.get(name) != value]


# --- reading ------------------------------------------------------------------------------------------


def read(vendor: Vendor, request: Request) -> list[Event]:
    """A verified request's events, the way intake reads them."""
    data = intake.decode_body(request, forms=vendor.forms)
    return vendor.read(request, data if vendor.scrub is None else vendor.scrub(data))


def mapped(vendor: Vendor, event: Event) -> list[Record]:
    mapper = vendor.mapper(event.type)
    return [] if mapper is None else list(mapper(event))


def outcome(vendor: Vendor, request: Request) -> list[dict[str, Any]]:
    """A delivery in the words of records.json."""
    return [
        {
            **{name: getattr(event, name) for name in ("type", "id", "at", "test")},
            "records": in_order(in_words(record) for record in mapped(vendor, event)),
        }
        for event in read(vendor, request)
    ]


def in_words(record: Record) -> dict[str, Any]:
    """A record in the words of records.json."""
    time = record.version[:TIME_DIGITS]
    words = {
        "table": record.table,
        "op": record.op,
        "at": None if time.startswith("-") else int(time),
        "sequence": int(record.version[TIME_DIGITS:_SEQUENCE_END]),
        "rank": int(record.version[_SEQUENCE_END:]),
        "data": record.data,
    }
    return words if record.members is None else {**words, "members": record.members, "complete": record.complete}


def _filled(record: Mapping[str, Any]) -> dict[str, Any]:
    words = {"at": None, "sequence": 0, "rank": 99 if record["op"] == "gone" else 0, **record}
    return {"members": [], "complete": True, **words} if record["op"] == "set" else words


def exactly(value: Any) -> str:
    """A value as text in which `1.10` is not `1.1`, `1` is not `"1"`, and the order of fields says nothing."""
    return _sorted_json.encode(value).decode()


def in_order(records: Any) -> list[dict[str, Any]]:
    """Records by table and content: the order in which a mapper yields them means nothing."""
    return sorted(records, key=lambda record: (record["table"], record["op"], exactly(record)))


# --- checks that several tests share -----------------------------------------------------------------


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a decoded body."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from places(data[key])


def spoil(data: Any, place: int, wrong: Any) -> None:
    found = list(places(data))
    container, key = found[place % len(found)]
    if wrong is DROPPED:
        del container[key]
    elif wrong is RENAMED:
        other = f"{key}_2" if isinstance(container, dict) else key
        container[other] = container.pop(key) if isinstance(container, dict) else container[key]
    else:
        container[key] = wrong


def check_all(vendor: Vendor, request: Request) -> None:
    for event in read(vendor, request):
        for record in mapped(vendor, event):
            check(record, vendor.tables[record.table])


def check(record: Record, table: Table) -> None:
    assert len(record.version) == TIME_DIGITS + SEQUENCE_DIGITS + RANK_DIGITS
    if record.op == "set":
        assert table.parent
        assert set(record.data) == set(table.parent)
        identities = [tuple(str(member[column]) for column in table.key) for member in record.members or ()]
        assert len(set(identities)) == len(identities), "two members of one set have the same key"
        rows = [record.data, *(record.members or ())]
        assert all(row[column] == record.data[column] for row in rows for column in table.parent)
    else:
        assert record.op in {"row", "gone", "full_gone"}
        rows = [record.data]
    if record.op == "gone":
        assert set(record.data) == set(table.key)
    for row in rows:
        key = table.parent if row is record.data and record.op == "set" else table.key
        assert all(row[column] is not None for column in key)
        assert all(isinstance(row[column], (str, int)) for column in key)
        assert not any(column.startswith("_relay") for column in row)
