"""How fast a generator's images change as a latent moves."""

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
        forward_mode: by one pass of torch's forward mode, exactly; if False by a central difference,
            (g(z + h d) - g(z - h d)) / 2h, for a g that has no forward mode, to two or three digits in float32. Its
            gradients reach the direction, and z only through the images: where g has corners, as with ReLU, a
            difference's gradient with respect to z is noise.
    """
    if forward_mode:
        # Fused attention has no forward mode; attention in plain products has.
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(decode, (z,), (direction,))  # pyright: ignore[reportReturnType]
    # Rounding asks for a larger h, corners for a smaller one: fewer of them lie within reach.
    reach = torch.finfo(z.dtype).eps ** 0.5 * z.detach().norm(dim=1, keepdim=True).clamp_min(1)  # (B, 1)
    h = reach / direction.detach().norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
    images, after, before = decode(z), decode(z.detach() + h * direction), decode(z.detach() - h * direction)
    return images, (after - before) / (2 * h[:, :, None, None])
