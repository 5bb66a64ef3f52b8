"""Lets a setuptools of today build what once asked for 2to3: rjmetrics, whose code is Python 3 by itself."""

from __future__ import annotations

from typing import Any


def forget(distribution: Any) -> None:
    """Drop the wish before setuptools refuses it."""
    distribution.use_2to3 = None


forget.order = -1  # type: ignore[attr-defined]
