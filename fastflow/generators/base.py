"""What fastflow needs of a generator: a latent width, latents to sample, a differentiable map from them to images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastflow.errors import InputError

Decode = Callable[[Tensor], Tensor]
Sampler = Callable[[int, torch.Generator], Tensor]


class Generator(nn.Module):
    """A frozen map from latents (B, D) to images (B, C, H, W).

    Args:
        decode: the map; any callable that autograd's forward mode can follow. A module is put in eval mode and frozen.
        latent_dim: D.
        value_range: the images' darkest and brightest value.
        sample: draws latents, (n, torch.Generator) -> (n, D); the standard normal if None.
        name: how a run's configuration names it; one made by `load` can be found again by this name.

    Raises:
        InputError: decode can't take latents of that width, or doesn't give finite images (B, C, H, W).
    """

    def __init__(
        self,
        decode: Decode,
        latent_dim: int,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        sample: Sampler | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise InputError(f"latent_dim must be a whole number of at least 1, got {latent_dim!r}")
        low, high = value_range
        if not low < high:
            raise InputError(f"value_range must be (darkest, brightest), got {value_range!r}")
        if not callable(decode):
            raise InputError(f"a generator must be callable, latents (B, D) -> images (B, C, H, W), got {decode!r}")
        self.function = decode
        self.latent_dim = latent_dim
        self.value_range = (float(low), float(high))
        self.name = name
        self._sample = sample
        # Its device is where its parameters are; a generator without any stays on the CPU until it is moved.
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)
        if isinstance(decode, nn.Module):
            decode.eval().requires_grad_(False)
            parameter = next(decode.parameters(), None)
            if parameter is not None:
                self._anchor = self._anchor.to(parameter)
        self.image_shape = self._probe()

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, D)."""
        return self.function(z)

    def forward(self, z: Tensor) -> Tensor:
        """See `decode`."""
        return self.decode(z)

    def sample(self, count: int, seed: int | torch.Generator = 0) -> Tensor:
        """`count` latents (count, D), the same for the same seed on every device; returned on the generator's."""
        rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        if self._sample is None:
            z = torch.randn(count, self.latent_dim, generator=rng)
        else:
            z = self._sample(count, rng)
            if z.shape != (count, self.latent_dim):
                raise InputError(f"sample must give latents ({count}, {self.latent_dim}), got {tuple(z.shape)}")
        return z.to(self._anchor)

    def starts(self, count: int, seed: int = 0) -> Tensor:
        """`count` latents (count, D) to start traversals from: samples, or encoded held-out images."""
        return self.sample(count, seed)

    def eight_bit(self, images: Tensor) -> Tensor:
        """Images in [0, 1] rounded to 256 levels: what is left of them in a file."""
        low, high = self.value_range
        return ((images - low) / (high - low)).clamp(0, 1).mul(255).round() / 255

    def train(self, mode: bool = True) -> Generator:
        """Stays in eval mode: a frozen generator has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int, int]:
        z = self.sample(2)
        try:
            images = self.decode(z)
        except Exception as error:
            raise InputError(
                f"the generator failed on latents of shape {tuple(z.shape)}: {first_line(error)}; is latent_dim right?"
            ) from error
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[0] != 2:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"a generator must map latents (2, {self.latent_dim}) to images (2, C, H, W), got {got}")
        if not images.is_floating_point() or not bool(images.isfinite().all()):
            raise InputError("a generator's images must be finite floating-point numbers")
        _, channels, height, width = images.shape
        return channels, height, width


def from_callable(
    function: Decode,
    latent_dim: int,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    sample: Sampler | None = None,
    name: str | None = None,
) -> Generator:
    """A generator from any callable latents (B, latent_dim) -> images (B, C, H, W); arguments as for `Generator`."""
    return Generator(function, latent_dim, value_range=value_range, sample=sample, name=name)


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of a long explanation."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
