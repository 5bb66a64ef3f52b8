"""`relay.yaml` as it is written: its values with the line of each, what they refer to, and how a fault is worded.

The environment (`RELAY_*`, with `__` between the parts of a name) is above the file, and so is blamed before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsError

from relay.errors import ConfigInvalid

PREFIX: Final = "RELAY_"
BETWEEN: Final = "__"
#: What the product itself reads besides settings; the last is how a listening socket is handed down.
_OURS: Final = frozenset({"RELAY_CONFIG", "RELAY_DATA", "RELAY_LISTEN_FD"})
_REFERENCE: Final = re.compile(r"\$\{(file:)?([^}]+)\}")


def worded(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Each fault's setting, and what is wrong with it; no value is repeated."""
    for fault in error.errors(include_url=False, include_input=False):
        unknown = fault["type"] == "extra_forbidden"
        message = "unknown setting" if unknown else fault["msg"].removeprefix("Value error, ")
        yield ".".join(str(part) for part in fault["loc"] if part != "[key]"), message


def not_json(error: SettingsError) -> str:
    """Which variable of the environment is not JSON, where its setting needs that."""
    value = getattr(error.__cause__, "doc", None)
    names = [name for name, text in os.environ.items() if name.upper().startswith(PREFIX) and text == value]
    return f"environment, {' or '.join(names) or PREFIX}: not JSON, as lists and blocks are written there"


def unknown_overrides(raw: Any, known: Collection[str]) -> list[str]:
    """Variables of the environment that look like settings and are none, but for those that the file refers to."""
    named = _OURS | _references(raw)
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith(PREFIX)
        and name not in named
        and name.upper().removeprefix(PREFIX).partition(BETWEEN)[0].lower() not in known
    )


def _references(raw: Any) -> set[str]:
    if isinstance(raw, (dict, list)):
        return set().union(*map(_references, raw.values() if isinstance(raw, dict) else raw))
    return {found[2] for found in _REFERENCE.finditer(raw)} if isinstance(raw, str) else set()


def where(path: Path | None, lines: Mapping[str, int], setting: str) -> str:
    """`relay.yaml:12: sources.shop.to`, as far as it is known; or the variable that says it instead."""
    probe = setting
    while probe and probe not in lines and _variable(probe) is None:
        probe = probe.rpartition(".")[0]
    variable = _variable(probe) if probe else None
    return f"environment, {variable}: {setting}" if variable else _in_file(path, lines, setting)


def _variable(setting: str) -> str | None:
    """The variable that is set and says a setting."""
    wanted = f"{PREFIX}{setting.replace('.', BETWEEN)}".upper()
    return next((name for name in os.environ if name.upper() == wanted), None)


def _in_file(path: Path | None, lines: Mapping[str, int], setting: str) -> str:
    probe = setting
    while probe and probe not in lines:
        probe = probe.rpartition(".")[0]
    at = f"{path}:{lines[probe]}" if probe else str(path or "environment")
    return f"{at}: {setting}" if setting else at


def read(path: Path, lines: dict[str, int]) -> dict[str, Any]:
    """The file's values; `lines` takes the line of each.

    Raises:
        ConfigInvalid: it cannot be read, is not YAML, or says something twice.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigInvalid(f"{at}: not YAML: {getattr(error, 'problem', error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from None
    if node is None:
        return {}
    _mark(node, "", path, lines)
    value = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if not isinstance(value, dict):
        raise ConfigInvalid(f"{path}:1: settings are a mapping, such as `sources:`")
    return value


def _mark(node: yaml.Node, at: str, path: Path, lines: dict[str, int]) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{at}.{key.value}" if at else str(key.value)
            if place in lines:
                raise ConfigInvalid(
                    f"{path}:{key.start_mark.line + 1}: {place}: written twice, first in line {lines[place]}"
                )
            lines[place] = key.start_mark.line + 1
            _mark(value, place, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _mark(value, f"{at}.{index}", path, lines)


def resolve(value: Any, at: str, path: Path | None, lines: Mapping[str, int], warnings: list[str]) -> Any:
    """A value with what it refers to in its place; `warnings` takes secrets that are not there yet.

    Raises:
        ConfigInvalid: something else is not there.
    """
    if isinstance(value, dict):
        return {k: resolve(v, f"{at}.{k}" if at else str(k), path, lines, warnings) for k, v in value.items()}
    if isinstance(value, list):
        found = [resolve(v, f"{at}.{i}", path, lines, warnings) for i, v in enumerate(value)]
        return [v for v in found if v is not None] if at.endswith(".secrets") else found
    if not isinstance(value, str) or "${" not in value:
        return value
    missing = [m[0] for m in _REFERENCE.finditer(value) if _lookup(m) is None]
    if missing:
        message = f"{_in_file(path, lines, at)}: {missing[0]} is not set"
        if ".secrets" in at:
            # The vendor may show the secret only after the URL is registered, so the source starts without it.
            warnings.append(message)
            return None if at.rpartition(".")[2].isdigit() else []
        raise ConfigInvalid(message)
    return _REFERENCE.sub(lambda m: _lookup(m) or "", value)


def _lookup(match: re.Match[str]) -> str | None:
    if match[1]:
        try:
            return Path(match[2]).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None
    return os.environ.get(match[2]) or None
