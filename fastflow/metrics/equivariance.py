"""Equivariance: how well latent paths reproduce transformations of held-out images, and which path is which of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.datasets import Sequences
from fastflow.saved.run import SavedVAE

_AT_ONCE = 16  # starting images that are moved along all transformations and all potentials at once
# The fit of straight directions: the number of steps, the images in each step, and the first learning rate, which falls
# to 0. Latents have the scale of their prior, which is 1.
_FIT_STEPS, _FIT_IMAGES, _FIT_RATE = 300, 32, 0.05


@dataclass(frozen=True)
class Equivariance:
    """Mean absolute errors of pixels in [0, 1], over all steps but the start, all transformations and all images."""

    error: float
    """The error between the decoded path and the transformed image."""
    standard_error: float
    """The standard error of `error` over the starting images; NaN for a single image."""
    per_transformation: dict[str, float]
    """The error for each transformation."""
    floor: float
    """The error between each transformed image and its own reconstruction, below which no path is expected to come."""
    still: float
    """The error between the start's reconstruction and the transformed image, as if nothing moved."""
    accuracy: float
    """How often the path that fits best is the one assigned to the transformation."""
    confusion: list[list[int]]
    """The counts of images: rows for the true transformation, columns for the path that fits best."""
    assignment: list[int]
    """(K,): the number of the potential or direction of each transformation.

    With weak supervision nothing says which potential is which transformation: then it is the one-to-one assignment
    with the highest accuracy.
    """
    each: Tensor
    """The error for each starting image and transformation, (N, K) float64 on the CPU, for paired comparisons."""


@torch.no_grad()
def equivariance_error(
    run: SavedVAE, data: Sequences, samples: int = 256, seed: int = 0, *, directions: Tensor | None = None
) -> Equivariance:
    """Carry encoded images along paths, and compare every step with the images as the data set itself moves them.

    Args:
        run: the VAE whose paths are measured.
        data: held-out images that move along the run's transformations.
        samples: how many starting images to draw without replacement, or all if there are fewer; each is moved along
            every transformation.
        seed: the seed of the draw.
        directions: latent displacements (K, D), one for each whole transformation, in place of the run's transition;
            see `straight_directions`.

    Paths are those of the run's transition without its noise: of its flows, or of its rival's means.

    Raises:
        InputError: the data have other transformations or images, directions don't fit, or the run has no paths.
    """
    _check_data(run, data)
    check_count(samples, "samples")
    count, steps = len(run.transformations), run.config.path_frames
    if directions is None and run.config.law == "independent":
        raise InputError(
            f"run {str(run.folder)!r} has no paths, because its VAE was trained with {run.config.without_flows}: pass "
            "directions"
        )
    paths = count if directions is not None else run.transition.num_transformations
    if directions is not None and directions.shape != (count, run.config.latent_dim):
        raise InputError(
            f"directions must have shape ({count}, {run.config.latent_dim}), got {tuple(directions.shape)}"
        )
    errors, floors, stills = [], [], []
    for rows in _draw_rows(data, samples, seed).split(_AT_ONCE):
        images = _moved_images(run, data, rows)  # (N, K, T + 1, C, H, W)
        # On a grid of factors, each transformation begins at an image of its own.
        z0 = run.vae.encode(images[:, :, 0].flatten(0, 1))[0]  # (N * K, D)
        along = []
        for path in range(paths):
            if directions is None:
                z = run.transition.path(z0, torch.full((len(z0),), path, device=z0.device), steps)
            else:
                z = _straight(z0, directions[path].expand_as(z0), steps)
            along.append(_distance(_decoded(run, z).view_as(images), images))
        errors.append(torch.stack(along, 2))  # (N, K, paths)
        own = _decoded(run, run.vae.encode(images.flatten(0, 2))[0].view(-1, steps + 1, z0.shape[1]))
        floors.append(_distance(own.view_as(images), images))
        stills.append(_distance(run.vae.images(z0).view_as(images[:, :, 0])[:, :, None], images))
    error, floor, still = (torch.cat(parts).double().cpu() for parts in (errors, floors, stills))
    best = error.argmin(2)  # (N, K)
    confusion = torch.stack([torch.bincount(best[:, k], minlength=paths) for k in range(count)])
    fixed = directions is not None or run.config.supervision == "full"
    assignment = list(range(count)) if fixed else _best_assignment(confusion.tolist())
    each = torch.stack([error[:, k, path] for k, path in enumerate(assignment)], 1)
    per_image = each.mean(1)
    return Equivariance(
        error=float(each.mean()),
        standard_error=float(per_image.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan,
        per_transformation=dict(zip(run.transformations, each.mean(0).tolist(), strict=True)),
        floor=float(floor.mean()),
        still=float(still.mean()),
        accuracy=sum(int(confusion[k, path]) for k, path in enumerate(assignment)) / best.numel(),
        confusion=confusion.tolist(),
        assignment=assignment,
        each=each,
    )


def straight_directions(run: SavedVAE, data: Sequences, samples: int = 512, seed: int = 0) -> Tensor:
    """Fit the best straight direction for each transformation, (K, D): the latent displacement of the whole of it.

    A direction is the best if its decoded path has the least mean absolute error of pixels, as `equivariance_error`
    measures it. It is found by Adam with a learning rate that falls to 0, starting from the least-squares fit of the
    latents' displacements. Curved paths have to beat these directions. Fit them on training images.

    The arguments are those of `equivariance_error`.
    """
    _check_data(run, data)
    check_count(samples, "samples")
    rows = _draw_rows(data, samples, seed)
    directions = _displacements(run, data, rows).requires_grad_()
    optimizer = torch.optim.Adam([directions], lr=_FIT_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _FIT_STEPS)
    rng, steps = torch.Generator().manual_seed(seed), run.config.path_frames
    for _ in range(_FIT_STEPS):
        part = rows[torch.randint(len(rows), (min(_FIT_IMAGES, len(rows)),), generator=rng)]
        with torch.no_grad():
            images = _moved_images(run, data, part)
            z0 = run.vae.encode(images[:, :, 0].flatten(0, 1))[0]
        with torch.enable_grad():
            decoded = _decoded(run, _straight(z0, directions.repeat(len(part), 1), steps))
            error = _distance(decoded.view_as(images), images).mean()
            (directions.grad,) = torch.autograd.grad(error, directions)
        optimizer.step()
        falling.step()
    return directions.detach()


@torch.no_grad()
def _displacements(run: SavedVAE, data: Sequences, rows: Tensor) -> Tensor:
    """The displacements (K, D) of straight paths that fit the latents of moved images by least squares."""
    steps = run.config.path_frames
    share = torch.arange(1, steps + 1) / steps
    sums = torch.zeros(())
    for part in rows.split(_AT_ONCE):
        images = _moved_images(run, data, part)
        z = run.vae.encode(images.flatten(0, 2))[0].unflatten(0, images.shape[:3])  # (N, K, T + 1, D)
        sums = sums + (share.to(z)[:, None] * (z[:, :, 1:] - z[:, :, :1])).sum((0, 2))
    return sums / (len(rows) * float(share.square().sum()))


def _check_data(run: SavedVAE, data: Sequences) -> None:
    """Raise InputError unless the data have the run's transformations and images."""
    if tuple(data.transformations) != run.transformations or tuple(data.image_shape) != run.vae.image_shape:
        raise InputError(
            f"the data must have images {run.vae.image_shape} that move by {', '.join(run.transformations)}, as the "
            f"run's do, got {tuple(data.image_shape)} and {', '.join(data.transformations)}"
        )


def _draw_rows(data: Sequences, samples: int, seed: int) -> Tensor:
    """Row numbers of a data set, drawn without replacement."""
    return torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:samples]


