"""Finds the members of a folder: the file's name is the member's public name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType


@cache
def names(package: str) -> tuple[str, ...]:
    """The public names in a package's folder, sorted."""
    folder = importlib.import_module(package)
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_")))


@cache
def load(package: str, name: str) -> ModuleType:
    """One member, imported on first use.

    Raises:
        KeyError: the folder has no such member.
    """
    if name not in names(package):
        raise KeyError(name)
    return importlib.import_module(f"{package}.{name}")
