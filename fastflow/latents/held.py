"""Attributes that are held still while a path is followed: their gradients are taken out of its velocity."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.generators import Generator
from fastflow.latents.guidance import Guide

_SMALLEST = 1e-4
"""Directions in which the gradients hardly differ, relative to their largest, aren't taken out."""


class Held:
    """Bends velocities so that, to first order, the named attributes of a guide don't change.

    Each call costs a pass forward through generator and predictors, and a pass back for each attribute.

    Args:
        generator: the generator of the images.
        attributes: the attributes; those that its names name are held.
        labels: the classes (B,) of the latents that it will be called with, if the generator has classes.
    """

    def __init__(self, generator: Generator, attributes: Guide, labels: Tensor | None = None) -> None:
        self.generator, self.attributes, self.labels = generator, attributes, labels

    def __call__(self, z: Tensor, velocity: Tensor) -> Tensor:
        """The velocities (B, D) at latents (B, D), without their parts along the attributes' gradients."""
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            images = self.generator.scaled(self.generator.conditioned(self.labels)(at))
            values = self.attributes(images)[:, list(self.attributes.columns)]
            slopes = slopes_of(values, at)
        return without(velocity, slopes)


def slopes_of(values: Tensor, z: Tensor) -> Tensor:
    """The gradients (B, P, D) of attributes (B, P) with respect to latents (B, D)."""
    return torch.stack([torch.autograd.grad(column.sum(), z, retain_graph=True)[0] for column in values.unbind(1)], 1)


def without(vectors: Tensor, others: Tensor) -> Tensor:
    """Vectors (B, D) without their parts in the span of the others (B, P, D), of which any may be zero."""
    # Gradients may be as long as their attributes' units make them.
    rows = unit_or_zero(others.double())
    part = torch.linalg.pinv(rows, rtol=_SMALLEST) @ (rows @ vectors.double()[:, :, None])
    return (vectors.double() - part[:, :, 0]).to(vectors)


def unit_or_zero(vectors: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length 1, but for those without a length."""
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1)
