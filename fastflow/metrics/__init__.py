"""Measures: of a run's traversals, and of what a model knows of held-out data."""

from fastflow.metrics.likelihood import LogLikelihood, log_likelihood

__all__ = ["LogLikelihood", "log_likelihood"]
