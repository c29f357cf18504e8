"""The measuring of a landscape: a potential's values and gradients on the plane of a path, at the path's times."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastflow.engine.potentials import PotentialBank
from fastflow.saved.run import SavedRun

_MOST_FRAMES = 12
_GRID, _ARROWS = 25, 9  # points along a side of the square, for the values and for the gradients
_MARGIN = 1.35  # the square's side relative to the path's extent


@torch.no_grad()
def landscape(run: SavedRun, path: Tensor, potential: int) -> dict[str, Any]:
    """Measure a potential and its gradient on the plane of a path, at the times of the path's points.

    The plane goes through the path's mean along its two principal directions, which point from the path's beginning to
    its end. The square around the path is the same at all times, of which there are at most 12.

    Args:
        run: the run.
        path: latents (T + 1, D).
        potential: the potential's number.

    Returns:
        An entry of landscapes.json: "share", the share of the path's squared distances from its mean that lies in the
        plane; "side", half the length of the square's side in the latent space; "times" (F,); "path" (T + 1, 2);
        "columns" (F,), the path's points at these times; "values" (F, 25, 25) and "gradients" (F, 9, 9, 2), with rows
        from the bottom up.
    """
    middle = path.mean(0)
    axes, share = _plane(path - middle)
    flat = (path - middle) @ axes.T  # (T + 1, 2)
    centre = (flat.amax(0) + flat.amin(0)) / 2
    side = _MARGIN * float((flat - centre).abs().max().clamp_min(1e-6))
    steps = len(path) - 1
    columns = sorted({round(i * steps / (_MOST_FRAMES - 1)) for i in range(_MOST_FRAMES)})
    columns = list(range(steps + 1)) if steps < _MOST_FRAMES else columns
    times = [column * run.config.dt for column in columns]

    def at(count: int) -> Tensor:
        """The latents (count^2, D) of a grid on the square."""
        ticks = torch.linspace(-side, side, count).to(path)
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        return middle + (torch.stack((x, y), -1).flatten(0, 1) + centre) @ axes

    wide, coarse = at(_GRID), at(_ARROWS)
    values, gradients = [], []
    for t in times:
        values.append(_jet(run.bank, wide, t, potential)[0].view(_GRID, _GRID))
        gradients.append((_jet(run.bank, coarse, t, potential)[1] @ axes.T).view(_ARROWS, _ARROWS, 2))
    return {
        "index": potential,
        "share": share,
        "side": side,
        "times": times,
        "columns": columns,
        "path": _rounded((flat - centre) / side),
        "values": _rounded(torch.stack(values)),
        "gradients": _rounded(torch.stack(gradients)),
    }


def _plane(offsets: Tensor) -> tuple[Tensor, float]:
    """The two orthonormal directions (2, D) with the largest share of the squares of offsets (N, D), and that share."""
    _, sizes, directions = torch.linalg.svd(offsets, full_matrices=False)
    axes = directions[:2]
    if len(axes) < 2:  # latents of one dimension: the second direction means nothing
        axes = torch.cat((axes, torch.zeros_like(axes)))
    axes = torch.where(((offsets[-1] - offsets[0]) @ axes.T < 0)[:, None], -axes, axes)
    total = float(sizes.square().sum())
    return axes, float(sizes[:2].square().sum()) / total if total > 0 else 1.0


def _jet(bank: PotentialBank, z: Tensor, t: float, potential: int) -> tuple[Tensor, Tensor]:
    """A potential's values (B,) and gradients (B, D)."""
    jet = bank.jet(z, t, potential, laplacian="none", with_u_tt=False)
    return jet.u, jet.grad


def _rounded(values: Tensor) -> list[Any]:
    """The values as nested lists, rounded to five digits of the greatest, which are enough for a page."""
    greatest = float(values.abs().max())
    digits = 4 - math.floor(math.log10(greatest)) if greatest > 0 else 0
    return values.double().round(decimals=digits).tolist()
