"""The variants that a study of the likelihood compares, and the sizes in which it can be run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from fastflow.training.vae_config import VAEConfig

Group = Literal["paths", "pairs", "parts"]
"""What VAEs are trained on: paths of T + 1 images, a start and one later image, or paths of parts of the data."""

GROUPS: dict[Group, str] = {
    "paths": "Trained on whole paths",
    "pairs": "Trained on pairs",
    "parts": "Trained on parts",
}
"""The groups with their heads. Variants of a group are compared with each other."""

PLAIN = "plain"
"""The variant, in every group, whose latents are independent."""
OURS = "companion"
"""The variant, in every group, that is compared with every rival."""


class Variant(NamedTuple):
    """One way to train a VAE."""

    changes: dict[str, Any]
    """The settings in which it differs from the size's settings."""
    what: str
    """Its description in the table."""
    groups: tuple[Group, ...] = ("paths", "pairs", "parts")
    """What it is trained on."""
    ours: bool = False
    """Whether it has potentials, so that it isn't a rival of theirs."""


_NO_PHYSICS = {"pde_weight": 0.0, "initial_weight": 0.0, "jacobian_weight": 0.0}

VARIANTS: dict[str, Variant] = {
    PLAIN: Variant({"transition": "independent"}, "independent latents, as in a plain VAE"),
    "beta": Variant({"transition": "independent", "beta": 4.0}, "the same with beta 4", ("paths",)),
    "walk": Variant({"transition": "walk"}, "a random walk of learned variance"),
    "ar1": Variant({"transition": "ar1"}, "an autoregression whose latents are all N(0, I)", ("paths", "pairs")),
    "straight": Variant({"transition": "straight"}, "straight directions"),
    "affine": Variant({"transition": "affine"}, "affine maps (I + A_k) z + d_k"),
    "flow": Variant({"companion": False}, "potential flows", ours=True),
    OURS: Variant({}, "potential flows with a companion, the default", ours=True),
    "no-physics": Variant(
        _NO_PHYSICS, "the default without the equation and the two other regularisers", ("paths", "pairs"), ours=True
    ),
}
"""All variants by name, in the order of the table."""


@dataclass(frozen=True)
class Size:
    """The size of a study: the settings of its trainings, and how much is measured."""

    configs: dict[str, VAEConfig]
    """The settings for each data set on whole paths, to which the seed and the variant's changes are applied."""
    sides: dict[str, int]
    """The side of the images, for data sets that aren't taken at their usual size."""
    lengths: tuple[int, ...]
    """The numbers of steps T of the sequences x_0 .. x_T, and of the pairs (x_0, x_T), that are measured."""
    sequences: int
    """How many held-out sequences the likelihoods of sequences and pairs are measured on."""
    images: int
    """How many held-out images the likelihood of single images is measured on."""
    num_samples: int
    """How many latents, or particles, are drawn for each image or sequence."""
    paths: int
    """How many held-out starting images have their paths compared with their transformations."""
    fitted: int
    """How many training images straight directions are fitted to."""

    def config(self, data: str, group: Group, variant: str, seed: int) -> VAEConfig:
        """The settings of a training. A step of each group decodes as many images, or one less."""
        config = replace(self.configs[data], seed=seed, **VARIANTS[variant].changes)
        if group != "pairs":
            return config
        return replace(config, frames="pairs", batch_size=max(1, config.batch_size * (config.path_frames + 1) // 2))


_COSINE = (1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038, 0.0)


def falling(steps: int) -> tuple[tuple[int, float], ...]:
    """Half a period of a cosine, as a schedule of pieces: from 1 at the start to 0 after `steps`."""
    return tuple((round(steps * i / 8), factor) for i, factor in enumerate(_COSINE))


# No psi: it saturates once potentials are as steep as a known transformation needs (docs/vae.md).
_COMMON = VAEConfig(out_activation="identity", restarts=3, log_every=100, path_steps=8)

_SMALL_MNIST = replace(
    _COMMON,
    data="mnist",
    transformations=("rotation", "scale"),
    widths=(256,),
    latent_dim=32,
    batch_size=22,
    steps=3000,
    learning_rate=2e-3,
    learning_rate_schedule=falling(3000),
)
# Scale has six values only: of nine images some would be the same.
_SMALL_DSPRITES = replace(
    _COMMON,
    data="dsprites",
    transformations=("orientation", "position-x", "position-y"),
    widths=(256,),
    latent_dim=10,
    batch_size=32,
    steps=6000,
    learning_rate=2e-3,
    learning_rate_schedule=falling(6000),
)

# As many steps as Song et al. (ICML 2023) train from scratch, with their batch size.
_LONG = replace(
    _COMMON,
    network="conv",
    batch_size=256,
    steps=100_000,
    checkpoint_every=5000,
    learning_rate_schedule=falling(100_000),
)
_LONG_MNIST = replace(_LONG, data="mnist", transformations=("rotation", "scale", "hue"), widths=(32, 64))
_LONG_DSPRITES = replace(
    _LONG, data="dsprites", transformations=_SMALL_DSPRITES.transformations, widths=(32, 32, 64, 64), latent_dim=10
)

SIZES: dict[str, Size] = {
    "small": Size(
        {"mnist": _SMALL_MNIST, "dsprites": _SMALL_DSPRITES},
        sides={"dsprites": 32},
        lengths=(1, 2, 4, 8),
        sequences=64,
        images=256,
        num_samples=64,
        paths=128,
        fitted=512,
    ),
    "paper": Size(
        {"mnist": _LONG_MNIST, "dsprites": _LONG_DSPRITES},
        sides={},
        lengths=(1, 2, 4, 8),
        sequences=256,
        images=1024,
        num_samples=1024,
        paths=512,
        fitted=4096,
    ),
}
"""All sizes by name: "small" takes two cores some hours, "paper" trains as long as the paper does."""
