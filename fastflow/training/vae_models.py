"""The models of a VAE's training: the VAE, the potentials, the inference of transformations, the diffusion prior."""

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
    """The diffusion of N(0, I): p_t = N(0, (1 + 2 D t) I), which solves p_t' = D lap p.

    This is the prior of Song et al., Flow Factorized Representation Learning (NeurIPS 2023), in closed form.

    Args:
        diffusion: D > 0. learned: whether D is learned.
    """

    def __init__(self, diffusion: float, learned: bool) -> None:
        super().__init__()
        self.log_diffusion = nn.Parameter(torch.tensor(math.log(diffusion)), requires_grad=learned)

    def log_variance(self, t: Tensor) -> Tensor:
        """Log-variance of each coordinate, (B,), at times (B,)."""
        return torch.log1p(2 * self.log_diffusion.exp() * t)


class Inference(nn.Module):
    """q(k | x_0, x_T): the probability of each transformation given the first and the last image.

    The arguments are those of `PairClassifier`.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_potentials: int) -> None:
        super().__init__()
        self.classifier = PairClassifier(image_shape, num_potentials)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """Log-probabilities (B, K) for images (B, C, H, W) in [0, 1]."""
        return functional.log_softmax(self.classifier(first, last), 1)


class VAEModels(NamedTuple):
    """The models that a run keeps; without flows that is the VAE alone."""

    vae: LikelihoodVAE
    potentials: Potentials | None
    inference: Inference | None
    """Only with weak supervision."""
    prior: DiffusionPrior | None
    """Only with prior "diffusion"."""

    def modules(self) -> dict[str, nn.Module]:
        """The models that aren't None, by name."""
        potentials = {} if self.potentials is None else self.potentials.modules()
        others = {"vae": self.vae, "inference": self.inference, "prior": self.prior}
        return {**potentials, **{name: module for name, module in others.items() if module is not None}}


def build_vae_models(config: VAEConfig, image_shape: tuple[int, int, int]) -> VAEModels:
    """The models before the first training step, for images (C, H, W).

    The VAE has the same initial weights with flows and without, so that the two can be compared.

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
    # The prior changes with time, and only flows have times.
    diffuses = config.flows and config.prior == "diffusion"
    prior = DiffusionPrior(config.diffusion, config.learn_diffusion) if diffuses else None
    return VAEModels(LikelihoodVAE(net, config.likelihood), potentials, inference, prior)


def _conv(config: VAEConfig, image_shape: tuple[int, int, int]) -> ConvVAE:
    try:
        return ConvVAE(image_shape, config.latent_dim, config.widths)
    except InputError as error:
        raise InputError(f"network conv with {len(config.widths)} widths doesn't fit {config.data}: {error}") from error
