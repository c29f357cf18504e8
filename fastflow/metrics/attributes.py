"""Correlations that show which path changes which attribute, by a predictor of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.files import write_sealed
from fastflow.core.plugins import name_of
from fastflow.latents.predictors import Predictor, predicted
from fastflow.latents.traversal import Traverses, check_source
from fastflow.metrics.held_out import held_out_paths
from fastflow.saved.run import SavedRun
from fastflow.training.run_folder import begin_writing


@dataclass(frozen=True)
class AttributeCorrelation:
    """How each of A attributes changes along each of K paths."""

    attributes: list[str]
    correlation: list[list[float]]
    """(K, A): Pearson's r between the step and the attribute's value along a path, averaged over the starts."""
    change: list[list[float]]
    """(K, A): the attribute's value at the end of a path minus its value at the start, averaged over the starts."""
    spread: list[float]
    """(A,): the attributes' standard deviations over the starts."""
    samples: int
    """The number of starts, which are the same for each path."""

    @property
    def normalized(self) -> list[list[float]]:
        """The correlations of each path divided by the sum of their absolute values; signs stay.

        A path that changes a single attribute has 1 or -1 there. This is the L1-normalised table of WarpedGANSpace
        (Tzelepis et al., ICCV 2021).
        """
        return [[r / (sum(map(abs, row)) or 1.0) for r in row] for row in self.correlation]

    def strongest(self, potential: int) -> tuple[str, float]:
        """The attribute that a path changes most steadily, and its correlation."""
        row = self.correlation[potential]
        place = max(range(len(row)), key=lambda a: abs(row[a]))
        return self.attributes[place], row[place]


@torch.no_grad()
def attribute_correlation(
    source: Traverses,
    predictor: Predictor,
    attributes: Sequence[str] | None = None,
    *,
    path_steps: int | None = None,
    samples: int = 64,
    seed: int = 1,
) -> AttributeCorrelation:
    """Correlate the step with each attribute of the images along all paths, from starts that no training draws.

    Args:
        source: a run or a baseline.
        predictor: a function of images (B, C, H, W) in [0, 1], rounded to 8 bits; a module should be in eval mode.
        attributes: the attributes' names; "attribute 0", "attribute 1", ... if None.
        path_steps: the steps of each path; the source's own number if None.
        samples: how many starts there are.
        seed: the seed of the starts.

    Raises:
        InputError: the predictor fails, gives other than finite values (B,) or (B, A), or the names don't fit.
    """
    path_steps = check_source(source, path_steps)
    names, values = attribute_values(
        source, predictor, attributes, path_steps=path_steps, samples=samples, seed=seed
    )  # fmt: skip
    correlation = [_within_path(path).mean(0).tolist() for path in values]
    change = (values[:, :, -1] - values[:, :, 0]).mean(1).tolist()
    spread = values[0, :, 0].std(0).tolist() if samples > 1 else [0.0] * len(names)
    return AttributeCorrelation(names, correlation, change, spread, samples)


@torch.no_grad()
def attribute_values(
    source: Traverses,
    predictor: Predictor,
    attributes: Sequence[str] | None,
    *,
    path_steps: int,
    samples: int,
    seed: int,
) -> tuple[list[str], Tensor]:
    """The attributes' names, and their values (K, N, T + 1, A) in float64 along all paths from the same starts.

    The arguments and errors are those of `attribute_correlation`.
    """
    if attributes is not None:
        a_list = isinstance(attributes, Sequence) and not isinstance(attributes, str)
        if not a_list or not all(isinstance(name, str) for name in attributes):
            raise InputError(f"attributes must be a list of names, got {attributes!r}")
    if path_steps < 2:
        raise InputError(f"a correlation needs paths of at least 2 steps, got {path_steps}")
    parts: list[list[Tensor]] = [[] for _ in range(source.num_paths)]
    names = []
    for k, path in held_out_paths(source, path_steps, samples, seed):
        parts[k].append(_predicted(predictor, source.generator.eight_bit(path.images)))
        names = _checked_names(attributes, parts[k][-1].shape[2])  # early, before everything is computed
    return names, torch.stack([torch.cat(path) for path in parts])


def correlate(
    run: SavedRun,
    predictor: Predictor,
    attributes: Sequence[str] | None = None,
    samples: int = 64,
    seed: int = 1,
) -> AttributeCorrelation:
    """Do `attribute_correlation` for a run, and write the result to its attributes.json."""
    begin_writing(run.folder / "attributes.json")
    found = attribute_correlation(run, predictor, attributes, samples=samples, seed=seed)
    record: dict[str, Any] = {
        **asdict(found),
        "predictor": name_of(predictor),
        "seed": seed,
        "training_steps": run.step,
        "weights": run.weights,
    }
    write_sealed(run.folder / "attributes.json", record)
    return found


def _checked_names(attributes: Sequence[str] | None, width: int) -> list[str]:
    """The names of `width` attributes; raise InputError unless there are as many, all different."""
    names = [f"attribute {a}" for a in range(width)] if attributes is None else list(attributes)
    if len(names) != width:
        raise InputError(
            f"the predictor gives {width} attributes, and {len(names)} names were given: name each of them"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"attribute {twice[0]!r} is named twice: give each a name of its own")
    return names


def _predicted(predictor: Predictor, images: Tensor) -> Tensor:
    """Values (B, T + 1, A) of images (B, T + 1, C, H, W)."""
    values = predicted(predictor, images.flatten(0, 1)).unflatten(0, images.shape[:2]).double()
    if not bool(values.isfinite().all()):
        raise InputError("the predictor's values must be finite, got NaN or infinity")
    return values


def _within_path(values: Tensor) -> Tensor:
    """Pearson's r (N, A) between the step and values (N, T + 1, A); 0 for a value that doesn't change."""
    steps = torch.arange(values.shape[1], dtype=values.dtype, device=values.device)
    steps = (steps - steps.mean())[:, None]
    centred = values - values.mean(1, keepdim=True)
    size = steps.norm() * centred.norm(dim=1)
    # Rounding makes even a constant vary by some units in its last place.
    moves = centred.abs().amax(1) > 1e-6 * values.abs().amax(1).clamp_min(1e-12)
    return torch.where(moves, (steps * centred).sum(1) / size.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
