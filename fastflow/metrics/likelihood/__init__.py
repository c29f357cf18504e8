"""The likelihood of held-out images, pairs and sequences, by importance sampling or annealed importance sampling."""

from fastflow.metrics.likelihood.images import log_likelihood
from fastflow.metrics.likelihood.models import LatentModel
from fastflow.metrics.likelihood.published import published_bound, published_figure
from fastflow.metrics.likelihood.result import LogLikelihood
from fastflow.metrics.likelihood.sequences import pair_log_likelihood, sequence_log_likelihood

__all__ = [
    "LatentModel",
    "LogLikelihood",
    "log_likelihood",
    "pair_log_likelihood",
    "published_bound",
    "published_figure",
    "sequence_log_likelihood",
]
