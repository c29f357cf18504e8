"""What fastflow needs of a generator: a latent width, latents to sample, a differentiable map from them to images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastflow.devices import find_device
from fastflow.errors import InputError

Decode = Callable[[Tensor], Tensor]
Sampler = Callable[[int, torch.Generator], Tensor]


class Generator(nn.Module):
    """A frozen map from latents (B, D) to images (B, C, H, W).

    Args:
        decode: the map; any callable that autograd's forward mode can follow. A module, or the module that a method
            belongs to, is put in eval mode and frozen; modules that a function merely uses are left as they are.
        latent_dim: D.
        value_range: the images' darkest and brightest value.
        sample: draws latents, (n, torch.Generator) -> (n, D); the standard normal if None.
        name: how a run's configuration names it; one made by `load` can be found again by this name.
        device, dtype: of the latents, float32 or float64; those of the module if there is one, otherwise the CPU and
            float32.

    Raises:
        InputError: decode can't take such latents, doesn't give finite images (B, C, H, W), or gives random ones.
    """

    _anchor: Tensor

    def __init__(
        self,
        decode: Decode,
        latent_dim: int,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        sample: Sampler | None = None,
        name: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise InputError(f"latent_dim must be a whole number of at least 1, got {latent_dim!r}")
        if not callable(decode):
            raise InputError(f"a generator must be callable, latents (B, D) -> images (B, C, H, W), got {decode!r}")
        self.function = decode
        self.latent_dim = latent_dim
        self.value_range = _checked_range(value_range)
        self.name = name
        self._sample = sample
        self.module = _module_of(decode)
        anchor = torch.zeros(())
        if self.module is not None:
            self.module.eval().requires_grad_(False)
            anchor = next((p for p in self.module.parameters() if p.is_floating_point()), anchor)
        device = anchor.device if device is None else find_device(device)
        dtype = anchor.dtype if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"a generator's latents must be float32 or float64, got {dtype}: convert the module, or wrap it in a "
                "function that converts latents and images"
            )
        # Latents are made like this; unlike a plain attribute it moves with the generator.
        self.register_buffer("_anchor", torch.zeros((), device=device, dtype=dtype), persistent=False)
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
            images, again = self.decode(z), self.decode(z)
        except Exception as error:
            raise InputError(
                f"the generator failed on latents of shape {tuple(z.shape)}: {first_line(error)}; is latent_dim right?"
            ) from error
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[0] != 2:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"a generator must map latents (2, {self.latent_dim}) to images (2, C, H, W), got {got}")
        if not images.is_floating_point() or not bool(images.isfinite().all()):
            raise InputError("a generator's images must be finite floating-point numbers")
        low, high = self.value_range
        # The order of a GPU's sums may differ from one call to the next; noise is larger than that.
        if again.shape != images.shape or bool(((again - images).abs() > 1e-4 * (high - low)).any()):
            raise InputError(
                "a generator must give the same images for the same latents, got two different ones: switch its "
                "networks to evaluation with .eval(), and draw no noise in it"
            )
        _, channels, height, width = images.shape
        return channels, height, width


def from_callable(
    function: Decode,
    latent_dim: int,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    sample: Sampler | None = None,
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Generator:
    """A generator from any callable latents (B, latent_dim) -> images (B, C, H, W); arguments as for `Generator`."""
    return Generator(
        function, latent_dim, value_range=value_range, sample=sample, name=name, device=device, dtype=dtype
    )


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of a long explanation."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _module_of(decode: Decode) -> nn.Module | None:
    """The module that a callable is, or is a method of."""
    owner = decode if isinstance(decode, nn.Module) else getattr(decode, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"value_range must be two numbers (darkest, brightest), got {value_range!r}")
    return low, high
