"""What a bench found, as rows of one Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One figure.

    Args:
        bench: which bench. what: the measure. ours, beside: the two sides as text, the second empty for none.
        figure: what is compared with the target, as text. target: as text, empty for none.
        met: whether it is; None where there is no target.
    """

    bench: str
    what: str
    ours: str
    beside: str = ""
    figure: str = ""
    target: str = ""
    met: bool | None = None


def at_least(bench: str, what: str, ours: str, beside: str, figure: float, target: float) -> Row:
    """A ratio that must not be lower."""
    return Row(bench, what, ours, beside, f"{figure:.2f} x", f">= {target} x", figure >= target)


def at_most(bench: str, what: str, ours: str, figure: float, target: float, unit: str) -> Row:
    """A figure that must not be higher."""
    return Row(bench, what, ours, "", f"{figure:.4g} {unit}", f"<= {target:g} {unit}", figure <= target)


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| bench | what | rowhook | beside | figure | target | met |", "|---|---|---|---|---|---|---|"]
    said = {True: "yes", False: "**no**", None: ""}
    for row in rows:
        cells = (row.bench, row.what, row.ours, row.beside, row.figure, row.target, said[row.met])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
