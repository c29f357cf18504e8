"""Predictors: functions of images whose values a path may follow, or is measured by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining

Predictor = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] to a property's value (B,), or to P properties' values (B, P)."""


def predicted(predictor: Predictor, images: Tensor) -> Tensor:
    """The values (B, P) that a predictor gives for images (B, C, H, W).

    Raises:
        InputError: it fails, or gives something else.
    """
    with explaining("the predictor"):
        values = predictor(images)
    shape, count = tuple(values.shape) if isinstance(values, Tensor) else None, len(images)
    if shape is None or len(shape) not in (1, 2) or shape[0] != count or 0 in shape:
        got = type(values).__name__ if shape is None else shape
        raise InputError(f"the predictor must give values ({count},) or ({count}, P) for {count} images, got {got}")
    return values.reshape(count, -1)


def check_predictor(predictor: Predictor, images: Tensor) -> None:
    """Raise InputError unless a gradient passes through the predictor at these images (B, C, H, W)."""
    values = predicted(predictor, images.requires_grad_())
    if values.requires_grad:
        with explaining("the predictor's gradient"):
            if torch.autograd.grad(values.sum(), images, allow_unused=True)[0] is not None:
                return
    kind = "" if values.is_floating_point() else f", they are {values.dtype}"
    raise InputError(
        f"the predictor's values carry no gradient{kind}; leave out torch.no_grad, detach, argmax and comparisons"
    )
