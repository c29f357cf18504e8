"""Means over seeds, how sure they are, and tables of them in Markdown."""

from __future__ import annotations

import math
from typing import NamedTuple

from fastflow.core.plugins import imported

SIGNIFICANT = 0.05


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    standard_error: float
    """NaN for a single seed."""
    p: float
    """Two-sided, of Student's t test that the mean is 0; NaN where there is no test: of a single seed, or of values all
    the same and not 0, as counts of few seeds may be, whose spread can't be estimated."""
    seeds: int


def estimate(values: list[float]) -> Estimate:
    """The mean of some seeds' values; its test supposes them normal."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Estimate(mean, math.nan, math.nan, count)
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    if error <= 1e-12 * abs(mean):  # but for rounding, 0
        return Estimate(mean, error, 1.0 if mean == 0 else math.nan, count)
    stats = imported("scipy.stats", "metrics", "a study")
    return Estimate(mean, error, float(2 * stats.t.sf(abs(mean / error), count - 1)), count)


def holm(estimates: list[Estimate]) -> list[Estimate]:
    """The same with p-values that hold for all of them together (Holm, 1979)."""
    corrected = list(estimates)
    tested = sorted((e.p, i) for i, e in enumerate(estimates) if not math.isnan(e.p))
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = estimates[i]._replace(p=highest)
    return corrected


def check_packages() -> None:
    """Raise InputError unless what the statistics need is there."""
    imported("scipy.stats", "metrics", "a study")


def mean_cell(values: list[float], digits: int) -> str:
    """Mean and standard error of some seeds' values, nothing where there are none."""
    if not values:
        return ""
    found = estimate(values)
    error = "" if math.isnan(found.standard_error) else f" ± {found.standard_error:.{digits}f}"
    return f"{found.mean:.{digits}f}{error}"


def p_cell(p: float) -> str:
    """A p-value, nothing where there is none."""
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def table_rows(heads: list[str], rows: list[str]) -> str:
    """A table in Markdown."""
    return "\n".join([table_row(*heads), f"|{'---|' * len(heads)}", *rows])


def table_row(*cells: str) -> str:
    """One of its rows."""
    return f"| {' | '.join(cells)} |"
