"""StyleGAN2 in Z, W and W+, from the mapping and the synthesis network of whichever codebase trained it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.generators.base import Decode, Generator

Space = Literal["z", "w", "w+"]


def stylegan2(
    mapping: Decode,
    synthesis: Decode,
    *,
    z_dim: int,
    w_dim: int,
    num_layers: int,
    space: Space = "w",
    truncation: float = 1.0,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Generator:
    """A generator whose latents live in a StyleGAN2's Z, W or W+.

    Args:
        mapping: z (B, z_dim) -> w (B, w_dim), or (B, num_layers, w_dim) with every layer's the same.
        synthesis: styles (B, num_layers, w_dim) -> images (B, C, H, W), always with the same noise.
        space: "z", latents (B, z_dim); "w", latents (B, w_dim), the same for every layer; "w+", latents
            (B, num_layers * w_dim), a style for every layer. Latents of W and W+ are drawn through the mapping.
        truncation: draws the styles towards their mean by this factor, in every space.
        value_range: the images' darkest and brightest value.

    Raises:
        InputError: an argument that doesn't fit, or networks that don't.
    """
    if space not in ("z", "w", "w+"):
        raise InputError(f"space must be one of z, w, w+, got {space!r}")
    if not 0 < truncation <= 1:
        raise InputError(f"truncation must lie in (0, 1], got {truncation!r}")
    styles = _Mapping(mapping, num_layers if space == "w+" else 1, w_dim, truncation)
    styles.measure_mean(z_dim)
    decode = _Synthesis(styles if space == "z" else None, synthesis, num_layers, w_dim)
    if space == "z":
        return Generator(decode, z_dim, value_range=value_range)
    width = w_dim if space == "w" else num_layers * w_dim
    return Generator(decode, width, value_range=value_range, mapping=styles, mapping_dim=z_dim)


def from_stylegan2_pytorch(
    mapping: nn.Module, synthesis: nn.Module, *, space: Space = "w", truncation: float = 1.0, seed: int = 0
) -> Generator:
    """The same from the package stylegan2-pytorch: its StyleVectorizer and Generator, such as `gan.SE` and `gan.GE`.

    Args:
        seed: of the noise, which stays the same for every image.
    """
    width: int = synthesis.latent_dim  # pyright: ignore[reportAssignmentType]
    layers: int = synthesis.num_layers  # pyright: ignore[reportAssignmentType]
    fixed = _FixedNoise(synthesis, seed)
    return stylegan2(
        mapping, fixed, z_dim=width, w_dim=width, num_layers=layers, space=space, truncation=truncation,
        value_range=(0.0, 1.0),
    )  # fmt: skip


class _Mapping(nn.Module):
    """Styles (B, repeat * w_dim) of z (B, z_dim), drawn towards their mean."""

    mean: Tensor

    def __init__(self, network: Decode, repeat: int, w_dim: int, truncation: float) -> None:
        super().__init__()
        self.network, self.repeat, self.w_dim, self.truncation = network, repeat, w_dim, truncation
        anchor = next(network.parameters(), torch.zeros(())) if isinstance(network, nn.Module) else torch.zeros(())
        self.register_buffer("mean", torch.zeros(w_dim).to(anchor), persistent=False)

    @torch.no_grad()
    def measure_mean(self, z_dim: int, samples: int = 4096) -> None:
        if self.truncation < 1:
            z = torch.randn(samples, z_dim, generator=torch.Generator().manual_seed(0)).to(self.mean)
            self.mean.copy_(self._styles(z).mean(0))

    def forward(self, z: Tensor) -> Tensor:
        w = self._styles(z)
        if self.truncation < 1:
            w = self.mean + self.truncation * (w - self.mean)
        return w.repeat(1, self.repeat)

    def _styles(self, z: Tensor) -> Tensor:
        w = self.network(z)
        if w.ndim == 3:
            w = w[:, 0]
        if w.ndim != 2 or w.shape[1] != self.w_dim:
            raise InputError(
                f"mapping must give styles (B, {self.w_dim}) or (B, layers, {self.w_dim}), got {tuple(w.shape)}"
            )
        return w


class _Synthesis(nn.Module):
    """Images of latents in Z (with the mapping), W or W+."""

    def __init__(self, mapping: _Mapping | None, network: Decode, num_layers: int, w_dim: int) -> None:
        super().__init__()
        self.mapping, self.network, self.num_layers, self.w_dim = mapping, network, num_layers, w_dim

    def forward(self, z: Tensor) -> Tensor:
        w = z if self.mapping is None else self.mapping(z)
        w = w.unflatten(1, (-1, self.w_dim)).expand(-1, self.num_layers, -1)  # (B, num_layers, w_dim)
        return self.network(w)


class _FixedNoise(nn.Module):
    noise: Tensor

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        size: int = network.image_size  # pyright: ignore[reportAssignmentType]
        self.network = network
        noise = torch.rand(1, size, size, 1, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("noise", noise.to(next(network.parameters())))

    def forward(self, styles: Tensor) -> Tensor:
        return self.network(styles, self.noise.expand(len(styles), -1, -1, -1))
