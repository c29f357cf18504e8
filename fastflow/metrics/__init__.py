"""Measures: of a run's traversals, and of what a model knows of held-out data."""

from fastflow.metrics.equivariance import Equivariance, equivariance_error, straight_directions
from fastflow.metrics.likelihood import LogLikelihood, log_likelihood, pair_log_likelihood
from fastflow.metrics.purity import Purity, purity
from fastflow.metrics.strokes import STROKE_ATTRIBUTES, stroke_attributes

__all__ = [
    "STROKE_ATTRIBUTES",
    "Equivariance",
    "LogLikelihood",
    "Purity",
    "equivariance_error",
    "log_likelihood",
    "pair_log_likelihood",
    "purity",
    "straight_directions",
    "stroke_attributes",
]
