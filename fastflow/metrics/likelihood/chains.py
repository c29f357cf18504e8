"""The joint density of a chain of latents and of what is known about some of them: images, or their encodings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from fastflow.generators.likelihoods import log_density, log_density_derivatives
from fastflow.metrics.likelihood.models import MOST_DECODED, Normal, decoded, jacobian, noise_of


class Transition(Protocol):
    """How a latent is moved: z_{n+1} is N(mean(z_n, k, n), diag sigma^2), or the mean itself."""

    def mean(self, z: Tensor, k: Tensor, n: Tensor, /) -> Tensor:
        """The means (B, D) after step n (B,) of latents z (B, D) along transformations k (B,)."""
        ...

    def log_std(self, k: Tensor, n: Tensor, /) -> Tensor | None:
        """Log sigma, (B, D); None if a step has no noise."""
        ...


class Evidence(Protocol):
    """What is known about latents (B, P, D) at P places of each of B items' chains: a log-density of them."""

    def rows(self, index: Tensor) -> Self:
        """The same about some of the items, which may be repeated."""
        ...

    def column(self, place: int) -> Self:
        """The same about one of the places, for all items."""
        ...

    def log_density(self, z: Tensor) -> Tensor:
        """The log-density of what is known, (B,)."""
        ...

    def quadratic(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient (B, P, D) and its Gauss-Newton curvature (B, P, D, D), float64."""
        ...


class Images(NamedTuple):
    """Images x (B, P, ...) that a model decodes from the latents."""

    model: Any
    x: Tensor

    def rows(self, index: Tensor) -> Images:
        """See `Evidence`."""
        return self._replace(x=self.x[index])

    def column(self, place: int) -> Images:
        """See `Evidence`."""
        return self._replace(x=self.x[:, place : place + 1])

    def log_density(self, z: Tensor) -> Tensor:
        """See `Evidence`."""
        data = self.x.flatten(0, 1)
        parameters = decoded(self.model, z.flatten(0, 1), data)
        return log_density(self.model.likelihood, parameters, data, noise_of(self.model)).view(z.shape[:2]).sum(1)

    def quadratic(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Evidence`."""
        flat, data = z.flatten(0, 1), self.x.flatten(0, 1)
        at_once = max(1, MOST_DECODED // (data[0].numel() * z.shape[2]))
        parts = [self._quadratic(*part) for part in zip(flat.split(at_once), data.split(at_once), strict=True)]
        gradient, curvature = (torch.cat(part).unflatten(0, z.shape[:2]) for part in zip(*parts, strict=True))
        return gradient, curvature

    def _quadratic(self, z: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        def parameters(z: Tensor) -> Tensor:
            return self.model.decode(z).flatten(1)

        values = decoded(self.model, z, data)
        slope, bend = log_density_derivatives(self.model.likelihood, values, data, noise_of(self.model))
        columns = jacobian(parameters, z).transpose(0, 1)  # (B, D, pixels)
        gradient = (columns @ slope.flatten(1)[:, :, None])[:, :, 0]
        curvature = (columns * bend.flatten(1)[:, None]) @ columns.mT
        # Where numbers overflow nothing is known; the line search, or the bound, leads away from there.
        return gradient.double().nan_to_num(0, 0, 0), curvature.double().nan_to_num(0, 0, 0)


class Codes(NamedTuple):
    """Encodings of the images, as factors exp(slope z - precision z^2 / 2) of each latent's density."""

    slope: Tensor
    """(B, P, D)"""
    precision: Tensor
    """(B, P, D), at least 0."""

    @classmethod
    def of(cls, posteriors: Sequence[Normal], prior_variance: Tensor) -> Codes:
        """The quotients of posteriors and prior, one for each place; a posterior wider than the prior says nothing.

        Neither do numbers that aren't finite, or that leave no room for float64: such an encoder is of no use.
        """
        mean, log_variance = (torch.stack(parts, 1).double() for parts in zip(*posteriors, strict=True))
        precision = (-log_variance).exp() - 1 / prior_variance[:, None].double()
        slope = (-log_variance).exp() * mean
        useful = (precision > 0) & (precision < _MOST_PRECISE) & (mean.abs() < _FARTHEST)
        return cls(torch.where(useful, slope, 0), torch.where(useful, precision, 0))

    def rows(self, index: Tensor) -> Codes:
        """See `Evidence`."""
        return Codes(self.slope[index], self.precision[index])

    def column(self, place: int) -> Codes:
        """See `Evidence`."""
        return Codes(self.slope[:, place : place + 1], self.precision[:, place : place + 1])

    def log_density(self, z: Tensor) -> Tensor:
        """See `Evidence`."""
        return (self.slope * z - 0.5 * self.precision * z.square()).sum((1, 2))

    def quadratic(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `Evidence`."""
        return self.slope - self.precision * z, self.precision.diag_embed()


_MOST_PRECISE, _FARTHEST = 1e8, 1e4


class Chain(NamedTuple):
    """Items whose latents form chains z_0 .. z_S, written as noises u ~ N(0, I): u_0 alone, or one for each latent.

    z_0 = s u_0 with the prior's standard deviation s. Without noise z_{n+1} = mean(z_n, k, n), otherwise
    z_{n+1} = mean(z_n, k, n) + sigma u_{n+1}.
    """

    evidence: Evidence
    places: Tensor
    """The places (B, P) long of the chain that the evidence is about."""
    prior_std: Tensor
    """(B, 1)"""
    steps: int
    """S, the chain's length."""
    transition: Transition | None = None
    """None only where S is 0."""
    k: Tensor | None = None
    """The transformations (B,); None only where S is 0."""
    first: Tensor | None = None
    """The numbers (B,) of the first steps, which the others count on from; None only where S is 0."""

    @property
    def blocks(self) -> int:
        """How many noises there are: 1, or S + 1."""
        return 1 + self.steps if self.noise_of_step(0) is not None else 1

    def rows(self, index: Tensor) -> Chain:
        """The chains of some items, which may be repeated."""
        k, first = (None if part is None else part[index] for part in (self.k, self.first))
        evidence, places = self.evidence.rows(index), self.places[index]
        return self._replace(evidence=evidence, places=places, prior_std=self.prior_std[index], k=k, first=first)

    def noise_of_step(self, step: int) -> Tensor | None:
        """The standard deviations (B, D) of a step's noise; None if it has none."""
        if not self.steps:
            return None
        transition, k, n = self._step(step)
        log_std = transition.log_std(k, n)
        return None if log_std is None else log_std.exp()

    def moved(self, z: Tensor, step: int) -> Tensor:
        """The means (B, D) of latents after a step."""
        transition, k, n = self._step(step)
        return transition.mean(z, k, n)

    def path(self, u: Tensor) -> Tensor:
        """The latents (B, S + 1, D) of noises (B, M, D)."""
        z = [self.prior_std * u[:, 0]]
        for step in range(self.steps):
            noise = self.noise_of_step(step)
            after = self.moved(z[-1], step)
            z.append(after if noise is None else after + noise * u[:, step + 1])
        return torch.stack(z, 1)

    def latent(self, number: int, mean: Tensor | None, u: Tensor) -> Tensor:
        """The latents z_n (B, D) with noises u (B, D) around the mean of a step (B, D), which the first haven't."""
        if mean is None:
            return self.prior_std * u
        noise = self.noise_of_step(number - 1)
        return mean if noise is None else mean + noise * u

    def known_about(self, number: int, z: Tensor, at_once: int) -> Tensor:
        """The log-density of what is known about z_n (B, D), (B,); of `at_once` items at a time."""
        found = z.new_zeros(len(z), dtype=torch.float64)
        for column in range(self.places.shape[1]):
            for rows in (self.places[:, column] == number).nonzero()[:, 0].split(at_once):
                found[rows] += self.evidence.column(column).rows(rows).log_density(z[rows][:, None])
        return found

    def seen(self, path: Tensor) -> Tensor:
        """The latents (B, P, D) that the evidence is about."""
        return path.gather(1, self.places[:, :, None].expand(-1, -1, path.shape[2]))

    def log_joint(self, u: Tensor, path: Tensor | None = None) -> Tensor:
        """Log p(evidence, u), (B,), of noises (B, M, D), whose path may be known."""
        path = self.path(u) if path is None else path
        log_prior = -0.5 * (u.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return self.evidence.log_density(self.seen(path)) + log_prior

    def quadratic(self, u: Tensor) -> Quadratic:
        """The gradient of the log joint density at u (B, M, D), and its curvature in parts."""
        path = self.path(u)
        slope, bend = self.evidence.quadratic(self.seen(path))
        gradients = _scattered(slope, self.places, self.steps)
        curvatures = _scattered(bend, self.places, self.steps)
        jacobians = self._jacobians(path[:, :-1])
        # Backward: `reach` is the derivative of the log-density with respect to z_n, by all that follows from z_n.
        reach, by_noise = gradients[:, self.steps], []
        for step in reversed(range(self.steps)):
            noise = self.noise_of_step(step)
            if noise is not None:
                by_noise.append(noise * reach)
            reach = gradients[:, step] + _times(jacobians[:, step].mT, reach)
        by_noise.append(self.prior_std * reach)
        return Quadratic(torch.stack(by_noise[::-1], 1) - u, curvatures, jacobians)

    def _jacobians(self, z: Tensor) -> Tensor:
        """The Jacobians (B, S, D, D) of the steps from latents z (B, S, D), float64."""
        if not self.steps:
            return z.new_zeros(len(z), 0, z.shape[2], z.shape[2], dtype=torch.float64)
        transition, k, first = self._step(0)
        flat, k = z.flatten(0, 1), k.repeat_interleave(self.steps)
        n = (first[:, None] + torch.arange(self.steps, device=z.device)).flatten()
        own = getattr(transition, "jacobian", None)
        if own is None:
            found = jacobian(lambda z: transition.mean(z, k, n), flat).permute(1, 2, 0)
        else:
            found = own(flat, k, n)
        # As for what is known: where numbers overflow, the line search, or the bound, leads away from there.
        return found.double().nan_to_num(0, 0, 0).view(*z.shape, z.shape[2])

    def _step(self, step: int) -> tuple[Transition, Tensor, Tensor]:
        """What moves the latents, the transformations and the step's numbers, each (B,)."""
        if self.transition is None or self.k is None or self.first is None:
            raise ValueError("a chain of several latents has a transition, transformations and numbers of its steps")
        return self.transition, self.k, self.first + step


class Quadratic(NamedTuple):
    """The second-order expansion of a chain's log joint density, in float64."""

    gradient: Tensor
    """With respect to the noises, (B, M, D)."""
    curvatures: Tensor
    """Of the evidence with respect to each latent, (B, S + 1, D, D)."""
    jacobians: Tensor
    """Of each step, (B, S, D, D)."""

    def towards(self, other: Quadratic, share: Tensor) -> Quadratic:
        """A point of the way to another expansion, of which each item has gone a share (B,)."""
        pairs = zip(self, other, strict=True)
        return Quadratic(*(one + share.view(-1, *[1] * (one.ndim - 1)) * (two - one) for one, two in pairs))


def _scattered(values: Tensor, places: Tensor, steps: int) -> Tensor:
    """Values (B, P, ...) added up at their places (B, S + 1, ...)."""
    out = values.new_zeros(len(values), steps + 1, *values.shape[2:])
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(places)
    return out.index_put((rows, places), values, accumulate=True)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices (B, D, D) and vectors (B, D)."""
    return (matrices @ vectors[:, :, None])[:, :, 0]
