"""The variants that a study of the likelihood compares, and the sizes in which it can be run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fastflow.training.vae_config import VAEConfig

PLAIN = "plain"
"""The variant that all others are compared with."""


class Variant(NamedTuple):
    """One way to train a VAE."""

    changes: dict[str, Any]
    """The settings in which it differs from the size's settings."""
    what: str
    """Its description in the table."""

    @property
    def flows(self) -> bool:
        """Whether its VAE has flows."""
        return self.changes.get("flow_weight") != 0


VARIANTS: dict[str, Variant] = {
    PLAIN: Variant({"flow_weight": 0.0}, "a VAE, the same images and steps"),
    "beta": Variant({"flow_weight": 0.0, "beta": 4.0}, "beta-VAE, beta 4"),
    "flows": Variant({}, "with flows: wave equation, every term"),
    "light": Variant({"flow_weight": 0.1}, "all that the flows bring at a tenth of the weight"),
    "no-pde": Variant({"pde_weight": 0.0}, "without the equation"),
    "no-jacobian": Variant({"jacobian_weight": 0.0}, "without the reward for visible change"),
    "no-matching": Variant({"matching_weight": 0.0}, "without latent matching"),
    "heat": Variant({"pde": "heat"}, "heat equation"),
    "hamilton-jacobi": Variant({"pde": "hamilton-jacobi"}, "Hamilton-Jacobi equation"),
    "row-sum": Variant({"laplacian": "row_sum"}, "the Hessian's row sums in place of the Laplacian"),
    "companion": Variant({"companion": True}, "a velocity without divergence beside each gradient"),
}
"""All variants by name, in the order of the table."""


@dataclass(frozen=True)
class Size:
    """The size of a study: the settings of its trainings, and how much is measured."""

    configs: dict[str, VAEConfig]
    """The settings for each data set, to which the seed and the variant's changes are applied."""
    starts: dict[str, int]
    """How many starting images to train on, for data sets of which not all are used."""
    images: int
    """How many held-out starting images the likelihoods are measured on."""
    num_samples: int
    """How many latents are drawn for each image, for the importance-weighted bound."""
    paths: int
    """How many held-out starting images have their paths compared with their transformations."""
    fitted: int
    """How many training images straight directions are fitted to."""


# No psi: it saturates once potentials are as steep as a known transformation needs (docs/vae.md).
_COMMON = VAEConfig(objective="paper", companion=False, out_activation="identity", restarts=3, log_every=100)

_SMALL = replace(_COMMON, batch_size=32, path_steps=5, learning_rate=4e-3)
_SMALL_MNIST = replace(
    _SMALL,
    data="mnist",
    transformations=("rotation", "scale"),
    widths=(256,),
    latent_dim=32,
    batch_size=64,
    steps=3000,
    learning_rate_schedule=((2100, 1.0), (3000, 0.1)),
)
_SMALL_DSPRITES = replace(
    _SMALL,
    data="dsprites",
    widths=(128,),
    latent_dim=10,
    steps=1000,
    learning_rate_schedule=((700, 1.0), (1000, 0.1)),
)

# As many steps as Song et al. (ICML 2023) train from scratch, with their batch size.
_LONG = replace(
    _COMMON,
    network="conv",
    batch_size=256,
    steps=100_000,
    checkpoint_every=5000,
    learning_rate_schedule=((70_000, 1.0), (100_000, 0.1)),
)
_LONG_MNIST = replace(_LONG, data="mnist", transformations=("rotation", "scale", "hue"), widths=(32, 64))
_LONG_DSPRITES = replace(_LONG, data="dsprites", widths=(32, 32, 64, 64), latent_dim=10)

SIZES: dict[str, Size] = {
    "small": Size(
        {"mnist": _SMALL_MNIST, "mnist-few": _SMALL_MNIST, "dsprites": _SMALL_DSPRITES},
        starts={"mnist-few": 300},
        images=500,
        num_samples=100,
        paths=128,
        fitted=512,
    ),
    "paper": Size(
        {"mnist": _LONG_MNIST, "mnist-few": _LONG_MNIST, "dsprites": _LONG_DSPRITES},
        starts={"mnist-few": 300},
        images=1500,
        num_samples=1000,
        paths=512,
        fitted=4096,
    ),
}
"""All sizes by name: "small" takes two cores about an hour, "paper" trains as long as the paper does."""
