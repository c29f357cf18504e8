"""The losses of potential flows (Song et al., ICML 2023): physics, rest at the start, visible change, distinctness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastflow.arguments import Times, check_index, check_latents, check_samples, check_times, sample_times
from fastflow.errors import InputError
from fastflow.fields import DivergenceFreeField, check_companion
from fastflow.ops.residual_loss import residual_loss
from fastflow.ops.types import Jet, Laplacian
from fastflow.pde import PDE, WAVE, LinearQuadratic, residual, source_at
from fastflow.pieces import Piecewise
from fastflow.potentials import PotentialBank, check_bank


def pde_loss(
    bank: PotentialBank,
    z: Tensor,
    t: Times,
    index: int | Tensor,
    pde: PDE | Callable[[Jet], Tensor] = WAVE,
    *,
    laplacian: Laplacian = "exact",
    num_probes: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean over the samples of the squared residual of `pde` (the wave equation by default), a scalar.

    z, t, index and the rest are those of `PotentialBank.jet`; `pde` is an equation, or any callable of a jet. Under
    "hutchinson" the estimate is squared, so the loss is larger by the estimate's variance in the mean.
    """
    check_bank(bank)
    z = check_samples(check_latents(z, bank.dim, bank.out_bias))
    if isinstance(pde, LinearQuadratic) and laplacian == "exact":
        t, potential = check_times(t, z), check_index(index, bank.num_potentials, z)
        source = source_at(pde, z[:, 0], z, sample_times(t, z), potential)

        def part(
            z: Tensor, t: Times, index: int | Tensor, source: Tensor | None, coefficients: Tensor, *parameters: Tensor
        ) -> tuple[Tensor]:
            mlp, network, slot, _ = bank.networks(t, index, z, parameters)
            return (residual_loss(mlp, z, network, slot, coefficients, source),)

        pieces, coefficients = bank.pieces(z, t, index), bank.coefficients(pde, index)
        if len(pieces) == 1:
            return part(z, t, index, source, coefficients)[0]
        return Piecewise(part, 4, pieces).mean(z, t, index, source, coefficients, *bank.tensors().values())
    jet = bank.jet(z, t, index, laplacian=laplacian, num_probes=num_probes, generator=generator)
    return residual(pde, jet, z, sample_times(t, z), check_index(index, bank.num_potentials, z)).square().mean()


def initial_loss(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    t0: float = 0.0,
    companion: DivergenceFreeField | None = None,
) -> Tensor:
    """Mean |grad u_k(z0, t0)|^2: a potential starts at rest, and with its companion, if there is one."""
    check_bank(bank)
    velocity = bank.jet(z0, t0, index, laplacian="none", with_u_tt=False).grad
    if companion is not None:
        check_companion(companion, bank)
        velocity = velocity + companion(z0, t0, index)
    return velocity.square().sum(1).mean()


def jacobian_loss(change: Tensor, kind: Literal["log", "square"] = "log") -> Tensor:
    """Reward for a visible change of the image: forbids u = 0.

    Args:
        change: J_g(z) grad u, the image's rate of change along the flow, (B, ...).
        kind: "square", -mean |J_g grad u|^2, the paper's term, which fades as the potentials shrink; "log", -mean of
            the log of each sample's mean square, which doesn't care about scale and keeps them alive.
    """
    if kind == "square":
        return -change.flatten(1).square().sum(1).mean()
    if kind == "log":
        tiny = torch.finfo(change.dtype).tiny
        return -change.flatten(1).square().mean(1).clamp_min(tiny).log().mean()
    raise InputError(f"kind must be one of log, square, got {kind!r}")


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


def guidance_loss(velocity: Tensor, gradient: Tensor, kind: Literal["follow", "oppose"] = "follow") -> Tensor:
    """1 - cos of the angle between each sample's velocity and a property's gradient, or its opposite, (B,).

    Args:
        velocity: where each latent goes, (B, D).
        gradient: of the property's value with respect to the latent, (B, D); no gradient flows into it.
    """
    if kind not in ("follow", "oppose"):
        raise InputError(f"kind must be one of follow, oppose, got {kind!r}")
    cosine = functional.cosine_similarity(velocity, gradient.detach(), dim=1)
    return 1 - cosine if kind == "follow" else 1 + cosine


def classifier_loss(logits: Tensor, index: Tensor) -> Tensor:
    """Cross-entropy of naming the potential, logits (B, K), that moved each image, index (B,)."""
    return functional.cross_entropy(logits, index)
