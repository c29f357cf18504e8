"""The rate of change of a generator's images along a direction in latent space."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastflow.engine.elementary import Elementary

Decode = Callable[[Tensor], Tensor]


class Way(IntEnum):
    """How the rate of change is computed; only differences, which are zero and false, aren't exact."""

    DIFFERENCES = 0
    FORWARD = 1
    ELEMENTARY = 2
    REVERSE = 3


def generator_change(
    decode: Decode, z: Tensor, direction: Tensor, *, forward_mode: Way | bool = Way.FORWARD
) -> tuple[Tensor, Tensor]:
    """The images g(z) and their rate of change J_g(z) direction, both (B, C, H, W).

    Args:
        decode: g, latents (B, D) -> images (B, C, H, W).
        forward_mode: how, as `Generator.forward_mode` has it. `Way.FORWARD` or True: exact, by one pass of torch's
            forward mode. `Way.ELEMENTARY`: the same with normalisations computed elementarily, for a g whose
            gradient through forward mode would be wrong otherwise. `Way.REVERSE`: exact, by the derivative of g's
            backward pass, for a g without forward mode. `Way.DIFFERENCES` or False: a central difference,
            (g(z + h d) - g(z - h d)) / 2h, with two or three digits in float32. Its gradients then reach the direction,
            and z only through the images: if g has corners, as with ReLU, the gradient of a difference with respect to
            z is noise.
    """
    way = Way(forward_mode)
    if way is Way.DIFFERENCES:
        return _by_differences(decode, z, direction)
    with ExitStack() as contexts:
        # Fused attention has neither forward mode nor second derivatives; attention by matrix products has both.
        contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
        contexts.enter_context(nullcontext() if way is Way.FORWARD else Elementary())
        if way is Way.REVERSE:
            return _by_reverse_mode(decode, z, direction)
        return torch.func.jvp(decode, (z,), (direction,))  # pyright: ignore[reportReturnType]


def _by_reverse_mode(decode: Decode, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """J d is the derivative along d of w J, which is linear in w, with respect to w."""
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        images = decode(z)
        w = torch.zeros_like(images, requires_grad=True)
        (pulled,) = torch.autograd.grad(images, z, w, create_graph=True)
        (change,) = torch.autograd.grad(pulled, w, direction, create_graph=True)
    return images, change


def _by_differences(decode: Decode, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    # A larger h makes rounding errors smaller; a smaller h makes it less likely that a corner lies between the points.
    reach = torch.finfo(z.dtype).eps ** 0.5 * z.detach().norm(dim=1, keepdim=True).clamp_min(1)  # (B, 1)
    h = reach / direction.detach().norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
    images, after, before = decode(z), decode(z.detach() + h * direction), decode(z.detach() - h * direction)
    return images, (after - before) / (2 * h[:, :, None, None])
