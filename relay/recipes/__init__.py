"""Recipes: senders that ship as settings of a described source, one `<kind>.yaml` each beside this file.

A recipe holds what a source of `kind: custom` may say, and besides what people must know of the sender. A user's
own settings lie over it: each replaces the recipe's of that name. Only tables are told apart one by one, so that a
user who describes one anew keeps the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, Literal
from urllib.parse import urlencode

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from relay.errors import ConfigInvalid
from relay.records import encode_json, instant_of_ns

_SUFFIX: Final = ".yaml"
_FORM: Final = "application/x-www-form-urlencoded"
_FILLED: Final = re.compile(r"\{(n|s|ms|iso)(?:\+(\d+))?\}")
#: Much quicker, where PyYAML was built with it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Sampled(BaseModel):
    """A realistic delivery; in its texts `{n}` is its number, `{iso}`, `{s}` and `{ms}` the time; `{n+7}` adds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: Any
    headers: dict[str, str] = {}
    content_type: str = "application/json"

    def made(self, n: int, now: int) -> bytes:
        """The body for a number and a time in ns."""
        values: dict[str, int | str] = {
            "n": n,
            "s": now // 10**9,
            "ms": now // 10**6,
            "iso": f"{instant_of_ns(now):%Y-%m-%dT%H:%M:%SZ}",
        }
        body = _filled(self.body, values)
        return urlencode(body).encode() if self.content_type == _FORM else encode_json(body)


def _filled(value: Any, values: Mapping[str, int | str]) -> Any:
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> int | str:
        found = values[match[1]]
        return found + int(match[2] or 0) if isinstance(found, int) else found

    # A number that stands alone stays one.
    alone = _FILLED.fullmatch(value)
    return one(alone) if alone else _FILLED.sub(lambda match: str(one(match)), value)


class Recipe(BaseModel):
    """One recipe.

    `title`, `family`, `docs`, `setup`, `deletes` and `limits` are those of `relay.source.Vendor`, `samples` are by
    event type; `settings` is the source's block.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(min_length=1)
    family: Literal["helpdesk", "carts", "ads", "generic"]
    docs: str = Field(pattern="^https://")
    setup: tuple[str, ...] = Field(min_length=1)
    deletes: str = Field(min_length=1)
    limits: tuple[str, ...] = ()
    samples: dict[str, Sampled]
    settings: dict[str, Any]

    def under(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a source of this kind, its own lying over the recipe's; its own tables come first."""
        merged = {**self.settings, **own}
        mine = own.get("tables", [])
        if isinstance(mine, (list, tuple)) and all(isinstance(entry, Mapping) for entry in mine):
            said = {entry.get("table") for entry in mine}
            merged["tables"] = [*mine, *(e for e in self.settings["tables"] if e["table"] not in said)]
        return merged


@cache
def names() -> tuple[str, ...]:
    """The kinds that are recipes, sorted."""
    found = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


@cache
def load(name: str) -> Recipe:
    """One recipe.

    Raises:
        KeyError: there is none of that name.
        ConfigInvalid: its file cannot hold; never of one that ships.
    """
    if name not in names():
        raise KeyError(name)
    text = resources.files(__name__).joinpath(f"{name}{_SUFFIX}").read_text("utf-8")
    try:
        said = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe one, either way
        about = {field: said.pop(field) for field in Recipe.model_fields if field in said}
        return Recipe(**about, settings=said)
    except (yaml.YAMLError, AttributeError, ValidationError) as error:
        raise ConfigInvalid(f"recipe {name}: {error}") from None
