"""Presets: the settings of Song et al. (ICML 2023), from the paper and from its public code.

"Code" means the repository KingJamesSong/PDETraversal here. All presets share: the wave equation with a learned speed
for each potential; weight 1 for all terms of the loss; squares in place of the logarithm and the normalised residual;
Adam with learning rate 1e-4 (code); two hidden layers as wide as the latents; tanh; sinusoidal time (code). Training
there follows a path for half of T steps, and traversals take the other half backwards, so path_steps is T / 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from fastflow.core.errors import InputError
from fastflow.training.flow_config import DiscoverConfig, FlowConfig
from fastflow.training.vae_config import VAEConfig

C = TypeVar("C", bound=FlowConfig)

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

# From the paper and code's script: K = 32, T = 20, batch 128, 120,000 iterations, LeNet, latents of width 128.
_ANIME = replace(
    _PAPER,
    num_potentials=32,
    path_steps=10,
    batch_size=128,
    steps=120_000,
    classifier="lenet",
    hidden=(128, 128),
)

# From the paper and code's script: K = 16, T = 10, batch 256, 10,000 iterations. Code's latents have width 18 * 18, and
# its classifier is a convolutional encoder of LeNet's size.
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
    # Code has this generator, but no script for it: these are the settings of the other SNGAN.
    "mnist-sngan": _ANIME,
    # Code has no script for it: batch size, iterations and classifier are its defaults, K and T those of the SNGANs.
    "biggan": replace(_PAPER, num_potentials=32, path_steps=10, hidden=(128, 128)),
    # As for biggan, on latents of width 512. Paper and code leave out the last tanh, which makes changes too small.
    "stylegan2": replace(_PAPER, num_potentials=32, path_steps=10, hidden=(512, 512), out_activation="identity"),
    "vae-mnist": _MNIST,
    # Code trains it with the settings of the MNIST VAE, on latents of width 15 * 15 + 1.
    "vae-dsprites": replace(_MNIST, hidden=(226, 226)),
}
"""The presets of a discovery by name: settings that were published."""

VAE_PRESETS: dict[str, VAEConfig] = {
    "vae-digits": VAEConfig(data="digits", latent_dim=8, widths=(160, 160), hidden=(32, 32), batch_size=32),
    "vae-mnist": VAEConfig(data="mnist", network="conv", widths=(32, 64), latent_dim=16, steps=10_000, batch_size=32),
    "vae-dsprites": VAEConfig(
        data="dsprites",
        network="conv",
        widths=(32, 32, 64, 64),
        latent_dim=10,
        steps=20_000,
        path_steps=5,
        batch_size=64,
    ),
}
"""The presets of a VAE's training by name. Each is for the data set in its name, and is ours, not a published one.

A step of theirs decodes some 350 to 400 images.
"""


def preset(name: str, kind: type[C] = DiscoverConfig) -> C:
    """The preset of that name; use `dataclasses.replace` to change some of its settings.

    Args:
        kind: the configuration's class, DiscoverConfig or VAEConfig.

    Raises:
        InputError: there is no preset of that name.
    """
    presets: dict[type[Any], dict[str, Any]] = {DiscoverConfig: PRESETS, VAEConfig: VAE_PRESETS}
    if kind not in presets:
        raise InputError(f"kind must be DiscoverConfig or VAEConfig, got {kind!r}")
    if name not in presets[kind]:
        raise InputError(f"preset must be one of {', '.join(presets[kind])}, got {name!r}")
    return presets[kind][name]
