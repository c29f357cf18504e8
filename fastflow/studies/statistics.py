"""Means over seeds with standard errors and t tests, and tables of them in Markdown."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastflow.core.plugins import imported

SIGNIFICANT = 0.05
"""A p-value below this counts as evidence."""


class Estimate(NamedTuple):
    """A mean over seeds, its standard error, and a test that it is 0."""

    mean: float
    standard_error: float
    """The standard error of the mean; NaN for a single seed."""
    p: float
    """The two-sided p-value of Student's t test that the mean is 0.

    It is NaN where the spread can't be estimated: for a single seed, and for values that are all the same but not 0, as
    counts of few seeds may be.
    """
    seeds: int


def estimate(values: list[float]) -> Estimate:
    """Estimate the mean of some seeds' values; the test assumes that they are normally distributed."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Estimate(mean, math.nan, math.nan, count)
    stats = _scipy_stats()
    error = float(stats.sem(values))
    if error <= 1e-12 * abs(mean):  # the values differ by rounding at most
        return Estimate(mean, error, 1.0 if mean == 0 else math.nan, count)
    return Estimate(mean, error, float(stats.ttest_1samp(values, 0.0).pvalue), count)


def holm(estimates: list[Estimate]) -> list[Estimate]:
    """Correct p-values for the number of tests, so that they hold for all of them together (Holm, 1979)."""
    corrected = list(estimates)
    tested = sorted((e.p, i) for i, e in enumerate(estimates) if not math.isnan(e.p))
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = estimates[i]._replace(p=highest)
    return corrected


def check_packages() -> None:
    """Raise InputError unless SciPy, which the statistics need, is installed."""
    _scipy_stats()


def _scipy_stats() -> Any:
    return imported("scipy.stats", "metrics", "a study")


def mean_cell(values: list[float], digits: int) -> str:
    """A table's cell with the mean and standard error of some seeds' values; empty where there are none."""
    if not values:
        return ""
    found = estimate(values)
    error = "" if math.isnan(found.standard_error) else f" ± {found.standard_error:.{digits}f}"
    return f"{found.mean:.{digits}f}{error}"


def p_cell(p: float) -> str:
    """A table's cell with a p-value; empty where it is NaN."""
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def table_rows(heads: list[str], rows: list[str]) -> str:
    """A table in Markdown, from its column heads and its rows."""
    return "\n".join([table_row(*heads), f"|{'---|' * len(heads)}", *rows])


def table_row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
