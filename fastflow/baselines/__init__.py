"""Earlier methods of latent traversal, with the same traversal protocol as potential flows."""

from fastflow.baselines.directions import PCA, Random, SeFa
from fastflow.baselines.learned import HessianPenalty, LatentCLR, LinearClassifier, WarpedRBF

__all__ = ["PCA", "HessianPenalty", "LatentCLR", "LinearClassifier", "Random", "SeFa", "WarpedRBF"]
