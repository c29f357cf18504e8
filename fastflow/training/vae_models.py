"""What a VAE's training learns: the VAE, the potentials, the inference of a transformation, the diffusion prior."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.generators.vae import MLPVAE, ConvVAE, LikelihoodVAE
from fastflow.latents.classifiers import PairClassifier
from fastflow.training.potentials import Potentials, build_potentials
from fastflow.training.vae_config import VAEConfig


class DiffusionPrior(nn.Module):
    """What N(0, I) becomes by diffusion, p_t = N(0, (1 + 2 D t) I), which solves p_t' = D lap p.

    The prior of Song et al., Flow Factorized Representation Learning (NeurIPS 2023), in closed form; D > 0 is learned
    where asked.
    """

    def __init__(self, diffusion: float, learned: bool) -> None:
        super().__init__()
        self.log_diffusion = nn.Parameter(torch.tensor(math.log(diffusion)), requires_grad=learned)

    def log_variance(self, t: Tensor) -> Tensor:
        """Of each coordinate at times (B,), (B,)."""
        return torch.log1p(2 * self.log_diffusion.exp() * t)


class Inference(nn.Module):
    """q(k | x_0, x_T): which transformation led from the first image to the last.

    Arguments as for `PairClassifier`.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_potentials: int) -> None:
        super().__init__()
        self.classifier = PairClassifier(image_shape, num_potentials)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """Log-probabilities (B, K) for images (B, C, H, W) in [0, 1]."""
        return functional.log_softmax(self.classifier(first, last), 1)


class Learned(NamedTuple):
    """What is learned for good; without flows that is a VAE alone."""

    vae: LikelihoodVAE
    potentials: Potentials | None
    inference: Inference | None
    """Where supervision is weak."""
    prior: DiffusionPrior | None

    def modules(self) -> dict[str, nn.Module]:
        """Those that are there, by name."""
        potentials = {} if self.potentials is None else self.potentials.modules()
        others = {"vae": self.vae, "inference": self.inference, "prior": self.prior}
        return {**potentials, **{name: module for name, module in others.items() if module is not None}}


def untrained(config: VAEConfig, image_shape: tuple[int, int, int]) -> Learned:
    """What a training with this configuration begins with, for images (C, H, W).

    The VAE begins with the same weights with flows and without, so that the two can be compared.

    Raises:
        InputError: the convolutions don't fit the images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        potentials = build_potentials(config, config.latent_dim) if config.flows else None
        weak = config.flows and config.supervision == "weak"
        inference = Inference(image_shape, config.num_potentials) if weak else None
        torch.manual_seed(step_rng(config.seed, 0, stream=4).initial_seed())
        net = (
            MLPVAE(image_shape, config.latent_dim, config.widths)
            if config.network == "mlp"
            else _conv(config, image_shape)
        )
    # Only flows move a latent from one time to another.
    diffuses = config.flows and config.prior == "diffusion"
    prior = DiffusionPrior(config.diffusion, config.learn_diffusion) if diffuses else None
    return Learned(LikelihoodVAE(net, config.likelihood), potentials, inference, prior)


def _conv(config: VAEConfig, image_shape: tuple[int, int, int]) -> ConvVAE:
    try:
        return ConvVAE(image_shape, config.latent_dim, config.widths)
    except InputError as error:
        raise InputError(f"network conv with {len(config.widths)} widths doesn't fit {config.data}: {error}") from error
