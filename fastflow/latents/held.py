"""Attributes that are held still while a path is followed: their gradients are taken out of its velocity."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.engine.integration import Integration
from fastflow.generators import Generator
from fastflow.latents.guidance import Guide

_SMALLEST = 1e-4
"""Directions in which the gradients hardly differ, relative to their largest, aren't taken out."""

_PULL = 0.5
"""The share of its drift that a step takes back: to first order no attribute drifts, but steps aren't small."""

_FARTHEST = 1.0
"""The most that taking drift back, or keeping an attribute's own rate, adds to a velocity, in its own length."""


class Held:
    """Bends velocities along a path so that the named attributes of a guide stay what they were at its start.

    What a velocity would change of them is taken out, and what has drifted all the same is taken back step by step. A
    path that was guided by an attribute of its own keeps the rate at which it changes that one.

    Each call costs a pass forward through generator and predictors, and a pass back for each attribute.

    Args:
        generator: the generator of the images.
        attributes: the attributes; those that its names name are held.
        integration: how the path is integrated.
        labels: the classes (B,) of the latents that it will be called with, if the generator has classes.
        own: for each latent, the number (B,) of its own attribute among the values of `attributes`, or -1. It isn't
            held even if it is named.
    """

    def __init__(
        self,
        generator: Generator,
        attributes: Guide,
        integration: Integration,
        labels: Tensor | None = None,
        own: Tensor | None = None,
    ) -> None:
        self.generator, self.attributes, self.labels, self.integration = generator, attributes, labels, integration
        owned = [] if own is None else own[own >= 0].unique().tolist()
        self._columns = sorted({*attributes.columns, *owned})
        self._named = torch.tensor([column in attributes.columns for column in self._columns])
        self._own = own
        self._start: Tensor | None = None

    def __call__(self, z: Tensor, velocity: Tensor) -> Tensor:
        """The velocities (B, D) at latents (B, D) of the paths, bent. The first call is at their starts."""
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            images = self.generator.scaled(self.generator.conditioned(self.labels)(at))
            values = self.attributes(images)[:, self._columns]
            slopes = slopes_of(values, at)
        values, slopes = values.detach().double(), slopes.double()
        self._start = values if self._start is None else self._start
        way, dt, length = self.integration.direction, self.integration.dt, self.integration.step_length
        v = velocity.double()
        if length is not None:
            v = unit_or_zero(v) * (length / dt)
        is_own = self._is_own(values)
        rows = torch.where((self._named.to(z.device) | is_own)[:, :, None], slopes, 0)
        size = rows.norm(dim=2)
        rows = unit_or_zero(rows)
        inverse = torch.linalg.pinv(rows, rtol=_SMALLEST)
        rate = (rows @ v[:, :, None])[:, :, 0]
        still = v - (inverse @ rate[:, :, None])[:, :, 0]
        back = _PULL / dt * (self._start - values) / torch.where(size > 0, size, 1)
        wanted = torch.where(is_own, rate, back if way == "forward" else -back)
        added = (inverse @ wanted[:, :, None])[:, :, 0]
        most = _FARTHEST * v.norm(dim=1, keepdim=True)
        added = added * (most / added.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
        return (still + added).to(velocity)

    def _is_own(self, values: Tensor) -> Tensor:
        """Which of the values (B, P) are the paths' own attributes."""
        if self._own is None:
            return torch.zeros_like(values, dtype=torch.bool)
        return self._own.to(values.device)[:, None] == torch.tensor(self._columns, device=values.device)


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
