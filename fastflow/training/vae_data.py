"""The description of a VAE's training data in its run's config.json."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.datasets import Sequences
from fastflow.generators.identity import are_pixels, look_alike, sampled_pixels


@torch.no_grad()
def describe_data(data: Sequences) -> dict[str, Any]:
    """A description of a data set, to recognize it: its sizes, and some pixels of some moved images, for JSON.

    Raises:
        InputError: the data set doesn't give images in [0, 1] of its shape.
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
        "pixels": sampled_pixels(images.flatten()),
    }


def is_data_description(value: object) -> bool:
    """Whether a JSON value has the form of such a description, with the number of images that the run stores."""
    shape = value.get("image_shape") if isinstance(value, dict) else None
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("name", "note"))
        and isinstance(shape, list)
        and len(shape) == 3
        and all(isinstance(size, int) and size > 0 for size in shape)
        and isinstance(value.get("kept"), int)
        and value["kept"] >= 0
        and are_pixels(value.get("pixels"))
    )


def same_data(expected: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether two descriptions fit the same data. Their names may differ."""
    same = all(expected.get(key) == found[key] for key in ("image_shape", "transformations", "images"))
    return same and look_alike(expected["pixels"], found["pixels"], 1.0)
