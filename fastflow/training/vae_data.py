"""What a run remembers of the data that its VAE was trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.datasets import Sequences
from fastflow.generators.identity import are_pixels, look_alike, some_of


@torch.no_grad()
def describe_data(data: Sequences) -> dict[str, Any]:
    """What tells a data set from another, as JSON holds it: besides its sizes, some pixels of some moved images.

    Raises:
        InputError: it doesn't give images in [0, 1] of its shape.
    """
    count, moves = len(data), len(data.transformations)
    rows = torch.linspace(0, count - 1, min(4, count)).long()
    expected = (len(rows), 2, *data.image_shape)
    with explaining(f"data set {data.name}"):
        images = data.frames(rows, torch.arange(len(rows)) % moves, torch.tensor([[0.0, 1.0]]).repeat(len(rows), 1))
    if not isinstance(images, Tensor) or tuple(images.shape) != expected or images.dtype != torch.float32:
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"data set {data.name} must give float32 images of shape {expected}, got {got}")
    if not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise InputError(f"data set {data.name} must give images in [0, 1]")
    return {
        "name": data.name,
        "note": data.note,
        "image_shape": list(data.image_shape),
        "transformations": list(data.transformations),
        "images": count,
        "pixels": some_of(images.flatten()),
    }


def is_data_description(value: object) -> bool:
    """Whether a JSON value has the form of such a description, in a run's config.json."""
    shape = value.get("image_shape") if isinstance(value, dict) else None
    return (
        isinstance(value, dict)
        and isinstance(shape, list)
        and len(shape) == 3
        and all(isinstance(size, int) and size > 0 for size in shape)
        and isinstance(value.get("kept"), int)
        and are_pixels(value.get("pixels"))
    )


def same_data(expected: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether two descriptions are of the same data; the names don't matter."""
    same = all(expected.get(key) == found[key] for key in ("image_shape", "transformations", "images"))
    return same and look_alike(expected["pixels"], found["pixels"], 1.0)
