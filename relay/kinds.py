"""The kinds that a source may be of: files of `relay/sources`, recipes, and what is described in `relay.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay import catalogue, recipes
from relay.source import Vendor

SOURCES: Final = "relay.sources"
CUSTOM: Final = "custom"


def kinds() -> tuple[str, ...]:
    """All kinds, sorted."""
    return tuple(sorted({*catalogue.names(SOURCES), *recipes.names()}))


def described(kind: str) -> bool:
    """Whether a kind is built from settings, its own or a recipe's, which it checks itself."""
    return kind == CUSTOM or kind in recipes.names()


def vendor_of(kind: str, settings: Mapping[str, Any]) -> Vendor:
    """The vendor of a kind; one is built from its settings for `custom`, and for a recipe from these over its own.

    Raises:
        KeyError: there is no such kind.
        ConfigInvalid: settings of a described source are wrong.
    """
    if kind in recipes.names():
        built: Vendor = catalogue.load(SOURCES, CUSTOM).build(settings, recipes.load(kind))
        return built
    module = catalogue.load(SOURCES, kind)
    vendor: Vendor = module.build(settings) if hasattr(module, "build") else module.vendor
    return vendor
