"""The figure that a published program printed as a log-likelihood, for comparison with published tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastflow.core.checks import check_pixels, check_seed
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.generators.likelihoods import log_density, normal_divergence
from fastflow.metrics.likelihood.models import ITEMS, encoded


@torch.no_grad()
def published_figure(model: Any, x: Tensor, seed: int = 0) -> float:
    """Compute log N(x; decoder(z), I) + KL(q(z | x) || N(0, I)), z one sample of q: the mean over images, in nats.

    It isn't a likelihood, nor a bound of one: the divergence has the wrong sign, so that it grows as the encoder moves
    away from the prior. It is what the public code of Song et al. (ICML 2023) prints, on its training images. Under
    normal distributions of variance 1, no image has a log-density above `published_bound`, whatever the model; this
    figure can lie above that.

    Args:
        model: a VAE with `encode`, and `images`, which gives mean images of latents.
        x: images (N, C, H, W) in [0, 1]. seed: the seed of the samples.

    Raises:
        InputError: the model has no encoder, or the images can't be used.
    """
    check_seed(seed)
    check_pixels(x, "x")
    if not callable(getattr(model, "encode", None)) or not callable(getattr(model, "images", None)):
        raise InputError(f"model must have encode and images, as a VAE has, got {type(model).__name__}")
    found = []
    for number, part in enumerate(x.split(ITEMS)):
        mean, log_variance = encoded(model, part)
        noise = torch.randn(mean.shape, generator=step_rng(seed, number, stream=3)).to(mean)
        images = model.images(mean + (0.5 * log_variance).exp() * noise)
        found.append(log_density("gaussian", images, part, 1.0) + normal_divergence(mean, log_variance))
    return float(torch.cat(found).double().mean())


def published_bound(x: Tensor) -> float:
    """The highest log-density of images (N, C, H, W) under normal distributions of variance 1: -(n / 2) log 2 pi."""
    return -0.5 * math.log(2 * math.pi) * (x.numel() // len(x))
