"""Sources as they are configured: a vendor, its secrets, and where its records go. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from relay import sharing
from relay.buffer.keys import ARCHIVE, lane_name
from relay.config import Config, SourceSettings
from relay.described import Misdescribed
from relay.errors import ConfigInvalid, Unauthenticated, UnknownSource
from relay.kinds import described, kinds, vendor_of
from relay.records import Request, Table
from relay.redaction import Redaction, redaction_of
from relay.signatures import Verifier
from relay.source import Sample, Vendor, sample_request


class Source:
    """One configured sender: a vendor, its secrets, and where its records go.

    Args:
        name: of its URL and its tables. vendor: what it speaks. secrets: all live ones.
        settings: the vendor's own. to: destination -> number of its lanes. public_url: as the vendor was given it.
    """

    def __init__(  # noqa: PLR0913 - a configured source has so many sides
        self,
        name: str,
        vendor: Vendor,
        secrets: tuple[str, ...],
        settings: Mapping[str, Any],
        to: Mapping[str, int],
        *,
        kind: str,
        public_url: str = "",
        archived: bool = True,
        redaction: Redaction | None = None,
        mask_cards: bool = True,
        tables_as: str = "",
        drop_tests: bool = False,
    ) -> None:
        self.name, self.vendor, self.secrets, self.settings = name, vendor, secrets, settings
        self.to, self.kind, self.public_url = dict(to), kind, public_url
        self.redaction, self.mask_cards = redaction, mask_cards
        self.archive = (lane_name(ARCHIVE, 0, 1),) if archived else ()
        self.verifier: Verifier = vendor.verifier(settings)
        self.shares, self.drop_tests = bool(tables_as), drop_tests
        self.tables = tables_of(vendor, tables_as or name, shares=self.shares)
        self.declared = dict(self.tables.values())
        self.schemas = {table.schema_id: table.declaration for table in self.declared.values()}


def tables_of(vendor: Vendor, prefix: str, *, shares: bool) -> dict[str, tuple[str, Table]]:
    """A vendor's tables: short name -> full name and declaration."""
    return {
        short: (f"{prefix}_{short}", sharing.shared(table) if shares else table)
        for short, table in vendor.tables.items()
    }


def sources_of(config: Config) -> dict[str, Source]:
    """All configured sources, checked.

    Raises:
        ConfigInvalid: an unknown kind or setting, with file and line.
    """
    sources = {name: _source(config, name, block) for name, block in config.settings.sources.items()}
    _check_shared(config, sources)
    return sources


def _check_shared(config: Config, sources: Mapping[str, Source]) -> None:
    """A table is one source's, or all of its sources share it and are of one kind."""
    first: dict[str, Source] = {}
    for name, source in sources.items():
        for full in source.declared:
            other = first.setdefault(full, source)
            if other is not source and not (source.shares and other.shares and source.kind == other.kind):
                at = f"sources.{name}" + (".tables_as" if source.shares else "")
                why = f"its table {full} is {other.name}'s too: sources share tables by one `tables_as`"
                raise config.fault(at, f"{why}, and are then of one kind")


def _source(config: Config, name: str, block: SourceSettings) -> Source:
    at = f"sources.{name}"
    try:
        vendor = vendor_of(block.kind, block.vendor_settings)
    except KeyError:
        known = ", ".join(kinds())
        raise config.fault(f"{at}.kind", f"there is no kind {block.kind!r}; known: {known}") from None
    except Misdescribed as error:
        faults = (str(config.fault(f"{at}.{path}", said)) for path, said in error.faults)
        raise ConfigInvalid("\n".join(faults)) from None
    except ConfigInvalid as error:
        raise config.fault(at, str(error)) from None
    settings = dict(block.vendor_settings)
    if not described(block.kind):
        for setting in settings:
            if setting not in vendor.settings:
                raise config.fault(f"{at}.{setting}", f"unknown setting of kind {block.kind}")
        settings = {k: settings.get(k, s.default) for k, s in vendor.settings.items()}
    lanes = {d: config.lanes(d) for d in block.to}
    tables = dict(tables_of(vendor, block.tables_as or name, shares=bool(block.tables_as)).values())
    secrets = tuple(s.get_secret_value() for s in block.secrets if s.get_secret_value())
    redaction = redaction_of(config, block, tables)
    try:
        return Source(
            name,
            vendor,
            secrets,
            settings,
            lanes,
            kind=block.kind,
            public_url=block.public_url,
            archived=config.settings.archive_days > 0,
            redaction=redaction,
            mask_cards=config.settings.mask_cards,
            tables_as=block.tables_as,
            drop_tests=block.test_events == "drop",
        )
    except ConfigInvalid as error:  # a setting that its vendor's proof cannot be made of
        setting, _, said = str(error).partition(": ")
        raise config.fault(*((f"{at}.{setting}", said) if setting in settings else (at, str(error)))) from None


def find(sources: Mapping[str, Source], name: str) -> Source:
    """A source by its URL's name.

    Raises:
        UnknownSource: there is none.
    """
    source = sources.get(name)
    if source is None:
        raise UnknownSource(f"no source {name[:40]!r}")
    return source


def signed_sample(source: Source, type_: str, url: str, n: int, now: int, *, body: bytes | None = None) -> Request:
    """A realistic delivery as the source's vendor would have sent and signed it.

    Args:
        source: whose secret signs it.
        type_: of the sample.
        url: where it is sent; a `public_url` is signed instead.
        n: number of the object.
        now: ns since 1970.
        body: sent in place of the sample's; then the type need not be known.

    Raises:
        ConfigInvalid: there is nothing to send, or to sign with.
    """
    samples = source.vendor.samples
    if body is None and type_ not in samples:
        known = ", ".join(samples) or "none, use --file"
        raise ConfigInvalid(f"kind {source.kind} has no sample {type_[:80]!r}; it has: {known}")
    if not source.secrets:
        raise ConfigInvalid(f"source {source.name} has no secret, so nothing can be signed")
    make = samples.get(type_) or next(iter(samples.values()), None)
    sample = make(n, now) if make is not None else Sample(b"")
    if body is not None:
        sample = msgspec.structs.replace(sample, body=body)
    request = sample_request(sample, source.public_url or url)
    try:
        return source.verifier.sign(request, source.secrets[0], now)
    except Unauthenticated as error:
        raise ConfigInvalid(f"source {source.name} cannot sign: {error}") from None
