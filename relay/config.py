"""Settings: `relay.yaml`, overridden by `RELAY_*`, checked before anything starts.

Secrets are `${ENV}` or `${file:/run/secrets/x}`. Unknown settings are errors. Every fault names file, line and
setting. What a destination's or a vendor's own block may say is checked by the destination or vendor itself
(`worker.destination.Settings`, `relay.source.Vendor.settings`), with `Config.fault` for the wording.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from relay import alerts, served
from relay.errors import ConfigInvalid
from relay.written import BETWEEN, PREFIX, not_json, read, resolve, unknown_overrides, where, worded

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
MIB: Final = 1024 * 1024
#: Each lane is a drain of its own, and so a connection.
MOST_LANES: Final = 64


def _named(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is not a name: a-z, then a-z, 0-9 and _, at most 40")
    if name == "archive":
        raise ValueError("the name archive is the relay's own")
    return name


Name = Annotated[str, AfterValidator(_named)]


class TableRules(BaseModel):
    """What is redacted before anything is stored: of one table by column, or of one source by body path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drop: tuple[str, ...] = Field((), description="Fields that are left out.")
    hash: tuple[str, ...] = Field((), description="Fields replaced by a keyed hash.")
    mask: tuple[str, ...] = Field((), description="Fields of which only the last four characters stay.")


