"""The losses of potential flows beside the equation's: rest at the start, visible change, distinctness.

They are those of Song et al. (ICML 2023), with guidance by a predictor.
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
