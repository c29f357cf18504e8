"""Attributes of drawn strokes, such as digits, measured by moments of their images."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.core.checks import check_pixels
from fastflow.latents.attributes.roots import root

_EMPTY = 1e-6
"""The sum of the pixels up to which an image counts as empty."""

STROKE_ATTRIBUTES = ("area", "thickness", "slant", "width", "height", "x", "y")
"""The names of the attributes that `stroke_attributes` measures, in its order."""


def looks_drawn(images: Tensor) -> bool:
    """Whether images (B, C, H, W) in [0, 1] are bright strokes or shapes on black, as `stroke_attributes` needs."""
    if images.shape[1] != 1:
        return False
    pixels = images.flatten(1)
    # Most pixels are dark, and nearly every image has a bright one.
    return bool(pixels.median() < 0.2) and bool((pixels.amax(1) > 0.5).float().mean() > 0.9)


class Moments(NamedTuple):
    """The moments of grey images (B, H, W) in pixels, (B,), with y downwards and the image's centre at 0."""

    area: Tensor
    """The sum of the pixels."""
    x: Tensor
    y: Tensor
    """The centroid."""
    xx: Tensor
    xy: Tensor
    yy: Tensor
    """The second central moments divided by the area; of an empty image those of a unit square, which a pixel is."""


def moments(grey: Tensor) -> Moments:
    """The moments of grey images (B, H, W), in their dtype."""
    height, width = grey.shape[-2:]
    y = torch.arange(height, dtype=grey.dtype, device=grey.device)[:, None] - (height - 1) / 2  # [H, 1]
    x = torch.arange(width, dtype=grey.dtype, device=grey.device) - (width - 1) / 2  # [W]

    def total(values: Tensor) -> Tensor:
        return values.sum((-2, -1))

    area = total(grey)
    mass = torch.where(area > _EMPTY, area, 1.0)
    cx, cy = total(grey * x) / mass, total(grey * y) / mass
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    sxx, sxy, syy = (total(grey * product) / mass for product in (dx * dx, dx * dy, dy * dy))
    return Moments(area, cx, cy, sxx + 1 / 12, sxy, syy + 1 / 12)


def stroke_attributes(images: Tensor) -> Tensor:
    """Measure attributes (B, 7) of bright strokes on black, after Morpho-MNIST (Castro et al., JMLR 2019).

    Lengths are in pixels, which are unit squares. Let m be the sum of the pixels, (x, y) their centroid, with y
    downwards, and s_xx, s_xy, s_yy their second central moments divided by m.

    - area: m.
    - thickness: 2 m / p, where p is the image's total variation, which is the perimeter of a filled shape. For a long
      stroke this is its thickness.
    - slant: atan(-s_xy / s_yy), the angle in radians by which a shear would set the strokes upright.
    - width: sqrt(12 (s_xx - s_xy^2 / s_yy)), which is a bar's width after that shear.
    - height: sqrt(12 s_yy), which is an upright bar's height.
    - x, y: the centroid relative to the image's centre.

    Morpho-MNIST itself binarises images and finds skeletons and bounding boxes, which fails for faint or broken images.
    The attributes here vary smoothly with the image, and their gradient is finite everywhere, so that they can guide
    potentials. They are all 0 for an empty image.

    Args:
        images: (B, C, H, W) in [0, 1]; channels are averaged.

    Raises:
        InputError: the images have another range.
    """
    check_pixels(images)
    grey = images.double().mean(1)
    area, cx, cy, sxx, sxy, syy = moments(grey)
    filled = area > _EMPTY
    # A black border gives a stroke at the image's edge its whole perimeter.
    framed = torch.nn.functional.pad(grey, (1, 1, 1, 1))
    right, down = framed[:, :-1, 1:] - framed[:, :-1, :-1], framed[:, 1:, :-1] - framed[:, :-1, :-1]
    perimeter = root(right.square() + down.square()).sum((-2, -1))
    measured = [
        area,
        2 * area / torch.where(perimeter > 1e-6, perimeter, 1.0),
        torch.atan2(-sxy, syy),
        math.sqrt(12) * root((sxx - sxy.square() / syy).clamp_min(0)),
        math.sqrt(12) * syy.sqrt(),
        cx,
        cy,
    ]
    return torch.where(filled[:, None], torch.stack(measured, 1), 0.0).to(images.dtype)
