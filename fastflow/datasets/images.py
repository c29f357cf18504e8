"""Any set of plain images as a data set: its images move by rotation, scale, translation and hue."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.core.checks import warn_of_nearly_black
from fastflow.core.errors import InputError
from fastflow.datasets.base import check_names, check_request
from fastflow.datasets.transformations import parse, transform

IMAGE_TRANSFORMATIONS = ("rotation", "scale", "hue")


class ImageSequences:
    """Images in memory that move by transformations such as "rotation" or "scale+translation-x".

    If one of the transformations has a hue, all grey images are coloured. `frames` is differentiable in `place`.

    Attributes:
        images: (N, C, H, W), uint8 or floats in [0, 1]. `frames` moves them to the device of its arguments.
        labels: (N,) long, or None. name, image_shape, transformations, note: see `Sequences`.
    """

    def __init__(
        self,
        images: Tensor,
        transformations: tuple[str, ...] = IMAGE_TRANSFORMATIONS,
        *,
        name: str = "images",
        note: str = "",
        labels: Tensor | None = None,
    ) -> None:
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.numel():
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"images must be a tensor of shape (N, C, H, W) with at least one image, got {got}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(f"images must be uint8 or floats in [0, 1], got {images.dtype}")
        if images.dtype != torch.uint8 and not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError(
                f"images must lie in [0, 1], got {float(images.min()):.4g} to {float(images.max()):.4g}: scale them "
                "first, as (images - low) / (high - low)"
            )
        warn_of_nearly_black(images)
        if labels is not None and labels.shape != images.shape[:1]:
            raise InputError(f"labels must have shape ({len(images)},), got {tuple(labels.shape)}")
        check_names(transformations)
        colored = any("hue" in parse(transformation) for transformation in transformations)
        if colored and images.shape[1] not in (1, 3):
            raise InputError(f"images must have 1 or 3 channels for a hue, got {images.shape[1]}")
        self.images, self.labels = images, labels
        self.name, self.note, self.transformations = name, note, tuple(transformations)
        self.image_shape = (3 if colored else images.shape[1], images.shape[2], images.shape[3])

    def __len__(self) -> int:
        return len(self.images)

    def frames(self, rows: Tensor, transformation: Tensor, place: Tensor) -> Tensor:
        """Images (B, P, C, H, W), moved to `place`; see `Sequences.frames`."""
        check_request(self, rows, transformation, place)
        if self.images.device != rows.device:
            self.images = self.images.to(rows.device)
        images = self.images[rows]
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        # A pixel's four interpolation weights add up to 1 only up to rounding, so that values may exceed 1.
        return transform(images, self.transformations, transformation, place).clamp(0, 1)
