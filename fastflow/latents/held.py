"""Attributes that are held still while a path is followed: their gradients are taken out of its velocity."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.generators import Generator
from fastflow.latents.guidance import Guide

_SMALLEST = 1e-4
"""Directions in which the gradients hardly differ, relative to their largest, aren't taken out."""

_STIFF = 0.05
"""The same where attributes are held along a path: what telling two of them apart would cost moves the image more."""

_ROUNDS = 2
"""How often the point after a step is mended: to first order nothing that is held changes, but steps aren't small."""

_FARTHEST = 1.0
"""The longest way that a point is mended at once, in lengths of the step, and that a velocity is bent, in its own."""


class Held:
    """Keeps the named attributes of a guide along paths what they were at their starts.

    What a velocity would change of them is taken out of it, and what a step has changed all the same is taken back from
    the point where it ended. A path that was guided by an attribute of its own keeps the rate at which it changes that
    one. A step costs four passes forward through generator and predictors, and three back for each attribute.

    Args:
        generator: the generator of the images.
        attributes: the attributes; those that its names name are held.
        starts: the paths' starts (B, D).
        labels: the classes (B,) of the paths' latents, if the generator has classes.
        own: for each path the number (B,) of its own attribute among the values of `attributes`, or -1. It isn't held
            even if it is named.
    """

    def __init__(
        self,
        generator: Generator,
        attributes: Guide,
        starts: Tensor,
        labels: Tensor | None = None,
        own: Tensor | None = None,
    ) -> None:
        self.generator, self.attributes, self.labels = generator, attributes, labels
        owned = [] if own is None else own[own >= 0].unique().tolist()
        self._columns = sorted({*attributes.columns, *owned})
        columns = torch.tensor(self._columns, device=starts.device)
        named = torch.tensor([column in attributes.columns for column in self._columns], device=starts.device)
        self._is_own = torch.zeros(len(starts), len(columns), dtype=torch.bool, device=starts.device)
        if own is not None:
            self._is_own = own.to(starts.device)[:, None] == columns
        self._counts = self._is_own | named
        with torch.no_grad():
            self._begun = self._values(starts).double()

    def __call__(self, z: Tensor, velocity: Tensor) -> Tensor:
        """The velocities (B, D) at latents (B, D) of the paths, bent."""
        _, rows, _ = self._slopes(z)
        whole = velocity.double()
        rate = (rows @ whole[:, :, None])[:, :, 0]
        own = _shortened(_least(rows, torch.where(self._is_own, rate, 0)), whole)
        return (whole - _least(rows, rate) + own).to(velocity)

    def mended(self, before: Tensor, after: Tensor, unbent: Tensor) -> Tensor:
        """The points (B, D) to which steps from `before` to `after` should have led; the flow itself leads to `unbent`.

        What is held is what it was at the paths' starts, and a path's own attribute what it would be after an unbent
        step.
        """
        point, step = after.double(), (after - before).double()
        wanted = torch.where(self._is_own, self._values(unbent).double(), self._begun)
        for _ in range(_ROUNDS):
            values, rows, size = self._slopes(point.to(after))
            missed = torch.where(size > 0, wanted - values, 0)
            point = point + _shortened(_least(rows, missed / torch.where(size > 0, size, 1)), step)
        return point.to(after)

    def _values(self, z: Tensor) -> Tensor:
        """The attributes (B, P) at latents."""
        images = self.generator.scaled(self.generator.conditioned(self.labels)(z))
        return self.attributes(images)[:, self._columns]

    def _slopes(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The attributes (B, P) at latents, the directions (B, P, D) of their gradients, and these gradients' lengths.

        What is neither held nor a path's own has neither.
        """
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            values = self._values(at)
            slopes = slopes_of(values, at)
        slopes = torch.where(self._counts[:, :, None], slopes.double(), 0)
        return values.detach().double(), unit_or_zero(slopes), slopes.norm(dim=2)


def _least(rows: Tensor, wanted: Tensor) -> Tensor:
    """The shortest velocities (B, D) along which attributes of these directions (B, P, D) change as wanted (B, P)."""
    return (torch.linalg.pinv(rows, rtol=_STIFF) @ wanted[:, :, None])[:, :, 0]


def _shortened(added: Tensor, to: Tensor) -> Tensor:
    """What is added (B, D) to velocities or steps (B, D), not longer than `_FARTHEST` times these."""
    most = _FARTHEST * to.norm(dim=1, keepdim=True)
    length = added.norm(dim=1, keepdim=True)
    return added * torch.where(length > most, most / length, 1)


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
