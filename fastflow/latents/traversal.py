"""Traversals: latents flowing along a potential, and their images."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.engine.inputs import check_latents
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.paths import flow
from fastflow.engine.potentials import PotentialBank
from fastflow.engine.types import Method
from fastflow.generators import Generator

TraversalDirection = Literal["forward", "descent", "reverse", "both"]


class Traversal(NamedTuple):
    """Paths of B latents and their images, and where in them the start stands."""

    latents: Tensor
    """(B, steps + 1, D)"""
    images: Tensor
    """(B, steps + 1, C, H, W)"""
    start: int
    """The column of the starting latents."""


@runtime_checkable
class Traverses(Protocol):
    """Anything with K paths from any latent: a run, whose potentials they follow, or a baseline."""

    @property
    def step_length(self) -> float | None:
        """The length of every step in latent space, which can be set; None where paths have a speed of their own."""
        ...

    @property
    def generator(self) -> Generator:
        """Whose latents are traversed."""
        ...

    @property
    def num_paths(self) -> int:
        """K."""
        ...

    @property
    def path_steps(self) -> int:
        """The steps of a path where nobody says how many."""
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
        """`steps` steps from latents z0 (B, D), along one path for all or one for each (B,) long, or against it.

        `labels` (B,) are the latents' classes, of a generator with such.
        """
        ...


class PathSettings(Protocol):
    """The settings that a traversal needs of a configuration."""

    @property
    def dt(self) -> float:
        """A step's share of time."""
        ...

    @property
    def method(self) -> Method:
        """The integrator."""
        ...

    @property
    def step_length(self) -> float | None:
        """The length of every step in latent space, if it is fixed."""
        ...


class Pace(NamedTuple):
    """Settings of a path."""

    dt: float
    method: Method
    step_length: float | None


def check_source(source: Traverses, path_steps: int | None = None) -> int:
    """The steps of a path that is to be measured, the source's own if None.

    Raises:
        InputError: the source doesn't traverse, its paths are none, or path_steps isn't a whole number of at least 1.
    """
    if not isinstance(source, Traverses):
        raise InputError(
            f"what is measured must traverse: a run, a baseline, or what has their generator, num_paths, path_steps, "
            f"step_length and traverse; got {type(source).__name__}"
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
    settings: PathSettings,
    direction: TraversalDirection = "forward",
    companion: DivergenceFreeField | None = None,
    *,
    labels: Tensor | None = None,
) -> Traversal:
    """Let latents z0 (B, D) flow along a potential for `steps` steps, and decode every point.

    Args:
        potential: one for all latents, or one for each (B,) long.
        steps: the path's length in steps.
        direction: "forward" from time 0; "descent" against the gradient; "reverse", the path that would end in z0, last
            point first; "both": the start stands in the middle, column steps // 2, and the path before it is the
            reverse flow's, so that the whole row is one forward path through times 0 .. steps.
        companion: the bank's, where it has one.
        labels: each latent's class (B,), whole numbers, of a generator with classes; of its first class if None.

    Raises:
        InputError: an argument that doesn't fit, by its name.
    """
    check_latents(z0, bank.dim, bank.out_bias)
    if labels is not None:
        generator.check_labels(labels, z0)  # before the path is walked
    # A bank's potentials are known on the times they were trained on, 0 .. path_steps * dt.
    dt, method, length = settings.dt, settings.method, settings.step_length

    def go(count: int, t0: float, way: Literal["forward", "descent", "reverse"]) -> Tensor:
        return flow(bank, z0, potential, count, t0, dt, method, way, length, companion)

    start = 0
    if direction == "both":
        if not isinstance(steps, int) or steps < 2:
            raise InputError(f"steps must be at least 2 to go both ways, got {steps!r}")
        start = steps // 2
        before = go(start, 0.0, "reverse").flip(1)
        latents = torch.cat((before, go(steps - start, start * dt, "forward")[:, 1:]), 1)
    elif direction == "reverse":
        latents = go(steps, 0.0, "reverse")
    elif direction in ("forward", "descent"):
        latents = go(steps, 0.0, direction)
    else:
        raise InputError(f"direction must be one of forward, descent, reverse, both, got {direction!r}")
    return Traversal(latents, decoded(generator, latents, labels), start)


@torch.no_grad()
def decoded(generator: Generator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """The images (B, T, C, H, W) of paths of latents (B, T, D), and of their classes (B,) where there are such."""
    labels = None if labels is None else generator.check_labels(labels, latents)
    decode = generator.conditioned(labels)
    return torch.stack([decode(z) for z in latents.unbind(1)], 1)