def _moved_images(run: SavedVAE, data: Sequences, rows: Tensor) -> Tensor:
    """Images (N, K, T + 1, C, H, W) of rows (N,), moved along every transformation, on the run's device."""
    count, steps = len(run.transformations), run.config.path_frames
    device = next(run.vae.parameters()).device
    each = torch.arange(count, device=device).repeat(len(rows))
    place = (torch.arange(steps + 1, device=device) / steps).repeat(len(each), 1)
    return data.frames(rows.to(device).repeat_interleave(count), each, place).unflatten(0, (-1, count))


def _straight(z0: Tensor, displacement: Tensor, steps: int) -> Tensor:
    """Latents (N, T + 1, D) from z0 (N, D) in equal steps to z0 + displacement (N, D)."""
    share = torch.arange(steps + 1, device=z0.device, dtype=z0.dtype) / steps
    return z0[:, None] + share[:, None] * displacement[:, None]


def _decoded(run: SavedVAE, z: Tensor) -> Tensor:
    """Mean images (N, T + 1, C, H, W) of latents (N, T + 1, D)."""
    return run.vae.images(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """The mean absolute difference (...) of paths of images (..., T + 1, C, H, W), without their starts."""
    return (one - other)[..., 1:, :, :, :].abs().mean((-4, -3, -2, -1))


def _best_assignment(counts: list[list[int]]) -> list[int]:
    """A different column for each row, so that the sum of the counts is greatest; there are at least as many columns.

    Dynamic programming over sets of columns: exact, and quick for a few transformations and potentials.
    """
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}  # for the rows so far: by the set of their columns
    for row in counts:
        longer: dict[int, tuple[int, list[int]]] = {}
        for taken, (total, chosen) in best.items():
            for column, count in enumerate(row):
                key = taken | 1 << column
                if key != taken and total + count > longer.get(key, (-1, []))[0]:
                    longer[key] = (total + count, [*chosen, column])
        best = longer
    return max(best.values())[1]
