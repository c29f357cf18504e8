"""Attributes of drawn strokes, such as digits, measured in their images by moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STROKE_ATTRIBUTES = ("area", "thickness", "slant", "width", "height", "x", "y")
"""What `stroke_attributes` measures, in its order."""


def looks_drawn(images: Tensor) -> bool:
    """Whether images (B, C, H, W) in [0, 1] are bright strokes or shapes on black, so that `stroke_attributes` fit."""
    if images.shape[1] != 1:
        return False
    pixels = images.flatten(1)
    # Most pixels are dark, few are between, and every image has something bright.
    return bool(pixels.median() < 0.2) and bool((pixels.amax(1) > 0.5).float().mean() > 0.9)


def stroke_attributes(images: Tensor) -> Tensor:
    """Attributes (B, 7) of bright strokes on black, after Morpho-MNIST (Castro et al., JMLR 2019), all from moments.

    Lengths are in pixels. With m the sum of the pixels, which are unit squares, (x, y) their centroid, y downwards, and
    s_xx, s_xy, s_yy the second central moments over m:

    area: m. thickness: 2 m / p, p being the image's total variation, which is a filled shape's perimeter; it is that of
    a long stroke. slant: atan(-s_xy / s_yy), the angle in radians by which a shear would set the strokes upright.
    height: sqrt(12 s_yy), an upright bar's. width: sqrt(12 (s_xx - s_xy^2 / s_yy)), a bar's once it is upright. x, y:
    the centroid's distance from the image's centre.

    Morpho-MNIST itself binarises and finds skeletons and bounding boxes, which a faint or broken image has none of;
    these here vary smoothly with the image. An empty image has 0 everywhere.

    Args:
        images: (B, C, H, W) in [0, 1]; channels are averaged.
    """
    grey = images.double().mean(1)
    height, width = grey.shape[-2:]
    y = torch.arange(height, dtype=torch.float64, device=grey.device)[:, None] - (height - 1) / 2  # [H, 1]
    x = torch.arange(width, dtype=torch.float64, device=grey.device) - (width - 1) / 2  # [W]

    def total(values: Tensor) -> Tensor:
        return values.sum((-2, -1))

    area = total(grey)
    drawn = area > 1e-6
    mass = torch.where(drawn, area, 1.0)
    cx, cy = total(grey * x) / mass, total(grey * y) / mass
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    sxx, sxy, syy = (total(grey * product) / mass for product in (dx * dx, dx * dy, dy * dy))
    sxx, syy = sxx + 1 / 12, syy + 1 / 12  # of a unit square
    # A border of black, so that a stroke at the image's edge has its whole perimeter.
    framed = torch.nn.functional.pad(grey, (1, 1, 1, 1))
    right, down = framed[:, :-1, 1:] - framed[:, :-1, :-1], framed[:, 1:, :-1] - framed[:, :-1, :-1]
    perimeter = total((right.square() + down.square()).sqrt())
    measured = [
        area,
        2 * area / torch.where(perimeter > 1e-6, perimeter, 1.0),
        torch.atan2(-sxy, syy),
        math.sqrt(12) * (sxx - sxy.square() / syy).clamp_min(0).sqrt(),
        math.sqrt(12) * syy.sqrt(),
        cx,
        cy,
    ]
    return torch.where(drawn[:, None], torch.stack(measured, 1), 0.0).to(images.dtype)
