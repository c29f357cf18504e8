"""The space in which changes of images are measured: pixels, or features of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.generators import Generator

_ROUNDING = 1e-6

Features = Callable[[Tensor], Tensor]
"""A function from images (B, C, H, W) in [0, 1] to features (B, ...)."""


def in_space(generator: Generator, images: Tensor, features: Features | None) -> Tensor:
    """The pixels, on the scale from 0 to 1, or the features of images (B, C, H, W) as points (B, P) in float64.

    Raises:
        InputError: the features fail, aren't finite, or aren't a row for each image.
    """
    images = generator.scaled(images)
    if features is None:
        return images.flatten(1).double()
    with explaining("features"):
        points = features(images)
        if len(points) != len(images) or not bool(points.isfinite().all()):
            raise InputError(
                f"features must be finite, a row for each of {len(images)} images, got {tuple(points.shape)}"
            )
        return points.flatten(1).double()


def changes(generator: Generator, images: Tensor, features: Features | None) -> Tensor:
    """The visible changes (B, T) float64 along paths of images (B, T + 1, C, H, W): mean absolute differences."""
    # One column after the other: in float64 all images together could be too many.
    columns = (in_space(generator, column, features) for column in images.unbind(1))
    return torch.stack([(there - here).abs().mean(1) for here, there in pairwise(columns)], 1)


def rounding(generator: Generator, images: Tensor, features: Features | None) -> Tensor:
    """A visible change (B,) of images (B, C, H, W) that is so small that it may be rounding alone."""
    return _ROUNDING * in_space(generator, images, features).abs().mean(1).clamp_min(_ROUNDING)
