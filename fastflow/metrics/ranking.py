"""Which paths are worth a look: how smooth they are, and a ranking by distinctness, smoothness and strength."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def smoothness(images: Tensor) -> Tensor:
    """How evenly the images of each path (B, T + 1, C, H, W) move on, (B,): 1 in a straight line, 0 to and fro.

    1 - |I_{t+1} - 2 I_t + I_{t-1}| / (|I_{t+1} - I_t| + |I_t - I_{t-1}|), with the norms' means over the path; 1 for a
    path that doesn't move, NaN for one of a single step.
    """
    steps = images.diff(dim=1).flatten(2)  # (B, T, C * H * W)
    turns = steps.diff(dim=1).abs().sum((1, 2))
    moved = (steps[:, 1:].abs() + steps[:, :-1].abs()).sum((1, 2))
    if steps.shape[1] < 2:
        return torch.full((len(images),), math.nan, dtype=images.dtype, device=images.device)
    return 1 - turns / moved.clamp_min(torch.finfo(images.dtype).tiny)


def score(accuracy: float, smooth: float | None, strength: float, count: int, band: Sequence[float]) -> float:
    """A path's worth in [0, 1]: the geometric mean of three shares.

    Args:
        accuracy: how often a fresh classifier names it; the share is what lies above chance, 1 / count.
        smooth: its smoothness, left out where it wasn't measured.
        strength: its pixel change per step; the share is 1 inside the band, and falls in proportion outside it.
    """
    chance = 1 / count if count > 1 else 0.0
    distinct = max(0.0, (accuracy - chance) / (1 - chance))
    strong = min(1.0, strength / band[0], band[1] / strength if strength > 0 else 0.0)
    shares = [distinct, strong, *([] if smooth is None else [max(0.0, smooth)])]
    return math.prod(shares) ** (1 / len(shares))
