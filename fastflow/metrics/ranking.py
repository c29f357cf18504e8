"""Smoothness of paths, and the score by which a run's paths are ranked: distinctness, smoothness and strength."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def smoothness(images: Tensor) -> Tensor:
    """How evenly the images of each path (B, T + 1, C, H, W) change, (B,): 1 in a straight line, 0 to and fro.

    1 - |I_{t+1} - 2 I_t + I_{t-1}| / (|I_{t+1} - I_t| + |I_t - I_{t-1}|), with the mean of each norm over the path. It
    is 1 for a path that doesn't move, and NaN for a path of one step.
    """
    steps = images.diff(dim=1).flatten(2)  # (B, T, C * H * W)
    turns = steps.diff(dim=1).abs().sum((1, 2))
    moved = (steps[:, 1:].abs() + steps[:, :-1].abs()).sum((1, 2))
    if steps.shape[1] < 2:
        return torch.full((len(images),), math.nan, dtype=images.dtype, device=images.device)
    return 1 - turns / moved.clamp_min(torch.finfo(images.dtype).tiny)


def score(accuracy: float, smooth: float | None, strength: float, count: int, band: Sequence[float]) -> float:
    """Score a path from 0 to 1, by the geometric mean of three shares.

    Args:
        accuracy: how often a new classifier names the path. The share is 0 at chance, 1 / count, and 1 at 1.
        smooth: the path's smoothness, which is the second share; left out if None.
        strength: the path's pixel change per step. The share is 1 inside the band, and falls in proportion outside it.
        count: the number of paths.
        band: the least and the greatest strength that are wanted.
    """
    chance = 1 / count if count > 1 else 0.0
    distinct = max(0.0, (accuracy - chance) / (1 - chance))
    strong = min(1.0, strength / band[0], band[1] / strength if strength > 0 else 0.0)
    shares = [distinct, strong, *([] if smooth is None else [max(0.0, smooth)])]
    return math.prod(shares) ** (1 / len(shares))
