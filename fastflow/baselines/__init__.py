"""Other ways to traverse a latent space, with the same traversal protocol as potential flows."""

from fastflow.baselines.directions import PCA, Random, SeFa
from fastflow.baselines.guided import Ascent, OrthogonalAscent, Regression
from fastflow.baselines.jacobian import JacobianVectors
from fastflow.baselines.learned import HessianPenalty, LatentCLR, LinearClassifier, WarpedRBF

__all__ = [
    "PCA",
    "Ascent",
    "HessianPenalty",
    "JacobianVectors",
    "LatentCLR",
    "LinearClassifier",
    "OrthogonalAscent",
    "Random",
    "Regression",
    "SeFa",
    "WarpedRBF",
]
