"""The decoder of a diffusers AutoencoderKL, the image codec of latent diffusion models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.core.files import read_json
from fastflow.core.plugins import explaining, imported
from fastflow.generators.base import Generator, Sampler
from fastflow.generators.state_dicts import load_weights, make_for, read_state_dict


def autoencoder_kl(model: nn.Module, size: int = 64, sample: Sampler | None = None) -> Generator:
    """A generator from a `diffusers.AutoencoderKL`, with images (B, 3, size, size) in [-1, 1].

    Its latents are the flattened feature maps that a diffusion model works on, scaled to unit variance. Latents from a
    normal distribution decode to textures without objects.

    Args:
        size: the images' side in pixels.
        sample: draws better latents, for example from encoded images (`encode_kl`) or a diffusion model.

    Raises:
        InputError: the model can't make images of this size.
    """
    decoder = _Decoder(model, size)
    return Generator(
        decoder,
        decoder.latent_dim,
        value_range=(-1.0, 1.0),
        sample=sample,
        encode=lambda images: encode_kl(model, 2 * images - 1),
    )


def encode_kl(model: Any, images: Tensor) -> Tensor:
    """The latents (B, D) of images (B, 3, size, size) in [-1, 1], for a generator of `autoencoder_kl`."""
    shift = model.config.shift_factor or 0.0
    return ((model.encode(images).latent_dist.mode() - shift) * model.config.scaling_factor).flatten(1)


def load_autoencoder_kl(folder: str | Path, size: int = 64) -> Generator:
    """A generator from a folder with an AutoencoderKL's config.json and diffusion_pytorch_model.safetensors or .bin.

    Raises:
        InputError: the package or a file is missing, or the weights belong to another configuration.
    """
    package = imported("diffusers", "diffusers", "generator autoencoder-kl")
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError(f"{str(folder / 'config.json')!r} must hold a JSON object, the AutoencoderKL's configuration")
    file = folder / "diffusion_pytorch_model.safetensors"
    if not file.is_file():
        file = file.with_suffix(".bin")
    state, where = read_state_dict(file), repr(str(folder / "config.json"))
    with explaining(f"making the AutoencoderKL of {where}"):
        model = make_for(lambda: package.AutoencoderKL.from_config(config), state, where)
    load_weights(model, state, f"weights file {str(file)!r}")
    return autoencoder_kl(model, size)


class _Decoder(nn.Module):
    def __init__(self, model: Any, size: int) -> None:
        super().__init__()
        factor = 2 ** (len(model.config.block_out_channels) - 1)
        if size < factor or size % factor:
            raise InputError(f"size must be a multiple of {factor} for this AutoencoderKL, got {size!r}")
        self.model = model
        for module in model.decoder.modules():
            if isinstance(
                module, nn.GroupNorm
            ):  # its forward mode needs contiguous inputs, which attention doesn't give
                module.register_forward_pre_hook(_copied)
        self.shape = (model.config.latent_channels, size // factor, size // factor)
        self.latent_dim: int = self.shape[0] * self.shape[1] * self.shape[2]

    def forward(self, z: Tensor) -> Tensor:
        config = self.model.config
        features = z.unflatten(1, self.shape) / config.scaling_factor + (config.shift_factor or 0.0)
        return self.model.decode(features, return_dict=False)[0]


def _copied(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    # `contiguous` would check the value's layout only, and leave its tangent as it is; a copy changes both.
    return (inputs[0].clone(memory_format=torch.contiguous_format),)
