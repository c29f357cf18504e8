"""Variational autoencoders of small images, fully connected and convolutional, and decoders from their files."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from itertools import pairwise
from math import isqrt, prod

import torch
from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.generators.base import Generator
from fastflow.generators.finals import FINALS
from fastflow.generators.likelihoods import Likelihood, check_likelihood, log_density
from fastflow.generators.state_dicts import StateDict, load_weights


class MLPVAE(nn.Module):
    """A fully connected VAE (Kingma and Welling, arXiv 1312.6114) with ReLU layers and images in [0, 1].

    Args:
        image_shape: (C, H, W) of the images.
        latent_dim: width of the latents.
        hidden: widths of the encoder's hidden layers; the decoder has the same in reverse order.
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

    def logits(self, z: Tensor) -> Tensor:
        """The logits (B, C, H, W) of the mean images, given latents (B, latent_dim)."""
        return self.decoder(z).unflatten(1, self.image_shape)

    def decode(self, z: Tensor) -> Tensor:
        """Mean images (B, C, H, W) in [0, 1] given latents (B, latent_dim)."""
        return torch.sigmoid(self.logits(z))


class ConvVAE(nn.Module):
    """A VAE with strided convolutions, each of which halves the side of the images in [0, 1].

    Args:
        image_shape: (C, S, S); S must be divisible by 2 to the power of the number of layers.
        latent_dim: width of the latents.
        widths: channels of the encoder's layers; the decoder has the same in reverse order.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], latent_dim: int, widths: Sequence[int] = (32, 64, 64)
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        side = height >> len(widths)
        if height != width or not widths or side < 1 or side << len(widths) != height:
            raise InputError(
                f"image_shape must be (C, S, S) with S divisible by {2 ** len(widths)}, got {tuple(image_shape)}"
            )
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        features = widths[-1] * side * side
        self.encoder = nn.Sequential(
            *(
                layer
                for before, after in pairwise([channels, *widths])
                for layer in (nn.Conv2d(before, after, 4, 2, 1), nn.ReLU())
            ),
            nn.Flatten(),
            nn.Linear(features, 2 * latent_dim),
        )
        self.decoder = ConvDecoder(image_shape, latent_dim, widths)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, latent_dim), of the posterior given images (B, C, S, S)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def logits(self, z: Tensor) -> Tensor:
        """The logits (B, C, S, S) of the mean images, given latents (B, latent_dim)."""
        return self.decoder(z)

    def decode(self, z: Tensor) -> Tensor:
        """Mean images (B, C, S, S) in [0, 1] given latents (B, latent_dim)."""
        return torch.sigmoid(self.logits(z))


class LikelihoodVAE(nn.Module):
    """A VAE with a likelihood of its images, for training from scratch and for measuring.

    Args:
        net: encoder and decoder.
        likelihood: see `fastflow.generators.likelihoods.log_density`. Means are sigmoids, and therefore in [0, 1].
        noise_std: initial value of the pixels' standard deviation, which is learned; not used for bernoulli.
    """

    log_noise_std: Tensor | None

    def __init__(self, net: MLPVAE | ConvVAE, likelihood: Likelihood, noise_std: float = 0.1) -> None:
        super().__init__()
        check_likelihood(likelihood)
        self.net = net
        self.likelihood: Likelihood = likelihood
        self.image_shape, self.latent_dim = net.image_shape, net.latent_dim
        learned = None if likelihood == "bernoulli" else nn.Parameter(torch.tensor(math.log(noise_std)))
        self.register_parameter("log_noise_std", learned)

    @property
    def noise_std(self) -> Tensor | None:
        """The pixels' standard deviation, a scalar; None for bernoulli."""
        return None if self.log_noise_std is None else self.log_noise_std.exp()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, latent_dim), of the posterior given images (B, C, H, W) in [0, 1]."""
        return self.net.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """The likelihood's parameters (B, C, H, W) given latents (B, latent_dim): logits for bernoulli, or the mean."""
        return self.net.logits(z) if self.likelihood == "bernoulli" else self.net.decode(z)

    def images(self, z: Tensor) -> Tensor:
        """Mean images (B, C, H, W) in [0, 1] given latents (B, latent_dim)."""
        return self.net.decode(z)

    def log_density(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Log-density of images given the decoder's parameters, both (B, C, H, W), in nats for each image, (B,)."""
        return log_density(self.likelihood, parameters, images, self.noise_std)


class LikelihoodVAEGenerator(Generator):
    """A trained VAE as a generator of mean images; its starts are the latents of held-out images.

    Args:
        held_out: images (N, C, H, W) that the VAE wasn't trained on, as uint8.
    """

    held_out: Tensor

    def __init__(self, vae: LikelihoodVAE, held_out: Tensor) -> None:
        super().__init__(vae.images, vae.latent_dim, encode=vae.encode)
        self.vae = vae
        self.register_buffer("held_out", held_out, persistent=False)

    @torch.no_grad()
    def starts(self, count: int, seed: int = 0) -> Tensor:
        """Latents (count, D) of held-out images: the means of their posteriors."""
        if count > len(self.held_out):
            raise InputError(f"count must be at most the {len(self.held_out)} held-out images, got {count}")
        chosen = torch.randperm(len(self.held_out), generator=torch.Generator().manual_seed(seed))[:count]
        return self.encode(self.held_out[chosen.to(self.held_out.device)] / 255)

    def _is_narrow(self, least: Tensor, most: Tensor) -> bool:
        return False  # means are known to lie in [0, 1], however little they fill of it after a short training


class ConvDecoder(nn.Module):
    """The decoder of a `ConvVAE`, whose arguments it has."""

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        side = size >> len(widths)
        upwards = [*reversed(widths), channels]
        self.start = nn.Linear(latent_dim, upwards[0] * side * side)
        self.shape = (upwards[0], side, side)
        self.convolutions = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(upwards))

    def forward(self, z: Tensor) -> Tensor:
        """Logits (B, C, S, S) of latents (B, D)."""
        x = self.start(z).unflatten(1, self.shape)
        for convolution in self.convolutions:
            x = convolution(torch.relu(x))
        return x


