"""The losses of potential flows besides the equation's: rest at the start, visible change, distinctness, guidance.

The first three are those of Song et al. (ICML 2023).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fastflow.core.errors import InputError
from fastflow.engine.learned_fields import DivergenceFreeField, check_companion
from fastflow.engine.potentials import PotentialBank, check_bank


def initial_loss(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    t0: float = 0.0,
    companion: DivergenceFreeField | None = None,
) -> Tensor:
    """Mean |grad u_k(z0, t0)|^2, which lets flows start at rest; a companion's velocity is added to the gradient."""
    check_bank(bank)
    velocity = bank.jet(z0, t0, index, laplacian="none", with_u_tt=False).grad
    if companion is not None:
        check_companion(companion, bank)
        velocity = velocity + companion(z0, t0, index)
    return velocity.square().sum(1).mean()


def jacobian_loss(change: Tensor, kind: Literal["log", "square"] = "log") -> Tensor:
    """Reward for a visible change of the image, which excludes u = 0.

    Args:
        change: J_g(z) grad u, the image's rate of change along the flow, (B, ...).
        kind: "square", -mean |J_g grad u|^2, the paper's term, which vanishes as potentials shrink; or "log", minus the
            mean log of each sample's mean square, whose gradient doesn't vanish.
    """
    if kind == "square":
        return -change.flatten(1).square().sum(1).mean()
    if kind == "log":
        return -log_change(change).mean()
    raise InputError(f"kind must be one of log, square, got {kind!r}")


def log_change(change: Tensor) -> Tensor:
    """The log (B,) of the mean square of each sample's visible change (B, ...), by which strengths are compared."""
    return change.flatten(1).square().mean(1).clamp_min(torch.finfo(change.dtype).tiny).log()


def balance_loss(change: Tensor, asked: Tensor) -> Tensor:
    """How far the visible change of free paths is from that of guided ones, whose size is given: mean |log - asked|.

    Like the reward for visible change it excludes u = 0; unlike it, it ends where a free path moves as much as the
    guided ones.

    Args:
        change: J_g(z) grad u of free samples, (B, ...).
        asked: the mean `log_change` of guided samples, ().
    """
    return (log_change(change) - asked).abs().mean()


def guidance_loss(velocity: Tensor, gradient: Tensor, kind: Literal["follow", "oppose"] = "follow") -> Tensor:
    """1 - cos of the angle between each sample's velocity and a property's gradient, or its opposite, (B,).

    Args:
        velocity: the latents' velocities, (B, D).
        gradient: the gradient of the property with respect to the latents, (B, D); it is treated as a constant.
    """
    if kind not in ("follow", "oppose"):
        raise InputError(f"kind must be one of follow, oppose, got {kind!r}")
    cosine = functional.cosine_similarity(velocity, gradient.detach(), dim=1)
    return 1 - cosine if kind == "follow" else 1 + cosine


def classifier_loss(logits: Tensor, index: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K) with the potentials (B,) that moved the images."""
    return functional.cross_entropy(logits, index)
