"""SNGAN's residual generators; their weights have the names that public codebases of latent traversal use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.generators.finals import FINALS
from fastflow.generators.state_dicts import StateDict, load_weights

SNGAN32, SNGAN64 = (256, 256, 256, 256), (1024, 512, 256, 128, 64)
"""The widths of the published generators of 32 x 32 and of 64 x 64 images."""


class SNGAN(nn.Module):
    """Miyato et al.'s residual generator (arXiv 1802.05957), latents (B, D) to images (B, C, S, S).

    Args:
        widths: the channels before the first residual block and after each block; every block doubles the side.
        latent_dim: D, the width of the latents. channels: C, of the images. base: the side before the first block.
        final: the activation after the last layer, one of `FINALS`.
    """

    def __init__(
        self,
        widths: Sequence[int] = SNGAN64,
        latent_dim: int = 128,
        channels: int = 3,
        base: int = 4,
        final: str = "tanh",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        blocks = [_Block(before, after) for before, after in pairwise(widths)]
        self.model = nn.Sequential(
            nn.Linear(latent_dim, base * base * widths[0]),
            nn.Unflatten(1, (widths[0], base, base)),
            *blocks,
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            nn.Conv2d(widths[-1], channels, 3, padding=1),
            FINALS[final].activation(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, S, S) of latents (B, D)."""
        return self.model(z)


class _Block(nn.Module):
    """A residual block that doubles the side: two convolutions and a bypass.

    The convolutions are attributes and in `model` too, because published files name their weights twice.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.model = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            self.conv1,
            nn.BatchNorm2d(after),
            nn.ReLU(),
            self.conv2,
        )
        self.bypass: nn.Module = nn.Upsample(scale_factor=2)
        if before != after:
            self.bypass = nn.Sequential(self.bypass, nn.Conv2d(before, after, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.bypass(x)


def sngan_from(state: StateDict, where: str, final: str = "tanh") -> SNGAN:
    """The generator with the weights of a state dict, such as GANLatentDiscovery, WarpedGANSpace and PDETraversal use.

    Raises:
        InputError: the state dict belongs to another network; the message names the first key that shows it.
    """
    firsts = [key for key in state if re.search(r"(^|\.)2\.conv1\.weight$", key)]
    prefix = firsts[0].removesuffix("2.conv1.weight") if len(firsts) == 1 else ""
    dense = state.get(f"{prefix}0.weight")
    if len(firsts) != 1 or dense is None or dense.ndim != 2:
        missing = f"{prefix}0.weight" if firsts else f"{prefix}2.conv1.weight"
        raise InputError(f"{where} isn't the state dict of an SNGAN generator: it lacks {missing!r}")
    widths = [state[firsts[0]].shape[1]]
    while (block := state.get(f"{prefix}{1 + len(widths)}.conv1.weight")) is not None:
        widths.append(block.shape[0])
    last = f"{prefix}{3 + len(widths)}.weight"
    if last not in state:
        raise InputError(f"{where} isn't the state dict of an SNGAN generator: it lacks {last!r}")
    base = round((dense.shape[0] / widths[0]) ** 0.5)
    net = SNGAN(widths, dense.shape[1], state[last].shape[0], base, final)
    load_weights(net.model, state, where, prefix=prefix)
    return net
