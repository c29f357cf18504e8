"""A fully connected variational autoencoder over small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn


class MLPVAE(nn.Module):
    """Kingma and Welling's VAE (arXiv 1312.6114) with ReLU layers and images in [0, 1].

    Args:
        image_shape: (C, H, W) of the images.
        latent_dim: width of the latent code.
        hidden: widths of the encoder's layers; the decoder mirrors them.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        pixels = prod(image_shape)
        self.encoder = _layers([pixels, *hidden, 2 * latent_dim])
        self.decoder = _layers([latent_dim, *reversed(hidden), pixels])

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, latent_dim), of the posterior given images (B, C, H, W)."""
        mean, log_variance = self.encoder(images.flatten(1)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Mean images (B, C, H, W) in [0, 1] given latents (B, latent_dim)."""
        return torch.sigmoid(self.decoder(z)).unflatten(1, self.image_shape)


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
