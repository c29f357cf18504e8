"""Potential flows beside every baseline on one generator: equal budgets, equal strength, several seeds."""

from fastflow.studies.comparison.study import compare

__all__ = ["compare"]
