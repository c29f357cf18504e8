"""Estimates over seeds against SciPy, Holm's correction, and the cells of tables."""

import math

import pytest
import torch
from scipy import special

from fastflow.studies.statistics import Estimate, estimate, holm, mean_cell, p_cell, table_row, table_rows

VALUES = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).add(0.8).tolist()


def test_estimate_is_students_test():
    """By the formulas: s / sqrt(n), and twice the tail of Student's t with n - 1 degrees of freedom."""
    found, values = estimate(VALUES), torch.tensor(VALUES, dtype=torch.float64)
    error = float(values.std()) / math.sqrt(7)
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.standard_error == pytest.approx(error)
    assert found.p == pytest.approx(2 * special.stdtr(6, -float(values.mean()) / error))
    assert found.seeds == 7


def test_one_seed_has_no_error():
    found = estimate([3.0])
    assert found.mean == 3.0
    assert math.isnan(found.standard_error)
    assert math.isnan(found.p)


def test_values_without_spread_prove_nothing():
    """Three seeds that each cover one attribute more: as counts may, by chance."""
    for value in (1.0, 0.1):
        found = estimate([value] * 3)
        assert found.mean == pytest.approx(value)
        assert math.isnan(found.p)
    assert estimate([0.0] * 3).p == 1.0


def test_holm():
    """By hand: the smallest of four times 4, the next times 3, never below the one before, at most 1."""
    given = [0.04, 0.01, 0.6, 0.02, math.nan]
    corrected = [e.p for e in holm([Estimate(1.0, 1.0, p, 5) for p in given])]
    assert corrected[:4] == pytest.approx([0.08, 0.04, 0.6, 0.06])
    assert math.isnan(corrected[4])


def test_cells_and_tables():
    assert mean_cell([], 2) == ""
    assert mean_cell([1.5], 2) == "1.50"
    assert mean_cell([1.0, 2.0], 1) == "1.5 ± 0.5"
    assert [p_cell(p) for p in (0.0004, 0.0314, math.nan)] == ["< 0.001", "0.031", ""]
    assert table_rows(["a", "b"], [table_row("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"
