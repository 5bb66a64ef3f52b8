"""Redaction, before anything is stored: fields that are dropped, hashed under a key, or masked. Pure.

Rules come from two places. A source's `redact` names paths of the body (`customer.email`; lists are walked
through); they hold for all that becomes of an event. A table's `drop`, `hash` and `mask` name its columns; since
the same value stands in the body that is kept for replay, every field of that name is redacted there as well.
Doing it twice is doing it once, so that a replay of a redacted body ends in the same rows.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from relay.config import Config, SourceSettings, TableRules
from relay.records import Record, Table, encode_json

Act = Callable[[Any], Any]
_DROPPED: Final = object()
_SHOWN: Final = 4
_MARK: Final = "hmac-"
_HASHED: Final = re.compile(_MARK + "[0-9a-f]{64}")


class Redaction:
    """All rules of one source.

    Args:
        paths: rules by body path. tables: rules by full table name. key: of the hash.
    """

    def __init__(self, paths: TableRules | None, tables: Mapping[str, TableRules], key: bytes) -> None:
        self._key = key
        self._paths = [(tuple(path.split(".")), act) for path, act in self._acts(paths).items()]
        self._tables = {name: self._acts(rules) for name, rules in tables.items()}
        self._names = {name: act for acts in self._tables.values() for name, act in acts.items()}

    def body(self, data: Any) -> Any:
        """A decoded body without what paths name; the argument is left as it is."""
        for path, act in self._paths:
            data = _at(data, path, act)
        return data

    def kept(self, data: Any) -> Any:
        """What may be kept of a body: also without every field that a table's column names."""
        return _named(data, self._names) if self._names else data

    def record(self, record: Record) -> Record:
        """A record without what its table's rules name."""
        acts = self._tables.get(record.table)
        if acts is None:
            return record
        members = None if record.members is None else [_row(member, acts) for member in record.members]
        return msgspec.structs.replace(record, data=_row(record.data, acts), members=members)

    @staticmethod
    def unread(body: bytes) -> bytes:
        """What may be kept of a body that cannot be read: its size and hash."""
        return encode_json({"size": len(body), "sha256": hashlib.sha256(body).hexdigest()})

    def _acts(self, rules: TableRules | None) -> dict[str, Act]:
        if rules is None:
            return {}
        acts: dict[str, Act] = dict.fromkeys(rules.mask, mask)
        acts.update(dict.fromkeys(rules.hash, self._hash))
        acts.update(dict.fromkeys(rules.drop, _drop))
        return acts

    def _hash(self, value: Any) -> Any:
        if value is None or value == "" or (isinstance(value, str) and _HASHED.fullmatch(value)):
            return value
        text = value if isinstance(value, str) else encode_json(value).decode()
        return _MARK + hmac.new(self._key, text.strip().lower().encode(), hashlib.sha256).hexdigest()


def mask(value: Any) -> Any:
    """A value of which only the last four characters stay; shorter ones vanish whole."""
    if value is None or value == "":
        return value
    text = value if isinstance(value, str) else encode_json(value).decode()
    return "*" * (len(text) - _SHOWN) + text[-_SHOWN:] if len(text) > 2 * _SHOWN else "*" * len(text)


def _drop(_value: Any) -> Any:
    return _DROPPED


def _row(row: dict[str, Any], acts: Mapping[str, Act]) -> dict[str, Any]:
    done = {name: acts[name](value) if name in acts else value for name, value in row.items()}
    return {name: value for name, value in done.items() if value is not _DROPPED}


def _at(value: Any, path: tuple[str, ...], act: Act) -> Any:
    if isinstance(value, list):
        return [_at(item, path, act) for item in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    done = act(value[path[0]]) if len(path) == 1 else _at(value[path[0]], path[1:], act)
    changed = {**value, path[0]: done}
    return {name: v for name, v in changed.items() if v is not _DROPPED}


def _named(value: Any, acts: Mapping[str, Act]) -> Any:
    if isinstance(value, list):
        return [_named(item, acts) for item in value]
    if not isinstance(value, dict):
        return value
    done = {name: acts[name](v) if name in acts else _named(v, acts) for name, v in value.items()}
    return {name: v for name, v in done.items() if v is not _DROPPED}


def redaction_of(config: Config, block: SourceSettings, tables: Mapping[str, Table]) -> Redaction | None:
    """The rules of one source, None where it has none.

    Args:
        config: all settings.
        block: the source's own.
        tables: full table name to declaration.

    Raises:
        ConfigInvalid: rules that cannot hold.
    """
    rules = {table: found for table, found in config.settings.tables.items() if table in tables}
    if not rules and block.redact is None:
        return None
    acts: dict[str, str] = {}
    for table, found in rules.items():
        for kind in ("drop", "hash", "mask"):
            for column in getattr(found, kind):
                at = f"tables.{table}.{kind}"
                if kind == "drop" and column in tables[table].key:
                    raise config.fault(at, f"{column} is part of the key: hash it instead")
                # The kept body tells fields apart by their names alone.
                if acts.setdefault(column, kind) != kind:
                    raise config.fault(at, f"another rule says {acts[column]} for {column}: use one for both")
    key = config.settings.redaction_key.get_secret_value()
    if not key and ("hash" in acts.values() or (block.redact is not None and block.redact.hash)):
        raise config.fault("redaction_key", "a `hash` rule needs a key: set RELAY_REDACTION_KEY")
    return Redaction(block.redact, rules, key.encode())
