"""Descriptions by which a generator is recognized: its shapes, and some pixels of some of its images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastflow.generators.base import Generator


@torch.no_grad()
def describe(generator: Generator) -> dict[str, Any]:
    """A generator's name, shapes and some of its pixels, for JSON."""
    pixels = generator.decode(generator.sample(4)).flatten()
    return {
        "name": generator.name,
        "spec": None if generator.spec is None else generator.spec.to_json(),
        "latent_dim": generator.latent_dim,
        "image_shape": list(generator.image_shape),
        "value_range": list(generator.value_range),
        "classes": None if generator.classes is None else list(generator.classes),
        "pixels": sampled_pixels(pixels),
    }


def is_description(value: object) -> bool:
    """Whether a JSON value has the form of such a description."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str | None)
        and isinstance(value.get("latent_dim"), int)
        and are_pixels(value.get("pixels"))
    )


def draws_alike(expected: dict[str, Any], generator: Generator) -> bool:
    """Whether a generator makes the same images as the described one."""
    found = describe(generator)
    same = all(expected.get(key) == found[key] for key in ("latent_dim", "image_shape", "value_range"))
    same = same and expected.get("classes") == found["classes"]
    low, high = generator.value_range
    return same and look_alike(expected["pixels"], found["pixels"], high - low)


def sampled_pixels(pixels: torch.Tensor) -> list[float]:
    """64 of the pixels (N,), evenly spread and rounded."""
    chosen = torch.linspace(0, len(pixels) - 1, 64).long().to(pixels.device)
    return [round(pixel, 6) for pixel in pixels[chosen].tolist()]


def are_pixels(value: object) -> bool:
    """Whether a JSON value is a list of pixels."""
    return isinstance(value, list) and all(isinstance(pixel, float) for pixel in value)


def look_alike(expected: list[float], found: list[float], reach: float) -> bool:
    """Whether pixels are equal, up to the rounding of another machine."""
    one, other = np.array(expected), np.array(found)
    return one.shape == other.shape and bool((abs(one - other) < 1e-3 * reach).all())
