"""Traversals: paths of latents along a potential, and their images."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.engine.inputs import check_latents
from fastflow.engine.integration import Integration
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.paths import integrate
from fastflow.engine.potentials import PotentialBank
from fastflow.engine.types import Direction
from fastflow.generators import Generator

TraversalDirection = Literal["forward", "descent", "reverse", "both"]


class Traversal(NamedTuple):
    """Paths of B latents, their images, and the place of the starting latents in the paths."""

    latents: Tensor
    """(B, steps + 1, D)"""
    images: Tensor
    """(B, steps + 1, C, H, W)"""
    start: int
    """The column of the starting latents in both."""


@runtime_checkable
class Traverses(Protocol):
    """Anything with K paths from any latent: a run, whose paths follow its potentials, or a baseline."""

    @property
    def step_length(self) -> float | None:
        """The length of every step in latent space, which can be set; None if paths have their own speed."""
        ...

    @property
    def generator(self) -> Generator:
        """The generator whose latents are traversed."""
        ...

    @property
    def num_paths(self) -> int:
        """K, the number of paths."""
        ...

    @property
    def path_steps(self) -> int:
        """The number of steps of a path if nothing else is asked for."""
        ...

    def traverse(
        self,
        z0: Tensor,
        index: int | Tensor,
        steps: int,
        direction: Literal["forward", "descent"] = "forward",
        /,
        *,
        labels: Tensor | None = None,
    ) -> Traversal:
        """Take `steps` steps from latents z0 (B, D) along paths, or in the opposite direction.

        Args:
            index: one path for all latents, or one for each, (B,) long.
            labels: the latents' classes (B,), if the generator has classes.
        """
        ...


def check_source(source: Traverses, path_steps: int | None = None) -> int:
    """The number of steps of the paths that a metric measures: `path_steps`, or the source's own if None.

    Raises:
        InputError: the source can't traverse or has no paths, or path_steps isn't a whole number of at least 1.
    """
    if not isinstance(source, Traverses):
        raise InputError(
            "the source must be a run, a baseline, or an object with their attributes generator, num_paths, "
            f"path_steps, step_length and traverse, got {type(source).__name__}"
        )
    path_steps = source.path_steps if path_steps is None else path_steps
    check_count(path_steps, "path_steps")
    return path_steps


@torch.no_grad()
def traverse(
    bank: PotentialBank,
    generator: Generator,
    z0: Tensor,
    potential: int | Tensor,
    steps: int,
    *,
    integration: Integration,
    direction: TraversalDirection = "forward",
    companion: DivergenceFreeField | None = None,
    labels: Tensor | None = None,
) -> Traversal:
    """Let latents z0 (B, D) flow along a potential for `steps` steps, and decode every point.

    Args:
        potential: one potential for all latents, or one for each, (B,) long.
        steps: the path's length in steps.
        integration: how it is integrated; `direction` takes the place of its own.
        direction: "forward", along the gradient from time 0; "descent", against the gradient; "reverse", the path that
            ends in z0, last point first; or "both", one forward path through times 0 .. steps with the start in its
            middle, column steps // 2: the part before the start is computed by the reverse flow.
        companion: the bank's companion, if it has one.
        labels: each latent's class (B,), whole numbers, if the generator has classes; the first class if None.

    Raises:
        InputError: an argument doesn't fit; the message names it.
    """
    check_latents(z0, bank.dim, bank.out_bias)
    if labels is not None:
        generator.check_labels(labels, z0)  # before the path is computed

    def path(count: int, t0: float, direction: Direction) -> Tensor:
        one_way = integration._replace(direction=direction)
        return integrate(bank, z0, potential, count, t0=t0, integration=one_way, companion=companion)

    # The potentials were trained at times 0 .. path_steps * dt: paths keep within them where they can.
    start = 0
    if direction == "both":
        if not isinstance(steps, int) or steps < 2:
            raise InputError(f"steps must be at least 2 to go both ways, got {steps!r}")
        start = steps // 2
        before = path(start, 0.0, "reverse").flip(1)
        latents = torch.cat((before, path(steps - start, start * integration.dt, "forward")[:, 1:]), 1)
    elif direction == "reverse":
        latents = path(steps, 0.0, "reverse")
    elif direction in ("forward", "descent"):
        latents = path(steps, 0.0, direction)
    else:
        raise InputError(f"direction must be one of forward, descent, reverse, both, got {direction!r}")
    return Traversal(latents, decoded(generator, latents, labels), start)


@torch.no_grad()
def decoded(generator: Generator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """The images (B, T, C, H, W) of paths of latents (B, T, D), with the latents' classes (B,) if there are any."""
    labels = None if labels is None else generator.check_labels(labels, latents)
    decode = generator.conditioned(labels)
    return torch.stack([decode(z) for z in latents.unbind(1)], 1)
