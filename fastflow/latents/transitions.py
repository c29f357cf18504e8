"""Transitions p(z_n | z_{n-1}, k) of the latents of a sequence: by potential flows, and by the rivals of these."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.core.checks import check_count
from fastflow.engine.integration import Integration
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.paths import StageNetworks, integrate, integrate_from, stage_times
from fastflow.engine.potentials import PotentialBank
from fastflow.engine.tracing import values_of

TransitionKind = Literal["independent", "walk", "ar1", "straight", "affine", "flow"]
"""The kinds of transitions, by the names that the setting `transition` takes."""

FIRST_STD = 0.5
"""The standard deviation that a learned one begins with."""

FIRST_CHANGE = 0.03
"""The size of a coordinate's first change by learned displacements and maps.

It isn't 0: equal transformations would stay equal where they are inferred.
"""


class Noise(nn.Module):
    """Learned standard deviations of transitions, for each transformation and each coordinate of the latents.

    Args:
        num_transformations: K. latent_dim: D.
        jumps: None for the noise of a single step, (K, D); or T for the noise of jumps over 1 .. T steps, (K, T, D).
    """

    def __init__(self, num_transformations: int, latent_dim: int, jumps: int | None = None) -> None:
        super().__init__()
        self.jumps = jumps
        shape = (num_transformations, latent_dim) if jumps is None else (num_transformations, jumps, latent_dim)
        self.log_std = nn.Parameter(torch.full(shape, math.log(FIRST_STD)))


class Transition(nn.Module, ABC):
    """How the latents of a sequence follow each other under each of K transformations.

    z_n is drawn from N(mean(z_{n-1}, k, n-1), diag exp(2 log_std)), or it is the mean itself where `log_std` is None.

    Attributes:
        num_transformations: K. latent_dim: D. noise: the learned standard deviations, if there are any.

    Args:
        noise: a `Noise` of steps or of jumps; None for a transition without noise, or with noise that isn't free.
    """

    def __init__(self, num_transformations: int, latent_dim: int, noise: Noise | None = None) -> None:
        super().__init__()
        for name, size in (("num_transformations", num_transformations), ("latent_dim", latent_dim)):
            check_count(size, name)
        self.num_transformations, self.latent_dim = num_transformations, latent_dim
        self.noise = noise

    @abstractmethod
    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The mean (B, D) of the latents one step after z (B, D), under transformations k (B,).

        Args:
            n: the number of the step that begins at z, (B,) long; a path's first step has number 0.
        """

    def means(self, points: Tensor, k: Tensor) -> Tensor:
        """The means (B, T, D) after each of a sequence's latents (B, T, D), of which the first has number 0."""
        count = points.shape[1]
        each = torch.arange(count, device=points.device).repeat(len(points))
        return self.mean(points.flatten(0, 1), k.repeat_interleave(count), each).view_as(points)

    def log_std(self, k: Tensor, n: Tensor) -> Tensor | None:
        """The log standard deviations (B, D) of step n (B,) under k (B,); None if the step has no noise of its own."""
        return None if self.noise is None or self.noise.jumps is not None else self.noise.log_std[k]

    def path(self, z: Tensor, k: Tensor, steps: int) -> Tensor:
        """The latents (B, steps + 1, D) from z (B, D) on, without noise."""
        points = [z]
        for step in range(steps):
            points.append(self.mean(points[-1], k, torch.full_like(k, step)))
        return torch.stack(points, 1)

    def jump(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The mean (B, D) of the latents n (B,) steps after z (B, D), where a path begins."""
        path = self.path(z, k, _largest(n))
        return path[torch.arange(len(z), device=z.device), n]

    def jump_log_std(self, k: Tensor, n: Tensor) -> Tensor | None:
        """The log standard deviations (B, D) of a jump over n (B,) steps, n at least 1.

        Jumps that are longer than those of the training have the noise of the longest. None if jumps have no noise of
        their own: a transition whose single steps have noise then has theirs, step by step.
        """
        if self.noise is None or self.noise.jumps is None:
            return None
        return self.noise.log_std[k, n.clamp(max=self.noise.jumps) - 1]

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The derivatives (B, D, D) of `mean` with respect to z: row i has those of coordinate i. Without a graph."""
        return row_by_row(self.mean, z, k, n)

    def frozen(self, steps: int) -> Transition:
        """The same transition for numbers of steps below `steps`, which is quicker where it is called often.

        It is for measuring: while it is used, the parameters must stay as they are. Numbers of steps aren't checked.
        """
        return self


class Independent(Transition):
    """Every latent is drawn from N(0, I) by itself, as a plain VAE has it. Nothing is learned."""

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Zeros (B, D)."""
        return torch.zeros_like(z)

    def log_std(self, k: Tensor, n: Tensor) -> Tensor:
        """Zeros (B, D)."""
        return torch.zeros(len(k), self.latent_dim, device=k.device)

    def jump_log_std(self, k: Tensor, n: Tensor) -> Tensor:
        """Zeros (B, D)."""
        return self.log_std(k, n)

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(z).diag_embed()


class Walk(Transition):
    """A random walk: each latent lies around the one before it."""

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The latents themselves."""
        return z

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Identities."""
        return torch.ones_like(z).diag_embed()


class AR1(Transition):
    """An autoregression of order 1 whose latents all have the distribution N(0, I): mean a z, variance 1 - a^2.

    a is learned, between 0 and 1, for each transformation and coordinate.
    """

    def __init__(self, num_transformations: int, latent_dim: int) -> None:
        super().__init__(num_transformations, latent_dim)
        first = math.sqrt(1 - FIRST_STD**2)
        self.logit = nn.Parameter(torch.full((num_transformations, latent_dim), math.log(first / (1 - first))))

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The latents times a."""
        return torch.sigmoid(self.logit[k]) * z

    def log_std(self, k: Tensor, n: Tensor) -> Tensor:
        """Half the logarithm of 1 - a^2."""
        return self.jump_log_std(k, torch.ones_like(n))

    def jump(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The latents times a^n."""
        return (n[:, None] * functional.logsigmoid(self.logit[k])).exp() * z

    def jump_log_std(self, k: Tensor, n: Tensor) -> Tensor:
        """Half the logarithm of 1 - a^2n."""
        return 0.5 * torch.log(-torch.expm1(2 * n[:, None] * functional.logsigmoid(self.logit[k])))

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Diagonal matrices of a."""
        return torch.sigmoid(self.logit[k].detach()).diag_embed()


class Straight(Transition):
    """Each step adds the same learned displacement; at first a small one, another for each transformation."""

    def __init__(self, num_transformations: int, latent_dim: int, noise: Noise | None = None) -> None:
        super().__init__(num_transformations, latent_dim, noise)
        self.displacement = nn.Parameter(FIRST_CHANGE * torch.randn(num_transformations, latent_dim))

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The latents plus the displacement."""
        return z + self.displacement[k]

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Identities."""
        return torch.ones_like(z).diag_embed()


class Affine(Transition):
    """Each step is the same learned affine map, z -> (I + A_k) z + d_k; at first nearly the identity."""

    def __init__(self, num_transformations: int, latent_dim: int, noise: Noise | None = None) -> None:
        super().__init__(num_transformations, latent_dim, noise)
        scale = FIRST_CHANGE / math.sqrt(latent_dim)
        self.matrix = nn.Parameter(scale * torch.randn(num_transformations, latent_dim, latent_dim))
        self.displacement = nn.Parameter(FIRST_CHANGE * torch.randn(num_transformations, latent_dim))

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """(I + A_k) z + d_k."""
        return z + (self.matrix[k] @ z[:, :, None])[:, :, 0] + self.displacement[k]

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """I + A_k."""
        return (torch.eye(self.latent_dim, dtype=z.dtype, device=z.device) + self.matrix.detach())[k]


class Flow(Transition):
    """Each step follows a potential's gradient, and its companion's velocity if it has one.

    Args:
        bank: the potentials, one for each transformation.
        integration: how their flow is integrated.
        companion: a divergence-free velocity beside the gradients.
        frame_steps: how many steps of the integration lead from one latent of a sequence to the next.
        noise: as for `Transition`.
    """

    def __init__(
        self,
        bank: PotentialBank,
        integration: Integration,
        companion: DivergenceFreeField | None = None,
        frame_steps: int = 1,
        noise: Noise | None = None,
    ) -> None:
        super().__init__(bank.num_potentials, bank.dim, noise)
        check_count(frame_steps, "frame_steps")
        self.bank, self.companion = bank, companion
        self.integration, self.frame_steps = integration, frame_steps

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Where the flow leads from z at the time at which step n begins."""
        return self._advanced(z, k, n, _largest(n))

    def means(self, points: Tensor, k: Tensor) -> Tensor:
        """The same for all latents of sequences (B, T, D) in one call."""
        count = points.shape[1]
        each = torch.arange(count, device=points.device).repeat(len(points))
        return self._advanced(points.flatten(0, 1), k.repeat_interleave(count), each, count - 1).view_as(points)

    def path(self, z: Tensor, k: Tensor, steps: int) -> Tensor:
        """The flow's path, at the steps of a sequence."""
        path = integrate(
            self.bank, z, k, steps * self.frame_steps, t0=0.0, integration=self.integration, companion=self.companion
        )
        return path[:, :: self.frame_steps]

    def frozen(self, steps: int) -> Transition:
        """See `Transition`: the networks' biases are evaluated once for all times."""
        return FrozenFlow(self, steps)

    def _advanced(self, z: Tensor, k: Tensor, n: Tensor, last: int) -> Tensor:
        """The mean after steps whose numbers n aren't above `last`."""
        path = integrate_from(
            self.bank,
            z,
            k,
            n * self.frame_steps,
            self.frame_steps,
            last=last * self.frame_steps,
            integration=self.integration,
            companion=self.companion,
        )
        return path[:, -1]


class FrozenFlow(Transition):
    """A flow for paths of at most `steps` latents after the first, while its parameters stay. Nothing is checked."""

    def __init__(self, flow: Flow, steps: int) -> None:
        super().__init__(flow.num_transformations, flow.latent_dim, flow.noise)
        self.frame_steps = flow.frame_steps
        with torch.no_grad():
            times = stage_times(steps * flow.frame_steps, 0.0, flow.integration, flow.bank.out_bias)
            self.networks = StageNetworks.of(flow.bank, times, flow.integration, flow.companion)

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Where the flow leads from z at the time at which step n begins."""
        return self.networks.paths(z, k, n * self.frame_steps, self.frame_steps)[:, -1]

    def path(self, z: Tensor, k: Tensor, steps: int) -> Tensor:
        """The flow's path, at the steps of a sequence."""
        path = self.networks.paths(z, k, torch.zeros_like(k), steps * self.frame_steps)
        return path[:, :: self.frame_steps]


def linear_transition(
    kind: TransitionKind, num_transformations: int, latent_dim: int, noise: Noise | None
) -> Transition:
    """A transition without potentials, of one of the kinds except "flow"; the first two kinds take no noise."""
    if kind in ("independent", "ar1"):
        return {"independent": Independent, "ar1": AR1}[kind](num_transformations, latent_dim)
    kinds = {"walk": Walk, "straight": Straight, "affine": Affine}
    return kinds[kind](num_transformations, latent_dim, noise)


def _largest(n: Tensor) -> int:
    """The largest of some numbers of steps."""
    values = values_of(n)
    return int((n if values is None else values).max())


def row_by_row(function: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, k: Tensor, n: Tensor) -> Tensor:
    """The derivatives (B, D, D) of a function of latents z (B, D) and numbers k and n (B,), in one call of it.

    Row i has those of coordinate i, and comes from a copy of the samples.
    """
    count, width = z.shape
    copies, rows = z.detach().repeat_interleave(width, 0), torch.eye(width, dtype=z.dtype, device=z.device)
    with torch.enable_grad():
        found = function(copies.requires_grad_(), k.repeat_interleave(width), n.repeat_interleave(width))
        if not found.requires_grad:
            return z.new_zeros(count, width, width)
        (gradient,) = torch.autograd.grad(found, copies, rows.repeat(count, 1))
    return gradient.view(count, width, width)
