"""Measures: of a run's traversals, and of what a model knows of held-out data."""

from fastflow.metrics.equivariance import Equivariance, equivariance_error, straight_directions
from fastflow.metrics.likelihood import LogLikelihood, log_likelihood, pair_log_likelihood

__all__ = [
    "Equivariance",
    "LogLikelihood",
    "equivariance_error",
    "log_likelihood",
    "pair_log_likelihood",
    "straight_directions",
]
