"""The models of a VAE's training: the VAE, the transition of its latents, and what infers or precedes these."""

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
from fastflow.latents.transitions import Flow, Independent, Noise, Transition, linear_transition
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


class Refinement(nn.Module):
    """What all images of a sample add to the posterior of the first latent: its mean and log-variance move by this.

    A network like the VAE's encoder takes the images as channels of one. At first it changes nothing.

    Args:
        encoder: an encoder of such images, whose last layer is linear.
    """

    def __init__(self, encoder: nn.Sequential) -> None:
        super().__init__()
        last = encoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.encoder = encoder
        self.flattened = isinstance(encoder[0], nn.Linear)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The changes of mean and log-variance, each (B, D), for images (B, F, C, H, W)."""
        changes = self.encoder(frames.flatten(1) if self.flattened else frames.flatten(1, 2))
        mean, log_variance = changes.chunk(2, dim=1)
        return mean, log_variance


class VAEModels(NamedTuple):
    """The models that a run keeps."""

    vae: LikelihoodVAE
    potentials: Potentials | None
    """None without flows."""
    inference: Inference | None
    """Only with weak supervision."""
    prior: DiffusionPrior | None
    """Only with prior "diffusion"."""
    transition: Transition
    """How latents follow each other; that of flows shares the potentials' modules."""
    refinement: Refinement | None
    """Only with start_posterior "all"."""

    def modules(self) -> dict[str, nn.Module]:
        """The models that learn something, by name, each once."""
        potentials = {} if self.potentials is None else self.potentials.modules()
        own = {"noise": self.transition.noise} if isinstance(self.transition, Flow) else {"transition": self.transition}
        if isinstance(self.transition, Independent):
            own = {}
        others = {"vae": self.vae, "inference": self.inference, "prior": self.prior, "refinement": self.refinement}
        return {**potentials, **{name: module for name, module in {**others, **own}.items() if module is not None}}


def build_vae_models(config: VAEConfig, image_shape: tuple[int, int, int]) -> VAEModels:
    """The models before the first training step, for images (C, H, W).

    The VAE has the same initial weights with flows and without, so that the two can be compared.

    Raises:
        InputError: the convolutions don't fit the images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        potentials = build_potentials(config, config.latent_dim) if config.flows else None
        transition = _transition(config, potentials)
        weak = config.law != "independent" and config.supervision == "weak"
        inference = Inference(image_shape, config.num_potentials) if weak else None
        torch.manual_seed(step_rng(config.seed, 0, stream=4).initial_seed())
        net = _net(config, image_shape)
        refinement = None
        if config.start_posterior == "all":
            channels = image_shape[0] * (2 if config.frames == "pairs" else config.path_frames + 1)
            refinement = Refinement(_net(config, (channels, *image_shape[1:])).encoder)
    # The prior changes with time, and only flows have times.
    diffuses = config.flows and config.prior == "diffusion"
    prior = DiffusionPrior(config.diffusion, config.learn_diffusion) if diffuses else None
    return VAEModels(LikelihoodVAE(net, config.likelihood), potentials, inference, prior, transition, refinement)


def _transition(config: VAEConfig, potentials: Potentials | None) -> Transition:
    """The transition of a configuration; it has noise where the objective gives later latents their own posteriors."""
    noise, law = None, config.law
    if config.objective == "sequence" and config.later_latents == "inferred" and law not in ("independent", "ar1"):
        jumps = config.path_frames if config.frames == "pairs" else None
        noise = Noise(config.num_potentials, config.latent_dim, jumps)
    if potentials is None:
        return linear_transition(law, config.num_potentials, config.latent_dim, noise)
    return Flow(potentials.bank, config.integration, potentials.companion, config.frame_steps, noise)


def _net(config: VAEConfig, image_shape: tuple[int, int, int]) -> MLPVAE | ConvVAE:
    """A network of the configuration's kind for images (C, H, W)."""
    if config.network == "mlp":
        return MLPVAE(image_shape, config.latent_dim, config.widths)
    return _conv(config, image_shape)


def _conv(config: VAEConfig, image_shape: tuple[int, int, int]) -> ConvVAE:
    try:
        return ConvVAE(image_shape, config.latent_dim, config.widths)
    except InputError as error:
        raise InputError(f"network conv with {len(config.widths)} widths doesn't fit {config.data}: {error}") from error
