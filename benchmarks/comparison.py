"""Attributes for the comparisons in docs/comparison.md that no closed form measures, as FILE.py:FUNCTION takes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fastflow import datasets
from fastflow.datasets.dsprites import FACTORS
from fastflow.metrics.regressor import FactorRegressor, factor_regressor

FILE = Path("dsprites-regressor.pt")
TOLD = ["scale", "position-x", "position-y"]
"""Of dSprites' factors, those that every image shows; most shapes look the same after a part of a turn."""


def dsprites(images: Tensor) -> Tensor:
    """Scale and position (B, 3) of the sprites in images (B, 1, 64, 64), by a regressor trained on held-out images.

    The regressor is kept in the current folder.
    """
    return regressor()(images)


@cache
def regressor() -> FactorRegressor:
    """The one in the current folder, trained first where there is none, and then it says how well it tells factors."""
    if FILE.is_file():
        network = FactorRegressor((1, 64, 64), {name: FACTORS[name] for name in TOLD}, ())
        network.load_state_dict(torch.load(FILE, weights_only=True))
        return network.requires_grad_(False).eval()
    network = factor_regressor(
        datasets.load("dsprites", None, "test"), factors=TOLD, samples=4000, epochs=5, progress=False
    )
    print({name: round(r2, 4) for name, r2 in network.told.items()}, "R^2 on", network.samples, "images")
    torch.save(network.state_dict(), FILE)
    return network
