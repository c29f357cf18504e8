"""The space in which changes of images are measured: pixels, or features of the user's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.generators import Generator

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
