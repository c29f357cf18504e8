"""Checks of the numbers that callers pass: counts, seeds, finite values, pixels."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import InputError


def is_finite(value: Any, dtype: torch.dtype) -> bool:
    """Whether `value` is a number, not a bool, and finite in `dtype`. torch.compile traces this for all numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**63  # more than torch takes
    return isinstance(value, float) and abs(value) <= torch.finfo(dtype).max


def check_count(value: Any, name: str) -> None:
    """Raise InputError unless `value` is a whole number of at least 1, and one that torch takes."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    if value >= 2**63:
        raise InputError(f"{name} must be a whole number below 2^63, got {value!r}")


def check_seed(value: Any) -> None:
    """Raise InputError unless `value` is a whole number from 0 to 2^63 - 1, as random number generators take."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InputError(f"seed must be a whole number in 0..2^63 - 1, got {value!r}")


def check_pixels(images: Tensor, name: str = "images") -> None:
    """Raise InputError unless images are floats in [0, 1]; a hundredth of the pixels may lie farther outside.

    Images that vmap or torch.compile traces have no values yet, and pass.
    """
    if not images.is_floating_point():
        raise InputError(f"{name} must be floats in [0, 1], got {images.dtype}: divide 8-bit images by 255")
    if torch.compiler.is_compiling():
        return
    seen = images.detach()
    try:
        outside = bool(((seen < -0.05) | (seen > 1.05)).double().mean() > 0.01)
    except RuntimeError:  # under vmap
        return
    if outside:
        raise InputError(
            f"{name} must lie in [0, 1], got {float(seen.min()):.4g} to {float(seen.max()):.4g}: scale them first, as "
            "(images - low) / (high - low), or generator.scaled(images) for a generator's own"
        )


def warn_of_nearly_black(images: Tensor, name: str = "images") -> None:
    """Warn if 8-bit images hold nothing brighter than 1 of 255, as masks of zeros and ones do."""
    if images.dtype == torch.uint8 and images.numel() and int(images.max()) == 1:
        warnings.warn(
            f"the {name} are 8-bit and hold 0 and 1 only, which is black: 255 is white; multiply them by 255, or "
            "convert them to floats",
            stacklevel=3,
        )
