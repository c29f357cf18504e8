"""Attributes that any image has: how bright it is and where, how sharp, how warm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def appearance_names(channels: int) -> tuple[str, ...]:
    """What `appearance` measures of images with these channels, in its order."""
    names = ("brightness", "contrast", "left-right", "up-down", "background", "sharpness")
    return (*names, "warmth") if channels == 3 else names


def appearance(images: Tensor) -> Tensor:
    """Attributes (B, 6), or (B, 7) of colour images, that no training needs.

    Of the grey image, the channels' mean: brightness is its mean and contrast its standard deviation; left-right the
    mean of the right half less that of the left; up-down the lower half's less the upper's; background the mean of a
    frame an eighth of the side wide; sharpness its total variation over its contrast, both by pixel. warmth is the mean
    red less the mean blue.

    Args:
        images: (B, C, H, W) in [0, 1], at least 2 x 2.
    """
    grey = images.double().mean(1)
    height, width = grey.shape[-2:]
    y, x = height // 2, width // 2
    contrast = grey.flatten(1).std(1, correction=0)
    frame = torch.ones(height, width, dtype=torch.bool, device=grey.device)
    edge_y, edge_x = max(1, height // 8), max(1, width // 8)
    frame[edge_y : height - edge_y, edge_x : width - edge_x] = False
    right, down = pad(grey.diff(dim=2), (0, 1)), pad(grey.diff(dim=1), (0, 0, 0, 1))
    variation = (right.square() + down.square()).sqrt().flatten(1).mean(1)
    measured = [
        grey.flatten(1).mean(1),
        contrast,
        grey[:, :, -x:].flatten(1).mean(1) - grey[:, :, :x].flatten(1).mean(1),
        grey[:, -y:].flatten(1).mean(1) - grey[:, :y].flatten(1).mean(1),
        grey[:, frame].mean(1),
        torch.where(contrast > 1e-6, variation / contrast.clamp_min(1e-6), 0.0),
    ]
    if images.shape[1] == 3:
        red, _, blue = images.double().flatten(2).mean(2).unbind(1)
        measured.append(red - blue)
    return torch.stack(measured, 1).to(images.dtype)
