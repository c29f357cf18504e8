"""Purity: whether a path changes one attribute, or many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.latents.predictors import Predictor
from fastflow.latents.traversal import Traverses, check_source
from fastflow.metrics.attributes import attribute_values

PURE, MONOTONE = 0.5, 0.5
"""The least purity and the least monotonicity at which a path covers the attribute that it changes most."""


@dataclass(frozen=True)
class Purity:
    """How much each of K paths changes each of A attributes."""

    attributes: list[str]
    change: list[list[float]]
    """(K, A): the mean over the starts of |a_T - a_0|, in the attribute's standard deviations over all starts."""
    top: list[int]
    """(K,): the attribute that a path changes most."""
    purity: list[float]
    """(K,): the top attribute's share of the sum of the path's changes; 1 / A where all change alike."""
    monotonicity: list[float]
    """(K,): the absolute value of Spearman's correlation of the top attribute with the step, averaged over the starts.

    It is 1 where the attribute rises from every start or falls from every start, and near 0 where it rises from some
    and falls from others.
    """
    covered: list[str]
    """The attributes that some path changes purely and monotonically; see `PURE` and `MONOTONE`."""
    strength: float
    """The mean absolute pixel change of a step; compare methods at equal strength."""
    samples: int
    """The number of starts, which are the same for each path."""

    @property
    def score(self) -> float:
        """The mean purity over the paths."""
        return sum(self.purity) / len(self.purity)

    @property
    def coverage(self) -> int:
        """How many attributes are covered."""
        return len(self.covered)


@torch.no_grad()
def purity(
    source: Traverses,
    predictor: Predictor,
    attributes: Sequence[str] | None = None,
    *,
    path_steps: int | None = None,
    samples: int = 256,
    seed: int = 1,
) -> Purity:
    """Measure how much each path of a run or baseline changes each attribute of its images.

    The arguments are those of `fastflow.metrics.attributes.attribute_correlation`. For digits, the predictor
    `stroke_attributes` measures their shape.

    Raises:
        InputError: an attribute is the same at every start, so that its change has no scale; or as
            `attribute_correlation` does.
    """
    steps = check_source(source, path_steps)
    check_count(samples, "samples")
    if samples < 2:
        raise InputError("samples must be at least 2, so that attributes have a spread, got 1")
    strengths: list[float] = []

    def predict_and_measure(images: Tensor) -> Tensor:
        """The predictor's values for images of whole paths, whose strengths are recorded."""
        change = images.unflatten(0, (-1, steps + 1)).diff(dim=1)
        strengths.extend(change.abs().flatten(1).mean(1).tolist())
        return predictor(images)

    names, values = attribute_values(
        source, predict_and_measure, attributes, path_steps=steps, samples=samples, seed=seed
    )  # fmt: skip
    spread = values[0, :, 0].std(0)  # (A,); all paths have the same starts
    constant = [name for name, std in zip(names, spread.tolist(), strict=True) if not std > 0]
    if constant:
        raise InputError(f"attribute {constant[0]!r} is the same at all {samples} starts: leave it out, or take more")
    change = (values[:, :, -1] - values[:, :, 0]).abs().mean(1) / spread  # (K, A)
    total = change.sum(1)
    top = change.argmax(1)
    share = torch.where(total > 0, change.amax(1) / total.clamp_min(1e-300), 1 / len(names))
    own = values[torch.arange(len(values)), :, :, top]  # (K, N, T + 1)
    monotone = _spearman(own).mean(1).abs()
    covered = [
        name
        for a, name in enumerate(names)
        if bool(((top == a) & (share >= PURE) & (monotone >= MONOTONE) & (total > 0)).any())
    ]
    return Purity(
        attributes=names,
        change=change.tolist(),
        top=top.tolist(),
        purity=share.tolist(),
        monotonicity=monotone.tolist(),
        covered=covered,
        strength=sum(strengths) / len(strengths),
        samples=samples,
    )


def _spearman(values: Tensor) -> Tensor:
    """The rank correlation (...) of values (..., T + 1) with their place; 0 for values that are all the same."""
    # A value's rank, counted from the middle; equal values have the same rank.
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    above = (values[..., None, :] > values[..., :, None]).sum(-1)
    rank = (below - above).to(values.dtype)
    place = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    place = place - place.mean()
    size = rank.norm(dim=-1) * place.norm()
    return torch.where(size > 0, (rank * place).sum(-1) / size.clamp_min(1e-300), 0.0)
