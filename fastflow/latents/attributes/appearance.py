"""Attributes that any image has, such as its brightness, contrast and sharpness."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastflow.core.checks import check_pixels
from fastflow.latents.attributes.roots import root


def appearance_names(channels: int) -> tuple[str, ...]:
    """The names of the attributes that `appearance` measures in images with so many channels, in its order."""
    names = ("brightness", "contrast", "left-right", "up-down", "background", "sharpness")
    return (*names, "warmth") if channels == 3 else names


def appearance(images: Tensor) -> Tensor:
    """Measure simple attributes of images: (B, 6), or (B, 7) for colour images. Their gradient is finite everywhere.

    All but warmth are measured in the grey image, which is the mean over the channels:

    - brightness: its mean.
    - contrast: its standard deviation.
    - left-right: the mean of the right half minus the mean of the left half.
    - up-down: the mean of the lower half minus the mean of the upper half.
    - background: the mean of a frame that is an eighth of the side wide.
    - sharpness: its total variation divided by its contrast, both per pixel.
    - warmth: the mean of the red channel minus the mean of the blue channel.

    Args:
        images: (B, C, H, W) in [0, 1], at least 2 x 2.

    Raises:
        InputError: the images have another range.
    """
    check_pixels(images)
    grey = images.double().mean(1)
    height, width = grey.shape[-2:]
    y, x = height // 2, width // 2
    contrast = root(grey.flatten(1).var(1, correction=0))
    frame = torch.ones(height, width, dtype=torch.bool, device=grey.device)
    edge_y, edge_x = max(1, height // 8), max(1, width // 8)
    frame[edge_y : height - edge_y, edge_x : width - edge_x] = False
    right, down = pad(grey.diff(dim=2), (0, 1)), pad(grey.diff(dim=1), (0, 0, 0, 1))
    variation = root(right.square() + down.square()).flatten(1).mean(1)
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