class SourceSettings(BaseModel):
    """One source's block; what is not named here belongs to its vendor (see `vendor_settings`)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(description="The vendor, see `relay sources`.")
    secrets: tuple[SecretStr, ...] = Field(
        (), description="Signing secrets; all are live, so that one can be rotated without a gap."
    )
    to: tuple[str, ...] = Field((), description="Destinations; default: the only one.")
    tables_as: str = Field(
        "",
        pattern="^([a-z][a-z0-9_]*)?$",
        description="What its tables begin with. Sources of one kind that say the same share their tables.",
    )
    test_events: Literal["keep", "drop"] = Field("keep", description="Tests are rows with `_relay_test`, or none.")
    redact: TableRules | None = Field(
        None, description="Redaction by body path, for all that becomes of an event."
    )
    public_url: str = Field(
        "", description="The address pasted into the vendor's page; needed where the vendor signs the URL."
    )

    @field_validator("secrets", "to", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def vendor_settings(self) -> dict[str, Any]:
        """The settings that only this vendor has."""
        return dict(self.model_extra or {})


class ClientSettings(BaseModel):
    """One client of the served APIs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: tuple[str, ...] = Field((), description="Destinations of what it pushes; default: the only one.")
    prefix: str | None = Field(
        None,
        pattern="^[A-Za-z0-9_]{0,8}$",
        description="What its tables begin with; default: nothing for a destination's first client, else c<id>_.",
    )

    @field_validator("to", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Settings(served.ServedSettings, alerts.AlertSettings, BaseSettings):
    """Everything that `relay.yaml` and `RELAY_*` can say."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=BETWEEN,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    redis_url: SecretStr = Field(
        SecretStr(""), description="Redis or Valkey; empty: the embedded one of `relay up` in the data folder."
    )
    sources: dict[Name, SourceSettings] = Field({}, description="Who may post, by name: POST /hooks/<name>.")
    destinations: dict[Name, dict[str, Any]] = Field(
        {}, description="Where rows go, by name; default: SQLite, DIR/warehouse.db."
    )
    clients: dict[int, ClientSettings] = Field({}, description="Clients of the served APIs, by client id.")
    tables: dict[str, TableRules] = Field({}, description="Redaction by full table name.")
    mask_cards: bool = Field(
        default=True, description="Mask card numbers in free text before anything is stored; ids and numbers stay."
    )
    redaction_key: SecretStr = Field(
        SecretStr(""),
        description="Key of `hash` rules, and of the seal under which uploaded documents wait; keep it, or equal "
        "values no longer hash alike.",
    )
    max_body_bytes: int = Field(10 * MIB, ge=1024, description="A larger body is refused with 413.")
    accept_deadline_s: float = Field(2.0, gt=0, le=30, description="A put that takes longer is answered 503.")
    dedup_days: int = Field(3, ge=1, le=30, description="For how many days a delivery id is remembered.")
    content_dedup_minutes: int = Field(
        10, ge=1, le=60, description="For how long the body of a delivery without an id is remembered."
    )
    max_pending_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of Redis for undelivered events in all; 0: 60 % of its maxmemory, if it has one.",
    )
    max_source_bytes: int = Field(
        0, ge=0, description="The same of one source; 0: half of all, or all of it where there is one source."
    )
    max_dedup_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of Redis that remembered delivery ids may take; over it the oldest day is forgotten. "
        "0: 10 % of its maxmemory, if it has one.",
    )
    max_dead_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of dead letters and quarantine over which there is an alarm; they are never dropped. "
        "0: 15 % of Redis's maxmemory, if it has one.",
    )
    durability: str = Field(
        "disk",
        pattern="^(disk|process)$",
        description="What a 202 means: the event is on Redis's disk, or only in its process, as that is set.",
    )
    max_fence_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of Redis for versions sent to destinations that cannot compare them; 0: 15 % of its "
        "maxmemory, if it has one. Over it what was sent longest ago is forgotten.",
    )
    archive_days: int = Field(30, ge=0, le=3650, description="How long events are kept to replay; 0: not at all.")
    archive_max_bytes: int = Field(
        10 * 1024 * MIB, ge=MIB, description="Bytes of archived events, over which the oldest go."
    )
    keep_refused: bool = Field(
        default=False,
        description="Keep what was refused for its signature for a day, sealed, to be tried again once the secret "
        "is mended (`relay refused`).",
    )
    refused_key: SecretStr = Field(SecretStr(""), description="Seals what `keep_refused` keeps; any long text.")
    refused_max_bytes: int = Field(16 * MIB, ge=65_536, description="Bytes of kept refused requests in all.")
    refused_source_max_bytes: int = Field(4 * MIB, ge=65_536, description="The same of one source.")
    refused_request_max_bytes: int = Field(MIB, ge=1024, description="A larger refused request is not kept.")
    refused_per_second: int = Field(
        10, ge=1, le=1000, description="Refused requests kept in a second, of one source by one web process."
    )
    linger_ms: int = Field(100, ge=0, le=60_000, description="How long a batch may wait for more records.")
    workers: int = Field(2, ge=1, le=64, description="RQ workers of `relay worker` and `relay up`.")
    web_workers: int = Field(2, ge=1, le=64, description="gunicorn worker processes.")
    web_threads: int = Field(16, ge=1, le=512, description="Requests that one gunicorn process works on at once.")
    host: str = Field("0.0.0.0", description="Address that gunicorn listens on.")  # noqa: S104 - a server
    port: int = Field(8080, ge=0, le=65535, description="Port that gunicorn listens on.")
    metrics_token: SecretStr = Field(SecretStr(""), description="Bearer token of GET /metrics; empty: open.")
    log_format: str = Field("auto", pattern="^(auto|json|console)$", description="json off a terminal by default.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level logged.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the hook's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment is above the file."""
        return env_settings, init_settings


class Config:
    """Settings together with where they were written.

    Args:
        settings: checked. path: the file, or None. data_dir: DIR. warnings: sentences for `relay check`.
    """

    def __init__(
        self, settings: Settings, path: Path | None, data_dir: Path, lines: Mapping[str, int], warnings: list[str]
    ) -> None:
        self.settings, self.path, self.data_dir = settings, path, data_dir
        self._lines, self.warnings = lines, warnings

    def fault(self, setting: str, message: str) -> ConfigInvalid:
        """An error that names file, line and setting."""
        return ConfigInvalid(f"{self.where(setting)}: {message}")

    def where(self, setting: str) -> str:
        """`relay.yaml:12: sources.shopify.to`, as far as it is known."""
        return where(self.path, self._lines, setting)

    def lanes(self, destination: str) -> int:
        """How many drains serve a destination at once.

        Raises:
            ConfigInvalid: it is no number that could be served.
        """
        lanes = self.settings.destinations[destination].get("lanes", 1)
        if type(lanes) is not int or not 1 <= lanes <= MOST_LANES:
            raise self.fault(f"destinations.{destination}.lanes", f"a whole number from 1 to {MOST_LANES}")
        return lanes

    def redis_url(self) -> str:
        """The Redis to use: the configured one, or the embedded one of a running `relay up`.

        Raises:
            ConfigInvalid: neither is there.
        """
        url = self.settings.redis_url.get_secret_value()
        if url:
            return url
        found = self.data_dir / "redis.url"
        if found.exists():
            return found.read_text().strip()
        raise ConfigInvalid(
            f"no Redis: set RELAY_REDIS_URL, or start `relay up` (no embedded server runs in {self.data_dir})"
        )


def load(path: Path | None, data_dir: Path) -> Config:
    """Read, resolve and check the settings.

    Args:
        path: `relay.yaml`; None or absent: defaults, or `DIR/demo.yaml` that `relay up` wrote.
        data_dir: the data folder.

    Raises:
        ConfigInvalid: a fault, with file, line and setting.
    """
    if path is not None and not path.exists():
        raise ConfigInvalid(f"{path}: no such file")
    demo = data_dir / "demo.yaml"
    if path is None and demo.exists():
        path = demo
    lines: dict[str, int] = {}
    warnings: list[str] = []
    raw = read(path, lines) if path is not None else {}
    # No fault: a cluster sets variables that nobody asked for, such as RELAY_PORT_80_TCP for a service `relay`.
    warnings += (f"environment, {n}: unknown setting" for n in unknown_overrides(raw, Settings.model_fields))
    raw = resolve(raw, "", path, lines, warnings)
    try:
        settings = Settings(**raw)
    except ValidationError as error:
        faults = (f"{where(path, lines, setting)}: {said}" for setting, said in worded(error))
        raise ConfigInvalid("\n".join(faults)) from None
    except SettingsError as error:
        raise ConfigInvalid(not_json(error)) from None
    config = Config(_with_defaults(settings), path, data_dir, lines, warnings)
    _check_routes(config)
    _check_clients(config)
    if any(rules.hash for rules in settings.tables.values()) and not settings.redaction_key.get_secret_value():
        raise config.fault("redaction_key", "a `hash` rule needs a key: set RELAY_REDACTION_KEY")
    served.check(config.settings, config.settings.destinations, config.fault)
    if settings.keep_refused and not settings.refused_key.get_secret_value().strip():
        raise config.fault("keep_refused", "needs a key to seal with: set refused_key (RELAY_REFUSED_KEY)")
    return config


def _with_defaults(settings: Settings) -> Settings:
    destinations = settings.destinations or {"warehouse": {"kind": "sqlite"}}
    only = tuple(destinations) if len(destinations) == 1 else ()
    sources = {
        name: source if source.to else source.model_copy(update={"to": only})
        for name, source in settings.sources.items()
    }
    return settings.model_copy(update={"destinations": destinations, "sources": sources})


def _check_routes(config: Config) -> None:
    known = config.settings.destinations
    for name, source in config.settings.sources.items():
        if not source.to:
            raise config.fault(f"sources.{name}.to", f"say which of the destinations: {', '.join(known)}")
        for destination in source.to:
            if destination not in known:
                raise config.fault(
                    f"sources.{name}.to", f"there is no destination {destination!r}; known: {', '.join(known)}"
                )


def _check_clients(config: Config) -> None:
    known = config.settings.destinations
    for number, client in config.settings.clients.items():
        if number < 1:
            raise config.fault(f"clients.{number}", "a client id is a number from 1")
        for destination in client.to:
            if destination not in known:
                raise config.fault(
                    f"clients.{number}.to", f"there is no destination {destination!r}; known: {', '.join(known)}"
                )
