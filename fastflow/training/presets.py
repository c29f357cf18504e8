"""Presets: the settings that Song et al. (ICML 2023) trained with, and their public code.

The repository KingJamesSong/PDETraversal is called "code" here. Common to all: the wave equation with a learned speed
for each potential, unit weights of all terms, squares in place of logarithm and normalised residual, Adam at 1e-4
(code), two hidden layers as wide as the latents, tanh, sinusoidal time (code). Training there walks half of T steps and
traversals take the other half backwards, so path_steps is T / 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from fastflow.core.errors import InputError
from fastflow.training.config import DiscoverConfig, FlowSettings
from fastflow.training.vae_config import VAEConfig

C = TypeVar("C", bound=FlowSettings)

_PAPER = DiscoverConfig(
    learning_rate=1e-4,
    pde_weight=1.0,
    initial_weight=1.0,
    jacobian_weight=1.0,
    classifier_weight=1.0,
    residual="square",
    jacobian="square",
    classifier="resnet18",  # code's default
    steps=100_000,  # code's default
    batch_size=32,  # code's default
    checkpoint_every=5_000,
)

# Paper and code's script: K = 32, T = 20, batch 128, 120,000 iterations, LeNet, latents of width 128.
_ANIME = replace(
    _PAPER,
    num_potentials=32,
    path_steps=10,
    batch_size=128,
    steps=120_000,
    classifier="lenet",
    hidden=(128, 128),
)

# Paper and code's script: K = 16, T = 10, batch 256, 10,000 iterations. Code's latents are 18 * 18 wide, and its
# classifier is a convolutional encoder of LeNet's size.
_MNIST = replace(
    _PAPER,
    num_potentials=16,
    path_steps=5,
    batch_size=256,
    steps=10_000,
    classifier="lenet",
    hidden=(324, 324),
)

PRESETS: dict[str, DiscoverConfig] = {
    "anime-sngan": _ANIME,
    # Code has the generator and no script: those of the other SNGAN.
    "mnist-sngan": _ANIME,
    # Batch, iterations and classifier are code's defaults; it has no script, and K and T are those of SNGAN.
    "biggan": replace(_PAPER, num_potentials=32, path_steps=10, hidden=(128, 128)),
    # The same, on latents of width 512, without the last tanh (paper and code): with it the changes are too small.
    "stylegan2": replace(_PAPER, num_potentials=32, path_steps=10, hidden=(512, 512), out_activation="identity"),
    "vae-mnist": _MNIST,
    # Code trains it with the settings of the MNIST VAE, on latents 15 * 15 + 1 wide.
    "vae-dsprites": replace(_MNIST, hidden=(226, 226)),
}
"""The configurations by name."""


VAE_PRESETS: dict[str, VAEConfig] = {
    "vae-digits": VAEConfig(data="digits", latent_dim=8, widths=(160, 160), hidden=(32, 32)),
    "vae-mnist": VAEConfig(data="mnist", network="conv", widths=(32, 64), latent_dim=16, steps=10_000),
    "vae-dsprites": VAEConfig(
        data="dsprites", network="conv", widths=(32, 32, 64, 64), latent_dim=10, steps=20_000, path_steps=5
    ),
}
"""The same for a VAE's training, for the data sets that it is named after; these are ours, not published ones."""


def preset(name: str, kind: type[C] = DiscoverConfig) -> C:
    """The configuration of that name; `dataclasses.replace` changes what should differ.

    Args:
        kind: what it configures: a DiscoverConfig, or a VAEConfig.

    Raises:
        InputError: there is none.
    """
    presets: dict[type[Any], dict[str, Any]] = {DiscoverConfig: PRESETS, VAEConfig: VAE_PRESETS}
    if kind not in presets:
        raise InputError(f"kind must be DiscoverConfig or VAEConfig, got {kind!r}")
    if name not in presets[kind]:
        raise InputError(f"preset must be one of {', '.join(presets[kind])}, got {name!r}")
    return presets[kind][name]
