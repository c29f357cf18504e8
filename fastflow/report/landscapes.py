"""A potential's landscape on the plane of a path: its values and gradients there, at the path's own times."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastflow.engine.potentials import PotentialBank
from fastflow.saved.run import SavedRun

_MOST_FRAMES = 12
_GRID, _ARROWS = 25, 9  # points along a side, of the values and of the gradients
_MARGIN = 1.35  # how much more than the path the square shows


@torch.no_grad()
def landscape(run: SavedRun, path: Tensor, potential: int) -> dict[str, Any]:
    """What a drawing needs of u_k and its gradient on the plane of a path (T + 1, D), at the times of its points.

    The plane goes through the path's mean along its two principal directions, which point from its beginning to its
    end. The square around the path is the same at all times, of which there are at most 12.

    Returns:
        JSON: "share", the part of the path's squared distance from its mean that lies in the plane; "side", half the
        square's side in the latent space; "times" (F,); "path" (T + 1, 2), "columns" (F,), the path's points at these
        times; "values" (F, 25, 25) and "gradients" (F, 9, 9, 2), rows from the bottom up.
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
        """Latents (count^2, D) of the square's points."""
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
    """Two orthonormal directions (2, D) that hold most of offsets (N, D), and the share of their squares; D >= 1."""
    _, sizes, directions = torch.linalg.svd(offsets, full_matrices=False)
    axes = directions[:2]
    if len(axes) < 2:  # latents on a line: the picture's height means nothing
        axes = torch.cat((axes, torch.zeros_like(axes)))
    axes = torch.where(((offsets[-1] - offsets[0]) @ axes.T < 0)[:, None], -axes, axes)
    total = float(sizes.square().sum())
    return axes, float(sizes[:2].square().sum()) / total if total > 0 else 1.0


def _jet(bank: PotentialBank, z: Tensor, t: float, potential: int) -> tuple[Tensor, Tensor]:
    jet = bank.jet(z, t, potential, laplacian="none", with_u_tt=False)
    return jet.u, jet.grad


def _rounded(values: Tensor) -> list[Any]:
    """Values as nested lists, to five digits of the greatest: a page needs no more."""
    greatest = float(values.abs().max())
    digits = 4 - math.floor(math.log10(greatest)) if greatest > 0 else 0
    return values.double().round(decimals=digits).tolist()
