"""Traversals: paths of latents along a potential, and their images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.engine.inputs import check_index, check_latents
from fastflow.engine.integration import Integration
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.paths import integrate
from fastflow.engine.potentials import PotentialBank
from fastflow.engine.types import Direction
from fastflow.generators import Generator
from fastflow.latents.ends import ends_at, path_ends
from fastflow.latents.even import evened
from fastflow.latents.guidance import Guide, guide_by
from fastflow.latents.held import Held
from fastflow.latents.predictors import Predictor
from fastflow.latents.spaces import Features, changes

TraversalDirection = Literal["forward", "descent", "reverse", "both"]


class Traversal(NamedTuple):
    """Paths of B latents, their images, and the place of the starting latents in the paths."""

    latents: Tensor
    """(B, steps + 1, D)"""
    images: Tensor
    """(B, steps + 1, C, H, W)"""
    start: int
    """The column of the starting latents in both."""
    places: Tensor | None = None
    """(B, steps + 1) float64: how many steps of the flow itself each point of an even path lies from the start.

    It is negative before the start, and None where every column is a step of the flow.
    """
    ends: Tensor | None = None
    """(B, 2) long: the first and the last column at which each path is still among the data.

    None if it wasn't looked for. See `fastflow.latents.ends.path_ends`.
    """


@runtime_checkable
class Traverses(Protocol):
    """Anything with K paths from any latent: a run, whose paths follow its potentials, or a baseline.

    Its `traverse` may also take `even`, as those of runs and baselines do: see `flow_of`.
    """

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


def flow_of(source: Traverses) -> Callable[..., Traversal]:
    """The source's `traverse` in steps of the flow itself, for what needs no images or measures the flow.

    A source that knows no `even` traverses as it always does.
    """
    traverse: Callable[..., Traversal] = source.traverse
    return partial(traverse, even=False) if "even" in inspect.signature(traverse).parameters else traverse


def check_even(even: object, features: object) -> None:
    """Raise InputError unless `even` is True or False, and features are a function that even steps need, or None."""
    if not isinstance(even, bool):
        raise InputError(f"even must be True, False, or None for the usual way, got {even!r}")
    if features is not None and not callable(features):
        raise InputError(f"features must be a function from images to features, or None, got {features!r}")
    if features is not None and not even:
        raise InputError("features are what even steps change equally: ask for even=True, or leave features out")


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
    even: bool = False,
    features: Features | None = None,
    hold: Sequence[str | Predictor] = (),
    guided: Sequence[str] = (),
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
        even: place the points of each path anew, so that each step makes the same visible change; the path stays the
            same curve with the same ends. See `fastflow.latents.even.evened`.
        features: what even steps change equally: a function from images (B, C, H, W) in [0, 1] to features (B, ...);
            the pixels if None.
        hold: attributes, as `fastflow.latents.guidance.guide_by` takes them, that the path leaves as they are: their
            gradients are taken out of the velocity at every step, and what has drifted all the same is taken back,
            which costs four passes forward through the generator and three back for each attribute. Only forward and
            descent.
        guided: the names of the attributes that guided the potentials in training, the first potential's first. A path
            keeps the rate at which it changes its own, also where `hold` names it.

    Raises:
        InputError: an argument doesn't fit; the message names it.
    """
    check_even(even, features)
    if hold and direction not in ("forward", "descent"):
        raise InputError(f"direction must be forward or descent to hold attributes, got {direction!r}")
    check_latents(z0, bank.dim, bank.out_bias)
    if labels is not None:
        generator.check_labels(labels, z0)  # before the path is computed
    held = None
    if hold:
        attributes = guide_by(hold, generator, "hold")
        own = _own(attributes, guided, check_index(potential, bank.num_potentials, z0).each)
        held = Held(generator, attributes, z0, labels, own)

    def path(count: int, t0: float, direction: Direction) -> Tensor:
        way = integration._replace(direction=direction)
        if held is None:
            return integrate(bank, z0, potential, count, t0=t0, integration=way, companion=companion)
        check_count(count, "steps")
        points = [z0]
        for step in range(count):
            begun = t0 + step * integration.dt
            after, unbent = (
                integrate(bank, points[-1], potential, 1, begun, way, companion=companion, bent=bent)[:, 1]
                for bent in (held, None)
            )
            points.append(held.mended(points[-1], after, unbent))
        return torch.stack(points, 1)

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
    return seen(generator, latents, start, labels=labels, even=even, features=features)


def _own(attributes: Guide, guided: Sequence[str], potential: Tensor) -> Tensor:
    """For each latent the number (B,) of the attribute that guided its potential, among all values, or -1.

    Raises:
        InputError: nothing else is to be held along one of these potentials.
    """
    every = [attributes.every.index(name) if name in attributes.every else -1 for name in guided]
    for k in potential.unique().tolist():
        if k < len(every) and set(attributes.columns) == {every[k]}:
            raise InputError(
                f"hold names {guided[k]!r} alone, which potential {k} is there to change: name what it should leave"
            )
    numbers = torch.tensor([*every, -1], device=potential.device)
    return numbers[potential.clamp_max(len(every))]


@torch.no_grad()
def seen(
    generator: Generator,
    latents: Tensor,
    start: int = 0,
    *,
    labels: Tensor | None = None,
    even: bool = False,
    features: Features | None = None,
) -> Traversal:
    """The traversal of paths of latents (B, T + 1, D) with their starts in column `start`; see `traverse`."""
    images = decoded(generator, latents, labels)
    # A path of even steps has few points where the images stand still: its ends are those of the flow.
    moved = changes(generator, images, features)
    ends = path_ends(generator, latents, images, start, features=features, moved=moved)
    if not even:
        return Traversal(latents, images, start, ends=ends)
    labels = None if labels is None else generator.check_labels(labels, latents)
    found = evened(generator, latents, images, start, labels=labels, features=features, moved=moved)
    return Traversal(found.latents, found.images, start, found.places, ends_at(ends, found.places, start))


@torch.no_grad()
def decoded(generator: Generator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """The images (B, T, C, H, W) of paths of latents (B, T, D), with the latents' classes (B,) if there are any."""
    labels = None if labels is None else generator.check_labels(labels, latents)
    decode = generator.conditioned(labels)
    return torch.stack([decode(z) for z in latents.unbind(1)], 1)
