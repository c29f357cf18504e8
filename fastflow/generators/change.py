"""The rate of change of a generator's images along a direction in latent space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def generator_change(
    decode: Callable[[Tensor], Tensor], z: Tensor, direction: Tensor, *, forward_mode: bool = True
) -> tuple[Tensor, Tensor]:
    """The images g(z) and their rate of change J_g(z) direction, both (B, C, H, W).

    Args:
        decode: g, latents (B, D) -> images (B, C, H, W).
        forward_mode: if True, the rate is exact, by one pass of torch's forward mode. If False, for a g without forward
            mode, it is a central difference, (g(z + h d) - g(z - h d)) / 2h, with two or three digits in float32. Its
            gradients then reach the direction, and z only through the images: if g has corners, as with ReLU, the
            gradient of a difference with respect to z is noise.
    """
    if forward_mode:
        # Fused attention has no forward mode; attention by matrix products has one.
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(decode, (z,), (direction,))  # pyright: ignore[reportReturnType]
    # A larger h makes rounding errors smaller; a smaller h makes it less likely that a corner lies between the points.
    reach = torch.finfo(z.dtype).eps ** 0.5 * z.detach().norm(dim=1, keepdim=True).clamp_min(1)  # (B, 1)
    h = reach / direction.detach().norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
    images, after, before = decode(z), decode(z.detach() + h * direction), decode(z.detach() - h * direction)
    return images, (after - before) / (2 * h[:, :, None, None])
