"""Attributes for the comparisons in docs/comparison.md that no closed form measures, as FILE.py:FUNCTION takes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow import datasets
from fastflow.core.errors import InputError
from fastflow.datasets.dsprites import FACTORS
from fastflow.generators.state_dicts import load_weights, read_state_dict
from fastflow.latents.attributes.strokes import stroke_attributes
from fastflow.metrics.regressor import FactorRegressor, factor_regressor

REGRESSOR = Path("dsprites-regressor.pt")
TOLD = ["scale", "position-x", "position-y"]
"""Of dSprites' factors, those that every image shows; most shapes look the same after a part of a turn."""

LENET = Path("mnist_lenet.pth")
"""Weights of `LeNet`, of github.com/csinva/gan-vae-pretrained-pytorch."""


class LeNet(nn.Module):
    """A classifier of digits (LeCun et al., 1998, with rectifiers and max pooling).

    It gives probabilities (B, 10) of images (B, 1, 28, 28) in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.convnet = nn.ModuleDict({"c1": nn.Conv2d(1, 6, 5), "c3": nn.Conv2d(6, 16, 5), "c5": nn.Conv2d(16, 120, 5)})
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})

    def forward(self, images: Tensor) -> Tensor:
        x = functional.pad(images, (2, 2, 2, 2))
        x = functional.max_pool2d(self.convnet["c1"](x).relu(), 2)
        x = functional.max_pool2d(self.convnet["c3"](x).relu(), 2)
        x = self.convnet["c5"](x).relu().flatten(1)
        return self.fc["f7"](self.fc["f6"](x).relu()).softmax(1)


def digits(images: Tensor) -> Tensor:
    """The probabilities (B, 10) that images (B, 1, 28, 28) show a 0, a 1, ..., by `LENET` in the current folder.

    Raises:
        InputError: that file isn't there or holds another network, or the images aren't such.
    """
    if tuple(images.shape[1:]) != (1, 28, 28):
        raise InputError(f"digits are told in images of 1 x 28 x 28, got {' x '.join(map(str, images.shape[1:]))}")
    return lenet()(images)


def strokes_and_digits(images: Tensor) -> Tensor:
    """The seven attributes (B, 7 + 10) of strokes, and which digit it is."""
    return torch.cat((stroke_attributes(images), digits(images)), 1)


@cache
def lenet() -> LeNet:
    """The classifier whose weights are in the current folder."""
    network = LeNet()
    load_weights(network, read_state_dict(LENET), f"weights file {str(LENET)!r}")
    return network.requires_grad_(False).eval()


def dsprites(images: Tensor) -> Tensor:
    """Scale and position (B, 3) of the sprites in images (B, 1, 64, 64), by a regressor trained on held-out images.

    The regressor is kept in the current folder.
    """
    return regressor()(images)


@cache
def regressor() -> FactorRegressor:
    """The one in the current folder, trained first where there is none, and then it says how well it tells factors."""
    if REGRESSOR.is_file():
        network = FactorRegressor((1, 64, 64), {name: FACTORS[name] for name in TOLD}, ())
        network.load_state_dict(torch.load(REGRESSOR, weights_only=True))
        return network.requires_grad_(False).eval()
    held_out = datasets.dsprites(split="test")
    network = factor_regressor(held_out, factors=TOLD, samples=4000, epochs=5, progress=False)
    print({name: round(r2, 4) for name, r2 in network.told.items()}, "R^2 on", network.samples, "images")
    torch.save(network.state_dict(), REGRESSOR)
    return network