class MLPDecoder(nn.Module):
    """A fully connected decoder without an encoder: ReLU between its layers, and one of `FINALS` after the last."""

    def __init__(self, widths: Sequence[int], image_shape: tuple[int, int, int], final: str = "sigmoid") -> None:
        super().__init__()
        self.latent_dim, self.image_shape = widths[0], image_shape
        self.layers = _layers(widths)
        self.final = FINALS[final].activation()

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, D)."""
        return self.final(self.layers(z)).unflatten(1, self.image_shape)


class SigmoidDecoder(nn.Module):
    """A decoder of logits, followed by a sigmoid, or by another one of `FINALS`."""

    def __init__(self, logits: nn.Module, latent_dim: int, final: str = "sigmoid") -> None:
        super().__init__()
        self.logits, self.latent_dim = logits, latent_dim
        self.final = FINALS[final].activation()

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, D)."""
        return self.final(self.logits(z))


def mlp_decoder_from(
    state: StateDict,
    where: str,
    layers: Sequence[str] | None = None,
    shape: tuple[int, int, int] | None = None,
    final: str | None = None,
) -> MLPDecoder:
    """The fully connected decoder in a VAE's state dict.

    Args:
        layers: the names of its layers in order, such as ("fc3", "fc4"); all with "decoder" in their names if None.
        shape: (C, H, W) of the images; square grey or colour images if None.
        final: one of `FINALS`, the activation after the last layer; a sigmoid if None, which is a VAE's.

    Raises:
        InputError: weights are missing or don't form a chain of layers; the message names the first.

    Warns if `final` is None and the state dict has no encoder, so that it may not be a VAE's.
    """
    if layers is None:
        layers = [key.removesuffix(".weight") for key in state if "decoder" in key and key.endswith(".weight")]
        layers.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
        if not layers:
            raise InputError(
                f"{where} has no key with 'decoder' in its name: name the decoder's layers in order, layers=fc3+fc4"
            )
    widths: list[int] = []
    renamed: dict[str, Tensor] = {}
    for place, name in enumerate(layers):
        weight = state.get(f"{name}.weight")
        if weight is None or f"{name}.bias" not in state:
            raise InputError(f"{where} lacks {f'{name}.bias' if weight is not None else f'{name}.weight'!r}")
        if weight.ndim != 2 or (widths and weight.shape[1] != widths[-1]):
            wanted = f"(N, {widths[-1]})" if widths else "(N, D)"
            raise InputError(
                f"{where}: {name + '.weight'!r} has shape {tuple(weight.shape)}, expected {wanted}: the layers must be "
                "a chain of fully connected ones"
            )
        widths += [weight.shape[0]] if widths else [weight.shape[1], weight.shape[0]]
        renamed |= {f"layers.{2 * place}.{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias")}
    net = MLPDecoder(widths, _image_shape(widths[-1], shape, where), final or "sigmoid")
    load_weights(net, renamed, where, prefix="")
    if final is None and not _has_encoder(state, layers, widths[0]):
        warnings.warn(
            f"{where} has no encoder, so that it may not be a VAE's: mlp-vae puts a sigmoid after the last layer, "
            "which the weights don't tell; say which activation it is, final=sigmoid, final=tanh (as in most GANs) or "
            "final=none",
            stacklevel=2,
        )
    return net


