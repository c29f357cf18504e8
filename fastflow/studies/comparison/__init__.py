"""The comparison of potential flows with every baseline on one generator: equal budgets and strength, several seeds."""

from fastflow.studies.comparison.study import compare

__all__ = ["compare"]
