"""Older ways to traverse a latent space, behind the same traversal protocol as potential flows."""

from fastflow.baselines.directions import Random

__all__ = ["Random"]