def _has_encoder(state: StateDict, layers: Sequence[str], latent_dim: int) -> bool:
    """Whether a state dict has a layer besides the decoder's whose outputs may be a VAE's latents."""
    own = {f"{name}.weight" for name in layers}
    others = (value for key, value in state.items() if key.endswith("weight") and key not in own)
    return any(value.ndim >= 2 and value.shape[0] in (latent_dim, 2 * latent_dim) for value in others)


def conv_decoder_from(state: StateDict, where: str, final: str = "sigmoid") -> SigmoidDecoder:
    """The decoder with the weights of a `ConvVAE`'s state dict, followed by one of `FINALS`.

    Raises:
        InputError: the state dict belongs to another network; the message names the first key that shows it.
    """
    starts = [key for key in state if key.endswith("start.weight")]
    prefix = starts[0].removesuffix("start.weight") if starts else "decoder."
    start, shapes = state.get(f"{prefix}start.weight"), []
    while (weight := state.get(f"{prefix}convolutions.{len(shapes)}.weight")) is not None and weight.ndim == 4:
        shapes.append(weight.shape)
    if start is None or start.ndim != 2 or not shapes:
        missing = f"{prefix}start.weight" if start is None else f"{prefix}convolutions.0.weight"
        raise InputError(f"{where} isn't the state dict of a ConvVAE: it lacks {missing!r}")
    side = isqrt(start.shape[0] // shapes[0][0])
    size = side << len(shapes)
    net = ConvDecoder((shapes[-1][1], size, size), start.shape[1], [shape[0] for shape in reversed(shapes)])
    load_weights(net, state, where, prefix=prefix)
    return SigmoidDecoder(net, start.shape[1], final)


def _image_shape(pixels: int, shape: tuple[int, int, int] | None, where: str) -> tuple[int, int, int]:
    if shape is not None:
        if prod(shape) != pixels:
            raise InputError(f"{where} has images of {pixels} values, which shape {'x'.join(map(str, shape))} doesn't")
        return shape
    for channels in (1, 3):
        if pixels % channels == 0 and isqrt(pixels // channels) ** 2 == pixels // channels:
            return channels, isqrt(pixels // channels), isqrt(pixels // channels)
    raise InputError(f"{where} has images of {pixels} values, which aren't square: give their shape=CxHxW")


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
