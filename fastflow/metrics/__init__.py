"""Measures of traversals, of codes against known factors, and of a model's fit to held-out data."""

from fastflow.latents.attributes.appearance import appearance, appearance_names
from fastflow.latents.attributes.strokes import STROKE_ATTRIBUTES, stroke_attributes
from fastflow.metrics.attributes import AttributeCorrelation, attribute_correlation
from fastflow.metrics.equivariance import Equivariance, equivariance_error, straight_directions
from fastflow.metrics.factor_classifiers import DCI, BetaVAE, FactorVAE, beta_vae, dci, factor_vae
from fastflow.metrics.factor_information import MIG, SAP, Modularity, mig, modularity, sap
from fastflow.metrics.flow_codes import flow_codes
from fastflow.metrics.geometry import Consistency, Curvature, PathLength, consistency, curvature, path_length
from fastflow.metrics.likelihood import (
    LogLikelihood,
    log_likelihood,
    pair_log_likelihood,
    published_bound,
    published_figure,
    sequence_log_likelihood,
)
from fastflow.metrics.predictability import Predictability, vp_score, vp_score_fast
from fastflow.metrics.purity import Purity, purity
from fastflow.metrics.regressor import FactorRegressor, factor_regressor
from fastflow.metrics.strength import match_strength, pixel_change

__all__ = [
    "DCI",
    "MIG",
    "SAP",
    "STROKE_ATTRIBUTES",
    "AttributeCorrelation",
    "BetaVAE",
    "Consistency",
    "Curvature",
    "Equivariance",
    "FactorRegressor",
    "FactorVAE",
    "LogLikelihood",
    "Modularity",
    "PathLength",
    "Predictability",
    "Purity",
    "appearance",
    "appearance_names",
    "attribute_correlation",
    "beta_vae",
    "consistency",
    "curvature",
    "dci",
    "equivariance_error",
    "factor_regressor",
    "factor_vae",
    "flow_codes",
    "log_likelihood",
    "match_strength",
    "mig",
    "modularity",
    "pair_log_likelihood",
    "path_length",
    "pixel_change",
    "published_bound",
    "published_figure",
    "purity",
    "sap",
    "sequence_log_likelihood",
    "straight_directions",
    "stroke_attributes",
    "vp_score",
    "vp_score_fast",
]
